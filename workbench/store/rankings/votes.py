"""Rankings: submitted once, only ever appended, and taken back by a mark of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Select, case, delete, distinct, func, insert, select

from workbench.errors import Conflict, NotFound, UsageError
from workbench.records import Ranking, RankItem, Record, new_id, utc_now
from workbench.store import tables
from workbench.store.database import Store
from workbench.store.rankings.handing import (
    CLAIM_MINUTES,
    before_held,
    claim,
    display_order,
    open_items,
    own_votes,
    standing,
)
from workbench.store.rankings.queues import BATCH, as_item, check_rater, find_item, lock_queue, refused
from workbench.store.rankings.sources import voted_by

_items, _claims, _rankings, _undos = tables.rank_items, tables.rank_claims, tables.rankings, tables.ranking_undos


class QueueProgress(Record):
    """How far a queue is, and one rater in it."""

    total: int
    """Items."""
    done: int
    """Items with as many people's votes as the queue's overlap asks for."""
    votes: int
    """People's votes that stand, hidden repeats and skips left out."""
    by_scorers: int
    """Votes that scorers gave; they count nowhere else here."""
    raters: int
    """People who voted."""
    mine: int
    """Items this rater voted on."""
    skipped: int
    """Items this rater passed over."""
    left: int
    """Items this rater could still be handed, those that others hold now left out."""


def check_ranking(ranking: Ranking, item: RankItem) -> Ranking:
    """A ranking that says one clear thing about an item's answers.

    Raises:
        UsageError: an answer is named twice, is missing or is not of this item, or the parts contradict each other.
    """

    def refuse(what: str, value: object = None) -> UsageError:
        return UsageError(
            what, place=f"item {item.position + 1}", value=value, remedy="Rank again; nothing was stored."
        )

    if sorted(ranking.shown) != sorted(item.completions):
        raise refuse("the answers shown are not this item's answers", ranking.shown)
    placed = [completion for tier in ranking.tiers for completion in tier] + list(ranking.unusable)
    if ranking.skipped is not None or ranking.all_bad:
        said = "skipped" if ranking.skipped is not None else "all bad"
        if placed:
            raise refuse(f"an item that is {said} has no order of its answers")
        if ranking.skipped is not None and ranking.all_bad:
            raise refuse("an item is either skipped or all bad")
        return ranking
    if any(not tier for tier in ranking.tiers):
        raise refuse("a place in the order is empty")
    twice = sorted({completion for completion in placed if placed.count(completion) > 1})
    if twice:
        raise refuse("an answer stands in two places", twice[0])
    strange = sorted(set(placed) - set(item.completions))
    if strange:
        raise refuse("an answer is not one of this item's", strange[0])
    missing = len(item.completions) - len(placed)
    if missing:
        raise refuse(f"{missing} of {len(item.completions)} answers have no place yet")
    return ranking


def submit_ranking(
    store: Store,
    item_id: str,
    rater: str,
    *,
    nonce: str,
    shown: Sequence[str] | None = None,
    tiers: Sequence[Sequence[str]] = (),
    unusable: Sequence[str] = (),
    all_bad: bool = False,
    skipped: str | None = None,
    confidence: int | None = None,
    comment: str = "",
    edited: str | None = None,
    seconds: float = 0.0,
    source: str | None = None,
    now: datetime | None = None,
) -> Ranking:
    """Store a rater's ranking of an item; the same nonce again gives what was stored and stores nothing.

    A vote counts although the rater's hold on the item has run out: nobody's work is thrown away.

    Args:
        store: the store.
        item_id: the item.
        rater: who ranks.
        nonce: given by the browser, once per submission; at most 80 characters.
        shown: completion ids as displayed; as `next_item` told when None.
        tiers: completion ids from best to worst; those in one tier are tied.
        unusable: completion ids that are no answer at all.
        all_bad: every answer is bad; then there are no tiers.
        skipped: why the item is passed over; then there are no tiers.
        confidence: 1 to 5.
        comment: the rater's words.
        edited: the rater's better version of the best answer.
        seconds: from display to submission.
        source: rank, playground, demo, import or scorer; rank, or playground in its queue, when None.
        now: the time, for tests.

    Raises:
        Conflict: this rater has ranked the item already, as from a second tab.
        NotFound: no such item.
        UsageError: the parts contradict each other, or a value is out of bounds.
    """
    rater = check_rater(rater)
    if not nonce or len(nonce) > 80:
        raise UsageError("a submission needs a nonce of 1 to 80 characters", place="nonce", value=nonce)
    with store.write() as connection:
        stored = _by_nonce(connection, nonce)
        if stored is not None:
            if (stored.item_id, stored.rater) != (item_id, rater):
                raise UsageError("this nonce belongs to another submission", place="nonce", value=nonce)
            return stored
        item = find_item(connection, item_id)
        queue = lock_queue(connection, item.queue_id)
        repeat = _is_repeat(connection, item, rater, shown)
        try:
            ranking = Ranking(
                id=new_id("rk"),
                item_id=item_id,
                rater=rater,
                shown=tuple(shown) if shown is not None else display_order(item, rater, repeat=repeat),
                tiers=tuple(map(tuple, tiers)),
                unusable=tuple(unusable),
                all_bad=all_bad,
                skipped=None if skipped is None else skipped.strip() or "no reason given",
                confidence=confidence,
                comment=comment.strip(),
                edited=edited if edited is not None and edited.strip() else None,
                seconds=seconds,
                repeat=repeat,
                source=source or _usual_source(queue.source),
                nonce=nonce,
                created_at=now or utc_now(),
            )
        except ValidationError as error:
            raise refused(error) from error
        connection.execute(insert(_rankings).values(_as_row(check_ranking(ranking, item))))
        connection.execute(delete(_claims).where(_claims.c.item_id == item_id, _claims.c.rater == rater))
    return ranking


