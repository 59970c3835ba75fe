"""Import of a file: look at it first, then take it in whole, or its good rows, or nothing.

`preview` reads the first rows and says what it would do. `import_file` is the job: it streams, writes every problem
with its row to `problems.csv`, and stores a version only when all rows are good or the person asked for the good ones.
Reading is left to `readers`, the meaning of columns to `formats`, storing to `versions`.
"""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue

from workbench.datasets.bulk import Block, fits_bulk, iter_blocks
from workbench.datasets.correcting import CorrectedRows, Corrections, editable
from workbench.datasets.formats import Reading, convert_row, detect_format, overlooked_label
from workbench.datasets.payloads import encode_plain, payload_from_plain
from workbench.datasets.readers import RowProblem, Source, SourceRow, open_source, read_rows, shorten
from workbench.datasets.segments import disk_told
from workbench.datasets.versions import VersionWriter
from workbench.errors import Conflict, DataProblem, NotFound, UsageError
from workbench.records import Dataset, DatasetKind, Payload, Record, RunConfig, Version
from workbench.store.database import Store
from workbench.store.datasets import check_name, create_dataset, get_dataset, latest_version, withdrawn_on_failure

if TYPE_CHECKING:
    from workbench.job import Job

SAMPLE_ROWS = 200
"""Rows from which the format is told."""
PREVIEW_ROWS = 1_000
"""Rows that a preview checks."""
SHOWN_PROBLEMS = 200
"""Problems that a preview lists."""

FormatName = Literal["auto", "alpaca", "sharegpt", "messages", "prompt_completion", "preference", "labels", "prompts"]


class ImportConfig(RunConfig):
    """Take a file into a dataset."""

    source: Path
    """File to import: JSON Lines, JSON, CSV, TSV or Parquet; plain or gzipped."""
    dataset: str = Field(min_length=1, max_length=200)
    """Name of the dataset. An existing one gets a new version that holds the file's rows."""
    format: FormatName = "auto"
    """What the columns mean; auto tells it from the columns and the first rows."""
    kind: DatasetKind | None = None
    """What rows become; empty follows the format."""
    mapping: dict[str, str] = Field(default={}, json_schema_extra={"advanced": True})
    """Which column is which, where the names do not say: {"instruction": "q", "output": "a"}."""
    encoding: str = Field(default="auto", json_schema_extra={"advanced": True})
    """Text encoding, such as utf-8 or cp1252; auto tells it from the bytes."""
    keep_good: bool = False
    """Import the good rows where some have problems, and save the bad ones to a file."""
    corrections: Corrections = Field(default={}, json_schema_extra={"advanced": True})
    """What rows say instead, by their number in the file: {"18": {"instruction": "q", "output": "a"}}. Null drops a
    row."""
    description: str = ""
    """A person's words about a new dataset."""


class ImportPreview(Record):
    """What an import would do."""

    file: str
    """What the file is, in words."""
    size: int
    """Bytes on disk."""
    encoding: str
    """Detected or chosen encoding."""
    delimiter: str
    """Between cells of CSV; empty otherwise."""
    columns: tuple[str, ...]
    """Columns found."""
    format: str
    """The format's name; empty when none fits."""
    kind: DatasetKind | None
    """What rows become; None when no format fits."""
    mapping: dict[str, str]
    """Field of the format → column."""
    samples: tuple[Payload, ...]
    """The first good rows as they would be stored."""
    raw: tuple[dict[str, JsonValue], ...]
    """The first rows as they are in the file, long cells shortened."""
    problems: tuple[RowProblem, ...]
    """Problems of the first thousand rows."""
    problem_count: int
    """How many problems there are among them, also those not listed."""
    rows_checked: int
    """Rows that were looked at."""
    rows_estimate: int
    """Rows in the whole file; exact when all were looked at or the file says it."""
    exact: bool
    """Whether the estimate is a count."""
    bad_rows: dict[str, dict[str, JsonValue]] = {}
    """Rows with listed problems by their number, whole, so that they can be corrected; too long ones are left out."""
    difficulty: str = ""
    """Why no format fits, with the remedy; empty when one does."""
    warnings: tuple[str, ...] = ()
    """What would be imported all the same, but should be read before."""


