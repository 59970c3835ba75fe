"""Two panes' answers to one prompt, word by word; worked out only where asked for."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from workbench.records import Conversation, Variant
from workbench.ui.conversation import Answers
from workbench.ui.diff import show_diff
from workbench.ui.streams import STREAMS
from workbench.ui.text import plain


def show_differences(conversation: Conversation, variants: dict[str, Variant], answers: Answers) -> None:
    """The switch, and the difference of the two panes that are chosen."""
    if len(conversation.variants) < 2 or STREAMS.live(conversation.id):
        return
    names = {item: variants[item].name if item in variants else item for item in conversation.variants}
    turn = len(conversation.user_turns) - 1
    given = [item for item in names if (turn, item) in answers and answers[turn, item].error is None]
    if len(given) < 2 or not st.toggle(
        "Show word by word what differs", key="playground.diff", persist_state="session"
    ):
        return
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            first = _pick_side("From", given, names, 0)
            second = _pick_side("To", given, names, 1)
            if len(conversation.user_turns) > 1:
                turn = st.number_input("Prompt", 1, len(conversation.user_turns), turn + 1) - 1
        before, after = answers.get((turn, first)), answers.get((turn, second))
        if before is None or after is None:
            st.caption("One of the two has no answer to this prompt.")
        elif first == second:
            st.caption("Choose two different variants.")
        else:
            st.caption(f"Struck through: only in {plain(names[first])}. Underlined: only in {plain(names[second])}.")
            show_diff(before.text, after.text)


def _pick_side(label: str, given: Sequence[str], names: dict[str, str], index: int) -> str:
    picked: str = st.selectbox(
        label, given, index, format_func=lambda item: names.get(item, item), key=f"playground.diff.{label}"
    )
    return picked
