"""Queues of answers to rank, who is at which item, and the rankings. Rankings are only ever appended.

An item is handed out by one writing transaction, so two raters never hold the same item unless the queue's `overlap`
asks for it. A vote taken back is a mark of its own. What rankings mean is left to `workbench.preferences`.
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pydantic import ValidationError
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    cast,
    delete,
    distinct,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from workbench.errors import Conflict, NotFound, UsageError
from workbench.records import (
    Completion,
    Message,
    Ranking,
    RankItem,
    RankQueue,
    Record,
    digest,
    new_id,
    utc_now,
)
from workbench.store import tables
from workbench.store.database import Store, row_dict
from workbench.store.datasets import check_name

CLAIM_MINUTES = 15
"""An item that was handed out and got no vote for so long goes to somebody else."""
REPEAT_GAP = 4
"""Other votes a rater gives between an item and its hidden repeat, as long as there are others to give."""
_BATCH = 500

_items, _claims, _rankings, _undos = tables.rank_items, tables.rank_claims, tables.rankings, tables.ranking_undos


class NewItem(Record):
    """A prompt with its answers, before it has a place in a queue."""

    prompt: tuple[Message, ...]
    """What was asked."""
    completions: tuple[str, ...]
    """Ids of the answers, 1 to 9, no two with the same text."""
    merged: dict[str, tuple[str, ...]] = {}
    """For an answer that stands for several: ids of the others with the same text."""
    row_id: str | None = None
    """The prompt's row."""


class HandedItem(Record):
    """An item in one rater's hands."""

    item: RankItem
    """The item."""
    shown: tuple[str, ...]
    """Completion ids in the order this rater sees them."""
    repeat: bool = False
    """Whether the rater has ranked it before; never told to the rater."""
    claimed_at: datetime
    """Since when."""


class QueueProgress(Record):
    """How far a queue is, and one rater in it."""

    total: int
    """Items."""
    done: int
    """Items with as many votes as the queue's overlap asks for."""
    votes: int
    """Votes that stand, hidden repeats and skips left out."""
    raters: int
    """People who voted."""
    mine: int
    """Items this rater voted on."""
    skipped: int
    """Items this rater passed over."""
    left: int
    """Items this rater could still be handed, those that others hold now left out."""


def check_rater(name: str) -> str:
    """A rater's name, trimmed and in one Unicode form, so that the same name typed elsewhere is the same person.

    Raises:
        UsageError: it is empty or longer than 200 characters.
    """
    return check_name(unicodedata.normalize("NFC", name), "rater")


# ---- queues ----


def create_queue(
    store: Store,
    name: str,
    items: Iterable[NewItem],
    *,
    guidelines: str = "",
    overlap: int = 1,
    repeats: float = 0.0,
    source: dict[str, Any] | None = None,
) -> RankQueue:
    """Make a queue with its items, all or nothing.

    Args:
        store: the store.
        name: unique among queues.
        items: prompts with their answers, in the order they are handed out.
        guidelines: what raters are told to look for.
        overlap: how many raters see each item, 1 or more.
        repeats: share of items a rater is shown a second time, 0 to 0.5.
        source: where the items come from.

    Raises:
        Conflict: the name is taken.
        UsageError: an option is out of bounds, or there is no item.
    """
    try:
        queue = RankQueue(
            id=new_id("rq"),
            name=check_name(name, "queue"),
            guidelines=guidelines,
            overlap=overlap,
            repeats=repeats,
            source=source or {},
            created_at=utc_now(),
        )
    except ValidationError as error:
        raise _refused(error) from error
    made = [_made_item(queue.id, position, item) for position, item in enumerate(items)]
    if not made:
        raise UsageError("a queue needs at least one prompt with answers", place=queue.name)
    try:
        with store.write() as connection:
            connection.execute(insert(tables.rank_queues).values(queue.model_dump()))
            _insert_items(connection, made)
    except IntegrityError as error:
        raise Conflict(
            "a queue of this name exists", place="name", value=queue.name, remedy="Choose another name."
        ) from error
    return queue


def add_items(store: Store, queue_id: str, items: Iterable[NewItem]) -> list[RankItem]:
    """Append items to a queue, as a demo or a Playground does while it goes on."""
    wanted = list(items)
    with store.write() as connection:
        _lock_queue(connection, queue_id)
        last = connection.execute(select(func.max(_items.c.position)).where(_items.c.queue_id == queue_id)).scalar()
        first = 0 if last is None else last + 1
        made = [_made_item(queue_id, position, item) for position, item in enumerate(wanted, start=first)]
        _insert_items(connection, made)
    return made


