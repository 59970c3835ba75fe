"""Who is at which item: handing items out, and whose turn is next.

An item is handed out by one writing transaction, so two raters never hold the same item unless the queue's `overlap`
asks for it. A scorer's ranking does not count there: people are handed every item. A browser may hold the next few
items, show each without asking, and submit later.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, distinct, exists, func, insert, select, update

from workbench.errors import Conflict
from workbench.records import RankItem, RankQueue, Record, digest, utc_now
from workbench.store import tables
from workbench.store.database import Store, row_dict
from workbench.store.rankings.queues import as_item, check_rater, find_item, lock_queue
from workbench.store.rankings.sources import voted_by

CLAIM_MINUTES = 15
"""An item that was handed out and got no vote for so long goes to somebody else."""
REPEAT_GAP = 4
"""Other votes a rater gives between an item and its hidden repeat, as long as there are others to give."""
STEP = timedelta(milliseconds=1)
"""Between the holds of one rater, which are kept in order by their time."""
_items, _claims, _rankings, _undos = tables.rank_items, tables.rank_claims, tables.rankings, tables.ranking_undos


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
        item = find_item(connection, item_id)
        ranked = connection.execute(standing(_rankings.c.item_id == item_id, _rankings.c.rater == rater)).first()
    return display_order(item, rater, repeat=ranked is not None)


def standing(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Rankings that were not taken back."""
    undone = exists().where(_undos.c.ranking_id == _rankings.c.id)
    return select(_rankings).where(~undone, *conditions)


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
        queue = lock_queue(connection, queue_id)
        if queue.archived_at is not None:
            raise Conflict("this queue was put away", place=queue.name, remedy="Choose another queue.")
        cutoff = now - timedelta(minutes=CLAIM_MINUTES)
        votes = own_votes(connection, queue_id, rater)
        ranked = {item_id for item_id, _ in votes}
        item = _held_item(connection, queue, rater, cutoff)
        if item is None:
            fresh = connection.execute(open_items(queue, rater, cutoff).order_by(_items.c.position).limit(1)).first()
            item_id = _due_repeat(queue, rater, votes, last_chance=fresh is None)
            if item_id is not None:
                item = find_item(connection, item_id)
            elif fresh is not None:
                item = as_item(fresh)
        if item is None:
            return None
        claim(connection, item.id, rater, now)
    repeat = item.id in ranked
    return HandedItem(item=item, shown=display_order(item, rater, repeat=repeat), repeat=repeat, claimed_at=now)


