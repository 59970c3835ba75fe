"""Prompt sets: the form and the runs of before, or with `?run=…` one run's answers."""

import streamlit as st

from workbench.ui.answer_form import prompt_datasets, show_form, show_no_prompts, show_runs
from workbench.ui.answer_run import show_answer_run
from workbench.ui.errors import shown_errors
from workbench.ui.first_model import show_first_model
from workbench.ui.state import RUN_PARAM
from workbench.ui.store import workspace

ws = workspace()
if run_id := st.query_params.get(RUN_PARAM):
    show_answer_run(ws, run_id)
else:
    st.title("Prompt sets")
    st.caption("Let several variants answer a whole set of prompts in the background, and see by how much they differ.")
    datasets = prompt_datasets(ws)
    with shown_errors():
        if not ws.variants():
            show_first_model(ws)
        elif not datasets:
            show_no_prompts(ws)
        else:
            show_form(ws, datasets)
    show_runs(ws)