def _made_item(queue_id: str, position: int, item: NewItem) -> RankItem:
    if len(set(item.completions)) != len(item.completions) or not 1 <= len(item.completions) <= 9:
        raise UsageError(
            "an item holds 1 to 9 different answers",
            place=f"item {position + 1}",
            value=len(item.completions),
            remedy="Leave some out, or make two items of it.",
        )
    return RankItem(id=new_id("ri"), queue_id=queue_id, position=position, **dict(item))


def _insert_items(connection: Connection, items: Sequence[RankItem]) -> None:
    for start in range(0, len(items), _BATCH):
        values = [item.model_dump(mode="json") for item in items[start : start + _BATCH]]
        connection.execute(insert(_items), values)


def _refused(error: ValidationError) -> UsageError:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return UsageError(str(first["msg"]).lower(), place=place, value=first["input"], remedy="Change it and try again.")


def get_queue(store: Store, name_or_id: str) -> RankQueue:
    """The queue of this id or name.

    Raises:
        NotFound: there is none.
    """
    table = tables.rank_queues
    with store.read() as connection:
        row = connection.execute(select(table).where(or_(table.c.id == name_or_id, table.c.name == name_or_id))).first()
    if row is None:
        raise NotFound("no such queue", value=name_or_id, remedy="`workbench rank queues` shows what there is.")
    return RankQueue(**row._mapping)


def list_queues(store: Store, *, archived: bool = False) -> list[RankQueue]:
    """Queues, newest first."""
    table = tables.rank_queues
    query = select(table).order_by(table.c.created_at.desc(), table.c.id.desc())
    if not archived:
        query = query.where(table.c.archived_at.is_(None))
    with store.read() as connection:
        return [RankQueue(**row._mapping) for row in connection.execute(query)]


def update_queue(store: Store, queue_id: str, **changes: Any) -> RankQueue:
    """Change name, guidelines, overlap, repeats or archived_at.

    Raises:
        Conflict: the new name is taken.
        UsageError: a value is out of bounds.
    """
    if "name" in changes:
        changes["name"] = check_name(changes["name"], "queue")
    try:
        RankQueue.model_validate(dict(get_queue(store, queue_id)) | changes)
    except ValidationError as error:
        raise _refused(error) from error
    try:
        with store.write() as connection:
            connection.execute(update(tables.rank_queues).where(tables.rank_queues.c.id == queue_id).values(**changes))
    except IntegrityError as error:
        raise Conflict("a queue of this name exists", place="name", value=changes.get("name")) from error
    return get_queue(store, queue_id)


def _as_item(row: Any) -> RankItem:
    return RankItem(**row_dict(row))


def get_item(store: Store, item_id: str) -> RankItem:
    """The item of this id.

    Raises:
        NotFound: there is none.
    """
    with store.read() as connection:
        return _find_item(connection, item_id)


def _find_item(connection: Connection, item_id: str) -> RankItem:
    row = connection.execute(select(_items).where(_items.c.id == item_id)).first()
    if row is None:
        raise NotFound("no such item", value=item_id, remedy="Reload the page to get the queue as it is now.")
    return _as_item(row)


def list_items(store: Store, queue_ids: Sequence[str]) -> list[RankItem]:
    """Items of queues, in order."""
    query = select(_items).where(_items.c.queue_id.in_(queue_ids)).order_by(_items.c.queue_id, _items.c.position)
    with store.read() as connection:
        return [_as_item(row) for row in connection.execute(query)]


def count_items(store: Store) -> dict[str, int]:
    """Number of items of each queue."""
    query = select(_items.c.queue_id, func.count()).group_by(_items.c.queue_id)
    with store.read() as connection:
        return {queue_id: count for queue_id, count in connection.execute(query)}


# ---- handing out ----


def display_order(item: RankItem, rater: str, *, repeat: bool = False) -> tuple[str, ...]:
    """The order in which a rater sees an item's answers: shuffled, the same at each look, another for a repeat.

    Args:
        item: the item.
        rater: who looks.
        repeat: whether it is the hidden repeat.
    """

    def shuffled(round_number: int) -> tuple[str, ...]:
        order = list(item.completions)
        random.Random(digest([item.queue_id, item.id, rater, round_number])).shuffle(order)
        return tuple(order)

    first = shuffled(0)
    if not repeat:
        return first
    again = shuffled(1)
    return again if again != first else first[::-1]


