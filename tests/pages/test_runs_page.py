"""Runs: the list with its filters, one run's page in every state, and comparing runs."""

from __future__ import annotations

import json

import pytest
from page_helpers import add_sft, finish_with_variant, labels, open_page, press, words

from workbench.datasets.versions import write_version
from workbench.models.adding import ensure_bundled
from workbench.preferences.intervals import bootstrap_mean
from workbench.records import Message, Prompt, Run, RunState, utc_now
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.datasets import create_dataset
from workbench.training.divergence import ROWS
from workbench.ui import links
from workbench.ui.run_compare import differences, run_labels


def test_an_empty_list_says_what_a_run_is_and_offers_one(store: Store) -> None:
    app = open_page(links.RUNS)
    assert labels(app) == ["Set up a run"]
    assert "No run yet" in words(app)


def test_the_list_is_filtered_by_text_and_state(store: Store) -> None:
    add_sft(store, "Alpha", RunState.FINISHED)
    add_sft(store, "Beta 100%", RunState.FAILED)
    app = open_page(links.RUNS)
    assert list(app.dataframe[0].value["name"]) == ["Beta 100%", "Alpha"]
    app.text_input(key="runs.q").set_value("100%").run()
    assert list(app.dataframe[0].value["name"]) == ["Beta 100%"]
    app.text_input(key="runs.q").set_value("").run()
    app.multiselect(key="runs.states").set_value([RunState.FINISHED]).run()
    assert list(app.dataframe[0].value["name"]) == ["Alpha"]
    app.text_input(key="runs.q").set_value("nothing like it").run()
    assert "No run fits these filters." in words(app)


def test_the_list_is_paged_in_the_store(store: Store) -> None:
    for number in range(27):
        run_store.add_run(store, kind="import", name=f"Import {number}", slot="nowhere", spec={})
    app = open_page(links.RUNS)
    assert len(app.dataframe[0].value) == 25
    app.session_state["runs.page"] = 2
    app.run()
    assert list(app.dataframe[0].value["name"]) == ["Import 1", "Import 0"]


@pytest.mark.parametrize("state", list(RunState))
def test_a_run_page_shows_every_state_without_an_error_of_its_own(store: Store, state: RunState) -> None:
    run = add_sft(store, "One", state)
    app = open_page(links.RUNS, run=run.id)
    assert app.title[0].value == "One"
    assert ("Stop" in labels(app)) is state.active
    assert ("Resume" in labels(app)) is state.resumable
    assert "Clone" in labels(app)
    metrics = {metric.label: metric.value for metric in app.metric}
    assert metrics["Held-out loss"] == "1.25"


def test_a_failed_run_says_why_and_what_to_do(store: Store) -> None:
    run = add_sft(store, "One", RunState.FAILED)
    app = open_page(links.RUNS, run=run.id)
    shown = app.error[0].value.replace("\\", "")
    assert "Memory ran out" in shown
    assert "Lower tokens_per_batch." in shown


def test_an_unknown_run_is_told_in_words(store: Store) -> None:
    app = open_page(links.RUNS, run="run_nothing")
    assert "No such run" in app.error[0].value


def test_sample_answers_are_shown_as_text(store: Store) -> None:
    run = add_sft(store, "One", RunState.FINISHED)
    app = open_page(links.RUNS, run=run.id)
    app.session_state["run.tabs.sft"] = "Sample answers"
    app.run()
    assert "<script>hi</script>" in [text.value for text in app.text]
    assert not app.html


def test_every_tab_of_a_run_can_be_opened(store: Store) -> None:
    run, _, _ = finish_with_variant(store, "One")
    add_sft(store, "Two", RunState.FINISHED, learning_rate=0.01)
    path = store.settings.run_dir(run.id) / "held_out_rows.jsonl"
    path.write_text("".join(json.dumps({"row_id": f"r{n}", "loss": 3 - n / 10, "tokens": 5}) + "\n" for n in range(30)))
    app = open_page(links.RUNS, run=run.id)
    for tab in ("Charts", "Sample answers", "Held-out rows", "Compare", "Settings", "Log", "Notes"):
        app.session_state["run.tabs.sft"] = tab
        app.run()
        assert not app.exception, tab
        assert not app.error, tab
        if tab == "Settings":
            assert app.code[0].value.startswith("workbench train sft ")
        if tab == "Held-out rows":
            assert list(app.dataframe[0].value["loss"])[:2] == [3.0, 2.9]


def test_name_tags_and_notes_are_saved(store: Store) -> None:
    run = add_sft(store, "One", RunState.FINISHED)
    app = open_page(links.RUNS, run=run.id)
    app.session_state["run.tabs.sft"] = "Notes"
    app.run()
    app.text_input[0].set_value("Renamed")
    app.text_area[0].set_value("looks good")
    app.form_submit_button[0].click().run()
    saved = run_store.get_run(store, run.id)
    assert (saved.name, saved.notes) == ("Renamed", "looks good")
    app.session_state["run.tabs.sft"] = "Notes"
    app.run()
    app.text_input[0].set_value("   ")
    app.form_submit_button[0].click().run()
    assert "needs a name" in app.error[0].value


