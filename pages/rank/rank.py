"""Rank: the queues and how to make one, or with `?queue=…` the desk where a person puts answers in order."""

import streamlit as st

from workbench.store import rankings
from workbench.ui.errors import shown_errors
from workbench.ui.links import rank_only
from workbench.ui.rank_queues import find_queue, show_head, show_put_away, show_queues
from workbench.ui.rank_setup import show_setup
from workbench.ui.ranking import show_desk
from workbench.ui.state import ITEM_PARAM, RATER_PARAM
from workbench.ui.store import workspace

ws = workspace()
only = rank_only()
queue = find_queue(ws)
if queue is not None:
    show_head(ws, queue, only=only)
    show_desk(ws, queue.id, st.query_params.get(RATER_PARAM, ""), st.query_params.get(ITEM_PARAM, ""))
elif only:
    st.title("Rank")
    st.info("This link names no queue. Ask the person who sent it for a new one.", icon=":material/link_off:")
else:
    st.title("Rank")
    st.caption("Put answers in order without knowing who wrote them. The order becomes preference data.")
    queues = rankings.list_queues(ws.store)
    if queues:
        with shown_errors():
            show_queues(ws, queues)
    with shown_errors():
        show_setup(ws, first=not queues)
    show_put_away(ws)
