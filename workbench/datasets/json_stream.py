"""The items of a JSON list, one at a time, whatever the size of the file.

The standard library reads a JSON document whole. Here the document is decoded item by item from a growing buffer. The
list is the document itself, or the one list of objects within an outer object (`{"data": [...]}`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from workbench.errors import DataProblem

CHUNK = 1 << 20
ITEM_LIMIT = 64 * 2**20
"""Longest item, in characters, that is held in memory."""
_SPACE = " \t\n\r\ufeff"


def iter_json_items(file: io.TextIOBase, place: str) -> Iterator[Any]:
    """The items of the list that a JSON document is or holds.

    Args:
        file: the text.
        place: the file's name, for messages.

    Raises:
        DataProblem: the document is broken, holds no list of objects, or holds more than one.
    """
    stream = _Stream(file, place)
    first = stream.peek()
    if first == "[":
        yield from stream.items()
    elif first == "{":
        yield from stream.wrapped()
    else:
        raise stream.broken("the file is not JSON: it begins with neither [ nor {")
    if stream.peek():
        raise stream.broken("there is something after the end of the JSON document")


class _Stream:
    """Text that is decoded from the front."""

    def __init__(self, file: io.TextIOBase, place: str) -> None:
        self._file, self._place = file, place
        self._text, self._at, self._ended = "", 0, False
        self._count = 0
        self._decoder = json.JSONDecoder()

    def _more(self) -> bool:
        if self._ended:
            return False
        # Reading as much again as is held keeps the number of retries on a long item logarithmic.
        chunk = self._file.read(max(CHUNK, len(self._text) - self._at))
        self._ended = not chunk
        self._text, self._at = self._text[self._at :] + chunk, 0
        return not self._ended

    def peek(self) -> str:
        """The next character that is not a space; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def value(self) -> Any:
        """The next complete value."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise self.broken("nested too deeply") from error
            except ValueError as error:
                if len(self._text) - self._at > ITEM_LIMIT:
                    raise self.broken("an item is broken, or longer than 64 MB") from error
                if self._more():
                    continue
                words = error.msg if isinstance(error, json.JSONDecodeError) else "a number with too many digits"
                raise self.broken(f"not valid JSON ({words})") from error
            # A number at the end of the buffer may go on in the next chunk.
            if end == len(self._text) and self._more():
                continue
            self._at = end
            return value

    def expect(self, characters: str) -> str:
        """Take one of these characters."""
        found = self.peek()
        if not found or found not in characters:
            raise self.broken(f"expected one of {' '.join(characters)} here" if found else "the file ends too early")
        self._at += 1
        return found

    def items(self) -> Iterator[Any]:
        """The items of the list that begins here."""
        self.expect("[")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            value = self.value()
            self._count += 1
            yield value
            if self.expect(",]") == "]":
                return

    def wrapped(self) -> Iterator[Any]:
        """The items of the one list of objects in the object that begins here."""
        self.expect("{")
        lists: list[str] = []
        while self.peek() != "}":
            key = self.value()
            if not isinstance(key, str):
                raise self.broken("a field's name must be text")
            self.expect(":")
            if self.peek() == "[" and self._list_of_objects():
                lists.append(key)
                if len(lists) > 1:
                    raise self.broken(f"the file holds more than one list of rows: {', '.join(lists)}")
                yield from self.items()
            else:
                self.value()
            if self.expect(",}") == "}":
                break
        else:
            self._at += 1
        if not lists:
            raise DataProblem(
                "the file is one JSON object and holds no list of rows",
                place=self._place,
                remedy='Write a list of objects, [{"instruction": …, "output": …}, …], or one object per line.',
            )

    def _list_of_objects(self) -> bool:
        while True:
            after = self._text[self._at + 1 :].lstrip(_SPACE)[:1]
            if after or not self._more():
                return after == "{"

    def broken(self, what: str) -> DataProblem:
        """What is wrong, with the item it is in and the text around it."""
        around = self._text[self._at : self._at + 60]
        place = f"{self._place}, item {self._count + 1}"
        return DataProblem(what, place=place, value=around or None, remedy="Repair the file, or save it as JSON Lines.")
