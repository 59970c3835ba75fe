import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import UsageError
from workbench.training import batching
from workbench.training.batching import (
    marks,
    measure_run,
    padding_share,
    plan_epoch,
    plan_evaluation,
    plan_run,
)

LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=120)


@given(LENGTHS, st.integers(1, 1000), st.integers(0, 5), st.integers(0, 3))
def test_every_row_stands_in_exactly_one_batch_of_an_epoch(lengths, budget, seed, epoch):
    batches = plan_epoch(lengths, tokens_per_batch=budget, seed=seed, epoch=epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(batches)


@given(LENGTHS, st.integers(1, 1000), st.integers(0, 5))
def test_a_batch_keeps_to_the_token_budget_unless_it_is_one_long_row(lengths, budget, seed):
    for batch in plan_epoch(lengths, tokens_per_batch=budget, seed=seed, epoch=0):
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


@given(LENGTHS, st.integers(8, 1000), st.integers(0, 5), st.integers(0, 3))
def test_the_same_seed_epoch_and_lengths_give_the_same_batches(lengths, budget, seed, epoch):
    first = plan_epoch(lengths, tokens_per_batch=budget, seed=seed, epoch=epoch)
    assert first == plan_epoch(list(lengths), tokens_per_batch=budget, seed=seed, epoch=epoch)


def test_epochs_and_seeds_differ():
    lengths = [10 + row % 50 for row in range(200)]
    plans = [plan_epoch(lengths, tokens_per_batch=256, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert plans[0] != plans[1] != plans[2] != plans[0]


@given(LENGTHS, st.integers(1, 1000))
def test_evaluation_batches_hold_every_row_once(lengths, budget):
    batches = plan_evaluation(lengths, tokens_per_batch=budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))


@given(LENGTHS)
def test_the_padding_share_is_what_the_cells_say(lengths):
    batches = plan_epoch(lengths, tokens_per_batch=500, seed=0, epoch=0)
    cells = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert math.isclose(padding_share(batches, lengths), 1 - sum(lengths) / cells)


def test_rows_of_mixed_length_are_padded_far_less_than_in_the_order_they_come():
    lengths = [54 + (row * 379) % 1029 for row in range(96)]
    plain = [tuple(range(start, start + 4)) for start in range(0, 96, 4)]
    assert padding_share(plan_epoch(lengths, tokens_per_batch=2048, seed=0, epoch=0), lengths) < 0.12
    assert padding_share(plain, lengths) > 0.25


@settings(max_examples=60)
@given(LENGTHS, st.integers(8, 600), st.integers(1, 4), st.integers(1, 4))
def test_a_run_is_its_epochs_one_after_the_other(lengths, budget, accumulated, epochs):
    plan = plan_run(lengths, tokens_per_batch=budget, batches_per_step=accumulated, seed=3, epochs=epochs)
    expected = [
        batch for epoch in range(epochs) for batch in plan_epoch(lengths, tokens_per_batch=budget, seed=3, epoch=epoch)
    ]
    assert list(plan.batches) == expected
    assert plan.steps == math.ceil(len(expected) / accumulated)
    assert plan.tokens == epochs * sum(lengths)
    assert plan.epoch_at(plan.steps) == epochs
    assert plan.epoch_at(0) == 0


@given(LENGTHS, st.integers(8, 600), st.integers(1, 3), st.integers(1, 40))
def test_a_number_of_steps_is_kept_to_whatever_the_epochs(lengths, budget, accumulated, steps):
    plan = plan_run(lengths, tokens_per_batch=budget, batches_per_step=accumulated, seed=0, epochs=1, max_steps=steps)
    assert plan.steps == steps
    assert len(plan.batches) == steps * accumulated


@given(LENGTHS, st.integers(1, 5000))
def test_a_token_budget_is_not_exceeded_by_more_than_its_first_step(lengths, budget):
    whole = plan_run(lengths, tokens_per_batch=300, batches_per_step=2, seed=0, epochs=2)
    plan = plan_run(lengths, tokens_per_batch=300, batches_per_step=2, seed=0, epochs=2, max_tokens=budget)
    assert plan.steps >= 1
    assert plan.steps == 1 or plan.tokens <= budget
    assert plan.batches == whole.batches[: len(plan.batches)]
    if plan.steps < whole.steps:
        assert whole.tokens_after[plan.steps] > budget


def test_no_rows_make_no_steps():
    plan = plan_run([], tokens_per_batch=100, batches_per_step=2, seed=0, epochs=2)
    assert (plan.steps, plan.tokens, plan.epoch_at(0)) == (0, 0, 0.0)


def test_marks_read_counts_shares_and_only_at_the_end():
    assert marks(3, 10) == {3, 6, 9, 10}
    assert marks(0.25, 8) == {2, 4, 6, 8}
    assert marks(0, 8) == {8}
    assert marks(0.001, 3) == {1, 2, 3}
    assert marks(1, 0) == set()


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=40),
    accumulated=st.integers(1, 4),
    steps=st.none() | st.integers(1, 60),
    tokens=st.none() | st.integers(1, 5_000),
)
def test_the_extent_of_a_short_run_is_that_of_its_plan(lengths, accumulated, steps, tokens):
    asked = {"tokens_per_batch": 128, "batches_per_step": accumulated, "seed": 1, "epochs": 3}
    plan = plan_run(lengths, **asked, max_steps=steps, max_tokens=tokens)
    extent = measure_run(lengths, **asked, max_steps=steps, max_tokens=tokens)
    assert (extent.steps, extent.tokens, extent.padding) == (plan.steps, plan.tokens, plan.padding)


def test_a_long_run_is_measured_without_planning_all_of_it(monkeypatch):
    monkeypatch.setattr(batching, "EXACT_BATCHES", 50)
    lengths = [5 + place % 40 for place in range(200)]
    asked = {"tokens_per_batch": 256, "batches_per_step": 4, "seed": 0}
    for more in ({"epochs": 30}, {"epochs": 1, "max_steps": 150}, {"epochs": 900, "max_tokens": 60_000}):
        plan, extent = plan_run(lengths, **asked, **more), measure_run(lengths, **asked, **more)
        assert extent.steps == pytest.approx(plan.steps, rel=0.02)
        assert extent.tokens == pytest.approx(plan.tokens, rel=0.03)


@pytest.mark.parametrize("more", [{"epochs": 1, "max_steps": 10**7}, {"epochs": 10**7}])
def test_a_run_that_nobody_can_wait_for_is_refused_before_it_is_planned(more):
    for ask in (plan_run, measure_run):
        with pytest.raises(UsageError, match="batches") as refused:
            ask([10] * 50, tokens_per_batch=100, batches_per_step=2, seed=0, **more)
        assert refused.value.place == "max_steps"


def test_a_token_budget_ends_the_planning_however_many_epochs_are_asked():
    plan = plan_run([10] * 50, tokens_per_batch=100, batches_per_step=2, seed=0, epochs=10**9, max_tokens=5_000)
    assert 4_800 <= plan.tokens <= 5_000
