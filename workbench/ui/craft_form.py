"""The editor of one row: its turns, tools and tags, what is wrong with it in words, and its tokens for a model.

Fields write into the draft as they change; they are filled from the draft again whenever it says something else than
they do (after an undo, a drafted answer, an edit in another tab).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from workbench.api import Workspace
from workbench.datasets.editing import Problem, payload_text
from workbench.datasets.row_drafts import NEW, ChangeDraft, Group, RowDraft, TurnDraft, draft_row, read_row_draft
from workbench.errors import NotFound, UsageError
from workbench.records import ROLES, Payload
from workbench.ui.craft_answer import show_drafting
from workbench.ui.craft_desk import SEEN, Desk, guarded, signature
from workbench.ui.errors import shown_errors
from workbench.ui.inspector import show_inspector
from workbench.ui.text import plain
from workbench.ui.typing_kept import keep_typing

FORM = "craft.form"
MOST_LIVE_CHARACTERS = 60_000
"""Longer rows are turned into tokens only when asked: the page would wait at each pause of typing."""
TALL_CHARACTERS = 4_000
"""A longer text scrolls in a field of fixed height."""
ROLE_LABELS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
GROUP_TITLES: dict[Group, str] = {
    "turns": "Prompt",
    "chosen": "Better answer",
    "rejected": "Worse answer",
    "completion": "Answer",
}


def show_editor(desk: Desk, row_key: str) -> None:
    """The editor of a row.

    Args:
        desk: what is worked on.
        row_key: a stored row's id or a new row's key.
    """
    known = desk.changes.get(row_key)
    if known is not None and known.action == "delete":
        _show_deleted(desk, row_key, known)
        return
    try:
        row = known.row if known is not None and known.row is not None else draft_row(desk.read(row_key).payload)
    except NotFound:
        st.caption("This row is not there any more: it was deleted, saved or discarded meanwhile. Choose another.")
        return
    _fill(desk, row_key, row)
    payload, problems = read_row_draft(desk.dataset.kind, row)
    with st.container(key=FORM, gap="small"):
        _show_head(desk, row_key, known)
        tools = desk.dataset.kind == "instructions" and _wants_tools(desk, row_key, row)
        _show_turns(desk, row_key, row, "turns", tools)
        if desk.dataset.kind == "preferences":
            _show_turns(desk, row_key, row, "chosen", False)
            _show_turns(desk, row_key, row, "rejected", False)
            _number(desk, row_key, "weight", "Weight", "Weight in the loss; 1 is the usual.")
        elif desk.dataset.kind == "labels":
            _show_turns(desk, row_key, row, "completion", False)
            _label(desk, row_key)
            _number(desk, row_key, "weight", "Weight", "Weight in the loss, above 0; 1 is the usual.")
        elif desk.dataset.kind == "prompts":
            _area(desk, row_key, "reference", row.reference or "", "Reference answer, for scorers that compare")
        if tools:
            _area(
                desk, row_key, "tools", row.tools, "Tool definitions as JSON",
                placeholder='[{"type": "function", "function": {"name": "…", "parameters": {}}}]',
            )  # fmt: skip
        _show_tags(desk, row_key, row)
        _show_problems(problems)
    keep_typing(FORM, row_key)
    with shown_errors():
        show_drafting(desk, row_key, row, payload)
    _show_tokens(desk.ws, payload)


# ---- fields ----


def _key(row_key: str, part: str) -> str:
    return f"craft.field.{row_key}.{part}"


def _values(row: RowDraft) -> dict[str, Any]:
    """Each field's name and what the draft says there."""
    values: dict[str, Any] = {
        "tools": row.tools, "reference": row.reference or "", "weight": row.weight, "label": row.label,
        "tags": list(row.tags),
    }  # fmt: skip
    for turn in (*row.turns, *row.chosen, *row.rejected, *row.completion):
        values[f"{turn.key}.role"] = turn.role
        values[f"{turn.key}.content"] = turn.content
        values[f"{turn.key}.name"] = turn.name or ""
        values[f"{turn.key}.tool_call_id"] = turn.tool_call_id or ""
        values[f"{turn.key}.tool_calls"] = turn.tool_calls
    return values


