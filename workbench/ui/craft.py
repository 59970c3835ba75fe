"""Craft's outside: which dataset, drafts that were left, the list of rows, and an answer from the Playground."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from workbench.api import Workspace
from workbench.datasets.row_drafts import NEW, ChangeDraft, Drafts, draft_row, list_unsaved, read_row_draft
from workbench.errors import WorkbenchError
from workbench.records import DATASET_KINDS, Dataset, DatasetKind, Example, Labelled, Message, Payload, Preference
from workbench.store import answers as answer_store
from workbench.ui.craft_bulk import show_replace
from workbench.ui.craft_desk import CHANGES, ROWS, VIEW, VIEWS, Desk, guarded, open_desk, taken_problem
from workbench.ui.craft_form import show_editor
from workbench.ui.craft_review import DONE, show_changes
from workbench.ui.errors import show_problem, shown_errors
from workbench.ui.links import CRAFT, DATASETS, go_to, link_to
from workbench.ui.paging import current_page, page_switch
from workbench.ui.state import DATASET_PARAM, DRAFT_PARAM, FROM_PARAM, ROW_PARAM
from workbench.ui.text import ago, count, exact, plain, shorten, show_messages

PAGE_ROWS = 12
PICKED = "craft.dataset"
KIND_LABELS: dict[DatasetKind, str] = {
    "instructions": "Examples to imitate",
    "preferences": "Preferences: a better and a worse answer",
    "labels": "Labels: an answer told good or bad",
    "prompts": "Prompts to answer",
}
MARKS = {"edit": ":material/edit:", "new": ":material/add:", "delete": ":material/delete:"}


def show_craft(ws: Workspace) -> None:
    """The page."""
    _tell_last()
    if answer_id := st.query_params.get(FROM_PARAM):
        _show_answer(ws, answer_id)
        return
    dataset = _pick_dataset(ws)
    if dataset is None:
        return
    desk = open_desk(ws, dataset)
    _show_unsaved(desk)
    if desk.version is None and not desk.changes:
        with st.container(border=True):
            st.markdown("**No rows yet.** Write the first one; saving it makes version 1.")
            st.button("New row", icon=":material/add:", type="primary", on_click=guarded(desk.add_row), key="craft.new")
        return
    _show_views(desk)


def _tell_last() -> None:
    if problem := taken_problem():
        show_problem(problem)
    if done := st.session_state.pop(DONE, None):
        st.success(done, icon=":material/check:")


# ---- which dataset ----


def _pick_dataset(ws: Workspace) -> Dataset | None:
    known = {item.id: item for item in ws.datasets()}
    named = st.query_params.get(DATASET_PARAM)
    current = ws.dataset(named) if named else None
    if current is not None:
        known.setdefault(current.id, current)
    if not known:
        _show_empty(ws)
        return None
    if current is not None and st.session_state.get(PICKED) != current.id:
        st.session_state[PICKED] = current.id
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox(
            "Dataset", list(known), format_func=lambda item: known[item].name if item in known else item,
            key=PICKED, index=None, placeholder="Choose what to work on", width=340, on_change=_on_dataset,
        )  # fmt: skip
        with st.popover("New dataset", icon=":material/add:"):
            _new_dataset(ws)
        if current is not None:
            link_to(DATASETS, "Versions and figures", icon="table_rows", **{DATASET_PARAM: current.id})
    if current is None:
        st.caption("Choose a dataset to read and edit its rows, or begin a new one.")
    return current


def _on_dataset() -> None:
    picked = st.session_state.get(PICKED)
    st.query_params.from_dict({DATASET_PARAM: picked} if picked else {})
    st.session_state.pop("craft.rows_page", None)


def _show_empty(ws: Workspace) -> None:
    with st.container(border=True):
        st.subheader("Nothing to edit yet", anchor=False)
        st.markdown("Begin a dataset and write its first row. Files and starter kits come in under Datasets.")
        _new_dataset(ws, first=True)


def _new_dataset(ws: Workspace, *, first: bool = False) -> None:
    with st.form("craft.new_dataset", border=False):
        name = st.text_input("Name", value="My examples" if first else "", key="craft.new_dataset.name", max_chars=200)
        kind = st.selectbox(
            "What a row is", DATASET_KINDS, format_func=lambda item: KIND_LABELS[item], key="craft.new_dataset.kind"
        )
        if st.form_submit_button("Begin", icon=":material/edit_note:", type="primary" if first else "secondary"):
            with shown_errors():
                made = ws.new_dataset(name or "", kind)
                go_to(CRAFT, **{DATASET_PARAM: made.id})


# ---- drafts that were left ----


def _show_unsaved(desk: Desk) -> None:
    if desk.waiting:
        return
    left = [info for info in list_unsaved(desk.ws.store, desk.dataset.id) if info.draft_id != desk.draft_id]
    for info in left[:5]:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.markdown(
                f":material/history_edu: **Unsaved changes**: {count(info.changes, 'row')}, last touched "
                f"{ago(info.changed_at)}",
                help=plain(exact(info.changed_at)),
                width="stretch",
            )
            st.button(
                "Go on with them", key=f"craft.go_on.{info.draft_id}", type="primary", on_click=_go_on,
                args=(info.draft_id,),
            )  # fmt: skip
            with st.popover("Discard", icon=":material/delete:"):
                st.markdown("Forget them? They may be somebody else's. This cannot be taken back.")
                st.button(
                    "Forget them", key=f"craft.forget.{info.draft_id}", on_click=_forget, args=(desk, info.draft_id)
                )


def _go_on(draft_id: str) -> None:
    st.query_params[DRAFT_PARAM] = draft_id
    st.session_state[VIEW] = CHANGES


def _forget(desk: Desk, draft_id: str) -> None:
    drafts = Drafts(desk.ws.store, desk.dataset.id, desk.dataset.kind, draft_id)
    drafts.drop(drafts.all())


# ---- the views ----


def _show_views(desk: Desk) -> None:
    if st.session_state.get(VIEW) not in VIEWS:
        st.session_state[VIEW] = ROWS
    waiting = len(desk.waiting)
    with st.container(horizontal=True, vertical_alignment="center"):
        view = st.segmented_control(
            "View", VIEWS, key=VIEW, required=True, label_visibility="collapsed", persist_state="session",
            format_func=lambda item: f"{item} ({waiting})" if item == CHANGES and waiting else item,
        )  # fmt: skip
        st.space("stretch")
        told = f"Version {desk.version.number}, {count(desk.version.rows, 'row')}" if desk.version else "No version yet"
        st.caption(told, width="content")
        st.button("New row", icon=":material/add:", key="craft.new", on_click=guarded(desk.add_row))
        if waiting and view == ROWS:
            st.button(
                f"Review {count(waiting, 'change')}", icon=":material/rule:", type="primary", key="craft.review",
                on_click=_to_changes,
            )  # fmt: skip
    with shown_errors():
        if view == CHANGES:
            show_changes(desk)
        elif view == ROWS:
            _show_rows(desk)
        else:
            show_replace(desk)


def _to_changes() -> None:
    st.session_state[VIEW] = CHANGES


def _show_rows(desk: Desk) -> None:
    opened = st.query_params.get(ROW_PARAM)
    left, right = st.columns([5, 9], gap="medium")
    with left, shown_errors():
        _show_list(desk, opened)
    with right, shown_errors():
        if opened:
            show_editor(desk, opened)
        else:
            st.caption("Choose a row to read and edit it, or write a new one.")


def _show_list(desk: Desk, opened: str | None) -> None:
    search = st.text_input(
        "Search", key="craft.search", type="search", placeholder="Words in any turn", label_visibility="collapsed"
    )
    new = [key for key in reversed(desk.waiting) if key.startswith(NEW) and not search]
    with st.container(gap=None):
        for key in new:
            _show_item(desk, key, _drafted(desk, desk.changes[key]), desk.changes[key], opened)
        if desk.version is None:
            return
        total = desk.ws.rows(desk.version.id, limit=1, search=search or "").total if search else desk.version.rows
        page, pages = current_page("craft.rows_page", total, PAGE_ROWS)
        found = desk.ws.rows(desk.version.id, offset=(page - 1) * PAGE_ROWS, limit=PAGE_ROWS, search=search or "")
        for row in found.rows:
            known = desk.changes.get(row.row_id)
            payload = row.payload if known is None else _drafted(desk, known) or row.payload
            _show_item(desk, row.row_id, payload, known, opened)
    if not found.rows:
        st.caption("No row holds these words." if search else "This version has no rows.")
    page_switch(pages, "craft.rows_page", count(total, "row"))


def _drafted(desk: Desk, item: ChangeDraft) -> Payload | None:
    return read_row_draft(desk.dataset.kind, item.row)[0] if item.row is not None else None


def _show_item(desk: Desk, key: str, payload: Payload | None, known: ChangeDraft | None, opened: str | None) -> None:
    text = plain(_first_words(payload)) or ("A new row" if key.startswith(NEW) else "An empty row")
    st.button(
        f"~~{text}~~" if known is not None and known.action == "delete" else text,
        icon=MARKS[known.action] if known is not None else None,
        key=f"craft.open.{key}",
        type="secondary" if key == opened else "tertiary",
        on_click=desk.open_row,
        args=(key,),
        wrap=False,
    )


def _first_words(payload: Payload | None) -> str:
    if payload is None:
        return "Unfinished"
    messages: Sequence[Message] = payload.prompt if isinstance(payload, Preference | Labelled) else payload.messages
    asked = next((message.content for message in messages if message.role == "user"), messages[0].content)
    return shorten(asked, 60)


# ---- an answer of the Playground ----


def _show_answer(ws: Workspace, answer_id: str) -> None:
    """Choose where an answer goes; it opens in the editor with its conversation filled in."""
    try:
        answer = answer_store.get_completion(ws.store, answer_id)
    except WorkbenchError as error:
        show_problem(error)
        link_to(CRAFT, "To Craft", icon="edit_note")
        return
    example = Example(messages=(*answer.prompt, Message(role="assistant", content=answer.text)))
    datasets = ws.datasets(kind="instructions")
    with st.form("craft.from", border=True):
        st.markdown("**Make an example of this answer**")
        names = {item.id: item.name for item in datasets}
        target = st.selectbox("Into", names, format_func=lambda item: names[item]) if names else None
        name = "" if names else st.text_input("Into a new dataset named", "My examples", max_chars=200)
        if st.form_submit_button("Open in the editor", icon=":material/edit_note:", type="primary"):
            with shown_errors():
                dataset = ws.dataset(target) if target else ws.new_dataset(name or "")
                st.query_params.from_dict({DATASET_PARAM: dataset.id})
                open_desk(ws, dataset).add_row(draft_row(example))
                st.rerun()
    show_messages(example.messages)
