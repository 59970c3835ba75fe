"""Problem rows of an import, corrected or dropped in place: cells or JSON, looked at again after each.

What a person corrected is kept as a draft beside the file; the file itself stays as it is.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import streamlit as st
from pydantic import JsonValue

from workbench.api import Workspace
from workbench.errors import WorkbenchError
from workbench.records import digest
from workbench.store.drafts import load_draft, save_draft
from workbench.ui.errors import show_problem
from workbench.ui.state import IMPORT_CORRECTIONS
from workbench.ui.text import count, plain

if TYPE_CHECKING:
    from workbench.datasets.importing import ImportPreview
    from workbench.datasets.readers import RowProblem

Corrections = dict[str, dict[str, JsonValue] | None]
BROKEN = ("broken_line", "broken_item")
"""Where the readers keep what is no row at all."""
MOST_CELLS = 12


def kept_corrections(ws: Workspace, draft: str) -> Corrections:
    """What was corrected so far, by row number; None for a row that is dropped."""
    if IMPORT_CORRECTIONS not in st.session_state:
        kept = load_draft(ws.store, draft)
        st.session_state[IMPORT_CORRECTIONS] = kept.get("corrections", {}) if isinstance(kept, dict) else {}
    found: Corrections = st.session_state[IMPORT_CORRECTIONS]
    return found


def show_fixing(ws: Workspace, preview: ImportPreview, draft: str) -> None:
    """An editor for one problem row at a time, and what was corrected so far.

    Args:
        ws: the workspace.
        preview: with the corrections already applied.
        draft: key of the import's draft.
    """
    corrections = kept_corrections(ws, draft)
    if corrections:
        _summary(ws, corrections, draft)
    by_row: dict[str, RowProblem] = {}
    for problem in preview.problems:
        by_row.setdefault(str(problem.row), problem)
    if not by_row:
        return
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            number = st.selectbox(
                "Row to fix",
                list(by_row),
                format_func=lambda key: f"Row {key}: {by_row[key].what}" if key in by_row else f"Row {key}",
                key="import.fix_row",
                width=420,
            )
            if st.button("Drop this row", icon=":material/delete:", key="import.drop_row"):
                _keep(ws, corrections | {number: None}, draft)
            label = f"Drop these {count(len(by_row), 'row')}"
            if len(by_row) > 1 and st.button(label, icon=":material/delete_sweep:", key="import.drop_rows"):
                _keep(ws, corrections | dict.fromkeys(by_row), draft)
        told = by_row[number].sentence()
        st.caption(plain(told[:1].upper() + told[1:]))
        values = preview.bad_rows.get(number)
        if values is None:
            st.caption("This row is too long to be corrected here. Repair the file, or drop the row.")
            return
        corrected = _editor(number, values, preview)
        if corrected is not None:
            _keep(ws, corrections | {number: corrected}, draft)


def _editor(number: str, values: dict[str, JsonValue], preview: ImportPreview) -> dict[str, JsonValue] | None:
    """The row as cells where it has only text, as JSON otherwise; what was typed, once it is applied."""
    broken = next((name for name in BROKEN if list(values) == [name]), None)
    columns = list(dict.fromkeys([*preview.columns, *values])) if broken is None else []
    as_cells = broken is None and len(columns) <= MOST_CELLS and all(isinstance(v, str | None) for v in values.values())
    key = f"import.fix.{number}.{digest(values)[:8]}"
    with st.form(key, border=False):
        if as_cells:
            typed = {name: _cell(name, values, key) for name in columns}
        else:
            start = values[broken] if broken else values
            text = start if isinstance(start, str) else json.dumps(start, ensure_ascii=False, indent=2)
            written = st.text_area("The row as JSON", value=text, height=200, key=f"{key}.json")
        if not st.form_submit_button("Apply the correction", type="primary", icon=":material/build:"):
            return None
    if as_cells:
        # A column the row did not have stays away unless something was written there.
        return {name: text for name, text in typed.items() if text or name in values}
    from workbench.datasets.correcting import read_correction

    try:
        return read_correction(written or "")
    except WorkbenchError as problem:
        show_problem(problem)
        return None


def _cell(name: str, values: dict[str, JsonValue], key: str) -> str | None:
    start = values.get(name)
    typed = st.text_area(plain(name), value=str(start or ""), height="content", key=f"{key}.cell.{digest(name)[:8]}")
    return typed if typed or start is not None else None


def _summary(ws: Workspace, corrections: Corrections, draft: str) -> None:
    dropped = sum(values is None for values in corrections.values())
    told = [f"{count(len(corrections) - dropped, 'row')} corrected"] if dropped < len(corrections) else []
    told += [f"{count(dropped, 'row')} dropped"] if dropped else []
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f":material/build: {', '.join(told)}", width="content")
        if st.button("Undo the last", icon=":material/undo:", type="tertiary", key="import.fix_undo"):
            _keep(ws, dict(list(corrections.items())[:-1]), draft)
        if len(corrections) > 1 and st.button("Undo all", type="tertiary", key="import.fix_undo_all"):
            _keep(ws, {}, draft)


def _keep(ws: Workspace, corrections: Corrections, draft: str) -> None:
    kept: Any = load_draft(ws.store, draft)
    st.session_state[IMPORT_CORRECTIONS] = corrections
    save_draft(ws.store, draft, (kept if isinstance(kept, dict) else {}) | {"corrections": corrections})
    st.rerun()
