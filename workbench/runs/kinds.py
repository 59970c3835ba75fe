"""The one table of run kinds: config class and work function, both named as strings, and the slot class.

A new kind of run is a config class, a file with one function, and a line here; its form, its command-line options and
its saved spec are made from the config class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from workbench.errors import UsageError
from workbench.job import Job
from workbench.records import RunConfig
from workbench.settings import Settings, get_settings
from workbench.store.database import Store


@dataclass(frozen=True)
class Kind:
    """A kind of run."""

    name: str
    """Key in the store and on the command line."""
    title: str
    """Words for pages."""
    config: str
    """`module:Class` of the `RunConfig`."""
    work: str
    """`module:function`, called as `work(config, job)` in the worker."""
    slot: str
    """train, bulk, io, flow or service."""
    check: str = ""
    """`module:function`, called as `check(store, config)` before a run is launched: what a config names that is not
    there, or that does not go together, is told at once and not by a run that fails."""

    def load_config(self) -> type[RunConfig]:
        """The config class."""
        found: type[RunConfig] = _load(self.config)
        return found

    def load_work(self) -> Callable[[RunConfig, Job], Mapping[str, Any] | None]:
        """The work function; called in workers only, since it may import torch."""
        found: Callable[[RunConfig, Job], Mapping[str, Any] | None] = _load(self.work)
        return found


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


_TABLE = (
    Kind(
        "import",
        "Import",
        "workbench.datasets.importing:ImportConfig",
        "workbench.datasets.importing:import_file",
        "io",
    ),
    Kind("add_model", "Add model", "workbench.models.adding:AddModelConfig", "workbench.models.adding:add_model", "io"),
    Kind(
        "sft",
        "Supervised fine-tune",
        "workbench.training.configs:SFTConfig",
        "workbench.training.sft:train_sft",
        "train",
        "workbench.training.checking:check_training",
    ),
    Kind(
        "reward",
        "Reward model",
        "workbench.training.reward_configs:RewardConfig",
        "workbench.training.reward:train_reward",
        "train",
        "workbench.training.checking:check_training",
    ),
    Kind(
        "dpo",
        "DPO on preferences",
        "workbench.training.preference_configs:DPOConfig",
        "workbench.training.dpo:train_dpo",
        "train",
        "workbench.training.checking:check_training",
    ),
    Kind(
        "kto",
        "KTO on preferences",
        "workbench.training.preference_configs:KTOConfig",
        "workbench.training.kto:train_kto",
        "train",
        "workbench.training.checking:check_training",
    ),
    Kind(
        "rloo",
        "RLHF by RLOO",
        "workbench.training.rl_configs:RLOOConfig",
        "workbench.training.rlhf:train_rloo",
        "train",
        "workbench.training.checking:check_training",
    ),
    Kind(
        "grpo",
        "RLHF by GRPO",
        "workbench.training.rl_configs:GRPOConfig",
        "workbench.training.rlhf:train_grpo",
        "train",
        "workbench.training.checking:check_training",
    ),
    Kind("serve", "Engine", "workbench.generation.configs:ServeConfig", "workbench.generation.server:serve", "service"),
    Kind(
        "answer",
        "Answer prompts",
        "workbench.evaluation.tasks:AnswerConfig",
        "workbench.evaluation.tasks:answer_prompts",
        "bulk",
    ),
    Kind(
        "sample",
        "Sample answers to rank",
        "workbench.evaluation.sampling:SampleConfig",
        "workbench.evaluation.sampling:sample_answers",
        "bulk",
    ),
    Kind(
        "self_instruct",
        "Self-instruct",
        "workbench.self_instruct.configs:SelfInstructConfig",
        "workbench.self_instruct.rounds:grow_dataset",
        "bulk",
        "workbench.self_instruct.rounds:check_grow",
    ),
    Kind(
        "score",
        "Score answers",
        "workbench.training.score:ScoreConfig",
        "workbench.training.score:score_answers",
        "bulk",
        "workbench.training.score:check_score",
    ),
    Kind(
        "kl",
        "KL between variants",
        "workbench.training.divergence:KLConfig",
        "workbench.training.divergence:measure_kl",
        "bulk",
        "workbench.training.divergence:check_kl",
    ),
    Kind("demo", "Demo", "workbench.demo.configs:DemoConfig", "workbench.demo.serve:serve_demo", "service"),
    Kind(
        "export",
        "Export",
        "workbench.evaluation.export_run:ExportConfig",
        "workbench.evaluation.export_run:export_variant",
        "io",
        "workbench.evaluation.export_run:check_export",
    ),
    Kind("tour", "Tour", "workbench.runs.tour:TourConfig", "workbench.runs.tour:take_tour", "flow"),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in _TABLE}


def all_kinds() -> dict[str, Kind]:
    """Our own kinds and those that the setting `kinds` names."""
    named = get_settings().kinds
    return KINDS | {kind.name: kind for kind in _load(named)} if named else KINDS


def training_kinds() -> list[Kind]:
    """Kinds that train, in the order of the table."""
    return [kind for kind in KINDS.values() if kind.slot == "train"]


def slot_limits(settings: Settings) -> dict[str, int]:
    """How many runs of each slot class may be at work at once; services never queue."""
    return {"train": settings.train_slots, "bulk": 1, "io": 2, "flow": 1, "service": 10_000}


def get_kind(name: str) -> Kind:
    """The kind of this name.

    Raises:
        UsageError: there is none.
    """
    kinds = all_kinds()
    if name not in kinds:
        raise UsageError("no such kind of run", value=name, remedy=f"Kinds are {', '.join(kinds)}.")
    return kinds[name]


def parse_config(kind: str, config: RunConfig | Mapping[str, Any]) -> RunConfig:
    """A kind's config from its fields, checked.

    Raises:
        UsageError: a field is unknown, missing or out of bounds; names the field and the value.
    """
    cls = get_kind(kind).load_config()
    if isinstance(config, cls):
        return config
    try:
        return cls.model_validate(config.model_dump() if isinstance(config, RunConfig) else dict(config))
    except ValidationError as error:
        raise config_problem(error) from error


def check_launch(store: Store, kind: str, config: RunConfig) -> None:
    """What a kind says of a config before a run is launched; nothing where it has no check.

    Raises:
        WorkbenchError: something is not there, or does not go together.
    """
    if check := get_kind(kind).check:
        _load(check)(store, config)


def config_problem(error: ValidationError) -> UsageError:
    """The first problem of a validation, in words, with the number of others."""
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    # A field that takes several types has a problem for each of them.
    same = [each for each in problems if each["loc"][:1] == first["loc"][:1]]
    fields = len({each["loc"][:1] for each in problems})
    more = f" {fields - 1} more field(s) do not hold either." if fields > 1 else ""
    told = dict.fromkeys(str(each["msg"]).removeprefix("Value error, ") for each in same)
    message = "; or ".join(each[:1].lower() + each[1:] for each in told)
    value = first.get("input") if first["type"] != "missing" and first["loc"] else None
    place = ".".join(str(part) for at, part in enumerate(first["loc"]) if at == 0 or isinstance(part, int)) or "config"
    return UsageError(message, place=place, value=value, remedy=f"Change it and try again.{more}")
