"""Options are made from config classes: each field is one, with its docstring, its bounds and its name in errors."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel

from workbench.cli import COMMANDS, load_command
from workbench.cli.options import read_value
from workbench.datasets.importing import ImportConfig
from workbench.errors import UsageError
from workbench.evaluation.tasks import AnswerConfig
from workbench.generation.configs import ServeConfig
from workbench.models.adding import AddModelConfig
from workbench.records import Sampling
from workbench.runs.tour import TourConfig
from workbench.self_instruct.configs import SelfInstructConfig
from workbench.training.configs import SFTConfig

COMMANDS_OF_CONFIGS: list[tuple[tuple[str, ...], type[BaseModel]]] = [
    (("data", "import"), ImportConfig),
    (("train", "sft"), SFTConfig),
    (("self-instruct", "start"), SelfInstructConfig),
    (("models", "add"), AddModelConfig),
    (("compare",), AnswerConfig),
    (("generate",), Sampling),
    (("serve",), ServeConfig),
    (("tour",), TourConfig),
]


def find_command(path: tuple[str, ...]) -> Any:
    command = load_command(path[0])
    for name in path[1:]:
        command = command.commands[name]
    return command


@pytest.mark.parametrize(("path", "config"), COMMANDS_OF_CONFIGS, ids=lambda value: getattr(value, "__name__", None))
def test_every_field_of_a_config_is_an_option_with_its_docstring(
    path: tuple[str, ...], config: type[BaseModel]
) -> None:
    options = {opt: parameter for parameter in find_command(path).params for opt in parameter.opts}
    for name, field in config.model_fields.items():
        option = options.get("--" + name.replace("_", "-"))
        assert option is not None, f"{' '.join(path)} has no option for {name}"
        assert field.description, f"{config.__name__}.{name} has no docstring"
        assert " ".join(field.description.split()) in option.help


def leaves(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if not inner:
        return [(path, command)]
    return [leaf for name, child in inner.items() for leaf in leaves(child, (*path, name))]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_speaks_json_and_has_a_help_text(name: str) -> None:
    for path, command in leaves(load_command(name), (name,)):
        assert "--json" in {opt for parameter in command.params for opt in parameter.opts}, path
        assert command.help, path


def test_the_line_in_the_help_is_there_for_every_command() -> None:
    assert all(line.endswith(".") for _, line in COMMANDS.values())


@pytest.mark.parametrize(
    ("annotation", "given", "read"),
    [
        (float | str | None, "0.05", 0.05),
        (float | str | None, "my held-out set", "my held-out set"),
        (float | str | None, "none", None),
        (int | None, "NONE", None),
        (int, "12", "12"),
        (str, "none", "none"),
        (bool, True, True),
        (tuple[str, ...], ["a", "b"], ["a", "b"]),
        (Literal["all-linear"] | tuple[str, ...], ["all-linear"], "all-linear"),
        (Literal["all-linear"] | tuple[str, ...], ["q_proj"], ["q_proj"]),
        (dict[str, str], ["instruction=q", "output=a=b"], {"instruction": "q", "output": "a=b"}),
        (dict[str, str], ['{"instruction": "q"}'], {"instruction": "q"}),
        (Sampling, "{temperature: 0}", {"temperature": 0}),
    ],
)
def test_what_is_typed_is_read_as_the_field_takes_it(annotation: Any, given: Any, read: Any) -> None:
    assert read_value(annotation, given) == read


def test_a_pair_without_an_equals_sign_is_refused() -> None:
    with pytest.raises(UsageError, match="NAME=VALUE"):
        read_value(dict[str, str], ["instruction"])
