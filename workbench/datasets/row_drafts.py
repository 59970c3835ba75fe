"""Rows while they are written: kept in the store with every change, whether they could be saved yet or not.

A `RowDraft` holds what the editor's fields hold (tool calls are text there, and may be broken JSON). The changes that
one person collects for one dataset are a *draft* with an id of its own, which stands in the page's address: a refresh
finds it again, a second person has another. What a draft becomes when it is saved is left to `merging`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import Field, JsonValue, ValidationError

from workbench.datasets.editing import Problem, check_payload, clean_tags, tags_of
from workbench.datasets.merging import Change, Choice
from workbench.errors import UsageError
from workbench.records import ROLES, DatasetKind, Example, Labelled, Message, Payload, Preference, Prompt, Record
from workbench.store.database import Store
from workbench.store.drafts import change_draft, drop_drafts, list_drafts, load_draft, save_drafts

Group = Literal["turns", "chosen", "rejected", "completion"]
PREFIX = "craft"
NEW = "new-"
"""How row keys begin of rows that no version has yet."""
MOST_CHANGES = 2_000
"""Changes that one draft collects; larger bulk edits are saved as a version of their own."""


class TurnDraft(Record):
    """One turn as the editor's fields hold it."""

    key: str = Field(default_factory=lambda: secrets.token_hex(4))
    """Stays with the turn when others are moved or removed."""
    role: str = "user"
    """Who speaks."""
    content: str = ""
    """The text."""
    name: str | None = None
    """Speaker's or tool's name."""
    tool_call_id: str | None = None
    """The call that a tool turn answers."""
    tool_calls: str = ""
    """Tool calls as JSON text; empty for none."""


class RowDraft(Record):
    """One row as the editor's fields hold it."""

    turns: tuple[TurnDraft, ...] = ()
    """The conversation, or the prompt."""
    chosen: tuple[TurnDraft, ...] = ()
    """The better answer of a preference."""
    rejected: tuple[TurnDraft, ...] = ()
    """The worse answer of a preference."""
    completion: tuple[TurnDraft, ...] = ()
    """The answer that a label is about."""
    label: bool = True
    """Whether that answer is a good one."""
    tools: str = ""
    """Tool definitions as JSON text; empty for none."""
    reference: str | None = None
    """A prompt's reference answer."""
    weight: float = 1.0
    """A preference's or a label's weight."""
    tags: tuple[str, ...] = ()
    """A person's labels; stored as `meta.tags`."""
    meta: dict[str, JsonValue] = {}
    """The row's kept columns, as they were read."""


class ChangeDraft(Record):
    """What is collected about one row."""

    action: Literal["edit", "new", "delete"]
    """What will happen to it."""
    base_id: str | None = None
    """The version in which the row was read; None for a new one."""
    row: RowDraft | None = None
    """The row as it is written now; what was written before a deletion is kept."""
    before: RowDraft | None = None
    """The row before the last step that can be undone."""
    step: str = ""
    """That step in words."""
    choice: Choice | None = None
    """What was decided where somebody else changed the row too."""


class DraftInfo(NamedTuple):
    """A draft of a dataset that somebody left."""

    draft_id: str
    """`drf_…`"""
    changes: int
    """How many rows it is about."""
    changed_at: datetime
    """When it was last changed."""


# ---- rows and drafts ----


def blank_row(kind: DatasetKind) -> RowDraft:
    """A new row to fill in."""
    asked, answer = TurnDraft(role="user"), TurnDraft(role="assistant")
    if kind == "instructions":
        return RowDraft(turns=(asked, answer))
    if kind == "prompts":
        return RowDraft(turns=(asked,))
    if kind == "labels":
        return RowDraft(turns=(asked,), completion=(answer,))
    return RowDraft(turns=(asked,), chosen=(answer,), rejected=(TurnDraft(role="assistant"),))


