"""Craft: write and edit rows by hand; a save makes a version."""

import streamlit as st

from workbench.ui.craft import show_craft
from workbench.ui.store import workspace

st.title("Craft")
st.caption("Write and edit rows by hand. What you type is kept as a draft; saving makes one version of all changes.")
show_craft(workspace())
