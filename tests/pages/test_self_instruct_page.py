"""Self-instruct: setting up, watching, the threshold, the candidates, the desk's side of the server, and versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from page_helpers import add_sft, labels, open_page, press, words
from streamlit.testing.v1 import AppTest

from tests.growing_homes import GUARDED, TASKS, add_grown
from workbench.api import Workspace
from workbench.errors import Conflict
from workbench.records import Attempt, Example, Failure, Message, Progress, Run, RunState, new_id, utc_now
from workbench.self_instruct.review import board_diversity, load_board, measure_funnel, review_candidate
from workbench.store import candidates as candidate_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.candidates import Candidate
from workbench.store.drafts import list_drafts
from workbench.ui.links import SELF_INSTRUCT
from workbench.ui.self_instruct_figures import diversity_figure, funnel_figure, reasons_figure, score_figure
from workbench.ui.self_instruct_review import ReviewMemory, serve_review
from workbench.ui.self_instruct_threshold import keep_threshold, kept_threshold
from workbench.ui.self_instruct_version import versions_of
from workbench.ui.self_instruct_words import losses, yield_advice

pytestmark = pytest.mark.filterwarnings("ignore:Series.values returning an ndarray that drops timezone")
FORM = "self_instruct.form"


@pytest.fixture
def ws(home: Any) -> Iterator[Workspace]:
    workspace = Workspace()
    yield workspace
    workspace.store.close()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Configs that would have been launched."""
    found: list[dict[str, Any]] = []

    def launch(self: Workspace, kind: str, config: Any, *, name: str = "") -> Run:
        found.append({"kind": kind, "name": name, **config})
        raise Conflict("not in this test")

    monkeypatch.setattr(Workspace, "launch", launch)
    return found


def add_writer(ws: Workspace) -> str:
    server = model_store.add_server(ws.store, "lab", "http://127.0.0.1:9/v1", {})
    return model_store.add_variant(ws.store, "writer", server_id=server.id, remote_model="writer").id


def kept(ws: Workspace, run: Run) -> list[Candidate]:
    return [each for each in candidate_store.list_candidates(ws.store, run.id) if each.state == "kept"]


def by_reason(ws: Workspace, run: Run, reason: str) -> Candidate:
    return next(each for each in candidate_store.list_candidates(ws.store, run.id) if each.why == reason)


# ---- setting up ----


def test_an_empty_home_leads_to_a_model_then_to_the_seeds_then_to_the_form(ws: Workspace) -> None:
    app = open_page(SELF_INSTRUCT)
    assert labels(app) == ["Convert the bundled model"] and "one that can answer comes first" in words(app)
    add_writer(ws)
    app = open_page(SELF_INSTRUCT)
    assert labels(app) == ["Install the seed tasks"] and "It grows from seeds" in words(app)
    app = press(app, "Install the seed tasks")
    assert app.selectbox(key=f"{FORM}.seeds").value == "Self-instruct seeds" and "Grow" in labels(app)
    assert ws.dataset("Self-instruct seeds").kind == "instructions"


def test_the_form_launches_what_it_shows(ws: Workspace, launched: list[dict[str, Any]]) -> None:
    variant = add_writer(ws)
    ws.install_seeds()
    _, held_out = ws.install_kit()
    app = open_page(SELF_INSTRUCT)
    app.selectbox(key=f"{FORM}.style").set_value("alpaca")
    app.number_input(key=f"{FORM}.target").set_value(7)
    app.number_input(key=f"{FORM}.threshold").set_value(0.6)
    app.multiselect(key=f"{FORM}.held_out").set_value([ws.dataset(held_out.dataset_id).name])
    app.text_input(key=f"{FORM}.name").set_value("First").run()
    app.button(key="self_instruct.launch").click().run()
    assert not app.exception and "not in this test" in app.error[0].value.lower()
    told = launched[0]
    assert told["kind"] == "self_instruct" and told["name"] == "First" and told["variant"] == variant
    assert told["seeds"] == "Self-instruct seeds" and told["held_out"] == (ws.dataset(held_out.dataset_id).name,)
    assert (told["style"], told["target"], told["threshold"]) == ("alpaca", 7, 0.6)


def test_settings_that_do_not_hold_are_told_and_launch_nothing(ws: Workspace) -> None:
    add_writer(ws)
    ws.install_seeds()
    app = open_page(SELF_INSTRUCT)
    app.number_input(key=f"{FORM}.min_words").set_value(200)
    app.multiselect(key=f"{FORM}.held_out").set_value([]).run()
    assert not app.exception and "lower min_words" in app.error[0].value.replace("\\", "")
    assert app.button(key="self_instruct.launch").disabled
    assert "Nothing is guarded" in words(app)


