"""Which version of a dataset to take: the latest unless an older one is chosen, written as `name@number`."""

from __future__ import annotations

import streamlit as st

from workbench.api import Workspace
from workbench.errors import NotFound
from workbench.records import Version
from workbench.store import datasets as dataset_store
from workbench.ui.text import count, shorten

LATEST = 0
"""Number that stands for whichever version is the newest when the run starts."""


def split_reference(ws: Workspace, reference: object, known: list[str]) -> tuple[object, int]:
    """A dataset's name and a version's number from what a config names; the latest where it names none.

    Args:
        ws: the workspace.
        reference: `name`, `name@3` or an id.
        known: names of datasets that can be chosen.
    """
    if not isinstance(reference, str) or reference in known:
        return reference, LATEST
    try:
        dataset, version = dataset_store.find_version(ws.store, reference)
    except NotFound:
        return reference, LATEST
    return dataset.name, LATEST if reference == dataset.id else version.number


def choose_version(ws: Workspace, dataset: str, *, key: str, start: int | None = None) -> str:
    """Offer the versions of a dataset where it has more than one.

    Args:
        ws: the workspace.
        dataset: its name.
        key: of the widget.
        start: number to start from; None keeps what was chosen.

    Returns:
        `name` for the latest, else `name@number`.
    """
    try:
        versions = dataset_store.list_versions(ws.store, ws.dataset(dataset).id)
    except NotFound:
        return dataset
    if len(versions) < 2:
        return dataset
    labels = {LATEST: f"Latest (version {versions[0].number})"} | {each.number: _label(each) for each in versions}
    if start is not None:
        st.session_state[key] = start
    if st.session_state.get(key, LATEST) not in labels:
        st.session_state[key] = LATEST
    number = st.selectbox(
        "Version",
        list(labels),
        format_func=lambda each: labels[each],
        key=key,
        help="A run keeps to the version it began with; an older one is chosen here.",
        persist_state="session",
    )
    return f"{dataset}@{number}" if number else dataset


def _label(version: Version) -> str:
    said = f": {shorten(version.message, 60)}" if version.message else ""
    return f"Version {version.number}, {count(version.rows, 'row')}{said}"