def preview(
    path: str | Path,
    *,
    format: FormatName = "auto",
    kind: DatasetKind | None = None,
    mapping: Mapping[str, str] | None = None,
    encoding: str = "auto",
    corrections: Mapping[str, Mapping[str, Any] | None] | None = None,
    limit: int = 20,
) -> ImportPreview:
    """Look at the first thousand rows of a file and say what an import would do; stores nothing.

    Args:
        path: the file.
        format: a format's name, or `auto`.
        kind: what rows shall become; None follows the format.
        mapping: field → column, where a person says it.
        encoding: a Python encoding name, or `auto`.
        corrections: what rows say instead, by their number; None drops a row.
        limit: sample rows to give.

    Raises:
        DataProblem: the file as a whole cannot be read. Problems of rows, and columns that fit no format, are told in
            the result instead.
        UsageError: a format or a column of the mapping does not exist.
    """
    source = open_source(path, encoding=encoding)
    rows = list(islice(CorrectedRows(read_rows(source), corrections or {}), PREVIEW_ROWS + 1))
    whole = len(rows) <= PREVIEW_ROWS
    rows = rows[:PREVIEW_ROWS]
    columns, difficulty, reading = _columns(source, rows), "", None
    try:
        reading = _detect(source, rows[:SAMPLE_ROWS], format, kind, mapping or {})
    except DataProblem as problem:
        difficulty = problem.sentence()
    problems: list[RowProblem] = [row.problem for row in rows if row.problem] if reading is None else []
    samples: list[Payload] = []
    labels: Counter[bool] = Counter()
    for row in rows if reading else ():
        assert reading is not None
        found = _take(reading, row)
        if isinstance(found, RowProblem):
            problems.append(found)
            continue
        labels.update([found["label"]] if "label" in found else [])
        if len(samples) < limit:
            samples.append(payload_from_plain(reading.format.kind, found))
    return ImportPreview(
        file=source.title,
        size=source.size,
        encoding=source.encoding,
        delimiter=source.delimiter,
        columns=columns,
        format=reading.format.name if reading else "",
        kind=reading.format.kind if reading else None,
        mapping=reading.mapping if reading else {},
        samples=tuple(samples),
        raw=tuple({key: _shown(value) for key, value in row.values.items()} for row in rows[:limit]),
        problems=tuple(problems[:SHOWN_PROBLEMS]),
        problem_count=len(problems),
        bad_rows=_bad_rows(rows, problems[:SHOWN_PROBLEMS]),
        rows_checked=len(rows),
        rows_estimate=len(rows) if whole else source.rows or _estimate(source, rows),
        exact=whole or source.rows is not None,
        difficulty=difficulty,
        warnings=_warnings(reading, [row.values for row in rows if not row.problem], labels) if reading else (),
    )


def _warnings(reading: Reading, sample: Sequence[Mapping[str, Any]], labels: Mapping[bool, int]) -> tuple[str, ...]:
    """What a person should read before training on the rows.

    Args:
        reading: format and columns.
        sample: the first rows.
        labels: number of good and bad answers among the rows looked at.
    """
    found = []
    if column := overlooked_label(reading, sample):
        found.append(
            f"The column '{column}' calls some of these answers bad, but as {reading.format.kind} all of them become "
            "examples to imitate. Choose the format labels to keep good and bad apart."
        )
    if len(labels) == 1:
        good = True in labels
        found.append(
            f"All {labels[good]:,} answers are labelled {'good' if good else 'bad'}: KTO learns from both kinds, and "
            "from one alone it is only pushed one way."
        )
    return tuple(found)


def _bad_rows(rows: list[SourceRow], problems: list[RowProblem]) -> dict[str, dict[str, JsonValue]]:
    wanted = {problem.row for problem in problems}
    found = {str(row.number): editable(row.values) for row in rows if row.number in wanted}
    return {number: values for number, values in found.items() if values is not None}


def _shown(value: Any) -> JsonValue:
    if value is None or isinstance(value, bool | int):
        return value
    text = shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), 1_000)
    return text.encode("utf-8", "replace").decode()


def _estimate(source: Source, rows: list[SourceRow]) -> int:
    letters = sum(len(json.dumps(row.values, ensure_ascii=False, default=str)) for row in rows)
    unpacked = source.size * (3 if source.gzipped else 1)
    return max(len(rows), round(unpacked / max(1.0, letters / len(rows))))


def _columns(source: Source, rows: list[SourceRow]) -> tuple[str, ...]:
    if source.columns:
        return source.columns
    return tuple(dict.fromkeys(column for row in rows if not row.problem for column in row.values))


def _detect(
    source: Source, rows: list[SourceRow], format_name: str, kind: DatasetKind | None, mapping: Mapping[str, str]
) -> Reading:
    if not rows:
        raise DataProblem("every row was dropped", place=source.path.name, remedy="Keep at least one.")
    good = [row for row in rows if not row.problem]
    if not good:
        first = next(row.problem for row in rows if row.problem)
        raise DataProblem(
            f"none of the first {len(rows)} rows can be read", place=source.path.name, value=first.sentence(),
            remedy=f"Check that this is a {source.title} file.",
        )  # fmt: skip
    return detect_format(
        _columns(source, rows), [row.values for row in good],
        format_name=format_name, kind=kind, mapping=mapping, place=source.path.name,
    )  # fmt: skip


