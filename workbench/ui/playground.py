"""The Playground's parts: which panes, with which settings, the conversation itself, its history, and the first step.

The page stays a script that calls these in order. What is asked is worked out in `conversation`, written by `streams`
and drawn by `panes`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st
from pydantic import ValidationError

from workbench.api import Workspace
from workbench.errors import NotFound, UsageError, WorkbenchError
from workbench.records import Completion, Conversation, Message, Sampling, Variant
from workbench.store import answers as answer_store
from workbench.ui.conversation import MOST_PANES, Answers, load_answers, make_orders, title_of
from workbench.ui.diff import show_diff
from workbench.ui.errors import show_problem, shown_errors
from workbench.ui.forms import draw_field
from workbench.ui.panes import CARD_WIDTH, card_columns, show_kept, show_missing, show_view
from workbench.ui.state import VARIANTS_PARAM
from workbench.ui.streams import STREAMS, Handle, Open, Order
from workbench.ui.text import plain

CONVERSATION_PARAM = "conversation"
"""`?conversation=cnv_…`."""
PICKED = "playground.variants"
SYSTEM = "playground.system"
SETTINGS = "playground.sampling"
SHOWN = "playground.shown"
EDITING = "playground.editing"
PROBLEM = "playground.problem"
LOOK_EVERY_S = 0.2
READY_PROMPTS = (
    "Write an essay about the main themes of Hamlet",
    "Explain how a vaccine works to a ten-year-old.",
    "Write a polite email that asks a landlord to repair a leaking tap.",
    "List five things to check before buying a used bicycle.",
    "Summarise in one sentence why the sky is blue.",
)


def find_conversation(ws: Workspace) -> Conversation | None:
    """The conversation that the address names; None for a new one."""
    wanted = st.query_params.get(CONVERSATION_PARAM)
    if not wanted:
        return None
    try:
        return answer_store.get_conversation(ws.store, wanted)
    except NotFound as error:
        del st.query_params[CONVERSATION_PARAM]
        show_problem(error)
        return None


def settle_state(ws: Workspace, conversation: Conversation | None, variants: Sequence[Variant]) -> None:
    """Take panes and settings over from the address, once each time it names something else."""
    named = st.query_params.get(VARIANTS_PARAM, "")
    source = conversation.id if conversation is not None else f"new:{named}"
    if st.session_state.get(SHOWN) == source:
        return
    st.session_state[SHOWN] = source
    st.session_state.pop(EDITING, None)
    known = {key: variant.id for variant in variants for key in (variant.id, variant.name)}
    if conversation is not None:
        st.session_state[PICKED] = [item for item in conversation.variants if item in known]
        st.session_state[SYSTEM] = conversation.system
        put_sampling(conversation.sampling)
    elif named:
        wanted = [part for part in named.split(",") if part]
        st.session_state[PICKED] = list(dict.fromkeys(known[part] for part in wanted if part in known))[:MOST_PANES]
        missing = [part for part in wanted if part not in known]
        if missing:
            st.session_state[PROBLEM] = NotFound(
                "a variant of the address is not there", value=", ".join(missing), remedy="Choose among those below."
            )
    elif not st.session_state.get(PICKED):
        st.session_state[PICKED] = default_panes(variants)


def default_panes(variants: Sequence[Variant]) -> list[str]:
    """The newest adapter beside its base, or else the first variant."""
    for variant in reversed(variants):
        if variant.adapter_path is not None:
            base = next((v for v in variants if v.model_id == variant.model_id and v.adapter_path is None), None)
            return [*([base.id] if base else []), variant.id]
    return [variant.id for variant in variants[:1]]


def put_sampling(sampling: Sampling) -> None:
    """Set the settings' widgets; only before they are drawn or in a callback."""
    for name in Sampling.model_fields:
        value = getattr(sampling, name)
        st.session_state[f"{SETTINGS}.{name}"] = list(value) if isinstance(value, tuple) else value


def pick_variants(variants: Sequence[Variant], *, disabled: bool) -> list[str]:
    """The choice of panes."""
    names = {variant.id: variant.name for variant in variants}
    st.session_state[PICKED] = [item for item in st.session_state.get(PICKED, []) if item in names]
    picked: list[str] = st.multiselect(
        "Variants",
        list(names),
        format_func=lambda item: names.get(item, item),
        key=PICKED,
        max_selections=MOST_PANES,
        placeholder="Choose up to six",
        help="All answer at once with the same settings and seed. One that joins later answers earlier prompts too.",
        disabled=disabled,
    )
    return picked


def show_settings() -> Sampling | None:
    """System prompt and sampling settings, in a popover; None after saying what does not hold."""
    if SYSTEM not in st.session_state:
        st.session_state[SYSTEM] = ""
    with st.popover("Settings", icon=":material/tune:", width="content"):
        st.text_area(
            "System prompt",
            key=SYSTEM,
            persist_state="session",
            placeholder="None",
            help="Stands before the conversation in every pane.",
        )
        values: dict[str, Any] = {}
        defaults = Sampling()
        with st.grid(2, min_column_width=150):
            for name, field in Sampling.model_fields.items():
                values[name] = draw_field(name, field, f"{SETTINGS}.{name}", getattr(defaults, name))
        st.caption("They hold for every pane, from the next prompt on.")
    try:
        return Sampling(**values)
    except ValidationError as error:
        first = error.errors()[0]
        show_problem(
            UsageError(first["msg"], place=str(first["loc"][0]), value=first["input"], remedy="Change it in Settings.")
        )
        return None


