"""Whether a new adapter's rank is larger than layers it lies on: legal, and a waste, said alike for every method.

LoRA adds B·A of rank r to a weight of [outputs, inputs]; such a product has at most the rank min(outputs, inputs), so
what goes beyond can learn nothing more and costs memory and time. PEFT takes it, and the result is a sound adapter:
hence a warning and no refusal. A reward model's score head, of one output, carries no LoRA: it is trained whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.job import Job
from workbench.records import Model
from workbench.training.configs import TrainingConfig

if TYPE_CHECKING:
    from workbench.datasets.checks import Finding

ADAPTER = "default"
"""Name of the trained adapter in the PEFT model."""


def large_rank(rank: int, sides: Mapping[str, int]) -> str | None:
    """That a rank is larger than layers, in words; None where it is not.

    Args:
        rank: of the adapter.
        sides: of each layer it lies on by name, the smaller of inputs and outputs.
    """
    narrow: dict[str, int] = {}
    for name, side in sides.items():
        if side < rank:
            kind = name.rpartition(".")[2]
            narrow[kind] = min(side, narrow.get(kind, side))
    if not narrow:
        return None
    told = ", ".join(f"{name} ({side})" for name, side in sorted(narrow.items()))
    return (
        f"The adapter's rank {rank} is larger than layers it lies on: {told}. That is allowed, but a rank beyond a "
        "layer's smaller side adds memory and time, and nothing that can be learnt. Set lora_r to at most "
        f"{min(narrow.values())}, or leave these layers out of target_modules."
    )


def tell_large_rank(model: Any, job: Job) -> list[str]:
    """Warn of a new adapter's rank where it is larger than a layer: in the run's log and on its page.

    Args:
        model: the PEFT model as it is trained.
        job: the run.

    Returns:
        The warning; empty where there is none to give.
    """
    rank, sides = 0, {}
    for name, module in model.named_modules():
        if ADAPTER in getattr(module, "lora_A", {}) and hasattr(module, "in_features"):
            rank = max(rank, int(module.r[ADAPTER]))
            sides[name] = min(int(module.in_features), int(module.out_features))
    found = large_rank(rank, sides)
    if found is None:
        return []
    job.log(f"WARNING: {found}")
    job.result(warnings=[found])
    return [found]


def check_rank(config: TrainingConfig, model: Model) -> list[Finding]:
    """The same before a run is launched, from the shapes in the base's files.

    Args:
        config: the method's settings; one that goes on from an adapter has that one's rank, and nothing is said of it.
        model: the base.

    Raises:
        ModelProblem: the base's files are missing or damaged.
    """
    from workbench.datasets.checks import Finding

    if config.adapter and getattr(config, "on_top", "continue") == "continue":
        return []
    found = large_rank(config.lora_r, _sides_in_files(model, config.target_modules))
    if found is None:
        return []
    message, _, remedy = found.rpartition(". ")
    return [Finding(gate="large_rank", severity="soft", count=0, row_ids=(), message=f"{message}.", remedy=remedy)]


def _sides_in_files(model: Model, targets: str | tuple[str, ...]) -> dict[str, int]:
    """The smaller side of each layer that would get an adapter."""
    from workbench.training.forecast import is_target, linear_layers

    layers = linear_layers(Path(model.path)) if model.path is not None else []
    sides = {layer.name.removesuffix(".weight"): min(layer.inputs, layer.outputs) for layer in layers}
    return {name: side for name, side in sides.items() if is_target(name, targets)}