def test_archiving_hides_a_run_until_asked_for(store: Store) -> None:
    run = add_sft(store, "One", RunState.FINISHED)
    add_sft(store, "Two", RunState.FINISHED)
    press(open_page(links.RUNS, run=run.id), "Archive")
    app = open_page(links.RUNS)
    assert list(app.dataframe[0].value["name"]) == ["Two"]
    app.toggle(key="runs.archived").set_value(True).run()
    assert set(app.dataframe[0].value["name"]) == {"One", "Two"}


def test_runs_given_in_the_address_are_laid_over_each_other(store: Store) -> None:
    one = add_sft(store, "Same name", RunState.FINISHED, lora_r=8)
    two = add_sft(store, "Same name", RunState.FINISHED, lora_r=64)
    app = open_page(links.RUNS, **{"run": one.id, "with": two.id})
    table = app.dataframe[0].value
    assert list(table.loc["lora_r"]) == ["8", "64"]
    assert "epochs" not in table.index


def test_only_differences_are_listed(store: Store) -> None:
    runs = [add_sft(store, "A", RunState.FINISHED, seed=1), add_sft(store, "B", RunState.FINISHED, seed=2)]
    table = differences(runs, run_labels(runs))
    assert "seed" in table.index
    assert "model" not in table.index


def test_a_queued_run_says_what_it_waits_for(store: Store) -> None:
    add_sft(store, "First", RunState.RUNNING)
    run = add_sft(store, "Second", RunState.QUEUED)
    app = open_page(links.RUNS, run=run.id)
    assert "It starts when this one ends:" in words(app)
    assert "First" in [link.label for link in app.get("page_link")]


def test_the_page_of_a_kl_run_tells_what_was_measured_with_the_answers(store: Store) -> None:
    run, _ = measured_kl(store)
    app = open_page(links.RUNS, run=run.id)
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["KL of an answer"] == "1.5" and shown["95 % interval"] == "1 to 2.25"
    assert "tuned" in words(app) and "the base" in words(app)
    assert list(app.dataframe[0].value["answer"]) == ["Hello there"]


def test_a_training_run_lists_the_kl_of_its_variant_and_launches_another(store: Store) -> None:
    kl, trained = measured_kl(store)
    write_version(
        store, create_dataset(store, "asked", "prompts").id, [Prompt(messages=(Message(role="user", content="Hi?"),))]
    )
    app = open_page(links.RUNS, run=trained.id)
    app.session_state["run.tabs.sft"] = "How far it moved"
    app.run()
    assert list(app.dataframe[0].value["KL of an answer"]) == ["1.5"]
    assert list(app.dataframe[0].value["From"]) == ["the base"]
    app.number_input(key="run.kl.limit").set_value(5).run()
    app.button(key="run.kl.launch").click().run()
    launched = run_store.list_runs(store, kinds=["kl"])[0]
    assert launched.id != kl.id and launched.spec["limit"] == 5
    assert launched.spec["variant"] == trained.result["variant_id"] and launched.spec["prompts"] == "asked"


def test_runs_of_other_kinds_show_what_they_found(store: Store) -> None:
    results: dict[str, tuple[dict[str, object], str]] = {
        "sample": ({"queue_id": "rq_1", "items": 7, "sampled": 28, "left_out": {"identical": 2}, "failed": 0}, "28"),
        "export": ({"path": "/somewhere/adapter.zip", "bytes": 5_000_000, "replay": {}}, "/somewhere/adapter.zip"),
        "add_model": ({"name": "small", "parameters": 135_000_000, "path": "/models/small"}, "135 million parameters"),
    }
    for kind, (result, wanted) in results.items():
        run = run_store.add_run(store, kind=kind, name=kind, slot="nowhere", spec={})
        run_store.update_run(store, run.id, state=RunState.FINISHED, ended_at=utc_now(), result=result)
        app = open_page(links.RUNS, run=run.id)
        told = [*words(app).splitlines(), *(str(each.value) for each in (*app.metric, *app.code))]
        assert any(wanted in line for line in told), (kind, told)


def measured_kl(store: Store) -> tuple[Run, Run]:
    """A finished KL run, and the finished training run whose variant it measured."""
    model = ensure_bundled(store)
    base = model_store.add_variant(store, "the base", model_id=model.id)
    trained = add_sft(store, "Tuned", RunState.FINISHED)
    tuned = model_store.add_variant(store, "tuned", model_id=model.id, run_id=trained.id, adapter_path="/nowhere")
    run_store.update_run(store, trained.id, result={"variant_id": tuned.id})
    spec = {"variant": tuned.id, "reference": None, "prompts": "asked"}
    kl = run_store.add_run(store, kind="kl", name="KL", slot="nowhere", spec=spec)
    result = {
        "kl_sequence": bootstrap_mean([1.0, 1.0, 2.5]).model_dump(mode="json") | {"low": 1.0, "high": 2.25},
        "kl_token": 0.03, "n": 3, "mean_tokens": 48.0, "variant": tuned.id, "reference": base.id,
    }  # fmt: skip
    run_store.update_run(store, kl.id, state=RunState.FINISHED, ended_at=utc_now(), result=result)
    folder = store.settings.run_dir(kl.id)
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"row_id": "r1", "kl": 2.5, "tokens": 4, "prompt": "Say hi", "answer": "Hello there"}
    (folder / ROWS).write_text(json.dumps(entry) + "\n", encoding="utf-8")
    return run_store.get_run(store, kl.id), run_store.get_run(store, trained.id)
