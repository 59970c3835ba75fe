"""The app: page config, the map of pages, and the page itself. `workbench app` or `streamlit run app.py` starts it."""

import streamlit as st

from workbench.ui.errors import shown_errors
from workbench.ui.links import ICON, page_map, rank_only
from workbench.ui.runs import notify_ended

st.set_page_config(page_title="Instruction-tuning workbench", page_icon=str(ICON), layout="wide")
page = st.navigation(page_map(), position="hidden" if rank_only() else "sidebar", expanded=True)
with shown_errors():
    page.run()
with shown_errors():
    if not rank_only():  # names of runs say who answers
        notify_ended()
