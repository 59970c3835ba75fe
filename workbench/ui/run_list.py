"""The list of runs: filtered and paged in the store, opened or laid side by side from the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.records import Run, RunState
from workbench.runs.kinds import KINDS
from workbench.store import runs as run_store
from workbench.ui.errors import shown_errors
from workbench.ui.links import NEW_RUN, RUNS, go_to
from workbench.ui.paging import current_page, page_switch, times
from workbench.ui.runs import STATES, active_runs, kind_name, took
from workbench.ui.state import COMPARE_PARAM, RUN_PARAM
from workbench.ui.text import count, figure

PAGE_ROWS = 25


def show_list(ws: Workspace) -> None:
    """Filters, one page of runs as a table that refreshes while something is at work, and what to do with them."""
    if run_store.count_matching_runs(ws.store, archived=True) == 0:
        with st.container(border=True):
            st.subheader("No run yet", anchor=False)
            st.markdown("A run trains an adapter, answers a prompt set or imports a file, while you do something else.")
            if st.button("Set up a run", type="primary", icon=":material/add_circle:"):
                go_to(NEW_RUN)
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        search = st.text_input(
            "Name, tag or note", key="runs.q", type="search", placeholder="Search", persist_state="session"
        )
        kinds = st.multiselect(
            "Kind", list(KINDS), format_func=kind_name, key="runs.kinds", placeholder="Any", persist_state="session"
        )
        states = st.multiselect(
            "State",
            list(STATES),
            format_func=lambda state: STATES[state][0],
            key="runs.states",
            placeholder="Any",
            persist_state="session",
        )
        archived = st.toggle("Archived too", key="runs.archived", persist_state="session")
    filters: dict[str, Any] = {
        "kinds": kinds or None,
        "states": states or None,
        "archived": archived,
        "search": search or "",
    }
    total = run_store.count_matching_runs(ws.store, **filters)
    if total == 0:
        st.caption("No run fits these filters.")
        return
    page, pages = current_page("runs.page", total, PAGE_ROWS)
    every = 2 if active_runs(ws) else None
    st.fragment(run_every=every)(_table)(ws, filters, page, every is not None)
    page_switch(pages, "runs.page", count(total, "run"))


def run_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One line a run, as the table shows it."""
    return pd.DataFrame(
        {
            "open": ["Open" for _ in runs],
            "name": [run.name for run in runs],
            "state": [[STATES[run.state][0]] for run in runs],
            "launched": times([run.created_at for run in runs]),
            "progress": [_share(run) for run in runs],
            "took": [took(run) for run in runs],
            "loss": [_loss(run) for run in runs],
            "kind": [kind_name(run.kind) for run in runs],
            "tags": [", ".join(run.tags) for run in runs],
        }
    )


def _share(run: Run) -> float | None:
    return None if run.state is RunState.FINISHED else run.progress.share


def _loss(run: Run) -> str:
    value = run.result.get("eval_loss")
    return figure(value) if isinstance(value, int | float) else ""


def _columns() -> dict[str, Any]:
    column = st.column_config
    names = [name for name, _, _ in STATES.values()]
    colors = [color for _, _, color in STATES.values()]
    return {
        "open": column.ButtonColumn("", width=60, type="tertiary", key="runs.open"),
        "name": column.TextColumn("Name", width=190),
        "state": column.MultiselectColumn("State", options=names, color=colors),
        "kind": column.TextColumn("Kind"),
        "progress": column.ProgressColumn("Progress", width=120, min_value=0, max_value=1, format="percent"),
        "loss": column.TextColumn("Held-out loss", help="Nats per trained token; lower is better."),
        "launched": column.DatetimeColumn("Launched", format="distance"),
        "took": column.TextColumn("Took"),
        "tags": column.TextColumn("Tags"),
    }


def _table(ws: Workspace, filters: dict[str, Any], page: int, live: bool) -> None:
    with shown_errors():
        runs = ws.runs(**filters, limit=PAGE_ROWS, offset=(page - 1) * PAGE_ROWS)
        event = st.dataframe(
            run_table(runs),
            hide_index=True,
            key="runs.table",
            on_select="rerun",
            selection_mode="multi-row",
            height="content",
            alt="Runs, newest first",
            column_config=_columns(),
        )
        click = st.session_state.get("runs.open")
        if click is not None and 0 <= click["row"] < len(runs):
            go_to(RUNS, **{RUN_PARAM: runs[click["row"]].id})
        _actions(ws, [runs[index] for index in event.selection.rows if index < len(runs)])
        if live and not active_runs(ws):
            st.rerun()  # the last one has ended: draw the page once more, without the timer


def _actions(ws: Workspace, chosen: Sequence[Run]) -> None:
    if not chosen:
        st.caption("Tick runs to compare, stop or archive them.")
        return
    with st.container(horizontal=True):
        trained = [run for run in chosen if run.kind == chosen[0].kind]
        if len(trained) > 1 and st.button("Compare", icon=":material/compare_arrows:", type="primary"):
            others = ",".join(run.id for run in trained[1:])
            go_to(RUNS, **{RUN_PARAM: trained[0].id, COMPARE_PARAM: others})
        active = [run for run in chosen if run.state.active]
        if active and st.button(f"Stop {count(len(active), 'run')}", icon=":material/stop_circle:"):
            for run in active:
                ws.stop(run.id)
            st.rerun()
        ended = [run for run in chosen if not run.state.active]
        away = [run for run in ended if run.archived_at is None]
        if away and st.button(f"Archive {count(len(away), 'run')}", icon=":material/archive:"):
            for run in away:
                ws.edit_run(run.id, archived=True)
            st.rerun()
        if len(away) < len(ended) and st.button("Take out of the archive", icon=":material/unarchive:"):
            for run in ended:
                ws.edit_run(run.id, archived=False)
            st.rerun()
