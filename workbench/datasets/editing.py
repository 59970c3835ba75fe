"""What can be done to one row by hand: its tags, the rules it keeps, and rows written as JSON.

How the edits of two people come together is left to `merging`, finding and replacing to `replacing`, what is typed but
not saved to `row_drafts`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import JsonValue

from workbench.datasets.formats import label_of, weight_of
from workbench.datasets.payloads import encode_payload, payload_from_plain, plain_message, plain_payload
from workbench.datasets.readers import CELL_LIMIT
from workbench.datasets.turns import CellProblem, check_turns, decode_cell, messages_of, required_text
from workbench.errors import DataProblem, UsageError
from workbench.records import DatasetKind, Example, Labelled, Message, Payload, Preference

TAG_LENGTH = 60


class Problem(NamedTuple):
    """Why a row cannot be stored as it is."""

    place: str
    """Which part of the row; empty for its turns."""
    what: str
    """What is wrong, in plain words."""
    remedy: str
    """What to do."""

    def sentence(self) -> str:
        """The whole message on one line."""
        head = f"{self.place}: {self.what}" if self.place else self.what
        return f"{head[:1].upper()}{head[1:]}. {self.remedy}"


def clean_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags without empty or repeated ones, spaces evened out, in order.

    Raises:
        UsageError: one is longer than 60 characters.
    """
    kept = list(dict.fromkeys(filter(None, (" ".join(tag.split()) for tag in tags))))
    for tag in kept:
        if len(tag) > TAG_LENGTH:
            raise UsageError("a tag is longer than 60 characters", place="tags", value=tag, remedy="Shorten it.")
    return tuple(kept)