def _take(reading: Reading, row: SourceRow) -> dict[str, Any] | RowProblem:
    """A row as a plain payload that can be stored, or why not."""
    if row.problem:
        return row.problem
    plain = convert_row(reading, row.number, row.values)
    if isinstance(plain, RowProblem):
        return plain
    try:
        encode_plain(plain)
    except DataProblem as problem:
        return _not_storable(row, problem)
    return plain


def _not_storable(row: SourceRow, problem: DataProblem) -> RowProblem:
    shown = shorten(problem.value).encode("utf-8", "replace").decode()
    return RowProblem(row.number, "", problem.what, shown, problem.remedy)


# ---- the job ----


def import_file(config: ImportConfig, job: Job) -> dict[str, Any]:
    """Import a file as a new dataset or as a new version of one.

    Args:
        config: what to import and how.
        job: the run; `problems.csv` and `bad_rows.jsonl` are written to its folder where there are problems.

    Returns:
        dataset_id, version_id, rows, problems (count), bad_rows_path, problems_path, format, kind, warnings, seconds.

    Raises:
        DataProblem: the file cannot be read, no format fits, or rows have problems and `keep_good` is off.
        UsageError: the dataset holds rows of another kind.
        StoreProblem: the disk is full or the database refuses.
        Stopped: the run was asked to stop. In all these cases nothing is stored.
    """
    started = time.monotonic()
    job.progress("looking at the file")
    source = open_source(config.source, encoding=config.encoding)
    read = read_rows(source)
    corrected = CorrectedRows(read, config.corrections)
    rows = iter(corrected)
    sample = list(islice(rows, SAMPLE_ROWS))
    dataset, parent = _target(job.store, config)
    kind = config.kind or (dataset.kind if dataset and config.format == "auto" else None)
    reading = _detect(source, sample, config.format, kind, config.mapping)
    _check_kind(dataset, reading)
    total = source.rows or _estimate(source, sample)
    with VersionWriter(job.store, parent=parent) as writer, _BadRows(job.folder) as bad:
        take = _Taking(reading, writer, bad, job, total, keep_good=config.keep_good)
        good = [row.values for row in sample if not row.problem]
        if not config.corrections and fits_bulk(source, reading, good):
            read.close()
            columns = list(dict.fromkeys(column for values in good for column in values))
            for block in iter_blocks(source, reading, columns, min(4, job.settings.threads)):
                take.block(block)
        else:
            take.rows(chain(sample, rows))
        take.told(whole=True)
        corrected.check_all_used(source.path.name)
        if bad.count and (not config.keep_good or not writer.rows):
            raise _refusal(config, bad, writer.rows)
        job.progress("storing", done=writer.rows, note="")
        whole: AbstractContextManager[None] = nullcontext()
        if dataset is None:
            dataset = create_dataset(job.store, config.dataset, reading.format.kind, description=config.description)
            whole = withdrawn_on_failure(job.store, dataset.id)
        with whole:
            version = writer.commit(
                dataset.id,
                message=f"Imported {source.path.name}",
                provenance=_provenance(config, source, reading, bad, job),
            )
    warnings = list(_warnings(reading, good, take.labels))
    for warning in warnings:
        job.log(warning)
    return {
        "dataset_id": dataset.id,
        "version_id": version.id,
        "rows": version.rows,
        "problems": bad.count,
        "bad_rows_path": str(bad.rows_path) if bad.count else None,
        "problems_path": str(bad.problems_path) if bad.count else None,
        "format": reading.format.name,
        "kind": reading.format.kind,
        "warnings": warnings,
        "seconds": round(time.monotonic() - started, 3),
    }


def _target(store: Store, config: ImportConfig) -> tuple[Dataset | None, Version | None]:
    try:
        dataset = get_dataset(store, check_name(config.dataset, "dataset"))
    except NotFound:
        return None, None
    if dataset.archived_at is not None:
        raise Conflict(
            "a dataset of this name has been put away", place="dataset", value=config.dataset,
            remedy="Bring it back, or choose another name.",
        )  # fmt: skip
    return dataset, latest_version(store, dataset.id)


def _check_kind(dataset: Dataset | None, reading: Reading) -> None:
    if dataset is not None and dataset.kind != reading.format.kind:
        raise UsageError(
            f"the dataset '{dataset.name}' holds {dataset.kind}, the file gives {reading.format.kind}",
            place="dataset",
            remedy="Choose another name for the dataset.",
        )


