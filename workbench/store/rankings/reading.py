"""Plain reads for figures over many votes, and the answers behind the items.

Making ten thousand records takes too long for a page, so votes and items come as bare tuples here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Text, cast, func, select

from workbench.records import Completion
from workbench.store import tables
from workbench.store.database import Store, row_dict
from workbench.store.rankings.handing import standing
from workbench.store.rankings.sources import Sources, voted_by

_items, _rankings, _undos = tables.rank_items, tables.rankings, tables.ranking_undos


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
    source: str
    """rank, playground, demo, import or scorer."""


class VotesStamp(NamedTuple):
    """What changes with every vote and every undo: figures over votes hold as long as it stays."""

    rankings: int
    newest: str
    undos: int
    last_undo: str


class ItemRow(NamedTuple):
    """An item without its prompt's turns."""

    item_id: str
    completions: Sequence[str]
    merged: dict[str, Sequence[str]]
    prompt: str
    """The prompt's JSON text: equal for equal prompts, whatever queue they are in."""


def votes_stamp(store: Store) -> VotesStamp:
    """Tells whether any vote was given or taken back since another stamp was taken; much cheaper than the votes."""
    with store.read() as connection:
        given = connection.execute(select(func.count(), func.max(_rankings.c.created_at)).select_from(_rankings)).one()
        back = connection.execute(select(func.count(), func.max(_undos.c.at)).select_from(_undos)).one()
    return VotesStamp(given[0], str(given[1]), back[0], str(back[1]))


def count_by_source(store: Store, queue_ids: Sequence[str]) -> dict[str, int]:
    """Standing votes of queues by source, without skips and hidden repeats."""
    query = (
        standing(_items.c.queue_id.in_(queue_ids), _rankings.c.skipped.is_(None), ~_rankings.c.repeat)
        .join(_items, _items.c.id == _rankings.c.item_id)
        .with_only_columns(_rankings.c.source, func.count())
        .group_by(_rankings.c.source)
        .order_by(_rankings.c.source)
    )
    with store.read() as connection:
        return {str(source): int(votes) for source, votes in connection.execute(query)}


def list_votes(store: Store, queue_ids: Sequence[str], sources: Sources = "all") -> list[VoteRow]:
    """Standing votes of queues, oldest first; skips and what was taken back are left out, hidden repeats are not.

    Args:
        store: the store.
        queue_ids: queue ids.
        sources: whose votes.
    """
    table = _rankings
    lists = (cast(column, Text) for column in (table.c.shown, table.c.tiers, table.c.unusable))
    plain = (table.c.all_bad, table.c.repeat, table.c.source)
    query = (
        standing(_items.c.queue_id.in_(queue_ids), table.c.skipped.is_(None), voted_by(sources))
        .join(_items, _items.c.id == table.c.item_id)
        .with_only_columns(table.c.id, table.c.item_id, table.c.rater, *lists, *plain)
        .order_by(table.c.created_at, table.c.id)
    )
    with store.read() as connection:
        rows = [tuple(row) for row in connection.execute(query)]
    if not rows:
        return []
    ids, items, raters, *texts, all_bad, repeat, source = zip(*rows, strict=True)
    return list(map(VoteRow, ids, items, raters, *map(_decode_all, texts), all_bad, repeat, source))


def list_item_rows(store: Store, queue_ids: Sequence[str]) -> list[ItemRow]:
    """Items of queues, in order, without their prompts' turns."""
    columns = (cast(column, Text) for column in (_items.c.completions, _items.c.merged, _items.c.prompt))
    query = (
        select(_items.c.id, *columns)
        .where(_items.c.queue_id.in_(queue_ids))
        .order_by(_items.c.queue_id, _items.c.position)
    )
    with store.read() as connection:
        rows = [tuple(row) for row in connection.execute(query)]
    if not rows:
        return []
    ids, completions, merged, prompts = zip(*rows, strict=True)
    return list(map(ItemRow, ids, _decode_all(completions), _decode_all(merged), prompts))


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
            found.update(map(tuple, rows))
    return found


def _parts(ids: Iterable[str]) -> Iterator[list[str]]:
    wanted = list(dict.fromkeys(ids))
    for start in range(0, len(wanted), 5000):
        yield wanted[start : start + 5000]
