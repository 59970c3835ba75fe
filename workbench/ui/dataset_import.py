"""Import of a file in the page: where it comes from, what it would become, its problems, and the run that takes it in.

Nothing is stored until a person says so. The file and the choices are kept as a draft, so a refresh loses nothing.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.errors import WorkbenchError
from workbench.records import Run, RunState
from workbench.settings import typed_path
from workbench.store.drafts import drop_draft, load_draft, save_draft
from workbench.ui.dataset_page import show_payload
from workbench.ui.errors import show_problem, shown_errors
from workbench.ui.import_fixing import kept_corrections, show_fixing
from workbench.ui.inbox import SUFFIXES, clean_name, discard, guess_suffix, save_upload, sweep
from workbench.ui.links import DATASETS, go_to
from workbench.ui.runs import progress_bar, run_link
from workbench.ui.state import DATASET_PARAM, IMPORT_RUN, IMPORT_SOURCE
from workbench.ui.text import bytes_text, count, plain

if TYPE_CHECKING:
    from workbench.datasets.importing import ImportPreview

DRAFT = "import"
AUTO = "auto"
FORMATS = {
    AUTO: "Automatic",
    "messages": "Messages (role and content)",
    "alpaca": "Alpaca (instruction, input, output)",
    "sharegpt": "ShareGPT (from and value)",
    "prompt_completion": "Prompt and completion",
    "preference": "Preference (chosen and rejected)",
    "labels": "Labels (prompt, completion, good or bad)",
    "prompts": "Prompts, perhaps with a reference",
}
UPLOAD, PASTE, PATH = "Upload a file", "Paste text", "Path on this machine"


def show_import(ws: Workspace) -> None:
    """The whole import, one step below the other."""
    if run_id := st.session_state.get(IMPORT_RUN):
        _follow(ws, run_id)
        return
    source = _current_source(ws)
    if source is None:
        sweep(ws.settings)
        _choose_source(ws)
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f":material/description: **{plain(source.name)}**", width="content")
        if st.button("Choose another", icon=":material/close:", type="tertiary"):
            _forget(ws, source)
            st.rerun()
    try:
        _show_preview(ws, source)
    except WorkbenchError as problem:
        show_problem(problem)


def _current_source(ws: Workspace) -> Path | None:
    kept = st.session_state.get(IMPORT_SOURCE)
    if kept is None:
        draft = load_draft(ws.store, DRAFT)
        kept = draft.get("source") if isinstance(draft, dict) else None
    if kept is None or not Path(kept).is_file():
        return None
    return Path(kept)


def _keep(ws: Workspace, path: Path) -> None:
    st.session_state[IMPORT_SOURCE] = str(path)
    save_draft(ws.store, DRAFT, {"source": str(path)})
    st.rerun()


def _forget(ws: Workspace, source: Path) -> None:
    discard(ws.settings, source)
    drop_draft(ws.store, DRAFT)
    for key in [key for key in st.session_state if str(key).startswith("import.")]:
        del st.session_state[key]


def _choose_source(ws: Workspace) -> None:
    way = st.segmented_control(
        "Where the rows are", [UPLOAD, PASTE, PATH], default=UPLOAD, required=True, key="import.way"
    )
    if way == UPLOAD:
        limit = st.get_option("server.maxUploadSize")
        st.caption(f"JSON Lines, JSON, CSV, TSV or Parquet, plain or gzipped, up to {limit} MB. Larger: by path.")
        upload = st.file_uploader("File", type=SUFFIXES, key="import.upload", label_visibility="collapsed")
        if upload is not None:
            # Once copied, the page moves on without the uploader, and Streamlit lets go of its copy in memory.
            _keep(ws, save_upload(ws.settings, upload.name, upload))
    elif way == PASTE:
        text = st.text_area(
            "Rows",
            height=240,
            key="import.text",
            placeholder='{"instruction": "…", "output": "…"}',
            max_chars=5_000_000,
        )
        if st.button("Look at it", type="primary", icon=":material/visibility:"):
            if text and text.strip():
                name = f"pasted.{guess_suffix(text)}"
                _keep(ws, save_upload(ws.settings, name, io.BytesIO(text.encode("utf-8", "replace"))))
            else:
                st.warning("There is nothing to look at yet. Paste a few rows first.")
    else:
        with st.form("import.path_form", border=False):
            text = st.text_input("Path", key="import.path", placeholder="/home/me/rows.jsonl")
            if st.form_submit_button("Look at it", type="primary", icon=":material/visibility:"):
                path = typed_path((text or "").strip())
                if (text or "").strip() and path.is_file():
                    _keep(ws, path.resolve())
                st.error(
                    f"There is no file at {plain(str(path))}. The path is one of the machine that runs the workbench.",
                    icon=":material/error:",
                )


def _options() -> dict[str, Any]:
    state = st.session_state
    mapping = {
        str(key).removeprefix("import.map."): value
        for key, value in state.items()
        if str(key).startswith("import.map.") and value is not None
    }
    options: dict[str, Any] = {"format": state.get("import.format", AUTO), "mapping": mapping}
    options["encoding"] = (state.get("import.encoding") or AUTO).strip() or AUTO
    return options


def _show_preview(ws: Workspace, source: Path) -> None:
    options = _options() | {"corrections": kept_corrections(ws, DRAFT)}
    try:
        preview = ws.preview_import(source, **options)
    except WorkbenchError as problem:
        show_problem(problem)
        _reading_settings(None)
        return
    exactly = "" if preview.exact else "about "
    st.caption(
        plain(
            f"{preview.file}, {bytes_text(preview.size)}, {preview.encoding}; {exactly}"
            f"{count(preview.rows_estimate, 'row')} with {count(len(preview.columns), 'column')}"
        )
    )
    if preview.difficulty:
        st.warning(plain(preview.difficulty), icon=":material/help:")
    for warning in preview.warnings:
        st.warning(plain(warning), icon=":material/rule:")
    _reading_settings(preview)
    left, right = st.columns(2)
    with left:
        st.markdown("**As it is in the file**")
        st.dataframe(
            pd.DataFrame([{key: _cell(value) for key, value in row.items()} for row in preview.raw]),
            alt="First rows of the file",
            height=320,
        )
    with right:
        st.markdown("**As it would be stored**")
        _sample(preview)
    _problems(preview)
    show_fixing(ws, preview, DRAFT)
    if preview.kind is not None:
        _launch(ws, source, preview, options)


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _reading_settings(preview: ImportPreview | None) -> None:
    from workbench.datasets.formats import find_format

    with st.grid(3, min_column_width=220):
        st.selectbox(
            "Format",
            list(FORMATS),
            format_func=lambda name: _format_label(name, preview),
            key="import.format",
            help="What the columns mean.",
        )
        st.text_input("Encoding", key="import.encoding", placeholder=AUTO, help="For example utf-8 or cp1252.")
        name = preview.format if preview else ""
        chosen = st.session_state.get("import.format", AUTO)
        name = name or (chosen if chosen != AUTO else "")
        if preview is None or not name:
            return
        for field in find_format(name).fields:
            found = preview.mapping.get(field.name)
            st.selectbox(
                f"{field.name.capitalize()}{'' if field.required else ' (optional)'}",
                list(preview.columns),
                index=None,
                placeholder=found or "not in the file",
                key=f"import.map.{field.name}",
                help="The column that holds it. Empty: found by its name.",
            )


def _format_label(name: str, preview: ImportPreview | None) -> str:
    if name == AUTO and preview is not None and preview.format:
        return f"Automatic: {FORMATS[preview.format].lower()}"
    return FORMATS[name]


def _sample(preview: ImportPreview) -> None:
    if not preview.samples:
        st.caption("No row can be stored with these settings.")
        return
    number = 1
    if len(preview.samples) > 1:
        number = st.pagination(len(preview.samples), key="import.sample", max_visible_pages=5)
    with st.container(border=True, height=320):
        show_payload(preview.samples[min(number, len(preview.samples)) - 1])


def _problems(preview: ImportPreview) -> None:
    if not preview.problems:
        return
    of = "" if preview.exact and preview.rows_checked == preview.rows_estimate else " looked at so far"
    st.markdown(f"**{count(preview.problem_count, 'problem')} in {count(preview.rows_checked, 'row')}{of}**")
    st.dataframe(
        pd.DataFrame(
            [
                {
                    "Row": problem.row,
                    "Column": problem.column,
                    "What": problem.what,
                    "Value": problem.value,
                    "What to do": problem.remedy,
                }
                for problem in preview.problems
            ]
        ),
        hide_index=True,
        alt="Problems by row",
    )
    if preview.problem_count > len(preview.problems):
        st.caption(f"The first {len(preview.problems):,}. All are written to a file by the import.")


def _launch(ws: Workspace, source: Path, preview: ImportPreview, options: dict[str, Any]) -> None:
    names = [item.name for item in ws.datasets(kind=preview.kind)]
    suggested = clean_name(source.name).split(".")[0].replace("_", " ")
    name = st.selectbox(
        "Dataset",
        names,
        index=None,
        accept_new_options=True,
        placeholder=f"New: {suggested}",
        key="import.dataset",
        help="A new name makes a new dataset. An existing one gets a new version that holds this file's rows.",
        width=420,
    )
    name = (name or suggested).strip()
    st.caption(f"A new version of {plain(name)}." if name in names else f"A new dataset, {plain(name)}.")
    with st.container(horizontal=True):
        if preview.problem_count:
            label = "Import the good rows and save the bad ones"
            go = st.button(label, type="primary", icon=":material/rule:", key="import.go_good")
        else:
            rows = count(preview.rows_estimate, "row") if preview.exact else "all rows"
            go = st.button(f"Import {rows}", type="primary", icon=":material/download_done:", key="import.go")
        if st.button("Cancel", key="import.cancel"):
            _forget(ws, source)
            go_to(DATASETS)
    if go:
        keep_good = preview.problem_count > 0
        run = ws.import_data(source, name, keep_good=keep_good, **options)
        st.session_state[IMPORT_RUN] = run.id
        st.rerun()


def _follow(ws: Workspace, run_id: str) -> None:
    run = ws.run(run_id)
    if run.state.active:
        st.fragment(run_every=0.7)(_progress)(ws, run_id)
        return
    source = Path(str(run.spec.get("source", "")))
    if run.state is RunState.FINISHED:
        _finished(ws, run, source)
        return
    if run.failure is not None:
        remedy = f"\n\n{plain(run.failure.remedy)}" if run.failure.remedy else ""
        st.error(plain(run.failure.message) + remedy, icon=":material/error:")
    else:
        st.warning("The import was stopped. Nothing was stored.")
    _bad_files(ws, run)
    with st.container(horizontal=True):
        if st.button("Back to the settings", type="primary", icon=":material/arrow_back:"):
            del st.session_state[IMPORT_RUN]
            st.rerun()
        if st.button("Forget this file"):
            _forget(ws, source)
            st.rerun()


def _progress(ws: Workspace, run_id: str) -> None:
    with shown_errors():
        run = ws.run(run_id)
        if not run.state.active:
            st.rerun()
        st.markdown(f"**{plain(run.name)}**")
        progress_bar(run)
        run_link(run, label="Open the run")


def _finished(ws: Workspace, run: Run, source: Path) -> None:
    left_out = int(str(run.result.get("problems") or 0))
    st.success(
        f"{count(int(str(run.result.get('rows') or 0)), 'row')} imported"
        + (f", {count(left_out, 'row')} left out." if left_out else "."),
        icon=":material/check_circle:",
    )
    warnings = run.result.get("warnings")
    for warning in warnings if isinstance(warnings, list) else ():
        st.warning(plain(str(warning)), icon=":material/rule:")
    _bad_files(ws, run)
    discard(ws.settings, source)
    drop_draft(ws.store, DRAFT)
    with st.container(horizontal=True):
        if st.button("Open the dataset", type="primary", icon=":material/table_rows:"):
            _forget(ws, source)
            go_to(DATASETS, **{DATASET_PARAM: str(run.result["dataset_id"])})
        if st.button("Import another file", icon=":material/upload:"):
            _forget(ws, source)
            st.rerun()


def _bad_files(ws: Workspace, run: Run) -> None:
    folder = ws.settings.run_dir(run.id)
    with st.container(horizontal=True):
        for name, label in (("problems.csv", "Problems (CSV)"), ("bad_rows.jsonl", "Bad rows (JSON Lines)")):
            path = folder / name
            if path.is_file():
                st.download_button(
                    label, path.read_bytes, file_name=name, icon=":material/download:", on_click="ignore"
                )
