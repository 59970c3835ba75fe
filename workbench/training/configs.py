"""Configs of the training methods: the form, the command-line options and the saved spec all come from these fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from workbench.errors import UsageError
from workbench.records import DatasetKind, RunConfig

Preset = Literal["quick", "balanced", "thorough", "custom"]

Presets = Mapping[str, Mapping[str, Any]]
"""Fields that a preset fills in, by its name."""

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "epochs": 1,
        "learning_rate": 1e-3,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "tokens_per_batch": 512,
        "eval_every": 0.25,
        "warmup_ratio": 0.05,
        "lr_scheduler": "linear",
    },
    "balanced": {
        "epochs": 2,
        "learning_rate": 5e-4,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "tokens_per_batch": 1024,
        "eval_every": 0.1,
        "warmup_ratio": 0.05,
        "lr_scheduler": "cosine",
    },
    "thorough": {
        "epochs": 3,
        "learning_rate": 3e-4,
        "lora_r": 32,
        "lora_alpha": 64,
        "lora_dropout": 0.05,
        "tokens_per_batch": 2048,
        "eval_every": 0.05,
        "warmup_ratio": 0.05,
        "lr_scheduler": "cosine",
    },
    "custom": {},
}


def apply_preset(values: dict[str, Any], presets: Presets = PRESETS) -> dict[str, Any]:
    """Fill the fields of the chosen preset that are not given.

    Args:
        values: fields by name; `preset` names the preset, "balanced" where absent.
        presets: those of the method.

    Returns:
        A new dict; what was given stays as it was.

    Raises:
        UsageError: there is no such preset.
    """
    preset = values.get("preset", "balanced")
    if not isinstance(preset, str) or preset not in presets:
        raise UsageError("no such preset", place="preset", value=preset, remedy=f"Choose one of {', '.join(presets)}.")
    return {**presets[preset], **values}


def in_group(name: str, *, advanced: bool = False) -> dict[str, Any]:
    """Where a field stands in forms and in the command line's help.

    Args:
        name: heading of its group.
        advanced: whether it is folded away.
    """
    return {"group": name, "advanced": True} if advanced else {"group": name}


DATA, MODEL, LENGTH, OPTIMISATION = "Data", "Model", "How long", "Optimisation"
ADAPTER, BATCHES, WATCHING, MACHINE = "Adapter", "Batches", "Watching", "Machine"


class TrainingConfig(RunConfig):
    """What every method that trains an adapter asks for."""

    presets: ClassVar[Presets] = PRESETS
    """What quick, balanced and thorough stand for."""
    dataset_kinds: ClassVar[tuple[DatasetKind, ...]] = ("instructions",)
    """Kinds of datasets it learns from."""

    name: str = Field(default="", max_length=200, json_schema_extra=in_group(DATA))
    """Name of the run and of the variant it makes; made from method, model and dataset where empty."""
    dataset: str = Field(min_length=1, json_schema_extra=in_group(DATA))
    """Dataset of examples: a name, a name@version or an id."""
    held_out: float | str | None = Field(default=0.05, json_schema_extra=in_group(DATA))
    """Rows kept out of training to measure the loss on: a share of the prompts (0.05), another dataset, or nothing."""
    model: str = Field(default="mdl_smollm2_135m", min_length=1, json_schema_extra=in_group(MODEL))
    """Base model: a name or an id."""
    adapter: str | None = Field(default=None, json_schema_extra=in_group(MODEL))
    """Variant of the same base whose adapter training goes on from; a new adapter where empty."""
    preset: Preset = Field(default="balanced", json_schema_extra=in_group(LENGTH))
    """Quick, balanced or thorough fill the settings you leave alone; custom uses the plain defaults."""
    epochs: int = Field(default=2, ge=1, le=1000, json_schema_extra=in_group(LENGTH))
    """Passes over the training rows."""
    max_steps: int | None = Field(default=None, ge=1, le=1_000_000, json_schema_extra=in_group(LENGTH, advanced=True))
    """Optimizer steps to do, whatever the epochs say."""
    learning_rate: float = Field(default=5e-4, gt=0, le=1, json_schema_extra=in_group(OPTIMISATION))
    """Largest step size. LoRA takes about ten times what full fine-tuning does; lower it if the loss jumps."""
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        default="cosine", json_schema_extra=in_group(OPTIMISATION, advanced=True)
    )
    """How the learning rate falls after the warm-up."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1, json_schema_extra=in_group(OPTIMISATION, advanced=True))
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0, le=1, json_schema_extra=in_group(OPTIMISATION, advanced=True))
    """Pull of the adapter's weights towards 0."""
    max_grad_norm: float = Field(default=1.0, ge=0, json_schema_extra=in_group(OPTIMISATION, advanced=True))
    """Gradients longer than this are shortened to it; 0 leaves them."""
    lora_r: int = Field(default=16, ge=1, le=1024, json_schema_extra=in_group(ADAPTER))
    """Rank: how much the adapter can learn, and its size."""
    lora_alpha: float = Field(default=32, gt=0, json_schema_extra=in_group(ADAPTER))
    """Strength of the adapter: it is scaled by alpha / rank."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, json_schema_extra=in_group(ADAPTER))
    """Share of the adapter's inputs dropped at random while training, against over-fitting."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        default="all-linear", json_schema_extra=in_group(ADAPTER, advanced=True)
    )
    """Layers that get an adapter: all linear ones except the output layer, or names such as q_proj, v_proj."""
    use_dora: bool = Field(default=False, json_schema_extra=in_group(ADAPTER, advanced=True))
    """DoRA learns size and direction apart: sometimes better, slower, and answered by an engine of its own."""
    use_rslora: bool = Field(default=False, json_schema_extra=in_group(ADAPTER, advanced=True))
    """Scale by alpha / √rank, which keeps large ranks from learning too little."""
    max_length: int = Field(default=1024, ge=8, le=131072, json_schema_extra=in_group(BATCHES))
    """Longest row in tokens; what goes beyond is cut off."""
    gradient_checkpointing: bool = Field(default=False, json_schema_extra=in_group(BATCHES, advanced=True))
    """Compute activations twice to hold fewer of them: less memory, about a third slower."""
    seed: int = Field(default=0, ge=0, lt=2**31, json_schema_extra=in_group(BATCHES, advanced=True))
    """Same seed, data and settings give the same adapter on the same machine."""
    eval_every: float = Field(default=0.1, ge=0, json_schema_extra=in_group(WATCHING))
    """Measure the held-out loss after this many steps; below 1 a share of the run; 0 only at the end."""
    save_every: float = Field(default=0.1, ge=0, json_schema_extra=in_group(WATCHING, advanced=True))
    """Write a checkpoint after this many steps; below 1 a share of the run; 0 only at the end and on Stop."""
    keep_checkpoints: int = Field(default=2, ge=1, le=100, json_schema_extra=in_group(WATCHING, advanced=True))
    """Newest checkpoints that stay on disk."""
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", json_schema_extra=in_group(MACHINE, advanced=True)
    )
    """Number format of the base model: auto takes bfloat16 on a GPU that has it, else float32. The adapter is
    always trained in float32."""
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda|mps)$", json_schema_extra=in_group(MACHINE, advanced=True)
    )
    """Where to train: auto takes a GPU where there is one."""
    overrule_gates: bool = Field(default=False, json_schema_extra=in_group(DATA, advanced=True))
    """Train although the checks found rows that would teach nothing or teach harm."""

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        return apply_preset(values, cls.presets) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if isinstance(self.held_out, float | int) and not 0 < self.held_out < 1:
            raise UsageError(
                "the held-out share must lie between 0 and 1",
                place="held_out",
                value=self.held_out,
                remedy="Give a share such as 0.05, a dataset, or nothing.",
            )
        if not self.target_modules:
            raise UsageError("no layer would get an adapter", place="target_modules", remedy="Name one, or all-linear.")
        if "lm_head" in self.target_modules:
            raise UsageError(
                "the output layer cannot carry an adapter",
                place="target_modules",
                value="lm_head",
                remedy="Leave lm_head out; all-linear does.",
            )
        return self