def _usual_source(queue_source: Mapping[str, Any]) -> str:
    """A queue that the Playground filled names the conversation it came from."""
    return "playground" if "conversation" in queue_source else "rank"


def _is_repeat(connection: Connection, item: RankItem, rater: str, shown: Sequence[str] | None) -> bool:
    """Whether this is the hidden repeat of an item; anything else that was ranked before is refused."""
    mine = connection.execute(standing(_rankings.c.item_id == item.id, _rankings.c.rater == rater)).first()
    if mine is None:
        return False
    held = select(_claims.c.rater).where(_claims.c.item_id == item.id, _claims.c.rater == rater)
    again = display_order(item, rater, repeat=True)
    if connection.execute(held).first() is None or (shown is not None and tuple(shown) != again):
        raise Conflict(
            "you have ranked this item already, perhaps in another tab",
            place=f"item {item.position + 1}",
            remedy="The first ranking stands. Reload to go on, or undo it to rank again.",
        )
    return True


def _as_row(ranking: Ranking) -> dict[str, Any]:
    values = ranking.model_dump(mode="json", exclude={"created_at", "undone_at"})
    return values | {"created_at": ranking.created_at}


def add_rankings(store: Store, rankings: Iterable[Ranking]) -> int:
    """Append many finished rankings in one transaction, as an import does; a known nonce is left out.

    Returns:
        How many were new.

    Raises:
        UsageError: a ranking does not fit its item.
    """
    wanted = list({ranking.nonce: ranking for ranking in rankings}.values())
    added = 0
    with store.write() as connection:
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            nonces = select(_rankings.c.nonce).where(_rankings.c.nonce.in_([ranking.nonce for ranking in part]))
            known = set(connection.execute(nonces).scalars())
            ids = {ranking.item_id for ranking in part}
            rows = connection.execute(select(_items).where(_items.c.id.in_(ids)))
            items = {row.id: as_item(row) for row in rows}
            fresh = [ranking for ranking in part if ranking.nonce not in known]
            for ranking in fresh:
                if ranking.item_id not in items:
                    raise NotFound("no such item", value=ranking.item_id)
                check_ranking(ranking, items[ranking.item_id])
            if fresh:
                connection.execute(insert(_rankings), [_as_row(ranking) for ranking in fresh])
            undone = [{"ranking_id": each.id, "at": each.undone_at} for each in fresh if each.undone_at is not None]
            if undone:
                connection.execute(insert(_undos), undone)
            added += len(fresh)
    return added


def _joined() -> Select[Any]:
    return select(_rankings, _undos.c.at.label("undone_at")).outerjoin(_undos, _undos.c.ranking_id == _rankings.c.id)


def _by_nonce(connection: Connection, nonce: str) -> Ranking | None:
    row = connection.execute(_joined().where(_rankings.c.nonce == nonce)).first()
    return None if row is None else Ranking(**row._mapping)


def list_rankings(
    store: Store,
    *,
    queue_ids: Sequence[str] | None = None,
    item_ids: Sequence[str] | None = None,
    rater: str | None = None,
    undone: bool = False,
) -> list[Ranking]:
    """Rankings, oldest first, each with the time it was taken back.

    Args:
        store: the store.
        queue_ids: only of these queues.
        item_ids: only of these items.
        rater: only this person's.
        undone: also those that were taken back.
    """
    query = _joined().order_by(_rankings.c.created_at, _rankings.c.id)
    if queue_ids is not None:
        query = query.join(_items, _items.c.id == _rankings.c.item_id).where(_items.c.queue_id.in_(queue_ids))
    if item_ids is not None:
        query = query.where(_rankings.c.item_id.in_(item_ids))
    if rater is not None:
        query = query.where(_rankings.c.rater == check_rater(rater))
    if not undone:
        query = query.where(_undos.c.at.is_(None))
    with store.read() as connection:
        return [Ranking(**row._mapping) for row in connection.execute(query)]


