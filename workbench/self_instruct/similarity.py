"""What another threshold would keep, at once: a slider asks again and again, so all pairs are compared only once.

The same decisions as `deciding.redecide`, which also tells each task's nearest text; here only what is kept is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from workbench.errors import UsageError
from workbench.records import Record
from workbench.self_instruct.filters import TOO_SIMILAR
from workbench.self_instruct.novelty import split_words
from workbench.self_instruct.prompts import SeedTask
from workbench.store.candidates import Candidate

_CHUNK = 256
"""Tasks compared with all before them at a time: a few megabytes, whatever the run holds."""


class Kept(Record):
    """How a run would stand under a threshold."""

    threshold: float
    """ROUGE-L F1 above which a task counts as not new."""
    kept: int
    """Tasks that pass all filters and have a usable example."""
    examples: int
    """Their usable examples."""
    too_similar: int
    """Tasks thrown out as not new."""
    waiting: int
    """Tasks that pass but have no examples, since the run asked for none."""


class Similarities:
    """All pairs of a run's tasks and seeds that come close, so that any threshold from a floor up is decided fast.

    Args:
        candidates: all of a run, in order of position.
        seeds: the run's seeds.
        floor: the lowest threshold that will be asked for, 0 to 1.
    """

    def __init__(self, candidates: Sequence[Candidate], seeds: Iterable[SeedTask], floor: float) -> None:
        # What another filter threw out is never compared and never compared with.
        self._candidates = [each for each in candidates if each.reason in (None, TOO_SIMILAR)]
        self._floor = floor
        seed_texts = [seed.instruction for seed in seeds]
        self._seeds = len(seed_texts)
        texts = [*seed_texts, *(each.instruction for each in self._candidates)]
        self._close = _close_pairs(texts, self._seeds, floor)

    def decide(self, threshold: float) -> Kept:
        """How the run would stand under a threshold.

        Args:
            threshold: ROUGE-L F1, from the floor to 1.

        Raises:
            UsageError: it lies outside.
        """
        if not self._floor <= threshold <= 1:
            raise UsageError("the threshold is out of bounds", place="threshold", value=threshold)
        taken = bytearray(b"\x01") * self._seeds
        kept = examples = waiting = 0
        for candidate, close in zip(self._candidates, self._close, strict=True):
            novel = not any(score > threshold and taken[place] for place, score in close)
            taken.append(novel)
            if not novel or candidate.instance_reason is not None:
                continue
            if candidate.instances is None:
                waiting += 1
            else:
                kept += 1
                examples += sum(each.reason is None for each in candidate.instances)
        passed = sum(taken) - self._seeds
        return Kept(
            threshold=threshold,
            kept=kept,
            examples=examples,
            too_similar=len(self._candidates) - passed,
            waiting=waiting,
        )


def _close_pairs(texts: Sequence[str], first: int, floor: float) -> list[list[tuple[int, float]]]:
    """For each text from `first` on, the places of earlier ones above a floor, with their scores, the closest first."""
    import numpy as np
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    numbers: dict[str, int] = {}
    encoded: list[Any] = [[numbers.setdefault(word, len(numbers)) for word in split_words(text)] for text in texts]
    if len(numbers) < 0x110000:  # as characters of a string they are compared without boxing each
        encoded = ["".join(map(chr, each)) for each in encoded]
    lengths = np.array([len(each) for each in encoded], dtype=np.float64)
    found: list[list[tuple[int, float]]] = []
    for start in range(first, len(texts), _CHUNK):
        stop = min(start + _CHUNK, len(texts))
        lcs = cdist(encoded[start:stop], encoded[:stop], scorer=LCSseq.similarity, dtype=np.int32, workers=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            precision, recall = lcs / lengths[start:stop, None], lcs / lengths[None, :stop]
            scores = 2 * precision * recall / (precision + recall)  # the order of `novelty.rouge_l`, to the last bit
        for row, line in enumerate(scores):
            places = np.flatnonzero(line[: start + row] > floor)
            close = zip(places.tolist(), line[places].tolist(), strict=True)
            found.append(sorted(close, key=lambda pair: -pair[1]))
    return found
