"""Runs: the list, or with `?run=…` one run."""

import streamlit as st

from workbench.ui.run_list import show_list
from workbench.ui.run_page import show_run
from workbench.ui.state import RUN_PARAM
from workbench.ui.store import workspace

ws = workspace()
if run_id := st.query_params.get(RUN_PARAM):
    show_run(ws, run_id)
else:
    st.title("Runs")
    st.caption(
        "Everything that trains, answers or imports, in processes of their own: they go on when this page closes."
    )
    show_list(ws)
