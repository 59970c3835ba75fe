"""Export of a version to a file that other tools read and that imports again to identical rows.

JSON Lines and Parquet hold `messages`, or `prompt`, `chosen`, `rejected`, or `prompt`, `completion`, `label`, with
conversations as lists of role and content: the forms that TRL takes. CSV holds `prompt` and `completion` as text where
every row is one question with one answer, and JSON in its cells otherwise. Kept columns go into one `meta` column.
Cells are written as they are: a cell that begins with `=`, `+`, `-` or `@` is text here, but a spreadsheet may take it
for a formula; open untrusted CSV with import as text.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workbench.datasets.segments import disk_told
from workbench.datasets.versions import iter_encoded
from workbench.errors import UsageError
from workbench.records import DatasetKind, Version, canonical_json, new_id
from workbench.store.database import Store
from workbench.store.datasets import get_dataset

BATCH = 1_000

_COLUMNS: dict[DatasetKind, tuple[str, ...]] = {
    "instructions": ("messages", "tools", "meta"),
    "preferences": ("prompt", "chosen", "rejected", "weight", "meta"),
    "labels": ("prompt", "completion", "label", "weight", "meta"),
    "prompts": ("messages", "reference", "meta"),
}
_TURN_COLUMNS = ("messages", "prompt", "chosen", "rejected", "completion")


def export_version(store: Store, version: Version, path: str | Path, format: str | None = None) -> Path:
    """Write a version to a file; the file appears whole or not at all.

    Args:
        store: the store.
        version: the version.
        path: the file; replaced where it exists.
        format: jsonl, csv or parquet; None follows the path's ending.

    Returns:
        The path.

    Raises:
        UsageError: the format is not known or the folder does not exist.
        StoreProblem: the disk is full or cannot be written.
        DataProblem: a file of the version is missing or damaged.
    """
    path = Path(path)
    ending = format or path.suffix.lower().removeprefix(".")
    writers: dict[str, Callable[[Store, Version, Path], None]] = {
        "jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet,
    }  # fmt: skip
    if ending not in writers:
        raise UsageError("no such export format", place="format", value=ending, remedy="Choose jsonl, csv or parquet.")
    if not path.parent.is_dir():
        raise UsageError("the folder does not exist", place="path", value=str(path.parent), remedy="Create it first.")
    aside = path.with_name(f".{new_id('export')}")
    try:
        with disk_told(str(path)):
            writers[ending](store, version, aside)
            descriptor = os.open(aside, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _iter_plain(store: Store, version: Version) -> Iterator[dict[str, Any]]:
    for _, _, text in iter_encoded(store, version):
        yield json.loads(text)


def _write_jsonl(store: Store, version: Version, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for plain in _iter_plain(store, version):
            file.write(json.dumps(plain, ensure_ascii=False) + "\n")


def _is_simple(plain: dict[str, Any]) -> bool:
    """Whether a row is one question with one answer and nothing else that two cells could not hold."""
    turns = _turns(plain)
    return (
        [turn["role"] for turn in turns] == ["user", "assistant"]
        and all(len(turn) == 2 and turn["content"].strip() for turn in turns)
        and not any(turn["content"].startswith("[") for turn in turns)
        and "tools" not in plain
    )


def _turns(plain: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation of a row to imitate, or of an answer with a label."""
    turns: list[dict[str, Any]] = plain["messages"] if "messages" in plain else plain["prompt"] + plain["completion"]
    return turns


def _write_csv(store: Store, version: Version, path: Path) -> None:
    kind = get_dataset(store, version.dataset_id).kind
    rows = _iter_plain(store, version)
    simple = kind in ("instructions", "labels") and all(map(_is_simple, rows))
    columns = ("prompt", "completion", "meta") if simple and kind == "instructions" else _COLUMNS[kind]
    # The byte order mark tells spreadsheets, and our own reader, that this is UTF-8.
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for plain in _iter_plain(store, version):
            if simple:
                plain["prompt"], plain["completion"] = (turn["content"] for turn in _turns(plain))
            writer.writerow([_csv_cell(plain.get(column)) for column in columns])


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else canonical_json(value)


def _write_parquet(store: Store, version: Version, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = get_dataset(store, version.dataset_id).kind
    text = pa.string()
    # Free-form parts are JSON text: their shape differs from row to row, which columns of structs cannot hold.
    turn = pa.struct([("role", text), ("content", text), ("name", text), ("tool_calls", text), ("tool_call_id", text)])
    short = pa.struct([("role", text), ("content", text)])
    bare = not any(
        len(message) > 2
        for plain in _iter_plain(store, version)
        for column in _TURN_COLUMNS
        for message in plain.get(column, ())
    )
    turns = pa.list_(short if bare else turn)
    types = {column: turns if column in _TURN_COLUMNS else text for column in _COLUMNS[kind]}
    if "weight" in types:
        types["weight"] = pa.float64()
    if "label" in types:
        types["label"] = pa.bool_()
    schema = pa.schema(list(types.items()))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for plain in _iter_plain(store, version):
            batch.append({column: _parquet_cell(column, plain.get(column)) for column in types})
            if len(batch) >= BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch = []
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _parquet_cell(column: str, value: Any) -> Any:
    if value is None or isinstance(value, str | float | bool):
        return value
    if column in _TURN_COLUMNS:
        return [
            {key: canonical_json(item) if key == "tool_calls" else item for key, item in turn.items()} for turn in value
        ]
    return float(value) if column == "weight" else canonical_json(value)
