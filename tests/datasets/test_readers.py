"""Reading files: every kind, every encoding, and what is said of files that cannot be read."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.datasets import readers
from workbench.datasets.readers import open_source, read_rows
from workbench.errors import DataProblem

ROWS = [
    {"instruction": "Grüße, “Welt”", "output": 'Zeile 1\nZeile "2", mit ; und\tTab'},
    {"instruction": "é", "output": "日本"},
]


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(path: Path, **options) -> list[dict]:
    rows = list(read_rows(open_source(path, **options)))
    assert not [row.problem for row in rows if row.problem]
    return [row.values for row in rows]


def problem(path: Path, **options) -> str:
    with pytest.raises(DataProblem) as caught:
        list(read_rows(open_source(path, **options)))
    assert caught.value.remedy
    return caught.value.sentence()


def jsonl(rows: list[dict] = ROWS) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows: list[dict], delimiter: str = ",") -> str:
    import csv

    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_unicode_encodings_are_told_from_the_bytes(tmp_path, kind, encoding):
    rows = (
        ROWS if encoding not in ("utf-16-le", "utf-16-be") else [{"instruction": "Grüße", "output": "viele Worte hier"}]
    )
    text = {"jsonl": jsonl(rows), "json": json.dumps(rows, ensure_ascii=False, indent=2), "csv": table(rows)}[kind]
    assert values(write(tmp_path / f"a.{kind}", text.encode(encoding))) == rows


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_western_european_text_is_not_mistaken_for_utf_8(tmp_path, encoding):
    rows = [{"instruction": "Was heißt «Käse»?", "output": "Fromage, très bon, à la française, señor"}] * 3
    source = open_source(write(tmp_path / "a.csv", table(rows).encode(encoding)))
    assert source.encoding == "cp1252"
    assert [row.values for row in read_rows(source)] == rows


def test_text_that_leaves_ascii_late_is_still_read_with_its_encoding(tmp_path):
    rows = [{"instruction": "plain", "output": "words " * 50}] * 6000 + [{"instruction": "Käse", "output": "très bon"}]
    path = write(tmp_path / "a.jsonl", jsonl(rows).encode("cp1252"))
    assert path.stat().st_size > 1 << 20
    assert values(path)[-1] == rows[-1]


def test_an_encoding_can_be_chosen_and_an_unknown_one_is_refused(tmp_path):
    path = write(tmp_path / "a.csv", table([{"a": "Ж", "b": "текст"}]).encode("cp1251"))
    assert values(path, encoding="cp1251") == [{"a": "Ж", "b": "текст"}]
    assert "encoding is not known" in problem(path, encoding="klingon")
    assert "encoding is not known" in problem(path, encoding="base64")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.gz", "a.jsonl"])
def test_gzip_is_told_from_the_bytes(tmp_path, name):
    source = open_source(write(tmp_path / name, gzip.compress(jsonl().encode())))
    assert source.gzipped and [row.values for row in read_rows(source)] == ROWS


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_and_quoted_newlines_stay(tmp_path, delimiter):
    source = open_source(write(tmp_path / "a.csv", table(ROWS, delimiter)))
    assert source.delimiter == delimiter
    assert [row.values for row in read_rows(source)] == ROWS


def test_a_table_of_one_column_has_no_delimiter_to_find(tmp_path):
    assert values(write(tmp_path / "a.csv", "prompt\nOne; two\n\nThree\n")) == [
        {"prompt": "One; two"},
        {"prompt": "Three"},
    ]


def test_tab_separated_values_are_read(tmp_path):
    assert values(write(tmp_path / "a.tsv", "a\tb\n1,5\tx\n")) == [{"a": "1,5", "b": "x"}]


def test_parquet_is_read_with_nested_columns(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "hé"}], "n": 1}] * 2500
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.bin")
    source = open_source(tmp_path / "a.bin")
    assert (source.kind, source.rows) == ("parquet", 2500)
    assert [row.values for row in read_rows(source)] == rows


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.txt", "a"])
def test_json_lines_are_told_from_the_content(tmp_path, name):
    assert values(write(tmp_path / name, jsonl())) == ROWS


@pytest.mark.parametrize("key", ["data", "rows", "examples"])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_within_an_object_is_found(tmp_path, key, indent):
    text = json.dumps({"version": 1, "tags": ["a"], key: ROWS, "more": {"x": []}}, indent=indent)
    assert values(write(tmp_path / "a.json", text)) == ROWS


def test_two_lists_of_rows_are_refused(tmp_path):
    assert "more than one list" in problem(
        write(tmp_path / "a.json", json.dumps({"train": ROWS, "test": ROWS}, indent=1))
    )


def test_one_object_without_a_list_is_refused(tmp_path):
    assert "holds no list of rows" in problem(write(tmp_path / "a.json", json.dumps({"data": {"a": 1}}, indent=1)))


def test_one_conversation_in_one_line_is_one_row(tmp_path):
    row = {"messages": [{"role": "user", "content": "a"}]}
    assert values(write(tmp_path / "a.json", json.dumps(row))) == [row]


def test_a_json_list_is_streamed_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.datasets.json_stream.CHUNK", 7)
    rows = [{"a": "x" * n, "n": 12345678 + n, "list": [1, 2, {"deep": None}]} for n in range(40)]
    assert values(write(tmp_path / "a.json", json.dumps(rows, indent=1))) == rows


@pytest.mark.parametrize(
    "text", ['[{"a": 1}, {"a": ', '[{"a": 1} {"a": 2}]', '[{"a": 1}', '[{"a": 1}] trailing', '{"data": [{"a": 1}']
)
def test_a_broken_json_document_is_told_with_the_item(tmp_path, text):
    assert "a.json, item" in problem(write(tmp_path / "a.json", text))


def test_a_broken_line_is_told_with_its_number_and_reading_goes_on(tmp_path):
    lines = ['{"a": 1}', "", '{"a": 2', '["a"]', '{"a": 3}', '{"a": ' + "9" * 5000 + "}", "[" * 100_000]
    rows = list(read_rows(open_source(write(tmp_path / "a.jsonl", "\n".join(lines)))))
    assert [row.number for row in rows] == [1, 3, 4, 5, 6, 7]
    assert [bool(row.problem) for row in rows] == [False, True, True, False, True, True]
    assert rows[1].problem.what.startswith("not valid JSON") and rows[1].problem.remedy
    assert rows[2].problem.what == "a list, not an object with named fields"
    assert rows[1].values == {"broken_line": '{"a": 2'}


def test_a_broken_byte_is_told_with_its_row(tmp_path):
    text = jsonl([{"a": "naïve café"}] * 20).encode() + b'{"a": "caf\xe9"}\n'
    rows = list(read_rows(open_source(write(tmp_path / "a.jsonl", text))))
    assert [row.number for row in rows if row.problem] == [21]
    assert "not utf-8" in rows[20].problem.what
    rows = list(read_rows(open_source(write(tmp_path / "a.csv", "a,b\né,ü\n".encode() + b"caf\xe9,x\nu,v\n"))))
    assert [(row.number, bool(row.problem)) for row in rows] == [(2, False), (3, True), (4, False)]
    assert rows[1].problem.column == "a"


def test_a_line_longer_than_can_be_held_is_told_and_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LINE_LIMIT", 1000)
    text = '{"a": 1}\n{"a": "' + "x" * 5000 + '"}\n{"a": 2}\n'
    rows = list(read_rows(open_source(write(tmp_path / "a.jsonl", text))))
    assert [(row.number, bool(row.problem)) for row in rows] == [(1, False), (2, True), (3, False)]
    assert "longer than 20 MB" in rows[1].problem.what


def test_a_row_with_too_many_or_too_few_cells_is_told(tmp_path):
    rows = list(read_rows(open_source(write(tmp_path / "a.csv", "a,b\n1,2\n1,2,3\n1\n3,4\n"))))
    assert [(row.number, bool(row.problem)) for row in rows] == [(2, False), (3, True), (4, True), (5, False)]
    assert rows[1].problem.what == "has 3 cells where the header has 2"


def test_a_quotation_mark_that_is_never_closed_is_told(tmp_path):
    rows = list(read_rows(open_source(write(tmp_path / "a.csv", 'a,b\n1,2\n"never closed,2\n3,4\n5,6\n'))))
    assert [(row.number, bool(row.problem)) for row in rows] == [(2, False), (3, True)]
    assert "never closed" in rows[1].problem.what


@pytest.mark.parametrize("header", ["a,b,a\n1,2,3\n", "\ufeffa,a\n1,2\n"])
def test_two_columns_of_one_name_are_refused(tmp_path, header):
    assert "two columns have the same name: 'a'" in problem(write(tmp_path / "a.csv", header))


def test_parquet_columns_of_one_name_are_refused(tmp_path):
    pq.write_table(pa.table([pa.array(["x"]), pa.array(["y"])], names=["a", "a"]), tmp_path / "a.parquet")
    assert "same name" in problem(tmp_path / "a.parquet")


@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf", b"\xff\xfe", gzip.compress(b"", mtime=0)])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "a.parquet"])
def test_an_empty_file_is_told(tmp_path, name, content):
    assert "the file is empty" in problem(write(tmp_path / name, content))


def test_a_header_without_rows_is_told(tmp_path):
    assert "a header but no rows" in problem(write(tmp_path / "a.csv", "a,b\n"))
    assert "holds no rows" in problem(write(tmp_path / "a.json", "[]"))
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert "no rows" in problem(tmp_path / "a.parquet")


def zipped(names: list[str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zipped(["data.jsonl"]), "this is a zip archive, not JSON Lines. Unpack it"),
        (zipped(["[Content_Types].xml", "xl/workbook.xml"]), "an Excel or Office document"),
        (zipped(["archive/data.pkl"]), "can run code"),
        (b"%PDF-1.7\n\x00\x01", "a PDF document"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "a picture (PNG)"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a picture (JPEG)"),
        (b"GIF89a\x01\x00\x01\x00", "a picture (GIF)"),
        (pickle.dumps([{"a": 1}]), "a Python pickle, which can run code"),
        (b"\x28\xb5\x2f\xfd\x00\x00\x00", "a Zstandard archive"),
        (b"BZh91AY&SY\x00\x01", "a bzip2 archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
        (b"SQLite format 3\x00", "an SQLite database"),
        (gzip.compress(gzip.compress(b"x", mtime=0), mtime=0), "a gzip file within a gzip file"),
        (gzip.compress(b"%PDF-1.7 \x00", mtime=0), "a PDF document"),
        (b"\x00\x01\xff\xfa\x9c" * 50, "binary data"),
    ],
)
def test_a_foreign_file_named_jsonl_is_refused_in_words(tmp_path, content, words):
    assert words in problem(write(tmp_path / "a.jsonl", content))


def test_damaged_files_are_told(tmp_path):
    assert "damaged or cut off" in problem(write(tmp_path / "a.jsonl.gz", gzip.compress(jsonl().encode())[:-20]))
    assert "damaged or cut off" in problem(write(tmp_path / "a.parquet", b"PAR1" + b"\x00" * 100))
    assert "content does not" in problem(write(tmp_path / "b.parquet", jsonl()))
    pq.write_table(pa.table({"a": ["x"] * 100}), tmp_path / "c.parquet")
    assert "damaged" in problem(write(tmp_path / "d.parquet", (tmp_path / "c.parquet").read_bytes()[:-9]))
    assert "gzipped Parquet" in problem(write(tmp_path / "e.gz", gzip.compress((tmp_path / "c.parquet").read_bytes())))


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    assert "no such file" in problem(tmp_path / "nothing.csv")
    assert "a folder" in problem(tmp_path)


def test_a_header_that_begins_like_a_magic_word_is_no_foreign_file(tmp_path):
    assert values(write(tmp_path / "a.csv", "ORC,b\n1,2\n")) == [{"ORC": "1", "b": "2"}]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=400),
        st.tuples(
            st.sampled_from(
                [
                    b"",
                    b"{",
                    b"[",
                    b"PAR1",
                    b"\x1f\x8b",
                    b"\xff\xfe",
                    b"\xef\xbb\xbf",
                    b'a,b\n"',
                    b'{"data": [',
                    b'[{"a":',
                ]
            ),
            st.binary(max_size=200),
        ).map(b"".join),
        st.text(alphabet='{}[]":,\n\r\t;|a1\\é\x00', max_size=200).map(str.encode),
    ),
    name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.txt", "a.csv.gz"]),
    encoding=st.sampled_from(["auto", "auto", "utf-8", "utf-16", "cp1252", "ascii", "shift_jis"]),
)
def test_arbitrary_bytes_give_rows_or_a_data_problem_and_nothing_else(tmp_path, content, name, encoding):
    try:
        for row in read_rows(open_source(write(tmp_path / name, content), encoding=encoding)):
            assert isinstance(row.values, dict) and row.number >= 1
    except DataProblem as refused:
        assert refused.what
