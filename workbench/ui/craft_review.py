"""The collected changes, one by one, and the save that makes one version of them; conflicts are settled here.

What others saved meanwhile is looked at before the button is pressed and again by the save itself, so that a version
made in between cannot be overwritten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import streamlit as st

from workbench.datasets.editing import Problem, payload_text
from workbench.datasets.merging import Change, Choice, Merge, RowConflict, Saved, apply_choices, merge_changes
from workbench.datasets.row_drafts import NEW, ChangeDraft, as_changes, read_row_draft
from workbench.datasets.versions import diff_versions
from workbench.errors import NotFound
from workbench.records import Payload
from workbench.store.datasets import get_version
from workbench.ui.craft_desk import Desk, guarded
from workbench.ui.diff import diff_html, diff_words
from workbench.ui.paging import current_page, page_switch
from workbench.ui.text import count, plain

PAGE = "craft.review.page"
PAGE_ROWS = 10
SHOWN_CHARACTERS = 6_000
MESSAGE = "craft.message"
DONE = "craft.done"
"""What the last save made, told once."""
Take = Literal["mine", "theirs", "both"]
BADGES: dict[str, tuple[str, str, Literal["orange", "green", "red"]]] = {
    "edit": ("Edited", "edit", "orange"),
    "new": ("New", "add", "green"),
    "delete": ("Deleted", "delete", "red"),
}


def show_changes(desk: Desk) -> None:
    """What will be saved, what is not ready, and what needs a choice."""
    if not desk.waiting:
        st.caption("No changes are waiting. Edit a row, write a new one, or replace text; they collect here.")
        return
    changes, unfinished = as_changes(desk.dataset.kind, desk.changes)
    merge = merge_changes(desk.ws.store, list(changes.values()), desk.version)
    _show_others(desk, changes.values())
    choices = [item.choice for item in desk.changes.values() if item.choice is not None]
    left = apply_choices(merge, choices)
    _show_save(desk, changes, unfinished, left, choices)
    for conflict in merge.conflicts:
        _show_conflict(desk, conflict, choices)
    fought = {conflict.row_id for conflict in merge.conflicts}
    rest = {key: desk.changes[key] for key in reversed(desk.waiting) if key not in fought}
    page, pages = current_page(PAGE, len(rest), PAGE_ROWS)
    for key in list(rest)[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]:
        _show_change(desk, key, rest[key], unfinished.get(key, []))
    page_switch(pages, PAGE, "")


def _show_others(desk: Desk, changes: Iterable[Change]) -> None:
    """What others saved since these rows were read."""
    bases = {change.base_id for change in changes if change.base_id}
    if desk.version is None or bases <= {desk.version.id}:
        return
    oldest = min((get_version(desk.ws.store, base) for base in bases), key=lambda item: item.number)
    diff = diff_versions(desk.ws.store, oldest, desk.version)
    parts = ((diff.added, "added"), (diff.changed, "changed"), (diff.removed, "deleted"))
    told = ", ".join(f"{count(len(rows), 'row')} {word}" for rows, word in parts if rows)
    st.info(
        f"Since you began on version {oldest.number}, version {desk.version.number} was saved"
        f"{f' ({told})' if told else ''}. Your changes go on top of it, row by row.",
        icon=":material/group:",
    )


def _show_save(
    desk: Desk,
    changes: Mapping[str, Change],
    unfinished: Mapping[str, Sequence[Problem]],
    merge: Merge,
    choices: Sequence[Choice],
) -> None:
    number = desk.version.number + 1 if desk.version else 1
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.text_input(
                "What changed", key=MESSAGE, placeholder=merge.clean.told() or "In a few words", max_chars=300,
                persist_state="session",
            )  # fmt: skip
            waiting = len(merge.conflicts)
            st.button(
                f"{count(len(changes), 'change')} → save as version {number}", icon=":material/save:", type="primary",
                key="craft.save", disabled=not changes or waiting > 0, on_click=guarded(_save),
                args=(desk, changes, choices),
            )  # fmt: skip
            with st.popover("Discard all", icon=":material/delete_sweep:"):
                st.markdown(f"Forget all {count(len(desk.waiting), 'change')}? This cannot be taken back.")
                st.button(
                    "Forget them", key="craft.discard_all", on_click=guarded(desk.forget), args=tuple(desk.changes)
                )
        if waiting:
            st.caption(
                f":orange[:material/group:] {count(waiting, 'row')} {'was' if waiting == 1 else 'were'} changed by "
                "somebody else too. Choose below what holds; both are kept until then."
            )
        if unfinished:
            st.caption(
                f":orange[:material/pending:] {count(len(unfinished), 'row')} "
                f"{'is' if len(unfinished) == 1 else 'are'} not ready and {'stays' if len(unfinished) == 1 else 'stay'}"
                " in the draft."
            )


def _save(desk: Desk, changes: Mapping[str, Change], choices: Sequence[Choice]) -> None:
    taken = {key: desk.changes[key] for key in changes}
    saved = save(desk, list(changes.values()), choices, str(st.session_state.get(MESSAGE) or ""))
    if saved:
        thrown_away = {key: item for key, item in desk.changes.items() if key not in desk.waiting}
        desk.drafts.drop_saved(taken | thrown_away)
        st.session_state[MESSAGE] = ""


def save(desk: Desk, changes: Sequence[Change], choices: Sequence[Choice], message: str) -> bool:
    """Save changes and remember what to tell; whether a version holds them now.

    Raises:
        DataProblem: a row breaks the rules.
        StoreProblem: the disk or the database refuses.
    """
    saved: Saved = desk.ws.save_changes(desk.dataset.id, changes, choices=choices, message=message)
    if saved.version is None:
        rows = count(len(saved.conflicts), "row")
        st.session_state[DONE] = f"Somebody saved while you did and changed {rows} of yours. Choose below what holds."
        return False
    if saved.over is not None and saved.version.id == saved.over.id:
        st.session_state[DONE] = f"Version {saved.version.number} says all of this already."
    else:
        st.session_state[DONE] = f"Saved as version {saved.version.number}: {plain(saved.version.message)}."
    return True


# ---- one change ----


def _show_change(desk: Desk, key: str, item: ChangeDraft, problems: Sequence[Problem]) -> None:
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center"):
            label, icon, color = BADGES[item.action]
            st.badge(label, icon=f":material/{icon}:", color=color)
            if problems:
                st.badge("Not ready", icon=":material/pending:", color="orange")
            st.caption("" if key.startswith(NEW) else f"Row {plain(key)}", width="stretch")
            if item.action != "delete":
                st.button(
                    "Open", icon=":material/edit:", type="tertiary", key=f"craft.review.open.{key}",
                    on_click=desk.open_row, args=(key,),
                )  # fmt: skip
            undo = item.action == "delete" and item.row is not None
            st.button(
                "Undo", icon=":material/undo:", type="tertiary", key=f"craft.review.undo.{key}",
                on_click=guarded(desk.undelete_row if undo else desk.forget), args=(key,),
                help="Forget this change." if not undo else "Take the deletion back.",
            )  # fmt: skip
        for problem in problems:
            st.caption(f":orange[:material/pending:] {plain(problem.sentence())}")
        before, after = _sides(desk, key, item)
        show_sides(payload_text(before), payload_text(after))


def _sides(desk: Desk, key: str, item: ChangeDraft) -> tuple[Payload | None, Payload | None]:
    before = None
    if not key.startswith(NEW):
        try:
            before = desk.read(key, item.base_id).payload
        except NotFound:
            before = None
    after = read_row_draft(desk.dataset.kind, item.row)[0] if item.row is not None else None
    if item.action == "delete":
        return (before or after), None
    return before, after


def show_sides(before: str, after: str) -> None:
    """A word diff of two texts, cut where they are very long."""
    long = max(len(before), len(after)) > SHOWN_CHARACTERS
    st.html(diff_html(diff_words(before[:SHOWN_CHARACTERS], after[:SHOWN_CHARACTERS])))
    if long:
        st.caption(f"The first {SHOWN_CHARACTERS:,} characters of {max(len(before), len(after)):,}.")


# ---- conflicts ----


def _show_conflict(desk: Desk, conflict: RowConflict, choices: Sequence[Choice]) -> None:
    options: list[Take] = ["mine", "theirs"]
    if conflict.mine is not None and conflict.theirs is not None:
        options.append("both")
    kept = next((c for c in choices if c.row_id == conflict.row_id and c.theirs_hash == conflict.theirs_hash), None)
    key = f"craft.take.{conflict.row_id}.{conflict.theirs_hash}"
    if key not in st.session_state:
        st.session_state[key] = kept.take if kept else None
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge("Both changed it", icon=":material/group:", color="orange")
            st.caption(f"Row {plain(conflict.row_id)}", width="stretch")
            if conflict.mine is not None:
                st.button(
                    "Edit mine", icon=":material/edit:", type="tertiary", key=f"craft.conflict.open.{conflict.row_id}",
                    on_click=desk.open_row, args=(conflict.row_id,),
                )  # fmt: skip
        with st.grid(2, min_column_width=300):
            _show_side("Mine, against what we both started from", conflict.base, conflict.mine)
            _show_side("Theirs, against what we both started from", conflict.base, conflict.theirs)
        with st.expander("Theirs against mine", icon=":material/difference:"):
            show_sides(payload_text(conflict.mine), payload_text(conflict.theirs))
        st.segmented_control(
            "What holds", options, format_func=lambda take: _take_label(take, conflict), key=key,
            on_change=guarded(_choose), args=(desk, conflict, key),
        )  # fmt: skip


def _show_side(title: str, base: Payload, side: Payload | None) -> None:
    with st.container(border=True, gap="xsmall"):
        st.markdown(f"**{title}**")
        if side is None:
            st.caption(":material/delete: Deleted")
        show_sides(payload_text(base), payload_text(side))


def _take_label(take: Take, conflict: RowConflict) -> str:
    if take == "both":
        return "Keep both"
    side = conflict.mine if take == "mine" else conflict.theirs
    return f"{'Mine' if take == 'mine' else 'Theirs'}{'' if side is not None else ' (delete it)'}"


def _choose(desk: Desk, conflict: RowConflict, key: str) -> None:
    take = st.session_state.get(key)
    made = Choice(row_id=conflict.row_id, take=take, theirs_hash=conflict.theirs_hash) if take else None
    desk.drafts.change(
        conflict.row_id, lambda known: None if known is None else known.model_copy(update={"choice": made})
    )
