"""A form from a config class: widgets from its fields' types, bounds, defaults, docstrings and groups.

Every run kind's form is made here, so a new setting is a new field and nothing else. Widgets are not put into an
`st.form`: the forecast beside them follows each change. Values live in the session under `<form>.<field>`;
the page keeps them as a draft in the store.

    values = config_form(SFTConfig, key="new_run.sft", skip={"dataset", "model"})
    config = checked_config("sft", {**values, "dataset": …}, SFTConfig)
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import EnumType
from typing import Any, Literal, Union, get_args, get_origin

import streamlit as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from workbench.errors import WorkbenchError
from workbench.records import RunConfig
from workbench.ui.errors import field_problems, show_problem
from workbench.ui.text import plain

OTHER = "Settings"
NOTHING = "none"
LABELS = {"lora_r": "lora_rank", "eval_every": "measure_every", "max_length": "longest_row", "lr_scheduler": "schedule"}
"""Fields whose name says less than another word."""


def put_values(key: str, values: Mapping[str, Any]) -> None:
    """Set some of a form's values; only before its widgets are drawn or in a callback.

    Args:
        key: the form's key.
        values: by field name, as the config class takes them.
    """
    given = st.session_state.setdefault(f"{key}:given", {})
    given |= dict(values)
    for name in values:
        st.session_state.pop(f"{key}.{name}", None)


def has_values(key: str, config_class: type[RunConfig]) -> bool:
    """Whether this session has values of the form."""
    return f"{key}:given" in st.session_state or any(
        f"{key}.{name}" in st.session_state for name in config_class.model_fields
    )


def given_value(key: str, config_class: type[RunConfig], name: str) -> Any:
    """Where a field's widget starts: what `put_values` gave, or the class's default (None where it has none)."""
    given: Mapping[str, Any] = st.session_state.get(f"{key}:given", {})
    if name in given:
        return given[name]
    field = config_class.model_fields[name]
    return None if field.is_required() else field.get_default(call_default_factory=True)


def config_form(
    config_class: type[RunConfig],
    *,
    key: str,
    skip: Collection[str] = (),
    columns: int = 3,
    on_change: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Draw a widget for every field, by group, advanced ones folded away below their group.

    Args:
        config_class: the kind's config class.
        key: prefix of the widgets' session keys.
        skip: fields the page draws by itself.
        columns: most widgets beside each other.
        on_change: called when a value changes.

    Returns:
        Raw values by field name; check them with `checked_config`.
    """
    values: dict[str, Any] = {}
    groups: dict[str, tuple[list[str], list[str]]] = {}
    for name, field in config_class.model_fields.items():
        if name not in skip:
            plain_fields, advanced = groups.setdefault(_extra(field, "group") or OTHER, ([], []))
            (advanced if _extra(field, "advanced") else plain_fields).append(name)

    def draw(part: int) -> None:
        for row in _packed({group: both[part] for group, both in groups.items() if both[part]}, columns):
            # Bottom alignment puts fields without a heading of their own beside the one that carries it.
            grid = st.grid(columns, min_column_width=200, vertical_alignment="bottom")
            for group, names in row:
                for place, name in enumerate(names):
                    with grid.cell():
                        if place == 0:
                            st.markdown(f"**{group}**")
                        start, field = given_value(key, config_class, name), config_class.model_fields[name]
                        values[name] = draw_field(name, field, f"{key}.{name}", start, on_change)

    draw(0)
    if any(advanced for _, advanced in groups.values()):
        with st.expander("Advanced settings", icon=":material/tune:"):
            draw(1)
    return {name: values[name] for name in config_class.model_fields if name in values}


def _packed(groups: Mapping[str, Sequence[str]], columns: int) -> list[list[tuple[str, Sequence[str]]]]:
    """Groups put beside each other while their fields fit one row."""
    rows: list[list[tuple[str, Sequence[str]]]] = []
    room = 0
    for group, names in groups.items():
        if len(names) > room:
            rows.append([])
            room = columns
        rows[-1].append((group, names))
        room -= len(names)
    return rows


def checked_config(
    config_class: type[RunConfig], values: Mapping[str, Any], *, quiet: bool = False
) -> RunConfig | None:
    """The config of these values; None, after saying in words what does not hold, where it is none.

    Args:
        config_class: the kind's config class.
        values: by field name.
        quiet: say nothing.
    """
    try:
        return config_class.model_validate(dict(values))
    except ValidationError as error:
        if not quiet:
            for name, sentence in field_problems(error).items():
                st.error(
                    f"**{label_of(name)}**: {plain(sentence)}" if name else plain(sentence), icon=":material/error:"
                )
    except WorkbenchError as error:
        if not quiet:
            show_problem(error)
    return None


def label_of(name: str) -> str:
    """A field's name as a label: `lora_r` becomes `LoRA rank`."""
    name = LABELS.get(name, name)
    words = name.replace("_", " ")
    for written, shown in (("rslora", "rsLoRA"), ("lora", "LoRA"), ("dora", "DoRA"), ("dtype", "number format")):
        words = words.replace(written, shown)
    return words[:1].upper() + words[1:]


