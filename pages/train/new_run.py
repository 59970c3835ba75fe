"""New run: set up a training run, see what it needs, and launch it."""

import streamlit as st

from workbench.ui.new_run import show_new_run
from workbench.ui.store import workspace

st.title("New run")
st.caption("Choose data, model and a preset; the forecast and the checks say what to expect before anything starts.")
show_new_run(workspace())
