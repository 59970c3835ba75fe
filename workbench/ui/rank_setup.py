"""Making a queue: from the answers of a run, newly sampled answers, or a file of rankings."""

from __future__ import annotations

import streamlit as st

from workbench.api import Workspace
from workbench.preferences.queues import queue_from_run
from workbench.records import RunState
from workbench.ui.links import PROMPT_SETS, RANK, go_to, link_to, queue_query
from workbench.ui.text import ago

FORM = "rank_setup"
FROM_RUN = "From answers"
MOST_RUNS = 50


def show_setup(ws: Workspace, *, first: bool) -> None:
    """The forms, folded away once there is a queue.

    Args:
        ws: the workspace.
        first: whether there is no queue yet.
    """
    with st.container(border=True):
        if first:
            st.subheader("No queue yet", anchor=False)
            st.markdown("A queue holds prompts, each with a few answers. Raters put them in order, blind.")
        from_run(ws)


def from_run(ws: Workspace) -> None:
    """Make a queue of the answers that a finished run got to a prompt set."""
    runs = ws.runs(kinds=["answer"], states=[RunState.FINISHED, RunState.STOPPED], limit=MOST_RUNS)
    if not runs:
        st.caption("No prompt set was answered yet.")
        link_to(PROMPT_SETS, "Answer a prompt set", icon="checklist")
        return
    by_id = {run.id: run for run in runs}
    picked = st.selectbox(
        "Run",
        list(by_id),
        format_func=lambda key: f"{by_id[key].name}, {ago(by_id[key].created_at)}",
        key=f"{FORM}.run",
    )
    name = st.text_input("Name", by_id[picked].name.removeprefix("Answers to "), key=f"{FORM}.name.{picked}")
    if st.button("Make the queue", type="primary", icon=":material/add:", key=f"{FORM}.from_run"):
        queue = queue_from_run(ws.store, picked, name)
        go_to(RANK, **queue_query(queue.id))
