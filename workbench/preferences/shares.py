"""Shares of votes: their interval, and how many votes it takes to tell one from a coin."""

from __future__ import annotations

import math
from statistics import NormalDist

from workbench.errors import UsageError
from workbench.records import Interval


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """A share with its Wilson score interval (Wilson 1927; no continuity correction).

    Args:
        successes: how many of the n, 0 to n; a tie counts half where it is counted.
        n: number of items, at least 1.
        confidence: between 0 and 1, both excluded.

    Raises:
        UsageError: the counts cannot be a share.
    """
    if n < 1 or not 0 <= successes <= n:
        raise UsageError("a share needs 0 ≤ successes ≤ n and n ≥ 1", place="wilson", value=(successes, n))
    if not 0 < confidence < 1:
        raise UsageError("the confidence lies between 0 and 1", place="confidence", value=confidence)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    width = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / width
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / width
    # At the ends the bound is exactly 0 or 1; the formula only gets there up to rounding.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(value=share, low=low, high=high, n=n)


def votes_needed(share: float, *, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Decisive votes it takes to tell a share from one half: two-sided test of one proportion, normal approximation.

    n = ((z₁₋α⸝₂ · ½ + z_power · √(p(1−p))) / (p − ½))², rounded up (Fleiss, Levin & Paik 2003, section 2.4, without
    continuity correction). 55 % takes 783 votes, 60 % 194, 65 % 85, 70 % 47, 75 % 29.

    Args:
        share: the share that one side wins in the long run, 0 to 1.
        power: chance to see the difference where it is there, between 0 and 1.
        alpha: chance to see one where there is none, between 0 and 1.

    Returns:
        Number of votes; None for a share of one half, which no number of votes tells from itself.

    Raises:
        UsageError: an argument is out of bounds.
    """
    if not 0 <= share <= 1 or not 0 < power < 1 or not 0 < alpha < 1:
        raise UsageError("a share, a power and an alpha lie between 0 and 1", value=(share, power, alpha))
    if share == 0.5:
        return None
    normal = NormalDist()
    spread = normal.inv_cdf(1 - alpha / 2) / 2 + normal.inv_cdf(power) * math.sqrt(share * (1 - share))
    # A share a hair's breadth from one half asks for more votes than a float can count in whole numbers.
    needed = (spread / (share - 0.5)) ** 2
    return math.ceil(needed - 1e-9) if needed < 1e15 else None
