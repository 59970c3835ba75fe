"""How strong each variant is: win rates, and Bradley–Terry with ties fitted to pairwise comparisons.

Method: Bradley–Terry with ties (Davidson 1970) in the form of Newman 2023, "Efficient Computation of Rankings from
Pairwise Comparisons", JMLR 24, section 5. Departures: the maximum, which is the same, is found by Newton's method,
since Newman's iteration with all variants moved at once (as in `evalica`) can run in circles where one nearly always
wins (seen). A weak prior, for each pair 1/V of a win either way, keeps strengths finite where a variant never lost.
Intervals are a Bayesian bootstrap (Rubin 1981) over prompts, because the comparisons of one prompt are not independent:
each round draws a weight for every prompt, and for the prior, so that three votes that agree do not pass for certainty;
with two variants and one vote a prompt this is the Jeffreys interval. Without prior the fit equals `evalica.newman`
(tested). All rounds are fitted at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.errors import UsageError
from workbench.preferences.shares import votes_needed, wilson
from workbench.preferences.votes import Comparisons
from workbench.records import Interval, Rating, Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PRIOR = 1.0
"""Wins either way that are taken for granted, shared out over a variant's possible opponents and itself."""
_NO_TIES = -80.0
"""log 2ν where nothing was tied."""
ROUNDS = 300
"""Bootstrap rounds."""


class PairRate(Record):
    """How two variants did against each other."""

    better: str
    """Variant id of the one with at least half of the votes."""
    worse: str
    """Variant id of the other."""
    wins: int
    """Votes for the better."""
    losses: int
    """Votes for the worse."""
    ties: int
    """Votes for neither."""
    share: Interval
    """Share of the better, ties counted half, with Wilson interval; n counts ties too."""
    needed: int | None
    """Decisive votes it takes to tell the share seen so far from a coin; None where it is one half."""
    distinguishable: bool
    """Whether there are as many decisive votes as that."""

    @property
    def still_needed(self) -> int | None:
        """Decisive votes that are missing; None where the share seen so far is one half."""
        return None if self.needed is None else max(0, self.needed - self.wins - self.losses)