def own_votes(connection: Connection, queue_id: str, rater: str) -> list[tuple[str, str]]:
    """A rater's standing rankings in a queue, oldest first: item id, and `first`, `repeat` or `skip`."""
    query = (
        standing(_rankings.c.rater == rater, _items.c.queue_id == queue_id)
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
        own = exists(standing(_rankings.c.item_id == item.id, _rankings.c.rater == rater))
        repeat = connection.execute(select(own)).scalar()
        if claimed_at > cutoff or repeat:
            return item
        still_open = open_items(queue, rater, cutoff).where(_items.c.id == item.id)
        if connection.execute(still_open).first() is not None:
            return item
        connection.execute(delete(_claims).where(_claims.c.item_id == item.id, _claims.c.rater == rater))
    return None


def open_items(queue: Any, rater: str, cutoff: datetime) -> Select[Any]:
    """Items that the rater has not ranked and that need a person's vote nobody else is about to give."""
    here = _rankings.c.item_id == _items.c.id
    mine = exists(standing(here, _rankings.c.rater == rater).correlate(_items))
    voted = (
        standing(here, _rankings.c.skipped.is_(None), voted_by("people"))
        .with_only_columns(func.count(distinct(_rankings.c.rater)))
        .correlate(_items)
        .scalar_subquery()
    )
    # Who holds an item they ranked before holds a repeat, and was counted as a voter already.
    ranked_before = exists(standing(here, _rankings.c.rater == _claims.c.rater).correlate(_items, _claims))
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


def claim(connection: Connection, item_id: str, rater: str, now: datetime) -> None:
    """Note that a rater holds an item since now."""
    mine = and_(_claims.c.item_id == item_id, _claims.c.rater == rater)
    if connection.execute(update(_claims).where(mine).values(claimed_at=now)).rowcount == 0:
        connection.execute(insert(_claims).values(item_id=item_id, rater=rater, claimed_at=now))


def release_items(store: Store, queue_id: str, rater: str) -> None:
    """Give back what a rater holds, so that others get it at once."""
    held = select(_items.c.id).where(_items.c.queue_id == queue_id)
    with store.write() as connection:
        connection.execute(delete(_claims).where(_claims.c.rater == check_rater(rater), _claims.c.item_id.in_(held)))


def next_items(
    store: Store, queue_id: str, rater: str, most: int, *, first: str | None = None, now: datetime | None = None
) -> list[HandedItem]:
    """Hand the rater up to so many items, first those they hold already, in the order they got them.

    Args:
        store: the store.
        queue_id: the queue.
        rater: who asks.
        most: items to hold at once, 1 or more.
        first: id of the item to come before all others, where this rater may rank it; it makes no difference otherwise.
        now: the time, for tests.

    Raises:
        NotFound: no such queue.
        Conflict: the queue was put away.
    """
    rater, now = check_rater(rater), now or utc_now()
    with store.write() as connection:
        queue = lock_queue(connection, queue_id)
        if queue.archived_at is not None:
            raise Conflict("this queue was put away", place=queue.name, remedy="Choose another queue.")
        cutoff = now - timedelta(minutes=CLAIM_MINUTES)
        votes = own_votes(connection, queue_id, rater)
        ranked = {item_id for item_id, _ in votes}
        if first is not None:
            _put_first(connection, queue, rater, cutoff, first, now)
        items = _held(connection, queue, rater, cutoff)
        if len(items) < most:
            items += _more(connection, queue, rater, cutoff, votes, items, most)
        # Holding is renewed in the order of the window, so that a rater who reads slowly keeps the items; also that of
        # items beyond it, which one put first or taken back has pushed out and which would come first otherwise.
        for place, item in enumerate(items):
            claim(connection, item.id, rater, now + place * STEP)
    return [
        HandedItem(
            item=item,
            shown=display_order(item, rater, repeat=item.id in ranked),
            repeat=item.id in ranked,
            claimed_at=now,
        )
        for item in items[:most]
    ]


def _put_first(
    connection: Connection, queue: RankQueue, rater: str, cutoff: datetime, item_id: str, now: datetime
) -> None:
    """Note that the rater holds an item before all others they hold; nothing where somebody else's turn it is."""
    may = open_items(queue, rater, cutoff).where(_items.c.id == item_id)
    if connection.execute(may).first() is not None:
        claim(connection, item_id, rater, before_held(connection, queue.id, rater, now))


def before_held(connection: Connection, queue_id: str, rater: str, now: datetime) -> datetime:
    """A time before that of everything the rater holds in a queue; now where they hold nothing."""
    own = select(_items.c.id).where(_items.c.queue_id == queue_id)
    first = select(_claims.c.claimed_at).where(_claims.c.rater == rater, _claims.c.item_id.in_(own))
    oldest = connection.execute(first.order_by(_claims.c.claimed_at).limit(1)).scalar()
    return now if oldest is None else min(now, oldest - STEP)


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
            repeat = exists(standing(_rankings.c.item_id == item.id, _rankings.c.rater == rater))
            still_open = open_items(queue, rater, cutoff).where(_items.c.id == item.id)
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
    query = open_items(queue, rater, cutoff).where(_items.c.id.not_in(known)).order_by(_items.c.position)
    fresh = [as_item(row) for row in connection.execute(query.limit(most - len(held)))]
    ranked = {item_id for item_id, _ in votes}
    if any(item_id in ranked for item_id in known):
        return fresh
    repeat = _due_repeat(queue, rater, votes, last_chance=not fresh and not held)
    return [find_item(connection, repeat), *fresh][: most - len(held)] if repeat is not None else fresh


def others_hold(store: Store, queue_id: str, rater: str) -> bool:
    """Whether there are items this rater could rank if others, who hold them now, gave them back."""
    with store.read() as connection:
        queue = connection.execute(select(tables.rank_queues).where(tables.rank_queues.c.id == queue_id)).first()
        if queue is None:
            return False
        # No hold is younger than the end of time, so none counts.
        unclaimed = open_items(queue, check_rater(rater), datetime.max.replace(tzinfo=UTC)).limit(1)
        return connection.execute(unclaimed).first() is not None
