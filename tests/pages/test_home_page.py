"""Home: the one next step, what runs, and the notice when a run has ended."""

from __future__ import annotations

from datetime import timedelta

from page_helpers import add_sft, finish_with_variant, labels, open_page, press, words

from workbench.api import Workspace
from workbench.records import Failure, Run, RunState, utc_now
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.ui import links
from workbench.ui.machine import parse_gpus
from workbench.ui.state import LAST_LOOK


def test_an_empty_home_offers_the_tour_as_its_one_next_step(store: Store) -> None:
    app = open_page(links.HOME)
    assert [button.label for button in app.button if button.proto.type == "primary"] == ["Take the tour"]
    assert not app.error


def test_with_a_dataset_and_no_adapter_the_next_step_is_a_run(store: Store) -> None:
    Workspace().install_kit("assistant")
    app = open_page(links.HOME)
    assert [button.label for button in app.button if button.proto.type == "primary"] == ["Set up a run"]
    assert "Take the tour" in labels(app)


def test_after_a_finished_run_the_next_step_is_to_compare_base_and_tuned(store: Store) -> None:
    finish_with_variant(store, "Short answers")
    app = open_page(links.HOME)
    primary = [button.label for button in app.button if button.proto.type == "primary"]
    assert primary in (["Compare base and tuned"], ["Open the run"])
    assert "Short answers" in words(app)


def test_a_running_run_is_shown_with_its_progress_and_what_is_left(store: Store) -> None:
    add_sft(store, "Now", RunState.RUNNING)
    app = open_page(links.HOME)
    assert app.progress[0].value == 50
    assert "about 1 min 30 s left" in app.progress[0].text.replace("\\", "")


def test_the_tour_button_starts_one_tour(store: Store, monkeypatch) -> None:
    started: list[Run] = []

    def tour(self: Workspace) -> Run:
        started.append(run_store.add_run(store, kind="tour", name="Tour", slot="flow", spec={}))
        return started[0]

    monkeypatch.setattr(Workspace, "tour", tour)
    monkeypatch.setattr("workbench.runs.liveness.reap", lambda store: [])
    app = press(open_page(links.HOME), "Take the tour")
    assert len(started) == 1
    assert "Fine-tune an adapter on the starter kit" in words(app)


def test_a_run_that_ended_since_the_last_look_is_told_once(store: Store) -> None:
    app = open_page(links.HOME)
    assert not app.toast
    run = add_sft(store, "Bad *luck*", RunState.FAILED)
    run_store.update_run(store, run.id, ended_at=utc_now() + timedelta(milliseconds=1))
    app.session_state[LAST_LOOK] = utc_now() - timedelta(seconds=30)
    app.run()
    assert len(app.toast) == 1
    assert "memory ran out" in app.toast[0].value
    app.session_state[LAST_LOOK] = utc_now() + timedelta(seconds=30)
    app.run()
    assert not app.toast


def test_gpu_readings_are_parsed_and_odd_lines_left_out() -> None:
    meters = parse_gpus("NVIDIA H100, 80GB, 37, 1024, 81920\nNVIDIA A1, [N/A], 1, 2\nnonsense\n")
    assert [meter.name for meter in meters] == ["NVIDIA H100, 80GB load", "NVIDIA H100, 80GB memory"]
    assert meters[0].share == 0.37


def test_what_the_last_tour_found_is_told_with_its_interval_and_answers_as_text(store: Store) -> None:
    tour = run_store.add_run(store, kind="tour", name="Tour", slot="flow", spec={})
    share = {"share": 0.8, "low": 0.6, "high": 0.9, "n": 50}
    answers = [{"prompt": "Say hi", "base": "<b>Hello</b>", "tuned": "hi"}]
    result = {"held_out": {"base": share, "tuned": share}, "answers": answers}
    run_store.update_run(store, tour.id, state=RunState.FINISHED, ended_at=utc_now(), result=result)
    app = open_page(links.HOME)
    assert "Base 80% (60% to 90%)" in words(app)
    assert "Shares of 50 prompts" in words(app)
    assert "<b>Hello</b>" in [text.value for text in app.text]


def test_a_tour_of_a_kit_without_rules_is_told_by_mean_chrf(store: Store) -> None:
    tour = run_store.add_run(store, kind="tour", name="Tour", slot="flow", spec={})
    none = {"share": None, "low": None, "high": None, "n": 50}
    mean = {"share": 31.26, "low": 28.0, "high": 34.5, "n": 50}
    result = {"held_out": {"base": none, "tuned": none}, "chrf": {"base": mean, "tuned": mean}}
    run_store.update_run(store, tour.id, state=RunState.FINISHED, ended_at=utc_now(), result=result)
    app = open_page(links.HOME)
    assert not app.exception
    assert "Base 31.3 (28.0 to 34.5)" in words(app)
    assert "Mean chrF from 0 to 100 over 50 prompts" in words(app)
    assert "Shares of" not in words(app)


def test_a_tour_that_failed_says_why(store: Store) -> None:
    tour = run_store.add_run(store, kind="tour", name="Tour", slot="flow", spec={})
    failure = Failure(error="RunProblem", message="the disk is full")
    run_store.update_run(store, tour.id, state=RunState.FAILED, ended_at=utc_now(), failure=failure)
    assert "the disk is full" in open_page(links.HOME).warning[0].value
