"""The token inspector: what a model would see of a row, and which tokens it would learn.

The renderer is the one that training uses, so what is shown is what is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from workbench.api import Workspace
from workbench.notebook.tokens import chips_html
from workbench.records import Model, Payload, Preference
from workbench.ui.text import count, plain

if TYPE_CHECKING:
    from workbench.datasets.inspecting import InspectedRow
    from workbench.datasets.render import Renderer

MOST_CHIPS = 3000


def show_inspector(ws: Workspace, payload: Payload) -> None:
    """Choose a model and see the row's tokens.

    Args:
        ws: the workspace.
        payload: the row.
    """
    ready = [model for model in ws.models() if model.path is not None and Path(model.path).is_dir()]
    if not ready:
        st.caption("Tokens can be shown once a base model is ready. The tour makes the bundled one ready.")
        return
    model = st.selectbox(
        "As this model sees it", ready, format_func=lambda item: item.name, key="inspector.model", width=360
    )
    from workbench.datasets.inspecting import inspect_payload

    rows = inspect_payload(payload, model_renderer(model))
    if isinstance(payload, Preference):
        _show_sides(rows)
        return
    for row in rows:
        _show_row(row)


def model_renderer(model: Model) -> Renderer:
    """The renderer of a base model that is ready, kept for all sessions."""
    return _load(str(model.path), model.base_digest or "")


@st.cache_resource(show_spinner="Reading the tokenizer", max_entries=4)
def _load(path: str, digest: str) -> Renderer:
    from workbench.datasets.render import load_renderer

    return load_renderer(Path(path))


def _show_sides(rows: Sequence[InspectedRow]) -> None:
    """Both sides of a preference beside each other."""
    chosen, rejected = rows
    if chosen.chips == rejected.chips:
        st.warning(
            "Both sides are the same to this model: nothing can be learned from the row.", icon=":material/info:"
        )
    for row, column in zip(rows, st.columns(2, gap="small"), strict=True):
        with column:
            _show_row(row)


def _show_row(row: InspectedRow) -> None:
    special = sum(chip.special for chip in row.chips)
    with st.container(border=True):
        if row.title:
            st.markdown(f"**{row.title}**")
        st.markdown(
            f"{count(row.tokens, 'token')}, :green-background[{row.supervised:,} learned], "
            f"{special:,} special (dashed)",
            help="The loss is taken on learned tokens only; the others are what the model reads before.",
        )
        if row.note:
            st.caption(f":material/info: {plain(row.note)}")
        st.html(chips_html(row.chips[:MOST_CHIPS]))
        if row.tokens > MOST_CHIPS:
            st.caption(f"The first {MOST_CHIPS:,} of {row.tokens:,} tokens.")
