"""The files behind a version: Parquet segments, where they lie, how they appear all at once, and how DuckDB sees them.

A version is a manifest: `segments` (rows in order), `patch` (rows that replace rows of the segments, by row id) and
`removed` (row ids that are gone). Files are written in a staging folder whose lock the writer holds, fsynced, renamed
into the dataset's folder, and only then named in the store. What a killed writer left is removed by the next one.
What a version means is left to `versions`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import DataProblem, StoreProblem
from workbench.records import Version
from workbench.settings import Settings
from workbench.store.database import Store
from workbench.store.datasets import list_versions

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ROW_GROUP = 5_000
"""Rows in a Parquet row group: what reading one row has to unpack."""
SEGMENT_ROWS = 500_000
"""Rows after which a new segment file is begun."""
READ_THREADS, READ_MEMORY = 2, "512MB"
COLUMNS = ("row_id", "row_hash", "payload")


@dataclass(frozen=True)
class Segment:
    """One file of rows."""

    file: str
    rows: int


@dataclass(frozen=True)
class Manifest:
    """Which files, replacements and removals make up a version."""

    segments: tuple[Segment, ...] = ()
    patch: str | None = None
    removed: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, version: Version) -> Manifest:
        """The manifest that a version was stored with."""
        stored: Any = version.manifest
        return cls(
            tuple(Segment(item["file"], item["rows"]) for item in stored["segments"]),
            stored.get("patch"),
            frozenset(stored.get("removed", ())),
        )

    def as_dict(self) -> dict[str, Any]:
        """The manifest as JSON."""
        return {
            "layout": 1,
            "segments": [{"file": segment.file, "rows": segment.rows} for segment in self.segments],
            "patch": self.patch,
            "removed": sorted(self.removed),
        }


def dataset_folder(settings: Settings, dataset_id: str) -> Path:
    """Where a dataset's files lie."""
    return settings.datasets_dir / dataset_id


@contextmanager
def disk_told(place: str) -> Iterator[None]:
    """Tell a disk that refuses in words.

    Raises:
        StoreProblem: the disk is full or cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise StoreProblem(
                "the disk is full; nothing was stored", place=place, remedy="Free some space and try again."
            ) from error
        raise StoreProblem(
            f"a file cannot be written: {error.strerror or error}", place=place, remedy="Check the folder and the disk."
        ) from error


# ---- staging: nothing partial is ever visible ----


class Staging:
    """A folder of files on their way into a dataset; its lock tells that the writer lives."""

    def __init__(self, settings: Settings, version_id: str) -> None:
        self.version_id = version_id
        root = settings.datasets_dir / ".writing"
        self.folder = root / version_id
        with disk_told(str(root)):
            root.mkdir(parents=True, exist_ok=True)
            # One lock over cleaning and beginning: a folder made but not yet locked is never taken for a leftover.
            with (root / "lock").open("a") as guard:
                fcntl.flock(guard, fcntl.LOCK_EX)
                for folder in root.iterdir():
                    if folder.is_dir() and not _is_held(folder):
                        shutil.rmtree(folder, ignore_errors=True)
                self.folder.mkdir()
                self._lock = (self.folder / "lock").open("w")
                fcntl.flock(self._lock, fcntl.LOCK_EX)

    def path(self, name: str) -> Path:
        """Where a file of this name is written."""
        return self.folder / name

    def publish(self, target: Path, names: list[str]) -> None:
        """Make the files durable and move them into the dataset's folder."""
        with disk_told(str(target)):
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                _fsync(self.path(name))
            for name in names:
                os.replace(self.path(name), target / name)
            _fsync(target)

    def close(self) -> None:
        """Remove the folder and give up the lock."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def _is_held(folder: Path) -> bool:
    try:
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def staging_in_use(settings: Settings) -> bool:
    """Whether somebody is writing rows; hold the lock of the staging folder to keep it so."""
    root = settings.datasets_dir / ".writing"
    return root.is_dir() and any(entry.is_dir() and _is_held(entry) for entry in root.iterdir())


def remove_orphans(store: Store, dataset_id: str) -> None:
    """Remove files whose writer was killed between moving them and naming them in the store."""
    folder = dataset_folder(store.settings, dataset_id)
    # The order matters: files, then living writers, then the store; a writer leaves its staging folder last.
    files = list(folder.glob("ver_*.parquet")) if folder.is_dir() else []
    staging = store.settings.datasets_dir / ".writing"
    living = (
        {entry.name for entry in staging.iterdir() if entry.is_dir() and _is_held(entry)} if staging.is_dir() else set()
    )
    known = {version.id for version in list_versions(store, dataset_id)} if files else set()
    for file in files:
        if file.name.partition("-")[0] not in known | living:
            file.unlink(missing_ok=True)


# ---- Parquet ----


def schema() -> pa.Schema:
    """The columns of every segment."""
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in COLUMNS])


class SegmentWriter:
    """Writes one Parquet file of rows, a row group at a time."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.rows = 0
        self._columns: tuple[list[str], list[str], list[str]] = ([], [], [])
        # Row ids and hashes hardly repeat: a dictionary would only cost time and memory.
        self._writer = pq.ParquetWriter(
            path, schema(), compression="zstd", compression_level=1, use_dictionary=False, write_statistics=["row_id"]
        )

    def add(self, row_id: str, row_hash: str, payload: str) -> None:
        """Append a row."""
        for column, value in zip(self._columns, (row_id, row_hash, payload), strict=True):
            column.append(value)
        self.rows += 1
        if len(self._columns[0]) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._columns[0]:
            self._writer.write_table(pa.table(list(self._columns), schema=schema()))
            for column in self._columns:
                column.clear()

    def add_table(self, table: pa.Table) -> None:
        """Append rows that are Arrow columns already."""
        self._flush()
        self._writer.write_table(table, row_group_size=ROW_GROUP)
        self.rows += table.num_rows

    def close(self) -> None:
        """Write what is left and the footer."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Close without caring for the content."""
        for column in self._columns:
            column.clear()
        try:
            self._writer.close()
        except OSError:
            pass  # the disk is full or gone; the file is removed with its folder