def shown_order(store: Store, item_id: str, rater: str) -> tuple[str, ...]:
    """The order in which a rater sees an item's answers now: that of the hidden repeat once they have ranked it.

    Raises:
        NotFound: no such item.
    """
    rater = check_rater(rater)
    with store.read() as connection:
        item = _find_item(connection, item_id)
        ranked = connection.execute(_live(_rankings.c.item_id == item_id, _rankings.c.rater == rater)).first()
    return display_order(item, rater, repeat=ranked is not None)


def _live(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Rankings that were not taken back."""
    undone = exists().where(_undos.c.ranking_id == _rankings.c.id)
    return select(_rankings).where(~undone, *conditions)


def _lock_queue(connection: Connection, queue_id: str) -> Any:
    table = tables.rank_queues
    row = connection.execute(select(table).where(table.c.id == queue_id).with_for_update()).first()
    if row is None:
        raise NotFound("no such queue", value=queue_id)
    return row


def next_item(store: Store, queue_id: str, rater: str, *, now: datetime | None = None) -> HandedItem | None:
    """Hand the rater an item and note that they hold it.

    What the rater holds already is given again, the newest first (a vote just taken back, or a page that was reloaded).
    Otherwise a hidden repeat where one is due, otherwise the first item that still needs a vote and that nobody else
    holds. An item is never given to one rater twice except as a repeat.

    Args:
        store: the store.
        queue_id: the queue.
        rater: who asks.
        now: the time, for tests.

    Returns:
        The item; None where nothing is left for this rater.

    Raises:
        NotFound: no such queue.
        Conflict: the queue was put away.
    """
    rater, now = check_rater(rater), now or utc_now()
    with store.write() as connection:
        queue = _lock_queue(connection, queue_id)
        if queue.archived_at is not None:
            raise Conflict("this queue was put away", place=queue.name, remedy="Choose another queue.")
        cutoff = now - timedelta(minutes=CLAIM_MINUTES)
        votes = _own_votes(connection, queue_id, rater)
        ranked = {item_id for item_id, _ in votes}
        item = _held_item(connection, queue, rater, cutoff)
        if item is None:
            fresh = connection.execute(_open_items(queue, rater, cutoff).order_by(_items.c.position).limit(1)).first()
            item_id = _due_repeat(queue, rater, votes, last_chance=fresh is None)
            if item_id is not None:
                item = _find_item(connection, item_id)
            elif fresh is not None:
                item = _as_item(fresh)
        if item is None:
            return None
        _claim(connection, item.id, rater, now)
    repeat = item.id in ranked
    return HandedItem(item=item, shown=display_order(item, rater, repeat=repeat), repeat=repeat, claimed_at=now)


def _own_votes(connection: Connection, queue_id: str, rater: str) -> list[tuple[str, str]]:
    """A rater's standing rankings in a queue, oldest first: item id, and `first`, `repeat` or `skip`."""
    query = (
        _live(_rankings.c.rater == rater, _items.c.queue_id == queue_id)
        .join(_items, _items.c.id == _rankings.c.item_id)
        .with_only_columns(_rankings.c.item_id, _rankings.c.repeat, _rankings.c.skipped)
        .order_by(_rankings.c.created_at, _rankings.c.id)
    )
    return [
        (row.item_id, "repeat" if row.repeat else "first" if row.skipped is None else "skip")
        for row in connection.execute(query)
    ]


def _held_item(connection: Connection, queue: Any, rater: str, cutoff: datetime) -> RankItem | None:
    """What the rater holds, newest first; a claim that has run out still counts while nobody else took the item."""
    query = (
        select(_items, _claims.c.claimed_at)
        .join(_claims, _claims.c.item_id == _items.c.id)
        .where(_items.c.queue_id == queue.id, _claims.c.rater == rater)
        .order_by(_claims.c.claimed_at.desc(), _items.c.position)
    )
    for row in connection.execute(query).all():
        values = row_dict(row)
        claimed_at = values.pop("claimed_at")
        item = RankItem(**values)
        own = exists(_live(_rankings.c.item_id == item.id, _rankings.c.rater == rater))
        repeat = connection.execute(select(own)).scalar()
        if claimed_at > cutoff or repeat:
            return item
        still_open = _open_items(queue, rater, cutoff).where(_items.c.id == item.id)
        if connection.execute(still_open).first() is not None:
            return item
        connection.execute(delete(_claims).where(_claims.c.item_id == item.id, _claims.c.rater == rater))
    return None


def _open_items(queue: Any, rater: str, cutoff: datetime) -> Select[Any]:
    """Items that the rater has not ranked and that need a vote nobody else is about to give."""
    here = _rankings.c.item_id == _items.c.id
    mine = exists(_live(here, _rankings.c.rater == rater).correlate(_items))
    voted = (
        _live(here, _rankings.c.skipped.is_(None))
        .with_only_columns(func.count(distinct(_rankings.c.rater)))
        .correlate(_items)
        .scalar_subquery()
    )
    # Who holds an item they ranked before holds a repeat, and was counted as a voter already.
    ranked_before = exists(_live(here, _rankings.c.rater == _claims.c.rater).correlate(_items, _claims))
    held = (
        select(func.count())
        .select_from(_claims)
        .where(
            _claims.c.item_id == _items.c.id, _claims.c.rater != rater, _claims.c.claimed_at > cutoff, ~ranked_before
        )
        .correlate(_items)
        .scalar_subquery()
    )
    return select(_items).where(_items.c.queue_id == queue.id, ~mine, voted + held < queue.overlap)


def _due_repeat(queue: Any, rater: str, votes: Sequence[tuple[str, str]], *, last_chance: bool) -> str | None:
    """The item to show a second time now, None where none is due; never the one ranked last."""
    first = [item_id for item_id, what in votes if what == "first"]
    repeated = {item_id for item_id, what in votes if what == "repeat"}
    if len(repeated) >= int(queue.repeats * len(first) + 1e-9):
        return None
    waiting = [item_id for item_id in first if item_id not in repeated]
    for gap in (REPEAT_GAP, 1) if last_chance else (REPEAT_GAP,):
        recent = {item_id for item_id, _ in votes[-gap:]}
        eligible = [item_id for item_id in waiting if item_id not in recent]
        if eligible:
            return min(eligible, key=lambda item_id: digest([queue.id, item_id, rater, "repeat"]))
    return None


def _claim(connection: Connection, item_id: str, rater: str, now: datetime) -> None:
    mine = and_(_claims.c.item_id == item_id, _claims.c.rater == rater)
    if connection.execute(update(_claims).where(mine).values(claimed_at=now)).rowcount == 0:
        connection.execute(insert(_claims).values(item_id=item_id, rater=rater, claimed_at=now))


def release_items(store: Store, queue_id: str, rater: str) -> None:
    """Give back what a rater holds, so that others get it at once."""
    held = select(_items.c.id).where(_items.c.queue_id == queue_id)
    with store.write() as connection:
        connection.execute(delete(_claims).where(_claims.c.rater == check_rater(rater), _claims.c.item_id.in_(held)))


# ---- rankings ----


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
    source: str = "rank",
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
        source: rank, playground, demo, import or scorer.
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
        item = _find_item(connection, item_id)
        _lock_queue(connection, item.queue_id)
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
                source=source,
                nonce=nonce,
                created_at=now or utc_now(),
            )
        except ValidationError as error:
            raise _refused(error) from error
        connection.execute(insert(_rankings).values(_as_row(check_ranking(ranking, item))))
        connection.execute(delete(_claims).where(_claims.c.item_id == item_id, _claims.c.rater == rater))
    return ranking