def draft_row(payload: Payload) -> RowDraft:
    """A stored row as the editor's fields hold it."""
    meta, tags = payload.meta, tags_of(payload.meta)
    if isinstance(payload, Preference):
        return RowDraft(
            turns=_draft_turns(payload.prompt, "t"), chosen=_draft_turns(payload.chosen, "c"),
            rejected=_draft_turns(payload.rejected, "r"), weight=payload.weight, meta=meta, tags=tags,
        )  # fmt: skip
    if isinstance(payload, Labelled):
        return RowDraft(
            turns=_draft_turns(payload.prompt, "t"), completion=_draft_turns(payload.completion, "a"),
            label=payload.label, weight=payload.weight, meta=meta, tags=tags,
        )  # fmt: skip
    tools = payload.tools if isinstance(payload, Example) else None
    reference = payload.reference if isinstance(payload, Prompt) else None
    turns = _draft_turns(payload.messages, "t")
    return RowDraft(turns=turns, tools=_as_text(tools), reference=reference, meta=meta, tags=tags)


def _draft_turns(messages: Iterable[Message], prefix: str) -> tuple[TurnDraft, ...]:
    # Keys by place: a row that is only looked at must give the same fields each time.
    return tuple(
        TurnDraft(
            key=f"{prefix}{number}",
            role=message.role,
            content=message.content,
            name=message.name,
            tool_call_id=message.tool_call_id,
            tool_calls=_as_text(message.tool_calls),
        )
        for number, message in enumerate(messages)
    )


def _as_text(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, indent=2)


def read_row_draft(kind: DatasetKind, row: RowDraft) -> tuple[Payload | None, list[Problem]]:
    """The row that a draft stands for, and what keeps it from being stored.

    Returns:
        The row, also where it breaks a rule; None where it cannot be read as one at all. No problems for a sound row.
    """
    problems: list[Problem] = []
    groups = {
        name: [_message(turn, n, place, problems) for n, turn in enumerate(turns, start=1)]
        for name, place, turns in _groups(kind, row)
    }
    tools = _json_list(row.tools, "tools", '[{"type": "function", "function": {"name": …}}]', problems)
    for _, place, turns in _groups(kind, row):
        if not turns:
            problems.append(Problem(place or "turns", "there is none", "Add a turn."))
    if problems:
        return None, problems
    meta = dict(row.meta)
    if tags_of(meta) != row.tags:
        meta.pop("tags", None)
        if row.tags:
            meta["tags"] = list(row.tags)
    payload: Payload
    try:
        if kind == "preferences":
            payload = Preference(
                prompt=tuple(groups["turns"]), chosen=tuple(groups["chosen"]), rejected=tuple(groups["rejected"]),
                weight=row.weight, meta=meta,
            )  # fmt: skip
        elif kind == "labels":
            payload = Labelled(
                prompt=tuple(groups["turns"]), completion=tuple(groups["completion"]), label=row.label,
                weight=row.weight, meta=meta,
            )  # fmt: skip
        elif kind == "prompts":
            payload = Prompt(messages=tuple(groups["turns"]), reference=row.reference, meta=meta)
        else:
            payload = Example(messages=tuple(groups["turns"]), tools=tools, meta=meta)
    except ValidationError as error:
        first = error.errors()[0]
        return None, [Problem(".".join(map(str, first["loc"])), first["msg"], "Correct it.")]
    try:
        clean_tags(row.tags)
    except UsageError as error:
        return payload, [Problem("tags", error.what, error.remedy), *check_payload(payload)]
    return payload, check_payload(payload)


def _groups(kind: DatasetKind, row: RowDraft) -> list[tuple[Group, str, tuple[TurnDraft, ...]]]:
    if kind == "preferences":
        return [
            ("turns", "prompt", row.turns), ("chosen", "better answer", row.chosen),
            ("rejected", "worse answer", row.rejected),
        ]  # fmt: skip
    if kind == "labels":
        return [("turns", "prompt", row.turns), ("completion", "answer", row.completion)]
    return [("turns", "", row.turns)]


def _message(turn: TurnDraft, number: int, place: str, problems: list[Problem]) -> Message:
    head = f"{place}, turn {number}" if place else f"turn {number}"
    if turn.role not in ROLES:
        what = f"has an unknown role '{turn.role[:40]}'"
        problems.append(Problem(head, what, "Use system, user, assistant or tool."))
    calls = _json_list(turn.tool_calls, f"{head}, tool calls", '[{"type": "function", …}]', problems)
    role: Any = turn.role if turn.role in ROLES else "user"
    return Message(role=role, content=turn.content, name=turn.name, tool_calls=calls, tool_call_id=turn.tool_call_id)


