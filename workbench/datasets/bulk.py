"""The fast way through JSON Lines of instruction and output: whole blocks of lines at once, in Arrow and DuckDB.

A block is taken this way only when it certainly gives what converting row by row would give, to the byte; at the first
doubt (a problem, a type, a control character) the block is handed back as rows. So the rules stay in `formats`, and
here is only what is equal to them for plain good rows; a property test holds the two equal.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.datasets.formats import META_LIMIT, NO_INPUT, Reading
from workbench.datasets.readers import LINE_LIMIT, Source, SourceRow, file_told, iter_jsonl, open_bytes

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

BLOCK_BYTES = 16 << 20
"""Bytes of lines taken at once; below the cell limit, so that no cell of a block can be too long."""
_SOLID = r"[^\s\pZ\pC]"
"""A character that is certainly no space and no control character."""


@dataclass(frozen=True)
class Block:
    """Some lines of the file: as finished columns, or as rows to be taken one by one."""

    count: int
    """Rows, good or bad."""
    row_hashes: pa.Array | None
    payloads: pa.Array | None
    rows: Iterator[SourceRow]
    """Used when there are no columns."""


def fits_bulk(source: Source, reading: Reading, sample: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a file may be read in blocks: UTF-8 JSON Lines in the alpaca format whose cells are all text."""
    columns = {column for row in sample for column in row}
    return (
        source.kind == "jsonl"
        and source.encoding == "utf-8"
        and reading.format.name == "alpaca"
        and "system" not in reading.mapping
        and "meta" not in columns
        and all(isinstance(value, str | None) for row in sample for value in row.values())
        and all("\ud800" > character or character > "\udfff" for column in columns for character in column)
    )


def iter_blocks(source: Source, reading: Reading, columns: Sequence[str], threads: int) -> Iterator[Block]:
    """Blocks of a file for which `fits_bulk` holds, in order.

    Args:
        source: the file.
        reading: format and columns.
        columns: all columns of the first rows.
        threads: threads that DuckDB may use.

    Raises:
        DataProblem: the file cannot be read on.
    """
    import duckdb

    with file_told(source), open_bytes(source) as file, duckdb.connect(config={"threads": threads}) as connection:
        number = 0
        while block := file.read(BLOCK_BYTES):
            line = file.readline(LINE_LIMIT)
            block += line
            while len(line) >= LINE_LIMIT and not line.endswith(b"\n"):
                line = file.readline(LINE_LIMIT)
            payloads = _convert(connection, block, reading, columns)
            yield _rows_block(block, number, source) if payloads is None else _columns_block(payloads)
            number += block.count(b"\n") if b"\r" not in block else sum(1 for _ in _text(block))


def _text(block: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(block), "utf-8", errors="surrogateescape", newline=None)


def _rows_block(block: bytes, number: int, source: Source) -> Block:
    return Block(block.count(b"\n"), None, None, iter_jsonl(_text(block), source.encoding, number))


def _columns_block(payloads: pa.Array) -> Block:
    import pyarrow as pa

    sha256 = hashlib.sha256
    hashes = [sha256(text.encode()).hexdigest()[:32] for text in payloads.to_pylist()]
    return Block(len(hashes), pa.array(hashes, pa.string()), payloads, iter(()))


def _convert(
    connection: duckdb.DuckDBPyConnection, block: bytes, reading: Reading, columns: Sequence[str]
) -> pa.Array | None:
    """Canonical JSON of each row of a block, or None where converting row by row might differ."""
    import duckdb
    import pyarrow as pa

    table = _parse(block, columns)
    if table is None:
        return None
    names = {column: f"c{index}" for index, column in enumerate(columns)}
    connection.register("block", table.rename_columns([names[column] for column in columns]))
    checks, payload = _sql(reading, names)
    try:
        if connection.execute(f"SELECT count(*) FROM block WHERE NOT coalesce({checks}, false)").fetchone() != (0,):
            return None
        found = connection.execute(f"SELECT {payload} AS payload FROM block").to_arrow_table()["payload"]
    except duckdb.Error:
        return None
    finally:
        connection.unregister("block")
    if found.null_count:
        return None
    return pa.concat_arrays(found.chunks).cast(pa.string()) if found.num_chunks else pa.array([], pa.string())


def _parse(block: bytes, columns: Sequence[str]) -> pa.Table | None:
    import pyarrow as pa
    import pyarrow.json as pj

    # Escapes of control characters are spelled differently by different writers; those of half surrogates are refused.
    if not block.startswith(b"{") or b"\\u000" in block or b"\\u001" in block or b"\\ud" in block or b"\\uD" in block:
        return None
    try:
        block.decode()
        table = pj.read_json(
            io.BytesIO(block),
            read_options=pj.ReadOptions(block_size=4 << 20),
            parse_options=pj.ParseOptions(
                explicit_schema=pa.schema([(column, pa.string()) for column in columns]),
                unexpected_field_behavior="error",
            ),
        )
    except (pa.ArrowException, UnicodeError):
        return None
    # Between two objects stands exactly one line end, and nowhere within one: so each line is one row.
    return table.select(list(columns)) if table.num_rows == block.count(b"}\n{") + 1 else None


def _sql(reading: Reading, names: Mapping[str, str]) -> tuple[str, str]:
    """The condition that each row must meet, and the expression of its canonical JSON."""
    asked, said = names[reading.mapping["instruction"]], names[reading.mapping["output"]]
    checks = [f"regexp_matches({asked}, '{_SOLID}')", f"regexp_matches({said}, '{_SOLID}')"]
    question = asked
    if "input" in reading.mapping:
        more = f"coalesce({names[reading.mapping['input']]}, '')"
        none = ", ".join(f"'{text}'" for text in sorted(NO_INPUT))
        checks.append(f"({more} = '' OR lower({more}) IN ({none}) OR regexp_matches({more}, '{_SOLID}'))")
        # A "no input" mark that is padded or part of a sentence is left to the rules.
        checks.append(f"(NOT contains(lower({more}), 'input>') OR lower({more}) IN ({none}))")
        question = (
            f"CASE WHEN {more} = '' OR lower({more}) IN ({none}) THEN {asked} ELSE {asked} || e'\\n\\n' || {more} END"
        )
    kept = [
        f"CASE WHEN {names[column]} <> '' AND length({names[column]}) <= {META_LIMIT} "
        f"THEN {_quoted(json.dumps(column, ensure_ascii=False) + ':')} || to_json({names[column]})::VARCHAR END"
        for column in sorted(names)
        if column not in reading.taken
    ]
    meta = f"coalesce(array_to_string([{', '.join(kept)}], ','), '')" if kept else "''"
    payload = (
        f"""'{{"messages":[{{"content":' || to_json({question})::VARCHAR || ',"role":"user"}},{{"content":' """
        f"""|| to_json({said})::VARCHAR || ',"role":"assistant"}}]' """
        f"""|| CASE WHEN {meta} = '' THEN '}}' ELSE ',"meta":{{' || {meta} || '}}}}' END"""
    )
    return " AND ".join(checks), payload


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
