"""The pieces that cards are made of. Whatever is not said to be HTML is escaped."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.evaluation.report_pieces import escaped

MOST_LETTERS = 400
"""Letters of a cell."""
NOTE = "opacity:.7;font-size:12px"
TEXT = "white-space:pre-wrap;overflow-wrap:break-word;text-align:left"
_CARD = (
    "border:1px solid rgba(128,140,140,.4);border-radius:8px;padding:12px 14px;margin:4px 0;max-width:1100px;"
    "font-size:13px;line-height:1.45"
)
_CELL = f"{TEXT};vertical-align:top;padding:4px 10px 4px 0;border-bottom:1px solid rgba(128,140,140,.25)"


def card(parts: Sequence[str]) -> str:
    """A card of some parts."""
    # Half of a character, as a model can write it, becomes a question mark: a notebook file of UTF-8 cannot hold it.
    return f"<div style='{_CARD}'>{''.join(parts)}</div>".encode("utf-8", "replace").decode()


def titled(name: str, beside: str) -> str:
    """A name in bold, and what stands beside it as HTML."""
    return f"<div><b style='font-size:15px'>{escaped(name)}</b> {beside}</div>"


def noted(text: str) -> str:
    """Small print; nothing where there is none."""
    return f"<div style='{NOTE}'>{escaped(text)}</div>" if text else ""


def text_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of texts; columns without any text are left out."""
    kept = [place for place in range(len(heads)) if any(line[place] for line in lines)]
    if not kept:
        return ""
    head = "".join(f"<th style='{_CELL}'>{escaped(heads[place])}</th>" for place in kept)
    body = "".join(
        "<tr>"
        + "".join(f"<td dir='auto' style='{_CELL}'>{escaped(shortened(line[place]))}</td>" for place in kept)
        + "</tr>"
        for line in lines
    )
    look = "border-collapse:collapse;margin-top:8px;color:inherit;font-size:inherit"
    table = f"<table style='{look}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div style='overflow-x:auto'>{table}</div>"


def number_of(number: int, noun: str) -> str:
    """`1 row`, `1,204 rows`."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def shortened(text: str) -> str:
    """A text of a cell, cut where it is long."""
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1].rstrip() + "…"
