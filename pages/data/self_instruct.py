"""Self-instruct: grow a dataset from a few tasks by people, or with `?run=…` watch, decide, review and take it."""

import streamlit as st

from workbench.ui.errors import shown_errors
from workbench.ui.self_instruct import find_run, show_grown, show_runs
from workbench.ui.self_instruct_start import show_start
from workbench.ui.store import workspace

ws = workspace()
run = find_run(ws)
if run is not None:
    with shown_errors():
        show_grown(ws, run)
else:
    st.title("Self-instruct")
    st.caption("Grow a dataset: a model writes more tasks like yours, filters throw most out, and you decide the rest.")
    runs = ws.runs(kinds=["self_instruct"], limit=1)
    with shown_errors():
        if runs:
            show_runs(ws)
        show_start(ws, first=not runs)
