"""Leaderboard: what the rankings say so far, how surely, and whether they can be trusted."""

import streamlit as st

from workbench.store import rankings
from workbench.ui.errors import shown_errors
from workbench.ui.leaderboard import pick_queues, show_leaderboard, show_no_queue
from workbench.ui.store import workspace

ws = workspace()
st.title("Leaderboard")
st.caption("What the rankings say so far: strengths with intervals, and whether the votes can be trusted.")
if not rankings.list_queues(ws.store, archived=True):
    show_no_queue()
else:
    with shown_errors():
        if queues := pick_queues(ws):
            show_leaderboard(ws, queues)
        else:
            st.caption("All queues were put away. Choose among them above.")
