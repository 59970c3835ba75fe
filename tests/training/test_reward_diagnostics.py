import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.records import Interval, Message
from workbench.training import reward_diagnostics as diagnostics
from workbench.training.reward_diagnostics import PairScores, RewardReport, Yardstick
from workbench.training.reward_rows import Answer, Pair, RankedPrompt
from workbench.training.score import best_of_curve, best_of_kl, expected_best


def ranked(lengths, pairs, confidence=None):
    """A prompt with answers of these lengths and pairs (better, worse)."""
    return RankedPrompt(
        prompt=(Message(role="user", content="q"),),
        answers=tuple(Answer(ids=(place, 2), text=f"answer {place}", tokens=n) for place, n in enumerate(lengths)),
        pairs=tuple(
            Pair(better, worse, 1 / len(pairs), (f"row_{better}{worse}",), confidence) for better, worse in pairs
        ),
        votes=1,
    )


def scored(*items):
    return PairScores(tuple(item for item, _ in items), tuple(tuple(told) for _, told in items))


def test_accuracy_counts_pairs_and_half_of_ties():
    told = scored(
        (ranked([1, 2, 3], [(0, 1), (0, 2), (1, 2)]), [2.0, 1.0, 1.5]),
        (ranked([1, 2], [(0, 1)]), [0.5, 0.5]),
    )
    assert diagnostics.pair_accuracy(told) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert diagnostics.pair_loss(told) == pytest.approx(
        (
            (math.log1p(math.exp(-1)) + math.log1p(math.exp(-0.5)) + math.log1p(math.exp(0.5))) / 3 + math.log(2)
        ) / 2
    )  # fmt: skip


def test_the_interval_rests_on_prompts_and_not_on_their_many_pairs():
    few = diagnostics.clustered_share(np.array([1.0, 0.0] * 40), np.ones(80), np.repeat([0, 1, 2, 3], 20))
    many = diagnostics.clustered_share(np.array([1.0, 0.0] * 40), np.ones(80), np.arange(80))
    assert few.value == many.value == 0.5
    one_sided = diagnostics.clustered_share(np.repeat([1.0, 1.0, 0.0, 1.0], 20), np.ones(80), np.repeat(range(4), 20))
    spread = diagnostics.clustered_share(np.array([1.0, 1.0, 0.0, 1.0] * 20), np.ones(80), np.arange(80))
    assert one_sided.value == spread.value == 0.75
    assert one_sided.high - one_sided.low > 2 * (spread.high - spread.low)
    assert one_sided.n == 80


def test_all_right_is_not_certain():
    for prompts in ([0, 0, 0], [0, 1, 2]):
        told = diagnostics.clustered_share(np.ones(3), np.ones(3), np.array(prompts))
        assert told.value == told.high == 1.0
        assert told.low < 0.8


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=40))
def test_a_share_lies_within_its_interval(pairs):
    prompts, right = np.array([p for p, _ in pairs]), np.array([r for _, r in pairs])
    told = diagnostics.clustered_share(right, np.ones(len(pairs)), prompts)
    assert 0 <= told.low <= told.value <= told.high <= 1
    assert told.value == pytest.approx(right.mean())


def test_accuracy_by_confidence_leaves_out_what_no_rater_told():
    told = scored(
        (ranked([1, 2], [(0, 1)], confidence=5), [1.0, 0.0]),
        (ranked([1, 2], [(0, 1)], confidence=1), [0.0, 1.0]),
        (ranked([1, 2, 3], [(0, 1)]), [1.0, 0.0, 0.0]),
    )
    by = diagnostics.shares_by(told, "confidence")
    assert {key: share.value for key, share in by.items()} == {"1": 0.0, "5": 1.0}
    assert {key: share.n for key, share in diagnostics.shares_by(told, "k").items()} == {"2": 2, "3": 1}


def test_a_calibrated_model_has_a_small_error_and_an_overconfident_one_a_large():
    dice = np.random.default_rng(0)
    truth = dice.normal(0, 2, 4000)
    better_first = dice.random(4000) < 1 / (1 + np.exp(-truth))
    margins = np.where(better_first, truth, -truth)
    bins, error = diagnostics.calibration(margins, np.ones(4000), np.arange(4000))
    assert error < 0.03
    assert sum(each.observed.n for each in bins) == 4000
    assert all(0.5 <= each.predicted <= 1 for each in bins)
    _, worse = diagnostics.calibration(5 * margins, np.ones(4000), np.arange(4000))
    assert worse > 3 * error


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.floats(-3, 3)), min_size=5, max_size=40))
def test_correlations_are_scipys(pairs):
    from scipy import stats

    a, b = np.array([float(x) for x, _ in pairs]), np.array([y for _, y in pairs])
    found = diagnostics.pearson(a, b)
    if found is None:
        assert np.ptp(a) == 0 or np.ptp(b) == 0
        return
    if np.std(a) < 1e-6 or np.std(b) < 1e-6:
        return
    assert found.value == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-6)
    assert diagnostics.spearman(a, b).value == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-6)
    assert found.low <= found.value <= found.high


