"""What a reward run asks for."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from workbench.records import DatasetKind
from workbench.training.configs import (
    ADAPTER,
    BATCHES,
    DATA,
    LENGTH,
    OPTIMISATION,
    WATCHING,
    PlannedConfig,
    Presets,
    in_group,
)

PRESETS: Presets = {
    "quick": {
        "epochs": 1,
        "learning_rate": 1e-3,
        "lora_r": 16,
        "lora_alpha": 32,
        "tokens_per_batch": 2048,
        "eval_every": 0.25,
        "lr_scheduler": "linear",
    },
    "balanced": {
        "epochs": 1,
        "learning_rate": 5e-4,
        "lora_r": 16,
        "lora_alpha": 32,
        "tokens_per_batch": 4096,
        "eval_every": 0.1,
        "lr_scheduler": "cosine",
    },
    "thorough": {
        "epochs": 2,
        "learning_rate": 3e-4,
        "lora_r": 32,
        "lora_alpha": 64,
        "tokens_per_batch": 8192,
        "eval_every": 0.05,
        "lr_scheduler": "cosine",
    },
    "custom": {},
}


class RewardConfig(PlannedConfig):
    """Learn a reward from preferences: a LoRA adapter and a score head that put the better answer above the worse.

    All pairs of a prompt are one batch element, so that each of its answers is read once. Ties contribute nothing:
    they are in no pair. Rows whose two sides come out alike are left out and counted.
    """

    presets: ClassVar[Presets] = PRESETS
    dataset_kinds: ClassVar[tuple[DatasetKind, ...]] = ("preferences",)

    dataset: str = Field(min_length=1, json_schema_extra=in_group(DATA))
    """Dataset of preferences: a name, a name@version or an id. Rankings become one on the Leaderboard page."""
    held_out: float | str | None = Field(default=0.1, json_schema_extra=in_group(DATA))
    """Prompts kept out of training to measure on: a share of the prompts (0.1), another dataset, or nothing."""
    demonstrations: str | None = Field(default=None, json_schema_extra=in_group(DATA))
    """Dataset of instructions whose answers are to score 0 on average; the best-ranked answer of each training prompt
    where empty."""
    balance_prompts: bool = Field(default=False, json_schema_extra=in_group(DATA, advanced=True))
    """Let each prompt count the same, whatever the number of its pairs. A prompt's weights are then scaled to sum to
    1; otherwise they count as they stand in the rows."""
    adapter: str | None = Field(default=None, json_schema_extra=in_group("Model"))
    """Variant of the same base whose LoRA weights it starts from, as InstructGPT starts from its fine-tuned model; its
    rank and layers then hold. New weights where empty."""
    epochs: int = Field(default=1, ge=1, le=1000, json_schema_extra=in_group(LENGTH))
    """Passes over the training prompts. Reward models over-fit soon: the paper stops after one."""
    learning_rate: float = Field(default=5e-4, gt=0, le=1, json_schema_extra=in_group(OPTIMISATION))
    """Largest step size. Lower it if the loss jumps."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, json_schema_extra=in_group(ADAPTER, advanced=True))
    """Share of the adapter's inputs dropped at random while training. Off, as the model's own dropout is: two answers
    are to be compared by the same network."""
    tokens_per_batch: int = Field(default=4096, ge=8, le=1048576, json_schema_extra=in_group(BATCHES))
    """Size of a batch in tokens. A prompt with all its answers is never split, so one may go beyond."""
    eval_every: float = Field(default=0.1, ge=0, json_schema_extra=in_group(WATCHING))
    """Measure held-out loss and accuracy after this many steps; below 1 a share of the run; 0 only at the end."""
    answered_prompts: int = Field(default=6, ge=0, le=64, json_schema_extra=in_group(WATCHING, advanced=True))
    """Held-out prompts that the base model, and the adapter it starts from, answer once at the end, to show how far
    apart their rewards lie; 0 for none. Whoever wrote some of the ranked answers is not asked again."""
    answer_tokens: int = Field(default=64, ge=1, le=1024, json_schema_extra=in_group(WATCHING, advanced=True))
    """Longest of these answers, in tokens."""
