"""What Craft works on: a dataset, its newest version, and the changes collected in a draft that the address names.

Every change goes to the store at once, so that a refresh, another tab or an ended app loses nothing. The draft is made
with the first change; until then there is none to forget.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import streamlit as st

from workbench.api import Workspace
from workbench.datasets.payloads import encode_payload
from workbench.datasets.row_drafts import NEW, ChangeDraft, Drafts, RowDraft, blank_row, draft_row, read_row_draft
from workbench.datasets.versions import read_row
from workbench.errors import NotFound, WorkbenchError
from workbench.records import Dataset, Row, Version, digest, new_id
from workbench.store.datasets import get_version, latest_version
from workbench.ui.state import DRAFT_PARAM, ROW_PARAM

VIEW = "craft.view"
ROWS, REPLACE, CHANGES = "Rows", "Find and replace", "Changes"
VIEWS = (ROWS, REPLACE, CHANGES)
SEEN = "craft.seen"
"""Which draft, row and content the editor's fields were last filled from."""
PROBLEM = "craft.problem"
"""What a callback could not do; the next drawing shows it."""


@dataclass
class Desk:
    """One drawing's view of a dataset and of what was changed and not saved."""

    ws: Workspace
    dataset: Dataset
    version: Version | None
    """The newest version; None for a dataset that has none yet."""
    draft_id: str | None
    """The draft that the address names."""
    changes: dict[str, ChangeDraft] = field(default_factory=dict)
    """What was collected, by row key."""

    @property
    def waiting(self) -> list[str]:
        """Row keys of the changes that a save would be about; a new row that was thrown away is none."""
        return [key for key, item in self.changes.items() if item.action != "delete" or not key.startswith(NEW)]

    @cached_property
    def drafts(self) -> Drafts:
        """The draft; made, and named in the address, where there was none."""
        if self.draft_id is None:
            self.draft_id = new_id("drf")
            st.query_params[DRAFT_PARAM] = self.draft_id
        return Drafts(self.ws.store, self.dataset.id, self.dataset.kind, self.draft_id)

    def read(self, row_key: str, version_id: str | None = None) -> Row:
        """A stored row, in the newest version or in another.

        Raises:
            NotFound: the version has no such row.
        """
        version = get_version(self.ws.store, version_id) if version_id else self.version
        if version is None or row_key.startswith(NEW):
            raise NotFound("this row is not stored yet", value=row_key)
        return read_row(self.ws.store, version, row_key)

    def change_row(self, row_key: str, change: Callable[[RowDraft], RowDraft], step: str = "") -> None:
        """Change a row's draft; a row that is again what was stored is no change any more.

        Args:
            row_key: the row.
            change: from its draft to the new one.
            step: what was done, where it can be undone.
        """

        def on_draft(known: ChangeDraft | None) -> ChangeDraft | None:
            if known is None:
                known = self._begin(row_key)
            row = known.row or RowDraft()
            made = change(row)
            update: dict[str, object] = {"row": made}
            if step:
                update |= {"before": row, "step": step}
            changed = known.model_copy(update=update)
            return None if not changed.step and self._is_stored(row_key, changed) else changed

        self.drafts.change(row_key, on_draft)

    def _begin(self, row_key: str) -> ChangeDraft:
        if row_key.startswith(NEW):
            return ChangeDraft(action="new", row=blank_row(self.dataset.kind))
        stored = self.read(row_key)
        return ChangeDraft(
            action="edit", base_id=self.version.id if self.version else None, row=draft_row(stored.payload)
        )

    def _is_stored(self, row_key: str, changed: ChangeDraft) -> bool:
        if changed.action != "edit" or changed.row is None:
            return False
        payload, problems = read_row_draft(self.dataset.kind, changed.row)
        if payload is None or problems:
            return False
        return encode_payload(payload)[1] == self.read(row_key, changed.base_id).row_hash

    def add_row(self, row: RowDraft | None = None) -> str:
        """Add a new row and open it; its key."""
        key = NEW + secrets.token_hex(4)
        made = ChangeDraft(action="new", row=row or blank_row(self.dataset.kind))
        self.drafts.change(key, lambda _: made)
        self.open_row(key)
        return key

    def open_row(self, row_key: str) -> None:
        """Show a row in the editor."""
        st.session_state[VIEW] = ROWS
        st.query_params[ROW_PARAM] = row_key

    def close_row(self) -> None:
        """Show no row."""
        st.query_params.pop(ROW_PARAM, None)

    def delete_row(self, row_key: str) -> None:
        """Delete a row; a new one is gone, a stored one with the next version."""

        def on_draft(known: ChangeDraft | None) -> ChangeDraft:
            known = known or self._begin(row_key).model_copy(update={"row": None})
            return known.model_copy(update={"action": "delete"})

        self.drafts.change(row_key, on_draft)

    def undelete_row(self, row_key: str) -> None:
        """Take a deletion back; what had been written before is there again."""

        def on_draft(known: ChangeDraft | None) -> ChangeDraft | None:
            if known is None or known.row is None:
                return None
            return known.model_copy(update={"action": "new" if row_key.startswith(NEW) else "edit"})

        self.drafts.change(row_key, on_draft)

    def undo_step(self, row_key: str) -> None:
        """Put a row back to before the step that it remembers."""

        def on_draft(known: ChangeDraft | None) -> ChangeDraft | None:
            if known is None or known.before is None:
                return known
            changed = known.model_copy(update={"row": known.before, "before": None, "step": ""})
            return None if self._is_stored(row_key, changed) else changed

        self.drafts.change(row_key, on_draft)

    def forget(self, *row_keys: str) -> None:
        """Discard what was done to some rows."""
        self.drafts.drop(row_keys)
        if st.query_params.get(ROW_PARAM, "") in row_keys and st.query_params[ROW_PARAM].startswith(NEW):
            self.close_row()


def open_desk(ws: Workspace, dataset: Dataset) -> Desk:
    """The desk that the address names."""
    draft_id = st.query_params.get(DRAFT_PARAM)
    if draft_id is not None and not (draft_id.startswith("drf_") and draft_id[4:].isalnum() and len(draft_id) < 40):
        del st.query_params[DRAFT_PARAM]
        draft_id = None
    desk = Desk(ws, dataset, latest_version(ws.store, dataset.id), draft_id)
    if draft_id is not None:
        desk.changes = desk.drafts.all()
    return desk


def signature(desk: Desk, row_key: str, row: RowDraft) -> str:
    """What tells whether the editor's fields still show a row as it is."""
    return f"{desk.dataset.id} {row_key} {digest(row.model_dump(mode='json'))}"


def guarded(action: Callable[..., object]) -> Callable[..., None]:
    """A callback whose problem is told by the next drawing instead of in the middle of nowhere."""

    def call(*args: object) -> None:
        try:
            action(*args)
        except WorkbenchError as error:
            st.session_state[PROBLEM] = error

    return call


def taken_problem() -> WorkbenchError | None:
    """The problem of the last callback, once."""
    problem = st.session_state.pop(PROBLEM, None)
    return problem if isinstance(problem, WorkbenchError) else None
