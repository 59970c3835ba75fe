"""The list of datasets, and the starter kits that are not installed yet."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.records import Dataset
from workbench.store import datasets as dataset_store
from workbench.ui.links import DATASETS, go_to
from workbench.ui.paging import times
from workbench.ui.state import DATASET_PARAM, VIEW_PARAM
from workbench.ui.text import count, plain


def show_datasets(ws: Workspace) -> None:
    """All datasets as a table, with the way to import one above and the starter kits below."""
    known = ws.datasets(archived=True)
    if known:
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            if st.button("Import data", type="primary", icon=":material/upload:"):
                go_to(DATASETS, **{VIEW_PARAM: "import"})
            archived = any(item.archived_at for item in known) and st.toggle("Archived too", key="datasets.archived")
        _table(ws, [item for item in known if archived or item.archived_at is None])
    _kits(ws, known)


def _table(ws: Workspace, shown: Sequence[Dataset]) -> None:
    versions = dataset_store.version_counts(ws.store)
    st.dataframe(
        pd.DataFrame(
            {
                "open": ["Open" for _ in shown],
                "name": [item.name for item in shown],
                "kind": [item.kind for item in shown],
                "rows": [versions.get(item.id, (0, 0))[1] for item in shown],
                "versions": [versions.get(item.id, (0, 0))[0] for item in shown],
                "created": times([item.created_at for item in shown]),
                "tags": [", ".join(item.tags) for item in shown],
            }
        ),
        hide_index=True,
        key="datasets.table",
        height="content",
        alt="Datasets, newest first",
        column_config={
            "open": st.column_config.ButtonColumn("", width=70, type="tertiary", key="datasets.open"),
            "name": st.column_config.TextColumn("Name", width=300),
            "kind": st.column_config.TextColumn("Kind"),
            "rows": st.column_config.NumberColumn("Rows", format="localized", help="Of the newest version."),
            "versions": st.column_config.NumberColumn("Versions"),
            "created": st.column_config.DatetimeColumn("Created", format="distance"),
            "tags": st.column_config.TextColumn("Tags"),
        },
    )
    click = st.session_state.get("datasets.open")
    if click is not None and 0 <= click["row"] < len(shown):
        go_to(DATASETS, **{DATASET_PARAM: shown[click["row"]].id})


def _kits(ws: Workspace, known: Sequence[Dataset]) -> None:
    from workbench.datasets.starter import list_kits

    names = {item.name for item in known}
    kits = [kit for kit in list_kits() if f"{kit.title} (train)" not in names]
    if not known:
        with st.container(border=True):
            st.subheader("No dataset yet", anchor=False)
            st.markdown("Begin with a file of your own, or with a starter kit.")
            if st.button("Import data", type="primary", icon=":material/upload:", key="datasets.first_import"):
                go_to(DATASETS, **{VIEW_PARAM: "import"})
    if kits:
        st.subheader("Starter kits")
    for kit in kits:
        with st.container(border=True):
            st.markdown(f"**{plain(kit.title)}**")
            st.caption(plain(kit.description))
            st.caption(f"{count(kit.train_rows, 'training row')}, {count(kit.held_out_rows, 'held-out prompt')}.")
            if st.button("Install", icon=":material/download:", key=f"kit.{kit.name}"):
                train, _ = ws.install_kit(kit.name)
                go_to(DATASETS, **{DATASET_PARAM: train.dataset_id})
