"""Export: what is written imports again to the same rows, whatever they say."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.datasets.exporting import export_version
from workbench.datasets.importing import ImportConfig, import_file
from workbench.datasets.versions import iter_rows, write_version
from workbench.errors import StoreProblem, UsageError
from workbench.job import RecordingJob
from workbench.records import Example, Labelled, Message, Preference, Prompt, new_id
from workbench.store.datasets import create_dataset, get_version

FORMATS = ("jsonl", "csv", "parquet")

text = st.text(min_size=1, max_size=25).filter(str.strip)
hostile = st.sampled_from([
    "=1+1", "+A1", "-2", "@x", '"', '""', "a,b;c\td|e", "line\r\nline\rline\n", "[", '[{"role": "user"}]', "{",
    "null", "NaN",
    "\ufeffa", "\x00a", "a\x00", "a\x85", "\u2028a", "\x1c1", "<noinput>", "007", "1e5", "True", " a ",
    "日本", "👩‍👩‍👧", "\\n",
])  # fmt: skip
content = st.one_of(text, hostile)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
metas = st.dictionaries(
    st.one_of(st.text(max_size=6), st.sampled_from(["meta", "messages", "prompt", "tools"])), values, max_size=3
)


@st.composite
def conversations(draw, ends_with: str = "assistant", extras: bool = True) -> tuple[Message, ...]:
    turns = [Message(role="system", content=draw(content))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 1))):
        turns.append(Message(role="user", content=draw(content), name=draw(st.none() | text) if extras else None))
        if extras and draw(st.booleans()):
            calls = draw(st.lists(values, min_size=1, max_size=2))
            turns.append(Message(role="assistant", content=draw(st.text(max_size=5)), tool_calls=calls))
            turns.append(Message(role="tool", content=draw(st.text(max_size=5)), tool_call_id=draw(st.none() | text)))
        turns.append(Message(role="assistant", content=draw(content)))
    turns.append(Message(role="user", content=draw(content)))
    if ends_with == "assistant":
        turns.append(Message(role="assistant", content=draw(content)))
    return tuple(turns)


simple = st.builds(
    lambda question, answer, meta: Example(
        messages=(Message(role="user", content=question), Message(role="assistant", content=answer)), meta=meta
    ),
    content, content, metas,
)  # fmt: skip
examples = st.builds(Example, messages=conversations(), tools=st.none() | st.lists(values, max_size=2), meta=metas)
answer = content.map(lambda said: (Message(role="assistant", content=said),))
preferences = st.builds(
    Preference,
    prompt=conversations("user"),
    chosen=answer,
    rejected=answer,
    weight=st.just(0.0) | st.floats(1e-9, 1e6),
    meta=metas,
).filter(lambda row: row.chosen != row.rejected)
prompts = st.builds(Prompt, messages=conversations("user"), reference=st.none() | content, meta=metas)
asked_once = content.map(lambda said: (Message(role="user", content=said),))
labels = st.builds(
    Labelled, prompt=asked_once | conversations("user"), completion=answer, label=st.booleans(),
    weight=st.just(1.0) | st.floats(1e-9, 1e6), meta=metas,
)  # fmt: skip
datasets = st.one_of(
    st.tuples(st.just("instructions"), st.lists(simple, min_size=1, max_size=4)),
    st.tuples(st.just("instructions"), st.lists(examples, min_size=1, max_size=4)),
    st.tuples(st.just("preferences"), st.lists(preferences, min_size=1, max_size=4)),
    st.tuples(st.just("labels"), st.lists(labels, min_size=1, max_size=4)),
    st.tuples(st.just("prompts"), st.lists(prompts, min_size=1, max_size=4)),
)


def again(store, path: Path, folder: Path):
    result = import_file(ImportConfig(source=path, dataset=new_id("again")), RecordingJob(store, folder))
    return get_version(store, result["version_id"])


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(datasets)
def test_what_is_exported_imports_to_the_same_rows(store, tmp_path, format, rows):
    kind, payloads = rows
    version = write_version(store, create_dataset(store, new_id("name"), kind).id, payloads)
    path = export_version(store, version, tmp_path / f"out.{format}")
    found = again(store, path, tmp_path / "job")
    assert [row.payload for row in iter_rows(store, found)] == payloads
    assert found.content_hash == version.content_hash


def small(store, *payloads):
    payloads = payloads or (
        Example(messages=(Message(role="user", content="q"), Message(role="assistant", content="a"))),
    )
    return write_version(store, create_dataset(store, new_id("name"), "instructions").id, payloads)


def test_the_files_have_the_form_that_other_tools_take(store, tmp_path):
    version = small(store)
    line = json.loads(export_version(store, version, tmp_path / "a.jsonl").read_text())
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert line == {"messages": turns}
    assert pq.read_table(export_version(store, version, tmp_path / "a.parquet")).to_pylist()[0]["messages"] == turns
    with export_version(store, version, tmp_path / "a.csv").open(encoding="utf-8-sig", newline="") as file:
        assert list(csv.DictReader(file)) == [{"prompt": "q", "completion": "a", "meta": ""}]


def test_labels_are_written_as_trls_kto_trainer_takes_them(store, tmp_path):
    row = Labelled(
        prompt=(Message(role="user", content="q"),), completion=(Message(role="assistant", content="a"),), label=False
    )
    version = write_version(store, create_dataset(store, "told", "labels").id, [row])
    line = json.loads(export_version(store, version, tmp_path / "a.jsonl").read_text())
    sides = {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}
    assert line == {**sides, "label": False, "weight": 1.0}
    table = pq.read_table(export_version(store, version, tmp_path / "a.parquet"))
    assert table.to_pylist()[0] == {**sides, "label": False, "weight": 1.0, "meta": None}
    with export_version(store, version, tmp_path / "a.csv").open(encoding="utf-8-sig", newline="") as file:
        expected = {"prompt": "q", "completion": "a", "label": "false", "weight": "1.0", "meta": ""}
        assert list(csv.DictReader(file)) == [expected]


def test_cells_that_a_spreadsheet_could_run_are_not_altered(store, tmp_path):
    risky = Example(messages=(Message(role="user", content="=cmd()"), Message(role="assistant", content="@a")))
    path = export_version(store, small(store, risky), tmp_path / "a.csv")
    assert "=cmd(),@a" in path.read_text(encoding="utf-8-sig")


def test_what_cannot_be_exported_is_told(store, tmp_path):
    version = small(store)
    with pytest.raises(UsageError, match="no such export format"):
        export_version(store, version, tmp_path / "a.xlsx")
    with pytest.raises(UsageError, match="folder does not exist"):
        export_version(store, version, tmp_path / "nowhere" / "a.csv")


def test_a_failed_export_leaves_the_old_file(store, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("old")
    version = small(store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreProblem, match="disk is full"):
        export_version(store, version, path)
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["a.jsonl"]