def tags_of(meta: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """The tags in a row's `meta.tags`: a list, or text separated by commas as some files have it."""
    value = meta.get("tags")
    if isinstance(value, str):
        value = [*value.split(",")]
    if not isinstance(value, list):
        return ()
    return tuple(dict.fromkeys(filter(None, (" ".join(tag.split()) for tag in value if isinstance(tag, str)))))


def with_tags(payload: Payload, tags: Iterable[str]) -> Payload:
    """The payload with exactly these tags in `meta.tags`; the same payload where it has them already."""
    wanted = clean_tags(tags)
    if wanted == tags_of(payload.meta):
        return payload
    meta = {key: value for key, value in payload.meta.items() if key != "tags"}
    if wanted:
        meta["tags"] = list(wanted)
    return payload.model_copy(update={"meta": meta})


def check_payload(payload: Payload) -> list[Problem]:
    """What keeps a row from being stored: the rules that an import keeps too.

    Returns:
        Problems in plain words, none for a sound row.
    """
    problems: list[Problem] = []
    if isinstance(payload, Preference):
        problems += _check_messages(payload.prompt, "prompt", "user")
        if not problems:
            for name, answer in (("better answer", payload.chosen), ("worse answer", payload.rejected)):
                problems += _check_messages((*payload.prompt, *answer), name, "assistant")
        if payload.chosen == payload.rejected:
            problems.append(Problem("", "both answers are the same", "Change one, or delete the row."))
    elif isinstance(payload, Labelled):
        problems += _check_messages(payload.prompt, "prompt", "user")
        problems += [] if problems else _check_messages((*payload.prompt, *payload.completion), "answer", "assistant")
    else:
        problems += _check_messages(payload.messages, "", "assistant" if isinstance(payload, Example) else "user")
    if isinstance(payload, Example) and payload.tools is not None:
        for number, tool in enumerate(payload.tools, start=1):
            if not isinstance(tool, dict):
                problems.append(Problem("tools", f"tool {number} is not an object", 'Write [{"type": "function", …}].'))
    try:
        encode_payload(payload)
    except DataProblem as error:
        problems.append(Problem(error.place, error.what, error.remedy))
    return problems


def _check_messages(messages: Sequence[Message], place: str, ends_with: str) -> list[Problem]:
    found = check_turns([plain_message(message) for message in messages], ends_with=ends_with)
    problems = [Problem(place, found[0], found[1].replace("drop the row", "delete the turn"))] if found else []
    for number, message in enumerate(messages, start=1):
        if len(message.content) > CELL_LIMIT:
            problems.append(Problem(place, f"turn {number} is longer than 20 MB", "Shorten it."))
        if message.tool_calls is None:
            continue
        if message.role != "assistant":
            problems.append(
                Problem(place, f"turn {number} ({message.role}) calls tools", "Only an assistant turn calls tools.")
            )
        elif not all(isinstance(call, dict) for call in message.tool_calls):
            problems.append(
                Problem(place, f"turn {number} has a tool call that is no object", 'Write [{"function": …}].')
            )
    return problems


def require_sound(payload: Payload, *, place: str = "") -> None:
    """Refuse a row that `check_payload` finds something about.

    Raises:
        DataProblem: with the first problem.
    """
    for problem in check_payload(payload):
        where = ", ".join(part for part in (place, problem.place) if part)
        raise DataProblem(problem.what, place=where, remedy=problem.remedy)


def payload_from_json(kind: DatasetKind, value: Any, *, place: str = "row") -> Payload:
    """A row written by hand as JSON.

    Args:
        kind: what the dataset holds.
        value: an object with `messages` (and `tools`, `reference`), or `prompt`, `chosen`, `rejected` (text or turns,
            and `weight`), or `prompt`, `completion`, `label` (and `weight`); `meta` beside them. Roles may go by the
            names that files have (human, gpt, …).
        place: how an error names the row.

    Raises:
        DataProblem: it is no such row, told with the turn.
    """
    if not isinstance(value, dict):
        raise DataProblem("a row is a JSON object", place=place, value=value, remedy='Write {"messages": […]}.')
    of_kind = {"preferences": ("prompt", "chosen", "rejected"), "labels": ("prompt", "completion")}
    parts = of_kind.get(kind, ("messages",))
    plain = dict(value)
    try:
        for name in parts:
            if name not in plain:
                raise DataProblem(f"a row of {kind} needs '{name}'", place=place, remedy="Add it.")
            given = plain[name]
            if isinstance(given, str) and not given.lstrip().startswith("["):
                role = "user" if name in ("prompt", "messages") else "assistant"
                plain[name] = [{"role": role, "content": required_text(given, name)}]
            else:
                plain[name] = messages_of(given, name)
        if "tools" in plain:
            plain["tools"] = decode_cell(plain["tools"], "tools")
        if "weight" in plain and kind in of_kind:
            plain["weight"] = weight_of(plain["weight"], "weight")
        if kind == "labels":
            plain["label"] = label_of(plain.get("label"))
            if plain["label"] is None:
                what = "a row of labels needs 'label', true for a good answer or false for a bad one"
                raise DataProblem(what, place=f"{place}, label", value=value.get("label"), remedy="Give one of them.")
    except CellProblem as problem:
        where = f"{place}, {problem.column}"
        raise DataProblem(problem.what, place=where, value=problem.value, remedy=problem.remedy) from problem
    return payload_from_plain(kind, plain)


def payload_text(payload: Payload | None) -> str:
    """A row as readable text, for comparing two of them word by word; empty for a deleted one."""
    if payload is None:
        return ""
    parts: list[str] = []
    groups: list[tuple[str, Sequence[Message]]]
    if isinstance(payload, Preference):
        groups = [("", payload.prompt), ("better ", payload.chosen), ("worse ", payload.rejected)]
    elif isinstance(payload, Labelled):
        groups = [("", payload.prompt), ("good " if payload.label else "bad ", payload.completion)]
    else:
        groups = [("", payload.messages)]
    for prefix, messages in groups:
        for message in messages:
            parts.append(f"[{prefix}{message.role}{f' {message.name}' if message.name else ''}]\n{message.content}")
            extra = plain_message(message)
            parts += [f"{key}: {extra[key]}" for key in ("tool_calls", "tool_call_id") if key in extra]
    rest = {key: value for key, value in plain_payload(payload).items() if key in ("tools", "reference", "weight")}
    if rest.get("weight") == 1.0:
        del rest["weight"]
    parts += [f"[{key}]\n{value}" for key, value in (rest | payload.meta).items()]
    return "\n\n".join(parts)


def read_json_rows(kind: DatasetKind, text: str) -> list[Payload]:
    """Rows from text: one JSON object, a list of them, or one a line.

    Raises:
        DataProblem: it is no JSON, told with line and column, or a row is broken, told with its number.
    """
    if not text.strip():
        raise DataProblem("there is no JSON to read", remedy='Give {"messages": […]} on standard input.')
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        values = _json_lines(text)
        if values is None:
            raise DataProblem(f"this is not valid JSON: {error}", remedy="Correct it there.") from error
    rows = values if isinstance(values, list) else [values]
    if not rows:
        raise DataProblem("the list of rows is empty", remedy="Give at least one row.")
    return [payload_from_json(kind, value, place=f"row {n}") for n, value in enumerate(rows, start=1)]


def _json_lines(text: str) -> list[Any] | None:
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        return None
