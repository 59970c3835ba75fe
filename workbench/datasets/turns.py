"""Turns of a conversation: reading them from a cell, and the rules they keep.

Part of `formats`; the craft page uses `check_turns` on what a person writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.datasets.readers import CELL_LIMIT, shorten

ROLE_NAMES: dict[str, str] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool",
}  # fmt: skip
"""Names of roles found in the wild, and the role each stands for."""


class CellProblem(Exception):  # noqa: N818  (a row's problem, caught within this package)
    """Why a cell cannot be taken; turned into a `RowProblem` by `formats.convert_row`."""

    def __init__(self, column: str, what: str, value: object, remedy: str) -> None:
        super().__init__(what)
        self.column, self.what, self.value, self.remedy = column, what, value, remedy


def is_missing(value: object) -> bool:
    """Whether a cell says nothing: null, NaN or an infinity."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def text_of(value: object, column: str) -> str:
    """A cell as text; numbers become their text, what is missing becomes empty.

    Raises:
        CellProblem: it is a list or object, or too long.
    """
    if not isinstance(value, str):
        if is_missing(value):
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError as error:
                raise CellProblem(column, "holds bytes that are not text", value, "Store it as text.") from error
        elif isinstance(value, list | dict | tuple):
            noun = "an object" if isinstance(value, dict) else "a list"
            raise CellProblem(column, f"is {noun} where text is expected", value, "Map another column, or flatten it.")
        else:
            value = str(value)
    if len(value) > CELL_LIMIT:
        raise CellProblem(column, "longer than 20 MB", value, "Shorten it, or drop the row.")
    return value


def required_text(value: Any, column: str) -> str:
    """A cell as text that says something.

    Raises:
        CellProblem: it is empty, or no text.
    """
    text = text_of(value, column)
    if not text or text.isspace():
        raise CellProblem(column, "empty", value, "Fill it, or drop the row.")
    return text


def decode_cell(value: Any, column: str) -> Any:
    """A cell that holds a list or object, decoded where it is JSON text (as in CSV).

    Raises:
        CellProblem: it is text that is not JSON, or too long.
    """
    if not isinstance(value, str):
        return None if is_missing(value) else value
    if len(value) > CELL_LIMIT:
        raise CellProblem(column, "longer than 20 MB", value, "Shorten it, or drop the row.")
    if not value or value.isspace():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        what = "is text that is not JSON, where a list of turns is expected"
        raise CellProblem(column, what, value, 'Write [{"role": "user", "content": …}, …].') from error


def messages_of(value: Any, column: str, role_key: str = "role", text_key: str = "content") -> list[dict[str, Any]]:
    """A cell as plain messages.

    Args:
        value: a list of objects, or JSON text of one.
        column: where it stands.
        role_key: name of the field that says who speaks; ShareGPT's `from`.
        text_key: name of the field that holds the text; ShareGPT's `value`.

    Raises:
        CellProblem: it is no such list, or a turn is broken.
    """
    turns = decode_cell(value, column)
    if turns is None or (isinstance(turns, list) and not turns):
        raise CellProblem(column, "empty", value, "Fill it, or drop the row.")
    if not isinstance(turns, list):
        raise CellProblem(column, "is not a list of turns", value, 'Write [{"role": "user", "content": …}, …].')
    return [_message(turn, index, column, role_key, text_key) for index, turn in enumerate(turns, start=1)]


def _message(turn: Any, index: int, column: str, role_key: str, text_key: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise CellProblem(column, f"turn {index} is not an object with a role and text", turn, "Repair the turn.")
    if role_key not in turn:
        other = "from" if role_key == "role" else "role"
        if other not in turn:
            raise CellProblem(column, f"turn {index} has no '{role_key}'", turn, "Say who speaks.")
        role_key, text_key = other, "value" if other == "from" else "content"
    said = turn[role_key]
    role = (ROLE_NAMES.get(said) or ROLE_NAMES.get(said.strip().lower())) if isinstance(said, str) else None
    if role is None:
        remedy = "Use system, user, assistant or tool."
        raise CellProblem(column, f"turn {index} has an unknown role", said, remedy)
    content = turn.get(text_key)
    if not isinstance(content, str) or len(content) > CELL_LIMIT:
        content = _parts(content, index, column) if isinstance(content, list) else text_of(content, column)
    message: dict[str, Any] = {"role": role, "content": content}
    if len(turn) > 2:
        _extras(turn, message, index, column)
    return message


def _parts(parts: list[Any], index: int, column: str) -> str:
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            what = f"turn {index} holds something that is not text"
            raise CellProblem(column, what, part, "Only text can be trained on; drop the row.")
        texts.append(part["text"])
    return text_of("".join(texts), column)


def _extras(turn: Mapping[str, Any], message: dict[str, Any], index: int, column: str) -> None:
    for key in ("name", "tool_call_id"):
        value = turn.get(key)
        if value is not None:
            if not isinstance(value, str):
                raise CellProblem(column, f"turn {index} has a '{key}' that is not text", value, "Make it text.")
            message[key] = value
    calls = decode_cell(turn.get("tool_calls"), column)
    if calls is not None:
        if not isinstance(calls, list):
            raise CellProblem(column, f"turn {index} has 'tool_calls' that are not a list", calls, "Make it a list.")
        message["tool_calls"] = calls


def check_turns(messages: Sequence[Mapping[str, Any]], *, ends_with: str) -> tuple[str, str] | None:
    """Whether turns follow each other as in a conversation: system first, then user and assistant in turn.

    Args:
        messages: plain messages.
        ends_with: `assistant` for an example, `user` for a prompt.

    Returns:
        What is wrong and the remedy; None when nothing is.
    """
    before = ""
    for index, message in enumerate(messages, start=1):
        role = message["role"]
        if role == "system":
            if before:
                return f"turn {index} is a system turn after the first", "Keep one system turn, at the start."
        elif role == "user":
            if before == "user":
                return f"turn {index} is a second user turn in a row", "Join the two, or add the answer between them."
        elif before == "" or before == "system":
            return f"turn {index} is {_a(role)} turn before any user turn", "Add the user's turn, or drop this one."
        elif role == "assistant":
            if before == "assistant":
                return f"turn {index} is a second assistant turn in a row", "Join the two, or add the user's turn."
        elif before == "user":
            return f"turn {index} is a tool turn that answers no assistant turn", "Add the assistant's call before it."
        content = message["content"]
        if (not content or content.isspace()) and role != "tool" and not message.get("tool_calls"):
            return f"turn {index} ({role}) is empty", "Fill it, or drop the row."
        before = role
    if before != ends_with:
        if ends_with == "assistant":
            return f"the last turn is {_a(before)} turn; there is nothing to learn to answer", "Add the answer."
        return (
            f"the last turn is {_a(before)} turn; a prompt ends with a user turn",
            "Remove what follows the question.",
        )
    return None


def _a(role: str) -> str:
    return f"an {role}" if role == "assistant" else f"a {role}" if role else "no"


def require_turns(messages: list[dict[str, Any]], column: str, *, ends_with: str) -> None:
    """Raise `CellProblem` where `check_turns` finds something."""
    found = check_turns(messages, ends_with=ends_with)
    if found:
        raise CellProblem(
            column, found[0], [f"{turn['role']}: {shorten(turn['content'], 30)}" for turn in messages], found[1]
        )
