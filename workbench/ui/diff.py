"""What differs between two answers, word by word."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

import streamlit as st

from workbench.ui.text import escape_html

Kind = Literal["same", "removed", "added"]
MOST_WORDS = 6000
FEWEST_WORDS = 2
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
# Translucent, so that they hold on a light and on a dark background; underline and strike say it without colour.
_STYLES = {
    "removed": "background:rgba(220,60,60,.22);text-decoration:line-through;text-decoration-thickness:1px",
    "added": "background:rgba(20,160,90,.24);text-decoration:underline;text-decoration-thickness:1px",
}


class Piece(NamedTuple):
    """A stretch of text and where it stands."""

    kind: Kind
    text: str


def diff_words(before: str, after: str) -> list[Piece]:
    """Stretches of words that both have, that only the first has, and that only the second has.

    Same and removed stretches joined are the first text; same and added ones, the second.

    Args:
        before: the text to compare against.
        after: the other one.
    """
    first, second = _WORDS.findall(before), _WORDS.findall(after)
    if len(first) + len(second) > MOST_WORDS:
        # The matcher's time grows with the product; whole lines are told apart instead.
        first, second = before.splitlines(keepends=True), after.splitlines(keepends=True)
    changes: list[tuple[str, str, bool]] = []
    for name, low, high, start, end in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        changes.append(("".join(first[low:high]), "".join(second[start:end]), name == "equal"))
    return _pieces(_folded(changes))


def _folded(changes: list[tuple[str, str, bool]]) -> list[tuple[str, str, bool]]:
    """A lone word that both have between two changes counts as changed: a phrase reads better than shreds of it."""
    folded: list[tuple[str, str, bool]] = []
    for place, (before, after, equal) in enumerate(changes):
        if equal and 0 < place < len(changes) - 1 and len(before.split()) < FEWEST_WORDS and "\n" not in before:
            equal = False
        if not equal and folded and not folded[-1][2]:
            folded[-1] = (folded[-1][0] + before, folded[-1][1] + after, False)
        else:
            folded.append((before, after, equal))
    return folded


def _pieces(changes: list[tuple[str, str, bool]]) -> list[Piece]:
    pieces: list[Piece] = []
    for before, after, equal in changes:
        if equal:
            pieces.append(Piece("same", before))
            continue
        if before:
            pieces.append(Piece("removed", before))
        if after:
            pieces.append(Piece("added", after))
    return pieces


def share_in_common(pieces: list[Piece]) -> float:
    """Share of the words of both texts that stand in both, between 0 and 1."""
    same = sum(len(piece.text.split()) for piece in pieces if piece.kind == "same")
    other = sum(len(piece.text.split()) for piece in pieces if piece.kind != "same")
    return 1.0 if same + other == 0 else 2 * same / (2 * same + other)


def diff_html(pieces: list[Piece]) -> str:
    """The pieces as escaped HTML: struck through what only the first has, underlined what only the second has."""
    tags = {"removed": "del", "added": "ins"}
    parts = []
    for piece in pieces:
        text = escape_html(piece.text)
        tag = tags.get(piece.kind)
        parts.append(text if tag is None else f'<{tag} style="{_STYLES[piece.kind]}">{text}</{tag}>')
    return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.6">{"".join(parts)}</div>'


def show_diff(before: str, after: str) -> None:
    """Draw the difference."""
    pieces = diff_words(before, after)
    if all(piece.kind == "same" for piece in pieces):
        st.caption("Both say exactly the same.")
    else:
        st.caption(f"{share_in_common(pieces):.0%} of the words stand in both.")
    st.html(diff_html(pieces))
