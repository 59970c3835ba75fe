"""Find and replace over many rows: every change is worked out and shown before anything is stored.

Regular expressions go by the `regex` package, because it can be given a time limit: a pattern that a person typed must
not hang the app. Storing is left to `merging`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

from pydantic import Field

from workbench.datasets.editing import check_payload
from workbench.errors import UsageError
from workbench.records import Labelled, Message, Payload, Preference, Prompt, Record

Scope = Literal["all", "assistant", "user", "system"]
SCOPES: tuple[Scope, ...] = ("all", "assistant", "user", "system")
TIME_LIMIT_S = 20.0
"""Longest time that a regular expression may take over all rows."""
Replace = Callable[[str], tuple[str, int]]


class Replacement(Record):
    """What to find, and what to put in its place."""

    find: str = Field(max_length=10_000)
    """Text, or a regular expression."""
    replace: str = Field(default="", max_length=100_000)
    """What stands there afterwards; in a regular expression \\1 or \\g<name> is what a group found."""
    regex: bool = False
    """Whether `find` is a regular expression."""
    match_case: bool = True
    """Whether capital and small letters differ."""
    scope: Scope = "all"
    """Whose turns are looked at; `all` means every turn, and a prompt's reference answer."""


class TurnChange(Record):
    """One text that would change."""

    title: str
    """Which: "turn 2, assistant"."""
    before: str
    """What it says."""
    after: str
    """What it would say."""
    count: int
    """How many places."""


class RowReplaced(Record):
    """One row that would change."""

    row_id: str
    """The row."""
    payload: Payload
    """What it would be."""
    turns: tuple[TurnChange, ...]
    """Its texts that change."""
    problem: str = ""
    """Why it could not be stored like that; such a row is left as it is."""

    @property
    def count(self) -> int:
        """How many places."""
        return sum(turn.count for turn in self.turns)


class ReplacePreview(Record):
    """What a replacement would do."""

    rows: int
    """Rows looked at."""
    changed: tuple[RowReplaced, ...] = ()
    """Rows that would change."""
    refused: tuple[RowReplaced, ...] = ()
    """Rows that would break the rules, for example with an empty turn; they stay as they are."""

    @property
    def count(self) -> int:
        """Places in the rows that would change."""
        return sum(row.count for row in self.changed)


def preview_replacement(rows: Iterable[tuple[str, Payload]], wanted: Replacement) -> ReplacePreview:
    """Work out every change that a replacement would make; nothing is stored.

    Args:
        rows: row id and payload of the rows to look at.
        wanted: what to find and what to put there.

    Raises:
        UsageError: nothing to find, a pattern or replacement that is none, or one that takes too long.
    """
    replace = compile_replacement(wanted)
    changed: list[RowReplaced] = []
    refused: list[RowReplaced] = []
    seen = 0
    for row_id, payload in rows:
        seen += 1
        made, turns = replace_in(payload, replace, wanted.scope)
        if not turns:
            continue
        problems = check_payload(made)
        told = RowReplaced(
            row_id=row_id, payload=made, turns=tuple(turns), problem=problems[0].sentence() if problems else ""
        )
        (refused if problems else changed).append(told)
    return ReplacePreview(rows=seen, changed=tuple(changed), refused=tuple(refused))


def compile_replacement(wanted: Replacement, *, limit_s: float = TIME_LIMIT_S) -> Replace:
    """A function from a text to the text with the replacement made and the number of places.

    Args:
        wanted: what to find and what to put there.
        limit_s: longest time for all texts together; regular expressions only.

    Raises:
        UsageError: nothing to find, or a pattern or replacement that is none.
    """
    if not wanted.find:
        raise UsageError("there is nothing to find", place="find", remedy="Write what to look for.")
    if not wanted.regex and wanted.match_case:
        return lambda text: (text.replace(wanted.find, wanted.replace), text.count(wanted.find))
    import regex  # type: ignore[import-untyped]

    try:
        pattern = regex.compile(
            wanted.find if wanted.regex else regex.escape(wanted.find),
            regex.VERSION0 | (0 if wanted.match_case else regex.IGNORECASE),
        )
    except (regex.error, OverflowError, RecursionError, ValueError) as error:
        raise UsageError(
            f"this is not a regular expression: {_told(error)}",
            place="find", value=wanted.find, remedy="Correct it, or search for it as plain text.",
        ) from error  # fmt: skip
    put: Any = wanted.replace if wanted.regex else lambda _: wanted.replace
    deadline = time.monotonic() + limit_s

    def replace(text: str) -> tuple[str, int]:
        try:
            made: tuple[str, int] = pattern.subn(put, text, timeout=max(0.001, deadline - time.monotonic()))
        except TimeoutError as error:
            raise UsageError(
                f"this pattern takes more than {limit_s:g} s over these rows", place="find", value=wanted.find,
                remedy="Make it simpler: nested repeats such as (a+)+ are slow.",
            ) from error  # fmt: skip
        except (regex.error, IndexError) as error:
            raise UsageError(
                f"the replacement cannot be filled in: {_told(error)}",
                place="replace", value=wanted.replace,
                remedy=r"\1 needs a first group in the pattern; write \\ for a backslash.",
            ) from error  # fmt: skip
        return made

    replace("")  # a replacement that cannot be filled in is found now where that shows without a match
    return replace


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def replace_in(payload: Payload, replace: Replace, scope: Scope) -> tuple[Payload, list[TurnChange]]:
    """A payload with the replacement made, and the texts that changed.

    Args:
        payload: the row.
        replace: of `compile_replacement`.
        scope: whose turns.
    """
    changes: list[TurnChange] = []

    def turns(messages: tuple[Message, ...], group: str) -> tuple[Message, ...]:
        made = []
        for number, message in enumerate(messages, start=1):
            title = f"{group}turn {number}, {message.role}"
            text = _replaced(message.content, replace, title, changes) if scope in ("all", message.role) else None
            made.append(message if text is None else message.model_copy(update={"content": text}))
        return tuple(made)

    update: dict[str, object]
    if isinstance(payload, Preference):
        update = {
            "prompt": turns(payload.prompt, ""),
            "chosen": turns(payload.chosen, "better answer, "),
            "rejected": turns(payload.rejected, "worse answer, "),
        }
    elif isinstance(payload, Labelled):
        update = {"prompt": turns(payload.prompt, ""), "completion": turns(payload.completion, "answer, ")}
    else:
        update = {"messages": turns(payload.messages, "")}
        if isinstance(payload, Prompt) and payload.reference is not None and scope == "all":
            reference = _replaced(payload.reference, replace, "reference", changes)
            update["reference"] = payload.reference if reference is None else reference
    return (payload.model_copy(update=update) if changes else payload), changes


def _replaced(text: str, replace: Replace, title: str, changes: list[TurnChange]) -> str | None:
    made, count = replace(text)
    if made == text:
        return None
    changes.append(TurnChange(title=title, before=text, after=made, count=count))
    return made
