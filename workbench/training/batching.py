"""Which rows make up which batch: a pure function of (seed, epoch, lengths) and the token budget.

Batches are cut from rows sorted by length, so that little of a batch is padding, and come in a shuffled order. Because
nothing but the arguments decides, a resumed run finds exactly the batches it had left. Tensors, devices and optimizers
are left to the trainer; this module imports nothing heavy.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from workbench.errors import UsageError

JITTER = 0.1
"""Share by which a row's length is stretched at random before sorting, so that neighbours differ between epochs."""

Batch = tuple[int, ...]


def plan_epoch(lengths: Sequence[int], *, tokens_per_batch: int, seed: int, epoch: int) -> list[Batch]:
    """Cut one epoch into batches; every row stands in exactly one of them.

    Args:
        lengths: tokens of each row.
        tokens_per_batch: bound on rows × longest row of a batch; a row that is longer by itself gets its own batch.
        seed: the run's seed.
        epoch: from 0.

    Returns:
        Row indices, batch by batch, in training order.
    """
    dice = random.Random(f"batches:{seed}:{epoch}")
    stretched = [length * (1 + JITTER * dice.random()) for length in lengths]
    order = sorted(range(len(lengths)), key=stretched.__getitem__)
    batches = _cut_evenly(order, lengths, tokens_per_batch)
    dice.shuffle(batches)
    return batches


def plan_evaluation(lengths: Sequence[int], *, tokens_per_batch: int) -> list[Batch]:
    """Cut rows into batches by length alone, without chance."""
    return _cut(sorted(range(len(lengths)), key=lengths.__getitem__), lengths, tokens_per_batch)


def _cut(order: Sequence[int], lengths: Sequence[int], budget: int) -> list[Batch]:
    batches: list[Batch] = []
    batch: list[int] = []
    longest = 0
    for row in order:
        longer = max(longest, lengths[row])
        if batch and (len(batch) + 1) * longer > budget:
            batches.append(tuple(batch))
            batch, longer = [], lengths[row]
        batch.append(row)
        longest = longer
    if batch:
        batches.append(tuple(batch))
    return batches


def _cut_evenly(order: Sequence[int], lengths: Sequence[int], budget: int) -> list[Batch]:
    # A plain cut leaves a last batch of perhaps one row, whose step would weigh as much as a full one's: look for the
    # smallest budget that needs no more batches.
    best = _cut(order, lengths, budget)
    low, high = budget // 2, budget
    for _ in range(8):
        middle = (low + high) // 2
        tried = _cut(order, lengths, middle)
        if len(tried) <= len(best):
            best, high = tried, middle
        else:
            low = middle
    return best


def padding_share(batches: Sequence[Batch], lengths: Sequence[int]) -> float:
    """Share of the batches' cells that hold no token, between 0 and 1."""
    cells = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    tokens = sum(lengths[row] for batch in batches for row in batch)
    return 1 - tokens / cells if cells else 0.0


MOST_BATCHES = 1_000_000
"""Batches of the longest run that can be planned; each takes tens of microseconds and some hundred bytes."""
EXACT_BATCHES = 20_000
"""Longer runs are forecast from as many batches."""


