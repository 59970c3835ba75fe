"""Rows of a file as a person corrected them during an import: by their number in the file, which stays as it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, JsonValue

from workbench.datasets.readers import SourceRow
from workbench.errors import DataProblem, UsageError

MOST_CORRECTIONS = 1_000
MOST_LETTERS = 100_000
"""Letters of a row that is corrected by hand; a longer one is repaired in the file, or dropped."""


def _text_keys(given: Any) -> Any:
    # YAML on the command line reads {18: …} with a number.
    return {str(key): value for key, value in given.items()} if isinstance(given, dict) else given


RowNumber = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,11}$")]
Corrections = Annotated[
    dict[RowNumber, dict[str, JsonValue] | None],
    Field(max_length=MOST_CORRECTIONS),
    BeforeValidator(_text_keys),
]
"""Row number → what the row says instead; null drops it."""


class CorrectedRows:
    """Rows with some replaced and some left out.

    Args:
        rows: as the file has them.
        corrections: by row number; None drops the row.
    """

    def __init__(self, rows: Iterable[SourceRow], corrections: Mapping[str, Mapping[str, Any] | None]) -> None:
        self._rows, self._corrections = rows, corrections
        self._waiting = set(corrections)

    def __iter__(self) -> Iterator[SourceRow]:
        for row in self._rows:
            key = str(row.number)
            if key not in self._waiting:
                yield row
                continue
            self._waiting.discard(key)
            values = self._corrections[key]
            if values is not None:
                yield SourceRow(row.number, dict(values))

    def check_all_used(self, place: str) -> None:
        """Refuse corrections of rows that did not come: they were made for another file, or for another state of it.

        Raises:
            DataProblem: names the first such row.
        """
        if self._waiting:
            number = min(map(int, self._waiting))
            raise DataProblem(
                f"row {number} was corrected, but the file has no such row", place=place,
                remedy="The file has changed since. Look at it again.",
            )  # fmt: skip


def editable(values: Mapping[str, Any]) -> dict[str, JsonValue] | None:
    """A row as JSON that can be edited and stored; None where it is too long for that."""
    text = json.dumps(values, ensure_ascii=False, default=str)
    if len(text) > MOST_LETTERS:
        return None
    clean = text.encode("utf-8", "replace").decode()
    found: dict[str, JsonValue] = json.loads(clean, parse_constant=lambda _: None)
    return found


def read_correction(text: str) -> dict[str, JsonValue]:
    """What a person typed in place of a row.

    Raises:
        UsageError: it is no JSON object, or too long.
    """
    remedy = 'Write {"instruction": "…", "output": "…"}, with the names of the file\'s columns.'
    if len(text) > MOST_LETTERS:
        raise UsageError(f"longer than {MOST_LETTERS:,} characters", remedy="Repair the file itself.")
    try:
        found = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, character {error.colno}"
        raise UsageError(f"not valid JSON ({error.msg})", place=place, remedy=remedy) from error
    except RecursionError as error:
        raise UsageError("nested too deeply", remedy="Flatten the row.") from error
    if not isinstance(found, dict):
        raise UsageError("not an object with named fields", remedy=remedy)
    return found


def _refuse(name: str) -> None:
    raise UsageError("JSON has no such number", value=name, remedy="Write null or a number.")
