"""Whether votes can be trusted: a rater's pull to a position, steadiness on hidden repeats, and cycles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from workbench.preferences.shares import wilson
from workbench.preferences.votes import Ballot, Comparisons
from workbench.records import Interval, Record
from workbench.store.rankings import SCORER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUSPICIOUS = 0.001
"""Chance, had the rater looked at the answers, below which a pull to the first place is told."""


class PositionShare(Record):
    """How often the answer displayed first was ranked best."""

    rater: str | None
    """Whose votes; None for everybody's."""
    first: Interval
    """Share of votes with one best answer in which that answer was displayed first."""
    expected: float
    """Share that a rater without a pull would have: one in K."""
    chance: float
    """Chance that such a rater puts the first displayed so often or oftener (exact binomial, one-sided)."""
    flagged: bool
    """Whether this rater takes the first nearly always and the chance of that is below one in a thousand."""


class Steadiness(Record):
    """How a rater judged the same items twice, without knowing."""

    rater: str
    """Who."""
    repeats: int
    """Hidden repeats ranked."""
    same: Interval | None
    """Share of pairs of answers judged alike both times; None where nothing was repeated."""


def share_first(ballots: Sequence[Ballot]) -> list[PositionShare]:
    """The pull to the answer displayed first: everybody's, then each rater's by name.

    Args:
        ballots: votes; those without one best answer, and those on a single answer, tell nothing and are left out, and
            so are a scorer's, to which nothing was displayed.
    """
    people = ((ballot, ballot.best) for ballot in ballots if ballot.source != SCORER)
    told = [
        (ballot.rater, best == ballot.shown[0], 1 / len(ballot.shown))
        for ballot, best in people
        if best and len(ballot.shown) > 1
    ]
    if not told:
        return []
    groups: dict[str | None, list[tuple[bool, float]]] = {None: [(first, share) for _, first, share in told]}
    for rater, first, share in sorted(told, key=lambda each: each[0]):
        groups.setdefault(rater, []).append((first, share))
    return [_position_share(rater, group) for rater, group in groups.items()]


def _position_share(rater: str | None, votes: list[tuple[bool, float]]) -> PositionShare:
    taken, n = sum(first for first, _ in votes), len(votes)
    expected = sum(share for _, share in votes) / n
    chance = binomial_tail(taken, n, expected)
    return PositionShare(
        rater=rater,
        first=wilson(taken, n),
        expected=expected,
        chance=chance,
        flagged=rater is not None and chance < SUSPICIOUS and taken >= 0.9 * n,
    )


def binomial_tail(successes: int, n: int, p: float) -> float:
    """Chance of so many successes or more in n draws, each with chance p between 0 and 1 (both excluded)."""
    if successes <= 0:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(successes, n + 1)
    ]
    top = max(logs)
    return min(1.0, math.exp(top) * math.fsum(math.exp(each - top) for each in logs))


def measure_steadiness(ballots: Sequence[Ballot]) -> list[Steadiness]:
    """Each rater's self-consistency on hidden repeats, by name."""
    first = {(ballot.rater, ballot.item_id): ballot for ballot in ballots if not ballot.repeat}
    alike: dict[str, list[bool]] = {}
    repeats: dict[str, int] = {}
    for again in ballots:
        before = first.get((again.rater, again.item_id))
        if again.repeat and before is not None:
            repeats[again.rater] = repeats.get(again.rater, 0) + 1
            pairs = zip(before.signs(), again.signs(), strict=True)
            alike.setdefault(again.rater, []).extend(one == other for one, other in pairs)
    return [
        Steadiness(rater=who, repeats=repeats[who], same=wilson(sum(told), len(told)) if told else None)
        for who, told in sorted(alike.items())
    ]


def find_cycles(comparisons: Comparisons, wins: NDArray[np.float64]) -> list[tuple[str, str, str]]:
    """Three variants of which each beats the next by majority, and the last the first; each cycle once.

    Args:
        comparisons: for the variants.
        wins: (V, V), wins of the row over the column; a pair that is even or never met beats neither way.
    """
    beats = wins > wins.T
    found = []
    for a, b, c in combinations(range(len(comparisons.variants)), 3):
        for x, y, z in ((a, b, c), (a, c, b)):
            if beats[x, y] and beats[y, z] and beats[z, x]:
                found.append((comparisons.variants[x], comparisons.variants[y], comparisons.variants[z]))
    return found
