"""Formats: what a file's columns mean, and how a row becomes an example, a preference, a labelled answer or a prompt.

One table, `FORMATS`; a new format is one entry. Each says which columns it needs (with the names they go by), how well
a sample fits, and how one row becomes a plain payload (see `payloads`). How files are read is left to `readers`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from workbench.datasets.payloads import payload_from_plain
from workbench.datasets.readers import RowProblem, shorten
from workbench.datasets.turns import (
    ROLE_NAMES,
    CellProblem,
    decode_cell,
    is_missing,
    messages_of,
    require_turns,
    required_text,
    text_of,
)
from workbench.errors import DataProblem, UsageError
from workbench.records import LEAST_WEIGHT, MOST_WEIGHT, DatasetKind, Payload

META_LIMIT = 100_000
"""Longest text of one kept column, in characters; what is longer is not kept."""
NO_INPUT = {"<noinput>", "<no input>"}
"""What the Self-Instruct and Alpaca files write where a task has no input."""

LABEL_COLUMNS = ("label", "desirable", "is_desirable", "thumbs", "thumbs_up", "feedback")
"""Names of columns that may tell a good answer from a bad one; what stands in them decides."""
GOOD_WORDS = frozenset({"true", "1", "1.0", "yes", "good", "desirable", "chosen", "up", "thumbs up", "thumbsup", "👍"})
BAD_WORDS = frozenset(
    {"false", "0", "0.0", "no", "bad", "undesirable", "rejected", "down", "thumbs down", "thumbsdown", "👎"}
)
"""How files say that an answer is good or bad, letter case aside and words joined by `_` or `-` taken apart."""

Mapped = dict[str, str]
"""Field of a format → column of the file."""


@dataclass(frozen=True)
class FormatField:
    """A field of a format and the column names it goes by."""

    name: str
    columns: tuple[str, ...]
    required: bool = True


@dataclass(frozen=True)
class Format:
    """One way to write rows in columns."""

    name: str
    kind: DatasetKind
    title: str
    """The columns in words."""
    fields: tuple[FormatField, ...]
    fits: Callable[[Mapped, Sequence[str], Sequence[Mapping[str, Any]]], float]
    """How well a sample fits, from 0 (not) to 1, once all required columns are there."""
    convert: Callable[[Mapping[str, Any], Mapped], dict[str, Any]]
    """A row as a plain payload without `meta`; raises `CellProblem`."""


@dataclass(frozen=True)
class Reading:
    """A format together with the columns it takes from one file."""

    format: Format
    mapping: Mapped
    taken: frozenset[str] = field(default_factory=frozenset)
    """Columns that do not go into `meta`."""


def convert_row(reading: Reading, number: int, row: Mapping[str, Any]) -> dict[str, Any] | RowProblem:
    """One row as a plain payload, or why it cannot be taken.

    Args:
        reading: format and columns.
        number: the row's number, for the problem.
        row: column → cell.
    """
    try:
        plain = reading.format.convert(row, reading.mapping)
        if len(row) > len(reading.taken) or not reading.taken.issuperset(row):
            meta = _meta(row, reading.taken)
            if meta:
                plain["meta"] = meta
        return plain
    except CellProblem as problem:
        return RowProblem(number, problem.column, problem.what, shorten(problem.value), problem.remedy)


def payload_of_row(reading: Reading, number: int, row: Mapping[str, Any]) -> Payload | RowProblem:
    """One row as a record, or why it cannot be taken."""
    plain = convert_row(reading, number, row)
    return plain if isinstance(plain, RowProblem) else payload_from_plain(reading.format.kind, plain)


def find_format(name: str) -> Format:
    """The format of this name.

    Raises:
        UsageError: there is none.
    """
    for known in FORMATS:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in FORMATS)
    raise UsageError("no such format", place="format", value=name, remedy=f"Choose auto or one of {names}.")


def detect_format(
    columns: Sequence[str],
    sample: Sequence[Mapping[str, Any]],
    *,
    format_name: str = "auto",
    kind: DatasetKind | None = None,
    mapping: Mapping[str, str] | None = None,
    place: str = "",
) -> Reading:
    """Find the format of a file from its columns and first rows.

    Args:
        columns: all columns, in order.
        sample: the first rows.
        format_name: a format's name, or `auto`.
        kind: only formats that give this kind.
        mapping: field → column, where a person says it; goes before the usual names.
        place: the file's name, for messages.

    Raises:
        UsageError: no such format, or the mapping names an unknown column or field.
        DataProblem: no format fits; says which columns were found and what is expected.
    """
    mapping = dict(mapping or {})
    unknown = [column for column in mapping.values() if column not in columns]
    if unknown:
        raise UsageError(
            "the mapping names a column that the file does not have", place="mapping", value=unknown[0],
            remedy=f"The columns are: {', '.join(columns)}.",
        )  # fmt: skip
    candidates = [find_format(format_name)] if format_name != "auto" else list(FORMATS)
    candidates = [known for known in candidates if kind is None or known.kind == kind]
    best: tuple[float, Reading] | None = None
    for known in candidates:
        found = _resolve(known, columns, mapping)
        if found is None:
            continue
        asked = format_name != "auto" or (mapping and set(mapping) >= _required(known))
        score = 1.0 if asked else known.fits(found, columns, sample)
        # A format that wants more columns is the more telling one where scores are equal.
        score += 0.001 * len(found)
        if score >= 0.1 and (best is None or score > best[0]):
            best = score, Reading(known, found, frozenset(found.values()))
    if best is None:
        raise _unknown_format(columns, candidates, mapping, place)
    return best[1]


def overlooked_label(reading: Reading, sample: Sequence[Mapping[str, Any]]) -> str:
    """The column that calls some rows bad which this reading would make examples to imitate; empty where none does.

    Args:
        reading: format and columns.
        sample: the first rows.
    """
    if reading.format.kind != "instructions":
        return ""
    for column in dict.fromkeys(column for row in sample for column in row if column not in reading.taken):
        cells = [row[column] for row in sample if not is_missing(row.get(column)) and row[column] != ""]
        if column.strip().lower() in LABEL_COLUMNS and _tell_good_from_bad(cells) and False in map(label_of, cells):
            return column
    return ""


def _required(known: Format) -> set[str]:
    return {item.name for item in known.fields if item.required}


def _resolve(known: Format, columns: Sequence[str], mapping: Mapping[str, str]) -> Mapped | None:
    if not set(mapping) <= {item.name for item in known.fields}:
        return None
    plain_names: dict[str, str] = {}
    for column in columns:
        plain_names.setdefault(column.strip().lower(), column)
    found: Mapped = dict(mapping)
    for item in known.fields:
        if item.name in found:
            continue
        free = [plain_names[name] for name in item.columns if name in plain_names]
        free = [column for column in free if column not in found.values()]
        if free:
            found[item.name] = free[0]
        elif item.required:
            return None
    return found


def _unknown_format(
    columns: Sequence[str], candidates: Sequence[Format], mapping: Mapping[str, str], place: str
) -> DataProblem:
    shown = ", ".join(columns[:12]) + (", …" if len(columns) > 12 else "")
    expected = "; ".join(f"{known.name}: {known.title}" for known in candidates)
    what = "the columns do not fit the format" if len(candidates) == 1 else "the columns fit no known format"
    if mapping:
        what += " with this mapping"
    return DataProblem(
        f"{what}. Found: {shown or 'none'}",
        place=place,
        remedy=f"Expected one of — {expected}. Rename the columns, or say which column is which with a mapping.",
    )


# ---- what is kept beside the text ----


def _meta(row: Mapping[str, Any], taken: frozenset[str]) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    for column, value in row.items():
        if column in taken or column is None or is_missing(value) or (isinstance(value, str) and not value):
            continue
        if column == "meta":
            inner = _decoded_object(value)
            if inner is not None:
                meta |= {key: item for key, item in inner.items() if key not in meta}
                continue
        kept = _json_safe(value)
        if kept is not None and _size(kept) <= META_LIMIT:
            meta[column] = kept
    return meta


def _decoded_object(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, dict):
        return None
    return {str(key): _json_safe(item) for key, item in value.items()}


def _json_safe(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if is_missing(value) else value
    if isinstance(value, dict):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else None


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict | list):
        return len(json.dumps(value, ensure_ascii=False))
    return 0


# ---- conversions ----


def _asked(row: Mapping[str, Any], mapped: Mapped, key: str) -> list[dict[str, Any]]:
    """System and user turn of a format that has them as columns."""
    question = required_text(row.get(mapped[key]), mapped[key])
    if "input" in mapped:
        more = text_of(row.get(mapped["input"]), mapped["input"])
        if more and not more.isspace() and more.strip().lower() not in NO_INPUT:
            question = f"{question}\n\n{more}"
    return _with_system([{"role": "user", "content": question}], row, mapped)


def _with_system(messages: list[dict[str, Any]], row: Mapping[str, Any], mapped: Mapped) -> list[dict[str, Any]]:
    if "system" not in mapped:
        return messages
    system = text_of(row.get(mapped["system"]), mapped["system"])
    if not system or system.isspace() or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def _alpaca(row: Mapping[str, Any], mapped: Mapped) -> dict[str, Any]:
    messages = _asked(row, mapped, "instruction")
    messages.append({"role": "assistant", "content": required_text(row.get(mapped["output"]), mapped["output"])})
    return {"messages": messages}


def _tools(row: Mapping[str, Any], mapped: Mapped, plain: dict[str, Any]) -> dict[str, Any]:
    if "tools" in mapped:
        tools = decode_cell(row.get(mapped["tools"]), mapped["tools"])
        if tools is not None:
            if not isinstance(tools, list):
                raise CellProblem(mapped["tools"], "is not a list of tools", tools, "Make it a list, or empty it.")
            plain["tools"] = tools
    return plain


def _messages(row: Mapping[str, Any], mapped: Mapped) -> dict[str, Any]:
    column = mapped["messages"]
    messages = _with_system(messages_of(row.get(column), column), row, mapped)
    require_turns(messages, column, ends_with="assistant")
    return _tools(row, mapped, {"messages": messages})


def _sharegpt(row: Mapping[str, Any], mapped: Mapped) -> dict[str, Any]:
    column = mapped["conversations"]
    messages = _with_system(messages_of(row.get(column), column, "from", "value"), row, mapped)
    require_turns(messages, column, ends_with="assistant")
    return _tools(row, mapped, {"messages": messages})


def _is_turns(value: Any) -> bool:
    """Whether a cell holds turns, as a list or as JSON text of one."""
    if isinstance(value, str):
        if not value.startswith(("[{", "[ {", "[\n")):
            return False
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)
    )


def _either(value: Any, column: str, role: str) -> list[dict[str, Any]]:
    """A cell of turns, or of text that `role` says."""
    if isinstance(value, list) or _is_turns(value):
        return messages_of(value, column)
    return [{"role": role, "content": required_text(value, column)}]


def _prompt_completion(row: Mapping[str, Any], mapped: Mapped) -> dict[str, Any]:
    column = mapped["completion"]
    messages = _with_system(_either(row.get(mapped["prompt"]), mapped["prompt"], "user"), row, mapped)
    messages = messages + _either(row.get(column), column, "assistant")
    require_turns(messages, column, ends_with="assistant")
    return _tools(row, mapped, {"messages": messages})


def _preference(row: Mapping[str, Any], mapped: Mapped) -> dict[str, Any]:
    chosen = _either(row.get(mapped["chosen"]), mapped["chosen"], "assistant")
    rejected = _either(row.get(mapped["rejected"]), mapped["rejected"], "assistant")
    given = row.get(mapped["prompt"]) if "prompt" in mapped else None
    prompt = [] if is_missing(given) or given in ("", []) else _either(given, mapped["prompt"], "user")
    if chosen[0]["role"] in ("system", "user") or rejected[0]["role"] in ("system", "user"):
        # Whole conversations: what both begin with is the prompt, whatever a prompt column repeats of it.
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        while shared and chosen[shared - 1]["role"] == "assistant":
            shared -= 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if not prompt:
        what = "there is no prompt that both answers answer"
        raise CellProblem(mapped.get("prompt", mapped["chosen"]), what, given, "Add a 'prompt' column, or fill it.")
    prompt = _with_system(prompt, row, mapped)
    require_turns(prompt, mapped.get("prompt", mapped["chosen"]), ends_with="user")
    for answer, name in ((chosen, "chosen"), (rejected, "rejected")):
        require_turns(prompt + answer, mapped[name], ends_with="assistant")
    if chosen == rejected:
        raise CellProblem(mapped["chosen"], "both answers are the same", chosen[-1]["content"], "Drop the row.")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "weight": _weight(row, mapped)}


def label_of(value: object) -> bool | None:
    """Whether a cell says good (True), bad (False), or neither of the two (None)."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    if not isinstance(value, str):
        return None
    # A thumb may come in a skin colour, or with the mark that asks for a picture.
    word = "".join(character for character in value if not ("🏻" <= character <= "🏿" or character == "\ufe0f"))
    word = re.sub(r"(?<=\w)[_\s-]+(?=\w)", " ", word.strip().casefold())
    return True if word in GOOD_WORDS else False if word in BAD_WORDS else None