@dataclass(frozen=True)
class RunPlan:
    """The batches of a whole run, in order, and where its optimizer steps end."""

    batches: tuple[Batch, ...]
    """Row indices of each batch, epoch after epoch."""
    batches_per_step: int
    """Batches accumulated into one optimizer step; the last step may have fewer."""
    rows: int
    """Rows of one epoch."""
    tokens_after: tuple[int, ...]
    """Tokens trained, without padding, when step 1, 2, … has ended."""
    rows_after: tuple[int, ...]
    """Rows trained when step 1, 2, … has ended."""
    padding: float
    """Share of the batches' cells that hold no token."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.tokens_after)

    @property
    def tokens(self) -> int:
        """Tokens trained in all, without padding."""
        return self.tokens_after[-1] if self.tokens_after else 0

    def epoch_at(self, step: int) -> float:
        """Epochs done when a step has ended."""
        return self.rows_after[step - 1] / self.rows if step else 0.0


def plan_run(
    lengths: Sequence[int],
    *,
    tokens_per_batch: int,
    batches_per_step: int,
    seed: int,
    epochs: int,
    max_steps: int | None = None,
    max_tokens: int | None = None,
) -> RunPlan:
    """Plan all batches of a run.

    Accumulated batches may straddle the end of an epoch, so that all steps but the last are of one size.

    Args:
        lengths: tokens of each row.
        tokens_per_batch: bound on rows × longest row of a batch.
        batches_per_step: batches accumulated into one optimizer step.
        seed: the run's seed.
        epochs: passes over the rows; with `max_steps`, as many as are needed.
        max_steps: steps to do instead of `epochs`.
        max_tokens: the run ends with the last step that stays within this many tokens; at least one step is done.

    Raises:
        UsageError: there are more than `MOST_BATCHES` batches.
    """
    batches: list[Batch] = []
    epoch = 0
    wanted = math.inf if max_steps is None else max_steps * batches_per_step
    enough = math.inf if max_tokens is None else max_tokens // max(1, sum(lengths)) + 1
    while lengths and (len(batches) < wanted if max_steps is not None else epoch < epochs):
        if epoch >= enough and len(batches) >= batches_per_step:
            break  # what follows is beyond max_tokens
        batches += plan_epoch(lengths, tokens_per_batch=tokens_per_batch, seed=seed, epoch=epoch)
        epoch += 1
        if epoch == 1:
            check_extent(min(enough * len(batches), wanted if max_steps is not None else epochs * len(batches)))
    if max_steps is not None:
        batches = batches[: max_steps * batches_per_step]
    ends = [*range(batches_per_step, len(batches), batches_per_step), len(batches)] if batches else []
    tokens = list(accumulate(sum(lengths[row] for row in batch) for batch in batches))
    rows = list(accumulate(len(batch) for batch in batches))
    tokens_after = [tokens[end - 1] for end in ends]
    if max_tokens is not None and tokens_after:
        ends = ends[: max(1, bisect.bisect_right(tokens_after, max_tokens))]
        batches, tokens_after = batches[: ends[-1]], tokens_after[: len(ends)]
    return RunPlan(
        batches=tuple(batches),
        batches_per_step=batches_per_step,
        rows=len(lengths),
        tokens_after=tuple(tokens_after),
        rows_after=tuple(rows[end - 1] for end in ends),
        padding=padding_share(batches, lengths),
    )


def check_extent(batches: float) -> None:
    """Refuse a run that nobody can wait for, before it is planned whole.

    Raises:
        UsageError: it has more than `MOST_BATCHES` batches.
    """
    if batches > MOST_BATCHES:
        raise UsageError(
            f"the run would have {batches:,.0f} batches, and {MOST_BATCHES:,} are the most that can be planned",
            place="max_steps",
            remedy="Lower max_steps or epochs, or make the batches larger.",
        )


@dataclass(frozen=True)
class RunExtent:
    """How much a run is, without every batch of it."""

    steps: int
    """Optimizer steps."""
    tokens: int
    """Tokens trained in all, without padding."""
    padding: float
    """Share of the batches' cells that hold no token."""
    largest: int
    """Cells of the largest batch."""


def measure_run(
    lengths: Sequence[int],
    *,
    tokens_per_batch: int,
    batches_per_step: int,
    seed: int,
    epochs: int,
    max_steps: int | None = None,
    max_tokens: int | None = None,
) -> RunExtent:
    """What `plan_run` would plan, in figures: exact for short runs, scaled up from one epoch for long ones.

    Args:
        lengths: as in `plan_run`, like the others.
        tokens_per_batch: bound on rows × longest row of a batch.
        batches_per_step: batches accumulated into one optimizer step.
        seed: the run's seed.
        epochs: passes over the rows.
        max_steps: steps to do instead of `epochs`.
        max_tokens: the run ends with the last step that stays within this many tokens.

    Raises:
        UsageError: the run would be longer than any that can be planned.
    """
    first = plan_epoch(lengths, tokens_per_batch=tokens_per_batch, seed=seed, epoch=0)
    mean = sum(lengths) / max(1, len(first))
    batches = float(epochs * len(first) if max_steps is None else max_steps * batches_per_step if first else 0)
    if max_tokens is not None and mean:
        batches = min(batches, max(batches_per_step, max_tokens / mean))
    check_extent(batches)
    if batches > EXACT_BATCHES:
        steps = max(1, round(batches / batches_per_step))
        return RunExtent(steps, round(batches * mean), padding_share(first, lengths), _largest(first, lengths))
    plan = plan_run(
        lengths, tokens_per_batch=tokens_per_batch, batches_per_step=batches_per_step, seed=seed, epochs=epochs,
        max_steps=max_steps, max_tokens=max_tokens,
    )  # fmt: skip
    return RunExtent(plan.steps, plan.tokens, plan.padding, _largest(plan.batches, lengths))


def _largest(batches: Sequence[Batch], lengths: Sequence[int]) -> int:
    return max((len(batch) * max(lengths[row] for row in batch) for batch in batches), default=0)


def marks(every: float, steps: int) -> set[int]:
    """Steps after which something recurring happens; the last step is always one.

    Args:
        every: 1 or more: that many steps; below 1: that share of the run; 0: only at the end.
        steps: steps of the run.
    """
    if steps <= 0:
        return set()
    stride = steps if every == 0 else max(1, round(every if every >= 1 else every * steps))
    return {*range(stride, steps + 1, stride), steps}
