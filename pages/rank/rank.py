"""Rank: the queues and how to make one, or with `?queue=…` the desk where a person puts answers in order."""

import streamlit as st

from workbench.ui.links import rank_only
from workbench.ui.rank_queues import find_queue, show_head, show_queue_menu
from workbench.ui.ranking import show_desk
from workbench.ui.state import RATER_PARAM
from workbench.ui.store import workspace

ws = workspace()
only = rank_only()
queue = find_queue(ws)
if queue is not None:
    show_head(queue, only=only)
    if not only:
        show_queue_menu(ws, queue)
    show_desk(ws, queue.id, st.query_params.get(RATER_PARAM, ""), "")
else:
    st.title("Rank")
    st.caption("Put answers in order without knowing who wrote them. The order becomes preference data.")