def test_a_reward_of_length_is_told():
    items = [(ranked([2, 9, 30], [(2, 0), (1, 0)]), [0.2, 0.9, 3.0]) for _ in range(20)]
    bias = diagnostics.length_bias(scored(*items))
    assert bias.spearman.value == pytest.approx(1.0)
    assert bias.within_prompts.value == pytest.approx(1.0)
    assert bias.longer_wins.value == 1.0
    report = RewardReport(run_id="r", prompts=20, pairs=40, training_prompts=9, length=bias)
    assert any("Longer answers get higher rewards" in note for note in remarks(report, sources=["rank"]))


def test_most_wrong_pairs_come_worst_first_with_rewards_less_the_bias():
    told = scored(
        (ranked([1, 2], [(0, 1)]), [0.0, 1.0]),
        (ranked([1, 2], [(1, 0)]), [5.0, 1.0]),
        (ranked([1, 2], [(0, 1)]), [5.0, 1.0]),
    )
    wrong = diagnostics.most_wrong(told, bias=1.0)
    assert [pair.margin for pair in wrong] == [-4.0, -1.0]
    assert (wrong[0].chosen, wrong[0].chosen_reward, wrong[0].rejected_reward) == ("answer 1", 0.0, 4.0)
    assert wrong[0].row_ids == ("row_10",)


def remarks(report, *, sources):
    told = diagnostics.with_remarks(report, sources=sources)
    return (*told.warnings, *told.notes)


def yardstick(share):
    return Yardstick(same=Interval(value=share, low=share - 0.03, high=share + 0.03, n=500), raters=3, items=80)


def test_accuracy_far_above_the_raters_own_agreement_warns_of_leakage():
    high = Interval(value=0.95, low=0.9, high=0.98, n=300)
    told = {"run_id": "r", "prompts": 60, "pairs": 300, "training_prompts": 300}
    warned = remarks(RewardReport(**told, accuracy=high, agreement=yardstick(0.73)), sources=["rank"])
    assert any("leakage" in note and "95%" in note and "73%" in note for note in warned)
    usual = Interval(value=0.7, low=0.65, high=0.75, n=300)
    assert not remarks(RewardReport(**told, accuracy=usual, agreement=yardstick(0.73)), sources=["rank"])
    alone = remarks(RewardReport(**told, accuracy=high), sources=["rank"])
    assert any("more than people reach" in note for note in alone)
    by_rule = remarks(RewardReport(**told, accuracy=high), sources=["scorer"])
    assert any("A scorer, not a person" in note for note in by_rule)
    assert not any("more than people" in note for note in by_rule)
    coin = Interval(value=0.52, low=0.45, high=0.6, n=300)
    assert any("coin" in note for note in remarks(RewardReport(**told, accuracy=coin), sources=[]))


# Best of n ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.data())
def test_the_expected_best_is_the_mean_over_all_ways_to_draw(rewards, data):
    from itertools import combinations

    n = data.draw(st.integers(1, len(rewards)))
    every = [max(drawn) for drawn in combinations(rewards, n)]
    assert expected_best(rewards, n) == pytest.approx(sum(every) / len(every), abs=1e-9)


def test_the_curve_rises_from_the_mean_to_the_best():
    rewards = [[0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 5.0, 0.0]]
    curve = best_of_curve(rewards)
    assert len(curve) == 4
    assert curve[0].value == pytest.approx((1.5 + 1.6) / 2)
    assert [point.value for point in curve] == sorted(point.value for point in curve)
    assert all(point.low <= point.value <= point.high for point in curve)
    (only,) = {point.n for point in curve}
    assert only == 2
    alone = best_of_curve([[0.0, 1.0, 2.0, 3.0]])
    assert alone[3].value == 3.0 and alone[0].value == 1.5
    assert alone[0].low < 1.5 < alone[0].high
    assert best_of_kl(1) == 0
    assert best_of_kl(4) == pytest.approx(math.log(4) - 0.75)
