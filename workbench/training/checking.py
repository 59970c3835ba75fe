"""What can be told of a training run before it is launched, from names, shapes and settings alone.

What needs the rows rendered is told by the gates, on the form and again in the run.
"""

from __future__ import annotations

from pathlib import Path

from workbench.errors import DataProblem, ModelProblem, UsageError
from workbench.records import Model, Version
from workbench.store import models as model_store
from workbench.store.database import Store
from workbench.store.datasets import find_version
from workbench.training.configs import TrainingConfig
from workbench.training.reward_configs import RewardConfig
from workbench.training.rl_configs import RLConfig
from workbench.training.rows import Inputs, resolve_inputs


def check_training(store: Store, config: TrainingConfig) -> None:
    """Whether all that a config names is there and goes together.

    Args:
        store: the store.
        config: of any method.

    Raises:
        NotFound: a dataset, version, model, variant or reward model is not there.
        DataProblem: a dataset holds what the method does not learn from, or is held out from itself.
        UsageError: the adapter to go on from lies over another base, or layers are named that are not there.
        ModelProblem: the longest answer fills what the model reads.
    """
    from workbench.training.reward_models import get_reward_model

    inputs = resolve_inputs(store, config)
    model = model_store.get_model(store, inputs.model_id)
    _check_held_out(config, inputs)
    if isinstance(config, RLConfig):
        get_reward_model(store, config.reward)
        check_room(config, model)
    if isinstance(config, RewardConfig) and config.demonstrations is not None:
        find_demonstrations(store, config.demonstrations)
    _check_layers(config, model)


def find_demonstrations(store: Store, reference: str) -> Version:
    """The demonstrations a reward's zero is set by.

    Raises:
        NotFound: there is no such dataset.
        DataProblem: it holds no instructions.
    """
    dataset, version = find_version(store, reference)
    if dataset.kind != "instructions":
        raise DataProblem(
            f"demonstrations are instructions with their answers, but this dataset holds {dataset.kind}",
            place="demonstrations",
            value=dataset.name,
            remedy="Choose a dataset of instructions, or leave it empty.",
        )
    return version


def check_room(config: RLConfig, model: Model) -> None:
    """Whether a prompt fits beside the longest answer.

    Raises:
        ModelProblem: it does not.
    """
    context = model.info.get("context_length")
    if isinstance(context, int) and config.max_answer_tokens >= context:
        raise ModelProblem(
            f"{model.name} reads {context} tokens, which the longest answer fills",
            place="max_answer_tokens",
            value=config.max_answer_tokens,
            remedy="Lower max_answer_tokens.",
        )


def _check_held_out(config: TrainingConfig, inputs: Inputs) -> None:
    if inputs.held_out_version_id == inputs.version_id and not config.overrule_gates:
        raise DataProblem(
            "these are the rows it trains on, so that nothing measured on them would mean anything",
            place="held_out",
            value=config.held_out,
            remedy="Choose another dataset, or a share such as 0.05.",
        )


def _check_layers(config: TrainingConfig, model: Model) -> None:
    from workbench.training.forecast import weight_matrices

    if config.target_modules == "all-linear" or model.path is None or config.overrule_gates:
        return
    # Norms and biases are no matrices; an embedding is one that can have an adapter, too.
    known = {layer.name.removesuffix(".weight").rpartition(".")[2] for layer in weight_matrices(Path(model.path))}
    # A name may have a path before it, as in self_attn.q_proj; that path may differ between files and loaded model.
    unknown = [name for name in config.target_modules if name.rpartition(".")[2] not in known]
    if known and unknown:
        raise UsageError(
            f"{model.name} has no layers of these names that an adapter can lie on",
            place="target_modules",
            value=", ".join(unknown),
            remedy=f"Its files have {', '.join(sorted(known))}; all-linear takes all linear ones. Where a layer is "
            "called otherwise once the model is loaded, set overrule_gates.",
        )