def count_outcomes(
    comparisons: Comparisons, weights: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Win and tie matrices.

    Args:
        comparisons: n comparisons of V variants.
        weights: weight of each prompt, (rounds, prompts); all 1 when None.

    Returns:
        Wins (rounds, V, V), row over column, and ties (rounds, V, V), symmetric. One round without weights.
    """
    import numpy as np

    size, prompts = len(comparisons.variants), max(1, comparisons.prompts)
    cells = size * size
    tied = comparisons.outcome == 0.5
    won = comparisons.outcome == 1.0
    winner = np.where(won, comparisons.first, comparisons.second)
    loser = np.where(won, comparisons.second, comparisons.first)
    cell = winner * size + loser + cells * tied
    # Equal comparisons of one prompt are one entry with a count, so that a round costs no more than it must.
    entry, count = np.unique(comparisons.prompt * (2 * cells) + cell, return_counts=True)
    prompt, place = entry // (2 * cells), entry % (2 * cells)
    weights = np.ones((1, prompts)) if weights is None else weights
    sums = np.stack(
        [np.bincount(place, count * each[prompt], minlength=2 * cells) for each in weights], dtype=np.float64
    )
    wins = sums[:, :cells].reshape(-1, size, size)
    ties = sums[:, cells:].reshape(-1, size, size)
    return wins, ties + ties.transpose(0, 2, 1)


def fit_bradley_terry(
    wins: NDArray[np.float64],
    ties: NDArray[np.float64],
    *,
    start: NDArray[np.float64] | None = None,
    tolerance: float = 1e-9,
    limit: int = 200,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit Bradley–Terry with ties by Newton's method, many tables at once.

    i beats j with probability πᵢ/D and ties with it with 2ν√(πᵢπⱼ)/D, where D = πᵢ + πⱼ + 2ν√(πᵢπⱼ).

    Args:
        wins: (rounds, V, V), wins of the row over the column; need not be whole numbers.
        ties: (rounds, V, V), symmetric, each tie counted on both sides.
        start: log strengths to begin with, (V).
        tolerance: largest change of a parameter at which the fit ends.
        limit: most steps.

    Returns:
        Log strengths (rounds, V), mean 0 in each round, and ν (rounds). Where a strength has no bound (no prior, and a
        variant that never lost), it is stopped at 40.
    """
    import numpy as np

    rounds, size, _ = wins.shape
    games = wins + wins.transpose(0, 2, 1) + ties
    tied = ties.sum(axis=(1, 2)) / 2
    point = np.zeros((rounds, size + 1))
    if start is not None:
        point[:, :size] = start
    point[:, size] = np.where(tied > 0, 0.0, _NO_TIES)
    won = (wins + ties / 2).sum(axis=2)
    ridge = 1e-12 * np.eye(size + 1)
    for _ in range(limit):
        win, tie = _outcome_chances(point)
        mean = win + tie / 2
        spread = games * (win + tie / 4 - mean**2)
        mixed = games * tie * (0.5 - mean)
        slope = np.empty((rounds, size + 1))
        slope[:, :size] = won - (games * mean).sum(axis=2)
        slope[:, size] = tied - (games * tie).sum(axis=(1, 2)) / 2
        bend = np.zeros((rounds, size + 1, size + 1))
        bend[:, :size, :size] = -spread
        bend[:, range(size), range(size)] = spread.sum(axis=2)
        bend[:, :size, size] = bend[:, size, :size] = mixed.sum(axis=2)
        bend[:, size, size] = (games * tie * (1 - tie)).sum(axis=(1, 2)) / 2
        # Strengths are told up to a constant: the mean of each round is held at 0 by one more term.
        bend[:, :size, :size] += bend[:, range(size), range(size)].max(axis=1)[:, None, None] / size + 1e-12
        step = np.linalg.solve(bend + ridge, slope[:, :, None])[:, :, 0]
        step = np.clip(step, -1.5, 1.5)
        step[tied == 0, size] = 0.0
        new = np.clip(point + step, [*[-40.0] * size, _NO_TIES], 40.0)
        new[:, :size] -= new[:, :size].mean(axis=1, keepdims=True)
        change = float(np.abs(new - point).max(initial=0.0))
        point = new
        if change < tolerance:
            break
    return point[:, :size], np.exp(point[:, size]) / 2


def _outcome_chances(point: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Chance of a win of the row and of a tie, (rounds, V, V) each; `point` holds log strengths and log 2ν."""
    import numpy as np

    half = (point[:, :-1, None] - point[:, None, :-1]) / 2
    top = np.maximum(np.abs(half), point[:, -1, None, None])  # keeps the largest power at e⁰
    up, down, even = np.exp(half - top), np.exp(-half - top), np.exp(point[:, -1, None, None] - top)
    total = up + down + even
    return up / total, even / total


def rate_variants(
    comparisons: Comparisons, *, rounds: int = ROUNDS, seed: int = 0, confidence: float = 0.95, prior: float = PRIOR
) -> list[Rating]:
    """Fit each variant's strength with an interval over prompts, the strongest first.

    Args:
        comparisons: comparisons of V variants.
        rounds: bootstrap rounds, 1 or more.
        seed: the same seed and comparisons give the same intervals.
        confidence: between 0 and 1.
        prior: wins either way taken for granted, divided by V for each pair; 0 for none.

    Raises:
        UsageError: an argument is out of bounds.
    """
    import numpy as np

    if rounds < 1 or not 0 < confidence < 1 or prior < 0:
        raise UsageError("rounds ≥ 1, 0 < confidence < 1 and prior ≥ 0", value=(rounds, confidence, prior))
    size = len(comparisons.variants)
    if not comparisons.first.size:
        return []
    apart = 1 - np.eye(size)
    wins, ties = count_outcomes(comparisons)
    point, _ = fit_bradley_terry(wins + apart * prior / size, ties)
    random = np.random.default_rng(seed)
    drawn_wins, drawn_ties = count_outcomes(comparisons, random.standard_exponential((rounds, comparisons.prompts)))
    if prior:
        drawn_wins = drawn_wins + apart * random.gamma(prior / size, size=(rounds, size, size))
    strength = point[0]
    others, _ = fit_bradley_terry(drawn_wins, drawn_ties, start=strength, tolerance=1e-4)
    tail = (1 - confidence) / 2
    low, high = np.quantile(others, [tail, 1 - tail], axis=0)
    low, high = np.minimum(low, strength), np.maximum(high, strength)
    played = (wins[0] + wins[0].T + ties[0]).sum(axis=1)
    won = (wins[0] + ties[0] / 2).sum(axis=1)
    return [
        Rating(
            variant_id=comparisons.variants[index],
            strength=float(strength[index]),
            low=float(low[index]),
            high=float(high[index]),
            rank=1 + int((low > high[index]).sum()),
            comparisons=int(played[index]),
            wins=float(won[index]),
        )
        for index in np.argsort(-strength, kind="stable")
    ]


def rate_pairs(comparisons: Comparisons) -> list[PairRate]:
    """Win rate of each pair of variants that met, the clearest first."""
    if not comparisons.first.size:
        return []
    wins, ties = (table[0] for table in count_outcomes(comparisons))
    found = []
    for a, name in enumerate(comparisons.variants):
        for b in range(a + 1, len(comparisons.variants)):
            won, lost, tied = int(wins[a, b]), int(wins[b, a]), int(ties[a, b])
            if won + lost + tied:
                other = comparisons.variants[b]
                found.append(pair_rate(name, other, won, lost, tied))
    return sorted(found, key=lambda pair: (not pair.distinguishable, -pair.share.value, -pair.share.n))


def pair_rate(a: str, b: str, wins: int, losses: int, ties: int) -> PairRate:
    """How two variants did against each other.

    Args:
        a: one variant.
        b: the other.
        wins: votes for a.
        losses: votes for b.
        ties: votes for neither.

    Raises:
        UsageError: there is no vote at all, or a count is negative.
    """
    if wins < losses:
        return pair_rate(b, a, losses, wins, ties)
    decisive = wins + losses
    needed = votes_needed(wins / decisive) if decisive else None
    return PairRate(
        better=a,
        worse=b,
        wins=wins,
        losses=losses,
        ties=ties,
        share=wilson(wins + ties / 2, wins + losses + ties),
        needed=needed,
        distinguishable=needed is not None and decisive >= needed,
    )
