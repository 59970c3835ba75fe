"""What the Playground asks: a new prompt, the last one again or reworded, and what a pane missed before it joined.

Each question goes to every pane at once through `streams`; answers are kept in the store as they end.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st

from workbench.api import Workspace
from workbench.errors import UsageError, WorkbenchError
from workbench.records import Conversation, Message, Sampling
from workbench.store import answers as answer_store
from workbench.ui.conversation import Answers, load_answers, make_orders, title_of
from workbench.ui.streams import STREAMS, Handle, Open, Order

CONVERSATION_PARAM = "conversation"
"""`?conversation=cnv_…`."""
SYSTEM = "playground.system"
"""The system prompt's widget."""
SHOWN = "playground.shown"
"""What the widgets were last filled from."""
PROBLEM = "playground.problem"
"""What a callback could not do; the next drawing shows it."""


def opener(ws: Workspace, order: Order) -> Open:
    """How the answer to an order is opened: finds or starts the engine, then asks."""

    def open_answer(messages: Sequence[Message], sampling: Sampling) -> Handle:
        handle: Handle = ws.client(order.variant_id).stream(list(messages), sampling)
        return handle

    return open_answer


def start(ws: Workspace, orders: Sequence[Order]) -> None:
    """Let the panes answer."""
    STREAMS.start(orders, partial(opener, ws), lambda answer: answer_store.add_completions(ws.store, [answer]))


def send(
    ws: Workspace, conversation: Conversation | None, text: str, picked: Sequence[str], sampling: Sampling
) -> None:
    """Ask every pane something new; begins the conversation where there is none.

    Raises:
        UsageError: the text is empty or no pane was chosen.
        Conflict: the conversation is still being answered.
    """
    text = text.strip()
    if not text:
        raise UsageError("the prompt is empty", place="prompt", remedy="Write something to answer.")
    if not picked:
        raise UsageError("no variant was chosen", place="variants", remedy="Choose at least one above.")
    system = str(st.session_state.get(SYSTEM, ""))
    if conversation is None:
        conversation = answer_store.create_conversation(
            ws.store, title=title_of(text), system=system, variants=picked, sampling=sampling
        )
    turns = (*conversation.user_turns, text)
    conversation = answer_store.update_conversation(
        ws.store, conversation.id, system=system, variants=tuple(picked), sampling=sampling, user_turns=turns
    )
    start(ws, make_orders(conversation, load_answers(ws.store, conversation)))
    st.session_state[SHOWN] = conversation.id
    st.query_params.from_dict({CONVERSATION_PARAM: conversation.id})


def ask_pane_again(ws: Workspace, conversation: Conversation, variant: str) -> None:
    """Ask the last prompt again in one pane, with the settings of the others; a callback."""
    try:
        answers = load_answers(ws.store, conversation)
        start(ws, make_orders(conversation, answers, variants=[variant], again=True))
    except WorkbenchError as error:
        st.session_state[PROBLEM] = error


def ask_again(ws: Workspace, conversation: Conversation, sampling: Sampling, text: str | None = None) -> None:
    """Ask the last prompt again in all panes, with the settings of now.

    Args:
        ws: the workspace.
        conversation: it has a last prompt.
        sampling: settings.
        text: other words in place of the last prompt.

    Raises:
        UsageError: the text is empty.
        Conflict: the conversation is still being answered.
    """
    changes: dict[str, Any] = {"system": str(st.session_state.get(SYSTEM, ""))}
    if text is not None:
        text = text.strip()
        if not text:
            raise UsageError("the prompt is empty", place="prompt", remedy="Write something to answer.")
        changes["user_turns"] = (*conversation.user_turns[:-1], text)
        if len(conversation.user_turns) == 1 and conversation.title == title_of(conversation.user_turns[0]):
            changes["title"] = title_of(text)
    conversation = answer_store.update_conversation(ws.store, conversation.id, **changes)
    start(ws, make_orders(conversation, load_answers(ws.store, conversation), sampling=sampling, again=True))


def follow_choice(ws: Workspace, conversation: Conversation, picked: Sequence[str], answers: Answers) -> Conversation:
    """Take over panes that were added or removed; those that joined answer what was asked so far."""
    if not picked or tuple(picked) == conversation.variants or STREAMS.live(conversation.id):
        return conversation
    joined = [item for item in picked if item not in conversation.variants]
    conversation = answer_store.update_conversation(ws.store, conversation.id, variants=tuple(picked))
    if joined:
        orders = make_orders(conversation, answers, variants=joined)
        if orders:
            start(ws, orders)
    return conversation
