"""Answers told good or bad: read from files, refused in words, kept through edits, counted, inspected, purged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_models import OWN_TEMPLATES, make_chat_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from workbench.datasets.checks import CheckReport, Finding, check_overlap, check_rows
from workbench.datasets.editing import check_payload, payload_from_json, payload_text
from workbench.datasets.formats import BAD_WORDS, GOOD_WORDS, detect_format, label_of
from workbench.datasets.importing import ImportConfig, import_file, preview
from workbench.datasets.inspecting import inspect_payload
from workbench.datasets.payloads import payload_from_plain
from workbench.datasets.purging import purge_row
from workbench.datasets.render import Renderer, load_renderer
from workbench.datasets.replacing import Replacement, preview_replacement
from workbench.datasets.row_drafts import blank_row, draft_row, read_row_draft
from workbench.datasets.statistics import describe
from workbench.datasets.versions import edit_version, iter_rows, read_page, write_version
from workbench.errors import DataProblem
from workbench.job import RecordingJob
from workbench.preferences.exports import export_for_trl
from workbench.records import Labelled, Message, Prompt, Row
from workbench.store import rankings as rank_store
from workbench.store.datasets import create_dataset, get_dataset, get_version, list_datasets


def labelled(prompt: str = "Name a colour", answer: str = "Blue", label: bool = True, **more: object) -> Labelled:
    asked = (Message(role="user", content=prompt),)
    return Labelled(
        prompt=asked,
        completion=(Message(role="assistant", content=answer),),
        label=label,
        **more,  # type: ignore[arg-type]
    )


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def take(store, tmp_path: Path, rows: list[dict[str, object]], **options: object):
    source = write(tmp_path / "rows.jsonl", rows)
    config = ImportConfig(source=source, dataset="told", **options)  # type: ignore[arg-type]
    return import_file(config, RecordingJob(store, tmp_path / "job"))


# ---- files ----


def test_a_download_for_trls_kto_trainer_comes_back_as_labels_and_not_as_examples_to_imitate(store, tmp_path):
    from tests.preferences.voting import make_queue, rank

    queue = make_queue(store, prompts=3)
    for item in rank_store.list_items(store, [queue.id]):
        rank(store, item, [[0], [1], [2]])
    path = export_for_trl(store, [queue.id], tmp_path / "kto.jsonl", "kto")
    seen = preview(path)
    assert (seen.format, seen.kind, seen.problems, seen.warnings) == ("labels", "labels", (), ())
    result = import_file(ImportConfig(source=path, dataset="back"), RecordingJob(store, tmp_path / "job"))
    assert (result["kind"], result["rows"], result["warnings"]) == ("labels", 6, [])
    found = [row.payload for row in iter_rows(store, get_version(store, result["version_id"]))]
    assert [(row.completion[0].content, row.label, row.weight) for row in found] == [
        each for n in range(3) for each in ((f"one says {n}", True, 1.0), (f"three says {n}", False, 1.0))
    ]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (True, True), (False, False), (1, True), (0, False), (1.0, True), (0.0, False), ("1.0", True), ("0.0", False),
        ("true", True), ("False", False), (" TRUE ", True), ("1", True), ("0", False), ("yes", True), ("no", False),
        ("good", True), ("Bad", False), ("desirable", True), ("undesirable", False),
        ("thumbs_up", True), ("thumbs-down", False), ("👍", True), ("👎🏾", False), ("👍️", True),
        (None, None), ("", None), (2, None), (-1, None), ("-1", None), (0.5, None), ("meh", None), ([True], None),
        (float("nan"), None),
    ],
)  # fmt: skip
def test_a_label_is_what_says_good_or_bad_and_nothing_else(value, label):
    assert label_of(value) is label


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.binary(), st.lists(st.booleans())))
def test_whatever_stands_in_a_cell_is_good_bad_or_neither(value):
    assert label_of(value) in (True, False, None)
    assert not GOOD_WORDS & BAD_WORDS


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a colour", "completion": "Blue", "label": True},
        {"prompt": "Name a colour", "response": "Blue", "thumbs": "👍"},
        {"Prompt": "Name a colour", "Completion": "Blue", "Label": "good"},
        {"prompt": [{"role": "user", "content": "Name a colour"}],
         "completion": [{"role": "assistant", "content": "Blue"}], "label": 1},
        {"prompt": json.dumps([{"from": "human", "value": "Name a colour"}]), "completion": "Blue", "label": "true"},
    ],
)  # fmt: skip
def test_every_way_to_write_a_labelled_answer_gives_the_same_one(store, tmp_path, row):
    result = take(store, tmp_path, [row])
    assert [each.payload for each in iter_rows(store, get_version(store, result["version_id"]))] == [labelled()]


def test_a_label_that_is_neither_refuses_its_row_by_number_and_stores_nothing(store, tmp_path):
    rows = [
        {"prompt": "q1", "completion": "a", "label": True},
        {"prompt": "q2", "completion": "b", "label": "perhaps"},
        {"prompt": "q3", "completion": "c", "label": False},
        {"prompt": "q4", "completion": "d", "label": None},
        {"prompt": "q5", "completion": "e", "label": False, "weight": 0},
        {"prompt": "q6", "completion": "f", "label": False, "weight": -1},
    ]
    seen = preview(write(tmp_path / "rows.jsonl", rows))
    assert [(problem.row, problem.column) for problem in seen.problems] == [
        (2, "label"), (4, "label"), (5, "weight"), (6, "weight"),
    ]  # fmt: skip
    assert "does not say whether the answer is good or bad" in seen.problems[0].what
    assert seen.problems[1].what == "empty"
    with pytest.raises(DataProblem, match=r"row 2, column 'label'"):
        take(store, tmp_path, rows)
    assert not list_datasets(store)
    assert take(store, tmp_path, rows, keep_good=True)["rows"] == 2


@pytest.mark.parametrize(("label", "word"), [(True, "good"), (False, "bad")])
def test_a_file_with_one_label_only_is_imported_with_a_warning(store, tmp_path, label, word):
    rows = [{"prompt": f"q{n}", "completion": "a", "label": label} for n in range(3)]
    (told,) = preview(write(tmp_path / "rows.jsonl", rows)).warnings
    assert f"All 3 answers are labelled {word}" in told
    result = take(store, tmp_path, rows)
    assert result["rows"] == 3 and result["warnings"] == [told]


def test_a_label_far_into_the_file_still_counts(store, tmp_path):
    rows = [{"prompt": f"q{n}", "completion": "a", "label": n < 1500} for n in range(1501)]
    assert preview(write(tmp_path / "rows.jsonl", rows)).warnings  # of the first thousand
    assert take(store, tmp_path, rows)["warnings"] == []


def test_a_label_that_is_a_topic_leaves_rows_to_be_examples(store, tmp_path):
    rows = [{"prompt": f"q{n}", "completion": "a", "label": topic} for n, topic in enumerate(["sport", "news", "no"])]
    seen = preview(write(tmp_path / "rows.jsonl", rows))
    assert (seen.format, seen.kind, seen.warnings) == ("prompt_completion", "instructions", ())
    assert detect_format(list(rows[0]), rows, format_name="labels").format.kind == "labels"


@pytest.mark.parametrize("columns", [("prompt", "completion"), ("instruction", "output")])
@pytest.mark.parametrize("written", [int, float, str])
def test_topics_and_grades_that_are_numbers_call_no_answer_good_or_bad(tmp_path, columns, written):
    rows = [{**dict.fromkeys(columns, f"q{n}"), "label": written(n % 3)} for n in range(30)]
    seen = preview(write(tmp_path / "rows.jsonl", rows))
    assert (seen.kind, seen.warnings, seen.problems) == ("instructions", (), ())


def test_one_number_that_is_no_label_among_labels_is_a_problem_of_its_row(tmp_path):
    rows = [{"prompt": f"q{n}", "completion": "a", "label": 2 if n == 7 else n % 2} for n in range(30)]
    seen = preview(write(tmp_path / "rows.jsonl", rows))
    assert seen.kind == "labels" and [problem.row for problem in seen.problems] == [8]


def test_bad_answers_are_warned_of_though_most_cells_are_empty(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("instruction,output,feedback\n" + "q,a,\n" * 9 + "q,a,down\n")
    assert "'feedback' calls some of these answers bad" in preview(path).warnings[0]


@pytest.mark.parametrize("options", [{"format": "prompt_completion"}, {"kind": "instructions"}])
def test_bad_answers_taken_as_examples_on_request_are_warned_of(store, tmp_path, options):
    rows = [{"prompt": "q", "completion": "a", "label": True}, {"prompt": "r", "completion": "b", "label": False}]
    (told,) = preview(write(tmp_path / "rows.jsonl", rows), **options).warnings
    assert "'label' calls some of these answers bad" in told and "imitate" in told
    assert take(store, tmp_path, rows, **options)["warnings"] == [told]


def test_alpaca_rows_that_are_read_in_blocks_are_warned_of_too(store, tmp_path):
    rows = [{"instruction": f"q{n}", "output": "a", "label": ("yes", "no")[n % 2]} for n in range(5)]
    result = take(store, tmp_path, rows)
    assert result["kind"] == "instructions" and "calls some of these answers bad" in result["warnings"][0]


said = st.text(min_size=1, max_size=20).filter(str.strip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(labelled, said, said, st.booleans(), weight=st.floats(1e-3, 1e3), meta=st.just({"topic": "t"})),
        min_size=1, max_size=5,
    ),
    st.sampled_from(["jsonl", "csv", "parquet"]),
)  # fmt: skip
def test_labels_are_exported_and_imported_to_the_same_rows(store, tmp_path, rows, ending):
    from workbench.datasets.exporting import export_version
    from workbench.records import new_id

    version = write_version(store, create_dataset(store, new_id("name"), "labels").id, rows)
    path = export_version(store, version, tmp_path / f"out.{ending}")
    result = import_file(ImportConfig(source=path, dataset=new_id("back")), RecordingJob(store, tmp_path / "job"))
    back = get_version(store, result["version_id"])
    assert [row.payload for row in iter_rows(store, back)] == rows and back.content_hash == version.content_hash
    assert result["kind"] == "labels" and bool(result["warnings"]) == (len({row.label for row in rows}) == 1)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_exported_version_trains_trls_kto_trainer_one_step_as_it_is(store, tmp_path, ending):
    import torch
    import trl
    from datasets import disable_progress_bars, load_dataset
    from tiny import make_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from workbench.datasets.exporting import export_version

    torch.set_num_threads(1)
    disable_progress_bars()
    rows = [labelled(f"q {n}", f"answer {n}", n % 2 == 0, meta={"topic": "t"}) for n in range(4)]
    version = write_version(store, create_dataset(store, "told", "labels").id, rows)
    path = export_version(store, version, tmp_path / f"out.{ending}")
    form = "json" if ending == "jsonl" else "parquet"
    data = load_dataset(form, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    folder = make_model(tmp_path / "model")
    config = trl.KTOConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=2, report_to=[], disable_tqdm=True,
        use_cpu=True, bf16=False, save_strategy="no", logging_steps=1, max_length=128,
    )  # fmt: skip
    made = trl.KTOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), args=config, train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )  # fmt: skip
    assert made.train().global_step == 1


# ---- rows by hand ----


def test_a_weight_is_above_nothing_and_finite():
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            labelled(weight=weight)


def test_a_labelled_row_is_edited_and_read_back_as_it_was(store):
    version = write_version(store, create_dataset(store, "told", "labels").id, [labelled(), labelled("q", "a", False)])
    first, second = iter_rows(store, version)
    draft = draft_row(second.payload)
    assert (draft.label, draft.completion[0].content, read_row_draft("labels", draft)) == (
        False, "a", (second.payload, []),
    )  # fmt: skip
    payload, problems = read_row_draft("labels", draft.model_copy(update={"label": True, "weight": 2.0}))
    assert payload is not None and not problems
    edited = edit_version(store, version, replaced={second.row_id: payload})
    assert [row.payload for row in iter_rows(store, edited)] == [first.payload, labelled("q", "a", True, weight=2.0)]
    assert read_row_draft("labels", blank_row("labels"))[1]
    assert "greater than 0" in read_row_draft("labels", draft.model_copy(update={"weight": 0.0}))[1][0].what


def test_a_labelled_row_is_written_as_json_and_told_as_text():
    row = payload_from_json("labels", {"prompt": "q", "completion": "a", "label": "bad", "weight": 0.5})
    assert row == labelled("q", "a", False, weight=0.5)
    assert "[bad assistant]\na" in payload_text(row) and "[weight]\n0.5" in payload_text(row)
    with pytest.raises(DataProblem, match="needs 'label'"):
        payload_from_json("labels", {"prompt": "q", "completion": "a"})
    with pytest.raises(DataProblem, match="needs 'completion'"):
        payload_from_json("labels", {"prompt": "q", "label": True})


def test_a_labelled_row_keeps_the_rules_of_turns():
    turn = Message(role="assistant", content="x")
    assert not check_payload(labelled())
    (wrong,) = check_payload(Labelled(prompt=(turn,), completion=(turn,), label=True))
    assert wrong.place == "prompt"
    (wrong,) = check_payload(labelled(answer=" "))
    assert wrong.place == "answer" and "empty" in wrong.what


def test_find_and_replace_reaches_prompt_and_answer():
    found = preview_replacement([("a", labelled("red cat", "blue cat"))], Replacement(find="cat", replace="dog"))
    assert [turn.title for turn in found.changed[0].turns] == ["turn 1, user", "answer, turn 1, assistant"]
    assert found.changed[0].payload == labelled("red dog", "blue dog")


# ---- versions ----


def test_answers_are_found_and_counted(store):
    rows = [labelled("q", "a sunny day"), labelled("q", "rain", False), labelled("r", "fog", False)]
    version = write_version(store, create_dataset(store, "told", "labels").id, rows)
    assert [row.payload for row in read_page(store, version, search="SUNNY").rows] == [rows[0]]
    figures = describe(store, version)
    assert (figures.rows, figures.turns, figures.good, figures.repeated_prompts) == (3, 6, 1, 1)
    assert figures.answer_characters.maximum == len("a sunny day")
    asked = write_version(store, create_dataset(store, "asked", "prompts").id, [Prompt(messages=rows[0].prompt)])
    assert describe(store, asked).good is None


def test_a_purged_answer_is_gone_from_every_version(store):
    secret = "call me at 030 123456 please"
    dataset = create_dataset(store, "told", "labels")
    version = write_version(store, dataset.id, [labelled(answer=secret, label=False), labelled()])
    gone = next(iter(iter_rows(store, version))).row_id
    report = purge_row(store, dataset.id, gone)
    assert report.row_ids == (gone,)
    assert [row.payload for row in iter_rows(store, get_version(store, version.id))] == [labelled()]
    assert not any(secret.encode() in path.read_bytes() for path in store.settings.home.rglob("*") if path.is_file())
    assert get_dataset(store, dataset.id).kind == "labels"


# ---- tokens and checks ----


@pytest.fixture
def renderer(tmp_path: Path) -> Renderer:
    return load_renderer(
        make_chat_folder(tmp_path / "model", (OWN_TEMPLATES / "chatml.jinja").read_text(), ["<|im_end|>"])
    )


def row(row_id: str, payload: Labelled) -> Row:
    return Row(row_id=row_id, row_hash=row_id, payload=payload)


def finding(report: CheckReport, gate: str) -> Finding:
    (found,) = [one for one in report.findings if one.gate == gate]
    return found


def test_the_answer_is_what_is_learned_whatever_its_label(renderer):
    for label, title in ((True, "Good answer"), (False, "Bad answer")):
        (shown,) = inspect_payload(labelled(label=label), renderer)
        learned = "".join(chip.text for chip in shown.chips if chip.supervised)
        assert shown.title == title and learned.startswith("Blue") and 0 < shown.supervised < shown.tokens


def test_answers_called_good_and_bad_are_soft_and_hard_where_nothing_is_left(renderer):
    good, bad = row("good", labelled()), row("bad", labelled(label=False))
    other = row("other", labelled(answer="Red", label=False))
    report = check_rows([good, bad, other], renderer)
    assert finding(report, "opposed_labels").row_ids == ("good", "bad") and report.passed
    assert report.training_rows == 3
    assert not check_rows([good, bad], renderer).passed  # one against one says nothing
    assert check_rows([row("good", labelled(weight=2.0)), bad], renderer).passed


def test_one_label_alone_and_a_prompt_that_fills_the_row_are_told(renderer):
    rows = [row(f"r{n}", labelled(f"q{n}", label=False)) for n in range(3)]
    found = finding(check_rows(rows, renderer), "one_label")
    assert (found.severity, found.count, found.row_ids) == ("soft", 3, ("r0", "r1", "r2"))
    long = row("long", labelled("a long question " * 10))
    length = len(renderer.prompt_ids(long.payload.prompt))
    assert finding(check_rows([long], renderer, length), "prompt_too_long").severity == "hard"


def test_held_out_prompts_that_training_asks_too_are_found():
    report = check_overlap([row("t", labelled("What is  Go?"))], [row("h", labelled("what is go?", "A game", False))])
    assert finding(report, "overlap").row_ids == ("h",)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e300, 1e-300, -1, True, "heavy"])
def test_a_weight_that_no_loss_can_hold_is_refused_by_hand_as_in_a_file(weight: object) -> None:
    row = {"prompt": "Hi?", "chosen": "Hello", "rejected": "No", "weight": weight}
    with pytest.raises(DataProblem, match="is no weight") as refused:
        payload_from_json("preferences", row, place="row 3")
    assert refused.value.place == "row 3, weight"


def test_a_row_that_was_stored_with_a_larger_weight_can_still_be_read() -> None:
    turn = {"role": "assistant", "content": "Hello"}
    asked = [{"role": "user", "content": "Hi?"}]
    kept = payload_from_plain("preferences", {"prompt": asked, "chosen": [turn], "rejected": [turn], "weight": 5e7})
    assert kept.model_dump()["weight"] == 5e7