def test_few_seeds_and_the_bundled_model_are_warned_of(ws: Workspace) -> None:
    from workbench.datasets.versions import write_version
    from workbench.models.adding import ensure_bundled
    from workbench.store.datasets import create_dataset

    model = ensure_bundled(ws.store)
    model_store.add_variant(ws.store, model.name, model_id=model.id)
    dataset = create_dataset(ws.store, "Few", "instructions")
    turns = (Message(role="user", content="Say hi"), Message(role="assistant", content="hi"))
    write_version(ws.store, dataset.id, [Example(messages=turns)])
    app = open_page(SELF_INSTRUCT)
    assert "1 seed is few" in words(app) and "bundled model yields little" in words(app)
    assert "Install the seed tasks" in labels(app)


# ---- runs ----


def test_runs_are_listed_with_what_they_kept(ws: Workspace) -> None:
    add_grown(ws.store)
    app = open_page(SELF_INSTRUCT)
    table = app.dataframe[0].value
    assert list(table["kept"]) == [15] and list(table["read"]) == [24] and list(table["target"]) == [20]


def test_a_run_that_is_not_there_or_of_another_kind_is_told(ws: Workspace) -> None:
    other = add_sft(ws.store, "Tuning", RunState.FINISHED)
    assert "no such run" in words(open_page(SELF_INSTRUCT, run="run_gone")).lower()
    assert "grew no tasks" in words(open_page(SELF_INSTRUCT, run=other.id))


def test_a_run_at_work_shows_how_far_it_is_and_can_be_stopped(ws: Workspace) -> None:
    run = add_grown(ws.store, state=RunState.RUNNING)
    app = open_page(SELF_INSTRUCT, run=run.id)
    assert [metric.value for metric in app.metric] == ["24", "15", "0", "15", "3"]
    assert "Review them" not in labels(app)
    app = press(app, "Stop")
    assert run_store.get_run(ws.store, run.id).stop_requested_at is not None and "Stopping" in labels(app)


def test_a_run_that_has_not_begun_or_failed_before_shows_no_tabs(ws: Workspace) -> None:
    spec = {"variant": add_writer(ws)}
    run = run_store.add_run(ws.store, kind="self_instruct", name="Soon", slot="bulk", spec=spec)
    told = Progress(phase="starting the model")
    run_store.update_run(ws.store, run.id, state=RunState.RUNNING, attempt=1, started_at=utc_now(), progress=told)
    elsewhere = Attempt(run_id=run.id, number=1, host="elsewhere", boot_id="b", started_at=utc_now())
    run_store.put_attempt(ws.store, elsewhere)
    app = open_page(SELF_INSTRUCT, run=run.id)
    assert "Starting the model" in words(app) and not app.tabs
    failure = Failure(error="RunProblem", message="the generator gives no replies", remedy="Check it.")
    run_store.update_run(ws.store, run.id, state=RunState.FAILED, ended_at=utc_now(), failure=failure)
    app = open_page(SELF_INSTRUCT, run=run.id)
    assert "generator gives no replies" in app.error[0].value and "Resume" in labels(app)
    assert "nothing to review" in words(app)


def test_a_finished_run_shows_its_yield_and_what_was_refused_for_leaking(ws: Workspace) -> None:
    run = add_grown(ws.store)
    app = open_page(SELF_INSTRUCT, run=run.id)
    told = words(app).replace("\\", "").replace("\u2060", "")
    assert "15 tasks** wait for a person" in told and "limit of requests" in told and "Review them" in labels(app)
    assert "Kept clear of House prompts@1: 1 task and 0 examples refused" in told
    assert "Little came of it" not in told and len(app.get("plotly_chart")) >= 3
    app = press(app, "Review them")
    assert app.session_state["self_instruct.tabs"] == "Review" and not app.metric


def test_little_yield_is_said_plainly_with_what_to_do(ws: Workspace) -> None:
    run = add_grown(ws.store, tasks=[("Sing.", ())] * 30 + [TASKS[0]])
    app = open_page(SELF_INSTRUCT, run=run.id)
    told = app.warning[0].value
    assert "Little came of it**: 1 task kept of 31 read (3%)" in told and "Choose another generator" in told
    funnel = measure_funnel(load_board(ws.store, run.id), ws.store)
    assert yield_advice(funnel, ended=False) and losses(funnel) == {"too_short": 30}
    fresh = add_grown(ws.store, tasks=TASKS[:2], state=RunState.RUNNING, name="Young")
    assert yield_advice(measure_funnel(load_board(ws.store, fresh.id), ws.store), ended=False) == []
    nothing = add_grown(ws.store, tasks=[], name="Nothing")
    app = open_page(SELF_INSTRUCT, run=nothing.id)
    assert "0 tasks kept of 0 read." in app.warning[0].value and not app.exception


