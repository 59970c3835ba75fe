"""Votes as numbers: from rankings to pairwise comparisons of variants, read once and counted many times.

A ranking of K answers is C(K,2) comparisons. Answers in one tier, and all of an item that is all bad, are tied. An
unusable answer loses to every tier; two unusable ones are not compared. Answers that were merged because their texts
are the same stand in the same tier and so tie. Two answers of one variant are not compared. Hidden repeats are kept
apart: they tell how steady a rater is and nothing else. People's votes are read unless others are asked for: what a
scorer says is no vote of a person.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from workbench.store import rankings as rank_store
from workbench.store.database import Store
from workbench.store.rankings import Sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNUSABLE = 99
"""Level of an unusable answer: below every tier."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """One vote: each answer's level, 0 for the best tier."""

    item_id: str
    """The item."""
    prompt: int
    """Number of the prompt; equal prompts of different queues have the same."""
    rater: str
    """Who voted."""
    shown: tuple[str, ...]
    """Completion ids in the order displayed."""
    levels: dict[str, int]
    """Completion id → level, in the item's order."""
    all_bad: bool
    """Whether every answer is bad; then all levels are 0."""
    repeat: bool
    """Whether it was a hidden repeat."""
    source: str = "rank"
    """rank, playground, demo, import or scorer."""

    @property
    def best(self) -> str | None:
        """The one answer in the best place; None where several share it, or none is usable."""
        first = [completion for completion, level in self.levels.items() if level == 0]
        return first[0] if len(first) == 1 and not self.all_bad else None

    def signs(self) -> tuple[int, ...]:
        """For each pair of the item's answers, in order: 1 where the first is better, -1 where worse, 0 where tied."""
        return _signs(tuple(self.levels.values()))


@lru_cache(maxsize=4096)  # thousands of votes share few orders
def _signs(levels: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(
        (other > level) - (other < level) for index, level in enumerate(levels) for other in levels[index + 1 :]
    )


@dataclass(frozen=True)
class Votes:
    """The votes of some queues."""

    ballots: tuple[Ballot, ...]
    """Votes that stand, oldest first, hidden repeats among them."""
    writers: dict[str, str]
    """Completion id → variant id, for all answers of the items that have votes."""
    merged: dict[str, tuple[str, ...]]
    """Completion id → ids of the others with the same text."""
    prompts: int
    """Number of different prompts that have votes."""

    @property
    def counted(self) -> list[Ballot]:
        """The votes without hidden repeats."""
        return [ballot for ballot in self.ballots if not ballot.repeat]


@dataclass(frozen=True)
class Comparisons:
    """Pairwise comparisons of variants as arrays of one length n."""

    variants: tuple[str, ...]
    """Variant ids; the arrays hold their numbers."""
    first: NDArray[np.int64]
    """One side, as a number of a variant."""
    second: NDArray[np.int64]
    """The other side."""
    outcome: NDArray[np.float64]
    """1 where the first won, 0 where the second did, one half for a tie."""
    prompt: NDArray[np.int64]
    """Number of the prompt."""
    prompts: int
    """Number of prompts."""


def read_votes(store: Store, queue_ids: Sequence[str], sources: Sources = "people") -> Votes:
    """The votes of these queues.

    Args:
        store: the store.
        queue_ids: queue ids; equal prompts of several queues count as one prompt.
        sources: whose votes: people's, only demo visitors', scorers', or all.
    """
    items = {item.item_id: item for item in rank_store.list_item_rows(store, queue_ids)}
    numbers: dict[str, int] = {}
    ballots = []
    voted = set()
    for vote in rank_store.list_votes(store, queue_ids, sources):
        item = items[vote.item_id]
        voted.add(vote.item_id)
        ballots.append(
            Ballot(
                item_id=vote.item_id,
                prompt=numbers.setdefault(item.prompt, len(numbers)),
                rater=vote.rater,
                shown=tuple(vote.shown),
                levels=levels_of(item.completions, vote.tiers, vote.unusable),
                all_bad=bool(vote.all_bad),
                repeat=bool(vote.repeat),
                source=vote.source,
            )
        )
    merged = {each: tuple(same) for item_id in voted for each, same in items[item_id].merged.items()}
    ids = [each for item_id in voted for each in items[item_id].completions]
    ids += [each for same in merged.values() for each in same]
    return Votes(tuple(ballots), rank_store.completion_variants(store, ids), merged, len(numbers))


@contextmanager
def uncollected() -> Iterator[None]:
    """Keeps Python's cycle collector from looking through many new votes again and again: nearly half of the time.

    Votes hold no cycles, so nothing is lost; where another thread turns it on meanwhile, it only takes longer.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def levels_of(completions: Iterable[str], tiers: Sequence[Sequence[str]], unusable: Sequence[str]) -> dict[str, int]:
    """Each answer's level: number of its tier from 0, `UNUSABLE`, or 0 where there are no tiers at all (all bad).

    Args:
        completions: the item's answers; the result is in this order.
        tiers: from best to worst.
        unusable: answers that are none.
    """
    levels = dict.fromkeys(completions, 0)
    for level, tier in enumerate(tiers):
        for completion in tier:
            levels[completion] = level
    for completion in unusable:
        levels[completion] = UNUSABLE
    return levels


def compare_variants(votes: Votes) -> Comparisons:
    """All comparisons of different variants in the votes, hidden repeats left out."""
    import numpy as np

    known: dict[str, int] = {}
    sizes: dict[int, tuple[list[list[int]], list[list[int]], list[int]]] = {}
    for ballot in votes.counted:
        levels, who = [], []
        for completion, level in ballot.levels.items():
            for each in (completion, *votes.merged.get(completion, ())):
                writer = votes.writers.get(each)
                if writer is not None:  # None: purged since
                    levels.append(level)
                    who.append(known.setdefault(writer, len(known)))
        rows = sizes.setdefault(len(levels), ([], [], []))
        rows[0].append(levels)
        rows[1].append(who)
        rows[2].append(ballot.prompt)
    parts = [_pairs(np.array(levels), np.array(who), np.array(prompt)) for levels, who, prompt in sizes.values()]
    empty = np.zeros(0, dtype=np.int64)
    first, second, outcome, prompts = (
        np.concatenate([part[place] for part in parts]) if parts else empty for place in range(4)
    )
    return Comparisons(
        tuple(known), first.astype(np.int64), second.astype(np.int64), outcome.astype(np.float64),
        prompts.astype(np.int64), votes.prompts,
    )  # fmt: skip


def _pairs(
    levels: NDArray[np.int64], who: NDArray[np.int64], prompt: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """All pairs of ballots of one size: levels and writers (n, K), prompts (n)."""
    import numpy as np

    left, right = np.triu_indices(levels.shape[1], 1)
    a, b = levels[:, left], levels[:, right]
    first, second = who[:, left], who[:, right]
    kept = (first != second) & ~((a == UNUSABLE) & (b == UNUSABLE))
    outcome = np.where(a == b, 0.5, (a < b).astype(np.float64))
    prompts = np.broadcast_to(prompt[:, None], a.shape)
    return first[kept], second[kept], outcome[kept], prompts[kept]


def rankings_by_item(ballots: Iterable[Ballot]) -> Mapping[str, list[Ballot]]:
    """Ballots grouped by item, for comparing raters."""
    found: dict[str, list[Ballot]] = {}
    for ballot in ballots:
        found.setdefault(ballot.item_id, []).append(ballot)
    return found
