"""The Self-instruct page: the list of runs, and one run with its state, what it yields and the way to a dataset.

Only what moves while the run is at work stands in a fragment with a timer, which ends with the run.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.errors import NotFound, UsageError
from workbench.records import Run, RunState
from workbench.self_instruct.review import load_board, measure_funnel
from workbench.self_instruct.rounds import ENDED
from workbench.store import runs as run_store
from workbench.ui.errors import show_problem, shown_errors
from workbench.ui.links import LINEAGE, SELF_INSTRUCT, go_to, link_to
from workbench.ui.paging import current_page, page_switch, times
from workbench.ui.runs import ACTIVE, STATES, failure_words, progress_bar, run_link, show_queue, state_badge, took
from workbench.ui.self_instruct_review import show_review_desk
from workbench.ui.self_instruct_table import show_candidates
from workbench.ui.self_instruct_threshold import kept_threshold, show_threshold
from workbench.ui.self_instruct_version import show_versions
from workbench.ui.self_instruct_yield import show_yield
from workbench.ui.state import OF_PARAM, RUN_PARAM, VIEW_PARAM
from workbench.ui.text import ago, count, exact, plain

PAGE_ROWS = 25
EVERY_S = 2.0
TABS = "self_instruct.tabs"
YIELD, REVIEW, CANDIDATES, THRESHOLD, VERSION = "Yield", "Review", "Candidates", "Threshold", "Version"
VIEWS = {"review": REVIEW, "candidates": CANDIDATES, "threshold": THRESHOLD, "version": VERSION}
"""Tabs that an address may name."""


def find_run(ws: Workspace) -> Run | None:
    """The run that the address names; None where it names none, or none that grew tasks."""
    wanted = st.query_params.get(RUN_PARAM)
    if not wanted:
        return None
    try:
        run = ws.run(wanted)
        if run.kind != "self_instruct":
            raise UsageError("this run grew no tasks", value=run.name, remedy="Choose one of those below.")
    except (NotFound, UsageError) as error:
        show_problem(error)
        return None
    return run


# ---- the list ----


def show_runs(ws: Workspace) -> None:
    """All runs, newest first; a click opens one."""
    total = run_store.count_matching_runs(ws.store, kinds=["self_instruct"])
    page, pages = current_page("self_instruct.page", total, PAGE_ROWS)
    live = bool(ws.runs(kinds=["self_instruct"], states=ACTIVE, limit=1))
    st.fragment(run_every=EVERY_S if live else None)(_table)(ws, page, live)
    page_switch(pages, "self_instruct.page", count(total, "run"))


def _table(ws: Workspace, page: int, live: bool) -> None:
    with shown_errors():
        runs = ws.runs(kinds=["self_instruct"], limit=PAGE_ROWS, offset=(page - 1) * PAGE_ROWS)
        states = list(STATES.values())
        column = st.column_config
        st.dataframe(
            pd.DataFrame(
                {
                    "open": ["Open" for _ in runs],
                    "name": [run.name for run in runs],
                    "state": [[STATES[run.state][0]] for run in runs],
                    "kept": [_told(run, "kept", run.progress.done) for run in runs],
                    "read": [_told(run, "candidates", None) for run in runs],
                    "target": [run.spec.get("target") for run in runs],
                    "launched": times([run.created_at for run in runs]),
                    "took": [took(run) for run in runs],
                }
            ),
            hide_index=True,
            height="content",
            key="self_instruct.runs",
            alt="Self-instruct runs, newest first",
            column_config={
                "open": column.ButtonColumn("", width=70, type="tertiary", key="self_instruct.open"),
                "name": column.TextColumn("Run", width=240),
                "state": column.MultiselectColumn(
                    "State", options=[name for name, _, _ in states], color=[color for _, _, color in states]
                ),
                "kept": column.NumberColumn("Kept", format="localized", help="Tasks that passed every filter."),
                "read": column.NumberColumn("Read", format="localized", help="Tasks the generator wrote."),
                "target": column.NumberColumn("Wanted", format="localized"),
                "launched": column.DatetimeColumn("Launched", format="distance"),
                "took": column.TextColumn("Took"),
            },
        )
        click = st.session_state.get("self_instruct.open")
        if click is not None and 0 <= click["row"] < len(runs):
            go_to(SELF_INSTRUCT, **{RUN_PARAM: runs[click["row"]].id})
        if live and not ws.runs(kinds=["self_instruct"], states=ACTIVE, limit=1):
            st.rerun()  # the last one has ended: once more, without the timer


def _told(run: Run, name: str, otherwise: float | None) -> float | None:
    value = run.result.get(name)
    return value if isinstance(value, int | float) else otherwise


# ---- one run ----


def show_grown(ws: Workspace, run: Run) -> None:
    """The page of one run."""
    if st.button("All runs", icon=":material/arrow_back:", type="tertiary", key="self_instruct.back"):
        go_to(SELF_INSTRUCT)
    st.title(plain(run.name), anchor=False)
    with st.container(horizontal=True, vertical_alignment="center"):
        state_badge(run)
        st.caption(f"Launched {ago(run.created_at)}", help=plain(exact(run.created_at)), width="content")
        if run.state.active:
            asked = run.stop_requested_at is not None
            help_text = "It finishes the requests under way; every reply is kept, and it can be resumed."
            label = "Stopping" if asked else "Stop"
            if st.button(
                label, icon=":material/stop_circle:", disabled=asked, help=help_text, key="self_instruct.stop"
            ):
                ws.stop(run.id)
                st.rerun()
        if run.state.resumable and st.button("Resume", icon=":material/play_arrow:", key="self_instruct.resume"):
            ws.resume(run.id)
            st.rerun()
        run_link(run, label="Settings and log")
        link_to(LINEAGE, "Lineage", icon="account_tree", **{OF_PARAM: run.id})
    _failure(run)
    if "self_instruct" not in run.result:
        _not_begun(ws, run)
        return
    named = VIEWS.get(st.query_params.get(VIEW_PARAM, ""))
    if named is not None and st.session_state.get(f"{TABS}.named") != (run.id, named):
        st.session_state[f"{TABS}.named"], st.session_state[TABS] = (run.id, named), named
    st.fragment(run_every=EVERY_S if run.state.active else None)(_status)(ws, run.id, run.state)
    _tabs(ws, run)


def _failure(run: Run) -> None:
    if run.state is RunState.INTERRUPTED and run.failure is None:
        st.warning("The process is gone, without a word. Resume goes on from its last reply.")
    elif run.state in (RunState.FAILED, RunState.INTERRUPTED) and run.failure is not None:
        st.error(failure_words(run.failure), icon=":material/error:")


def _not_begun(ws: Workspace, run: Run) -> None:
    if run.state.active:
        st.fragment(run_every=1.0)(_waiting)(ws, run.id, run.state)
    else:
        st.caption("It ended before the first request, so there is nothing to review. Resume it, or start another.")


def _waiting(ws: Workspace, run_id: str, known: RunState) -> None:
    with shown_errors():
        run = ws.run(run_id)
        if run.state is not known or "self_instruct" in run.result:
            st.rerun()
        progress_bar(run)
        show_queue(ws, run)


def _status(ws: Workspace, run_id: str, known: RunState) -> None:
    """How far it is, in figures, and what to do next."""
    with shown_errors():
        run = ws.run(run_id)
        if run.state is not known:
            st.rerun()  # buttons and the timer depend on the state
        if run.state.active:
            progress_bar(run)
            show_queue(ws, run)
        if st.session_state.get(TABS) == REVIEW:
            return  # the desk has figures of its own, which follow every key
        funnel = measure_funnel(load_board(ws.store, run.id, threshold=kept_threshold(ws, run)), ws.store)
        stages = {stage.name: stage for stage in funnel.stages}
        read, kept, accepted = (stages[name].count for name in ("read", "kept", "accepted"))
        with st.grid(5, min_column_width=140):
            st.metric("Read", f"{read:,}", help="Tasks found in the generator's replies.")
            share = f"{kept / read:.0%} of those read" if read else ""
            st.metric("Kept", f"{kept:,}", help=f"They passed every filter; {share or 'none was read yet'}.")
            st.metric("Accepted", f"{accepted:,}", help="By a person, edited ones among them.")
            st.metric("To review", f"{funnel.open:,}", help="Kept, and nobody has said anything of them.")
            failed = f"{funnel.failed:,} without a reply, {funnel.unread:,} without a task in it"
            st.metric("Requests", f"{funnel.requests:,}", help=f"{failed}.")
        if not run.state.active and st.session_state.get(TABS) != VERSION:
            _next(run, funnel.open, accepted)


def _next(run: Run, left: int, accepted: int) -> None:
    """One next action for a run that has ended."""
    ended = run.result.get("ended")
    why = f"It ended because {ENDED[ended]}. " if ended in ENDED else ""
    if left:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"{why}**{count(left, 'task')}** wait for a person.", width="stretch")
            st.button(
                "Review them", type="primary", icon=":material/rate_review:", key="self_instruct.review",
                on_click=_open_tab, args=(REVIEW,),
            )  # fmt: skip
    elif accepted:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"{why}Everything kept is reviewed.", width="stretch")
            st.button(
                "Make a version", type="primary", icon=":material/save:", key="self_instruct.to_version",
                on_click=_open_tab, args=(VERSION,),
            )  # fmt: skip
    elif why:
        st.caption(why)


def _open_tab(name: str) -> None:
    st.session_state[TABS] = name


def _tabs(ws: Workspace, run: Run) -> None:
    bodies: dict[str, Callable[[], None]] = {
        YIELD: lambda: show_yield(ws, run),
        REVIEW: lambda: show_review_desk(ws, run.id, kept_threshold(ws, run)),
        CANDIDATES: lambda: show_candidates(ws, run),
        THRESHOLD: lambda: show_threshold(ws, run),
        VERSION: lambda: show_versions(ws, run),
    }
    tabs = st.tabs(list(bodies), key=TABS, on_change="rerun")
    for tab, body in zip(tabs, bodies.values(), strict=True):
        if tab.open:
            with tab, shown_errors():
                body()