def undo_last(store: Store, queue_id: str, rater: str, *, now: datetime | None = None) -> Ranking | None:
    """Take back a rater's last standing ranking in a queue; the item is in the rater's hands again.

    Returns:
        The ranking that was taken back; None where there is none.
    """
    rater, now = check_rater(rater), now or utc_now()
    last = (
        _joined()
        .join(_items, _items.c.id == _rankings.c.item_id)
        .where(_items.c.queue_id == queue_id, _rankings.c.rater == rater, _undos.c.at.is_(None))
        .order_by(_rankings.c.created_at.desc(), _rankings.c.id.desc())
        .limit(1)
    )
    with store.write() as connection:
        lock_queue(connection, queue_id)
        row = connection.execute(last).first()
        if row is None:
            return None
        connection.execute(insert(_undos).values(ranking_id=row.id, at=now))
        claim(connection, row.item_id, rater, now)
    return Ranking(**row._mapping).model_copy(update={"undone_at": now})


def undo_ranking(store: Store, rater: str, nonce: str, *, now: datetime | None = None) -> Ranking | None:
    """Take back the rater's vote that was submitted under a nonce; the item is in the rater's hands again, first.

    Args:
        store: the store.
        rater: whose vote.
        nonce: of the submission.
        now: the time, for tests.

    Returns:
        The ranking, as it is now; None where this rater submitted nothing under the nonce.
    """
    rater, now = check_rater(rater), now or utc_now()
    with store.write() as connection:
        ranking = _by_nonce(connection, nonce)
        if ranking is None or ranking.rater != rater:
            return None
        if ranking.undone_at is not None:
            return ranking
        connection.execute(insert(_undos).values(ranking_id=ranking.id, at=now))
        queue_id = find_item(connection, ranking.item_id).queue_id
        claim(connection, ranking.item_id, rater, before_held(connection, queue_id, rater, now))
    return ranking.model_copy(update={"undone_at": now})


def last_votes(store: Store, queue_id: str, rater: str, most: int) -> list[tuple[Ranking, RankItem]]:
    """The rater's last standing rankings in a queue with their items, newest first."""
    query = (
        standing(_rankings.c.rater == check_rater(rater), _items.c.queue_id == queue_id)
        .join(_items, _items.c.id == _rankings.c.item_id)
        .order_by(_rankings.c.created_at.desc(), _rankings.c.id.desc())
        .limit(most)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
        return [(Ranking(**row._mapping), find_item(connection, row.item_id)) for row in rows]


def queue_progress(
    store: Store, queue_id: str, rater: str | None = None, *, now: datetime | None = None
) -> QueueProgress:
    """How far people are with a queue, and one rater in it."""
    rater = check_rater(rater) if rater else ""
    cutoff = (now or utc_now()) - timedelta(minutes=CLAIM_MINUTES)
    with store.read() as connection:
        queue = connection.execute(select(tables.rank_queues).where(tables.rank_queues.c.id == queue_id)).first()
        if queue is None:
            raise NotFound("no such queue", value=queue_id)
        total = connection.execute(select(func.count()).where(_items.c.queue_id == queue_id)).scalar() or 0
        counted = standing(_items.c.queue_id == queue_id, _rankings.c.skipped.is_(None), ~_rankings.c.repeat).join(
            _items, _items.c.id == _rankings.c.item_id
        )
        people = voted_by("people")
        item = (
            counted.with_only_columns(
                func.count(distinct(case((people, _rankings.c.rater)))).label("people"),
                func.sum(case((people, 0), else_=1)).label("scorers"),
            )
            .group_by(_rankings.c.item_id)
            .subquery()
        )
        done = case((item.c.people >= queue.overlap, 1), else_=0)
        sums = select(func.sum(item.c.people), func.sum(done), func.sum(item.c.scorers))
        votes, done_items, by_scorers = (int(each or 0) for each in connection.execute(sums).one())
        raters = connection.execute(
            counted.where(people).with_only_columns(func.count(distinct(_rankings.c.rater)))
        ).scalar()
        own = own_votes(connection, queue_id, rater) if rater else []
        count_open = open_items(queue, rater, cutoff).with_only_columns(func.count())
        left = connection.execute(count_open).scalar() or 0
    return QueueProgress(
        total=total,
        done=done_items,
        votes=votes,
        by_scorers=by_scorers,
        raters=raters or 0,
        mine=sum(what == "first" for _, what in own),
        skipped=sum(what == "skip" for _, what in own),
        left=left,
    )
