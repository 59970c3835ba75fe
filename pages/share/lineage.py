"""Lineage: what came from what, back to rows and raters, forward to answers and exports."""

import streamlit as st

from workbench.ui.lineage_page import show_lineage
from workbench.ui.store import workspace

ws = workspace()
st.title("Lineage")
st.caption("What something was made from, what was made from it, and how to make an adapter again.")
show_lineage(ws)
