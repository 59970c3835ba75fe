"""Tables that are paged in the store: which page is shown, the switch below it, and columns of times."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pandas as pd
import streamlit as st


def current_page(key: str, total: int, rows: int) -> tuple[int, int]:
    """The page to show and the number of pages.

    Args:
        key: session key of the switch.
        total: rows in all.
        rows: rows of a page.
    """
    pages = max(1, -(-total // rows))
    return min(max(1, int(st.session_state.get(key) or 1)), pages), pages


def page_switch(pages: int, key: str, summary: str) -> None:
    """What there is in all, and the switch where there is more than one page.

    Args:
        pages: number of pages.
        key: session key, the same as for `current_page`.
        summary: for example "36 runs"; Markdown.
    """
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(summary, width="content")
        if pages > 1:
            # In a row the switch would shrink to its current page: it measures the room that it makes itself.
            st.pagination(pages, key=key, width=160 + 40 * min(pages, 7))


def times(moments: Sequence[datetime]) -> pd.Series:
    """A column of times for a table; Arrow's own type, because pandas' zoned one is on its way to change."""
    import pyarrow

    return pd.Series(list(moments), dtype=pd.ArrowDtype(pyarrow.timestamp("us", tz="UTC")))
