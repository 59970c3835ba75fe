"""Files to rows: JSON Lines, JSON, CSV, TSV and Parquet, plain or gzipped, one row at a time.

What a file is, is told by its first bytes; its name only decides where they leave it open. A row that cannot be read is
handed on as a problem with its number and reading goes on; a file that cannot be read raises `DataProblem`. What the
columns mean is left to `formats`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

from workbench.datasets.sniffing import (
    SAMPLE_BYTES,
    detect_delimiter,
    detect_encoding,
    detect_kind,
    refuse_foreign,
)
from workbench.errors import DataProblem

FileKind = Literal["jsonl", "json", "csv", "tsv", "parquet"]
CELL_LIMIT = 20 * 2**20
"""Longest cell, in characters, that is taken into a dataset."""
LINE_LIMIT = 64 * 2**20
"""Longest line or quoted cell, in characters, that is held in memory at all."""
TITLES: dict[str, str] = {"jsonl": "JSON Lines", "json": "JSON", "csv": "CSV", "tsv": "TSV", "parquet": "Parquet"}


@dataclass(frozen=True)
class RowProblem:
    """Why one row cannot be taken, and what to do about it."""

    row: int
    """Line number in JSON Lines, item number in JSON and Parquet, spreadsheet row (header is 1) in CSV and TSV."""
    column: str
    """Column the problem is in; empty when it is the whole row."""
    what: str
    """What is wrong, in plain words."""
    value: str
    """The offending value, shortened."""
    remedy: str
    """What a person can do."""

    def sentence(self) -> str:
        """The problem in one sentence."""
        place = f"row {self.row}, column '{self.column}'" if self.column else f"row {self.row}"
        return f"{place}: {self.what}. {self.remedy}".rstrip()


class SourceRow(NamedTuple):
    """One row of a file: its values, or why there are none."""

    number: int
    values: dict[str, Any]
    problem: RowProblem | None = None


@dataclass(frozen=True)
class Source:
    """A file and how it is to be read."""

    path: Path
    kind: FileKind
    """What the content is."""
    gzipped: bool
    """Whether it is compressed."""
    encoding: str
    """Python's name of the encoding; `binary` for Parquet."""
    delimiter: str
    """Between cells of CSV; empty otherwise."""
    columns: tuple[str, ...]
    """Header of CSV or schema of Parquet; empty where rows name their own."""
    rows: int | None
    """Row count where the file states it."""
    size: int
    """Bytes on disk."""

    @property
    def title(self) -> str:
        """The kind in words."""
        return TITLES[self.kind] + (" (gzip)" if self.gzipped else "")


def shorten(value: object, limit: int = 160) -> str:
    """A value as text of at most `limit` characters."""
    text = value[: limit + 1] if isinstance(value, str) else repr(value) if value is not None else ""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def open_source(path: str | Path, *, encoding: str = "auto", kind: FileKind | None = None) -> Source:
    """Look at a file and say how it is to be read.

    Args:
        path: the file.
        encoding: a Python encoding name, or `auto`.
        kind: what the content is, where a person knows better.

    Raises:
        DataProblem: missing, unreadable, empty, or of a kind that is not read.
    """
    path = Path(path)
    place = path.name
    try:
        if not path.is_file():
            what = "this is a folder, not a file" if path.is_dir() else "there is no such file"
            raise DataProblem(what, place=str(path), remedy="Check the path.")
        size = path.stat().st_size
        head, gzipped = _head(path)
    except OSError as error:
        raise DataProblem(f"the file cannot be read: {error.strerror or error}", place=place) from error
    if not head.strip(b"\x00 \t\r\n\xef\xbb\xbf\xff\xfe"):
        raise DataProblem("the file is empty", place=place, remedy="Choose a file that has rows.")
    if head.startswith(b"PAR1"):
        return _parquet_source(path, gzipped, size)
    expected = kind or _kind_by_name(path)
    refuse_foreign(head, place, TITLES.get(expected or "", "a table of rows"))
    if expected == "parquet":
        raise DataProblem(
            "the name says Parquet, the content does not", place=place, remedy="Give it the ending it should have."
        )
    source = Source(path, "jsonl", gzipped, "utf-8", "", (), None, size)
    encoding = (
        _checked_encoding(encoding, place) if encoding != "auto" else detect_encoding(lambda: open_bytes(source), place)
    )
    text = head.decode(encoding, errors="replace").lstrip("\ufeff")
    kind = kind or detect_kind(text, len(head) < SAMPLE_BYTES, expected)
    source = replace(source, kind=kind, encoding=encoding)
    if kind not in ("csv", "tsv"):
        return source
    source = replace(source, delimiter="\t" if kind == "tsv" else detect_delimiter(text))
    return replace(source, columns=_header(source))