def _fill(desk: Desk, row_key: str, row: RowDraft) -> None:
    """Let the fields say what the draft says, where they do not stem from it already."""
    seen = signature(desk, row_key, row)
    anew = st.session_state.get(SEEN) != seen
    for part, value in _values(row).items():
        key = _key(row_key, part)
        # A field that was not drawn for a while is forgotten by Streamlit, and would come back empty.
        if anew or key not in st.session_state:
            st.session_state[key] = value
    st.session_state[SEEN] = seen


def _on_field(desk: Desk, row_key: str, part: str, change: Callable[[RowDraft, Any], RowDraft]) -> None:
    value = st.session_state.get(_key(row_key, part))
    known = desk.drafts.get(row_key) if desk.draft_id else None
    before = known.row if known and known.row else None
    fresh = before is None or st.session_state.get(SEEN) == signature(desk, row_key, before)
    desk.change_row(row_key, lambda row: change(row, value))
    after = desk.drafts.get(row_key)
    if fresh and after is not None and after.row is not None:
        # The fields show this very state; had another tab changed the draft, they would be filled anew.
        st.session_state[SEEN] = signature(desk, row_key, after.row)


def _set(name: str) -> Callable[[RowDraft, Any], RowDraft]:
    def change(row: RowDraft, value: Any) -> RowDraft:
        if name == "reference":
            value = value or None
        elif name == "tags":
            value = tuple(value or ())
        elif name == "weight":
            value = 1.0 if value is None else float(value)
        return row.model_copy(update={name: value or "" if name == "tools" else value})

    return change


def _set_turn(turn_key: str, name: str) -> Callable[[RowDraft, Any], RowDraft]:
    def change(row: RowDraft, value: Any) -> RowDraft:
        value = value or (None if name in ("name", "tool_call_id") else "")
        return _with_turns(row, lambda turn: turn.model_copy(update={name: value}) if turn.key == turn_key else turn)

    return change


def _with_turns(row: RowDraft, change: Callable[[TurnDraft], TurnDraft]) -> RowDraft:
    groups: tuple[Group, ...] = ("turns", "chosen", "rejected", "completion")
    return row.model_copy(update={name: tuple(map(change, getattr(row, name))) for name in groups})


def _area(desk: Desk, row_key: str, part: str, text: str, label: str, **more: Any) -> None:
    turn_key, _, name = part.rpartition(".")
    st.text_area(
        label,
        key=_key(row_key, part),
        height=400 if len(text) > TALL_CHARACTERS else "content",
        on_change=guarded(_on_field),
        args=(desk, row_key, part, _set_turn(turn_key, name) if turn_key else _set(part)),
        **more,
    )


def _number(desk: Desk, row_key: str, part: str, label: str, help: str) -> None:
    st.number_input(
        label, min_value=0.0, max_value=1e6, step=0.1, key=_key(row_key, part), help=help, width=160,
        on_change=guarded(_on_field), args=(desk, row_key, part, _set(part)),
    )  # fmt: skip


def _label(desk: Desk, row_key: str) -> None:
    st.toggle(
        "A good answer", key=_key(row_key, "label"), on_change=guarded(_on_field),
        args=(desk, row_key, "label", _set("label")),
        help="On: KTO makes answers like this likelier. Off: it makes them less likely.",
    )  # fmt: skip


# ---- the parts of the editor ----


def _show_head(desk: Desk, row_key: str, known: ChangeDraft | None) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if row_key.startswith(NEW):
            st.badge("New row", icon=":material/add:", color="green")
        elif known is not None:
            st.badge("Edited", icon=":material/edit:", color="orange")
        else:
            st.badge("As saved", icon=":material/check:", color="gray")
        st.space("stretch")
        if known is not None and known.before is not None:
            st.button(
                f"Undo: {plain(known.step)}", icon=":material/undo:", key="craft.undo", type="tertiary",
                on_click=guarded(desk.undo_step), args=(row_key,),
            )  # fmt: skip
        if known is not None:
            st.button(
                "Discard draft", icon=":material/restart_alt:", key="craft.discard", type="tertiary",
                help="Forget what was written here since the last save.",
                on_click=guarded(desk.forget), args=(row_key,),
            )  # fmt: skip
        st.button(
            "Duplicate", icon=":material/content_copy:", key="craft.duplicate", type="tertiary",
            on_click=guarded(_duplicate), args=(desk, row_key),
        )  # fmt: skip
        st.button(
            "Delete", icon=":material/delete:", key="craft.delete", type="tertiary",
            on_click=guarded(_delete), args=(desk, row_key),
        )  # fmt: skip
    if known is not None and known.action == "edit" and desk.version and known.base_id != desk.version.id:
        _show_newer(desk, row_key, known)


