"""A run's config as things to copy: a command line, a Python cell, a YAML spec.

Pure functions of (kind, config). They name only what differs from the defaults (and from the chosen preset), so that
what is copied stays short, and they give the same config again when they are read.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from workbench.records import RunConfig
from workbench.runs.kinds import parse_config, training_kinds

VERBS = {
    "import": ("data", "import"),
    "add_model": ("models", "add"),
    "sft": ("train", "sft"),
    "answer": ("compare",),
    "sample": ("rank", "create"),
    "score": ("reward", "score"),
    "kl": ("models", "kl"),
    "self_instruct": ("self-instruct", "start"),
    "serve": ("serve",),
    "tour": ("tour",),
}
"""Command of each kind; a training kind that is not named here is `train <kind>`."""


def changed_fields(kind: str, config: RunConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The fields that make this config: the required ones, the preset, and what differs from what those imply.

    Raises:
        UsageError: the config does not hold.
    """
    checked = parse_config(kind, config)
    cls = type(checked)
    values = checked.model_dump(mode="json")
    given = {name: values[name] for name, field in cls.model_fields.items() if field.is_required() or name == "preset"}
    implied = cls.model_validate(given).model_dump(mode="json")
    plain_default = {name: field.default for name, field in cls.model_fields.items()}
    kept = {}
    for name, value in values.items():
        if name in given:
            if name != "preset" or value != plain_default.get("preset"):
                kept[name] = value
        elif value != implied[name]:
            kept[name] = value
    return kept


def as_command(kind: str, config: RunConfig | Mapping[str, Any]) -> str:
    """The command line that launches the run.

    A list is an option said several times, a mapping one said as NAME=VALUE; `none` stands for no value.
    """
    parts = [" ".join(("workbench", *VERBS.get(kind, ("train", kind))))]
    for name, value in changed_fields(kind, config).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            parts.append(option if value else f"--no-{option[2:]}")
        else:
            if isinstance(value, dict):
                value = [f"{key}={_word(item)}" for key, item in value.items()]
            for item in value if isinstance(value, list) else [value]:
                parts.append(f"{option} {shlex.quote(_word(item))}")
    line = " ".join(parts)
    return line if len(line) <= 100 else " \\\n  ".join(parts)


def as_python(kind: str, config: RunConfig | Mapping[str, Any]) -> str:
    """A Python cell that launches the run and waits for it."""
    fields = changed_fields(kind, config)
    lines = ["from workbench import Workspace", "", "ws = Workspace()"]
    if kind in {training.name for training in training_kinds()}:
        # `train` fills in the bundled model; what is said here is said on purpose.
        call = [repr(kind), repr(fields.pop("dataset")), *(f"{name}={value!r}" for name, value in fields.items())]
        lines.append(_call("run = ws.train", call))
    else:
        lines.append(_call("run = ws.launch", [repr(kind), repr(fields)]))
    lines.append("run = ws.wait(run.id)")
    return "\n".join(lines)


def as_yaml(kind: str, config: RunConfig | Mapping[str, Any]) -> str:
    """The spec as YAML: `kind` and the fields."""
    import yaml

    spec = {"kind": kind, **changed_fields(kind, config)}
    text: str = yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=100)
    return text


def _word(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _call(function: str, arguments: list[str]) -> str:
    line = f"{function}({', '.join(arguments)})"
    return line if len(line) <= 100 else f"{function}(\n" + "".join(f"    {item},\n" for item in arguments) + ")"