def _tell_good_from_bad(cells: Sequence[Any]) -> bool:
    """Whether a column's cells say good or bad; topics and grades, of which 0 and 1 may be two, do not."""
    said = [label_of(cell) for cell in cells]
    graded = sum(label is None and _is_grade(cell) for cell, label in zip(cells, said, strict=True))
    return bool(said) and 10 * graded <= len(said) and 2 * said.count(None) <= len(said)


def _is_grade(cell: Any) -> bool:
    # -1 beside 1 is how some files write bad: its rows are refused by number rather than imitated.
    try:
        return isinstance(cell, int | float | str) and math.isfinite(float(cell)) and float(cell) != -1
    except (ValueError, OverflowError):
        return False


def _labelled(row: Mapping[str, Any], mapped: Mapped) -> dict[str, Any]:
    prompt = _with_system(_either(row.get(mapped["prompt"]), mapped["prompt"], "user"), row, mapped)
    completion = _either(row.get(mapped["completion"]), mapped["completion"], "assistant")
    require_turns(prompt, mapped["prompt"], ends_with="user")
    require_turns(prompt + completion, mapped["completion"], ends_with="assistant")
    value = row.get(mapped["label"])
    label = label_of(value)
    if label is None:
        what = "empty" if is_missing(value) or value == "" else "does not say whether the answer is good or bad"
        raise CellProblem(
            mapped["label"], what, value, "Write true or false (or 1 or 0, good or bad), or drop the row."
        )
    weight = _weight(row, mapped)
    if weight == 0:
        raise CellProblem(mapped["weight"], "is 0, so nothing is learned from it", 0, "Give a weight, or drop the row.")
    return {"prompt": prompt, "completion": completion, "label": label, "weight": weight}