def _show_newer(desk: Desk, row_key: str, known: ChangeDraft) -> None:
    """Say at once when somebody else changed the row that is being written."""
    try:
        now = desk.read(row_key)
    except NotFound:
        st.warning("Somebody deleted this row meanwhile. You decide what holds when you save.", icon=":material/group:")
        return
    if now.row_hash != desk.read(row_key, known.base_id).row_hash:
        st.warning(
            f"Version {desk.version.number if desk.version else ''} changed this row too. Nothing is lost: "
            "you decide what holds when you save.",
            icon=":material/group:",
        )
        with st.expander("What it says there", icon=":material/visibility:"):
            st.text(payload_text(now.payload))


def _duplicate(desk: Desk, row_key: str) -> None:
    known = desk.changes.get(row_key)
    row = known.row if known is not None and known.row is not None else draft_row(desk.read(row_key).payload)
    desk.add_row(row)


def _delete(desk: Desk, row_key: str) -> None:
    desk.delete_row(row_key)


def _show_deleted(desk: Desk, row_key: str, known: ChangeDraft) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        words = "Thrown away" if row_key.startswith(NEW) else "Deleted with the next save"
        st.badge(words, icon=":material/delete:", color="red")
        st.space("stretch")
        st.button(
            "Undo", icon=":material/undo:", key="craft.undelete", on_click=guarded(desk.undelete_row), args=(row_key,)
        )
    payload: Payload | None = None
    if known.row is not None:
        payload = read_row_draft(desk.dataset.kind, known.row)[0]
    elif not row_key.startswith(NEW):
        payload = desk.read(row_key, known.base_id).payload
    st.text(payload_text(payload))


def _wants_tools(desk: Desk, row_key: str, row: RowDraft) -> bool:
    has = bool(row.tools) or any(turn.role == "tool" or turn.tool_calls or turn.tool_call_id for turn in row.turns)
    if has:
        return True
    return st.toggle("Tools", key=f"craft.tools.{row_key}", help="Tool definitions, calls and results, as JSON.")


def _show_turns(desk: Desk, row_key: str, row: RowDraft, group: Group, tools: bool) -> None:
    turns: tuple[TurnDraft, ...] = getattr(row, group)
    title = GROUP_TITLES[group] if desk.dataset.kind in ("preferences", "labels") else ""
    if title:
        st.markdown(f"**{title}**")
    for place, turn in enumerate(turns):
        _show_turn(desk, row_key, turn, group, place, len(turns), title, tools)
    with st.container(horizontal=True, gap="small"):
        last = turns[-1].role if turns else ""
        following = "assistant" if last in ("user", "tool") or group != "turns" else "user"
        st.button(
            f"Add {ROLE_LABELS[following].lower()} turn", icon=":material/add:", key=f"craft.add.{group}",
            type="tertiary", on_click=guarded(_add_turn), args=(desk, row_key, group, following),
        )  # fmt: skip
        if group == "turns" and (not turns or turns[0].role != "system"):
            st.button(
                "Add system prompt", icon=":material/settings:", key="craft.add.system",
                type="tertiary", on_click=guarded(_add_turn), args=(desk, row_key, group, "system"),
            )  # fmt: skip