def draw_field(name: str, field: FieldInfo, key: str, start: Any, on_change: Callable[[], None] | None = None) -> Any:
    """One field's widget and its raw value.

    Args:
        name: the field's name.
        field: pydantic's description of it.
        key: session key of the widget.
        start: value on the first drawing.
        on_change: called when the value changes.
    """
    common: dict[str, Any] = {"key": key, "help": field.description, "on_change": on_change or "rerun"}
    common["persist_state"] = "session"
    label = label_of(name)
    kinds, optional = _kinds(field.annotation)
    if bool in kinds:
        _seed(key, bool(start))
        return st.toggle(label, **common)
    choices: list[Any] = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    choices += [member for kind in kinds if isinstance(kind, EnumType) for member in list[Any](kind)]
    listed = [kind for kind in kinds if get_origin(kind) in (tuple, list)]
    if listed:
        return _draw_list(label, key, start, choices, common, offered=_extra(field, "choices") or ())
    if choices:
        # A selectbox that holds None shows as empty, so "no value" is a word of its own.
        options = [*([NOTHING] if optional else []), *choices]
        _seed(key, start if start in options else options[0])
        picked = st.selectbox(label, options, format_func=str, **common)
        return None if optional and picked == NOTHING else picked
    if kinds in ({int}, {float}, {int, float}):
        return _draw_number(label, field, key, start, common, whole=kinds == {int}, optional=optional)
    if any(get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)) for kind in kinds):
        _seed(key, _as_json(start))
        return _read_json(st.text_area(label, **common))
    _seed(key, "" if start in (None,) or _undefined(start) else _written(start))
    text = st.text_input(label, placeholder=_placeholder(optional), **common)
    return _read_text(text or "", kinds, optional)


def _draw_number(
    label: str, field: FieldInfo, key: str, start: Any, common: dict[str, Any], *, whole: bool, optional: bool
) -> Any:
    low, high = _bounds(field, whole=whole)
    empty = start is None or _undefined(start)
    value = None if empty and optional else _within(start, low, high)
    if value is None and not optional:
        value = 0
    _seed(key, value if value is None else int(value) if whole else float(value))
    if optional:  # only then may the field be emptied
        common["value"] = None
    step: float = 1 if whole else _step(start)
    return st.number_input(
        label,
        min_value=low,
        max_value=high,
        step=step,
        format=None if whole else "%.6g",
        placeholder=_placeholder(optional),
        **common,
    )


def _draw_list(
    label: str, key: str, start: Any, choices: list[Any], common: dict[str, Any], *, offered: Sequence[str] = ()
) -> Any:
    # A literal beside a list (`"all-linear"`) is one more choice that stands alone; what is offered may be combined.
    words = [start] if isinstance(start, str) else [] if start is None or _undefined(start) else [str(x) for x in start]
    _seed(key, words)
    held = st.session_state[key]
    if isinstance(held, str | tuple):
        held = st.session_state[key] = [held] if isinstance(held, str) else list(held)
    options = list(dict.fromkeys([*map(str, choices), *offered, *words, *held]))
    placeholder = "Choose" if offered else "Type and press Enter"
    picked = st.multiselect(label, options, accept_new_options=not offered, placeholder=placeholder, **common)
    single = [word for word in picked if word in choices]
    return single[0] if single and len(picked) == 1 else tuple(picked)


def _seed(key: str, value: Any) -> None:
    if key not in st.session_state:
        st.session_state[key] = value


def _kinds(annotation: Any) -> tuple[set[Any], bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        parts = set(get_args(annotation))
        return parts - {type(None)}, type(None) in parts
    return {annotation}, False


def _extra(field: FieldInfo, name: str) -> Any:
    extra = field.json_schema_extra
    return extra.get(name) if isinstance(extra, dict) else None


def _bounds(field: FieldInfo, *, whole: bool) -> tuple[Any, Any]:
    low: float | None = None
    high: float | None = None
    for item in field.metadata:
        if (value := getattr(item, "ge", None)) is not None:
            low = value
        if (value := getattr(item, "gt", None)) is not None:
            low = value + 1 if whole else math.nextafter(value, math.inf)
        if (value := getattr(item, "le", None)) is not None:
            high = value
        if (value := getattr(item, "lt", None)) is not None:
            high = value - 1 if whole else math.nextafter(value, -math.inf)
    cast = int if whole else float
    limit = 2**53 - 1  # what the browser counts exactly
    return None if low is None else cast(low), None if high is None else cast(min(high, limit))


def _within(value: Any, low: Any, high: Any) -> Any:
    if value is None or _undefined(value):
        return low
    value = value if low is None else max(value, low)
    return value if high is None else min(value, high)


def _step(start: Any) -> float:
    if not isinstance(start, int | float) or start == 0:
        return 0.05
    return float(10.0 ** math.floor(math.log10(abs(start))))


def _undefined(value: Any) -> bool:
    return type(value).__name__ == "PydanticUndefinedType"


def _placeholder(optional: bool) -> str | None:
    return NOTHING if optional else None


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read_text(text: str, kinds: set[Any], optional: bool) -> Any:
    text = text.strip()
    if optional and text.lower() in ("", NOTHING):
        return None
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _as_json(value: Any) -> str:
    if value is None or _undefined(value):
        return "{}"
    return json.dumps(value.model_dump(mode="json") if isinstance(value, BaseModel) else value, indent=1)


def _read_json(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except ValueError:
        return text