def _is_repeat(connection: Connection, item: RankItem, rater: str, shown: Sequence[str] | None) -> bool:
    """Whether this is the hidden repeat of an item; anything else that was ranked before is refused."""
    mine = connection.execute(_live(_rankings.c.item_id == item.id, _rankings.c.rater == rater)).first()
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
        for start in range(0, len(wanted), _BATCH):
            part = wanted[start : start + _BATCH]
            nonces = select(_rankings.c.nonce).where(_rankings.c.nonce.in_([ranking.nonce for ranking in part]))
            known = set(connection.execute(nonces).scalars())
            ids = {ranking.item_id for ranking in part}
            rows = connection.execute(select(_items).where(_items.c.id.in_(ids)))
            items = {row.id: _as_item(row) for row in rows}
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
        _lock_queue(connection, queue_id)
        row = connection.execute(last).first()
        if row is None:
            return None
        connection.execute(insert(_undos).values(ranking_id=row.id, at=now))
        _claim(connection, row.item_id, rater, now)
    return Ranking(**row._mapping).model_copy(update={"undone_at": now})


def queue_progress(
    store: Store, queue_id: str, rater: str | None = None, *, now: datetime | None = None
) -> QueueProgress:
    """How far a queue is, and one rater in it."""
    rater = check_rater(rater) if rater else ""
    cutoff = (now or utc_now()) - timedelta(minutes=CLAIM_MINUTES)
    with store.read() as connection:
        queue = connection.execute(select(tables.rank_queues).where(tables.rank_queues.c.id == queue_id)).first()
        if queue is None:
            raise NotFound("no such queue", value=queue_id)
        total = connection.execute(select(func.count()).where(_items.c.queue_id == queue_id)).scalar() or 0
        votes = (
            _live(_items.c.queue_id == queue_id, _rankings.c.skipped.is_(None), ~_rankings.c.repeat)
            .join(_items, _items.c.id == _rankings.c.item_id)
            .with_only_columns(_rankings.c.item_id, _rankings.c.rater)
        )
        by_item: dict[str, set[str]] = {}
        for item_id, who in connection.execute(votes):
            by_item.setdefault(item_id, set()).add(who)
        own = _own_votes(connection, queue_id, rater) if rater else []
        open_items = _open_items(queue, rater, cutoff).with_only_columns(func.count())
        left = connection.execute(open_items).scalar() or 0
    return QueueProgress(
        total=total,
        done=sum(len(raters) >= queue.overlap for raters in by_item.values()),
        votes=sum(map(len, by_item.values())),
        raters=len(set().union(*by_item.values())) if by_item else 0,
        mine=sum(what == "first" for _, what in own),
        skipped=sum(what == "skip" for _, what in own),
        left=left,
    )