def _weight(row: Mapping[str, Any], mapped: Mapped) -> float:
    return weight_of(row.get(mapped["weight"]), mapped["weight"]) if "weight" in mapped else 1.0


def weight_of(value: object, column: str) -> float:
    """A cell as a row's weight; an empty one is 1.

    Raises:
        CellProblem: it is no number, or out of bounds.
    """
    if value is None or value == "":
        return 1.0
    try:
        weight = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        weight = -1.0
    if weight != 0 and not LEAST_WEIGHT <= weight <= MOST_WEIGHT:  # NaN is neither
        raise CellProblem(
            column, f"is no weight: 0, or from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}", value,
            "Make it a number in these bounds, or empty it.",
        )  # fmt: skip
    return weight


def _prompt(row: Mapping[str, Any], mapped: Mapped) -> dict[str, Any]:
    column = mapped["prompt"]
    value = row.get(column)
    if isinstance(value, list) or _is_turns(value):
        messages = _with_system(messages_of(value, column), row, mapped)
    else:
        messages = _asked(row, mapped, "prompt")
    require_turns(messages, column, ends_with="user")
    plain: dict[str, Any] = {"messages": messages}
    if "reference" in mapped:
        # Null says there is none; text, however short, is one.
        reference = row.get(mapped["reference"])
        if not is_missing(reference) and reference != "":
            plain["reference"] = text_of(reference, mapped["reference"])
    return plain


