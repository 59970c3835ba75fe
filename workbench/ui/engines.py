"""Engines that run now: which base each serves, since when, and how to end it."""

from __future__ import annotations

import streamlit as st

from workbench.api import Workspace
from workbench.errors import NotFound
from workbench.records import Run
from workbench.ui.errors import shown_errors
from workbench.ui.runs import ACTIVE, run_link, state_badge, took
from workbench.ui.text import ago, duration, plain

LOOK_EVERY_S = 3.0


def show_engines(ws: Workspace) -> None:
    """The engines, refreshed while there are any."""
    running = bool(ws.runs(kinds=["serve"], states=ACTIVE))
    st.fragment(run_every=LOOK_EVERY_S if running else None)(_engines)(ws, running)


def _engines(ws: Workspace, drawn: bool) -> None:
    with shown_errors():
        runs = ws.runs(kinds=["serve"], states=ACTIVE)
        if drawn and not runs:
            st.rerun()
        idle = duration(ws.settings.engine_idle_s)
        st.caption(f"An engine starts with the first prompt for its base and ends {idle} after the last one.")
        if not runs:
            st.caption("No engine is running.")
        for run in runs:
            with st.container(border=True, horizontal=True, vertical_alignment="center"):
                state_badge(run)
                st.markdown(f"**{plain(_base_name(ws, run))}**", width="content")
                st.caption(
                    f"up for {took(run)}, last sign of life {ago(run.heartbeat_at)}" if run.started_at else "starting",
                    width="stretch",
                )
                run_link(run, label="Log")
                asked = run.stop_requested_at is not None
                if st.button("Stop", icon=":material/stop_circle:", key=f"engines.stop.{run.id}", disabled=asked):
                    ws.stop(run.id)
                    st.rerun(scope="fragment")


def _base_name(ws: Workspace, run: Run) -> str:
    try:
        return ws.model(str(run.spec.get("model", ""))).name
    except NotFound:
        return run.name