def test_figures_tell_counts_and_treat_text_as_text(ws: Workspace) -> None:
    run = add_grown(ws.store)
    board = load_board(ws.store, run.id)
    funnel = measure_funnel(board, ws.store)
    drawn = funnel_figure(funnel).data[0]
    assert list(drawn.x) == [24, 17, 17, 15, 0] and "too close to a seed" in drawn.customdata[1][2]
    bars = reasons_figure(losses(funnel), "tasks").data[0]
    assert bars.y[0] == "Too similar" and bars.x[0] == 2
    sun = diversity_figure(board_diversity(board)).data[0]
    assert "rewrite" in sun.labels and "rewrite/complaint" in sun.ids
    assert sum(value for value, parent in zip(sun.values, sun.parents, strict=True) if not parent) <= 15
    assert len(score_figure([0.1, 0.7], 0.7, 0.5).layout.shapes) == 2


# ---- threshold ----


def test_a_threshold_is_tried_at_once_kept_and_taken_back(ws: Workspace) -> None:
    run = add_grown(ws.store)
    app = open_page(SELF_INSTRUCT, run=run.id, view="threshold")
    slider = app.slider[0]
    assert slider.value == 0.7 and app.button(key="self_instruct.keep").disabled
    expected = sum(each.state == "kept" for each in load_board(ws.store, run.id, threshold=0.4).candidates)
    slider.set_value(0.4).run()
    figures = {metric.label: metric for metric in app.metric}
    assert [metric.value for metric in app.metric if metric.label == "Kept"][-1] == str(expected) and expected < 15
    assert figures["Too similar"].delta.startswith("+") and "from 2" in figures["Too similar"].delta
    assert kept_threshold(ws, run) is None, "trying changes nothing"
    app = press(app, "Keep 0.40")
    assert kept_threshold(ws, run) == 0.4 and "0.40 holds" in words(app)
    data = serve_review(ws, run.id, {"seq": 1, "reviewer": "Ada"}, ReviewMemory(), threshold=kept_threshold(ws, run))
    assert data["counts"]["left"] == expected
    assert [metric.value for metric in open_page(SELF_INSTRUCT, run=run.id).metric][1] == str(expected)
    app = open_page(SELF_INSTRUCT, run=run.id, view="threshold")
    app.slider[0].set_value(0.7).run()
    app = press(app, "Go back to the run's 0.70")
    assert kept_threshold(ws, run) is None and list_drafts(ws.store, "self_instruct.threshold.") == {}


def test_a_higher_threshold_tells_which_tasks_lack_examples(ws: Workspace) -> None:
    run = add_grown(ws.store)
    app = open_page(SELF_INSTRUCT, run=run.id, view="threshold")
    app.slider[0].set_value(0.95).run()
    assert "would pass but" in words(app) and next(m for m in app.metric if m.label == "Without examples").value == "2"


# ---- candidates ----


def test_candidates_are_filtered_and_each_rejection_has_reason_nearest_and_score(ws: Workspace) -> None:
    run = add_grown(ws.store)
    app = open_page(SELF_INSTRUCT, run=run.id, view="candidates")
    assert len(app.dataframe[0].value) == 24
    app.selectbox(key="self_instruct.reason").set_value("too_similar").run()
    table = app.dataframe[0].value
    assert len(table) == 2 and all(table["score"] > 0.7) and table["nearest"][0].startswith("Explain to a child")
    assert table["decision"][0] == ["Too similar"]
    app.selectbox(key="self_instruct.reason").set_value(None).run()
    app.segmented_control(key="self_instruct.show").set_value("kept").run()
    assert len(app.dataframe[0].value) == 15
    app.text_input(key="self_instruct.search").set_value("BAKERY").run()
    assert len(app.dataframe[0].value) == 1
    app.text_input(key="self_instruct.search").set_value("no such words").run()
    assert not app.dataframe and "No task fits" in words(app)


def one_candidate() -> None:
    """A page with one candidate whole, or with the form that changes it; the session holds which."""
    import streamlit as st

    from workbench.store import candidates as candidate_store
    from workbench.ui.errors import shown_errors
    from workbench.ui.self_instruct_table import edit_candidate, show_one
    from workbench.ui.store import workspace

    ws = workspace()
    candidate = candidate_store.get_candidate(ws.store, st.session_state["candidate"])
    review = candidate_store.latest_reviews(ws.store, candidate.run_id).get(candidate.id)
    with shown_errors():
        if st.session_state["edited"]:
            edit_candidate(ws, candidate, review, "Zoë")
        else:
            show_one(ws, candidate, review)