class PlannedConfig(TrainingConfig):
    """A method whose rows are known before it starts, so that its batches are planned by their length."""

    tokens_per_batch: int = Field(default=1024, ge=8, le=1048576, json_schema_extra=in_group(BATCHES))
    """Size of a batch in tokens, padding included. Rows of like length share a batch. More needs more memory."""
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=1024, json_schema_extra=in_group(BATCHES))
    """Batches summed up into one optimizer step."""

    @model_validator(mode="after")
    def _rows_fit_batches(self) -> Self:
        if self.max_length > self.tokens_per_batch * 64:
            raise UsageError(
                "rows may be far longer than a whole batch",
                place="max_length",
                value=self.max_length,
                remedy=f"Raise tokens_per_batch ({self.tokens_per_batch}) or lower max_length.",
            )
        return self


class SFTConfig(PlannedConfig):
    """Fine-tune a LoRA adapter on examples, with the loss on the assistant's answers."""

    max_tokens: int | None = Field(default=None, ge=1, json_schema_extra=in_group(LENGTH, advanced=True))
    """Budget of trained tokens, prompts included; the run ends with the last step that fits."""
    sample_prompts: tuple[str, ...] = Field(default=(), max_length=8, json_schema_extra=in_group(WATCHING))
    """Prompts answered while learning, to see the answers change."""
    sample_every: float = Field(default=0.25, ge=0, json_schema_extra=in_group(WATCHING, advanced=True))
    """Answer them after this many steps; below 1 a share of the run; 0 only at the end."""
    sample_tokens: int = Field(default=96, ge=1, le=1024, json_schema_extra=in_group(WATCHING, advanced=True))
    """Longest sample answer, in tokens."""
