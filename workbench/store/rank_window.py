"""Several items at once for a rater's browser, and taking back one certain vote.

A browser that holds the next few items shows each without asking, and submits later. Which items are open, and when a
hidden repeat is due, is as in `workbench.store.rankings`; here the same rules hand out more than one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, exists, insert, select

from workbench.errors import Conflict
from workbench.records import Ranking, RankItem, RankQueue, utc_now
from workbench.store.database import Store, row_dict
from workbench.store.rankings import (
    CLAIM_MINUTES,
    HandedItem,
    _as_item,
    _by_nonce,
    _claim,
    _claims,
    _due_repeat,
    _find_item,
    _items,
    _live,
    _lock_queue,
    _open_items,
    _own_votes,
    _rankings,
    _undos,
    check_rater,
    display_order,
)
from workbench.store.tables import rank_queues

_STEP = timedelta(milliseconds=1)


def next_items(store: Store, queue_id: str, rater: str, most: int, *, now: datetime | None = None) -> list[HandedItem]:
    """Hand the rater up to so many items, first those they hold already, in the order they got them.

    Args:
        store: the store.
        queue_id: the queue.
        rater: who asks.
        most: items to hold at once, 1 or more.
        now: the time, for tests.

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
        items = _held(connection, queue, rater, cutoff)[:most]
        if len(items) < most:
            items += _more(connection, queue, rater, cutoff, votes, items, most)
        # Holding is renewed in the order of the window, so that a rater who reads slowly keeps the items.
        for place, item in enumerate(items):
            _claim(connection, item.id, rater, now + place * _STEP)
    return [
        HandedItem(
            item=item,
            shown=display_order(item, rater, repeat=item.id in ranked),
            repeat=item.id in ranked,
            claimed_at=now,
        )
        for item in items
    ]


def _held(connection: Connection, queue: RankQueue, rater: str, cutoff: datetime) -> list[RankItem]:
    """What the rater holds, oldest first; what ran out and somebody else took is let go."""
    query = (
        select(_items, _claims.c.claimed_at)
        .join(_claims, _claims.c.item_id == _items.c.id)
        .where(_items.c.queue_id == queue.id, _claims.c.rater == rater)
        .order_by(_claims.c.claimed_at, _items.c.position)
    )
    found = []
    for row in connection.execute(query).all():
        values = row_dict(row)
        claimed_at = values.pop("claimed_at")
        item = RankItem(**values)
        if claimed_at <= cutoff:
            repeat = exists(_live(_rankings.c.item_id == item.id, _rankings.c.rater == rater))
            still_open = _open_items(queue, rater, cutoff).where(_items.c.id == item.id)
            if not connection.execute(select(repeat)).scalar() and connection.execute(still_open).first() is None:
                connection.execute(delete(_claims).where(_claims.c.item_id == item.id, _claims.c.rater == rater))
                continue
        found.append(item)
    return found


def _more(
    connection: Connection,
    queue: RankQueue,
    rater: str,
    cutoff: datetime,
    votes: list[tuple[str, str]],
    held: list[RankItem],
    most: int,
) -> list[RankItem]:
    known = [item.id for item in held]
    query = _open_items(queue, rater, cutoff).where(_items.c.id.not_in(known)).order_by(_items.c.position)
    fresh = [_as_item(row) for row in connection.execute(query.limit(most - len(held)))]
    ranked = {item_id for item_id, _ in votes}
    if any(item_id in ranked for item_id in known):
        return fresh
    repeat = _due_repeat(queue, rater, votes, last_chance=not fresh and not held)
    return [_find_item(connection, repeat), *fresh][: most - len(held)] if repeat is not None else fresh


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
        queue_id = _find_item(connection, ranking.item_id).queue_id
        own = select(_items.c.id).where(_items.c.queue_id == queue_id)
        first = select(_claims.c.claimed_at).where(_claims.c.rater == rater, _claims.c.item_id.in_(own))
        oldest = connection.execute(first.order_by(_claims.c.claimed_at).limit(1)).scalar()
        _claim(connection, ranking.item_id, rater, now if oldest is None else min(now, oldest - _STEP))
    return ranking.model_copy(update={"undone_at": now})


def last_votes(store: Store, queue_id: str, rater: str, most: int) -> list[tuple[Ranking, RankItem]]:
    """The rater's last standing rankings in a queue with their items, newest first."""
    query = (
        _live(_rankings.c.rater == check_rater(rater), _items.c.queue_id == queue_id)
        .join(_items, _items.c.id == _rankings.c.item_id)
        .order_by(_rankings.c.created_at.desc(), _rankings.c.id.desc())
        .limit(most)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
        return [(Ranking(**row._mapping), _find_item(connection, row.item_id)) for row in rows]


def others_hold(store: Store, queue_id: str, rater: str) -> bool:
    """Whether there are items this rater could rank if others, who hold them now, gave them back."""
    with store.read() as connection:
        queue = connection.execute(select(rank_queues).where(rank_queues.c.id == queue_id)).first()
        if queue is None:
            return False
        # No hold is younger than the end of time, so none counts.
        unclaimed = _open_items(queue, check_rater(rater), datetime.max.replace(tzinfo=UTC)).limit(1)
        return connection.execute(unclaimed).first() is not None
