"""Figures about a version: rows, turns, lengths, empty texts, repeated prompts, kept columns.

All are counted by DuckDB over the stored JSON, so that a large dataset is never held in memory. Lengths in tokens need
a tokenizer and are left to `render`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.datasets.segments import Manifest, dataset_folder, duck
from workbench.records import DatasetKind, Record, Version
from workbench.store.database import Store
from workbench.store.datasets import get_dataset

META_COLUMNS = 50
"""Kept columns that are listed."""


class Spread(Record):
    """How a length is distributed over rows."""

    p50: int
    """Half of the rows are at most this long."""
    p95: int
    """19 of 20 rows are at most this long."""
    maximum: int
    """The longest."""


class Statistics(Record):
    """Figures about a version."""

    rows: int
    """Number of rows."""
    turns: int
    """Turns in all rows; of a preference: prompt and both answers; of an answer with a label: both."""
    characters: Spread
    """Characters of all turns of a row."""
    words: Spread
    """Words of all turns of a row, split at spaces."""
    answer_characters: Spread
    """Characters of the assistant turns of a row; of a preference: of the better answer."""
    good: int | None = None
    """Rows whose answer is told good, where rows are answers with a label; None for other kinds."""
    empty: int
    """Turns without text that call no tool."""
    multi_turn: int
    """Rows with more than one user turn."""
    with_system: int
    """Rows that begin with a system turn."""
    repeated_prompts: int
    """Rows whose first question another row before it has asked already, letter case and spaces aside."""
    repeated_rows: int
    """Rows that repeat a whole row before them."""
    meta_columns: dict[str, int]
    """Kept column → rows that have it, the most frequent first."""


_TURN = '{"role":"VARCHAR","content":"VARCHAR","tool_calls":"JSON"}'
_SHAPE: dict[DatasetKind, str] = {
    "instructions": f'{{"messages":[{_TURN}]}}',
    "prompts": f'{{"messages":[{_TURN}]}}',
    "preferences": f'{{"prompt":[{_TURN}],"chosen":[{_TURN}],"rejected":[{_TURN}]}}',
    "labels": f'{{"prompt":[{_TURN}],"completion":[{_TURN}]}}',
}
_TURNS: dict[DatasetKind, str] = {
    "instructions": "row.messages",
    "prompts": "row.messages",
    "preferences": "list_concat(row.prompt, row.chosen, row.rejected)",
    "labels": "list_concat(row.prompt, row.completion)",
}
_ANSWERS: dict[DatasetKind, str] = {
    "instructions": "list_filter(row.messages, lambda t: t.role = 'assistant')",
    "prompts": "list_filter(row.messages, lambda t: t.role = 'assistant')",
    "preferences": "row.chosen",
    "labels": "row.completion",
}
_GOOD = "SELECT count(*) FILTER (json_extract(payload, '$.label') = 'true') FROM version_rows"
_EVEN = "translate({}, e'\\n\\t\\r', '   ')"
"""Other spaces as plain ones, which is much faster than a pattern."""


def _words(text: str) -> str:
    return f"list_filter(string_split({_EVEN.format(text)}, ' '), lambda word: word <> '')"


def describe(store: Store, version: Version) -> Statistics:
    """Figures about a version.

    Raises:
        DataProblem: a file of the version is missing or damaged.
    """
    kind = get_dataset(store, version.dataset_id).kind
    return _describe(dataset_folder(store.settings, version.dataset_id), version.id, Manifest.of(version), kind)


@lru_cache(maxsize=32)
def _describe(folder: Path, version_id: str, manifest: Manifest, kind: DatasetKind) -> Statistics:
    per_row = f"""
        WITH read AS (SELECT row_hash, from_json(payload, '{_SHAPE[kind]}') AS row FROM version_rows),
        taken AS (
            SELECT row_hash, {_TURNS[kind]} AS turns, {_ANSWERS[kind]} AS answers,
                list_filter({_TURNS[kind]}, lambda t: t.role = 'user') AS asked
            FROM read
        )
        SELECT row_hash, len(turns) AS turns, len(asked) AS asked,
            coalesce(list_sum(list_transform(turns, lambda t: length(t.content))), 0) AS characters,
            coalesce(list_sum(list_transform(turns, lambda t: len({_words("t.content")}))), 0) AS words,
            coalesce(list_sum(list_transform(answers, lambda t: length(t.content))), 0) AS answer_characters,
            len(list_filter(turns, lambda t: trim({_EVEN.format("t.content")}) = '' AND t.tool_calls IS NULL)) AS empty,
            turns[1].role = 'system' AS with_system,
            md5(lower(array_to_string({_words("asked[1].content")}, ' '))) AS question
        FROM taken
    """
    spread = ", ".join(
        f"quantile_disc({name}, 0.5), quantile_disc({name}, 0.95), max({name})"
        for name in ("characters", "words", "answer_characters")
    )
    query = f"""
        SELECT count(*), sum(turns), sum(empty), count(*) FILTER (asked > 1), count(*) FILTER (with_system),
            count(*) - count(DISTINCT coalesce(question, '')), count(*) - count(DISTINCT row_hash), {spread}
        FROM ({per_row})
    """
    meta = f"""
        SELECT key, count(*) AS n FROM (
            SELECT unnest(json_keys(json_extract(payload, '$.meta'))) AS key FROM version_rows
            WHERE json_extract(payload, '$.meta') IS NOT NULL
        ) GROUP BY key ORDER BY n DESC, key LIMIT {META_COLUMNS}
    """
    with duck(folder, manifest) as connection:
        found: Any = connection.execute(query).fetchone()
        columns = {key: count for key, count in connection.execute(meta).fetchall()}
        good = connection.execute(_GOOD).fetchone() if kind == "labels" else None
    rows, turns, empty, multi_turn, with_system, repeated_prompts, repeated_rows, *spreads = (
        int(x or 0) for x in found
    )
    return Statistics(
        rows=rows,
        turns=turns,
        characters=_spread(spreads[0:3]),
        words=_spread(spreads[3:6]),
        answer_characters=_spread(spreads[6:9]),
        good=int(good[0]) if good else None,
        empty=empty,
        multi_turn=multi_turn,
        with_system=with_system,
        repeated_prompts=repeated_prompts,
        repeated_rows=repeated_rows,
        meta_columns=columns,
    )


def _spread(values: list[int]) -> Spread:
    return Spread(p50=values[0], p95=values[1], maximum=values[2])
