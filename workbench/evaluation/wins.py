"""Who people put above whom, where they ranked answers that stand in a grid.

Only what a report needs: counts and a win rate for each pair. Strengths over all rankings are `workbench.preferences`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from workbench.evaluation.aggregate import AnswerGrid
from workbench.evaluation.intervals import wilson
from workbench.records import Interval, Ranking, Record
from workbench.store import rankings as ranking_store
from workbench.store.database import Store


class Wins(Record):
    """How two variants fared against each other in people's rankings of these answers."""

    first: str
    """Variant id."""
    second: str
    """Variant id."""
    won: int
    """Rankings that put the second above the first."""
    lost: int
    """Rankings that put the first above the second."""
    tied: int
    """Rankings that put them level."""

    @property
    def rate(self) -> Interval | None:
        """Share of the second's wins, ties left out, with its Wilson interval."""
        return wilson(self.won, self.won + self.lost) if self.won + self.lost else None


def count_wins(store: Store, grid: AnswerGrid) -> list[Wins]:
    """Who was put above whom where people ranked answers of this grid; hidden repeats and skips are left out.

    Args:
        store: the store.
        grid: the answers.

    Returns:
        One entry for each pair of variants that was ranked, in the grid's order.
    """
    writers = {cell.completion.id: variant for (_, variant), cell in grid.cells.items()}
    queues = [queue.id for queue in ranking_store.list_queues(store, archived=True)]
    stands_for: dict[str, dict[str, list[str]]] = {}
    for item in ranking_store.list_items(store, queues):
        found = {
            each: [writers[one] for one in (each, *item.merged.get(each, ())) if one in writers]
            for each in item.completions
        }
        if sum(map(len, found.values())) > 1:
            stands_for[item.id] = found
    told: Counter[tuple[str, str, int]] = Counter()
    for ranking in ranking_store.list_rankings(store, item_ids=list(stands_for)):
        for pair in _pairs(ranking, stands_for[ranking.item_id]):
            told[pair] += 1
    made = []
    for first, second in combinations([variant.id for variant in grid.variants], 2):
        won, lost, tied = (told[first, second, sign] + told[second, first, -sign] for sign in (1, -1, 0))
        if won + lost + tied:
            made.append(Wins(first=first, second=second, won=won, lost=lost, tied=tied))
    return made


def _pairs(ranking: Ranking, stands_for: Mapping[str, Sequence[str]]) -> Iterable[tuple[str, str, int]]:
    """Pairs of variants with 1 where the second is better, -1 where the first is, 0 where they are level."""
    if ranking.repeat or ranking.skipped is not None or ranking.all_bad:
        return
    places = {each: place for place, tier in enumerate(ranking.tiers) for each in tier}
    lowest = len(ranking.tiers)
    ranked = [*places, *ranking.unusable]
    for one, other in combinations(ranked, 2):
        if one in ranking.unusable and other in ranking.unusable:
            continue
        gap = places.get(one, lowest) - places.get(other, lowest)
        for first in stands_for.get(one, ()):
            for second in stands_for.get(other, ()):
                if first != second:
                    yield first, second, (gap > 0) - (gap < 0)
    for writers in stands_for.values():
        for first, second in combinations(writers, 2):
            if first != second:
                yield first, second, 0  # word for word the same answer
