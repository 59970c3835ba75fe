"""What a file is, told from its first bytes: foreign kinds are refused in words; encoding, kind, delimiter are found.

Part of `readers`, which opens the files.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable
from itertools import islice
from typing import IO, TYPE_CHECKING

from workbench.errors import DataProblem

if TYPE_CHECKING:
    from workbench.datasets.readers import FileKind

SAMPLE_BYTES = 1 << 20
"""How much of the (unpacked) beginning is looked at."""
SCAN_BYTES = 64 << 20
"""How far the file is checked to be UTF-8 before it is read as such."""
ROW_LISTS = {"messages", "conversations", "conversation", "prompt", "chosen", "rejected", "tools", "turns", "instances"}
"""Fields whose value is a list within one row, so that an object holding them is a row and not a wrapper of rows."""

UNPACK = "Unpack it and choose the file inside."
CONVERT = "Choose a CSV, JSON Lines, JSON or Parquet file."
FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF", "a PDF document", "Copy its text into a table and save that as CSV."),
    (b"\x89PNG", "a picture (PNG)", CONVERT),
    (b"\xff\xd8\xff", "a picture (JPEG)", CONVERT),
    (b"GIF8", "a picture (GIF)", CONVERT),
    (b"RIFF", "a picture or sound file", CONVERT),
    (b"\xd0\xcf\x11\xe0", "an old Office document (.xls, .doc)", "Open it and save the sheet as CSV (UTF-8)."),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ", "an xz archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", UNPACK),
    (b"\x1f\x8b", "a gzip file within a gzip file", UNPACK),
    (b"SQLite format 3\x00", "an SQLite database", "Export the table as CSV."),
    (b"ARROW1", "an Arrow (Feather) file", "Save it as Parquet."),
    (b"\x89HDF", "an HDF5 file", CONVERT),
    (b"\x93NUMPY", "a NumPy array", CONVERT),
    (b"\x7fELF", "a program", CONVERT),
    (b"MZ\x90", "a program", CONVERT),
    (b"GGUF", "a model file (GGUF)", "Add it on the Models page instead."),
    (b"Obj\x01", "an Avro file", CONVERT),
    (b"ORC", "an ORC file", "Save it as Parquet."),
)


def refuse_foreign(head: bytes, place: str, expected: str) -> None:
    """Refuse files that are no table of rows.

    Raises:
        DataProblem: says what the file is and what to do.
    """
    found = _foreign(head)
    if found:
        what, remedy = found
        raise DataProblem(f"this is {what}, not {expected}", place=place, remedy=remedy)


def _foreign(head: bytes) -> tuple[str, str] | None:
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        if b"xl/" in head or b"[Content_Types].xml" in head[:2000]:
            return "an Excel or Office document", "Open it and save the sheet as CSV (UTF-8)."
        if b"data.pkl" in head[:2000]:
            return "a PyTorch file, which can run code when opened", CONVERT
        return "a zip archive", UNPACK
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle, which can run code when opened", "Save the data as JSON Lines or Parquet instead."
    for magic, what, remedy in FOREIGN:
        # Magic words made of letters only may begin an honest header; then a byte that no text has must follow.
        if head.startswith(magic) and (not magic.isalnum() or _has_control(head[:64])):
            return what, remedy
    if head[257:262] == b"ustar":
        return "a tar archive", UNPACK
    return None


def _has_control(head: bytes) -> bool:
    return any(byte < 9 or 13 < byte < 32 for byte in head)


def detect_encoding(reopen: Callable[[], IO[bytes]], place: str) -> str:
    """Find the text encoding of a file.

    Byte order marks decide; then the pattern of zero bytes that UTF-16 has; then whether the file is UTF-8 (the first
    64 MB are checked). What is left is handed to charset-normalizer, with Western encodings preferred where they fit
    equally well.

    Args:
        reopen: opens the unpacked file anew.
        place: the file's name, for messages.

    Raises:
        DataProblem: the file is binary.
    """
    with reopen() as file:
        head = file.read(SAMPLE_BYTES)
        if head.startswith(codecs.BOM_UTF8):
            return "utf-8-sig"
        if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
            return "utf-32"
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        wide = _wide(head)
        if wide:
            return wide
        bad = _first_not_utf8(head, file)
    if bad is None:
        return "utf-8"
    if b"\x00" in bad:
        raise DataProblem("this is binary data, not text", place=place, remedy=CONVERT)
    shown = bad.decode("utf-8", "replace")
    broken = shown.count("\ufffd")
    if sum(not character.isascii() for character in shown) - broken > broken:
        return "utf-8"  # mostly UTF-8: the few broken rows are told one by one
    return _guess(bad)


def _wide(head: bytes) -> str | None:
    pairs = len(head) // 2
    if pairs < 2 or b"\x00" not in head:
        return None
    even, odd = head[0 : pairs * 2 : 2].count(0), head[1 : pairs * 2 : 2].count(0)
    if odd > 0.4 * pairs and even < 0.05 * pairs:
        return "utf-16-le"
    if even > 0.4 * pairs and odd < 0.05 * pairs:
        return "utf-16-be"
    return None


def _first_not_utf8(head: bytes, file: IO[bytes]) -> bytes | None:
    """The chunk in which the file stops being UTF-8."""
    import zlib

    decoder, chunk, seen = codecs.getincrementaldecoder("utf-8")(), head, 0
    while chunk and seen < SCAN_BYTES:
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError:
            return chunk
        seen += len(chunk)
        try:
            chunk = file.read(SAMPLE_BYTES)
        except (EOFError, zlib.error, OSError):
            return None  # broken compression is told by whoever reads that far
    try:
        decoder.decode(b"", final=seen < SCAN_BYTES)
    except UnicodeDecodeError:
        return head
    return None


def _guess(chunk: bytes) -> str:
    from charset_normalizer import from_bytes

    telling = b"\n".join(line for line in chunk.splitlines() if not line.isascii())[:200_000]
    # Lone accented letters between plain ones are Western text; a few of them are too little for statistics to see it.
    runs = re.findall(rb"[\x80-\xff]+", telling)
    letters = sum(map(len, runs))
    lone = sum(len(run) for run in runs if len(run) <= 2)
    if letters < 200 and lone >= 0.9 * letters and _decodes(chunk, "cp1252"):
        return "cp1252"
    matches = list(from_bytes(telling))
    if not matches:
        return "cp1252" if _decodes(chunk, "cp1252") else "latin-1"
    best = matches[0]
    fitting = [match for match in matches if match.chaos <= best.chaos + 0.02]
    names = {name for match in fitting for name in match.could_be_from_charset}
    western = names & {"cp1252", "latin_1", "iso8859_15"}
    if western and _decodes(chunk, "cp1252"):
        return "cp1252"
    if western:
        return "latin-1"
    return best.encoding


def _decodes(chunk: bytes, encoding: str) -> bool:
    try:
        chunk.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def detect_kind(text: str, whole: bool, expected: FileKind | None) -> FileKind:
    """Tell JSON Lines, JSON and CSV apart.

    Args:
        text: the beginning of the file.
        whole: whether it is the whole file.
        expected: what the name says.
    """
    start = text.lstrip()
    # Not `splitlines`: it also splits at separators that stand unescaped within JSON text.
    lines = [line for line in re.split(r"[\r\n]+", start[:SAMPLE_BYTES], maxsplit=50)[:50] if line.strip()]
    if len(lines) > 1 and not whole and len(lines) < 50:
        lines.pop()
    objects = sum(isinstance(_parsed(line), dict) for line in lines[:20])
    if start.startswith("["):
        return "jsonl" if expected == "jsonl" and objects else _json_or_table(start, expected)
    if start.startswith("{"):
        return _braces(lines, objects, whole, expected)
    if expected in ("csv", "tsv"):
        return expected
    if expected in ("jsonl", "json") and (objects or not _looks_like_table(lines)):
        return expected
    return "tsv" if "\t" in (lines[0] if lines else "") and "," not in lines[0] else "csv"


def _json_or_table(start: str, expected: FileKind | None) -> FileKind:
    after = start[1:].lstrip()[:1]
    if expected in ("csv", "tsv") and after not in ("{", "]"):
        return expected
    return "json"


def _braces(lines: list[str], objects: int, whole: bool, expected: FileKind | None) -> FileKind:
    first = _parsed(lines[0])
    if isinstance(first, dict):
        if len(lines) > 1 or expected == "jsonl" or not whole:
            return "jsonl"
        wraps = any(isinstance(value, list) and key not in ROW_LISTS for key, value in first.items())
        return "json" if wraps else "jsonl"
    if lines[0].strip() == "{" or (lines[0].rstrip().endswith(("[", ",", "{")) and not objects):
        return "json"
    if expected in ("csv", "tsv") and not objects:
        return expected
    return "jsonl" if expected == "jsonl" or objects else "json"


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _looks_like_table(lines: list[str]) -> bool:
    if len(lines) < 2 or any(line.lstrip().startswith(("{", "[")) for line in lines[:5]):
        return False
    return any(lines[0].count(mark) > 0 and lines[1].count(mark) > 0 for mark in ",;\t|")


def detect_delimiter(text: str) -> str:
    """The delimiter of a CSV file: of those in the header, the one that gives the most rows of equal width."""
    candidates = []
    for mark in ",;\t|":
        try:
            csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
            rows = [row for row in islice(csv.reader(io.StringIO(text, newline=""), delimiter=mark), 200) if row]
        except csv.Error:
            continue
        width = len(rows[0]) if rows else 1
        if width > 1:
            body = rows[1:-1] or rows[1:]
            even = sum(len(row) == width for row in body) / len(body) if body else 1.0
            candidates.append((even, width, mark))
    return max(candidates, key=lambda item: (round(item[0], 1), item[1]))[2] if candidates else ","