def _show_turn(
    desk: Desk, row_key: str, turn: TurnDraft, group: Group, place: int, count: int, title: str, tools: bool
) -> None:
    where = f"{title}, turn {place + 1}" if title else f"Turn {place + 1}"
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            roles = list(ROLES) if turn.role in ROLES else [*ROLES, turn.role]
            part = f"{turn.key}.role"
            st.selectbox(
                f"{where}: who speaks", roles, format_func=lambda role: ROLE_LABELS.get(role, role), width=150,
                key=_key(row_key, part), label_visibility="collapsed", on_change=guarded(_on_field),
                args=(desk, row_key, part, _set_turn(turn.key, "role")),
            )  # fmt: skip
            st.space("stretch")
            for name, icon, help, off in (
                ("up", "arrow_upward", "Move up", place == 0),
                ("down", "arrow_downward", "Move down", place == count - 1),
                ("remove", "close", "Remove this turn", False),
            ):
                st.button(
                    f":material/{icon}:", key=f"craft.{name}.{turn.key}", type="tertiary", help=help, disabled=off,
                    on_click=guarded(_move_turn), args=(desk, row_key, group, turn.key, name),
                )  # fmt: skip
        _area(
            desk, row_key, f"{turn.key}.content", turn.content, f"{where}, text",
            label_visibility="collapsed", placeholder=f"What the {turn.role} says",
        )  # fmt: skip
        if tools and turn.role == "tool":
            with st.container(horizontal=True):
                for name, label in (("name", "Tool's name"), ("tool_call_id", "Answers call (id)")):
                    part = f"{turn.key}.{name}"
                    st.text_input(
                        label, key=_key(row_key, part), on_change=guarded(_on_field),
                        args=(desk, row_key, part, _set_turn(turn.key, name)),
                    )  # fmt: skip
        if turn.tool_calls or (tools and turn.role == "assistant"):
            _area(
                desk, row_key, f"{turn.key}.tool_calls", turn.tool_calls, f"{where}, tool calls as JSON",
                placeholder='[{"id": "call_1", "type": "function", "function": {"name": "…", "arguments": {}}}]',
            )  # fmt: skip


def _add_turn(desk: Desk, row_key: str, group: Group, role: str) -> None:
    def change(row: RowDraft) -> RowDraft:
        turns = getattr(row, group)
        made = TurnDraft(role=role)
        return row.model_copy(update={group: (made, *turns) if role == "system" else (*turns, made)})

    desk.change_row(row_key, change)


def _move_turn(desk: Desk, row_key: str, group: Group, turn_key: str, how: str) -> None:
    def change(row: RowDraft) -> RowDraft:
        turns = list(getattr(row, group))
        place = next((index for index, turn in enumerate(turns) if turn.key == turn_key), None)
        if place is None:
            raise UsageError("this turn is not there any more", remedy="Reload the page.")
        turn = turns.pop(place)
        if how != "remove":
            turns.insert(max(0, place + (-1 if how == "up" else 1)), turn)
        return row.model_copy(update={group: tuple(turns)})

    desk.change_row(row_key, change, "turn removed" if how == "remove" else "")


def _show_tags(desk: Desk, row_key: str, row: RowDraft) -> None:
    options = list(dict.fromkeys([*row.tags, *st.session_state.get("craft.known_tags", [])]))
    tags = st.multiselect(
        "Tags", options, key=_key(row_key, "tags"), accept_new_options=True, placeholder="Add a tag",
        help="Kept with the row as meta.tags; not trained on.",
        on_change=guarded(_on_field), args=(desk, row_key, "tags", _set("tags")),
    )  # fmt: skip
    st.session_state["craft.known_tags"] = list(dict.fromkeys([*options, *tags]))[:200]
    rest = {name: value for name, value in row.meta.items() if name != "tags"}
    if rest:
        with st.expander("Kept columns", icon=":material/label:"):
            st.json(rest)


def _show_problems(problems: list[Problem]) -> None:
    for problem in problems:
        st.caption(f":orange[:material/pending:] {plain(problem.sentence())}")


def _show_tokens(ws: Workspace, payload: Payload | None) -> None:
    if payload is None:
        st.caption("Tokens are shown once the JSON above can be read.")
        return
    text = payload_text(payload)
    if len(text) > MOST_LIVE_CHARACTERS and not st.toggle(
        f"Show the tokens of these {len(text):,} characters", key="craft.tokens", help="Takes a moment each time."
    ):
        return
    with shown_errors():
        show_inspector(ws, payload)
