"""One run that answers a prompt set: what it does now, what it was asked, and its answers as they come."""

from __future__ import annotations

from functools import partial

import streamlit as st

from workbench.api import Workspace
from workbench.errors import WorkbenchError
from workbench.evaluation.report import report_html
from workbench.records import Run, RunState
from workbench.ui.errors import show_problem, shown_errors
from workbench.ui.grid import grid_of, show_rows, show_summary
from workbench.ui.links import PLAYGROUND, PROMPT_SETS, go_to, link_to, variants_query
from workbench.ui.runs import progress_bar, run_link, state_badge
from workbench.ui.text import ago, exact, plain

LOOK_EVERY_S = 2.0
DRAW_EVERY_S = 5.0


def show_answer_run(ws: Workspace, run_id: str) -> None:
    """The page of one such run."""
    if st.button("All prompt sets", icon=":material/arrow_back:", type="tertiary", key="answer.back"):
        go_to(PROMPT_SETS)
    run = ws.run(run_id)
    st.title(plain(run.name), anchor=False)
    with st.container(horizontal=True, vertical_alignment="center"):
        state_badge(run)
        st.caption(f"Launched {ago(run.created_at)}", help=exact(run.created_at), width="content")
        if run.state.active:
            asked = run.stop_requested_at is not None
            label = "Stopping" if asked else "Stop"
            help_text = "What is answered is kept; Resume answers the rest."
            if st.button(label, icon=":material/stop_circle:", disabled=asked, help=help_text, key="answer.stop"):
                ws.stop(run.id)
                st.rerun()
        elif run.state.resumable and st.button(
            "Resume", icon=":material/play_arrow:", type="primary", help="Answers what is missing.", key="answer.resume"
        ):
            ws.resume(run.id)
            st.rerun()
        run_link(run, label="Settings and log")
        variants = run.spec.get("variants")
        if isinstance(variants, list):
            link_to(PLAYGROUND, "Ask them something", icon="forum", **variants_query(*map(str, variants)))
        if run.result.get("summary"):
            st.download_button(
                "Report",
                partial(report_html, ws.store, run),
                f"comparison-{run.id}.html",
                "text/html",
                icon=":material/summarize:",
                help="One HTML file to send: answers side by side, figures, how it was made. It needs no network.",
                key="answer.report",
                on_click="ignore",
            )
    if run.failure is not None and run.state in (RunState.FAILED, RunState.INTERRUPTED):
        remedy = f"\n\n{plain(run.failure.remedy)}" if run.failure.remedy else ""
        st.error(plain(run.failure.message) + remedy, icon=":material/error:")
    if run.state.active:
        st.fragment(run_every=LOOK_EVERY_S)(_progress)(ws, run.id, run.state)
    st.fragment(run_every=DRAW_EVERY_S if run.state.active else None)(_results)(ws, run.id)


def _progress(ws: Workspace, run_id: str, known: RunState) -> None:
    with shown_errors():
        run = ws.run(run_id)
        if run.state is not known:
            st.rerun()  # buttons, figures and the timers depend on the state
        progress_bar(run)


def _results(ws: Workspace, run_id: str) -> None:
    with shown_errors():
        run: Run = ws.run(run_id)
        try:
            grid = grid_of(ws, run)
        except WorkbenchError as error:
            if not run.state.active:
                show_problem(error)
            return
        if not grid.cells:
            st.caption("No answer yet.")
            return
        show_summary(grid, settled=not run.state.active)
        show_rows(grid)
