"""From versions of preferences to rendered pairs: what DPO trains on, and what KTO's answers are checked by.

Both sides are rendered by `workbench.datasets.render` after the same prompt; which rows are kept out and what makes
rows useless is decided where it is for every method (`rows`, `workbench.datasets.checks`). How rankings become pairs is
`workbench.preferences.pairs`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from workbench.errors import DataProblem, TemplateProblem
from workbench.job import Job
from workbench.records import Message, Model, Preference, Row
from workbench.training.batching import RunPlan, plan_run
from workbench.training.preference_configs import PreferenceConfig
from workbench.training.rows import Inputs, TrainingRow, checked_rows

if TYPE_CHECKING:
    from workbench.datasets.render import Renderer


@dataclass(frozen=True)
class TrainingPair:
    """A rendered preference."""

    row_id: str
    """The dataset row it comes from."""
    chosen: TrainingRow
    """Prompt and better answer, the loss on the answer."""
    rejected: TrainingRow
    """Prompt and worse answer."""
    weight: float
    """What it counts beside others."""

    @property
    def sides(self) -> tuple[TrainingRow, TrainingRow]:
        """Better and worse."""
        return self.chosen, self.rejected


@dataclass(frozen=True)
class TrainingPairs:
    """All rendered pairs of one side of the split."""

    pairs: tuple[TrainingPair, ...]
    """Pairs with something to learn on both sides."""
    truncated: int = 0
    """Pairs of which a side was cut to the longest length."""
    equal: int = 0
    """Left out: both sides are the same to the model."""
    weightless: int = 0
    """Left out: their weight is 0, as a tie's."""
    unreadable: int = 0
    """Left out: the template refuses them, or the prompt leaves no room for an answer."""

    def in_words(self) -> str:
        """What was left out, for the run's log."""
        left = [
            (self.equal, "with equal sides"),
            (self.weightless, "of weight 0"),
            (self.unreadable, "without an answer that can be learned"),
        ]
        out = ", ".join(f"{count} {why}" for count, why in left if count)
        return f"{len(self.pairs)} pairs" + (f" ({out} left out)" if out else "")


def _render_side(
    row_id: str, payload: Preference, answer: Sequence[Message], renderer: Renderer, max_length: int
) -> tuple[TrainingRow, bool]:
    made = renderer.render_prompt_completion(payload.prompt, answer, None, max_length)
    return TrainingRow(row_id=row_id, ids=made.ids, labels=tuple(made.labels)), bool(made.truncated)


def preference_of(row: Row) -> Preference:
    """The preference in a row.

    Raises:
        DataProblem: the row holds something else.
    """
    if not isinstance(row.payload, Preference):
        raise DataProblem("the row is not a preference", place=f"row {row.row_id}")
    return row.payload


def render_pairs(rows: Iterable[Row], renderer: Renderer, *, max_length: int) -> TrainingPairs:
    """Render preferences with a model's tokenizer and template.

    Args:
        rows: rows of a dataset of preferences.
        renderer: of the base model.
        max_length: longest side in tokens, prompt included.
    """
    kept: list[TrainingPair] = []
    truncated = equal = weightless = unreadable = 0
    for row in rows:
        payload = preference_of(row)
        try:
            chosen, cut = _render_side(row.row_id, payload, payload.chosen, renderer, max_length)
            rejected, also_cut = _render_side(row.row_id, payload, payload.rejected, renderer, max_length)
        except TemplateProblem:
            unreadable += 1  # `check_gates` has named it
            continue
        if not chosen.supervised or not rejected.supervised:
            unreadable += 1
        elif chosen.ids == rejected.ids:
            equal += 1
        elif payload.weight == 0:
            weightless += 1
        else:
            truncated += cut or also_cut
            kept.append(TrainingPair(row.row_id, chosen, rejected, payload.weight))
    return TrainingPairs(tuple(kept), truncated, equal, weightless, unreadable)


def load_pairs(job: Job, config: PreferenceConfig, inputs: Inputs, model: Model) -> tuple[TrainingPairs, TrainingPairs]:
    """Check and render training pairs and held-out pairs.

    Raises:
        DataProblem: the checks refuse the rows and `overrule_gates` is off, or there is nothing to train on.
        ModelProblem: the model is not on this machine yet.
    """
    train, held_out, renderer = checked_rows(job, config, inputs, model)
    rendered = render_pairs(train, renderer, max_length=config.max_length)
    if not rendered.pairs:
        raise DataProblem(
            "no pair has anything to learn from",
            place=config.dataset,
            value=rendered.in_words(),
            remedy="Two different answers of a weight above 0 are needed, after a prompt shorter than max_length.",
        )
    return rendered, render_pairs(held_out, renderer, max_length=config.max_length)


def plan_sequences(config: PreferenceConfig, sequences: Sequence[Sequence[TrainingRow]]) -> RunPlan:
    """The run's batches, where each entry is several sequences that are padded alike.

    Args:
        config: budget, accumulation, seed, epochs or steps.
        sequences: for each entry, what of it goes through the model: both sides of a pair, or an answer alone.
    """
    sizes = [len(each) * max(len(row.ids) for row in each) for each in sequences]
    plan = plan_run(
        sizes,
        tokens_per_batch=config.tokens_per_batch,
        batches_per_step=config.gradient_accumulation_steps,
        seed=config.seed,
        epochs=config.epochs,
        max_steps=config.max_steps,
    )
    # Planned by size as padded, told by what is really read.
    lengths = [sum(len(row.ids) for row in each) for each in sequences]
    tokens = list(accumulate(sum(lengths[entry] for entry in batch) for batch in plan.batches))
    ends = [min(step * plan.batches_per_step, len(tokens)) for step in range(1, plan.steps + 1)]
    cells = sum(len(batch) * max(sizes[entry] for entry in batch) for batch in plan.batches)
    return replace(
        plan,
        tokens_after=tuple(tokens[end - 1] for end in ends),
        padding=1 - tokens[-1] / cells if cells else 0.0,
    )
