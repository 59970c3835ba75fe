"""Purge: remove a person's row from everything in the home folder, and leave a mark that it was done.

The one exception to "nothing is changed in place". The row goes from every version's files, together with rows of other
datasets that say the same; answers to it and rankings of them go from the store; what else repeats its words (logs,
drafts, conversations, samples) has them struck out. A version keeps its id, number and content hash, so that what was
made from it can still be told, and its manifest lists the purged row ids. What a model has learned cannot be taken
back: the report names the variants.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, delete, select, update

from workbench.datasets.segments import COLUMNS, iter_columns, staging_in_use, write_rows
from workbench.errors import Conflict, NotFound
from workbench.records import Dataset, Record, new_id, utc_now
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store import tables
from workbench.store.database import Store
from workbench.store.deletion import manifest_files
from workbench.store.lineage import ALL_RUNS, read_inputs

STRUCK = "[purged]"
"""What stands where the row's words stood."""
LONG = 12
"""Characters from which a text is looked for everywhere; a shorter one tells nobody and goes with its row only."""
FREE_TEXTS = (
    (tables.datasets, ("description",)),
    (tables.versions, ("message", "provenance")),
    (tables.runs, ("notes", "spec", "progress", "failure", "result")),
    (tables.variants, ("notes",)),
    (tables.samples, ("prompt", "text")),
    (tables.conversations, ("title", "system", "user_turns")),
    (tables.scores, ("detail",)),
    (tables.drafts, ("value",)),
    (tables.rank_queues, ("guidelines", "source")),
    (tables.rankings, ("skipped", "comment", "edited")),
    (tables.generator_replies, ("prompt", "text", "error")),
    (tables.candidates, ("instruction", "nearest_text", "instances")),
    (tables.candidate_reviews, ("instruction", "instances")),
)
"""Columns that hold what people and models wrote; answers and ranking items are deleted instead."""
TEXT_FILES = {".log", ".jsonl", ".json", ".csv", ".tsv", ".md", ".txt", ".yaml", ".yml", ".html", ".run", ""}


class PurgeReport(Record):
    """What a purge removed."""

    row_ids: tuple[str, ...]
    """Rows that were removed: the row, and rows of other datasets that say the same."""
    versions: tuple[str, ...]
    """Ids of the versions that lost a row."""
    completions: int
    """Answers deleted."""
    items: int
    """Ranking items deleted, with their rankings."""
    struck: int
    """Database entries in which words were struck out."""
    files: tuple[str, ...]
    """Files that were changed or removed, below the home folder."""
    shared_texts: int
    """Texts of the row that other rows of its dataset also hold; these stay."""
    learned_by: tuple[str, ...]
    """Names of the variants trained on a version that held the row: what they learned stays."""
    compacted: bool
    """Whether the database file was written anew; if not, run it again when nothing else is at work."""
    left: tuple[str, ...] = ()
    """Files that hold the words and could not be changed."""


