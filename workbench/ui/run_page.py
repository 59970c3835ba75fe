"""One run: what it does now, its charts, answers, settings, log, and how it compares with others.

Only what moves while the run is at work stands in a fragment with a timer; the timer ends with the run. One that could
be resumed elsewhere is looked at now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from workbench.api import Workspace
from workbench.records import Run, RunState
from workbench.runs.kinds import training_kinds
from workbench.ui import charts
from workbench.ui.deleting import delete_control
from workbench.ui.errors import shown_errors
from workbench.ui.links import (
    DATASETS,
    LINEAGE,
    NEW_RUN,
    PLAYGROUND,
    PROMPT_SETS,
    REWARD,
    RUNS,
    SELF_INSTRUCT,
    clone_query,
    dataset_query,
    go_to,
    has_page,
    link_to,
    run_query,
    variants_query,
)
from workbench.ui.run_charts import CHARTS, FIGURES, show_charts, show_figures, show_held_out_answers, show_warnings
from workbench.ui.run_compare import show_comparison
from workbench.ui.run_details import show_held_out_rows, show_log, show_notes, show_settings
from workbench.ui.run_distance import show_distance
from workbench.ui.run_results import RESULTS, show_result
from workbench.ui.runs import (
    compare_pair,
    compare_words,
    failure_words,
    kind_name,
    progress_bar,
    show_queue,
    state_badge,
    took,
)
from workbench.ui.state import COMPARE_PARAM, RUN_PARAM
from workbench.ui.text import ago, exact, figure, plain
from workbench.ui.tour import show_findings, show_parts

TRAINING = tuple(kind.name for kind in training_kinds())
RESUME_LOOK_S = 10.0
"""Seconds between looks at a run that has ended and could go on."""


def show_run(ws: Workspace, run_id: str) -> None:
    """The page of one run."""
    if st.button("All runs", icon=":material/arrow_back:", type="tertiary"):
        go_to(RUNS)
    run = ws.run(run_id)
    st.title(plain(run.name), anchor=False)
    with st.container(horizontal=True, vertical_alignment="center"):
        state_badge(run)
        for tag in run.tags:
            st.badge(plain(tag), color="gray")
        st.caption(
            f"{kind_name(run.kind)}, launched {ago(run.created_at)}", help=plain(exact(run.created_at)), width="content"
        )
    _actions(ws, run)
    _failure(run)
    _live(run, _status, ws, run.id, run.state)
    if run.state.resumable:
        st.fragment(run_every=RESUME_LOOK_S)(_watch_for_resume)(ws, run.id, run.state)
    _tabs(ws, run)


def _live(run: Run, body: Callable[..., None], *args: object) -> None:
    st.fragment(run_every=1.5 if run.state.active else None)(body)(*args)


def _watch_for_resume(ws: Workspace, run_id: str, known: RunState) -> None:
    """Notice, now and then, that an ended run goes on because somebody resumed it elsewhere."""
    with shown_errors():
        if ws.run(run_id).state is not known:
            st.rerun()


def _actions(ws: Workspace, run: Run) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if run.state.active:
            asked = run.stop_requested_at is not None
            help_text = "Asks it to write its checkpoint and end; it can be resumed from there."
            label = "Stopping" if asked else "Stop"
            if st.button(label, icon=":material/stop_circle:", disabled=asked, help=help_text, key="run.stop"):
                ws.stop(run.id)
                st.rerun()
        if run.state.resumable and st.button("Resume", icon=":material/play_arrow:", type="primary", key="run.resume"):
            ws.resume(run.id)
            st.rerun()
        pair = compare_pair(ws, run) if run.state is RunState.FINISHED and has_page(PLAYGROUND) else None
        if pair is not None and st.button(
            compare_words(ws, run), icon=":material/compare_arrows:", type="primary", key="run.playground"
        ):
            go_to(PLAYGROUND, **variants_query(*pair))
        if run.kind in TRAINING and st.button(
            "Clone", icon=":material/content_copy:", help="Opens New run with these settings.", key="run.clone"
        ):
            go_to(NEW_RUN, **clone_query(run))
        if not run.state.active:
            away = run.archived_at is not None
            icon = ":material/unarchive:" if away else ":material/archive:"
            if st.button("Take out of the archive" if away else "Archive", icon=icon, key="run.archive"):
                ws.edit_run(run.id, archived=not away)
                st.rerun()
        if run.kind in TRAINING or run.kind == "export":
            link_to(LINEAGE, "Lineage", icon="account_tree", of=run.id)
        if not run.state.active:
            delete_control(
                "run", key=f"run.{run.id}", delete=partial(ws.delete_run, run.id), after=partial(go_to, RUNS)
            )
        if run.kind == "import" and isinstance(run.result.get("dataset_id"), str):
            link_to(DATASETS, "Open the dataset", icon="table_rows", **dataset_query(str(run.result["dataset_id"])))
        if run.kind == "score" and isinstance(run.spec.get("reward"), str):
            link_to(REWARD, "Open the reward model", icon="military_tech", **{RUN_PARAM: str(run.spec["reward"])})
        if run.kind == "reward" and run.state is RunState.FINISHED:
            link_to(REWARD, "How far to trust it", icon="military_tech", **run_query(run))
        if run.kind == "self_instruct":
            link_to(SELF_INSTRUCT, "Open the tasks", icon="psychiatry", run=run.id)
        if run.kind == "answer":
            link_to(PROMPT_SETS, "Open the answers", icon="checklist", run=run.id)


def _failure(run: Run) -> None:
    if run.failure is None:
        if run.state is RunState.INTERRUPTED:
            st.warning("The process is gone, without a word. Resume goes on from the last checkpoint.")
        return
    if run.state in (RunState.FAILED, RunState.INTERRUPTED):
        st.error(failure_words(run.failure), icon=":material/error:")


def _status(ws: Workspace, run_id: str, known: RunState) -> None:
    with shown_errors():
        run = ws.run(run_id)
        if run.state is not known:
            st.rerun()  # buttons, tabs and the timer depend on the state
        if run.kind == "tour" and run.state.active:
            show_parts(ws, run)
        elif run.state.active:
            progress_bar(run)
            show_queue(ws, run)
        show_warnings(run)
        if run.kind in FIGURES:
            show_figures(ws, run)
        elif run.kind in TRAINING:
            _figures(ws, run)


def _figures(ws: Workspace, run: Run) -> None:
    found = charts.series(
        ws.metrics(run.id, ["loss", "eval_loss", "tokens_per_s", "memory_mb"], most=charts.MOST_POINTS)
    )

    def last(name: str) -> float | None:
        return found[name][-1][1] if found.get(name) else None

    train = charts.smooth(found["loss"])[-1][1] if found.get("loss") else None
    speed, memory = last("tokens_per_s"), last("memory_mb")
    with st.grid(5, min_column_width=150):
        st.metric("Train loss", figure(train), help="Moving average, nats per trained token.")
        st.metric("Held-out loss", figure(last("eval_loss")), help="On rows that are not trained on, nats per token.")
        st.metric(
            "Tokens per second", f"{speed:,.0f}" if speed is not None else "–", help="Prompts included, padding not."
        )
        st.metric("Memory", f"{memory / 1000:.1f} GB" if memory is not None else "–", help="Of the worker process.")
        st.metric("Time", took(run))


def _tabs(ws: Workspace, run: Run) -> None:
    bodies: dict[str, Callable[[], None]] = {}
    if run.kind == "tour":
        bodies["Findings"] = lambda: _tour(ws, run)
    if run.kind in RESULTS and run.state is RunState.FINISHED:
        bodies["Result"] = lambda: show_result(ws, run)
    if run.kind in TRAINING:
        bodies["Charts"] = lambda: _live(run, _charts, ws, run.id, run.kind)
        bodies["Sample answers"] = lambda: _live(run, _samples, ws, run.id)
        if run.kind in FIGURES:
            bodies["Held-out answers"] = lambda: show_held_out_answers(ws, run)
        else:
            bodies["Held-out rows"] = lambda: show_held_out_rows(ws, run)
        bodies["Compare"] = lambda: show_comparison(ws, run)
        if "variant_id" in run.result:
            bodies["How far it moved"] = lambda: show_distance(ws, run)
    bodies["Settings"] = lambda: show_settings(run)
    bodies["Log"] = lambda: _live(run, show_log, ws, run.id)
    bodies["Notes"] = lambda: show_notes(ws, run)
    key, others = f"run.tabs.{run.kind}", st.query_params.get(COMPARE_PARAM, "")
    if others and "Compare" in bodies and st.session_state.get("run.compared") != (run.id, others):
        st.session_state["run.compared"], st.session_state[key] = (run.id, others), "Compare"
    tabs = st.tabs(list(bodies), key=key, on_change="rerun")
    for tab, body in zip(tabs, bodies.values(), strict=True):
        if tab.open:
            with tab:
                body()


def _tour(ws: Workspace, run: Run) -> None:
    if run.state is RunState.FINISHED:
        show_findings(run)
    if run.state.active:
        st.caption("What the tour found will stand here once it has finished.")
    else:
        show_parts(ws, run)


def _charts(ws: Workspace, run_id: str, kind: str) -> None:
    with shown_errors():
        found = charts.series(ws.metrics(run_id, most=charts.MOST_POINTS))
        if not found:
            st.caption("No step has been measured yet. The first one comes after the model is loaded.")
            return
        if kind in CHARTS:
            show_charts(found, kind)
            return
        charts.show(charts.loss_figure(found), key="run.chart.loss", alt="Train and held-out loss over steps")
        with st.grid(3, min_column_width=230):
            for name, title, unit, tick in (
                ("learning_rate", "Learning rate", "learning rate", ".1e"),
                ("tokens_per_s", "Speed", "tokens/s", None),
                ("memory_mb", "Memory", "MB", None),
            ):
                if name in found:
                    with st.container(gap="xsmall"):
                        st.caption(title)
                        plot = charts.line_figure({title: found[name]}, unit, tick=tick)
                        charts.show(plot, key=f"run.chart.{name}", alt=f"{title} over steps")


def _samples(ws: Workspace, run_id: str) -> None:
    with shown_errors():
        samples = ws.samples(run_id)
        if not samples:
            st.caption("No sample answer yet. Prompts set under “sample prompts” are answered as it learns.")
            return
        for slot in sorted({sample["slot"] for sample in samples}):
            mine = [sample for sample in samples if sample["slot"] == slot]
            with st.container(border=True):
                st.text(mine[-1]["prompt"])
                for sample in reversed(mine):
                    with st.container(horizontal=True, gap="small"):
                        st.badge(f"step {sample['step']}", color="gray")
                        st.text(sample["text"] or "(an empty answer)", width="stretch")