# ---- how well a sample fits ----


def _cells(mapped: Mapped, name: str, sample: Iterable[Mapping[str, Any]]) -> list[Any]:
    return [row[mapped[name]] for row in sample if not is_missing(row.get(mapped[name]))]


def _turns_in(value: Any) -> list[dict[str, Any]]:
    if not _is_turns(value):
        return []
    turns: list[dict[str, Any]] = json.loads(value) if isinstance(value, str) else value
    return turns


def _share(values: Sequence[Any], holds: Callable[[Any], bool]) -> float:
    return sum(map(holds, values)) / len(values) if values else 0.0


def _ends_with_user(value: Any) -> bool:
    turns = _turns_in(value)
    said = str(turns[-1].get("role", turns[-1].get("from"))).lower() if turns else ""
    return ROLE_NAMES.get(said) == "user"


def _fits_messages(mapped: Mapped, columns: Sequence[str], sample: Sequence[Mapping[str, Any]]) -> float:
    cells = _cells(mapped, "messages", sample)
    asked = _share(cells, _ends_with_user)
    return _share(cells, lambda cell: bool(_turns_in(cell)) and "role" in _turns_in(cell)[0]) if asked <= 0.5 else 0.0


def _fits_sharegpt(mapped: Mapped, columns: Sequence[str], sample: Sequence[Mapping[str, Any]]) -> float:
    cells = _cells(mapped, "conversations", sample)
    return _share(cells, lambda cell: bool(_turns_in(cell)) and "from" in _turns_in(cell)[0])


