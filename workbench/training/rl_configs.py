"""Configs of the two methods that learn from a reward: RLOO and GRPO."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from workbench.errors import UsageError
from workbench.records import DatasetKind
from workbench.scoring.scorers import scorer_names
from workbench.training.configs import (
    BATCHES,
    DATA,
    LENGTH,
    MODEL,
    OPTIMISATION,
    WATCHING,
    Presets,
    TrainingConfig,
    in_group,
)

ANSWERS, REWARD = "Answers", "Reward"

RL_PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "max_steps": 16,
        "prompts_per_step": 4,
        "answers_per_prompt": 4,
        "max_answer_tokens": 48,
        "learning_rate": 2e-4,
        "held_out_prompts": 16,
        "eval_every": 0.5,
    },
    "balanced": {
        "max_steps": 64,
        "prompts_per_step": 8,
        "answers_per_prompt": 4,
        "max_answer_tokens": 96,
        "learning_rate": 1e-4,
        "held_out_prompts": 32,
        "eval_every": 0.125,
    },
    "thorough": {
        "max_steps": 256,
        "prompts_per_step": 16,
        "answers_per_prompt": 8,
        "max_answer_tokens": 192,
        "learning_rate": 5e-5,
        "held_out_prompts": 64,
        "eval_every": 0.05,
    },
    "custom": {},
}


class RLConfig(TrainingConfig):
    """What both methods ask for: prompts, a policy to start from, a reward, and how answers are drawn."""

    presets: ClassVar[Presets] = RL_PRESETS
    dataset_kinds: ClassVar[tuple[DatasetKind, ...]] = ("prompts", "instructions", "preferences", "labels")

    dataset: str = Field(min_length=1, json_schema_extra=in_group(DATA))
    """Dataset whose prompts are answered, of any kind; its own answers are not read."""
    held_out: float | str | None = Field(default=0.1, json_schema_extra=in_group(DATA))
    """Prompts kept out of training to measure the reward on: a share (0.1), another dataset, or nothing."""
    held_out_prompts: int = Field(default=32, ge=1, le=4096, json_schema_extra=in_group(DATA, advanced=True))
    """Most held-out prompts that are answered at each measurement."""
    adapter: str | None = Field(default=None, json_schema_extra=in_group(MODEL))
    """The fine-tuned variant that learning goes on from; the KL penalty holds the model near it. Where empty, the base
    model is both."""
    reward: str = Field(min_length=1, json_schema_extra=in_group(REWARD))
    """Reward model that scores the answers: the id or the name of the run that made it."""
    missing_end_score: float | None = Field(default=-1.0, json_schema_extra=in_group(REWARD))
    """Replaces the score of an answer that ran into the longest length without ending; empty keeps its score."""
    beta: float = Field(default=0.05, ge=0, le=100, json_schema_extra=in_group(REWARD))
    """Strength of the KL penalty, which holds the model near the one it started from."""
    no_kl_anchor: bool = Field(default=False, json_schema_extra=in_group(REWARD, advanced=True))
    """Allow beta 0. Nothing then keeps the model from answers that only please the reward model."""
    epochs: int = Field(default=1, ge=1, le=1000, json_schema_extra=in_group(LENGTH, advanced=True))
    """Passes over the prompts, where no number of steps is given."""
    max_steps: int | None = Field(default=None, ge=1, le=1_000_000, json_schema_extra=in_group(LENGTH))
    """Optimizer steps to do; where empty, as many as the epochs need."""
    answers_per_prompt: int = Field(default=4, ge=2, le=64, json_schema_extra=in_group(ANSWERS))
    """Answers drawn to each prompt; each is judged against the others."""
    prompts_per_step: int = Field(default=4, ge=1, le=1024, json_schema_extra=in_group(ANSWERS))
    """Prompts of a step."""
    max_answer_tokens: int = Field(default=96, ge=1, le=8192, json_schema_extra=in_group(ANSWERS))
    """Longest answer, in tokens."""
    temperature: float = Field(default=1.0, gt=0, le=2, json_schema_extra=in_group(ANSWERS, advanced=True))
    """How freely answers are drawn. Losses and KL are those of the distribution that is drawn from."""
    num_iterations: int = Field(default=1, ge=1, le=16, json_schema_extra=in_group(ANSWERS, advanced=True))
    """Optimizer steps on the same answers before new ones are drawn."""
    epsilon: float = Field(default=0.2, gt=0, lt=1, json_schema_extra=in_group(OPTIMISATION, advanced=True))
    """Bound of the probability ratio's clipping; matters from the second iteration on."""
    learning_rate: float = Field(default=1e-4, gt=0, le=1, json_schema_extra=in_group(OPTIMISATION))
    """Largest step size. Smaller than in fine-tuning on examples; lower it if the KL jumps."""
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        default="constant_with_warmup", json_schema_extra=in_group(OPTIMISATION, advanced=True)
    )
    """How the learning rate falls after the warm-up."""
    max_length: int = Field(default=1024, ge=8, le=131072, json_schema_extra=in_group(BATCHES))
    """Longest prompt and answer together, in tokens; prompts that leave no room for the answer are left out."""
    answers_per_batch: int = Field(default=16, ge=1, le=4096, json_schema_extra=in_group(BATCHES, advanced=True))
    """Answers learned from at once; fewer need less memory and change nothing else."""
    eval_every: float = Field(default=0.125, ge=0, json_schema_extra=in_group(WATCHING))
    """Measure reward and KL on the held-out prompts after this many steps; below 1 a share of the run; 0 only at the
    end."""
    watch_scorers: tuple[str, ...] = Field(
        default=(), max_length=8, json_schema_extra=in_group(WATCHING) | {"choices": list(scorer_names())}
    )
    """Yardsticks that have no part in the reward, measured on the held-out answers each time: a rule scorer, or a
    metric such as chrf where the held-out prompts have references. The run warns when one falls while KL climbs, which
    the reward itself cannot show."""
    sample_prompts: tuple[str, ...] = Field(default=(), max_length=8, json_schema_extra=in_group(WATCHING))
    """Prompts answered while learning, to see the answers change. The first held-out prompts are shown in any case."""
    sample_every: float = Field(default=0.25, ge=0, json_schema_extra=in_group(WATCHING, advanced=True))
    """Answer them after this many steps; below 1 a share of the run; 0 only at the end."""

    @model_validator(mode="before")
    @classmethod
    def _named_epochs_count(cls, values: Any) -> Any:
        # Runs before the preset is filled in: who names epochs means them, and not the preset's number of steps.
        if isinstance(values, dict) and "epochs" in values:
            return {"max_steps": None, **values}
        return values

    @field_validator("watch_scorers")
    @classmethod
    def _known_scorers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = scorer_names()
        for name in value:
            if name not in known:
                remedy = f"Choose among {', '.join(known)}, or none."
                raise UsageError("no such scorer", place="watch_scorers", value=name, remedy=remedy)
        return tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _anchored(self) -> Self:
        if self.beta == 0 and not self.no_kl_anchor:
            raise UsageError(
                "with beta 0 nothing holds the model near the one it started from, and it soon finds answers that "
                "only please the reward model",
                place="beta",
                value=0,
                remedy="Give a beta above 0 (0.05 is a good start), or set no_kl_anchor to do it all the same.",
            )
        if self.max_answer_tokens >= self.max_length:
            raise UsageError(
                "the longest answer leaves no room for a prompt",
                place="max_answer_tokens",
                value=self.max_answer_tokens,
                remedy=f"Lower it, or raise max_length ({self.max_length}).",
            )
        return self


class RLOOConfig(RLConfig):
    """Reinforce an adapter with a reward model: REINFORCE with the other answers as baseline (RLOO)."""

    normalize_advantages: bool = Field(default=False, json_schema_extra=in_group(OPTIMISATION, advanced=True))
    """Bring the advantages of a step to mean 0 and deviation 1 (whitening)."""


class GRPOConfig(RLConfig):
    """Reinforce an adapter with a reward model: group-relative advantages, KL in the loss of each token (GRPO)."""

    beta: float = Field(default=0.04, ge=0, le=100, json_schema_extra=in_group(REWARD))
    """Strength of the KL penalty, which holds the model near the one it started from."""
    scale_rewards: Literal["group", "batch", "none"] = Field(
        default="group", json_schema_extra=in_group(OPTIMISATION, advanced=True)
    )
    """Divide advantages by the deviation of the rewards in a prompt's group, in the step, or not at all."""
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo"] = Field(
        default="dapo", json_schema_extra=in_group(OPTIMISATION, advanced=True)
    )
    """How tokens are averaged: over all tokens of the step (dapo), over each answer first (grpo), over each batch
    (bnpo), or over the longest length (dr_grpo)."""
