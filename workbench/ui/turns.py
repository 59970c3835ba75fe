"""A conversation's turns: each prompt with its panes' answers below, the last ones live while they are written."""

from __future__ import annotations

import secrets
from functools import partial

import streamlit as st

from workbench.api import Workspace
from workbench.records import Completion, Conversation, Sampling, Variant
from workbench.ui.asking import ask_again, ask_pane_again
from workbench.ui.conversation import Answers, load_answers
from workbench.ui.errors import shown_errors
from workbench.ui.links import CRAFT, go_to, has_page
from workbench.ui.panes import CARD_WIDTH, card_columns, show_kept, show_missing, show_view
from workbench.ui.state import FROM_PARAM
from workbench.ui.streams import STREAMS
from workbench.ui.text import plain

EDITING = "playground.editing"
LOOK_EVERY_S = 0.2
SAME_SEED, NEW_SEED = "With the same seed", "With a new seed"


def show_turns(
    ws: Workspace,
    conversation: Conversation,
    variants: dict[str, Variant],
    answers: Answers,
    sampling: Sampling | None,
) -> None:
    """Earlier turns as they are kept, and the last one, live while it is written.

    Args:
        ws: the workspace.
        conversation: what to show.
        variants: by id, for names.
        answers: of `load_answers`.
        sampling: settings of now, for asking again; None where they do not hold.
    """
    live = STREAMS.live(conversation.id)
    for turn in range(len(conversation.user_turns)):
        last = turn == len(conversation.user_turns) - 1
        _show_prompt(ws, conversation, turn, sampling if last and not live else None)
        if live:
            if any(view.live and view.turn <= turn for view in STREAMS.views(conversation.id).values()):
                st.fragment(run_every=LOOK_EVERY_S)(_live_turn)(ws, conversation, turn, variants, answers)
                continue
        with st.grid(card_columns(len(conversation.variants)), min_column_width=CARD_WIDTH):
            for variant in conversation.variants:
                _show_answer(ws, conversation, turn, variant, variants, answers.get((turn, variant)), last and not live)


def _live_turn(
    ws: Workspace, conversation: Conversation, turn: int, variants: dict[str, Variant], answers: Answers
) -> None:
    with shown_errors():
        if not STREAMS.live(conversation.id):
            st.rerun()  # the last pane has ended: draw the page from the store, without the timer
        views = STREAMS.views(conversation.id)
        with st.grid(card_columns(len(conversation.variants)), min_column_width=CARD_WIDTH):
            for variant in conversation.variants:
                view = views.get(variant)
                if view is None or view.turn < turn:
                    _show_answer(ws, conversation, turn, variant, variants, answers.get((turn, variant)), False)
                elif view.turn > turn or view.completion is not None:
                    kept = view.completion if view.turn == turn else _kept_since(ws, conversation, turn, variant)
                    _show_answer(ws, conversation, turn, variant, variants, kept, False)
                else:
                    show_view(view, variants)


def _kept_since(ws: Workspace, conversation: Conversation, turn: int, variant: str) -> Completion | None:
    return load_answers(ws.store, conversation).get((turn, variant))


def _show_answer(
    ws: Workspace,
    conversation: Conversation,
    turn: int,
    variant: str,
    variants: dict[str, Variant],
    answer: Completion | None,
    retriable: bool,
) -> None:
    view = STREAMS.views(conversation.id).get(variant)
    retry = partial(ask_pane_again, ws, conversation, variant) if retriable and variant in variants else None
    key = f"playground.retry.{turn}.{variant}"
    if answer is not None:
        with st.container(gap="xsmall"):
            show_kept(answer, variants, retry=retry, key=key)
            if retriable and answer.error is None and answer.text.strip() and has_page(CRAFT):
                if st.button("Make an example", icon=":material/edit_note:", type="tertiary", key=f"{key}.example"):
                    go_to(CRAFT, **{FROM_PARAM: answer.id})
    elif view is not None and view.turn == turn and (view.unsaved or view.live):
        show_view(view, variants)
    elif STREAMS.live(conversation.id):
        with st.container(border=True):
            st.caption(f"{plain(variants[variant].name if variant in variants else variant)}: waiting for its turn")
    else:
        show_missing(variant, variants, retry=retry, key=key)


def _show_prompt(ws: Workspace, conversation: Conversation, turn: int, sampling: Sampling | None) -> None:
    with st.chat_message("user", avatar=":material/person:"):
        if sampling is not None and st.session_state.get(EDITING) == conversation.id:
            _edit_prompt(ws, conversation, sampling)
            return
        st.text(conversation.user_turns[turn])
        if sampling is not None:
            _show_again(ws, conversation, sampling)


def _show_again(ws: Workspace, conversation: Conversation, sampling: Sampling) -> None:
    with st.container(horizontal=True, gap="small"):
        again = st.menu_button(
            "Regenerate",
            [SAME_SEED, NEW_SEED],
            icon=":material/refresh:",
            type="tertiary",
            key="playground.again",
            help="Asks every pane again, with the settings of now.",
        )
        if st.button("Edit", icon=":material/edit:", type="tertiary", key="playground.edit"):
            st.session_state[EDITING] = conversation.id
            st.rerun()
    if again:
        seed = sampling.seed if again == SAME_SEED else secrets.randbelow(2**31)
        with shown_errors():
            ask_again(ws, conversation, sampling.model_copy(update={"seed": seed}))
            st.rerun()


def _edit_prompt(ws: Workspace, conversation: Conversation, sampling: Sampling) -> None:
    with st.form("playground.edit_form", border=False):
        text = st.text_area("Prompt", conversation.user_turns[-1], label_visibility="collapsed", height="content")
        with st.container(horizontal=True):
            sent = st.form_submit_button("Send again", type="primary")
            left = st.form_submit_button("Leave as it was")
    with shown_errors():
        if sent:
            ask_again(ws, conversation, sampling, text or "")
        if sent or left:
            del st.session_state[EDITING]
            st.rerun()


def show_stop(conversation: Conversation) -> None:
    """The button that ends all answers of a conversation at once, beside the composer, where it never scrolls away."""
    with st.bottom:
        st.button(
            "Stop all",
            icon=":material/stop_circle:",
            key="playground.stop",
            type="primary",
            help="What has been written so far is kept.",
            on_click=STREAMS.stop,
            args=(conversation.id,),
        )
