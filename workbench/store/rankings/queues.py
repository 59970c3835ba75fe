"""Queues of prompts with answers to rank, and the items in them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from workbench.errors import Conflict, NotFound, UsageError
from workbench.records import Message, RankItem, RankQueue, Record, new_id, utc_now
from workbench.store import tables
from workbench.store.database import Store, row_dict
from workbench.store.datasets import check_name

BATCH = 500
"""Rows in one insert."""
_items = tables.rank_items


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


def check_rater(name: str) -> str:
    """A rater's name, trimmed and in one Unicode form, so that the same name typed elsewhere is the same person.

    Raises:
        UsageError: it is empty or longer than 200 characters.
    """
    return check_name(unicodedata.normalize("NFC", name), "rater")


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
        raise refused(error) from error
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
        lock_queue(connection, queue_id)
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
    for start in range(0, len(items), BATCH):
        values = [item.model_dump(mode="json") for item in items[start : start + BATCH]]
        connection.execute(insert(_items), values)


def refused(error: ValidationError) -> UsageError:
    """A record that does not hold, in words."""
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
        raise refused(error) from error
    try:
        with store.write() as connection:
            connection.execute(update(tables.rank_queues).where(tables.rank_queues.c.id == queue_id).values(**changes))
    except IntegrityError as error:
        raise Conflict("a queue of this name exists", place="name", value=changes.get("name")) from error
    return get_queue(store, queue_id)


def lock_queue(connection: Connection, queue_id: str) -> Any:
    """A queue's row, its writers in line until the transaction is over.

    Raises:
        NotFound: there is none.
    """
    table = tables.rank_queues
    row = connection.execute(select(table).where(table.c.id == queue_id).with_for_update()).first()
    if row is None:
        raise NotFound("no such queue", value=queue_id)
    return row


def get_item(store: Store, item_id: str) -> RankItem:
    """The item of this id.

    Raises:
        NotFound: there is none.
    """
    with store.read() as connection:
        return find_item(connection, item_id)


def find_item(connection: Connection, item_id: str) -> RankItem:
    """The item of this id; see `get_item`."""
    row = connection.execute(select(_items).where(_items.c.id == item_id)).first()
    if row is None:
        raise NotFound("no such item", value=item_id, remedy="Reload the page to get the queue as it is now.")
    return as_item(row)


def as_item(row: Any) -> RankItem:
    """The record of a row."""
    return RankItem(**row_dict(row))


def list_items(store: Store, queue_ids: Sequence[str]) -> list[RankItem]:
    """Items of queues, in order."""
    query = select(_items).where(_items.c.queue_id.in_(queue_ids)).order_by(_items.c.queue_id, _items.c.position)
    with store.read() as connection:
        return [as_item(row) for row in connection.execute(query)]


def count_items(store: Store) -> dict[str, int]:
    """Number of items of each queue."""
    query = select(_items.c.queue_id, func.count()).group_by(_items.c.queue_id)
    with store.read() as connection:
        return {queue_id: count for queue_id, count in connection.execute(query)}
