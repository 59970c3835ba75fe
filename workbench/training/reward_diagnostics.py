"""What a reward model's scores are worth: accuracy on held-out pairs, calibration, length, distributions, mistakes.

Pure functions from scores to records; `reward_report` calls them and keeps what they find. Yardsticks are from Ouyang
et al. 2022: labelers agreed 72.6 ± 1.5 % of the time with each other, held-out labelers 77.3 ± 1.3 %, and a reward
model with labelers it had not learned from about 69.6 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.preferences.intervals import bootstrap_mean
from workbench.preferences.shares import wilson
from workbench.records import Interval, Record
from workbench.training.reward_rows import RankedPrompt, RankedPrompts

ROUNDS = 1000
MOST_SCORES = 500
MOST_WRONG = 25
BIN_EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
Floats = NDArray[np.float64]


class Yardstick(Record):
    """How far raters agree with each other, measured on the rankings that the pairs come from."""

    same: Interval
    """Share of pairs of answers that two raters order alike."""
    raters: int
    """People who ranked an item that another ranked too."""
    items: int
    """Such items."""


class CalibrationBin(Record):
    """Held-out pairs of about one predicted probability."""

    predicted: float
    """Mean of σ(|r_a − r_b|): how sure the model is that the answer it prefers is the better one."""
    observed: Interval
    """Share of them in which raters prefer that answer."""


class Distribution(Record):
    """Rewards of one group of answers."""

    scores: tuple[float, ...]
    """At most `MOST_SCORES` of them."""
    mean: Interval
    """Their mean with its bootstrap interval."""


class Correlation(Record):
    """How far two figures go together."""

    value: float
    """Between −1 and 1."""
    low: float
    """Lower bound (Fisher's z, 95 %)."""
    high: float
    """Upper bound."""
    n: int
    """Answers."""


class LengthBias(Record):
    """Whether longer answers get higher rewards, on held-out answers."""

    spearman: Correlation
    """Rank correlation of reward and length in tokens."""
    pearson: Correlation
    """Linear correlation."""
    within_prompts: Correlation | None = None
    """Rank correlation after each prompt's mean is taken off; None where each prompt has one answer."""
    longer_wins: Interval | None = None
    """Share of held-out pairs in which raters prefer the longer answer: what length alone would get right."""


class WrongPair(Record):
    """A held-out pair that the model orders the other way round."""

    row_ids: tuple[str, ...]
    """Rows of the dataset."""
    prompt: str
    """What was asked last."""
    chosen: str
    """The answer raters prefer."""
    rejected: str
    """The other."""
    chosen_reward: float
    """Reward of the first."""
    rejected_reward: float
    """Reward of the second."""
    confidence: int | None = None
    """How sure the rater was."""
    raters: tuple[str, ...] = ()
    """Who preferred it."""
    k: int
    """Answers of the prompt."""

    @property
    def margin(self) -> float:
        """Reward of the preferred answer less the other's; negative."""
        return self.chosen_reward - self.rejected_reward


class RewardReport(Record):
    """What is known of a reward model."""

    run_id: str
    """The run."""
    prompts: int = 0
    """Held-out prompts."""
    pairs: int = 0
    """Held-out pairs."""
    training_prompts: int = 0
    """Prompts it learned from."""
    training_pairs: int = 0
    """Pairs it learned from."""
    left_out: dict[str, int] = {}
    """Training rows left out, by why."""
    loss: float | None = None
    """Held-out loss per ranking."""
    accuracy: Interval | None = None
    """Share of held-out pairs in the right order; interval by bootstrap over prompts."""
    by_confidence: dict[str, Interval] = {}
    """The same by how sure raters were."""
    by_k: dict[str, Interval] = {}
    """The same by the number of answers of the prompt."""
    agreement: Yardstick | None = None
    """What raters themselves reach; None where no two ranked the same."""
    calibration: tuple[CalibrationBin, ...] = ()
    """From the least to the most certain pairs."""
    calibration_error: float | None = None
    """Mean distance between predicted and observed, weighted by pairs."""
    distributions: dict[str, Distribution] = {}
    """Rewards by group of answers; the bias is taken off."""
    length: LengthBias | None = None
    """Reward and length."""
    wrong: tuple[WrongPair, ...] = ()
    """The pairs it gets most wrong, the worst first."""
    demonstrations: dict[str, float] = {}
    """`n`, mean score `before` the bias with its `spread`, and `after`."""
    warnings: tuple[str, ...] = ()
    """What speaks against trusting it, in plain words."""
    notes: tuple[str, ...] = ()
    """What else is to be known about the figures."""


@dataclass(frozen=True)
class PairScores:
    """Scores of all answers of some prompts, without the bias, beside their pairs."""

    prompts: tuple[RankedPrompt, ...]
    """The prompts."""
    scores: tuple[tuple[float, ...], ...]
    """Score of each answer, prompt by prompt."""

    @classmethod
    def of(cls, ranked: RankedPrompts, flat: Sequence[float]) -> PairScores:
        """Scores of all answers, one prompt after the other."""
        scores, start = [], 0
        for item in ranked.prompts:
            scores.append(tuple(flat[start : start + len(item.answers)]))
            start += len(item.answers)
        return cls(ranked.prompts, tuple(scores))

    def margins(self) -> Floats:
        """For each pair the score of the better answer less that of the worse: [pairs]."""
        return np.array(
            [
                told[pair.better] - told[pair.worse]
                for item, told in zip(self.prompts, self.scores, strict=True)
                for pair in item.pairs
            ]
        )

    def column(self, name: str) -> NDArray[Any]:
        """One figure for each pair.

        Args:
            name: `prompt` (its number), `weight`, `count` (rows), `confidence` (0 unknown), `k`, or `longer` (1 where
                the better answer is the longer one, one half where neither is).
        """
        values: list[float] = []
        for number, item in enumerate(self.prompts):
            for pair in item.pairs:
                better, worse = item.answers[pair.better].tokens, item.answers[pair.worse].tokens
                told = {
                    "prompt": number,
                    "weight": pair.weight,
                    "count": len(pair.row_ids),
                    "confidence": pair.confidence or 0,
                    "k": len(item.answers),
                    "longer": 0.5 * (better >= worse) + 0.5 * (better > worse),
                }
                values.append(told[name])
        return np.array(values)

    @property
    def votes(self) -> int:
        """Rankings the pairs come from."""
        return sum(item.votes for item in self.prompts)


# Figures ------------------------------------------------------------------------------------------------------------


def pair_loss(scored: PairScores) -> float:
    """Mean over rankings of Σ −w · log σ(margin), as it is trained."""
    losses = np.logaddexp(0.0, -scored.margins())
    return float((scored.column("weight") * losses).sum() / max(1, scored.votes))


def pair_accuracy(scored: PairScores) -> float:
    """Share of pairs in the right order; a tie of scores counts half."""
    count = scored.column("count")
    return float((count * right_order(scored.margins())).sum() / count.sum())


def right_order(margins: Floats) -> Floats:
    """1 where the better answer scores higher, 0 where lower, one half where both score the same."""
    right: Floats = (margins > 0) + 0.5 * (margins == 0)
    return right


def clustered_share(
    right: Floats, count: Floats, cluster: NDArray[Any], *, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """A share over pairs with a percentile bootstrap interval over prompts, because pairs of a prompt hang together.

    Where resampling cannot move the share (one prompt, or all right, or all wrong), Wilson's interval over prompts
    stands in, which does not pretend to be certain.

    Args:
        right: [pairs], between 0 and 1.
        count: [pairs], how often each is counted.
        cluster: [pairs], the prompt's number.
        confidence: between 0 and 1, both excluded.
        seed: same seed, same interval.
    """
    _, number = np.unique(cluster, return_inverse=True)
    hits = np.bincount(number, weights=right * count)
    totals = np.bincount(number, weights=count)
    share, n = float(hits.sum() / totals.sum()), int(count.sum())
    clusters = len(totals)
    low = high = share
    if clusters > 1:
        drawn = np.random.default_rng(seed).integers(0, clusters, size=(ROUNDS, clusters))
        shares = hits[drawn].sum(axis=1) / totals[drawn].sum(axis=1)
        tail = (1 - confidence) / 2
        low, high = (float(value) for value in np.quantile(shares, [tail, 1 - tail]))
    if low == high:
        wide = wilson(share * clusters, clusters, confidence)
        low, high = wide.low, wide.high
    return Interval(value=share, low=min(low, share), high=max(high, share), n=n)


def shares_by(scored: PairScores, name: str) -> dict[str, Interval]:
    """Accuracy by the value of a column; pairs whose value is 0 (unknown) are left out.

    Args:
        scored: the pairs.
        name: `confidence` or `k`.
    """
    right, count = right_order(scored.margins()), scored.column("count")
    values, prompt = scored.column(name), scored.column("prompt")
    found = {}
    for value in sorted({int(value) for value in values if value > 0}):
        kept = values == value
        found[str(value)] = clustered_share(right[kept], count[kept], prompt[kept])
    return found


def calibration(margins: Floats, count: Floats, cluster: NDArray[Any]) -> tuple[tuple[CalibrationBin, ...], float]:
    """How often the answer the model prefers is the one raters prefer, by how sure the model is.

    The probability that it implies is σ(|margin|), at least one half (Bradley–Terry). Pairs with equal scores are in
    the first bin and count half.

    Args:
        margins: [pairs], score of the better answer less that of the worse.
        count: [pairs].
        cluster: [pairs], the prompt's number.

    Returns:
        The bins that hold a pair, and the mean distance between predicted and observed, weighted by pairs.
    """
    sure = 1 / (1 + np.exp(-np.abs(margins)))
    bins, error = [], 0.0
    for low, high in zip(BIN_EDGES, BIN_EDGES[1:], strict=False):
        inside = (sure >= low) & ((sure < high) | (high == 1.0))
        if not inside.any():
            continue
        weight = count[inside]
        predicted = float((sure[inside] * weight).sum() / weight.sum())
        observed = clustered_share(right_order(margins[inside]), weight, cluster[inside])
        bins.append(CalibrationBin(predicted=predicted, observed=observed))
        error += float(weight.sum()) * abs(predicted - observed.value)
    return tuple(bins), error / float(count.sum())


def ranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    shared: Floats = (ends - (counts - 1) / 2)[inverse]
    return shared


def pearson(a: Floats, b: Floats) -> Correlation | None:
    """Linear correlation with Fisher's z interval; None for fewer than four values, or where one does not vary.

    Args:
        a: [n].
        b: [n].
    """
    if len(a) < 4 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    value = float(np.clip(np.corrcoef(a, b)[0, 1], -1.0, 1.0))
    if abs(value) >= 1:
        return Correlation(value=value, low=value, high=value, n=len(a))
    middle, half = math.atanh(value), 1.959964 / math.sqrt(len(a) - 3)
    return Correlation(value=value, low=math.tanh(middle - half), high=math.tanh(middle + half), n=len(a))


def spearman(a: Floats, b: Floats) -> Correlation | None:
    """Rank correlation; see `pearson`."""
    return pearson(ranks(a), ranks(b))


def length_bias(scored: PairScores) -> LengthBias | None:
    """Reward against length in tokens over all answers; None where there are too few to tell."""
    scores = np.array([score for told in scored.scores for score in told])
    lengths = np.array([float(answer.tokens) for item in scored.prompts for answer in item.answers])
    by_rank, linear = spearman(scores, lengths), pearson(scores, lengths)
    if by_rank is None or linear is None:
        return None
    number = np.repeat(np.arange(len(scored.prompts)), [len(item.answers) for item in scored.prompts])
    sizes = np.bincount(number)
    centred = [values - (np.bincount(number, weights=values) / sizes)[number] for values in (scores, lengths)]
    several = (sizes > 1)[number]
    count, prompt = scored.column("count"), scored.column("prompt")
    return LengthBias(
        spearman=by_rank,
        pearson=linear,
        within_prompts=spearman(centred[0][several], centred[1][several]),
        longer_wins=clustered_share(scored.column("longer"), count, prompt) if len(count) else None,
    )


def distribution(scores: Sequence[float], *, seed: int = 0) -> Distribution:
    """Rewards of a group with the bootstrap interval of their mean.

    Args:
        scores: at least one.
        seed: same seed, same interval.
    """
    return Distribution(scores=tuple(map(float, scores[:MOST_SCORES])), mean=bootstrap_mean(scores, seed=seed))


def most_wrong(scored: PairScores, bias: float, *, most: int = MOST_WRONG) -> tuple[WrongPair, ...]:
    """The pairs whose preferred answer scores lowest against the other, the worst first."""
    found = []
    for item, told in zip(scored.prompts, scored.scores, strict=True):
        for pair in item.pairs:
            if told[pair.better] >= told[pair.worse]:
                continue
            found.append(
                WrongPair(
                    row_ids=pair.row_ids,
                    prompt=item.prompt[-1].content,
                    chosen=item.answers[pair.better].text,
                    rejected=item.answers[pair.worse].text,
                    chosen_reward=told[pair.better] - bias,
                    rejected_reward=told[pair.worse] - bias,
                    confidence=pair.confidence,
                    raters=pair.raters,
                    k=len(item.answers),
                )
            )
    return tuple(sorted(found, key=lambda pair: pair.margin)[:most])


def with_remarks(report: RewardReport, *, sources: Sequence[str]) -> RewardReport:
    """The report with its warnings and notes, in plain words.

    Args:
        report: the report.
        sources: where the rankings come from.
    """
    warnings, notes = [], []
    accuracy, agreement = report.accuracy, report.agreement
    if accuracy is None:
        notes.append("Nothing was held out, so nothing is known about answers it has not learned from.")
    else:
        if agreement is not None and accuracy.low > agreement.same.high:
            warnings.append(
                f"The held-out accuracy of {accuracy.value:.0%} lies far above what raters reach with each other, "
                f"{agreement.same.value:.0%}. That suggests leakage: held-out prompts or answers that were trained on."
            )
        elif agreement is None and accuracy.low > 0.85 and "scorer" not in sources:
            warnings.append(
                f"The held-out accuracy of {accuracy.value:.0%} is more than people reach with each other in published "
                "work (73 to 77 %). Look for leakage, or for a tell such as length."
            )
        if accuracy.low <= 0.5 <= accuracy.high:
            warnings.append("The held-out accuracy cannot be told from a coin: rank more answers before relying on it.")
        if report.prompts < 20:
            notes.append(f"Only {report.prompts} prompts are held out, so the intervals are wide.")
    if agreement is None:
        notes.append("No item was ranked by two people, so how far raters agree is not known.")
    if "scorer" in sources:
        notes.append("A scorer, not a person, gave rankings: agreement with it is no agreement with people.")
    if report.training_prompts == 1:
        notes.append("All training pairs answer one prompt.")
    length = report.length
    if length is not None and length.spearman.low > 0.5:
        warnings.append(
            f"Longer answers get higher rewards (rank correlation {length.spearman.value:.2f}): it may reward length."
        )
    return report.model_copy(update={"warnings": tuple(warnings), "notes": tuple(notes)})