def _json_list(text: str, place: str, form: str, problems: list[Problem]) -> list[JsonValue] | None:
    if not text.strip():
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        problems.append(Problem(place, f"not valid JSON ({error})", f"Write a list: {form}."))
        return None
    if not isinstance(value, list):
        problems.append(Problem(place, "not a list", f"Write a list: {form}."))
        return None
    return value


# ---- what a draft collects ----


class Drafts:
    """The changes that one person collects for one dataset.

    Args:
        store: the store.
        dataset_id: the dataset.
        kind: what its rows are.
        draft_id: the draft, `drf_…`.
    """

    def __init__(self, store: Store, dataset_id: str, kind: DatasetKind, draft_id: str) -> None:
        self.store, self.dataset_id, self.kind, self.draft_id = store, dataset_id, kind, draft_id
        self._prefix = f"{PREFIX}.{dataset_id}.{draft_id}."

    def all(self) -> dict[str, ChangeDraft]:
        """Every change by row key (a row's id, or `new-…`), in the order in which they were last touched."""
        found = list_drafts(self.store, self._prefix)
        return {key.removeprefix(self._prefix): ChangeDraft.model_validate(value) for key, (value, _) in found.items()}

    def get(self, row_key: str) -> ChangeDraft | None:
        """The change of one row."""
        value = load_draft(self.store, self._prefix + row_key)
        return None if value is None else ChangeDraft.model_validate(value)

    def change(self, row_key: str, change: Callable[[ChangeDraft | None], ChangeDraft | None]) -> None:
        """Change one row's draft in one step; None forgets it."""

        def on_value(value: Any) -> Any:
            made = change(None if value is None else ChangeDraft.model_validate(value))
            return None if made is None else made.model_dump(mode="json")

        change_draft(self.store, self._prefix + row_key, on_value)

    def put_many(self, changes: Mapping[str, ChangeDraft]) -> None:
        """Keep many changes at once.

        Raises:
            UsageError: the draft would collect more than 2,000.
        """
        if len({*self.all(), *changes}) > MOST_CHANGES:
            raise UsageError(
                f"a draft collects at most {MOST_CHANGES:,} changes", value=len(changes),
                remedy="Save what you have first, or save these as a version of their own.",
            )  # fmt: skip
        save_drafts(self.store, {self._prefix + key: item.model_dump(mode="json") for key, item in changes.items()})

    def drop(self, row_keys: Iterable[str]) -> None:
        """Forget what was done to these rows."""
        drop_drafts(self.store, [self._prefix + key for key in row_keys])

    def drop_saved(self, saved: Mapping[str, ChangeDraft]) -> None:
        """Forget changes that are saved, except those that were changed again since they were read."""
        for key, was in saved.items():
            self.change(key, lambda now, was=was: None if now == was else now)  # type: ignore[misc]


def list_unsaved(store: Store, dataset_id: str) -> list[DraftInfo]:
    """Drafts of a dataset that hold changes, the last touched first."""
    prefix = f"{PREFIX}.{dataset_id}."
    found: dict[str, DraftInfo] = {}
    for key, (_, moment) in list_drafts(store, prefix).items():
        draft_id = key.removeprefix(prefix).partition(".")[0]
        known = found.get(draft_id)
        found[draft_id] = DraftInfo(draft_id, known.changes + 1 if known else 1, moment)
    return sorted(found.values(), key=lambda item: item.changed_at, reverse=True)


def as_changes(
    kind: DatasetKind, drafts: Mapping[str, ChangeDraft]
) -> tuple[dict[str, Change], dict[str, list[Problem]]]:
    """Collected changes as what can be saved, and for each row that cannot be yet, why.

    Returns:
        Changes by row key, and problems by row key.
    """
    changes: dict[str, Change] = {}
    unfinished: dict[str, list[Problem]] = {}
    for key, item in drafts.items():
        row_id = None if key.startswith(NEW) else key
        if item.action == "delete" and key.startswith(NEW):
            continue
        if item.action == "delete" or item.row is None:
            changes[key] = Change(row_id=row_id, base_id=item.base_id)
            continue
        payload, problems = read_row_draft(kind, item.row)
        if problems or payload is None:
            unfinished[key] = problems
        else:
            changes[key] = Change(row_id=row_id, base_id=item.base_id, payload=payload)
    return changes, unfinished