def _fits_alpaca(mapped: Mapped, columns: Sequence[str], sample: Sequence[Mapping[str, Any]]) -> float:
    if mapped["instruction"].strip().lower() != "instruction":
        return 0.4  # question and answer are taken for prompts with a reference, unless a person says otherwise
    return 0.9 * _share(_cells(mapped, "instruction", sample), lambda cell: not isinstance(cell, list | dict))


def _fits_columns(score: float) -> Callable[[Mapped, Sequence[str], Sequence[Mapping[str, Any]]], float]:
    return lambda mapped, columns, sample: score


def _fits_prompt(mapped: Mapped, columns: Sequence[str], sample: Sequence[Mapping[str, Any]]) -> float:
    cells = _cells(mapped, "prompt", sample)
    if any(_turns_in(cell) for cell in cells):
        return 0.85 * _share(cells, _ends_with_user)
    # A nested column beside a lone instruction says that the file is something else, which must not be lost in meta.
    others = [column for column in columns if column not in mapped.values() and column != "meta"]
    nested = any(isinstance(row.get(column), list | dict) for row in sample for column in others)
    return 0.0 if nested else 0.5 * _share(cells, lambda cell: not isinstance(cell, list | dict))


def _fits_labels(mapped: Mapped, columns: Sequence[str], sample: Sequence[Mapping[str, Any]]) -> float:
    return 1.0 if _tell_good_from_bad(_cells(mapped, "label", sample)) else 0.0


_SYSTEM = FormatField("system", ("system", "system_prompt", "system_message"), required=False)
_TOOLS = FormatField("tools", ("tools", "functions"), required=False)
_INPUT = FormatField("input", ("input", "context"), required=False)

FORMATS: tuple[Format, ...] = (
    Format(
        "alpaca", "instructions", "instruction, output (or response, completion), perhaps input and system",
        (
            FormatField("instruction", ("instruction", "question", "query")),
            FormatField("output", ("output", "response", "completion", "answer", "target")),
            _INPUT, _SYSTEM,
        ),
        _fits_alpaca, _alpaca,
    ),
    Format(
        "sharegpt", "instructions", "conversations, a list of turns with from and value",
        (FormatField("conversations", ("conversations", "conversation", "messages", "dialogue")), _SYSTEM, _TOOLS),
        _fits_sharegpt, _sharegpt,
    ),
    Format(
        "messages", "instructions", "messages, a list of turns with role and content",
        (FormatField("messages", ("messages", "conversations", "conversation", "chat")), _SYSTEM, _TOOLS),
        _fits_messages, _messages,
    ),
    Format(
        "prompt_completion", "instructions", "prompt and completion (text or turns)",
        (
            FormatField("prompt", ("prompt",)),
            FormatField("completion", ("completion", "response", "output", "answer")),
            _SYSTEM, _TOOLS,
        ),
        _fits_columns(0.9), _prompt_completion,
    ),
    Format(
        "preference", "preferences", "chosen and rejected, perhaps prompt (text or turns)",
        (
            FormatField("chosen", ("chosen",)),
            FormatField("rejected", ("rejected",)),
            FormatField("prompt", ("prompt", "question", "instruction", "input"), required=False),
            FormatField("weight", ("weight",), required=False),
            _SYSTEM,
        ),
        _fits_columns(1.0), _preference,
    ),
    Format(
        "labels", "labels", "prompt, completion (text or turns) and label, true for a good answer, false for a bad one",
        (
            FormatField("prompt", ("prompt",)),
            FormatField("completion", ("completion", "response", "output", "answer")),
            FormatField("label", LABEL_COLUMNS),
            FormatField("weight", ("weight",), required=False),
            _SYSTEM,
        ),
        _fits_labels, _labelled,
    ),
    Format(
        "prompts", "prompts", "prompt (or instruction, question, text), perhaps reference",
        (
            FormatField("prompt", ("prompt", "instruction", "question", "text", "messages", "query")),
            FormatField("reference", ("reference", "answer", "output", "response", "completion"), required=False),
            _INPUT, _SYSTEM,
        ),
        _fits_prompt, _prompt,
    ),
)  # fmt: skip
