"""How close a text comes to those already there: exact ROUGE-L F1 over a pool of tens of thousands, in a millisecond.

Scores are those of `rouge_score` without stemming, to the last bit. Most pairs need no alignment: F1 = 2·LCS/(m+n) is
at most 2·min(m, n)/(m+n), and the longest common subsequence cannot be longer than the number of words two texts share
(counted with repeats), which one pass over an inverted index gives for the whole pool; the second bound implies the
first. Only texts whose bound reaches the best score so far are aligned, by rapidfuzz's bit-parallel LCS.
What a score means is left to `filters`.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

_WORDS = re.compile("[a-z0-9]+")
_SLACK = 1e-9
"""Bounds are rounded differently from scores; this is far below the distance of two different scores."""
_FIRST = 16
"""Texts aligned before the rest is held against the best of them."""
_LETTERS = 0x110000
"""Word numbers up to here travel as characters of a string, which rapidfuzz reads without boxing each."""


def split_words(text: str) -> list[str]:
    """The words `rouge_score` compares: lower case, runs of a-z and 0-9; everything else only separates.

    Args:
        text: any text.
    """
    return _WORDS.findall(text.lower())


def rouge_l(lcs: int, left: int, right: int) -> float:
    """ROUGE-L F1 from lengths, rounded as `rouge_score` rounds.

    Args:
        lcs: words of the longest common subsequence.
        left: words of one text.
        right: words of the other.
    """
    if not lcs:
        return 0.0
    precision, recall = lcs / left, lcs / right
    return 2 * precision * recall / (precision + recall)


def score_pair(left: str, right: str) -> float:
    """ROUGE-L F1 of two texts, 0 where one of them has no words; the order does not matter.

    Args:
        left: a text.
        right: another.
    """
    from rapidfuzz.distance import LCSseq

    first, second = split_words(left), split_words(right)
    return rouge_l(LCSseq.similarity(first, second), len(first), len(second))


class Nearest(NamedTuple):
    """The text of a pool that comes closest."""

    score: float
    """ROUGE-L F1, 0 to 1."""
    place: int
    """Its place in the pool, the first where several come equally close; -1 where none shares a word."""


class NoveltyPool:
    """Texts that a new one must differ from.

    Args:
        texts: what is in it from the start.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._texts: list[str] = []
        self._encoded: list[Any] = []
        self._lengths = array("q")
        self._numbers: dict[str, int] = {}
        # For each word and each "k-th time in a text", the texts that have it: repeats then count as they should.
        self._places: dict[tuple[int, int], array[int]] = {}
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, index: int) -> str:
        """The text at a place.

        Args:
            index: its place, from 0.
        """
        return self._texts[index]

    def add(self, text: str) -> int:
        """Put a text at the end, and tell its place.

        Args:
            text: any text; one without words is never near to anything.
        """
        index = len(self._texts)
        numbers = [self._numbers.setdefault(word, len(self._numbers)) for word in split_words(text)]
        for key in _with_repeats(numbers):
            self._places.setdefault(key, array("q")).append(index)
        self._texts.append(text)
        self._encoded.append(_encode(numbers))
        self._lengths.append(len(numbers))
        return index

    def nearest(self, text: str) -> Nearest:
        """The closest text and its exact score, whatever the score is.

        Args:
            text: what is compared with the pool.
        """
        return self._nearest(text, above=None)

    def is_novel(self, text: str, threshold: float) -> bool:
        """Whether no text of the pool scores above a threshold; exactly the threshold is still novel.

        Args:
            text: what is compared with the pool.
            threshold: ROUGE-L F1, 0 to 1.

        Raises:
            UsageError: the threshold is out of bounds.
        """
        if not 0 <= threshold <= 1:
            raise UsageError("a threshold lies between 0 and 1", place="threshold", value=threshold)
        return self._nearest(text, above=threshold).score <= threshold

    def _nearest(self, text: str, above: float | None) -> Nearest:
        """The closest text; with `above`, any score that is not higher may be told as 0."""
        import numpy as np

        words = split_words(text)
        known = [number for word in words if (number := self._numbers.get(word)) is not None]
        places = [found for key in _with_repeats(known) if (found := self._places.get(key)) is not None]
        if not places:
            return Nearest(0.0, -1)
        shared = np.bincount(np.concatenate([np.frombuffer(found, np.int64) for found in places]))
        lengths = np.frombuffer(self._lengths, np.int64)[: len(shared)]
        bounds = 2.0 * shared / (lengths + len(words))
        # A word that the pool has never seen is in no common subsequence; only its length counts.
        sought, best = _encode(known), Nearest(0.0, -1)
        least = 0.0 if above is None else above
        count = int(np.count_nonzero(bounds > least - _SLACK))
        if not count:
            return best
        if count > _FIRST:
            first = np.sort(np.argpartition(bounds, len(bounds) - _FIRST)[len(bounds) - _FIRST :])
            best = self._align(sought, len(words), first, best)
            least = max(least, best.score)
        rest = np.flatnonzero((bounds >= least - _SLACK) & (shared > 0))
        return self._align(sought, len(words), rest, best)

    def _align(self, sought: Any, length: int, indices: np.ndarray[Any, Any], best: Nearest) -> Nearest:
        """The better of `best` and the closest of some texts, given in ascending order; the first of equals."""
        from rapidfuzz.distance import LCSseq
        from rapidfuzz.process import cdist

        if not len(indices):
            return best
        chosen: Sequence[Any] = [self._encoded[index] for index in indices]
        # The pool's texts are the queries: rapidfuzz aligns several short queries with one choice at once.
        found = cdist(chosen, [sought], scorer=LCSseq.similarity, workers=1)[:, 0]
        for index, lcs in zip(indices.tolist(), found.tolist(), strict=True):
            score = rouge_l(int(lcs), length, self._lengths[index])
            if score > best.score or (score == best.score and score > 0 and index < best.place):
                best = Nearest(score, index)
        return best


def _with_repeats(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Each number with how often it stood before."""
    if len(set(numbers)) == len(numbers):
        return [(number, 0) for number in numbers]
    seen: dict[int, int] = {}
    keys = []
    for number in numbers:
        seen[number] = seen.get(number, -1) + 1
        keys.append((number, seen[number]))
    return keys


def _encode(numbers: Sequence[int]) -> Any:
    """Word numbers in a form that rapidfuzz compares fast; both forms compare with each other."""
    if max(numbers, default=0) < _LETTERS:
        return "".join(map(chr, numbers))
    return list(numbers)
