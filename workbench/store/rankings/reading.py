"""Plain reads for figures over many votes, and the answers behind the items.

Making ten thousand records takes too long for a page, so votes and items come as bare tuples here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Text, cast, select

from workbench.records import Completion
from workbench.store import tables
from workbench.store.database import Store, row_dict
from workbench.store.rankings.handing import standing

_items, _rankings = tables.rank_items, tables.rankings


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
        standing(_items.c.queue_id.in_(queue_ids), table.c.skipped.is_(None))
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


def _decode_all(texts: Sequence[str]) -> list[Any]:
    """Many JSON texts at once: one call instead of one a value, several times as fast."""
    decoded: list[Any] = json.loads(f"[{','.join(texts)}]")
    return decoded


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
