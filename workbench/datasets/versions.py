"""Immutable versions of a dataset: write, edit, read a page, compare, split.

A row keeps its `row_id` through edits; `row_hash` is the digest of its payload; a version's `content_hash` is the
SHA-256 over the ordered row hashes, so that it does not depend on how the files are laid out. A small edit writes a
small file. The files themselves are left to `segments`, the JSON of a payload to `payloads`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from workbench.datasets.payloads import decode_payload, encode_payload, encode_plain, kind_of, prompt_text
from workbench.datasets.segments import (
    COLUMNS,
    SEGMENT_ROWS,
    Manifest,
    Segment,
    SegmentWriter,
    Staging,
    dataset_folder,
    disk_told,
    duck,
    iter_columns,
    lost_file,
    read_patch,
    remove_orphans,
    write_rows,
)
from workbench.errors import DataProblem, NotFound, UsageError
from workbench.records import DatasetKind, Payload, Row, Version, new_id
from workbench.store.database import Store
from workbench.store.datasets import add_version, get_dataset

if TYPE_CHECKING:
    import pyarrow as pa

SMALL_SEGMENT = 2_000
"""A last segment of up to this many rows is written anew with the rows appended, so that files stay few."""
MAX_DELTA = 20_000
"""Replaced or removed rows above which the segments are written anew."""


@dataclass(frozen=True)
class RowPage:
    """A page of rows and how many there are in all."""

    rows: tuple[Row, ...]
    total: int


@dataclass(frozen=True)
class VersionDiff:
    """Row ids that differ between two versions, in the order of the version they are in."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


# ---- writing ----


class VersionWriter:
    """Writes a version row by row; nothing is visible until `commit`.

    Use it in a `with` block: leaving without a commit removes everything.

    Args:
        store: the store.
        parent: the version that the new one follows. Rows with a payload that the parent has keep their row id.
        match: whether to look for such rows; not needed by a writer that gives row ids itself.
    """

    def __init__(self, store: Store, *, parent: Version | None = None, match: bool = True) -> None:
        self.version_id = new_id("ver")
        self.rows = 0
        self._store, self._parent = store, parent
        self._known = _ids_by_hash(store, parent) if parent and match else {}
        self._hash = hashlib.sha256()
        self._segments: list[tuple[str, SegmentWriter]] = []
        self._staging = Staging(store.settings, self.version_id)
        self._prefix = self.version_id.removeprefix("ver_")

    def __enter__(self) -> VersionWriter:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.discard()

    def add(self, plain: dict[str, Any]) -> None:
        """Append a plain payload.

        Raises:
            DataProblem: it is not JSON.
            StoreProblem: the disk refuses.
        """
        text, row_hash = encode_plain(plain)
        self.add_encoded(text, row_hash)

    def add_encoded(self, text: str, row_hash: str, row_id: str | None = None) -> None:
        """Append canonical JSON with its hash, as `payloads.encode_plain` gives them."""
        if row_id is None:
            known = self._known.get(row_hash)
            row_id = known.pop() if known else f"{self._prefix}-{self.rows}"
        try:
            self._segment().add(row_id, row_hash, text)
        except OSError:
            with disk_told(str(self._staging.folder)):  # entered only now: once per row would cost a tenth of the time
                raise
        self._hash.update(row_hash.encode() + b"\n")
        self.rows += 1

    def add_columns(self, row_hashes: pa.Array, payloads: pa.Array) -> None:
        """Append many rows that are Arrow columns already: hashes and canonical JSON texts of equal length."""
        import pyarrow as pa

        hashes = row_hashes.to_pylist()
        ids = []
        for index, row_hash in enumerate(hashes, start=self.rows):
            known = self._known.get(row_hash) if self._known else None
            ids.append(known.pop() if known else f"{self._prefix}-{index}")
        with disk_told(str(self._staging.folder)):
            self._segment().add_table(pa.table([pa.array(ids, pa.string()), row_hashes, payloads], names=list(COLUMNS)))
        self._hash.update("".join(f"{row_hash}\n" for row_hash in hashes).encode())
        self.rows += len(hashes)

    def _segment(self) -> SegmentWriter:
        if not self._segments or self._segments[-1][1].rows >= SEGMENT_ROWS:
            if self._segments:
                self._segments[-1][1].close()
            name = f"{self.version_id}-{len(self._segments):04d}.parquet"
            self._segments.append((name, SegmentWriter(self._staging.path(name))))
        return self._segments[-1][1]

    def commit(self, dataset_id: str, *, message: str = "", provenance: Mapping[str, Any] | None = None) -> Version:
        """Make the version visible: files first, then the store's row.

        Raises:
            DataProblem: no rows were added.
            Conflict: somebody else added a version meanwhile.
            StoreProblem: the disk or the database refuses.
        """
        if not self.rows:
            raise DataProblem("there are no rows to store", remedy="Add at least one row.")
        with disk_told(str(self._staging.folder)):
            self._segments[-1][1].close()
        manifest = Manifest(tuple(Segment(name, writer.rows) for name, writer in self._segments))
        return _publish(
            self._store, self._staging, dataset_id, manifest, [segment.file for segment in manifest.segments],
            content_hash=self._hash.hexdigest(), rows=self.rows, parent=self._parent,
            message=message, provenance=provenance,
        )  # fmt: skip

    def discard(self) -> None:
        """Remove everything that is not committed; nothing happens after a commit."""
        if self._segments:
            self._segments[-1][1].abandon()
        self._staging.close()


