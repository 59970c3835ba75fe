"""The workspace, opened once per home folder and shared by all sessions of the app."""

from __future__ import annotations

import streamlit as st

from workbench.api import Workspace
from workbench.settings import get_settings


@st.cache_resource(show_spinner=False)
def _open(home: str, database: str) -> Workspace:
    return Workspace(settings=get_settings())


def workspace() -> Workspace:
    """The workspace that the environment names.

    Raises:
        StoreProblem: the folder or the database cannot be used; `shown_errors` says so in words.
    """
    settings = get_settings()
    return _open(str(settings.home), settings.database_url)


def store_key(ws: Workspace) -> str:
    """Names the store in the key of what `st.cache_data` keeps, which all sessions and homes share."""
    return f"{ws.settings.home} {ws.settings.database_url}"