@dataclass(frozen=True)
class _Words:
    """The row's own texts that are long enough to be told from chance, and its ids."""

    texts: tuple[str, ...]  # longest first
    row_ids: frozenset[str] = field(default_factory=frozenset)

    def inside(self, value: object) -> bool:
        """Whether any string within a JSON value holds one of the texts."""
        if isinstance(value, str):
            return any(text in value for text in self.texts)
        if isinstance(value, Mapping):
            return any(self.inside(inner) for inner in value.values())
        return isinstance(value, list | tuple) and any(self.inside(inner) for inner in value)

    def strike(self, value: Any) -> Any:
        """The value with the texts struck out."""
        if isinstance(value, str):
            for text in self.texts:
                value = value.replace(text, STRUCK)
            return value
        if isinstance(value, Mapping):
            return {key: self.strike(inner) for key, inner in value.items()}
        return [self.strike(inner) for inner in value] if isinstance(value, list | tuple) else value

    def pattern(self) -> re.Pattern[bytes]:
        """What to look for in files: texts as they are, as JSON and Python write them, and by the line; row ids."""
        forms: set[str] = set()
        for text in self.texts:
            forms |= {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
            forms |= {line for line in text.splitlines() if len(line) >= LONG}
        parts = [re.escape(form.encode("utf-8", "surrogatepass")) for form in sorted(forms, key=len, reverse=True)]
        # A row id ends in a number: `…-1` is not `…-12`.
        parts += [rb"(?<![0-9a-z])" + re.escape(row_id.encode()) + rb"(?![0-9])" for row_id in sorted(self.row_ids)]
        return re.compile(b"|".join(parts))


def purge_row(store: Store, name_or_id: str, row_id: str) -> PurgeReport:
    """Remove a row's words from every version, answer, ranking, log and draft in the home folder.

    It may be run again: a second time finishes what a crash left.

    Args:
        store: the store.
        name_or_id: the row's dataset.
        row_id: the row, of any version of the dataset.

    Raises:
        NotFound: no version has, or had, such a row.
        Conflict: rows are being written or a run is at work with them.
        DataProblem: a file of a version is damaged.
        StoreProblem: the disk or the database refuses.
    """
    dataset = dataset_store.get_dataset(store, name_or_id)
    with _nobody_writes(store):
        own, shared = _texts_of(store, dataset, row_id)
        words = _Words(tuple(sorted(own, key=lambda text: (-len(text), text))))
        rows, rewritten = _rewrite_files(store, dataset, row_id, words)
        words = _Words(words.texts, frozenset({row_id, *rows}))
        learned = _learned_by(store, rewritten)
        completions, items, struck = _clean_database(store, words, rewritten)
        files = _drop_old_files(store)
    changed, left = _clean_files(store, words)
    return PurgeReport(
        row_ids=tuple(sorted(words.row_ids)),
        versions=tuple(sorted(version for one in rewritten.values() for version in one.versions)),
        completions=completions,
        items=items,
        struck=struck,
        files=(*files, *changed),
        shared_texts=shared,
        learned_by=learned,
        compacted=_compact(store),
        left=left,
    )


@contextmanager
def _nobody_writes(store: Store) -> Iterator[None]:
    """Keep versions from being written meanwhile; a run at work with rows is told apart.

    Raises:
        Conflict: somebody does.
    """
    working = [run for run in run_store.list_runs(store, archived=True, limit=ALL_RUNS) if run.state.active]
    busy = [run.name for run in working if run.kind not in ("serve", "demo")]
    if busy:
        raise Conflict("a run is at work and may hold the row", value=busy[0], remedy="Wait for it, or stop it.")
    root = store.settings.datasets_dir / ".writing"
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if staging_in_use(store.settings):
            raise Conflict("rows are being written just now", remedy="Try again in a moment.")
        yield


def _texts_of(store: Store, dataset: Dataset, row_id: str) -> tuple[set[str], int]:
    """The long texts only this row holds, over all its states; and how many of its texts other rows hold as well."""
    files = sorted((store.settings.datasets_dir / dataset.id).glob("ver_*.parquet"))
    mine = {text for key, payload in _payloads(files) if key == row_id for text in texts_in(json.loads(payload))}
    marked = [version.manifest.get("purged") for version in dataset_store.list_versions(store, dataset.id)]
    if not mine and not any(isinstance(ids, list) and row_id in ids for ids in marked):
        raise NotFound("no version has such a row", place=dataset.name, value=row_id, remedy="Check the row's id.")
    shared: set[str] = set()
    written = {text: _as_written(text) for text in mine}
    for key, payload in _payloads(files):
        if key != row_id:
            shared |= {text for text, form in written.items() if form in payload}
    return {text for text in mine - shared if len(text) >= LONG}, len(shared)


def _payloads(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for path in files:
        for ids, payloads in iter_columns(path, ("row_id", "payload")):
            yield from zip(ids, payloads, strict=True)


def _as_written(text: str) -> str:
    """A text as it stands inside a payload's JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def texts_in(value: Any, *, key: str = "") -> set[str]:
    """What a payload says: contents, references, arguments of calls and kept columns, without roles and types."""
    if isinstance(value, str):
        return set() if key in ("role", "type", "id", "tool_call_id") or not value.strip() else {value}
    if isinstance(value, Mapping):
        return {text for name, inner in value.items() for text in texts_in(inner, key=str(name))}
    if isinstance(value, list):
        return {text for inner in value for text in texts_in(inner, key=key)}
    return set()


# ---- versions ----


@dataclass(frozen=True)
class _Rewritten:
    """One dataset's files with the row taken out."""

    names: dict[str, str]  # old file → new one, for files that held a row
    sizes: dict[str, int]  # rows of each new file
    versions: tuple[str, ...]
    row_ids: frozenset[str]
    counts: dict[str, int]  # rows of each version afterwards


def _rewrite_files(
    store: Store, dataset: Dataset, row_id: str, words: _Words
) -> tuple[set[str], dict[str, _Rewritten]]:
    """Write every file that holds the row, or one that says the same, a second time without it."""
    rows: set[str] = set()
    found: dict[str, _Rewritten] = {}
    written = [_as_written(text) for text in words.texts]
    for other in dataset_store.list_datasets(store, archived=True):
        wanted = row_id if other.id == dataset.id else None

        def goes(key: str, payload: str, wanted: str | None = wanted) -> bool:
            return key == wanted or (wanted is None and any(form in payload for form in written))

        one = _rewrite_dataset(store, other, goes)
        if one is not None:
            found[other.id] = one
            rows |= one.row_ids
    return rows, found


def _rewrite_dataset(store: Store, dataset: Dataset, goes: Callable[[str, str], bool]) -> _Rewritten | None:
    from workbench.datasets.versions import iter_encoded

    folder = store.settings.datasets_dir / dataset.id
    versions = dataset_store.list_versions(store, dataset.id)
    files = {name for version in versions for name in manifest_files(version.manifest)}
    gone = {key for key, payload in _payloads(folder / name for name in files) if goes(key, payload)}
    if not gone:
        return None
    names, sizes = {}, {}
    for name in sorted(files):
        kept, held = [], False
        for columns in iter_columns(folder / name, COLUMNS):
            for row in zip(*columns, strict=True):
                if row[0] in gone:
                    held = True
                else:
                    kept.append(row)
        if held:
            # The version's id stays at the front of the name: by it a file is known to belong to a version.
            names[name] = f"{name.partition('-')[0]}-{new_id('purged')}.parquet"
            sizes[names[name]] = len(kept)
            aside = folder / f".{names[name]}"
            write_rows(aside, kept)
            os.replace(aside, folder / names[name])
    hit, counts = [], {}
    for version in versions:
        if not names.keys() & set(manifest_files(version.manifest)):
            continue
        hit.append(version.id)
        counts[version.id] = sum(key not in gone for key, _, _ in iter_encoded(store, version))
    return _Rewritten(names, sizes, tuple(hit), frozenset(gone), counts)


def _put_manifests(store: Store, connection: Connection, rewritten: Mapping[str, _Rewritten]) -> None:
    table = tables.versions
    for one in rewritten.values():
        query = select(table.c.id, table.c.manifest).where(table.c.id.in_(one.versions))
        for version_id, manifest in connection.execute(query).all():
            segments = [
                {"file": one.names.get(part["file"], part["file"]), "rows": one.sizes[one.names[part["file"]]]}
                if part["file"] in one.names
                else part
                for part in manifest["segments"]
            ]
            patch = manifest.get("patch")
            changed = manifest | {
                "segments": segments,
                "patch": one.names.get(patch, patch),
                "removed": [key for key in manifest.get("removed", ()) if key not in one.row_ids],
                "purged": sorted({*manifest.get("purged", ()), *one.row_ids}),
                "purged_at": utc_now().isoformat(),
                "note": "Rows were purged; the content hash is that of the version before.",
            }
            connection.execute(
                update(table).where(table.c.id == version_id).values(manifest=changed, rows=one.counts[version_id])
            )


def _drop_old_files(store: Store) -> list[str]:
    """Remove the old files, and what an earlier purge that was cut short left behind."""
    removed = []
    for dataset in dataset_store.list_datasets(store, archived=True):
        folder = store.settings.datasets_dir / dataset.id
        versions = dataset_store.list_versions(store, dataset.id)
        named = {name for version in versions for name in manifest_files(version.manifest)}
        known = {version.id for version in versions}
        for path in sorted(folder.glob("*.parquet")) + sorted(folder.glob(".*.parquet")):
            if path.name not in named and path.name.lstrip(".").partition("-")[0] in known:
                path.unlink(missing_ok=True)
                removed.append(str(path.relative_to(store.settings.home)))
    return removed


def _learned_by(store: Store, rewritten: Mapping[str, _Rewritten]) -> tuple[str, ...]:
    versions = {version for one in rewritten.values() for version in one.versions}
    runs = {
        run.id
        for run in run_store.list_runs(store, archived=True, limit=ALL_RUNS)
        if run.result.get("version_id") in versions or read_inputs(store, run.id).get("version_id") in versions
    }
    return tuple(v.name for v in model_store.list_variants(store, archived=True) if v.run_id in runs)


# ---- the store ----


def _clean_database(store: Store, words: _Words, rewritten: Mapping[str, _Rewritten]) -> tuple[int, int, int]:
    """Manifests, answers, rankings and every other text, in one transaction."""
    with store.write() as connection:
        if store.is_sqlite:
            connection.exec_driver_sql("PRAGMA secure_delete=ON")
        _put_manifests(store, connection, rewritten)
        completions, items = _delete_answers(connection, words)
        struck = sum(_strike_table(connection, table, names, words) for table, names in FREE_TEXTS)
    return completions, items, struck


def _delete_answers(connection: Connection, words: _Words) -> tuple[int, int]:
    table, items = tables.completions, tables.rank_items
    gone = {
        row.id
        for row in connection.execute(select(table.c.id, table.c.row_id, table.c.prompt, table.c.text))
        if row.row_id in words.row_ids or words.inside(row.prompt) or words.inside(row.text)
    }
    lost = [
        row.id
        for row in connection.execute(select(items.c.id, items.c.row_id, items.c.prompt, items.c.completions))
        if row.row_id in words.row_ids or words.inside(row.prompt) or gone & set(row.completions)
    ]
    rankings, undos = tables.rankings, tables.ranking_undos
    for part in _parts(lost):
        votes = select(rankings.c.id).where(rankings.c.item_id.in_(part))
        connection.execute(delete(undos).where(undos.c.ranking_id.in_(votes)))
        connection.execute(delete(rankings).where(rankings.c.item_id.in_(part)))
        connection.execute(delete(tables.rank_claims).where(tables.rank_claims.c.item_id.in_(part)))
        connection.execute(delete(items).where(items.c.id.in_(part)))
    for part in _parts(sorted(gone)):
        connection.execute(delete(tables.scores).where(tables.scores.c.completion_id.in_(part)))
        connection.execute(delete(table).where(table.c.id.in_(part)))
    return len(gone), len(lost)


def _parts(ids: list[str], size: int = 500) -> Iterable[list[str]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _strike_table(connection: Connection, table: Table, names: tuple[str, ...], words: _Words) -> int:
    """Strike the words out of some columns of a table."""
    keys, struck = list(table.primary_key.columns), 0
    for row in connection.execute(select(*keys, *(table.c[name] for name in names))).all():
        values = row._mapping
        changes = {name: words.strike(values[name]) for name in names if words.inside(values[name])}
        if changes:
            connection.execute(update(table).where(*(key == values[key.name] for key in keys)).values(**changes))
            struck += 1
    return struck


def _compact(store: Store) -> bool:
    """Write the database file anew, so that no freed page keeps the words; not where somebody is reading or writing."""
    if not store.is_sqlite:
        return True
    import sqlite3

    path = store.engine.url.database or ""
    store.engine.dispose()  # idle connections of our own would keep the log from being emptied
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("VACUUM")
        return int(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]) == 0
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()


# ---- other files ----


def _clean_files(store: Store, words: _Words) -> tuple[list[str], tuple[str, ...]]:
    """Strike the words out of logs and other text files below the home folder; uploads that hold them are removed."""
    home, pattern = store.settings.home, words.pattern()
    changed, left = [], []
    for path in sorted(home.rglob("*")):
        inner = path.relative_to(home)
        if path.is_symlink() or not path.is_file() or path.name.startswith("workbench.db"):
            continue
        if inner.parts[0] == "models" or path.suffix in (".safetensors", ".pt", ".pth") or not _holds(path, pattern):
            continue
        if inner.parts[0] == "inbox":
            path.unlink(missing_ok=True)
        elif path.suffix in TEXT_FILES:
            _strike_file(path, pattern)
        else:
            left.append(str(inner))
            continue
        changed.append(str(inner))
    return changed, tuple(left)


def _holds(path: Path, pattern: re.Pattern[bytes]) -> bool:
    with path.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return pattern.search(data) is not None


def _strike_file(path: Path, pattern: re.Pattern[bytes]) -> None:
    """In files of one entry a line the whole line goes; elsewhere the words are struck out."""
    data = path.read_bytes()
    if path.suffix == ".jsonl":
        data = b"".join(line for line in data.splitlines(keepends=True) if not pattern.search(line))
    data = pattern.sub(STRUCK.encode(), data)
    aside = path.with_name(f".{path.name}.purging")
    aside.write_bytes(data)
    os.chmod(aside, path.stat().st_mode & 0o777)
    os.replace(aside, path)