def write_rows(path: Path, rows: list[tuple[str, str, str]]) -> None:
    """Write a small file of rows at once."""
    with disk_told(str(path)):
        writer = SegmentWriter(path)
        try:
            for row in rows:
                writer.add(*row)
            writer.close()
        except BaseException:
            writer.abandon()
            raise


def iter_columns(path: Path, columns: tuple[str, ...]) -> Iterator[list[list[str]]]:
    """Batches of these columns of a segment, as lists.

    Raises:
        DataProblem: the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROW_GROUP, columns=list(columns)):
                yield [batch.column(name).to_pylist() for name in columns]
    except (pa.ArrowException, OSError) as error:
        raise lost_file(path) from error


def lost_file(path: Path) -> DataProblem:
    """A file of a version that is missing or damaged."""
    return DataProblem(
        "a file of this dataset version is missing or damaged", place=str(path), remedy="Restore it from a copy."
    )


def read_patch(folder: Path, manifest: Manifest) -> dict[str, tuple[str, str]]:
    """Row id → (row hash, payload text) of the replaced rows."""
    if manifest.patch is None:
        return {}
    found: dict[str, tuple[str, str]] = {}
    for ids, hashes, payloads in iter_columns(folder / manifest.patch, COLUMNS):
        found |= {key: (row_hash, text) for key, row_hash, text in zip(ids, hashes, payloads, strict=True)}
    return found


# ---- DuckDB ----


@contextmanager
def duck(folder: Path, manifest: Manifest) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection under limits in which a view is the version: `version_rows(pos, row_id, row_hash, payload)`.

    `pos` counts rows of the segments, removed ones included; order by it.

    Raises:
        DataProblem: a file is missing or damaged.
    """
    import duckdb
    import pyarrow as pa

    connection = duckdb.connect(":memory:", config={"threads": READ_THREADS, "memory_limit": READ_MEMORY})
    try:
        patch = read_patch(folder, manifest)
        hashes, texts = [value[0] for value in patch.values()], [value[1] for value in patch.values()]
        connection.register("patch_rows", pa.table([list(patch), hashes, texts], schema=schema()))
        removed = pa.table({"row_id": pa.array(sorted(manifest.removed), pa.string())})
        connection.register("removed_rows", removed)
        connection.execute(f"CREATE VIEW version_rows AS {_view(folder, manifest, bool(patch))}")
        yield connection
    except (duckdb.IOException, duckdb.InvalidInputException) as error:
        raise lost_file(folder) from error
    finally:
        connection.close()


def _view(folder: Path, manifest: Manifest, patched: bool) -> str:
    start, parts = 0, []
    for segment in manifest.segments:
        source = f"read_parquet('{_literal(folder / segment.file)}', file_row_number=true)"
        parts.append(f"SELECT file_row_number + {start} AS pos, row_id, row_hash, payload FROM {source}")
        start += segment.rows
    base = " UNION ALL ".join(parts) or "SELECT 0 AS pos, '' AS row_id, '' AS row_hash, '' AS payload WHERE false"
    if patched:
        base = (
            "SELECT b.pos, b.row_id, coalesce(p.row_hash, b.row_hash) AS row_hash, "
            "coalesce(p.payload, b.payload) AS payload "
            f"FROM ({base}) b LEFT JOIN patch_rows p ON p.row_id = b.row_id"
        )
    if manifest.removed:
        base = f"SELECT * FROM ({base}) k WHERE k.row_id NOT IN (SELECT row_id FROM removed_rows)"
    return base


def _literal(path: Path) -> str:
    """A path inside SQL quotes, with the characters that DuckDB would take for a pattern made literal."""
    text = "".join(f"[{character}]" if character in "*?[" else character for character in str(path))
    return text.replace("'", "''")
