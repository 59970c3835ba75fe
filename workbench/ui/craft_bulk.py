"""Find and replace over a whole dataset, with every change shown as a word diff before anything happens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import streamlit as st

from workbench.datasets.merging import Change
from workbench.datasets.replacing import (
    SCOPES,
    Replacement,
    ReplacePreview,
    RowReplaced,
    Scope,
    preview_replacement,
)
from workbench.datasets.row_drafts import MOST_CHANGES, NEW, ChangeDraft, draft_row, read_row_draft
from workbench.datasets.versions import iter_rows
from workbench.records import Payload, digest
from workbench.ui.craft_desk import CHANGES, VIEW, Desk, guarded
from workbench.ui.craft_review import save
from workbench.ui.diff import diff_html, diff_words
from workbench.ui.errors import shown_errors
from workbench.ui.paging import current_page, page_switch
from workbench.ui.text import count, plain

PAGE_ROWS = 8
PREVIEW = "craft.bulk.preview"
PAGE = "craft.bulk.page"
SHOWN_CHARACTERS = 3_000
SCOPE_LABELS: dict[Scope, str] = {"all": "All turns", "assistant": "Assistant", "user": "User", "system": "System"}


def show_replace(desk: Desk) -> None:
    """The form, the preview, and the way into the draft."""
    if desk.version is None and not desk.changes:
        st.caption("There are no rows to look through yet.")
        return
    with st.form("craft.bulk", border=True):
        left, right = st.columns(2)
        find = left.text_area("Find", key="craft.bulk.find", height=68, persist_state="session")
        put = right.text_area(
            "Replace with", key="craft.bulk.put", height=68, persist_state="session", placeholder="Nothing"
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            scope = st.segmented_control(
                "Where", SCOPES, format_func=lambda item: SCOPE_LABELS[item], default="all", required=True,
                key="craft.bulk.scope", label_visibility="collapsed",
            )  # fmt: skip
            match_case = st.checkbox("Match case", value=True, key="craft.bulk.case")
            regex = st.checkbox(
                "Regular expression",
                key="craft.bulk.regex",
                help=r"In the replacement, \1 is what the first group found.",
            )
            asked = st.form_submit_button("Preview", icon=":material/preview:", type="primary")
    if asked:
        st.session_state.pop(PREVIEW, None)
        st.session_state[PAGE] = 1
        with shown_errors(), st.spinner("Looking through the rows"):
            wanted = Replacement(find=find or "", replace=put or "", regex=regex, match_case=match_case, scope=scope)
            found = preview_replacement(iter_current(desk), wanted)
            st.session_state[PREVIEW] = (_state(desk), found)
    kept = st.session_state.get(PREVIEW)
    if kept is None:
        st.caption("Nothing is changed before you have seen it.")
    elif kept[0] != _state(desk):
        st.caption("The rows have changed since the preview. Preview again.")
    else:
        _show_preview(desk, kept[1])


def iter_current(desk: Desk) -> Iterator[tuple[str, Payload]]:
    """Every row as it stands with the draft's changes: the newest version's, then new ones."""
    if desk.version is not None:
        for row in iter_rows(desk.ws.store, desk.version):
            known = desk.changes.get(row.row_id)
            if known is None:
                yield row.row_id, row.payload
            else:
                yield from _drafted(desk, {row.row_id: known})
    yield from _drafted(desk, {key: item for key, item in desk.changes.items() if key.startswith(NEW)})


def _drafted(desk: Desk, changes: Mapping[str, ChangeDraft]) -> Iterator[tuple[str, Payload]]:
    for key, item in changes.items():
        if item.action != "delete" and item.row is not None:
            payload, _ = read_row_draft(desk.dataset.kind, item.row)
            if payload is not None:
                yield key, payload


def _state(desk: Desk) -> str:
    changes = {key: item.model_dump(mode="json") for key, item in desk.changes.items()}
    return digest([desk.dataset.id, desk.version.id if desk.version else "", changes])


def _show_preview(desk: Desk, found: ReplacePreview) -> None:
    if not found.changed and not found.refused:
        st.caption(f"Nothing found in {count(found.rows, 'row')}.")
        return
    left_out = {row.row_id for row in found.changed if st.session_state.get(f"craft.bulk.on.{row.row_id}") is False}
    taken = [row for row in found.changed if row.row_id not in left_out]
    places = sum(row.count for row in taken)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"**{count(places, 'place')} in {count(len(taken), 'row')}** of {found.rows:,}"
            + (f", {len(left_out):,} left out" if left_out else ""),
            width="content",
        )
        if taken and len(taken) + len(desk.changes) <= MOST_CHANGES:
            st.button(
                f"Add to my changes ({len(taken):,})", icon=":material/playlist_add:", type="primary",
                key="craft.bulk.take", on_click=guarded(_take), args=(desk, taken),
                help="They are collected with your other changes; nothing is saved yet.",
            )  # fmt: skip
        elif taken:
            number = desk.version.number + 1 if desk.version else 1
            st.button(
                f"Save {len(taken):,} rows as version {number}", icon=":material/save:", type="primary",
                key="craft.bulk.save", on_click=guarded(_save), args=(desk, taken),
                help="Too many to collect with other changes, so they become a version of their own.",
            )  # fmt: skip
    if found.refused:
        st.warning(
            f"{count(len(found.refused), 'row')} would break the rules and {'is' if len(found.refused) == 1 else 'are'}"
            f" left as {'it is' if len(found.refused) == 1 else 'they are'}. The first: "
            f"{plain(found.refused[0].problem)}",
            icon=":material/block:",
        )
    if not found.changed:
        return
    page, pages = current_page(PAGE, len(found.changed), PAGE_ROWS)
    for row in found.changed[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]:
        _show_row(row)
    page_switch(pages, PAGE, count(len(found.changed), "row"))


def _show_row(row: RowReplaced) -> None:
    with st.container(border=True, gap="xsmall"):
        key = f"craft.bulk.on.{row.row_id}"
        st.checkbox(
            f"{count(row.count, 'place')} in row {plain(row.row_id)}", value=st.session_state.get(key, True), key=key,
            persist_state="session",
        )  # fmt: skip
        for turn in row.turns:
            st.caption(plain(turn.title[:1].upper() + turn.title[1:]))
            st.html(diff_html(diff_words(*_around(turn.before, turn.after))))


def _around(before: str, after: str) -> tuple[str, str]:
    """Two texts cut to the neighbourhood of their first difference, where they are too long to show whole."""
    if max(len(before), len(after)) <= SHOWN_CHARACTERS:
        return before, after
    same = next(
        (n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    start = max(0, same - SHOWN_CHARACTERS // 4)
    head = "…" if start else ""
    return tuple(  # type: ignore[return-value]
        head + text[start : start + SHOWN_CHARACTERS] + ("…" if len(text) > start + SHOWN_CHARACTERS else "")
        for text in (before, after)
    )


def _take(desk: Desk, taken: list[RowReplaced]) -> None:
    base_id = desk.version.id if desk.version else None
    collected: dict[str, ChangeDraft] = {}
    for row in taken:
        known = desk.changes.get(row.row_id) or ChangeDraft(action="edit", base_id=base_id)
        update = {"row": draft_row(row.payload), "before": known.row, "step": "replacement" if known.row else ""}
        collected[row.row_id] = known.model_copy(update=update)
    desk.drafts.put_many(collected)
    st.session_state.pop(PREVIEW, None)
    st.session_state[VIEW] = CHANGES


def _save(desk: Desk, taken: list[RowReplaced]) -> None:
    base_id = desk.version.id if desk.version else None
    stored = [row for row in taken if row.row_id not in desk.changes]
    changes = [Change(row_id=row.row_id, base_id=base_id, payload=row.payload) for row in stored]
    saved = save(desk, changes, (), f"Replaced text in {count(len(changes), 'row')}")
    if saved:
        st.session_state.pop(PREVIEW, None)
