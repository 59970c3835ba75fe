"""The Playground's panes and settings: taken over from the address, chosen and changed by a person.

What is asked with them is in `asking`, how answers are drawn in `turns` and `panes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st
from pydantic import ValidationError

from workbench.api import Workspace
from workbench.errors import NotFound, WorkbenchError
from workbench.records import Conversation, Sampling, Variant
from workbench.runs.kinds import config_problem
from workbench.store import answers as answer_store
from workbench.ui.asking import CONVERSATION_PARAM, PROBLEM, SHOWN, SYSTEM
from workbench.ui.conversation import MOST_PANES
from workbench.ui.errors import show_problem
from workbench.ui.forms import draw_field
from workbench.ui.state import VARIANTS_PARAM

PICKED = "playground.variants"
SETTINGS = "playground.sampling"
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


def settle_state(conversation: Conversation | None, variants: Sequence[Variant]) -> None:
    """Take panes and settings over from the address, once each time it names something else."""
    named = st.query_params.get(VARIANTS_PARAM, "")
    source = conversation.id if conversation is not None else f"new:{named}"
    if st.session_state.get(SHOWN) == source:
        return
    st.session_state[SHOWN] = source
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
        st.caption("They hold for every pane, from the next answer on.")
    try:
        return Sampling(**values)
    except ValidationError as error:
        show_problem(config_problem(error))
        return None


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
