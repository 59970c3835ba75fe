"""Reward: what reward models learned from rankings, how far to trust them, and what they say of any answer."""

import streamlit as st

from workbench.ui.errors import shown_errors
from workbench.ui.reward_page import pick_reward_model, show_no_reward_model, show_reward_model
from workbench.ui.store import workspace

ws = workspace()
st.title("Reward")
st.caption("What reward models learned from rankings, how far to trust them, and what they say of any answer.")
with shown_errors():
    models = ws.reward_models()
    if not models:
        show_no_reward_model(ws)
    else:
        show_reward_model(ws, pick_reward_model(models))
