"""Starter datasets that come with the workbench: small, ready to train on, with held-out prompts to compare by.

A kit is a folder `kits/<name>` with `kit.json` (title, description, licence), `train.jsonl` and `held_out.jsonl`; its
rows have id, topic and either instruction and response, or messages: a whole conversation to train on, a conversation
that ends with a user turn and its reference to compare by. The data itself is kept there, not here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from workbench.datasets.readers import open_source, read_rows
from workbench.datasets.versions import write_version
from workbench.errors import DataProblem, NotFound
from workbench.records import Dataset, DatasetKind, Example, Message, Payload, Prompt, Record, Role, Version
from workbench.store.database import Store
from workbench.store.datasets import HELD_OUT_END, create_dataset, get_dataset, latest_version, withdrawn_on_failure

KITS_FOLDER = Path(__file__).parent / "kits"
CONTENT_COLUMNS = ("instruction", "response", "messages", "reference")


class Kit(Record):
    """A starter dataset."""

    name: str
    """Folder name."""
    title: str
    """Shown name."""
    description: str = ""
    """What it teaches."""
    details: dict[str, JsonValue] = {}
    """Everything else that kit.json says: licence, topics, system prompt, …"""
    train_rows: int
    """Rows to train on."""
    held_out_rows: int
    """Prompts held out."""


def list_kits(folder: Path = KITS_FOLDER) -> list[Kit]:
    """The kits there are, by name.

    Raises:
        DataProblem: a kit.json cannot be read.
    """
    return [_load_kit(path.parent) for path in sorted(folder.glob("*/kit.json"))]


def _load_kit(folder: Path) -> Kit:
    try:
        told: dict[str, Any] = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
        told.pop("name", None)
        counts = [sum(1 for _ in read_rows(open_source(folder / name))) for name in ("train.jsonl", "held_out.jsonl")]
        known = {"title": told.pop("title"), "description": told.pop("description", "")}
        return Kit(name=folder.name, **known, details=told, train_rows=counts[0], held_out_rows=counts[1])
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
        raise DataProblem(
            "this starter kit cannot be read", place=str(folder), remedy="Install the workbench anew."
        ) from error


def install_kit(store: Store, name: str, *, folder: Path = KITS_FOLDER) -> tuple[Version, Version]:
    """Put a kit into the store, or find it there.

    Args:
        store: the store.
        name: the kit's folder name.
        folder: where kits lie.

    Returns:
        The first version of "<title> (train)", instructions, and of "<title> (held out)", prompts with references.
        Where the datasets are there already, their newest versions.

    Raises:
        NotFound: there is no such kit.
        DataProblem: its files cannot be read.
    """
    kit = next((kit for kit in list_kits(folder) if kit.name == name), None)
    if kit is None:
        names = ", ".join(known.name for known in list_kits(folder))
        raise NotFound("no such starter kit", value=name, remedy=f"There are: {names}.")
    parts: tuple[tuple[str, str, DatasetKind, Callable[[dict[str, Any]], Payload]], ...] = (
        (" (train)", "train.jsonl", "instructions", _example),
        (HELD_OUT_END, "held_out.jsonl", "prompts", _prompt),
    )
    train, held_out = (
        _install(store, kit, kit.title + part, kind, folder / name / file, payload)
        for part, file, kind, payload in parts
    )
    return train, held_out


def _install(
    store: Store, kit: Kit, title: str, kind: DatasetKind, file: Path, payload: Callable[[dict[str, Any]], Payload]
) -> Version:
    dataset = _find_or_create(store, kit, title, kind)
    version = latest_version(store, dataset.id)
    if version is not None:
        return version
    provenance = {"kit": kit.name, "file": file.name}
    with withdrawn_on_failure(store, dataset.id):
        return write_version(store, dataset.id, _payloads(file, payload), message="Starter kit", provenance=provenance)


def _find_or_create(store: Store, kit: Kit, title: str, kind: DatasetKind) -> Dataset:
    try:
        return get_dataset(store, title)
    except NotFound:
        return create_dataset(store, title, kind, description=kit.description, tags=("starter",))


def _payloads(file: Path, make: Callable[[dict[str, Any]], Payload]) -> Iterator[Payload]:
    for row in read_rows(open_source(file)):
        try:
            if row.problem is not None:
                raise ValueError(row.problem.what)
            yield make(row.values)
        except ValueError as error:
            # pydantic's own words name classes and versions; a kit's reader needs only to know which row it is.
            what = "its messages cannot be read" if isinstance(error, ValidationError) else str(error)
            place = f"{file.name}, row {row.number}"
            raise DataProblem(what, place=place, remedy="Install the workbench anew.") from error


def _example(values: dict[str, Any]) -> Example:
    if "messages" in values:
        return Example(messages=_conversation(values, ends_with="assistant"), meta=_meta(values))
    answered = Message(role="assistant", content=_text(values, "response"))
    return Example(messages=(_asked(values), answered), meta=_meta(values))


def _prompt(values: dict[str, Any]) -> Prompt:
    if "messages" in values:
        asked, reference = _conversation(values, ends_with="user"), _text(values, "reference")
    else:
        asked, reference = (_asked(values),), _text(values, "response")
    return Prompt(messages=asked, reference=reference, meta=_meta(values))


def _asked(values: dict[str, Any]) -> Message:
    return Message(role="user", content=_text(values, "instruction"))


def _conversation(values: dict[str, Any], *, ends_with: Role) -> tuple[Message, ...]:
    told = values["messages"]
    messages = tuple(Message.model_validate(message) for message in told) if isinstance(told, list) else ()
    if not messages or messages[-1].role != ends_with:
        raise ValueError(f"'messages' must end with the turn of the {ends_with}")
    return messages


def _text(values: dict[str, Any], key: str) -> str:
    if not isinstance(values.get(key), str):
        raise ValueError(f"'{key}' is missing")
    return str(values[key])


def _meta(values: dict[str, Any]) -> dict[str, JsonValue]:
    return {key: value for key, value in values.items() if key not in CONTENT_COLUMNS}
