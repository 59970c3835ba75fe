"""The fast way through JSON Lines gives what the way row by row gives, to the byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.datasets import bulk, importing
from workbench.datasets.importing import ImportConfig, import_file
from workbench.datasets.readers import open_source
from workbench.datasets.versions import iter_encoded
from workbench.errors import DataProblem
from workbench.job import RecordingJob
from workbench.records import new_id
from workbench.store.datasets import get_version

cells = st.one_of(
    st.text(max_size=12),
    st.text(alphabet='a"\\/\n\t\r\b\f\x00\x1f\x7f\x85\u2028é日👩<>', max_size=6),
    st.sampled_from(
        ["<noinput>", " <NoInput> ", "<no input>", " ", "", "\u3000", "no input> here", "{", "}\n{", "\\u0001"]
    ),
)
rows = st.fixed_dictionaries(
    {"instruction": cells, "output": cells},
    optional={"input": cells | st.none(), "topic": cells | st.none(), "o'k \"é": cells, "number": st.integers()},
)
lines = st.one_of(
    st.builds(lambda row, plain: json.dumps(row, ensure_ascii=plain), rows, st.booleans()),
    st.sampled_from([
        "", "  ", "{broken", '{"instruction": "a", "output": "\\ud800"}', '{"instruction": "a"} {"output": "b"}', "[1]",
        '{"instruction": "a", "instruction": "b", "output": "c"}', '{"instruction": NaN, "output": "x"}',
    ]),
)  # fmt: skip
good = {"instruction": "q", "input": "i", "output": "a", "topic": "t", "o'k \"é": "v"}


def outcome(store, path, folder) -> object:
    job = RecordingJob(store, folder)
    try:
        result = import_file(ImportConfig(source=path, dataset=new_id("d"), format="alpaca", keep_good=True), job)
    except DataProblem as problem:
        return problem.sentence()
    found = get_version(store, result["version_id"])
    problems = (folder / "problems.csv").read_text() if result["problems"] else ""
    return found.content_hash, [text for _, _, text in iter_encoded(store, found)], problems, job.told.done


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(lines, max_size=8), st.sampled_from([20, 200, 1 << 20]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_blocks_give_the_same_rows_and_problems_as_single_rows(store, tmp_path, monkeypatch, some, size, end, last):
    path = tmp_path / "a.jsonl"
    path.write_bytes((end.join([json.dumps(good), *some]) + (end if last else "")).encode())
    folder = tmp_path / "job"
    with monkeypatch.context() as patch:
        patch.setattr(importing, "SAMPLE_ROWS", 1)
        patch.setattr(bulk, "BLOCK_BYTES", size)
        fast = outcome(store, path, folder)
        patch.setattr(importing, "fits_bulk", lambda *_: False)
        assert fast == outcome(store, path, folder)


@pytest.mark.parametrize("extra", [{}, {"topic": "t"}, {"input": "more"}])
def test_plain_good_rows_really_take_the_fast_way(tmp_path, extra):
    path = tmp_path / "a.jsonl"
    values = [{"instruction": f'say "{n}"', "output": "é\n\\", **extra} for n in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in values))
    source = open_source(path)
    reading = importing.detect_format(list(values[0]), values)
    assert bulk.fits_bulk(source, reading, values)
    blocks = list(bulk.iter_blocks(source, reading, list(values[0]), 1))
    assert [block.count for block in blocks] == [100] and blocks[0].payloads is not None
