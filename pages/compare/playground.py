"""Playground: one prompt, several variants, all answering at once."""

import streamlit as st

from workbench.ui.asking import CONVERSATION_PARAM, SHOWN, follow_choice, send
from workbench.ui.conversation import load_answers
from workbench.ui.differences import show_differences
from workbench.ui.errors import shown_errors
from workbench.ui.first_model import show_first_model
from workbench.ui.history import OPEN, show_conversation_menu, show_history
from workbench.ui.playground import (
    PICKED,
    find_conversation,
    pick_variants,
    settle_state,
    show_ready_prompts,
    show_settings,
    take_problem,
)
from workbench.ui.rank_playground import show_rank_these
from workbench.ui.store import workspace
from workbench.ui.streams import STREAMS
from workbench.ui.turns import show_stop, show_turns

ws = workspace()
if chosen := st.session_state.pop(OPEN, None):
    st.query_params.from_dict({CONVERSATION_PARAM: chosen})

st.title("Playground")
st.caption("Ask several variants the same thing at once and read their answers side by side.")

everyone = {variant.id: variant for variant in ws.variants(archived=True)}
conversation = find_conversation(ws)
kept = conversation.variants if conversation else ()
offered = [item for item in everyone.values() if item.archived_at is None or item.id in kept]
if not offered:
    show_first_model(ws)
    st.stop()

settle_state(conversation, offered)
take_problem()
live = conversation is not None and STREAMS.live(conversation.id)
picked = pick_variants(offered, disabled=live)
with st.container(horizontal=True):
    sampling = show_settings()
    if st.button("History", icon=":material/history:"):
        show_history(ws)
    menu = st.container(width="content")
    if conversation is not None and st.button("New conversation", icon=":material/add_comment:"):
        st.session_state[SHOWN] = "new:"
        st.session_state.pop("playground.ready", None)
        st.query_params.clear()
        st.rerun()

prompt = None
if conversation is None or not conversation.user_turns:
    prompt = show_ready_prompts()
else:
    answers = load_answers(ws.store, conversation)
    with menu:
        show_conversation_menu(ws, conversation, answers, everyone)
    with shown_errors():
        conversation = follow_choice(ws, conversation, picked, answers)
    show_turns(ws, conversation, everyone, answers, sampling)
    if not STREAMS.live(conversation.id):
        show_rank_these(ws, conversation, answers)
    show_differences(conversation, everyone, answers)

live = conversation is not None and STREAMS.live(conversation.id)
if conversation is not None and live:
    show_stop(conversation)
placeholder = "The answers are being written; wait for them or stop them" if live else "Ask every pane"
typed = st.chat_input(placeholder, disabled=live or sampling is None, key="playground.prompt")
if (typed or prompt) and sampling is not None:
    with shown_errors():
        send(ws, conversation, str(typed or prompt), st.session_state[PICKED], sampling)
        st.rerun()
