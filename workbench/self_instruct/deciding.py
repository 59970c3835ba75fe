"""Whether tasks are new, decided one after the other: each against the seeds and those that were found new before it.

A run decides as candidates come; `review` decides again under another threshold. Both do it here, so that deciding
again gives what a fresh run would have decided about the same candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from workbench.self_instruct.filters import TOO_SIMILAR
from workbench.self_instruct.novelty import NoveltyPool
from workbench.self_instruct.prompts import SeedTask
from workbench.store.candidates import Candidate


class Novelty(NamedTuple):
    """How close a task comes to those before it."""

    score: float
    """ROUGE-L F1 to the nearest, exact."""
    kind: Literal["seed", "candidate"] | None
    """What the nearest is; None where no word is shared."""
    id: str | None
    """Row id of the seed, id of the candidate."""
    text: str | None
    """The nearest text."""
    novel: bool
    """Whether the score does not exceed the threshold."""


class Decider:
    """Decides tasks in their order.

    Args:
        seeds: tasks by people.
        threshold: ROUGE-L F1 above which a task is not new.
    """

    def __init__(self, seeds: Iterable[SeedTask], threshold: float) -> None:
        self._threshold = threshold
        self._pool = NoveltyPool()
        self._owners: list[tuple[Literal["seed", "candidate"], str]] = []
        for seed in seeds:
            self._pool.add(seed.instruction)
            self._owners.append(("seed", seed.row_id))

    def admit(self, candidate_id: str, instruction: str) -> None:
        """Take in a task that was found new before.

        Args:
            candidate_id: its id.
            instruction: its text.
        """
        self._pool.add(instruction)
        self._owners.append(("candidate", candidate_id))

    def decide(self, candidate_id: str, instruction: str) -> Novelty:
        """Compare a task with all before it, and take it in where it is new.

        Args:
            candidate_id: its id.
            instruction: its text.
        """
        found = self._pool.nearest(instruction)
        novel = found.score <= self._threshold
        kind, owner, text = None, None, None
        if found.place >= 0:
            (kind, owner), text = self._owners[found.place], self._pool.text(found.place)
        if novel:
            self.admit(candidate_id, instruction)
        return Novelty(found.score, kind, owner, text, novel)


def redecide(candidates: Sequence[Candidate], seeds: Iterable[SeedTask], threshold: float) -> list[Candidate]:
    """Candidates as they would have been decided under another threshold; nothing is generated or stored.

    What other filters threw out stays out. A task that passes now but has no examples waits for them.

    Args:
        candidates: all of a run, in order of position.
        seeds: the run's seeds.
        threshold: ROUGE-L F1 above which a task is not new.
    """
    decider = Decider(seeds, threshold)
    decided = []
    for candidate in candidates:
        if candidate.reason not in (None, TOO_SIMILAR):
            decided.append(candidate)
            continue
        found = decider.decide(candidate.id, candidate.instruction)
        changes = {
            "reason": None if found.novel else TOO_SIMILAR,
            "score": found.score,
            "nearest_kind": found.kind,
            "nearest_id": found.id,
            "nearest_text": found.text,
        }
        decided.append(candidate.model_copy(update=changes))
    return decided