def open_candidate(candidate: Candidate, *, edited: bool = False) -> AppTest:
    app = AppTest.from_function(one_candidate, default_timeout=30)
    app.session_state["candidate"], app.session_state["edited"] = candidate.id, edited
    app.run()
    assert not app.exception
    return app


def test_a_candidate_is_accepted_and_rejected_under_a_name(ws: Workspace) -> None:
    run = add_grown(ws.store)
    candidate = kept(ws, run)[1]
    app = open_candidate(candidate)
    assert "My soup arrived cold" in words(app) and all(button.disabled for button in app.button)
    app.text_input(key="self_instruct.name").set_value("Zoë").run()
    app = press(app, "Accept")
    app = press(app, "Reject")
    reviews = candidate_store.list_reviews(ws.store, run.id)
    assert [(each.verdict, each.reviewer) for each in reviews] == [("accept", "Zoë"), ("reject", "Zoë")]


def test_a_leak_and_a_task_without_examples_can_only_be_edited(ws: Workspace) -> None:
    run = add_grown(ws.store)
    leak = by_reason(ws, run, "leaks")
    app = open_candidate(leak)
    app.text_input(key="self_instruct.name").set_value("Zoë").run()
    assert app.button(key="self_instruct.accept").disabled and not app.button(key="self_instruct.edit").disabled
    assert "held out for evaluation" in words(app) and GUARDED in words(app)
    app = press(app, "Edit")
    assert "Save and accept" in labels(app)
    app = press(open_candidate(leak, edited=True), "Save and accept")
    assert "an example needs an output" in words(app).lower() and not candidate_store.list_reviews(ws.store, run.id)
    assert open_candidate(by_reason(ws, run, "too_short")).button(key="self_instruct.accept").disabled


def test_an_edit_is_stored_with_its_words(ws: Workspace) -> None:
    run = add_grown(ws.store)
    candidate = kept(ws, run)[0]
    app = open_candidate(candidate, edited=True)
    app.text_area[0].set_value("Describe a bakery at dawn.")
    app = press(app, "Save and accept")
    (review,) = candidate_store.list_reviews(ws.store, run.id)
    assert (review.verdict, review.instruction) == ("edit", "Describe a bakery at dawn.")
    assert review.instances == candidate.instances and "As Zoë put it" in words(open_candidate(candidate))


# ---- the desk ----


def said(candidate: str, nonce: str, verdict: str = "accept", **fields: Any) -> dict[str, Any]:
    return {"kind": "review", "nonce": nonce, "candidate": candidate, "verdict": verdict, **fields}


def test_entries_sent_again_and_again_are_done_once_and_in_order(ws: Workspace) -> None:
    run, memory = add_grown(ws.store), ReviewMemory()
    first = serve_review(ws, run.id, {"seq": 1, "reviewer": "Ada"}, memory)
    one, two, three = (item["id"] for item in first["items"][:3])
    undo = {"kind": "undo", "nonce": "c", "target": "b"}
    entries = [said(one, "a"), said(two, "b"), undo, said(two, "d", "reject")]
    for seq, sent in enumerate((entries[:1], entries[:2], entries, entries[2:], entries), start=2):
        data = serve_review(ws, run.id, {"seq": seq, "reviewer": "Ada", "entries": sent}, memory)
        assert data["seq"] == seq and data["results"] == dict.fromkeys((each["nonce"] for each in sent), "")
    again = serve_review(ws, run.id, {"seq": 9, "reviewer": "Ada", "entries": entries}, ReviewMemory())
    assert set(again["results"].values()) == {""}
    standing = candidate_store.list_reviews(ws.store, run.id)
    assert [(each.candidate_id, each.verdict) for each in standing] == [(one, "accept"), (two, "reject")]
    assert len(candidate_store.list_reviews(ws.store, run.id, undone=True)) == 3
    assert again["items"][0]["id"] == three and again["counts"] == {"accepted": 1, "rejected": 1, "left": 13}
    assert [each["nonce"] for each in again["history"]] == ["d", "a"]


