"""Payloads as plain JSON: the one form that is stored, hashed and exported.

A *plain* payload is a dict of JSON values in which absent fields are left out, so that equal content always gives equal
text. The import builds plain payloads by hand (validating a million rows one by one as records is slow); a property
test holds the two ways equal. Which columns become which field is left to `formats`, files to `versions`.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from pydantic import ValidationError

from workbench.errors import DataProblem
from workbench.records import PAYLOADS, DatasetKind, Example, Labelled, Message, Payload, Preference, Prompt

_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_KIND_OF: dict[type, DatasetKind] = {payload: kind for kind, payload in PAYLOADS.items()}


def kind_of(payload: Payload) -> DatasetKind:
    """The dataset kind a payload belongs to."""
    return _KIND_OF[type(payload)]


def plain_message(message: Message) -> dict[str, Any]:
    """A message as a dict without its absent fields."""
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    for key in ("name", "tool_calls", "tool_call_id"):
        value = getattr(message, key)
        if value is not None:
            plain[key] = value
    return plain


def plain_payload(payload: Payload) -> dict[str, Any]:
    """A payload as a dict without its absent fields and without empty `meta`."""
    plain: dict[str, Any]
    if isinstance(payload, Preference):
        plain = {
            "prompt": [plain_message(message) for message in payload.prompt],
            "chosen": [plain_message(message) for message in payload.chosen],
            "rejected": [plain_message(message) for message in payload.rejected],
            "weight": payload.weight,
        }
    elif isinstance(payload, Labelled):
        plain = {
            "prompt": [plain_message(message) for message in payload.prompt],
            "completion": [plain_message(message) for message in payload.completion],
            "label": payload.label,
            "weight": payload.weight,
        }
    else:
        plain = {"messages": [plain_message(message) for message in payload.messages]}
        if isinstance(payload, Example) and payload.tools is not None:
            plain["tools"] = payload.tools
        if isinstance(payload, Prompt) and payload.reference is not None:
            plain["reference"] = payload.reference
    if payload.meta:
        plain["meta"] = payload.meta
    return plain


def encode_plain(plain: dict[str, Any]) -> tuple[str, str]:
    """Canonical JSON of a plain payload and its row hash.

    Returns:
        The text, and the first 32 hex digits of its SHA-256 (`records.digest` of the plain payload).

    Raises:
        DataProblem: a value is not JSON (NaN, a half of a surrogate pair, an unknown type).
    """
    try:
        text = _encode(plain)
        return text, hashlib.sha256(text.encode()).hexdigest()[:32]
    except UnicodeEncodeError as error:
        raise DataProblem(
            "a character cannot be stored as Unicode text (half of a surrogate pair)",
            value=error.object[max(0, error.start - 10) : error.end + 10],
            remedy="Remove it, or read the file with its real encoding.",
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DataProblem(
            f"a value cannot be stored as JSON: {error}",
            remedy="Use text, finite numbers, true, false, lists, objects.",
        ) from error


def encode_payload(payload: Payload) -> tuple[str, str]:
    """Canonical JSON of a payload and its row hash; see `encode_plain`."""
    return encode_plain(plain_payload(payload))


def decode_payload(kind: DatasetKind, text: str) -> Payload:
    """The record that `encode_payload` wrote.

    Raises:
        DataProblem: the text is no payload of this kind.
    """
    try:
        return PAYLOADS[kind].model_validate_json(text)
    except ValidationError as error:
        raise DataProblem(
            "a stored row cannot be read as what its dataset holds", value=text, remedy=f"Expected {kind}."
        ) from error


def payload_from_plain(kind: DatasetKind, plain: dict[str, Any]) -> Payload:
    """A plain payload as a record.

    Raises:
        DataProblem: it is no payload of this kind.
    """
    try:
        return PAYLOADS[kind].model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataProblem(f"not a row of {kind}: {first['msg']}", place=place, value=first["input"]) from error


def prompt_text(payload: Payload) -> str:
    """What is asked first: the user's words before the first answer, lower case, spaces evened out.

    Rows with equal prompt text count as the same question for splits and duplicate counts.
    """
    messages = payload.prompt if isinstance(payload, Preference | Labelled) else payload.messages
    words: list[str] = []
    for message in messages:
        if message.role == "assistant":
            break
        if message.role == "user":
            words.append(message.content)
    return re.sub(r"\s+", " ", "\n".join(words)).strip().casefold()
