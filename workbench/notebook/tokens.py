"""Tokens as inline boxes, the learned ones coloured: HTML for notebooks and for the page's inspector.

Token text is escaped and stands in no attribute.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.datasets.render import Chip

# Translucent fills hold on the light and on the dark background; the text keeps the theme's colour.
CHIP = "display:inline-block;margin:1px;padding:0 4px;border-radius:4px;white-space:pre;"
CONTEXT = CHIP + "background:rgba(128,140,140,0.16);"
LEARNED = CHIP + "background:rgba(16,158,140,0.34);"
SPECIAL = "border:1px dashed rgba(128,140,140,0.9);font-weight:600;"
FLOW = "font-family:monospace;font-size:0.85rem;line-height:1.75;overflow-wrap:anywhere;"


def chips_html(chips: Sequence[Chip]) -> str:
    """Tokens as inline boxes; a token that ends a line is followed by a line break."""
    parts = []
    for chip in chips:
        style = (LEARNED if chip.supervised else CONTEXT) + (SPECIAL if chip.special else "")
        parts.append(f'<span style="{style}">{html.escape(chip.shown, quote=True)}</span>')
        if "\n" in chip.text:
            parts.append("<br>")
    return f'<div style="{FLOW}">{"".join(parts)}</div>'
