"""Where a method that holds near to its start begins: a new adapter, one that goes on, or a new one on top of another.

The base is in memory once, whichever it is. What lies beneath a stacked adapter is frozen; when training has ended the
two are joined by PEFT's `cat`: the ranks stand side by side, so the joined adapter gives what the two give together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from workbench.errors import UsageError
from workbench.job import Job
from workbench.records import Variant
from workbench.training.adapter_rank import tell_large_rank
from workbench.training.configs import TrainingConfig
from workbench.training.crank import layers_in_words, lora_config

NEW, BENEATH, JOINED = "default", "beneath", "joined"
"""Names of adapters in the PEFT model; the trained one is always `default`."""
OnTop = Literal["continue", "stack"]


def start_adapter(base: Any, config: TrainingConfig, start_from: Variant | None, on_top: OnTop, job: Job) -> Any:
    """The base with the adapter to train, and beneath it the frozen one where it is stacked.

    Args:
        base: of `crank.load_policy`; changed in place.
        config: settings of a new adapter.
        start_from: the variant whose adapter is continued or stacked on; None for a new one on the bare base.
        on_top: which of the two.
        job: told when a new adapter's rank is larger than a layer.

    Raises:
        UsageError: layers that are not there, or an adapter that cannot be stacked on.
    """
    from peft import get_peft_model

    from workbench.models.loading import load_with_adapter

    if start_from is not None and on_top == "continue":
        return load_with_adapter(base, Path(start_from.adapter_path or ""), trainable=True)
    if start_from is None:
        with layers_in_words(config):
            model = get_peft_model(base, lora_config(config))
    else:
        refuse_unstackable(start_from)
        model = load_with_adapter(base, Path(start_from.adapter_path or ""), name=BENEATH)
        with layers_in_words(config):
            model.add_adapter(NEW, lora_config(config))
        _lay_on_top(model)
    tell_large_rank(model, job)
    return model


def refuse_unstackable(variant: Variant) -> None:
    """Refuse an adapter that does more than add to its layers.

    Raises:
        UsageError: DoRA, biases, layers saved whole, or layers chosen by position or pattern.
    """
    from workbench.models.adapters import CONFIG, read_adapter_facts
    from workbench.models.inspecting import read_json

    folder = Path(variant.adapter_path or "")
    facts = read_adapter_facts(folder)
    config = read_json(folder / CONFIG)
    if facts.use_dora:
        why = "is a DoRA adapter, which rescales its layers"
    elif not facts.mixable:
        why = "trains more than low-rank weights"
    elif config.get("layers_to_transform") or isinstance(config.get("target_modules"), str):
        why = "chooses its layers by position or pattern"
    else:
        return
    raise UsageError(
        f"the variant to start from {why}, so that no other can be stacked on it",
        place="adapter",
        value=variant.name,
        remedy="Set on_top to continue, or start from another variant.",
    )


def _lay_on_top(model: Any) -> None:
    """Both adapters answer; only the new one learns, and nothing of the old one is dropped at random."""
    import torch

    model.base_model.set_adapter([BENEATH, NEW])
    for name, weight in model.named_parameters():
        weight.requires_grad_(f".{NEW}." in name and "lora_" in name)
    for module in model.modules():
        if BENEATH in getattr(module, "lora_dropout", {}):
            module.lora_dropout[BENEATH] = torch.nn.Identity()


def join_stacked(model: Any) -> str:
    """Join the trained adapter and the one beneath it into one of the same effect; the name to publish.

    Returns:
        `joined`, or `default` where nothing lies beneath.
    """
    if BENEATH not in model.peft_config:
        return NEW
    from peft.tuners.tuners_utils import cast_adapter_dtype

    from workbench.models.loading import quiet_peft

    tuner = model.base_model
    inject = tuner.inject_adapter

    def inject_in_full(*args: Any, **kwargs: Any) -> None:
        inject(*args, **kwargs)
        cast_adapter_dtype(model, adapter_name=JOINED)

    # PEFT folds each adapter's own scale into the joined weights and sets alpha to the joined rank, which is a scale of
    # 1 only without the square root of rank-stabilised LoRA.
    model.peft_config[NEW].use_rslora = False
    # It would round the joined weights to a half-precision base's format; those of the two are float32.
    tuner.inject_adapter = inject_in_full
    try:
        with quiet_peft():
            tuner.add_weighted_adapter([NEW, BENEATH], [1.0, 1.0], JOINED, combination_type="cat")
    finally:
        del tuner.inject_adapter
    return JOINED