class _Taking:
    """Takes rows into the writer, problems into the list, and tells how far it is."""

    def __init__(
        self, reading: Reading, writer: VersionWriter, bad: _BadRows, job: Job, total: int, *, keep_good: bool
    ) -> None:
        self._reading, self._writer, self._bad, self._job = reading, writer, bad, job
        self._total, self._keep_good, self._seen = total, keep_good, 0
        self.labels: Counter[bool] = Counter()
        """How many answers are labelled good and bad."""

    def told(self, *, whole: bool = False) -> None:
        """Tell how far it is, and end here when asked to."""
        self._job.checkpoint_or_stop()
        total = self._seen if whole else max(self._seen, self._total)
        self._job.progress("reading", done=self._seen, total=total, unit="rows", note=self._bad.note())

    def block(self, block: Block) -> None:
        """Take a block of lines."""
        if block.payloads is None or block.row_hashes is None:
            self.rows(block.rows)
            return
        self._seen += block.count
        # Once a problem is found nothing will be stored; reading goes on to count them all.
        if self._keep_good or not self._bad.count:
            self._writer.add_columns(block.row_hashes, block.payloads)
        self.told()

    def rows(self, rows: Iterable[SourceRow]) -> None:
        """Take rows one by one."""
        for row in rows:
            self._seen += 1
            plain = row.problem or convert_row(self._reading, row.number, row.values)
            if not isinstance(plain, RowProblem):
                try:
                    text, row_hash = encode_plain(plain)
                except DataProblem as problem:
                    plain = _not_storable(row, problem)
                else:
                    if "label" in plain:
                        self.labels[plain["label"]] += 1
                    if self._keep_good or not self._bad.count:
                        self._writer.add_encoded(text, row_hash)
            if isinstance(plain, RowProblem):
                self._bad.add(row, plain)
            if not self._seen % 2_000:
                self.told()


def _provenance(config: ImportConfig, source: Source, reading: Reading, bad: _BadRows, job: Job) -> dict[str, Any]:
    return {
        "source": source.path.name,
        "file": source.title,
        "bytes": source.size,
        "encoding": source.encoding,
        "format": reading.format.name,
        "mapping": reading.mapping,
        "rows_left_out": bad.count,
        **_corrected_counts(config),
        "run_id": job.run_id,
    }


def _corrected_counts(config: ImportConfig) -> dict[str, Any]:
    if not config.corrections:
        return {}
    dropped = sum(values is None for values in config.corrections.values())
    return {"rows_corrected": len(config.corrections) - dropped, "rows_dropped": dropped}


def _refusal(config: ImportConfig, bad: _BadRows, good: int) -> DataProblem:
    first = " ".join(problem.sentence() for problem in bad.first)
    more = f" … and {bad.count - len(bad.first):,} more." if bad.count > len(bad.first) else ""
    if config.keep_good:
        what, remedy = f"none of the {bad.count:,} rows can be imported", "Check the format and the column mapping."
    else:
        rows = "row has a problem" if bad.count == 1 else "rows have problems"
        what = f"{bad.count:,} {rows}, nothing was stored"
        remedy = "Correct or drop them, or import the good rows and save the bad ones to a file (keep_good)."
    return DataProblem(
        f"{what}: {first}{more}", place=config.source.name, remedy=f"All are listed in problems.csv. {remedy}"
    )


class _BadRows:
    """Problems and the rows that have them, written as they come; no file where there is none."""

    def __init__(self, folder: Path) -> None:
        self.problems_path, self.rows_path = folder / "problems.csv", folder / "bad_rows.jsonl"
        self.count = 0
        self.first: list[RowProblem] = []
        self._files: tuple[IO[str], IO[str]] | None = None
        self._stack = ExitStack()
        for path in (self.problems_path, self.rows_path):
            path.unlink(missing_ok=True)

    def __enter__(self) -> _BadRows:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def note(self) -> str:
        """The count in words."""
        return f"{self.count:,} with problems" if self.count else ""

    def add(self, row: SourceRow, problem: RowProblem) -> None:
        """Write a problem and its row."""
        with disk_told(str(self.problems_path.parent)):
            if self._files is None:
                problems = self.problems_path.open("w", encoding="utf-8-sig", newline="", errors="replace")
                rows = self.rows_path.open("w", encoding="utf-8", errors="replace")
                self._files = self._stack.enter_context(problems), self._stack.enter_context(rows)
                csv.writer(problems).writerow(["row", "column", "what", "value", "remedy"])
            found = [problem.row, problem.column, problem.what, problem.value, problem.remedy]
            csv.writer(self._files[0]).writerow(found)
            self._files[1].write(json.dumps(row.values, ensure_ascii=False, default=str) + "\n")
        self.count += 1
        if len(self.first) < 3:
            self.first.append(problem)
