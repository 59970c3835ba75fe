"""Word-level difference: nothing lost, nothing executed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workbench.ui.diff import Piece, diff_html, diff_words, share_in_common

texts = st.text(alphabet="ab <&\n.é", max_size=60)


@given(texts, texts)
def test_the_pieces_make_up_both_texts(before: str, after: str) -> None:
    pieces = diff_words(before, after)
    assert "".join(piece.text for piece in pieces if piece.kind != "added") == before
    assert "".join(piece.text for piece in pieces if piece.kind != "removed") == after
    assert 0 <= share_in_common(pieces) <= 1


def test_one_changed_word_is_told_alone() -> None:
    assert diff_words("the cat sat", "the dog sat") == [
        Piece("same", "the "),
        Piece("removed", "cat"),
        Piece("added", "dog"),
        Piece("same", " sat"),
    ]


def test_equal_texts_share_everything() -> None:
    assert share_in_common(diff_words("a b", "a b")) == 1.0


def test_markup_in_an_answer_is_escaped() -> None:
    html = diff_html(diff_words("<script>a</script>", "<img src=x onerror=b>"))
    assert "<script" not in html and "<img" not in html


def test_very_long_answers_are_compared_by_line() -> None:
    pieces = diff_words("same line\nword " * 3000, "same line\nother " * 3000)
    assert "".join(piece.text for piece in pieces if piece.kind != "added") == "same line\nword " * 3000
