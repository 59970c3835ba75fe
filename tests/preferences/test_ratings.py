"""Win rates, strengths, agreement and audits: equal to evalica and scipy, and honest on odd votes."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import evalica
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import binom, binomtest, kendalltau, norm

from tests.preferences.voting import as_votes, ballots
from workbench.errors import UsageError
from workbench.preferences.agreement import krippendorff, measure_agreement
from workbench.preferences.audits import binomial_tail, find_cycles, measure_steadiness, share_first
from workbench.preferences.leaderboard import build_leaderboard, tell_pair
from workbench.preferences.ratings import (
    count_outcomes,
    fit_bradley_terry,
    pair_rate,
    rate_pairs,
    rate_variants,
)
from workbench.preferences.shares import votes_needed, wilson
from workbench.preferences.votes import UNUSABLE, Ballot, Comparisons, compare_variants

NAMES = "abcdefghi"


def comparisons(seed: int, variants: int = 4, n: int = 300, prompts: int = 40) -> Comparisons:
    generator = np.random.default_rng(seed)
    first = generator.integers(0, variants, n)
    second = (first + generator.integers(1, variants, n)) % variants
    outcome = generator.choice([0.0, 0.5, 1.0], n, p=[0.25, 0.2, 0.55])
    return Comparisons(tuple(NAMES[:variants]), first, second, outcome, generator.integers(0, prompts, n), prompts)


def by_evalica(told: Comparisons, *, prior: float = 0.0) -> tuple[np.ndarray, float]:
    winners = {1.0: evalica.Winner.X, 0.5: evalica.Winner.Draw, 0.0: evalica.Winner.Y}
    xs = [told.variants[each] for each in told.first]
    ys = [told.variants[each] for each in told.second]
    outcomes = [winners[each] for each in told.outcome]
    weights = [1.0] * len(xs)
    if prior:
        for one in told.variants:
            for other in told.variants:
                if one != other:
                    xs.append(one)
                    ys.append(other)
                    outcomes.append(evalica.Winner.X)
                    weights.append(prior / len(told.variants))
    result = evalica.newman(xs, ys, outcomes, weights=weights, tolerance=1e-12, limit=10_000)
    log = np.log(result.scores[list(told.variants)].to_numpy())
    return log - log.mean(), result.v


@pytest.mark.parametrize("seed", range(5))
def test_strengths_and_the_tie_parameter_equal_evalicas(seed: int) -> None:
    told = comparisons(seed)
    log, nu = fit_bradley_terry(*count_outcomes(told))
    expected, expected_nu = by_evalica(told)
    np.testing.assert_allclose(log[0], expected, atol=1e-6)
    assert nu[0] == pytest.approx(expected_nu, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_ratings_equal_evalicas_with_the_same_prior(seed: int) -> None:
    told = comparisons(seed, n=40)
    rated = {rating.variant_id: rating.strength for rating in rate_variants(told, rounds=5)}
    np.testing.assert_allclose([rated[name] for name in told.variants], by_evalica(told, prior=1.0)[0], atol=1e-6)


def test_the_fit_is_the_maximum_where_one_variant_nearly_always_wins() -> None:
    wins = np.array([[[0, 20, 1e-3], [0, 0, 4.6], [1e-3, 0.03, 0]]])

    def loss(point: np.ndarray) -> float:
        apart = point[:, None] - point[None, :]
        return float((wins[0] * np.logaddexp(0, -apart)).sum())

    log, _ = fit_bradley_terry(wins, np.zeros_like(wins))
    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"maxiter": 20_000, "fatol": 1e-14})
    assert loss(log[0]) <= best.fun + 1e-9


def test_wilson_equals_scipy_and_takes_halves() -> None:
    for k, n in ((0, 1), (1, 1), (7, 20), (500, 1000)):
        told, expected = wilson(k, n), binomtest(k, n).proportion_ci(method="wilson")
        assert (told.low, told.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert wilson(7.5, 15).value == 0.5
    with pytest.raises(UsageError):
        wilson(3, 2)


def test_votes_needed_are_the_published_figures() -> None:
    assert [votes_needed(share / 100) for share in (55, 60, 65, 70, 75)] == [783, 194, 85, 47, 29]
    assert votes_needed(0.45) == 783 and votes_needed(0.5) is None and votes_needed(0.5 + 1e-12) is None
    with pytest.raises(UsageError):
        votes_needed(1.2)


def test_so_many_votes_give_the_power_they_promise() -> None:
    for share in (0.6, 0.7):
        n = votes_needed(share) or 0
        wins = np.arange(n + 1)
        decides = np.abs(wins / n - 0.5) > norm.ppf(0.975) * 0.5 / math.sqrt(n)
        assert binom.pmf(wins, n, share)[decides].sum() == pytest.approx(0.8, abs=0.05)


def test_the_same_seed_gives_the_same_intervals_and_more_prompts_narrower_ones() -> None:
    few, many = comparisons(1, n=60, prompts=20), comparisons(1, n=3000, prompts=1000)
    assert rate_variants(few, seed=3) == rate_variants(few, seed=3) != rate_variants(few, seed=4)
    width = [np.mean([rating.high - rating.low for rating in rate_variants(told)]) for told in (few, many)]
    assert width[1] < 0.3 * width[0]


def test_intervals_are_over_prompts_so_more_comparisons_of_the_same_prompts_do_not_narrow_them() -> None:
    told = comparisons(2, n=80, prompts=10)
    tripled = Comparisons(
        told.variants, *(np.tile(each, 30) for each in (told.first, told.second, told.outcome, told.prompt)), 10
    )
    width = [np.mean([rating.high - rating.low for rating in rate_variants(each)]) for each in (told, tripled)]
    assert width[1] > 0.6 * width[0]


def test_intervals_of_two_variants_cover_as_a_jeffreys_interval_does() -> None:
    told = Comparisons(
        ("a", "b"), np.zeros(30, int), np.ones(30, int), np.array([1.0] * 20 + [0.0] * 10), np.arange(30), 30
    )
    best = rate_variants(told, rounds=4000)[0]
    shares = [1 / (1 + math.exp(-2 * each)) for each in (best.low, best.high)]
    from scipy.stats import beta

    assert shares == [pytest.approx(each, abs=0.02) for each in beta(20.5, 10.5).ppf([0.025, 0.975])]


def test_one_vote_tells_nothing_apart() -> None:
    board = build_leaderboard(as_votes(ballots([("Ada", "q", [0, 1])]), 2))
    assert [rating.rank for rating in board.ratings] == [1, 1]
    assert all(math.isfinite(each) for rating in board.ratings for each in (rating.strength, rating.low, rating.high))
    assert board.conclusions == (
        "a and b are not distinguishable yet: 1 to 0 in 1 decisive votes; "
        "if that holds, it takes about 3 more to tell.",
    )
    assert "No two variants are distinguishable yet." in board.notes


def test_all_ties_are_even() -> None:
    board = build_leaderboard(as_votes(ballots([("Ada", f"q{n}", [0, 0]) for n in range(30)]), 2))
    assert [(rating.rank, round(rating.strength, 6), rating.wins) for rating in board.ratings] == [(1, 0.0, 15)] * 2
    assert board.pairs[0].share.value == 0.5 and board.pairs[0].needed is None
    assert board.conclusions == ("a and b are not distinguishable yet: all 30 votes are ties.",)


def test_no_votes_at_all_is_said() -> None:
    board = build_leaderboard(as_votes([], 2))
    assert board.ratings == () and board.notes == ("There are no votes yet.",)


def test_a_clear_winner_is_told_with_share_and_interval() -> None:
    board = build_leaderboard(as_votes(ballots([("Ada", f"q{n}", [n % 4 == 0, n % 4 != 0]) for n in range(60)]), 2))
    assert [(rating.variant_id, rating.rank) for rating in board.ratings] == [("a", 1), ("b", 2)]
    assert board.conclusions[0].startswith("a is preferred to b: 75% of 60 votes (63% to 84%")


def test_contradicting_votes_cancel_and_are_counted() -> None:
    cast = [
        (who, f"q{n}", [n % 2 != side, n % 2 == side]) for n in range(20) for side, who in enumerate(("Ada", "Ben"))
    ]
    board = build_leaderboard(as_votes(ballots(cast), 2))
    assert board.pairs[0].share.value == 0.5 and not board.pairs[0].distinguishable
    assert board.agreement.contradicted == 20 and board.agreement.tau == -1
    assert board.agreement.same is not None and board.agreement.same.value == 0
    assert board.agreement.alpha_pairs is not None and board.agreement.alpha_pairs < 0


def test_votes_on_groups_that_never_met_are_noted() -> None:
    first = ballots([("Ada", f"q{n}", [0, 1]) for n in range(9)])
    votes = as_votes(first, 2)
    other = ballots([("Ada", f"z{n}", [0, 1]) for n in range(9)])
    votes.writers.update({each: "cd"[int(each[-1])] for ballot in other for each in ballot.levels})
    joined = type(votes)((*first, *other), votes.writers, {}, 9)
    assert any("never met" in note for note in build_leaderboard(joined).notes)


def test_unusable_answers_lose_to_all_but_not_to_each_other_and_merged_ones_tie() -> None:
    cast = ballots([("Ada", "q", [0, UNUSABLE, UNUSABLE])])
    votes = as_votes(cast, 3)
    told = compare_variants(votes)
    wins, ties = count_outcomes(told)
    named = {name: number for number, name in enumerate(told.variants)}
    assert wins[0, named["a"]].sum() == 2 and ties.sum() == 0 and wins.sum() == 2
    twin = type(votes)(votes.ballots, votes.writers | {"twin": "d"}, {"q-0": ("twin",)}, 1)
    wins, ties = count_outcomes(compare_variants(twin))
    assert wins.sum() == 4 and ties.sum() == 2


def test_answers_of_one_variant_are_not_compared_with_each_other() -> None:
    cast = ballots([("Ada", "q", [0, 1])])
    votes = as_votes(cast, 2)
    votes.writers.update(dict.fromkeys(votes.writers, "a"))
    board = build_leaderboard(votes)
    assert board.ratings == () and board.notes == (
        "No vote compares two different variants, so there is nothing to rate.",
    )


def test_a_pair_is_named_after_the_better_and_needs_votes() -> None:
    pair = pair_rate("x", "y", 2, 8, 0)
    assert (pair.better, pair.wins, pair.losses, pair.share.value) == ("y", 8, 2, 0.8)
    assert "preferred" not in tell_pair(pair, {"y": "Größe", "x": "名前"})
    even = tell_pair(pair_rate("x", "y", 4, 4, 1), {})
    assert even.endswith("4 to 4 in 8 decisive votes, an even split.")
    with pytest.raises(UsageError):
        pair_rate("x", "y", 0, 0, 0)
    assert rate_pairs(comparisons(0))[0].share.value >= 0.5


# ---- agreement ----

levels = st.lists(st.integers(0, 3), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(levels, levels), min_size=1, max_size=6))
def test_kendall_tau_equals_scipys(both: list[tuple[list[int], list[int]]]) -> None:
    cast = [(who, f"q{n}", each) for n, pair in enumerate(both) for who, each in zip(("Ada", "Ben"), pair, strict=True)]
    expected = [kendalltau(a, b).statistic for a, b in both if len(set(a)) > 1 and len(set(b)) > 1]
    told = measure_agreement(ballots(cast)).tau
    assert told is None if not expected else told == pytest.approx(float(np.mean(expected)))


def test_alpha_is_evalicas_on_a_published_example() -> None:
    # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: nominal α = 0.743, ordinal α = 0.815.
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    items = [{f"rater {n}": (row[unit],) for n, row in enumerate(rows) if row[unit] is not None} for unit in range(12)]
    assert krippendorff(items, "nominal") == pytest.approx(0.743, abs=5e-4)  # type: ignore[arg-type]
    assert krippendorff(items, "ordinal") == pytest.approx(0.815, abs=5e-4)  # type: ignore[arg-type]
    assert krippendorff([{"Ada": (1, 2)}], "nominal") is None


def test_agreement_of_raters_who_rank_alike_is_full_and_of_one_rater_unknown() -> None:
    cast = [(who, f"q{n}", [0, 1, 2]) for n in range(4) for who in ("Ada", "Ben", "Cleo")]
    told = measure_agreement(ballots(cast))
    assert (told.alpha_pairs, told.alpha_ranks, told.tau, told.items, told.raters) == (1, 1, 1, 4, 3)
    assert len(told.pairs) == 3 and told.same is not None and told.same.n == 36
    alone = measure_agreement(ballots([("Ada", "q", [0, 1])]))
    assert (alone.items, alone.alpha_pairs, alone.same) == (0, None, None)


def test_alpha_over_pairs_equals_a_table_built_by_hand() -> None:
    generator = random.Random(0)
    cast = [
        (who, f"q{n}", [generator.randrange(3) for _ in range(3)]) for n in range(20) for who in ("Ada", "Ben", "Cleo")
    ]
    made = ballots(cast)
    rows: dict[str, list[int]] = {}
    for ballot in made:
        a, b, c = ballot.levels.values()
        pairs = ((a, b), (a, c), (b, c), (b, a), (c, a), (c, b))
        rows.setdefault(ballot.rater, []).extend(int(np.sign(y - x)) for x, y in pairs)
    expected = evalica.alpha(pd.DataFrame(list(rows.values())), distance="nominal").alpha
    assert measure_agreement(made).alpha_pairs == pytest.approx(expected)


def test_alpha_over_pairs_does_not_depend_on_which_answer_of_a_pair_stands_first() -> None:
    # The second answer is the better one for both raters, but for one prompt in five of each.
    told = {who: [[0, 1] if n % 5 == apart else [1, 0] for n in range(40)] for who, apart in (("Ada", 0), ("Ben", 1))}
    cast = [(who, f"q{n}", levels) for who, rows in told.items() for n, levels in enumerate(rows)]
    turned = [(who, item, levels[::-1] if int(item[1:]) % 2 else levels) for who, item, levels in cast]
    alike, mixed = (measure_agreement(ballots(each)).alpha_pairs for each in (cast, turned))
    assert alike == pytest.approx(mixed)
    assert alike == pytest.approx(0.2, abs=0.02)  # 60 % alike, where a coin would give 50 %


# ---- audits ----


def always_first(n: int, rater: str = "Zoë") -> list[Ballot]:
    return ballots([(rater, f"q{number}", [1, 0]) for number in range(n)], shown=(1, 0))


def test_a_vote_on_a_single_answer_says_nothing_of_the_pull_of_the_first() -> None:
    alone = ballots([("Ada", "q", [0])], shown=(0,))
    assert build_leaderboard(as_votes(alone, 1)).positions == ()
    assert len(build_leaderboard(as_votes([*alone, *always_first(3)], 2)).positions) == 2


def test_a_rater_who_always_takes_the_first_is_flagged_by_name() -> None:
    fair = ballots([("Ada", f"q{n}", [n % 2, 1 - n % 2]) for n in range(20)])
    board = build_leaderboard(as_votes([*always_first(12), *fair], 2))
    assert board.flagged == ("Zoë",)
    shares = {share.rater: share for share in board.positions}
    assert shares["Zoë"].first.value == 1 and shares["Ada"].first.value == 0.5
    everybody = shares[None].first
    assert (everybody.value, everybody.n) == (22 / 32, 32)
    assert any("Zoë ranked the first displayed answer best in 100% of 12 votes" in note for note in board.notes)
    assert build_leaderboard(as_votes(always_first(4), 2)).flagged == ()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.floats(0.05, 0.95), st.data())
def test_the_binomial_tail_equals_scipys(n: int, p: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    assert binomial_tail(k, n, p) == pytest.approx(
        binomtest(k, n, p, alternative="greater").pvalue, rel=1e-6, abs=1e-12
    )


def test_ties_for_the_best_place_say_nothing_about_position() -> None:
    assert share_first(ballots([("Ada", "q", [0, 0])])) == []


def test_hidden_repeats_measure_steadiness_and_count_nowhere_else() -> None:
    first = ballots([("Ada", "q1", [0, 1, 2]), ("Ada", "q2", [0, 1, 2])])
    again = [
        Ballot(
            each.item_id,
            each.prompt,
            each.rater,
            each.shown[::-1],
            dict(zip(each.levels, told, strict=True)),
            False,
            True,
        )
        for each, told in zip(first, ([0, 1, 2], [0, 2, 1]), strict=True)
    ]
    steady = measure_steadiness([*first, *again])
    assert [(each.rater, each.repeats) for each in steady] == [("Ada", 2)]
    assert steady[0].same is not None and (steady[0].same.value, steady[0].same.n) == (5 / 6, 6)
    board = build_leaderboard(as_votes([*first, *again], 3))
    assert (board.votes, board.ratings[0].comparisons) == (2, 4)


def test_a_cycle_of_majorities_is_found_once() -> None:
    orders: Sequence[Sequence[int]] = ([0, 1, 2], [2, 0, 1], [1, 2, 0])
    board = build_leaderboard(as_votes(ballots([("Ada", f"q{n}", orders[n % 3]) for n in range(9)]), 3))
    assert board.cycles == (("a", "b", "c"),)
    assert find_cycles(comparisons(0, variants=3), np.array([[0, 2, 2], [1, 0, 2], [1, 1, 0]])) == []


def test_ten_thousand_votes_of_several_raters_are_concluded() -> None:
    generator = random.Random(0)
    cast = ballots(
        [
            (f"rater {n % 7}", f"q{n // 2}", sorted(range(3), key=lambda place: generator.gauss(place, 1.5)))
            for n in range(10_000)
        ]
    )
    board = build_leaderboard(as_votes(cast, 3))
    assert (board.votes, board.prompts, len(board.raters), board.agreement.items) == (10_000, 5_000, 7, 5_000)
    assert [(rating.variant_id, rating.rank) for rating in board.ratings] == [("a", 1), ("b", 2), ("c", 3)]
    assert all(pair.distinguishable for pair in board.pairs) and not board.cycles