# ---- the answers behind the items ----


def completions_by_id(store: Store, ids: Iterable[str]) -> dict[str, Completion]:
    """Completions of these ids; one that is not in the store is left out."""
    table = tables.completions
    found: dict[str, Completion] = {}
    with store.read() as connection:
        for part in _parts(ids):
            for row in connection.execute(select(table).where(table.c.id.in_(part))):
                found[row.id] = Completion(**row_dict(row))
    return found


def completion_variants(store: Store, ids: Iterable[str]) -> dict[str, str]:
    """Who wrote each of these completions: completion id → variant id."""
    table = tables.completions
    found: dict[str, str] = {}
    with store.read() as connection:
        for part in _parts(ids):
            rows = connection.execute(select(table.c.id, table.c.variant_id).where(table.c.id.in_(part)))
            found.update((row.id, row.variant_id) for row in rows)
    return found


def _parts(ids: Iterable[str]) -> Iterator[list[str]]:
    wanted = list(dict.fromkeys(ids))
    for start in range(0, len(wanted), 5000):
        yield wanted[start : start + 5000]


# ---- plain reads for figures over many votes ----


class VoteRow(NamedTuple):
    """A standing vote without what figures do not need; making ten thousand records takes too long for a page."""

    ranking_id: str
    item_id: str
    rater: str
    shown: Sequence[str]
    tiers: Sequence[Sequence[str]]
    unusable: Sequence[str]
    all_bad: bool
    repeat: bool


class ItemRow(NamedTuple):
    """An item without its prompt's turns."""

    item_id: str
    completions: Sequence[str]
    merged: dict[str, Sequence[str]]
    prompt: str
    """The prompt's JSON text: equal for equal prompts, whatever queue they are in."""


def list_votes(store: Store, queue_ids: Sequence[str]) -> list[VoteRow]:
    """Standing votes of queues, oldest first; skips and what was taken back are left out, hidden repeats are not."""
    table = _rankings
    lists = (cast(column, Text) for column in (table.c.shown, table.c.tiers, table.c.unusable))
    query = (
        _live(_items.c.queue_id.in_(queue_ids), table.c.skipped.is_(None))
        .join(_items, _items.c.id == table.c.item_id)
        .with_only_columns(table.c.id, table.c.item_id, table.c.rater, *lists, table.c.all_bad, table.c.repeat)
        .order_by(table.c.created_at, table.c.id)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    decoded = (_decode_all([row[place] for row in rows]) for place in (3, 4, 5))
    return [
        VoteRow(row.id, row.item_id, row.rater, shown, tiers, unusable, bool(row.all_bad), bool(row.repeat))
        for row, shown, tiers, unusable in zip(rows, *decoded, strict=True)
    ]


def _decode_all(texts: Sequence[str]) -> list[Any]:
    """Many JSON texts at once: one call instead of one a value, several times as fast."""
    decoded: list[Any] = json.loads(f"[{','.join(texts)}]")
    return decoded


def list_item_rows(store: Store, queue_ids: Sequence[str]) -> list[ItemRow]:
    """Items of queues, in order, without their prompts' turns."""
    columns = (cast(column, Text) for column in (_items.c.completions, _items.c.merged, _items.c.prompt))
    query = (
        select(_items.c.id, *columns)
        .where(_items.c.queue_id.in_(queue_ids))
        .order_by(_items.c.queue_id, _items.c.position)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    decoded = (_decode_all([row[place] for row in rows]) for place in (1, 2))
    return [
        ItemRow(row[0], completions, merged, row[3]) for row, completions, merged in zip(rows, *decoded, strict=True)
    ]