def read_rows(source: Source) -> Generator[SourceRow, None, None]:
    """Rows of a file, one at a time, in bounded memory.

    Raises:
        DataProblem: the file as a whole cannot be read on (broken compression, broken JSON outside a row, no rows).
    """
    reader = {"jsonl": _read_jsonl, "json": _read_json, "parquet": _read_parquet}.get(source.kind, _read_csv)
    found = False
    with file_told(source):
        for row in reader(source):
            found = True
            yield row
    if not found:
        what = "the file has a header but no rows" if source.columns else "the file holds no rows"
        raise DataProblem(what, place=source.path.name, remedy="Choose a file that has rows.")


@contextmanager
def file_told(source: Source) -> Iterator[None]:
    """Tell a file that cannot be read on in words.

    Raises:
        DataProblem: broken compression, another encoding, a disk that refuses.
    """
    place = source.path.name
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataProblem(
            "the compressed file is damaged or cut off", place=place, remedy="Copy or download it again."
        ) from error
    except UnicodeError as error:
        raise DataProblem(
            f"the file cannot be read as {source.encoding}", place=place, remedy="Choose another encoding."
        ) from error
    except OSError as error:
        raise DataProblem(
            f"the file cannot be read: {error.strerror or error}", place=place, remedy="Check the disk it is on."
        ) from error


def _kind_by_name(path: Path) -> FileKind | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".gzip"):
        suffixes.pop()
    known: dict[str, FileKind] = {
        ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
        ".parquet": "parquet", ".pq": "parquet",
    }  # fmt: skip
    return known.get(suffixes[-1]) if suffixes else None


def _head(path: Path) -> tuple[bytes, bool]:
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
    if not head.startswith(b"\x1f\x8b"):
        return head, False
    try:
        with gzip.open(path) as unpacked:
            return unpacked.read(SAMPLE_BYTES), True
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataProblem(
            "the compressed file is damaged or cut off", place=path.name, remedy="Copy or download it again."
        ) from error


def _checked_encoding(encoding: str, place: str) -> str:
    import codecs

    try:
        codec = codecs.lookup(encoding)
        if not getattr(codec, "_is_text_encoding", True):
            raise LookupError
    except (LookupError, ValueError) as error:
        raise DataProblem(
            "this encoding is not known", place=place, value=encoding, remedy="For example utf-8, cp1252, utf-16."
        ) from error
    return "utf-8-sig" if codec.name == "utf-8" else codec.name


def open_bytes(source: Source) -> IO[bytes]:
    """The unpacked bytes of a file."""
    if source.gzipped:
        return cast(IO[bytes], gzip.open(source.path))
    return source.path.open("rb", buffering=1 << 20)


def _open_text(source: Source, newline: str | None) -> io.TextIOWrapper:
    # Bytes that are not UTF-8 come through as half surrogates and are refused row by row further on.
    errors = "surrogateescape" if source.encoding.startswith("utf-8") else "strict"
    return io.TextIOWrapper(open_bytes(source), source.encoding, errors=errors, newline=newline)