def test_what_is_refused_is_told_and_the_rest_is_kept(ws: Workspace) -> None:
    run, memory = add_grown(ws.store), ReviewMemory()
    one, two = kept(ws, run)[:2]
    good = [{"input": "", "output": "An answer."}]
    entries = [
        said(by_reason(ws, run, "leaks").id, "leak"),
        said(by_reason(ws, run, "too_short").id, "bare"),
        said(one.id, "copied", "edit", instruction=GUARDED, instances=good),
        said(one.id, "empty", "edit", instruction="  ", instances=good),
        said(one.id, "broken", "edit", instruction="x", instances=[{"input": 7}]),
        said(one.id, "odd", "praise"),
        said("can_gone", "gone"),
        {"kind": "review", "nonce": "x" * 99, "candidate": one.id, "verdict": "accept"},
        said(two.id, "fine", "edit", instruction="Say it in other words, please.", instances=good),
    ]
    results = serve_review(ws, run.id, {"seq": 1, "reviewer": "Ada", "entries": entries}, memory)["results"]
    assert results.pop("fine") == "" and all(results.values()) and len(results) == 8
    assert "held out" in results["copied"] and "Reload" in results["odd"]
    (review,) = candidate_store.list_reviews(ws.store, run.id)
    assert review.instruction == "Say it in other words, please."


def test_a_name_is_asked_and_a_bad_one_is_told(ws: Workspace) -> None:
    run = add_grown(ws.store, state=RunState.RUNNING)
    data = serve_review(ws, run.id, {}, ReviewMemory())
    assert data["reviewer"] is None and data["items"] == [] and data["growing"]
    refused = serve_review(ws, run.id, {"seq": 1, "reviewer": "x" * 300}, ReviewMemory())
    assert refused["reviewer"] is None and refused["problem"]


def test_an_undo_takes_back_only_ones_own_reviews(ws: Workspace) -> None:
    run = add_grown(ws.store)
    review_candidate(ws.store, kept(ws, run)[0].id, "accept", "Bo", nonce="bo-1")
    undo = {"kind": "undo", "nonce": "u", "target": "bo-1"}
    serve_review(ws, run.id, {"seq": 1, "reviewer": "Ada", "entries": [undo]}, ReviewMemory())
    assert len(candidate_store.list_reviews(ws.store, run.id)) == 1


# ---- versions ----


def test_a_version_is_made_of_what_was_accepted_and_leads_on(ws: Workspace) -> None:
    run = add_grown(ws.store)
    app = open_page(SELF_INSTRUCT, run=run.id, view="version")
    assert app.button(key="self_instruct.make").disabled and "Nobody has accepted" in words(app)
    one, two, three = kept(ws, run)[:3]
    review_candidate(ws.store, one.id, "accept", "Ada", nonce=new_id("n"))
    review_candidate(ws.store, two.id, "edit", "Zoë", instruction="Say it politely.", nonce=new_id("n"))
    review_candidate(ws.store, three.id, "reject", "Ada", nonce=new_id("n"))
    app = open_page(SELF_INSTRUCT, run=run.id, view="version")
    app.text_input(key=f"self_instruct.version.{run.id}.name").set_value("Grown").run()
    app = press(app, "Make a version of 2 tasks")
    (made,) = versions_of(ws, ws.run(run.id))
    assert made.dataset.name == "Grown" and made.version.rows == 3 and made.reviewers == ("Ada", "Zoë")
    assert "3 rows of 2 tasks, reviewed by Ada, Zoë" in words(app).replace("\\", "")
    links = [link.proto.page for link in app.get("page_link")]
    assert {"new-run", "datasets", "lineage"} <= set(links)
    assert ws.rows(made.version.id).rows[1].payload.messages[0].content.startswith("Say it politely.")


def test_a_version_needs_a_name_of_its_own(ws: Workspace) -> None:
    run = add_grown(ws.store)
    app = open_page(SELF_INSTRUCT, run=run.id, view="version")
    app.segmented_control(key=f"self_instruct.version.{run.id}.include").set_value("unrejected").run()
    assert "15 tasks nobody has read go in" in words(app)
    app.text_input(key=f"self_instruct.version.{run.id}.name").set_value("Self-instruct seeds").run()
    app = press(app, "Make a version of 15 tasks")
    assert "Choose another name" in app.error[0].value and versions_of(ws, run) == []
    app.text_input(key=f"self_instruct.version.{run.id}.name").set_value("  ").run()
    app = press(app, "Make a version of 15 tasks")
    assert "needs a name" in words(app) and versions_of(ws, run) == []


def test_keeping_the_runs_own_threshold_keeps_nothing(ws: Workspace) -> None:
    run = add_grown(ws.store)
    keep_threshold(ws, run, 0.5)
    keep_threshold(ws, run, 0.7)
    assert kept_threshold(ws, run) is None
