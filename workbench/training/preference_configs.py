"""Configs of the methods that learn from preferences without a reward model: DPO and KTO."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from workbench.errors import UsageError
from workbench.records import DatasetKind
from workbench.training.configs import (
    DATA,
    LENGTH,
    MODEL,
    OPTIMISATION,
    WATCHING,
    PlannedConfig,
    Preset,
    Presets,
    in_group,
)

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "epochs": 1,
        "learning_rate": 1e-4,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "tokens_per_batch": 1024,
        "eval_every": 0.25,
        "warmup_ratio": 0.1,
        "lr_scheduler": "linear",
    },
    "balanced": {
        "epochs": 1,
        "learning_rate": 5e-5,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "tokens_per_batch": 2048,
        "eval_every": 0.1,
        "warmup_ratio": 0.1,
        "lr_scheduler": "cosine",
    },
    "thorough": {
        "epochs": 3,
        "learning_rate": 2e-5,
        "lora_r": 32,
        "lora_alpha": 64,
        "lora_dropout": 0.05,
        "tokens_per_batch": 4096,
        "eval_every": 0.05,
        "warmup_ratio": 0.1,
        "lr_scheduler": "cosine",
    },
    "custom": {},
}


class PreferenceConfig(PlannedConfig):
    """What DPO and KTO ask for alike."""

    presets: ClassVar[Presets] = PRESETS
    dataset_kinds: ClassVar[tuple[DatasetKind, ...]] = ("preferences",)

    dataset: str = Field(min_length=1, json_schema_extra=in_group(DATA))
    """Dataset of preferences: a name, a name@version or an id."""
    held_out: float | str | None = Field(default=0.1, json_schema_extra=in_group(DATA))
    """Pairs kept out of training to measure on: a share of the prompts (0.1), another dataset, or nothing."""
    adapter: str | None = Field(default=None, json_schema_extra=in_group(MODEL))
    """Variant to start from, as a rule the fine-tuned one whose answers were ranked; the bare base where empty. As it
    is at the start it is also the reference that training is held near to."""
    on_top: Literal["continue", "stack"] = Field(default="continue", json_schema_extra=in_group(MODEL))
    """What becomes of the adapter to start from. continue: its own weights are trained further, at its own rank.
    stack: it stays as it is and a new one, of the rank chosen here, is trained on top; both are then joined into one
    adapter whose rank is the sum of the two. Without an adapter to start from there is no difference."""
    preset: Preset = Field(default="balanced", json_schema_extra=in_group(LENGTH))
    """Quick, balanced or thorough fill the settings you leave alone; custom uses the plain defaults."""
    epochs: int = Field(default=1, ge=1, le=1000, json_schema_extra=in_group(LENGTH))
    """Passes over the rows. Preferences are learnt by heart soon: one to three."""
    learning_rate: float = Field(default=5e-5, gt=0, le=1, json_schema_extra=in_group(OPTIMISATION))
    """Largest step size; about a tenth of what fine-tuning on examples takes."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1, json_schema_extra=in_group(OPTIMISATION, advanced=True))
    """Share of the steps in which the learning rate rises from 0."""
    beta: float = Field(default=0.1, gt=0, le=10, json_schema_extra=in_group(OPTIMISATION))
    """How strongly the model is held near to the one it started from: smaller lets it go further."""
    sample_prompts: tuple[str, ...] = Field(default=(), max_length=8, json_schema_extra=in_group(WATCHING))
    """Prompts answered while learning, to see the answers change."""
    sample_every: float = Field(default=0.25, ge=0, json_schema_extra=in_group(WATCHING, advanced=True))
    """Answer them after this many steps; below 1 a share of the run; 0 only at the end."""
    sample_tokens: int = Field(default=96, ge=1, le=1024, json_schema_extra=in_group(WATCHING, advanced=True))
    """Longest sample answer, in tokens."""

    @model_validator(mode="after")
    def _dora_stands_alone(self) -> Self:
        if self.on_top == "stack" and self.adapter and self.use_dora:
            raise UsageError(
                "a DoRA adapter cannot be stacked: it rescales what lies beneath it, so that the two do not add up",
                place="use_dora",
                value=True,
                remedy="Turn use_dora off, or set on_top to continue.",
            )
        return self


class DPOConfig(PreferenceConfig):
    """Direct preference optimisation: raise the better answer over the worse one, pair by pair, no reward model."""

    loss_type: Literal["sigmoid", "ipo"] = Field(default="sigmoid", json_schema_extra=in_group(OPTIMISATION))
    """sigmoid is the paper's loss; ipo aims at a fixed margin per token and over-fits less where every pair is
    certain."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, json_schema_extra=in_group(OPTIMISATION, advanced=True))
    """Share of pairs assumed to be the wrong way round (conservative DPO); for the sigmoid loss."""

    @model_validator(mode="after")
    def _smoothing_needs_sigmoid(self) -> Self:
        if self.label_smoothing and self.loss_type != "sigmoid":
            raise UsageError(
                "label smoothing belongs to the sigmoid loss",
                place="label_smoothing",
                value=self.label_smoothing,
                remedy="Set it to 0, or loss_type to sigmoid.",
            )
        return self


class KTOConfig(PreferenceConfig):
    """Kahneman–Tversky optimisation: single answers told good or bad; better ones need no partner to beat."""

    dataset_kinds: ClassVar[tuple[DatasetKind, ...]] = ("preferences", "labels")

    dataset: str = Field(min_length=1, json_schema_extra=in_group(DATA))
    """Dataset of preferences, of which either side is an answer, or of labels: a name, a name@version or an id."""
    held_out: float | str | None = Field(default=0.1, json_schema_extra=in_group(DATA))
    """Answers kept out of training to measure on: a share of the prompts (0.1), another dataset, or nothing."""
    desirable_weight: float = Field(default=1.0, gt=0, le=100, json_schema_extra=in_group(OPTIMISATION))
    """Weight of good answers. Where good and bad are unequal in number, bring weight × number to within 1 to 4/3."""
    undesirable_weight: float = Field(default=1.0, gt=0, le=100, json_schema_extra=in_group(OPTIMISATION))
    """Weight of bad answers."""
