"""Options made from config classes, so that a field is described once and is a form, an option and a saved spec.

`with_config(SFTConfig)` gives a command one option per field: `learning_rate` becomes `--learning-rate`, its docstring
the help. Texts are handed to the config class, which checks bounds and says what does not hold.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from enum import EnumType
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from workbench.cli.output import option_name, told_as_options
from workbench.errors import UsageError

_BOUNDS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))


def with_config(
    config: type[BaseModel], *, arguments: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command one option per field of a config class.

    The decorated function takes `options`, the fields that were given, beside its own parameters.

    Args:
        config: the config class.
        arguments: fields that may be given by position, in this order, instead of by their option.
    """
    fields = config.model_fields

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(function).parameters.values()
            if parameter.name != "options"
        ]
        made = [_argument(name, fields[name]) for name in arguments]
        # A command's own options come first, then the config's, those for experts last.
        made += [_option(name, field) for name, field in sorted(fields.items(), key=lambda item: _advanced(item[1]))]

        def command(**given: Any) -> Any:
            with told_as_options(fields):
                options = _collect(fields, arguments, given)
                return function(options=options, **given)

        functools.update_wrapper(command, function)
        command.__signature__ = inspect.Signature([*own, *made])  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *made)}
        del command.__dict__["__wrapped__"]  # typer would look through to the function without the options
        return command

    return decorate


def _collect(fields: Mapping[str, FieldInfo], arguments: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
    """Take the config's fields out of what was given; fields that were left alone stay out."""
    options = {}
    for name, field in fields.items():
        value = given.pop(name)
        placed = given.pop(_placed(name)) if name in arguments else None
        if placed is not None and value not in (None, []):
            raise UsageError("given twice, by position and by option", place=name, remedy="Leave one of them out.")
        value = value if placed is None else placed
        if value is not None and value != []:
            try:
                options[name] = read_value(field.annotation, value)
            except UsageError as error:
                raise UsageError(error.what, place=name, value=error.value, remedy=error.remedy) from error
    return options


def read_value(annotation: Any, given: Any) -> Any:
    """What was typed, in the form the field takes; whether it holds is left to the config class.

    Args:
        annotation: the field's type.
        given: a text, a list of texts for repeatable options, or a bool.
    """
    if isinstance(given, bool):
        return given
    if isinstance(given, list):
        return _read_list(annotation, given)
    members = _members(annotation)
    if type(None) in members and given.strip().lower() in ("none", "null"):
        return None
    if members & {int, float} and members & {str}:
        # A text field that also takes a number means the number where the text is one.
        return _as_number(given)
    if any(_is_structure(member) for member in members):
        return _read_yaml(given)
    return given


def _read_list(annotation: Any, given: list[str]) -> Any:
    members = _members(annotation)
    if any(get_origin(member) is dict for member in members):
        return {name: value for text in given for name, value in _read_pairs(text).items()}
    if len(given) == 1:
        if any(get_origin(member) is Literal and given[0] in get_args(member) for member in members):
            return given[0]
        if type(None) in members and given[0].strip().lower() in ("none", "null"):
            return None
    return given


def _read_pairs(text: str) -> dict[str, Any]:
    if text.lstrip().startswith("{"):
        read = _read_yaml(text)
        if isinstance(read, dict):
            return read
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError("a pair NAME=VALUE is needed", value=text, remedy="Write it as NAME=VALUE.")
    return {name.strip(): value.strip()}


def _read_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError("this is neither JSON nor YAML", value=text, remedy="Write it as JSON.") from error


def _as_number(text: str) -> int | float | str:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


# From a field to a parameter ----------------------------------------------------------------------------------------


def _members(annotation: Any) -> set[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return {inner for member in get_args(annotation) for inner in _members(member)}
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    return {annotation}


def _repeats(annotation: Any) -> bool:
    return any((get_origin(member) or member) in (tuple, list, set, frozenset, dict) for member in _members(annotation))


def _is_structure(member: Any) -> bool:
    return isinstance(member, type) and issubclass(member, BaseModel)


def _argument(name: str, field: FieldInfo) -> inspect.Parameter:
    annotation = Annotated[str | None, typer.Argument(metavar=name.upper(), help=_help(field), show_default=False)]
    return inspect.Parameter(_placed(name), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _placed(name: str) -> str:
    return f"{name}_by_position"


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    flag, members = option_name(name), _members(field.annotation)
    taken: Any = str | None
    settings: dict[str, Any] = {"help": _help(field), "show_default": False, "rich_help_panel": _panel(field)}
    if members <= {bool, type(None)}:
        taken, flag = bool | None, f"{flag}/--no-{name.replace('_', '-')}"
    else:
        if _repeats(field.annotation):
            taken = list[str] | None
        settings["metavar"] = _metavar(members)
    annotation = Annotated[taken, typer.Option(flag, **settings)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _metavar(members: set[Any]) -> str:
    words = [str(choice) for member in members if get_origin(member) is Literal for choice in get_args(member)]
    enums: list[Any] = [member for member in members if isinstance(member, EnumType)]
    words += [str(choice.value) for enum in enums for choice in enum]
    if words:
        return "|".join(words)
    if any(get_origin(member) is dict for member in members):
        return "NAME=VALUE"
    if Path in members:
        return "PATH"
    numeric = members & {int, float}
    return "TEXT" if str in members or not numeric else "NUMBER"


def _extra(field: FieldInfo) -> Mapping[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _advanced(field: FieldInfo) -> bool:
    return bool(_extra(field).get("advanced"))


def _panel(field: FieldInfo) -> str:
    return str(_extra(field).get("group") or "Settings")


def _help(field: FieldInfo) -> str:
    told = []
    if field.default is not PydanticUndefined and field.default not in (None, "", ()) and not callable(field.default):
        default = field.default
        told.append(f"default {', '.join(map(str, default)) if isinstance(default, tuple) else default}")
    for attribute, words in _BOUNDS:
        told += [f"{words} {getattr(bound, attribute)}" for bound in field.metadata if hasattr(bound, attribute)]
    if _repeats(field.annotation):
        told.append("may be given several times")
    text = " ".join((field.description or "").split())
    return f"{text} ({'; '.join(told)})" if told else text
