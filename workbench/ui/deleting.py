"""Deleting for good, and purging a row: asked twice, refused in words where something is in use."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from workbench.api import Workspace
from workbench.datasets.purging import PurgeReport
from workbench.ui.errors import shown_errors
from workbench.ui.text import count, plain


def delete_control(what: str, *, key: str, delete: Callable[[], None], after: Callable[[], None] = st.rerun) -> None:
    """A button that opens the question and, once confirmed, deletes.

    Args:
        what: "dataset", "run", …
        key: prefix of session keys.
        delete: does it, or raises what stands in the way.
        after: where to go when it is gone.
    """
    with st.popover("Delete", icon=":material/delete:", type="tertiary"):
        st.caption(f"The {what} and its files go for good. It is refused while anything refers to it.")
        if st.button(f"Delete the {what}", icon=":material/delete_forever:", key=f"{key}.delete"):
            gone = False
            with shown_errors():
                delete()
                gone = True
            if gone:
                st.toast(f"The {what} is deleted.", icon=":material/delete:")
                after()


def purge_control(ws: Workspace, dataset_id: str, row_id: str) -> None:
    """The way to remove a person's row from everything, and what that did."""
    key = f"purge.{row_id}"
    with st.popover("Purge this row", icon=":material/ink_eraser:", type="tertiary"):
        st.caption(
            "Removes the row from every version, with answers to it, rankings of them, and its words in logs, drafts "
            "and conversations. Versions keep a mark. It cannot be undone; what a model learned stays learned."
        )
        sure = st.checkbox("A person asked for it, or it must go", key=f"{key}.sure")
        if st.button("Purge for good", icon=":material/delete_forever:", disabled=not sure, key=f"{key}.go"):
            with shown_errors(), st.spinner("Purging"):
                st.session_state["purge.report"] = ws.purge_row(dataset_id, row_id)
                st.rerun()


def show_purged() -> None:
    """What the last purge of this session did, once."""
    report = st.session_state.pop("purge.report", None)
    if not isinstance(report, PurgeReport):
        return
    st.success(
        f"Purged from {count(len(report.versions), 'version')}; {count(report.completions, 'answer')} and "
        f"{count(report.items, 'ranking item')} deleted, {count(report.struck, 'entry', 'entries')} struck out, "
        f"{count(len(report.files), 'file')} changed.",
        icon=":material/check_circle:",
    )
    if report.learned_by:
        st.warning(f"These learned from it: {plain(', '.join(report.learned_by))}. Train them again without the row.")
    if report.left:
        st.warning(f"These files hold its words and could not be changed: {plain(', '.join(report.left))}.")
    if not report.compacted:
        st.warning("The database could not be written anew. Purge the row again when nothing else is at work.")
