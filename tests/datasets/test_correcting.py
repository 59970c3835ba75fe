"""Rows corrected during an import: what was typed is stored, the file stays as it is, nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from workbench.datasets.correcting import MOST_LETTERS, CorrectedRows, editable, read_correction
from workbench.datasets.importing import ImportConfig, import_file, preview
from workbench.datasets.readers import SourceRow
from workbench.datasets.versions import iter_rows
from workbench.errors import DataProblem, UsageError
from workbench.job import RecordingJob
from workbench.store.datasets import get_version, list_datasets

MIXED = '{"instruction": "a", "output": "b"}\n{"instruction": "", "output": "c"}\n{broken\n{"instruction": "q"}\n'


@pytest.fixture
def job(store, tmp_path) -> RecordingJob:
    return RecordingJob(store, tmp_path / "job")


@pytest.fixture
def mixed(tmp_path) -> Path:
    path = tmp_path / "mixed.jsonl"
    path.write_text(MIXED)
    return path


def answers(store, version_id: str) -> list[str]:
    return [row.payload.messages[-1].content for row in iter_rows(store, get_version(store, version_id))]


def test_corrected_rows_are_imported_where_they_stand_and_dropped_ones_are_not(store, job, mixed):
    fixes = {"2": {"instruction": "fixed", "output": "two"}, "3": {"instruction": "new", "output": "three"}, "4": None}
    found = preview(mixed, corrections=fixes)
    assert (found.problem_count, found.rows_estimate, found.exact) == (0, 3, True)
    told = import_file(ImportConfig(source=mixed, dataset="d", corrections=fixes), job)
    assert answers(store, told["version_id"]) == ["b", "two", "three"] and told["problems"] == 0
    provenance = get_version(store, told["version_id"]).provenance
    assert (provenance["rows_corrected"], provenance["rows_dropped"]) == (2, 1)
    assert mixed.read_text() == MIXED


def test_a_correction_that_is_still_wrong_is_told_again_with_what_it_says_now(mixed):
    found = preview(mixed, corrections={"2": {"instruction": "x", "output": "  "}})
    assert [problem.row for problem in found.problems] == [2, 3, 4]
    assert found.bad_rows["2"] == {"instruction": "x", "output": "  "}
    assert found.bad_rows["3"] == {"broken_line": "{broken"} and found.bad_rows["4"] == {"instruction": "q"}


def test_a_correction_of_a_row_the_file_does_not_have_is_refused(store, job, mixed):
    config = ImportConfig(source=mixed, dataset="d", keep_good=True, corrections={"99": None})
    with pytest.raises(DataProblem, match="row 99 was corrected, but the file has no such row"):
        import_file(config, job)
    assert not list_datasets(store)


def test_dropping_every_row_is_told(store, job, mixed):
    fixes = dict.fromkeys("1234")
    assert "every row was dropped" in preview(mixed, corrections=fixes).difficulty
    with pytest.raises(DataProblem, match="every row was dropped"):
        import_file(ImportConfig(source=mixed, dataset="d", corrections=fixes), job)


def test_a_spreadsheet_row_is_corrected_by_its_number(store, job, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("instruction,output\na,b\nonly\n")
    assert preview(path).bad_rows == {"3": {"instruction": "only"}}
    config = ImportConfig(source=path, dataset="d", corrections={"3": {"instruction": "c", "output": "d"}})
    assert answers(store, import_file(config, job)["version_id"]) == ["b", "d"]


def test_a_large_file_takes_the_same_corrections(store, job, tmp_path):
    path = tmp_path / "large.jsonl"
    lines = [json.dumps({"instruction": f"q {n}", "output": f"a {n}"}) for n in range(1, 3001)]
    path.write_text("\n".join(lines))
    config = ImportConfig(
        source=path, dataset="d", corrections={"2500": {"instruction": "x", "output": "y"}, "1": None}
    )
    told = import_file(config, job)
    found = answers(store, told["version_id"])
    assert len(found) == 2999 and found[0] == "a 2" and found[2498] == "y"


@pytest.mark.parametrize("corrections", [{"0": None}, {"x": None}, {"-1": None}, {"1": "text"}, {"1": [1]}, "text"])
def test_corrections_that_name_no_row_are_refused(corrections):
    with pytest.raises(ValidationError):
        ImportConfig.model_validate({"source": "a", "dataset": "d", "corrections": corrections})
    ImportConfig.model_validate({"source": "a", "dataset": "d", "corrections": {18: None}})


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not valid JSON"), ("[1]", "not an object"), ("", "not valid JSON"), ('{"a": NaN}', "no such number"),
     ("[" * 100_000, "longer|nested|valid"), ('{"a": "' + "x" * MOST_LETTERS + '"}', "longer than")],
)  # fmt: skip
def test_what_is_no_row_is_refused_in_words(text, words):
    with pytest.raises(UsageError, match=words):
        read_correction(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=6), json_values, max_size=4))
def test_a_row_shown_for_editing_and_given_back_is_the_same_row(values):
    shown = editable(values)
    assert shown is not None and read_correction(json.dumps(shown, ensure_ascii=False)) == shown
    if "\\ud" not in ascii(values):
        assert shown == values


@given(
    st.lists(st.integers(1, 50), unique=True),
    st.dictionaries(st.integers(1, 50).map(str), st.none() | st.just({"a": 1})),
)
def test_only_named_rows_change(numbers, corrections):
    rows = CorrectedRows([SourceRow(number, {"n": number}) for number in numbers], corrections)
    found = {row.number: row.values for row in rows}
    for number in numbers:
        expected = corrections.get(str(number), {"n": number})
        assert found.get(number) == expected
    unused = set(corrections) - set(map(str, numbers))
    if unused:
        with pytest.raises(DataProblem, match=f"row {min(map(int, unused))} "):
            rows.check_all_used("f")
    else:
        rows.check_all_used("f")
