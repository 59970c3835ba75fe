"""Import: preview, all or nothing, the good rows on request, and what is said when it cannot be done."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from workbench.datasets import importing
from workbench.datasets.importing import ImportConfig, import_file, preview
from workbench.datasets.segments import Staging
from workbench.datasets.starter import install_kit
from workbench.datasets.versions import iter_rows, read_page
from workbench.errors import Conflict, DataProblem, Stopped, StoreProblem, UsageError
from workbench.job import RecordingJob
from workbench.records import Example, utc_now
from workbench.store.datasets import create_dataset, get_version, list_datasets, update_dataset


@pytest.fixture
def job(store, tmp_path) -> RecordingJob:
    return RecordingJob(store, tmp_path / "job")


def alpaca(count: int, start: int = 0) -> list[dict]:
    return [
        {"instruction": f"question {n}", "output": f"answer {n}", "topic": "t"} for n in range(start, start + count)
    ]


def write(path: Path, rows: list[dict | str]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


MIXED: list[dict | str] = [
    *alpaca(3), {"instruction": "", "output": "a"}, "{broken", *alpaca(2, 3), {"instruction": "q", "output": "\ud800"},
    {"instruction": "q"},
]  # fmt: skip


def nothing_stored(store) -> bool:
    folder = store.settings.datasets_dir
    return not list_datasets(store) and not list(folder.glob("ds_*")) and not list(folder.glob(".writing/ver_*"))


def test_a_file_becomes_a_dataset_with_its_provenance(store, job, tmp_path):
    path = write(tmp_path / "a.jsonl", alpaca(5000))
    result = import_file(ImportConfig(source=path, dataset="mine", description="words"), job)
    dataset, version = list_datasets(store)[0], get_version(store, result["version_id"])
    assert (dataset.name, dataset.kind, dataset.description) == ("mine", "instructions", "words")
    assert result["rows"] == version.rows == 5000 and result["problems"] == 0 and result["bad_rows_path"] is None
    assert version.provenance["source"] == "a.jsonl" and version.provenance["format"] == "alpaca"
    assert version.provenance["run_id"] == job.run_id
    row = read_page(store, version, offset=4999).rows[0].payload
    assert isinstance(row, Example) and row.meta == {"topic": "t"} and row.messages[1].content == "answer 4999"
    assert job.told.done == 5000 and "reading" in job.phases
    assert not list(job.folder.iterdir())
    json.dumps(result)


def test_a_second_import_is_a_new_version_that_keeps_row_ids(store, job, tmp_path):
    first = import_file(ImportConfig(source=write(tmp_path / "a.jsonl", alpaca(5)), dataset="mine"), job)
    second = import_file(ImportConfig(source=write(tmp_path / "b.jsonl", alpaca(6)), dataset="mine"), job)
    one, two = (get_version(store, result["version_id"]) for result in (first, second))
    assert (two.number, two.parent_id, two.dataset_id) == (2, one.id, one.dataset_id)
    assert [row.row_id for row in iter_rows(store, two)][:5] == [row.row_id for row in iter_rows(store, one)]


def test_with_any_problem_nothing_is_stored_and_every_problem_is_listed(store, job, tmp_path):
    path = write(tmp_path / "a.jsonl", MIXED)
    with pytest.raises(DataProblem) as caught:
        import_file(ImportConfig(source=path, dataset="mine"), job)
    text = caught.value.sentence()
    assert "4 rows have problems, nothing was stored" in text and "import the good rows" in text
    assert "row 4, column 'instruction': empty" in text and "… and 1 more" in text
    assert nothing_stored(store)
    with (job.folder / "problems.csv").open(encoding="utf-8-sig", newline="") as file:
        problems = list(csv.DictReader(file))
    assert [row["row"] for row in problems] == ["4", "5", "8", "9"]
    assert all(row["what"] and row["remedy"] for row in problems)
    assert "surrogate" in problems[2]["what"]


def test_the_good_rows_are_stored_on_request_and_the_bad_ones_saved(store, job, tmp_path):
    path = write(tmp_path / "a.jsonl", MIXED)
    result = import_file(ImportConfig(source=path, dataset="mine", keep_good=True), job)
    assert (result["rows"], result["problems"]) == (5, 4)
    bad = [json.loads(line) for line in Path(result["bad_rows_path"]).read_text().splitlines()]
    assert bad[0] == {"instruction": "", "output": "a"} and bad[1] == {"broken_line": "{broken"}
    version = get_version(store, result["version_id"])
    assert version.provenance["rows_left_out"] == 4
    assert [row.payload.messages[0].content for row in iter_rows(store, version)] == [f"question {n}" for n in range(5)]


def test_when_no_row_is_good_nothing_is_stored_even_on_request(store, job, tmp_path):
    rows: list[dict | str] = [{"instruction": "", "output": "a"}] * 3
    with pytest.raises(DataProblem, match="none of the 3 rows can be imported"):
        import_file(ImportConfig(source=write(tmp_path / "a.jsonl", rows), dataset="mine", keep_good=True), job)
    with pytest.raises(DataProblem, match="none of the first 2 rows can be read"):
        import_file(ImportConfig(source=write(tmp_path / "a.jsonl", ["{x", "{y"]), dataset="mine", keep_good=True), job)
    assert nothing_stored(store)


def test_a_problem_far_into_the_file_still_leaves_nothing(store, job, tmp_path):
    path = write(tmp_path / "a.jsonl", [*alpaca(7000), {"instruction": "q", "output": ""}, *alpaca(10)])
    with pytest.raises(DataProblem, match="1 row has a problem"):
        import_file(ImportConfig(source=path, dataset="mine"), job)
    assert nothing_stored(store)


def test_a_file_that_breaks_off_leaves_nothing(store, job, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(alpaca(3000))[:-40])
    with pytest.raises(DataProblem, match="item 3000"):
        import_file(ImportConfig(source=path, dataset="mine", keep_good=True), job)
    assert nothing_stored(store)


def test_a_full_disk_is_told_and_nothing_is_stored(store, job, tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", alpaca(10))
    with monkeypatch.context() as patch:
        patch.setattr(Staging, "path", lambda self, name: Path("/dev/full"))
        with pytest.raises(StoreProblem, match="disk is full"):
            import_file(ImportConfig(source=path, dataset="mine"), job)
    assert list_datasets(store) == []
    assert import_file(ImportConfig(source=path, dataset="mine"), job)["rows"] == 10


def test_stop_leaves_nothing(store, job, tmp_path):
    job._left = 1
    with pytest.raises(Stopped):
        import_file(ImportConfig(source=write(tmp_path / "a.jsonl", alpaca(9000)), dataset="mine"), job)
    assert nothing_stored(store)


def test_a_dataset_of_another_kind_or_put_away_is_refused(store, job, tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    dataset = create_dataset(store, "mine", "instructions")
    with pytest.raises(UsageError, match="holds instructions, the file gives preferences"):
        import_file(ImportConfig(source=path, dataset="mine", format="preference"), job)
    with pytest.raises(DataProblem, match="fit"):
        import_file(ImportConfig(source=path, dataset="mine"), job)
    update_dataset(store, dataset.id, archived_at=utc_now())
    with pytest.raises(Conflict, match="put away"):
        import_file(ImportConfig(source=path, dataset="mine"), job)


def test_an_import_that_fails_at_its_last_step_leaves_no_empty_dataset_of_its_own(store, job, tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", alpaca(3))
    create_dataset(store, "mine", "instructions")

    def refuse(*_, **__):
        raise StoreProblem("the disk is full")

    monkeypatch.setattr(Staging, "publish", refuse)
    for name in ("mine", "other"):
        with pytest.raises(StoreProblem, match="full"):
            import_file(ImportConfig(source=path, dataset=name), job)
    with pytest.raises(StoreProblem, match="full"):
        install_kit(store, "assistant")
    assert [found.name for found in list_datasets(store)] == ["mine"]


def test_the_kind_of_an_existing_dataset_decides_between_readings(store, job, tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}])
    create_dataset(store, "mine", "instructions")
    assert import_file(ImportConfig(source=path, dataset="mine"), job)["kind"] == "instructions"
    assert import_file(ImportConfig(source=path, dataset="other"), job)["kind"] == "prompts"


def test_a_table_with_a_mapping_is_imported(store, job, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('Frage;Antwort\n"Was, bitte?";"Zeile 1\nZeile 2"\n', encoding="cp1252")
    config = ImportConfig(source=path, dataset="mine", mapping={"instruction": "Frage", "output": "Antwort"})
    version = get_version(store, import_file(config, job)["version_id"])
    row = next(iter_rows(store, version)).payload
    assert [message.content for message in row.messages] == ["Was, bitte?", "Zeile 1\nZeile 2"]


def test_a_preview_tells_what_an_import_would_do(tmp_path):
    found = preview(write(tmp_path / "a.jsonl", MIXED), limit=2)
    assert (found.file, found.encoding, found.format, found.kind) == ("JSON Lines", "utf-8", "alpaca", "instructions")
    assert found.columns == ("instruction", "output", "topic")
    assert found.mapping == {"instruction": "instruction", "output": "output"}
    assert len(found.samples) == 2 and found.problem_count == len(found.problems) == 4
    assert (found.rows_checked, found.rows_estimate, found.exact) == (9, 9, True)
    found.model_dump_json()


def test_a_preview_of_a_large_file_estimates_its_rows(tmp_path):
    found = preview(write(tmp_path / "a.jsonl", alpaca(20_000)))
    assert found.rows_checked == importing.PREVIEW_ROWS and not found.exact
    assert 18_000 < found.rows_estimate < 22_000


def test_a_preview_tells_that_no_format_fits(tmp_path, shared_data):
    found = preview(shared_data / "self_instruct_seed_tasks.jsonl")
    assert found.format == "" and "id, name, instruction, instances, is_classification" in found.difficulty
    assert found.rows_checked == 175 and found.samples == () and found.raw
    assert preview(shared_data / "mt_bench_questions.jsonl").difficulty
    broken = preview(write(tmp_path / "a.jsonl", ["{x", "{y"]))
    assert broken.difficulty and broken.problem_count == 2


def test_a_preview_refuses_what_is_no_table(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"PK\x03\x04" + b"x" * 100)
    with pytest.raises(DataProblem, match="zip archive"):
        preview(tmp_path / "a.jsonl")
