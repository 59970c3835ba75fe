"""Let a variant draft an answer: the text lands in the draft, to be edited, also when nobody looks any more.

It is written by the same threads as the Playground's panes, so that Stop works at once and a refresh finds it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st
from pydantic import ValidationError

from workbench.api import Workspace
from workbench.datasets.row_drafts import ChangeDraft, Group, RowDraft, TurnDraft
from workbench.errors import UsageError
from workbench.records import Completion, Labelled, Message, Payload, Preference, Sampling, Variant
from workbench.runs.kinds import config_problem
from workbench.ui.craft_desk import Desk, guarded
from workbench.ui.errors import show_problem, shown_errors
from workbench.ui.forms import draw_field
from workbench.ui.streams import STREAMS, Handle, Open, Order
from workbench.ui.text import plain

LOOK_EVERY_S = 0.25
SETTINGS = "craft.sampling"
ASKED_SETTINGS = ("temperature", "max_tokens", "seed")
BEGUN = "answer drafted"
TARGETS: dict[str, Group] = {"better answer": "chosen", "worse answer": "rejected"}


def stream_id(desk: Desk, row_key: str) -> str:
    """What the answer being drafted for a row goes by."""
    return f"craft {desk.dataset.id} {desk.draft_id} {row_key}"


def drafting(desk: Desk, row_key: str) -> bool:
    """Whether an answer is being drafted for a row."""
    return STREAMS.live(stream_id(desk, row_key))


def asked_messages(payload: Payload | None) -> list[Message]:
    """The conversation that a drafted answer would answer: all before the last answer; empty where there is none."""
    if payload is None:
        return []
    if isinstance(payload, Preference | Labelled):
        messages = list(payload.prompt)
    else:
        messages = list(payload.messages)
        if messages and messages[-1].role == "assistant":
            messages.pop()
    if not messages or messages[-1].role not in ("user", "tool"):
        return []
    return messages if all(m.content.strip() or m.role in ("tool", "assistant") for m in messages) else []


def put_answer(row: RowDraft, kind: str, text: str, group: Group = "turns") -> RowDraft:
    """A row's draft with an answer as its last turn, in place of the one that stands there.

    Args:
        row: the draft.
        kind: what the dataset holds.
        text: the answer.
        group: which answer of a preference, or the labelled one.
    """
    if kind == "prompts":
        return row.model_copy(update={"reference": text})
    turns: tuple[TurnDraft, ...] = getattr(row, group)
    if turns and turns[-1].role == "assistant":
        return row.model_copy(update={group: (*turns[:-1], turns[-1].model_copy(update={"content": text}))})
    return row.model_copy(update={group: (*turns, TurnDraft(role="assistant", content=text))})


def show_drafting(desk: Desk, row_key: str, row: RowDraft, payload: Payload | None) -> None:
    """Choose a variant and let it draft; while it writes, its text and Stop."""
    if drafting(desk, row_key):
        st.fragment(run_every=LOOK_EVERY_S)(_live)(desk, row_key)
        return
    variants = [item for item in desk.ws.variants() if item.archived_at is None]
    if not variants:
        st.caption("Answers can be drafted once a model is ready.")
        return
    _show_failure(desk, row_key)
    asked = asked_messages(payload)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        variant = st.selectbox(
            "Draft an answer with", variants, format_func=lambda item: item.name, key="craft.variant", width=280,
            persist_state="session",
        )  # fmt: skip
        target = "reference answer" if desk.dataset.kind == "prompts" else "answer"
        if desk.dataset.kind == "preferences":
            target = st.selectbox("As the", list(TARGETS), key="craft.target", width=160)
        group: Group = "completion" if desk.dataset.kind == "labels" else TARGETS.get(target, "turns")
        with st.popover("Settings", icon=":material/tune:"):
            sampling = _settings()
        st.button(
            "Draft", icon=":material/auto_awesome:", key="craft.draft", disabled=not asked or sampling is None,
            help=None if asked else "The prompt comes first: the turns before the answer must end with the user's.",
            on_click=guarded(_start), args=(desk, row_key, variant, asked, sampling, group),
        )  # fmt: skip
    if row.tools.strip():
        st.caption("The variant sees the conversation, not the tool definitions.")


def _settings() -> Sampling | None:
    defaults, values = Sampling(), dict[str, Any]()
    for name in ASKED_SETTINGS:
        field = Sampling.model_fields[name]
        values[name] = draw_field(name, field, f"{SETTINGS}.{name}", getattr(defaults, name))
    try:
        return Sampling(**values)
    except ValidationError as error:
        show_problem(config_problem(error))
        return None


def _start(
    desk: Desk, row_key: str, variant: Variant, asked: Sequence[Message], sampling: Sampling, group: Group
) -> None:
    if not asked:
        raise UsageError("there is nothing to answer yet", remedy="Write the user's turn first.")
    drafts, kind = desk.drafts, desk.dataset.kind
    if drafts.get(row_key) is None:
        desk.change_row(row_key, lambda row: row, BEGUN)  # so that the answer has where to land

    def keep(answer: Completion) -> None:
        if not answer.text.strip():
            drafts.change(row_key, _without_begun)
            return
        drafts.change(row_key, lambda known: None if known is None else known.model_copy(
            update={
                "row": put_answer(known.row or RowDraft(), kind, answer.text, group),
                "before": known.row, "step": f"answer drafted by {variant.name}",
            }
        ))  # fmt: skip

    order = Order(
        conversation_id=stream_id(desk, row_key), pane=0, variant_id=variant.id, history=tuple(asked[:-1]),
        questions=((0, asked[-1].content),), sampling=sampling,
    )  # fmt: skip
    STREAMS.start([order], opener(desk.ws, asked), keep)


def _without_begun(known: ChangeDraft | None) -> ChangeDraft | None:
    """A draft that was only made for an answer which never came is no change."""
    idle = known is not None and known.action == "edit" and known.step == BEGUN and known.row == known.before
    return None if idle else known


def opener(ws: Workspace, asked: Sequence[Message]) -> Callable[[Order], Open]:
    """How an answer to a conversation is opened, tool turns and all."""

    def for_order(order: Order) -> Open:
        def open_answer(_: Sequence[Message], sampling: Sampling) -> Handle:
            handle: Handle = ws.stream(order.variant_id, list(asked), **sampling.model_dump())
            return handle

        return open_answer

    return for_order


def _live(desk: Desk, row_key: str) -> None:
    with shown_errors():
        place = stream_id(desk, row_key)
        if not STREAMS.live(place):
            st.rerun()  # the answer is in the draft: draw the editor with it, without the timer
        for view in STREAMS.views(place).values():
            with st.container(border=True, gap="small"):
                st.text(view.text or "…")
                words = "Writing…" if view.phase == "writing" else "Getting ready…"
                st.caption(f":material/edit: {words} {view.seconds:.0f} s")
                st.button(
                    "Stop", icon=":material/stop_circle:", key="craft.stop", type="primary",
                    help="What has been written so far lands in the editor.", on_click=STREAMS.stop, args=(place,),
                )  # fmt: skip


def _show_failure(desk: Desk, row_key: str) -> None:
    for view in STREAMS.views(stream_id(desk, row_key)).values():
        if view.completion is not None and view.completion.error:
            st.error(plain(view.completion.error), icon=":material/error:")
        if view.unsaved:
            st.error(plain(view.unsaved), icon=":material/error:")
