"""Datasets: the list, with `?view=import` the import of a file, with `?dataset=…` one dataset."""

import streamlit as st

from workbench.ui.dataset_import import show_import
from workbench.ui.dataset_list import show_datasets
from workbench.ui.dataset_page import show_dataset
from workbench.ui.links import DATASETS, go_to
from workbench.ui.state import DATASET_PARAM, VIEW_PARAM
from workbench.ui.store import workspace

ws = workspace()
name_or_id, view = st.query_params.get(DATASET_PARAM), st.query_params.get(VIEW_PARAM)
if (name_or_id or view) and st.button("All datasets", icon=":material/arrow_back:", type="tertiary"):
    go_to(DATASETS)

if name_or_id:
    show_dataset(ws, name_or_id)
elif view == "import":
    st.title("Import data")
    st.caption("See what a file would become before anything is stored.")
    show_import(ws)
else:
    st.title("Datasets")
    st.caption("Rows to train on, to compare by, or to rank. A version never changes; an edit makes the next one.")
    show_datasets(ws)
