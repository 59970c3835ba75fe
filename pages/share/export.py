"""Export: a variant in a form others can use, checked before it is kept."""

import streamlit as st

from workbench.ui.errors import shown_errors
from workbench.ui.share import show_export, show_exports
from workbench.ui.store import workspace

ws = workspace()
st.title("Export")
st.caption("Put a variant into a form others can use. What was written is loaded and must answer as before.")
with shown_errors():
    show_export(ws)
with shown_errors():
    show_exports(ws)
