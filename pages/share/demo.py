"""Demo: pages for visitors that run now, and the form that starts one."""

import streamlit as st

from workbench.ui.demo_page import show_demos, show_form, show_short
from workbench.ui.store import workspace

ws = workspace()
st.title("Demo")
st.caption("A page for others: the same question to several variants side by side, or blind with a vote.")
show_demos(ws)
variants = ws.variants()
if len(variants) < 2:
    show_short(ws, variants)
else:
    show_form(ws, variants)
