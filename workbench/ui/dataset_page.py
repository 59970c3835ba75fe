"""One dataset: its rows with the token inspector, figures, versions, and what a person says about it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.records import Dataset, Example, Labelled, Message, Payload, Preference, Row, Version, new_id, utc_now
from workbench.store import datasets as dataset_store
from workbench.ui.deleting import delete_control, purge_control, show_purged
from workbench.ui.errors import shown_errors
from workbench.ui.inspector import show_inspector
from workbench.ui.links import DATASETS, NEW_RUN, go_to, has_page
from workbench.ui.paging import current_page, page_switch, times
from workbench.ui.state import DATASET_PARAM, KIND_PARAM
from workbench.ui.text import ago, count, exact, plain, shorten, show_messages

PAGE_ROWS = 25
MOST_DOWNLOAD_ROWS = 200_000
MIMES = {"jsonl": "application/x-ndjson", "csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
KIND_ICONS = {"instructions": "school", "preferences": "thumbs_up_down", "labels": "thumb_up", "prompts": "quiz"}
METHODS = {"instructions": "sft", "labels": "kto"}
"""The method that learns from a kind, where one alone does."""
LABEL_WORDS = {True: "Good answer", False: "Bad answer"}


def show_dataset(ws: Workspace, name_or_id: str) -> None:
    """The page of one dataset."""
    dataset = ws.dataset(name_or_id)
    versions = ws.versions(dataset.id)
    st.title(plain(dataset.name), anchor=False)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(dataset.kind.capitalize(), icon=f":material/{KIND_ICONS[dataset.kind]}:", color="green")
        for tag in dataset.tags:
            st.badge(plain(tag), color="gray")
        st.caption(f"Created {ago(dataset.created_at)}", help=plain(exact(dataset.created_at)), width="content")
    if dataset.description:
        st.caption(plain(dataset.description))
    if not versions:
        st.caption("It has no rows yet: its import is under way, or did not finish.")
        _details(ws, dataset)
        return
    version = _actions(ws, dataset, versions)
    tabs = st.tabs(["Rows", "Figures", "Versions", "Details"], key="dataset.tabs", on_change="rerun")
    bodies = (
        partial(_rows, ws, version),
        partial(_figures, ws, dataset, version),
        partial(_versions, ws, versions),
        partial(_details, ws, dataset),
    )
    for tab, body in zip(tabs, bodies, strict=True):
        if tab.open:
            with tab:
                body()


def _actions(ws: Workspace, dataset: Dataset, versions: Sequence[Version]) -> Version:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        version = st.selectbox(
            "Version",
            versions,
            format_func=lambda item: f"{item.number}: {count(item.rows, 'row')}, {shorten(item.message, 40)}",
            key=f"dataset.version.{dataset.id}",
            width=340,
        )
        if dataset.kind in METHODS and has_page(NEW_RUN):
            if st.button("Train on it", type="primary", icon=":material/add_circle:"):
                go_to(NEW_RUN, **{DATASET_PARAM: dataset.id, KIND_PARAM: METHODS[dataset.kind]})
        with st.popover("Download", icon=":material/download:"):
            _downloads(ws, dataset, version)
    return version


def _downloads(ws: Workspace, dataset: Dataset, version: Version) -> None:
    if version.rows > MOST_DOWNLOAD_ROWS:
        st.caption("Too large for the browser. In a terminal:")
        st.code(f"workbench data export '{dataset.id}@{version.number}' rows.parquet", language="bash", wrap_lines=True)
        return
    for format in ("jsonl", "csv", "parquet"):
        st.download_button(
            {"jsonl": "JSON Lines", "csv": "CSV", "parquet": "Parquet"}[format],
            partial(_export, ws, version, format),
            file_name=f"{dataset.id}_v{version.number}.{format}",
            mime=MIMES[format],
            icon=":material/download:",
            key=f"dataset.download.{format}",
            on_click="ignore",
            width="stretch",
        )


def _export(ws: Workspace, version: Version, format: Literal["jsonl", "csv", "parquet"]) -> bytes:
    folder = ws.settings.inbox_dir / new_id("up")
    folder.mkdir(mode=0o700)
    try:
        return ws.export_data(version.id, folder / f"rows.{format}", format).read_bytes()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@st.fragment
def _rows(ws: Workspace, version: Version) -> None:
    with shown_errors():
        search = st.text_input(
            "Search", key="dataset.search", type="search", placeholder="Words in any turn", label_visibility="collapsed"
        )
        total = ws.rows(version.id, limit=1, search=search or "").total if search else version.rows
        page, pages = current_page("dataset.rows_page", total, PAGE_ROWS)
        first = (page - 1) * PAGE_ROWS
        found = ws.rows(version.id, offset=first, limit=PAGE_ROWS, search=search or "")
        if not found.rows:
            st.caption("No row holds these words." if search else "This version has no rows.")
            return
        event = st.dataframe(
            row_table(found.rows, first),
            hide_index=True,
            key="dataset.rows",
            on_select="rerun",
            selection_mode="single-row",
            alt="Rows of the version",
            column_config={"#": st.column_config.NumberColumn("#", width=60)},
        )
        page_switch(pages, "dataset.rows_page", count(found.total, "row"))
        chosen = [index for index in event.selection.rows if index < len(found.rows)]
        show_purged()
        if chosen:
            show_row(ws, found.rows[chosen[0]])
            purge_control(ws, version.dataset_id, found.rows[chosen[0]].row_id)
        else:
            st.caption("Tick a row to read it and to see which of its tokens are learned.")


def row_table(rows: Sequence[Row], first: int) -> pd.DataFrame:
    """Rows as the table shows them: the question and the answer, on one line each."""
    lines = []
    for number, row in enumerate(rows, start=first + 1):
        payload = row.payload
        line: dict[str, object] = {"#": number}
        if isinstance(payload, Preference):
            line |= {
                "Prompt": _text(payload.prompt, "user"),
                "Better answer": _text(payload.chosen, "assistant"),
                "Worse answer": _text(payload.rejected, "assistant"),
            }
        elif isinstance(payload, Labelled):
            line |= {
                "Prompt": _text(payload.prompt, "user"),
                "Answer": _text(payload.completion, "assistant"),
                "Label": "good" if payload.label else "bad",
                "Weight": payload.weight,
            }
        elif isinstance(payload, Example):
            line |= {"Prompt": _text(payload.messages, "user"), "Answer": _text(payload.messages, "assistant")}
            line["Turns"] = len(payload.messages)
        else:
            line |= {"Prompt": _text(payload.messages, "user"), "Reference": shorten(payload.reference or "", 300)}
        lines.append(line)
    return pd.DataFrame(lines)


def _text(messages: Sequence[Message], role: str) -> str:
    found = [message.content for message in messages if message.role == role]
    text = found[0] if role == "user" else found[-1] if found else ""
    return shorten(text if found else "", 300)


def show_row(ws: Workspace, row: Row) -> None:
    """One row: its turns, what was kept beside them, and its tokens."""
    # Two sides of tokens beside each other need the page's whole width.
    left, right = (st.container(), st.container()) if isinstance(row.payload, Preference) else st.columns(2)
    with left:
        show_payload(row.payload)
        if row.payload.meta:
            with st.expander("Kept columns", icon=":material/label:"):
                st.json(row.payload.meta)
        st.caption(f"Row {row.row_id}")
    with right, shown_errors():
        show_inspector(ws, row.payload)


def show_payload(payload: Payload) -> None:
    """The turns of an example, a preference, a labelled answer or a prompt, as text."""
    if isinstance(payload, Preference):
        show_messages(payload.prompt)
        for title, answer in (("Better answer", payload.chosen), ("Worse answer", payload.rejected)):
            st.markdown(f"**{title}**")
            show_messages(answer)
        return
    if isinstance(payload, Labelled):
        show_messages(payload.prompt)
        st.markdown(f"**{LABEL_WORDS[payload.label]}**")
        show_messages(payload.completion)
        return
    show_messages(payload.messages)
    if not isinstance(payload, Example) and payload.reference:
        st.markdown("**Reference answer**")
        st.text(payload.reference)


def _figures(ws: Workspace, dataset: Dataset, version: Version) -> None:
    figures = ws.statistics(version.id)
    with st.grid(4, min_column_width=150):
        st.metric("Rows", f"{figures.rows:,}")
        st.metric("Turns", f"{figures.turns:,}")
        st.metric("With a system turn", f"{figures.with_system:,}")
        st.metric("With several questions", f"{figures.multi_turn:,}")
        st.metric("Turns without text", f"{figures.empty:,}", help="Turns that neither say anything nor call a tool.")
        st.metric("Repeated prompts", f"{figures.repeated_prompts:,}", help="Letter case and spaces aside.")
        st.metric("Repeated rows", f"{figures.repeated_rows:,}")
        if figures.good is not None:
            st.metric("Good answers", f"{figures.good:,}", help="The others are told bad.")
    lengths = {
        "Characters of a row": figures.characters,
        "Words of a row": figures.words,
        "Characters of the answer": figures.answer_characters,
    }
    table = pd.DataFrame(
        [
            {"Length": name, "Half are at most": item.p50, "19 of 20 at most": item.p95, "Longest": item.maximum}
            for name, item in lengths.items()
        ]
    )
    st.dataframe(table, hide_index=True, alt="Lengths of rows and answers")
    if figures.meta_columns:
        kept = ", ".join(f"{name} ({number:,})" for name, number in figures.meta_columns.items())
        st.caption(f"Kept columns with the rows that have them: {plain(kept)}")


def _versions(ws: Workspace, versions: Sequence[Version]) -> None:
    table = pd.DataFrame(
        {
            "Version": [version.number for version in versions],
            "Rows": [version.rows for version in versions],
            "What changed": [version.message for version in versions],
            "Made": times([version.created_at for version in versions]),
            "Source": [
                str(version.provenance.get("source") or version.provenance.get("kit") or "") for version in versions
            ],
            "Content": [version.content_hash[:12] for version in versions],
        }
    )
    st.dataframe(
        table,
        hide_index=True,
        alt="Versions, newest first",
        column_config={
            "Made": st.column_config.DatetimeColumn(format="distance"),
            "Rows": st.column_config.NumberColumn(format="localized"),
            "Content": st.column_config.TextColumn(help="Digest of the rows in order; equal content, equal digest."),
        },
    )
    if len(versions) > 1 and st.button("Compare the newest with the one before", icon=":material/difference:"):
        from workbench.datasets.versions import diff_versions

        diff = diff_versions(ws.store, versions[1], versions[0])
        st.caption(
            f"{count(len(diff.added), 'row')} added, {count(len(diff.removed), 'row')} removed, "
            f"{count(len(diff.changed), 'row')} changed."
        )
    purged = {version.number for version in versions if version.manifest.get("purged")}
    if purged:
        st.caption(
            f"Rows were purged from version {', '.join(map(str, sorted(purged)))}; digests are those from before."
        )
    if len(versions) > 1:
        delete_control(
            "newest version", key=f"version.{versions[0].id}", delete=partial(ws.delete_version, versions[0].id)
        )


def _details(ws: Workspace, dataset: Dataset) -> None:
    with st.form(f"dataset.details.{dataset.id}", border=False):
        name = st.text_input("Name", dataset.name, max_chars=200)
        tags = st.multiselect(
            "Tags", list(dataset.tags), list(dataset.tags), accept_new_options=True, placeholder="Add a tag"
        )
        notes = st.text_area("Notes", dataset.description, height=140)
        if st.form_submit_button("Save", icon=":material/save:"):
            dataset_store.update_dataset(ws.store, dataset.id, name=name, tags=tags, description=notes)
            st.rerun()
    away = dataset.archived_at is not None
    if st.button(
        "Take out of the archive" if away else "Archive",
        icon=":material/unarchive:" if away else ":material/archive:",
        help="An archived dataset is kept with all versions, but no longer listed.",
    ):
        dataset_store.update_dataset(ws.store, dataset.id, archived_at=None if away else utc_now())
        st.rerun()
    delete_control(
        "dataset",
        key=f"dataset.{dataset.id}",
        delete=partial(ws.delete_dataset, dataset.id),
        after=partial(go_to, DATASETS),
    )
    st.caption(f"Id {dataset.id}, files in {plain(str(Path(ws.settings.datasets_dir) / dataset.id))}")