def _publish(
    store: Store,
    staging: Staging,
    dataset_id: str,
    manifest: Manifest,
    files: list[str],
    *,
    content_hash: str,
    rows: int,
    parent: Version | None,
    message: str,
    provenance: Mapping[str, Any] | None,
) -> Version:
    folder = dataset_folder(store.settings, dataset_id)
    remove_orphans(store, dataset_id)
    try:
        staging.publish(folder, files)
        return add_version(
            store,
            dataset_id,
            content_hash=content_hash,
            rows=rows,
            manifest=manifest.as_dict(),
            parent_id=parent.id if parent else None,
            message=message,
            provenance=dict(provenance or {}),
            version_id=staging.version_id,
        )
    except BaseException:
        for name in files:
            (folder / name).unlink(missing_ok=True)
        raise


def _ids_by_hash(store: Store, version: Version) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row_id, row_hash in _iter_hashes(_folder(store, version), Manifest.of(version)):
        found.setdefault(row_hash, []).append(row_id)
    for ids in found.values():
        ids.reverse()
    return found


def write_version(
    store: Store,
    dataset_id: str,
    rows: Iterable[Payload],
    *,
    parent: Version | None = None,
    message: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> Version:
    """Write a version from payloads, streaming.

    Args:
        store: the store.
        dataset_id: the dataset, which exists.
        rows: its payloads, in order.
        parent: the newest version, None for the first. Equal rows keep its row ids.
        message: what changed.
        provenance: where it came from.

    Raises:
        DataProblem: there are no rows, or a row is of another kind than the dataset.
        Conflict: somebody else added a version meanwhile.
        StoreProblem: the disk or the database refuses; nothing is stored.
    """
    kind = get_dataset(store, dataset_id).kind
    with VersionWriter(store, parent=parent) as writer:
        for payload in rows:
            _check_kind(payload, kind)
            writer.add_encoded(*encode_payload(payload))
        return writer.commit(dataset_id, message=message, provenance=provenance)


def _check_kind(payload: Payload, kind: DatasetKind) -> None:
    if kind_of(payload) != kind:
        raise DataProblem(
            f"this dataset holds {kind}, the row is one of {kind_of(payload)}",
            remedy="Put it into a dataset of its kind.",
        )


def edit_version(
    store: Store,
    version: Version,
    *,
    replaced: Mapping[str, Payload] | None = None,
    removed: Collection[str] = (),
    appended: Sequence[Payload] = (),
    message: str = "",
) -> Version:
    """A new version with some rows replaced, removed or appended; order is kept and the big files are not touched.

    Args:
        store: the store.
        version: the newest version.
        replaced: row id → new payload.
        removed: row ids; goes before `replaced`.
        appended: payloads that come last.
        message: what changed.

    Returns:
        The new version; the old one where nothing would change.

    Raises:
        NotFound: a row id is not in the version.
        DataProblem: nothing would be left, or a row is of another kind than the dataset.
        Conflict: somebody else added a version meanwhile.
        StoreProblem: the disk or the database refuses; nothing is stored.
    """
    kind = get_dataset(store, version.dataset_id).kind
    for payload in (*(replaced or {}).values(), *appended):
        _check_kind(payload, kind)
    gone = frozenset(removed)
    changed = {key: encode_payload(payload) for key, payload in (replaced or {}).items() if key not in gone}
    folder, manifest = _folder(store, version), Manifest.of(version)
    _check_present(folder, manifest, gone | set(changed))
    patch = read_patch(folder, manifest) | {key: (row_hash, text) for key, (text, row_hash) in changed.items()}
    patch = {key: value for key, value in patch.items() if key not in gone}
    edited = Manifest(manifest.segments, None, manifest.removed | gone)
    new_rows = [encode_payload(payload) for payload in appended]
    if len(patch) > MAX_DELTA or len(edited.removed) > MAX_DELTA:
        return _rewrite(store, version, patch, edited.removed, new_rows, message)
    staging = Staging(store.settings, new_id("ver"))
    try:
        return _publish_edit(store, staging, version, edited, patch, new_rows, message)
    finally:
        staging.close()


def _check_present(folder: Path, manifest: Manifest, ids: Collection[str]) -> None:
    missing = set(ids)
    for row_id, _ in _iter_hashes(folder, manifest) if missing else ():
        missing.discard(row_id)
    if missing:
        raise NotFound("no such row in this version", value=sorted(missing)[0], remedy="Look at its newest version.")


def _publish_edit(
    store: Store,
    staging: Staging,
    version: Version,
    edited: Manifest,
    patch: dict[str, tuple[str, str]],
    new_rows: list[tuple[str, str]],
    message: str,
) -> Version:
    folder, files, segments = _folder(store, version), [], list(edited.segments)
    prefix = staging.version_id.removeprefix("ver_")
    patch_name = None
    if patch:
        patch_name = f"{staging.version_id}-patch.parquet"
        write_rows(staging.path(patch_name), [(key, row_hash, text) for key, (row_hash, text) in patch.items()])
        files.append(patch_name)
    if new_rows:
        rows = [(f"{prefix}-{index}", row_hash, text) for index, (text, row_hash) in enumerate(new_rows)]
        if segments and segments[-1].rows <= SMALL_SEGMENT:
            last = segments.pop()
            for columns in iter_columns(folder / last.file, COLUMNS):
                rows[:0] = list(zip(*columns, strict=True))  # a small segment is one batch
        name = f"{staging.version_id}-0000.parquet"
        write_rows(staging.path(name), rows)
        files.append(name)
        segments.append(Segment(name, len(rows)))
    manifest = Manifest(tuple(segments), patch_name, edited.removed)
    content_hash, count = hashlib.sha256(), 0
    hashes = {key: row_hash for key, (row_hash, _) in patch.items()}
    for _, row_hash in _iter_hashes(folder, manifest, staged=staging.folder, patched=hashes):
        content_hash.update(row_hash.encode() + b"\n")
        count += 1
    if not count:
        raise DataProblem("no row would be left", remedy="Archive the dataset instead.")
    if content_hash.hexdigest() == version.content_hash:
        return version
    return _publish(
        store, staging, version.dataset_id, manifest, files,
        content_hash=content_hash.hexdigest(), rows=count, parent=version, message=message,
        provenance={"edited": version.id},
    )  # fmt: skip


def _rewrite(
    store: Store,
    version: Version,
    patch: Mapping[str, tuple[str, str]],
    removed: frozenset[str],
    new_rows: list[tuple[str, str]],
    message: str,
) -> Version:
    folder, manifest = _folder(store, version), Manifest.of(version)
    with VersionWriter(store, parent=version, match=False) as writer:
        for segment in manifest.segments:
            for columns in iter_columns(folder / segment.file, COLUMNS):
                for row_id, row_hash, text in zip(*columns, strict=True):
                    if row_id not in removed:
                        row_hash, text = patch.get(row_id, (row_hash, text))
                        writer.add_encoded(text, row_hash, row_id)
        for text, row_hash in new_rows:
            writer.add_encoded(text, row_hash)
        return writer.commit(version.dataset_id, message=message, provenance={"edited": version.id})


# ---- reading ----


def _folder(store: Store, version: Version) -> Path:
    return dataset_folder(store.settings, version.dataset_id)


def _iter_hashes(
    folder: Path, manifest: Manifest, *, staged: Path | None = None, patched: Mapping[str, str] | None = None
) -> Iterator[tuple[str, str]]:
    """Row ids and row hashes in order. Files that are not in the folder yet are looked for in `staged`."""
    if patched is None:
        patched = {key: row_hash for key, (row_hash, _) in read_patch(folder, manifest).items()}
    for segment in manifest.segments:
        path = folder / segment.file
        if staged is not None and not path.exists():
            path = staged / segment.file
        for ids, hashes in iter_columns(path, ("row_id", "row_hash")):
            if not patched and not manifest.removed:
                yield from zip(ids, hashes, strict=True)
                continue
            for row_id, row_hash in zip(ids, hashes, strict=True):
                if row_id not in manifest.removed:
                    yield row_id, patched.get(row_id, row_hash)


def iter_encoded(store: Store, version: Version) -> Iterator[tuple[str, str, str]]:
    """Row id, row hash and canonical JSON of every row, in order, in bounded memory.

    Raises:
        DataProblem: a file is missing or damaged.
    """
    folder, manifest = _folder(store, version), Manifest.of(version)
    patch = read_patch(folder, manifest)
    for segment in manifest.segments:
        for columns in iter_columns(folder / segment.file, COLUMNS):
            for row_id, row_hash, text in zip(*columns, strict=True):
                if row_id in manifest.removed:
                    continue
                row_hash, text = patch.get(row_id, (row_hash, text))
                yield row_id, row_hash, text


def iter_rows(store: Store, version: Version) -> Iterator[Row]:
    """Every row of a version, in order, in bounded memory.

    Raises:
        DataProblem: a file is missing or damaged.
    """
    kind = get_dataset(store, version.dataset_id).kind
    for row_id, row_hash, text in iter_encoded(store, version):
        yield Row.model_construct(row_id=row_id, row_hash=row_hash, payload=decode_payload(kind, text))


def count_rows(store: Store, version: Version, *, search: str = "") -> int:
    """Number of rows, or of rows that hold the searched text."""
    return len(_found(store, version, search)) if search.strip() else version.rows


def read_page(store: Store, version: Version, *, offset: int = 0, limit: int = 20, search: str = "") -> RowPage:
    """A page of rows.

    Args:
        store: the store.
        version: the version.
        offset: rows to skip, at least 0.
        limit: rows to give, 1 to 1000.
        search: only rows whose texts (turns, reference, kept columns) hold this, letter case aside; taken literally.

    Raises:
        UsageError: offset or limit is out of bounds.
        DataProblem: a file is missing or damaged.
    """
    if offset < 0 or not 1 <= limit <= 1000:
        raise UsageError("a page has an offset of 0 or more and 1 to 1000 rows", value=(offset, limit))
    if search.strip():
        found = _found(store, version, search)
        positions, total = [int(position) for position in found[offset : offset + limit]], len(found)
    else:
        total = version.rows
        positions = _kept_positions(store, version, offset, max(0, min(limit, total - offset)))
    return RowPage(tuple(_rows_at(store, version, positions)), total)


def read_row(store: Store, version: Version, row_id: str) -> Row:
    """The row of this id.

    Raises:
        NotFound: the version has none.
        DataProblem: a file is missing or damaged.
    """
    with duck(_folder(store, version), Manifest.of(version)) as connection:
        found = connection.execute("SELECT pos FROM version_rows WHERE row_id = ?", [row_id]).fetchone()
    if found is None:
        raise NotFound("no such row in this version", value=row_id, remedy="It may have been removed.")
    return _rows_at(store, version, [found[0]])[0]


def _kept_positions(store: Store, version: Version, offset: int, count: int) -> list[int]:
    gone = _removed_positions(_folder(store, version), version.id, Manifest.of(version))
    positions: list[int] = []
    position, index = offset, 0
    while len(positions) < count:
        while index < len(gone) and gone[index] <= position:
            index += 1
            position += 1
        positions.append(position)
        position += 1
    return positions


@lru_cache(maxsize=64)
def _removed_positions(folder: Path, version_id: str, manifest: Manifest) -> tuple[int, ...]:
    if not manifest.removed:
        return ()
    with duck(folder, Manifest(manifest.segments)) as connection:
        ids = sorted(manifest.removed)
        query = "SELECT pos FROM version_rows WHERE row_id IN (SELECT unnest(?)) ORDER BY pos"
        return tuple(row[0] for row in connection.execute(query, [ids]).fetchall())


TEXT_PATHS = (
    "$.messages[*].content",
    "$.prompt[*].content",
    "$.chosen[*].content",
    "$.rejected[*].content",
    "$.completion[*].content",
    "$.reference",
    "$.meta.*",
)
"""What a search looks at; names of fields and roles are not among it."""


@lru_cache(maxsize=8)
def _search(folder: Path, version_id: str, manifest: Manifest, search: str) -> Any:
    texts = ", ".join(f"json_extract_string(payload, '{path}')" for path in TEXT_PATHS if "*" in path)
    plain = "json_extract_string(payload, '$.reference')"
    # The cheap test on the whole JSON text rules most rows out; only what passes is taken apart.
    query = (
        "SELECT pos FROM version_rows WHERE CASE WHEN contains(lower(payload), lower($escaped)) THEN "
        f"contains(lower(array_to_string(flatten([{texts}]), chr(31)) || chr(31) || coalesce({plain}, '')), "
        "lower($term)) ELSE false END ORDER BY pos"
    )
    with duck(folder, manifest) as connection:
        parameters = {"term": search, "escaped": json.dumps(search, ensure_ascii=False)[1:-1]}
        return connection.execute(query, parameters).fetchnumpy()["pos"]


def _found(store: Store, version: Version, search: str) -> Any:
    """Positions of the rows that hold the text; versions never change, so that turning pages does not search again."""
    search = search.strip().encode("utf-8", "replace").decode()
    return _search(_folder(store, version), version.id, Manifest.of(version), search)


def _rows_at(store: Store, version: Version, positions: Sequence[int]) -> list[Row]:
    """Rows at these positions (ascending), reading only the row groups they lie in."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, manifest = _folder(store, version), Manifest.of(version)
    kind, patch = get_dataset(store, version.dataset_id).kind, read_patch(folder, manifest)
    rows: list[Row] = []
    start, wanted = 0, list(positions)
    for segment in manifest.segments:
        here = [position - start for position in wanted if start <= position < start + segment.rows]
        start += segment.rows
        if not here:
            continue
        try:
            with pq.ParquetFile(folder / segment.file) as file:
                for row_id, row_hash, text in _take(file, here):
                    row_hash, text = patch.get(row_id, (row_hash, text))
                    rows.append(Row(row_id=row_id, row_hash=row_hash, payload=decode_payload(kind, text)))
        except (pa.ArrowException, OSError) as error:
            raise lost_file(folder / segment.file) from error
    return rows


def _take(file: Any, numbers: Sequence[int]) -> Iterator[tuple[str, str, str]]:
    start = 0
    for group in range(file.metadata.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        here = [number - start for number in numbers if start <= number < start + size]
        start += size
        if here:
            yield from zip(
                *(
                    column.to_pylist()
                    for column in file.read_row_group(group, columns=list(COLUMNS)).take(here).columns
                ),
                strict=True,
            )


# ---- comparing and splitting ----


def diff_versions(store: Store, old: Version, new: Version) -> VersionDiff:
    """Which rows were added, removed or changed from one version to another of the same dataset.

    Raises:
        UsageError: they belong to different datasets.
        DataProblem: a file is missing or damaged.
    """
    if old.dataset_id != new.dataset_id:
        raise UsageError("versions of different datasets cannot be compared", value=(old.id, new.id))
    folder = _folder(store, old)
    before = dict(_iter_hashes(folder, Manifest.of(old)))
    added, changed = [], []
    for row_id, row_hash in _iter_hashes(folder, Manifest.of(new)):
        known = before.pop(row_id, None)
        if known is None:
            added.append(row_id)
        elif known != row_hash:
            changed.append(row_id)
    return VersionDiff(tuple(added), tuple(before), tuple(changed))


def split_held_out(rows: Iterable[Row], fraction: float, seed: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split rows into training and held-out ids so that equal prompts stay on one side.

    Prompts are ordered by a seeded hash of their text and held out until the fraction is reached; the same rows,
    fraction and seed give the same split, whatever their order, and few rows change sides when rows are added.

    Args:
        rows: the rows.
        fraction: share of rows to hold out, 0 to 1. Above 0, at least one prompt is held out and one stays.
        seed: another seed gives another split.

    Returns:
        Row ids to train on and row ids held out, each in the order of the rows.

    Raises:
        UsageError: the fraction is out of bounds.
        DataProblem: there is only one prompt, so that it cannot be split.
    """
    if not 0 <= fraction < 1:
        raise UsageError("the held-out share must be at least 0 and below 1", place="fraction", value=fraction)
    keys: dict[str, bytes] = {}
    sizes: dict[bytes, int] = {}
    for row in rows:
        key = hashlib.sha256(f"{seed}\n{prompt_text(row.payload)}".encode()).digest()
        keys[row.row_id] = key
        sizes[key] = sizes.get(key, 0) + 1
    if fraction == 0:
        return tuple(keys), ()
    if len(sizes) < 2:
        raise DataProblem(
            "all rows have the same prompt, so that none can be held out", remedy="Add rows, or hold nothing out."
        )
    wanted, held, count = fraction * len(keys), set[bytes](), 0
    for key in sorted(sizes):
        if held and (count + sizes[key] / 2 > wanted or len(held) == len(sizes) - 1):
            break
        held.add(key)
        count += sizes[key]
    return (
        tuple(row_id for row_id, key in keys.items() if key not in held),
        tuple(row_id for row_id, key in keys.items() if key in held),
    )
