"""How far raters agree: Krippendorff's α, Kendall's τ, and the share of pairs that two raters order alike.

Only items that at least two people ranked tell anything; hidden repeats are left out. α is `evalica`'s; τ-b is counted
here for all items at once, since it is the same sums over pairs, and held equal to `scipy` by a test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

from workbench.preferences.shares import wilson
from workbench.preferences.votes import Ballot, rankings_by_item
from workbench.records import Interval, Record


class RaterPair(Record):
    """How far two raters agree."""

    raters: tuple[str, str]
    """Who."""
    items: int
    """Items both ranked."""
    tau: float | None
    """Kendall's τ-b, mean over the items where both told some answers apart; None where there is none."""
    same: Interval | None
    """Share of pairs of answers ordered alike, of those both told apart."""


class Agreement(Record):
    """How far the raters of some queues agree."""

    items: int
    """Items that at least two people ranked."""
    raters: int
    """People who ranked one of those."""
    alpha_pairs: float | None = None
    """Krippendorff's α, nominal, over pairs of answers: better, worse or tied. 1 is full agreement, 0 chance. Each pair
    counts both ways round, so that which answer of it stands first in the store does not matter."""
    alpha_ranks: float | None = None
    """Krippendorff's α, ordinal, over the places of answers."""
    same: Interval | None = None
    """Share of pairs of answers that two raters order alike, of those both told apart, over all pairs of raters."""
    tau: float | None = None
    """Kendall's τ-b, mean over items and pairs of raters."""
    contradicted: int = 0
    """Pairs of answers that one rater ordered one way and another the other way."""
    pairs: tuple[RaterPair, ...] = ()
    """Rater by rater."""


def measure_agreement(ballots: Sequence[Ballot]) -> Agreement:
    """Measure agreement over the items that at least two people ranked.

    Args:
        ballots: votes; hidden repeats among them are ignored.
    """
    items = {
        item: {ballot.rater: ballot for ballot in group}
        for item, group in rankings_by_item(each for each in ballots if not each.repeat).items()
    }
    shared = {item: group for item, group in items.items() if len(group) > 1}
    if not shared:
        return Agreement(items=0, raters=0)
    signs = {item: {who: each.signs() for who, each in group.items()} for item, group in shared.items()}
    met: dict[tuple[str, str], list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    contradicted = 0
    for group in signs.values():
        told = list(group.values())
        contradicted += sum(1 in column and -1 in column for column in zip(*told, strict=True))
        for one, other in combinations(sorted(group), 2):
            met.setdefault((one, other), []).append((group[one], group[other]))
    pairs = tuple(_rater_pair(who, both) for who, both in sorted(met.items()))
    every = [both for group in met.values() for both in group]
    places = {item: {who: tuple(each.levels.values()) for who, each in group.items()} for item, group in shared.items()}
    return Agreement(
        items=len(shared),
        raters=len({who for group in shared.values() for who in group}),
        alpha_pairs=krippendorff([_both_ways(group) for group in signs.values()], "nominal"),
        alpha_ranks=krippendorff(list(places.values()), "ordinal"),
        same=_same(every),
        tau=_mean_tau(every),
        contradicted=contradicted,
        pairs=pairs,
    )


def _both_ways(group: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    # In a queue that holds the weaker variant's answer first every time, "the second is better" would be what chance
    # alone gives, and raters who agree on it would seem to agree on nothing.
    return {who: (*told, *(-sign for sign in told)) for who, told in group.items()}


def krippendorff(items: Sequence[dict[str, tuple[int, ...]]], distance: str) -> float | None:
    """Krippendorff's α (2018) by `evalica`.

    Args:
        items: for each item, each rater's values; all raters of an item give as many values.
        distance: `nominal` or `ordinal`.

    Returns:
        α, at most 1; None where no unit has two values.
    """
    import evalica
    import numpy as np
    import pandas as pd

    raters = {who: row for row, who in enumerate(sorted({who for item in items for who in item}))}
    width = sum(len(next(iter(item.values()))) for item in items)
    values = np.full((len(raters), width), np.nan)
    column = 0
    for item in items:
        for who, told in item.items():
            values[raters[who], column : column + len(told)] = told
        column += len(next(iter(item.values())))
    try:
        return float(evalica.alpha(pd.DataFrame(values), distance=distance).alpha)
    except evalica.InsufficientRatingsError:
        return None


def kendall_tau(a: Sequence[int], b: Sequence[int]) -> float | None:
    """Kendall's τ-b of two rankings from the signs of their pairs; None where one of them ties everything."""
    told_a, told_b = sum(map(abs, a)), sum(map(abs, b))
    if not told_a or not told_b:
        return None
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(told_a * told_b)


@lru_cache(maxsize=16384)  # thousands of pairs of votes share few pairs of orders
def _meet(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[float | None, int, int]:
    """τ-b of two rankings, and how many pairs they order alike and the other way round."""
    products = [x * y for x, y in zip(a, b, strict=True)]
    return kendall_tau(a, b), products.count(1), products.count(-1)


def _rater_pair(who: tuple[str, str], both: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> RaterPair:
    return RaterPair(raters=who, items=len(both), tau=_mean_tau(both), same=_same(both))


def _mean_tau(both: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> float | None:
    known = [tau for a, b in both if (tau := _meet(a, b)[0]) is not None]
    return sum(known) / len(known) if known else None


def _same(both: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> Interval | None:
    alike = sum(_meet(a, b)[1] for a, b in both)
    apart = sum(_meet(a, b)[2] for a, b in both)
    return wilson(alike, alike + apart) if alike + apart else None
