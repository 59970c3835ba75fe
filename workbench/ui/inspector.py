"""The token inspector: what a model would see of a row, and which tokens it would learn.

The renderer is the one that training uses, so what is shown is what is trained. Chips are HTML of our own; token text
is escaped and stands in no attribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from workbench.api import Workspace
from workbench.records import Model, Payload
from workbench.ui.text import count, escape_html, plain

if TYPE_CHECKING:
    from workbench.datasets.inspecting import InspectedRow
    from workbench.datasets.render import Chip, Renderer

MOST_CHIPS = 3000
# Translucent fills hold on the light and on the dark background; the text keeps the theme's colour.
CHIP = "display:inline-block;margin:1px;padding:0 4px;border-radius:4px;white-space:pre;"
CONTEXT = CHIP + "background:rgba(128,140,140,0.16);"
LEARNED = CHIP + "background:rgba(16,158,140,0.34);"
SPECIAL = "border:1px dashed rgba(128,140,140,0.9);font-weight:600;"
FLOW = "font-family:monospace;font-size:0.85rem;line-height:1.75;overflow-wrap:anywhere;"


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

    for row in inspect_payload(payload, model_renderer(model)):
        _show_row(row)


def model_renderer(model: Model) -> Renderer:
    """The renderer of a base model that is ready, kept for all sessions."""
    return _load(str(model.path), model.base_digest or "")


@st.cache_resource(show_spinner="Reading the tokenizer", max_entries=4)
def _load(path: str, digest: str) -> Renderer:
    from workbench.datasets.render import load_renderer

    return load_renderer(Path(path))


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


def chips_html(chips: Sequence[Chip]) -> str:
    """Tokens as inline boxes; a token that ends a line is followed by a line break."""
    parts = []
    for chip in chips:
        style = (LEARNED if chip.supervised else CONTEXT) + (SPECIAL if chip.special else "")
        parts.append(f'<span style="{style}">{escape_html(chip.shown)}</span>')
        if "\n" in chip.text:
            parts.append("<br>")
    return f'<div style="{FLOW}">{"".join(parts)}</div>'