def _undecodable(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _not_text(number: int, text: str, encoding: str, column: str = "") -> RowProblem:
    shown = text.encode("utf-8", "replace").decode()
    return RowProblem(
        number, column, f"holds bytes that are not {encoding.removesuffix('-sig')}", shorten(shown),
        "Choose the file's real encoding (often cp1252), or repair the row.",
    )  # fmt: skip


def _read_jsonl(source: Source) -> Iterator[SourceRow]:
    with _open_text(source, None) as file:
        yield from iter_jsonl(file, source.encoding)


def iter_jsonl(file: io.TextIOBase, encoding: str, number: int = 0) -> Iterator[SourceRow]:
    """Rows of JSON Lines text.

    Args:
        file: the text.
        encoding: its encoding, for messages.
        number: lines that come before it.
    """
    while line := file.readline(LINE_LIMIT):
        number += 1
        if len(line) >= LINE_LIMIT and not line.endswith("\n"):
            while (rest := file.readline(LINE_LIMIT)) and not rest.endswith("\n"):
                pass
            yield SourceRow(number, {}, _too_long(number, "", line))
            continue
        if not line.isspace():
            yield _jsonl_row(number, line.lstrip("\ufeff") if number == 1 else line, encoding)


def _too_long(number: int, column: str, value: str) -> RowProblem:
    return RowProblem(number, column, "longer than 20 MB", shorten(value), "Shorten it, or drop the row.")


def _jsonl_row(number: int, line: str, encoding: str) -> SourceRow:
    kept = {"broken_line": line.rstrip("\r\n")}
    if _undecodable(line):
        kept = {"broken_line": line.rstrip("\r\n").encode("utf-8", "replace").decode()}
        return SourceRow(number, kept, _not_text(number, line, encoding))
    try:
        values = json.loads(line)
    except RecursionError:
        return SourceRow(number, kept, RowProblem(number, "", "nested too deeply", shorten(line), "Flatten the row."))
    except ValueError as error:
        what = f"not valid JSON ({_json_words(error)})"
        return SourceRow(number, kept, RowProblem(number, "", what, shorten(line), "Repair or drop this line."))
    if not isinstance(values, dict):
        what = f"{_json_noun(values)}, not an object with named fields"
        problem = RowProblem(number, "", what, shorten(line), 'Write {"instruction": …, "output": …}.')
        return SourceRow(number, kept, problem)
    return SourceRow(number, values)


def _json_words(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
    return "a number with too many digits"


def _json_noun(value: object) -> str:
    if value is None:
        return "null"
    names = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _read_json(source: Source) -> Iterator[SourceRow]:
    from workbench.datasets.json_stream import iter_json_items

    with _open_text(source, "") as file:
        for number, value in enumerate(iter_json_items(file, source.path.name), start=1):
            if isinstance(value, dict):
                yield SourceRow(number, value)
            else:
                what = f"{_json_noun(value)}, not an object with named fields"
                problem = RowProblem(number, "", what, shorten(value), 'Write {"instruction": …, "output": …}.')
                yield SourceRow(number, {"broken_item": value}, problem)


class _Lines:
    """Lines for the csv module: bounded in length, and remembered until the row they belong to is complete."""

    def __init__(self, file: io.TextIOWrapper, place: str) -> None:
        self._file, self._place = file, place
        self.pending: list[str] = []
        self.ended = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(LINE_LIMIT)
        if not line:
            self.ended = True
            raise StopIteration
        if len(line) >= LINE_LIMIT and not line.endswith(("\n", "\r")):
            raise DataProblem("a line is longer than 64 MB", place=self._place, remedy="Check that this is a CSV file.")
        self.pending.append(line)
        return line


def _csv_rows(source: Source, file: io.TextIOWrapper) -> Iterator[tuple[int, list[str], bool]]:
    """Number as a spreadsheet counts, cells, and whether a quotation mark stayed open to the end of the file."""
    csv.field_size_limit(LINE_LIMIT)
    lines = _Lines(file, source.path.name)
    reader, number = csv.reader(lines, delimiter=source.delimiter), 0
    while True:
        number += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataProblem(
                f"the table cannot be read on: {error}",
                place=f"{source.path.name}, row {number}",
                remedy="A quotation mark is probably opened here and never closed.",
            ) from error
        open_quote = False
        if lines.ended:
            try:
                list(csv.reader(lines.pending, delimiter=source.delimiter, strict=True))
            except csv.Error as error:
                open_quote = "unexpected end" in str(error)
        lines.pending.clear()
        yield number, cells, open_quote


def _header(source: Source) -> tuple[str, ...]:
    place = source.path.name
    try:
        with _open_text(source, "") as file:
            _, cells, open_quote = next(_csv_rows(source, file), (0, [], False))
    except (EOFError, zlib.error, OSError, UnicodeError) as error:
        raise DataProblem(f"the file cannot be read as {source.encoding}", place=place) from error
    names = [cell.strip().lstrip("\ufeff").strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataProblem("the first row names no columns", place=place, remedy="Put the column names in row 1.")
    if open_quote or any(_undecodable(name) for name in names):
        raise DataProblem(
            "the first row cannot be read as column names",
            place=place,
            remedy="Check the quotation marks and encoding.",
        )
    refuse_duplicates(names, place)
    return tuple(name or f"column {index}" for index, name in enumerate(names, start=1))


def refuse_duplicates(names: Sequence[str], place: str) -> None:
    """Refuse a header in which two columns have the same name.

    Raises:
        DataProblem: with the names that occur twice.
    """
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataProblem(
            f"two columns have the same name: {', '.join(repr(name) for name in twice[:5])}",
            place=place,
            remedy="Rename or remove one of them.",
        )


def _read_csv(source: Source) -> Iterator[SourceRow]:
    columns, width = source.columns, len(source.columns)
    with _open_text(source, "") as file:
        for number, cells, open_quote in islice(_csv_rows(source, file), 1, None):
            if not cells or not any(cells):
                continue
            values: dict[str, Any] = dict(zip(columns, cells, strict=False))
            problem = None
            if open_quote:
                problem = RowProblem(
                    number, "", "a quotation mark is opened and never closed", shorten(source.delimiter.join(cells)),
                    "Close it, or double quotation marks inside text.",
                )  # fmt: skip
            elif len(cells) != width and (len(cells) < width or any(cells[width:])):
                problem = RowProblem(
                    number, "", f"has {len(cells)} cells where the header has {width}",
                    shorten(source.delimiter.join(cells)), "Put text that holds the delimiter in quotation marks.",
                )  # fmt: skip
            else:
                problem = _cell_problem(number, values, source.encoding)
            yield SourceRow(number, values, problem)


def _cell_problem(number: int, values: dict[str, Any], encoding: str) -> RowProblem | None:
    for column, cell in values.items():
        if not cell.isascii() and _undecodable(cell):
            values[column] = cell.encode("utf-8", "replace").decode()
            return _not_text(number, cell, encoding, column)
    return None


def _parquet_source(path: Path, gzipped: bool, size: int) -> Source:
    if gzipped:
        raise DataProblem(
            "this is a gzipped Parquet file", place=path.name, remedy="Unpack it (gunzip), then import it."
        )
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names, rows = list(file.schema_arrow.names), file.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError, UnicodeError) as error:
        raise _broken_parquet(path) from error
    refuse_duplicates(names, path.name)
    if rows == 0:
        raise DataProblem(
            "the Parquet file has columns but no rows", place=path.name, remedy="Choose a file with rows."
        )
    return Source(path, "parquet", False, "binary", "", tuple(names), rows, size)


def _broken_parquet(path: Path) -> DataProblem:
    return DataProblem(
        "the Parquet file is damaged or cut off", place=path.name, remedy="Copy or download it again, or write it anew."
    )


def _read_parquet(source: Source) -> Iterator[SourceRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(source.path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for values in batch.to_pylist():
                    number += 1
                    yield SourceRow(number, values)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _broken_parquet(source.path) from error
