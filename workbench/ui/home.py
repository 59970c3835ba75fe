"""Home's one next step, and what runs now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import streamlit as st

from workbench.api import Workspace
from workbench.records import Dataset, Run, RunState, utc_now
from workbench.ui.errors import shown_errors
from workbench.ui.links import NEW_RUN, PLAYGROUND, RUNS, go_to, has_page, run_query, variants_query
from workbench.ui.runs import (
    active_runs,
    compare_pair,
    compare_words,
    kind_name,
    progress_bar,
    run_link,
    state_badge,
    took,
)
from workbench.ui.text import plain
from workbench.ui.tour import show_findings, show_parts

Step = Literal["tour", "watch", "train", "compare"]


def next_step(ws: Workspace, datasets: Sequence[Dataset], finished: Sequence[Run], active: Sequence[Run]) -> Step:
    """The one thing to do next.

    Args:
        ws: the workspace.
        datasets: what there is.
        finished: finished training runs, newest first.
        active: runs at work.
    """
    if any(run.kind != "import" for run in active):
        return "watch"
    if finished and compare_pair(ws, finished[0]) is not None:
        return "compare"
    return "train" if any(dataset.kind == "instructions" for dataset in datasets) else "tour"


def show_next_step(ws: Workspace, step: Step, finished: Sequence[Run]) -> None:
    """A card with the next step, and the tour beside it once it is no longer the next step.

    Args:
        ws: the workspace.
        step: of `next_step`.
        finished: finished training runs, newest first.
    """
    if step == "watch":
        return
    with st.container(border=True):
        if step == "tour":
            st.subheader("See the whole way in about six minutes", anchor=False)
            st.markdown(
                "The tour installs a small set of instructions, fine-tunes an adapter on the bundled model, and lets "
                "base and tuned answer prompts that neither has seen. Everything stays on this machine."
            )
            _tour_button(ws, primary=True)
        elif step == "train":
            st.subheader("Train on your data", anchor=False)
            st.markdown("You have a dataset and no adapter yet. A run takes its settings from a preset you can change.")
            with st.container(horizontal=True):
                if st.button("Set up a run", type="primary", icon=":material/add_circle:"):
                    go_to(NEW_RUN)
                _tour_button(ws, primary=False)
        else:
            _compare_step(ws, finished[0])


def _compare_step(ws: Workspace, run: Run) -> None:
    pair = compare_pair(ws, run)
    st.subheader("See what the training changed", anchor=False)
    st.markdown(f"**{plain(run.name)}** has finished. Ask the model before and after it the same thing, side by side.")
    with st.container(horizontal=True):
        if pair is not None and has_page(PLAYGROUND):
            if st.button(compare_words(ws, run), type="primary", icon=":material/compare_arrows:"):
                go_to(PLAYGROUND, **variants_query(*pair))
        elif st.button("Open the run", type="primary", icon=":material/monitoring:"):
            go_to(RUNS, **run_query(run))
        _tour_button(ws, primary=False)


def _tour_button(ws: Workspace, *, primary: bool) -> None:
    if st.button("Take the tour", icon=":material/tour:", type="primary" if primary else "secondary", key="home.tour"):
        with shown_errors():
            ws.tour()
            st.rerun()


def show_running(ws: Workspace) -> None:
    """The runs at work with their progress; ends with the last of them."""
    st.fragment(run_every=1.5)(_running)(ws, frozenset(run.id for run in active_runs(ws)))


def _running(ws: Workspace, known: frozenset[str]) -> None:
    with shown_errors():
        active = active_runs(ws)
        if {run.id for run in active} != known:
            st.rerun()
        parts = {str(value) for run in active if run.kind == "tour" for value in run.result.values()}
        for run in active:
            if run.id not in parts:
                _card(ws, run)


def _card(ws: Workspace, run: Run) -> None:
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center"):
            state_badge(run)
            run_link(run)
            st.caption(f"{kind_name(run.kind)}, {took(run)} so far", width="stretch")
        if run.kind == "tour":
            show_parts(ws, run)
        else:
            progress_bar(run)


def show_last_tour(ws: Workspace) -> None:
    """What the last tour found, or why it did not get there; nothing while it is at work."""
    tours = ws.runs(kinds=["tour"], limit=1)
    if not tours or tours[0].state.active:
        return
    tour = tours[0]
    if tour.state is RunState.FINISHED:
        fresh = tour.ended_at is not None and utc_now() - tour.ended_at < timedelta(hours=1)
        with st.expander("What the tour found", icon=":material/tour:", expanded=fresh):
            show_findings(tour)
        return
    why = tour.failure.message if tour.failure else f"it was {tour.state.value}"
    st.warning(f"The tour did not reach its end: {plain(why)}. Its run can be resumed.", icon=":material/tour:")
    run_link(tour, label="Open the tour's run")