def opener(ws: Workspace, order: Order) -> Open:
    """How the answer to an order is opened: finds or starts the engine, then asks."""

    def open_answer(messages: Sequence[Message], sampling: Sampling) -> Handle:
        return ws.client(order.variant_id).stream(list(messages), sampling)

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


def ask_again(
    ws: Workspace, conversation: Conversation, *, variant: str | None = None, sampling: Sampling | None = None
) -> None:
    """Ask the last prompt again, in one pane or in all; a callback."""
    try:
        orders = make_orders(
            conversation,
            load_answers(ws.store, conversation),
            sampling=sampling,
            variants=None if variant is None else [variant],
            again=True,
        )
        start(ws, orders)
    except WorkbenchError as error:
        st.session_state[PROBLEM] = error


def resend_edited(ws: Workspace, conversation: Conversation, text: str) -> None:
    """Put other words in place of the last prompt and ask again.

    Raises:
        UsageError: the text is empty.
    """
    if not text.strip():
        raise UsageError("the prompt is empty", place="prompt", remedy="Write something to answer.")
    turns = (*conversation.user_turns[:-1], text.strip())
    changes: dict[str, Any] = {"user_turns": turns}
    if len(turns) == 1 and conversation.title == title_of(conversation.user_turns[0]):
        changes["title"] = title_of(text)
    conversation = answer_store.update_conversation(ws.store, conversation.id, **changes)
    start(ws, make_orders(conversation, load_answers(ws.store, conversation), again=True))


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


def show_turns(ws: Workspace, conversation: Conversation, variants: dict[str, Variant], answers: Answers) -> None:
    """Earlier turns as they are kept, and the last one, live while it is written."""
    live = STREAMS.live(conversation.id)
    for turn in range(len(conversation.user_turns)):
        last = turn == len(conversation.user_turns) - 1
        _show_prompt(ws, conversation, turn, editable=last and not live)
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
    retry = partial(ask_again, ws, conversation, variant=variant) if retriable and variant in variants else None
    key = f"playground.retry.{turn}.{variant}"
    if answer is not None:
        show_kept(answer, variants, retry=retry, key=key)
    elif view is not None and view.turn == turn and (view.unsaved or view.live):
        show_view(view, variants)
    elif STREAMS.live(conversation.id):
        with st.container(border=True):
            st.caption(f"{plain(variants[variant].name if variant in variants else variant)}: waiting for its turn")
    else:
        show_missing(variant, variants, retry=retry, key=key)


def _show_prompt(ws: Workspace, conversation: Conversation, turn: int, *, editable: bool) -> None:
    with st.chat_message("user", avatar=":material/person:"):
        if editable and st.session_state.get(EDITING) == conversation.id:
            _edit_prompt(ws, conversation)
            return
        st.text(conversation.user_turns[turn])
        if editable:
            with st.container(horizontal=True, gap="small"):
                again = st.menu_button(
                    "Regenerate",
                    ["With the same seed", "With a new seed"],
                    icon=":material/refresh:",
                    type="tertiary",
                    key="playground.again",
                )
                if st.button("Edit", icon=":material/edit:", type="tertiary", key="playground.edit"):
                    st.session_state[EDITING] = conversation.id
                    st.rerun()
            if again:
                seed = conversation.sampling.seed if again == "With the same seed" else secrets.randbelow(2**31)
                ask_again(ws, conversation, sampling=conversation.sampling.model_copy(update={"seed": seed}))
                st.rerun()


def _edit_prompt(ws: Workspace, conversation: Conversation) -> None:
    with st.form("playground.edit_form", border=False):
        text = st.text_area("Prompt", conversation.user_turns[-1], label_visibility="collapsed", height="content")
        with st.container(horizontal=True):
            sent = st.form_submit_button("Send again", type="primary")
            left = st.form_submit_button("Leave as it was")
    if sent:
        resend_edited(ws, conversation, text or "")
    if sent or left:
        del st.session_state[EDITING]
        st.rerun()


def show_ready_prompts() -> str | None:
    """Ready prompts for a conversation that has not begun; the one that was picked."""
    st.caption("Ask something below, or start with one of these.")
    picked: str | None = st.pills(
        "Ready prompts", READY_PROMPTS, label_visibility="collapsed", key="playground.ready", wrap=True
    )
    return picked


def take_problem() -> None:
    """Show what a callback could not do, once."""
    problem = st.session_state.pop(PROBLEM, None)
    if isinstance(problem, WorkbenchError):
        show_problem(problem)


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


def show_differences(conversation: Conversation, variants: dict[str, Variant], answers: Answers) -> None:
    """Word by word, how two panes' answers to one prompt differ; worked out only where asked for."""
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
