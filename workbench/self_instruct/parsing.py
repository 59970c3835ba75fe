"""From a generator's text to tasks and examples, whatever it wrote: nothing here raises on any text.

Models number lists as they like, repeat the prompt, mix headings, and stop in the middle. What cannot be read is left
out; whether what was read is any good is up to `filters`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from workbench.store.candidates import Instance

MOST_INSTANCES = 5
NO_INPUT = {"", "none", "n/a", "na", "null", "no input", "noinput", "not needed", "nothing", "no input needed", "empty"}
"""What models write where a task has no input, brackets and stops aside."""

# No two neighbouring repetitions below can take the same letter: a run of ten thousand spaces costs nothing.
_ITEM = re.compile(
    r"^[#>*_\-\[( \t]*(?:(?:task|instruction)[ \t]*)?#?\d{1,3}[ \t]*(?:[.:](?!\d)|[)\]]|-(?=\s))[*_ \t]*", re.I | re.M
)
_HEADING = re.compile(
    r"^[#>*_\- \t]*(?:\d{1,3}[.)][*_ \t]*)?(?:"
    r"(?P<name>example|instruction|task|input|output|answer|(?:class[ \t]+)?label|class)"
    r"(?:[ \t]*#?\d{1,3})?[*_]*[ \t]*:[*_ \t]*"
    r"|(?P<example>example)[ \t]*#?\d{1,3}[*_ \t]*$)",
    re.I | re.M,
)
_BETWEEN = re.compile(r"#{2,}|-{3,}|={3,}|\*{3,}|\d{1,3}[.)]|[*_#>-]{1,3}")
_MEANT = {"answer": "output", "label": "output", "class": "output", "task": "instruction"}
_LABEL_PREFIX = re.compile(r"^(?:[*_]*(?:task|instruction)[*_]*[ \t]*:[*_]*[ \t]*)", re.I)


class Task(NamedTuple):
    """A task read from a list."""

    instruction: str
    """On one line."""
    instances: tuple[Instance, ...] = ()
    """Examples that came with it, in the one-step style."""
    cut_off: bool = False
    """Whether the text ended in the middle of it."""


def parse_instructions(text: str, *, finish_reason: str | None = None) -> list[Task]:
    """The instructions of a numbered list; the last one is marked where the text was cut by length.

    Where nothing is numbered, each line that is not empty counts as one, marks of lists aside. Text before the first
    number is the end of an unfinished first item or talk; it is left out where numbered items follow.

    Args:
        text: the generator's text.
        finish_reason: `length` where it was cut.
    """
    starts = list(_ITEM.finditer(text))
    if starts:
        ends = [match.start() for match in starts[1:]] + [len(text)]
        parts = [text[match.end() : end] for match, end in zip(starts, ends, strict=True)]
    else:
        parts = [re.sub(r"^[ \t]*[-*•][ \t]+", "", line) for line in text.splitlines()]
    items = [_one_line(part) for part in parts]
    cut = finish_reason == "length"
    # A last number with nothing behind it was cut as well, and then the item before it is whole.
    tasks = [Task(item, cut_off=cut and number == len(items)) for number, item in enumerate(items, 1) if item]
    return tasks


def parse_classification(text: str) -> bool | None:
    """What a yes-or-no answer says, None where it says neither.

    Args:
        text: the generator's text; the first yes or no counts.
    """
    found = re.search(r"\b(yes|no)\b", text, re.IGNORECASE)
    return None if found is None else found[1].lower() == "yes"


def parse_input_first(text: str, *, finish_reason: str | None = None) -> tuple[Instance, ...]:
    """Examples written as `Input: … Output: …`; text without headings is the output of a task without input.

    Args:
        text: the generator's text.
        finish_reason: `length` where it was cut: the last example is marked.
    """
    fields = _fields(text)
    if not fields:
        whole = _unlabelled(text)
        found = [("", whole)] if whole else []
    else:
        found = _pair(fields, opens="input")
    return _instances(found, finish_reason)


def parse_output_first(text: str, *, finish_reason: str | None = None) -> tuple[Instance, ...]:
    """Examples written as `Label: … Input: …`, the label being the output.

    Args:
        text: the generator's text.
        finish_reason: `length` where it was cut: the last example is marked.
    """
    fields = _fields(text)
    found = _pair(fields, opens="output")
    return _instances(found, finish_reason)


def parse_whole_tasks(text: str, *, finish_reason: str | None = None) -> list[Task]:
    """Tasks written as `Instruction: … Input: … Output: …`, one example each, as the one-step style asks for.

    Args:
        text: the generator's text.
        finish_reason: `length` where it was cut: the last task is marked.
    """
    tasks: list[Task] = []
    current: dict[str, str] = {}

    def close() -> None:
        instruction = _one_line(current.get("instruction", ""))
        if instruction:
            instance = Instance(input=_input(current.get("input", "")), output=current.get("output", ""))
            tasks.append(Task(instruction, (instance,)))
        current.clear()

    for name, value in _fields(text):
        if name == "instruction":
            close()
        if name in ("instruction", "input", "output") and name not in current:
            current[name] = value
    close()
    if tasks and finish_reason == "length":
        tasks[-1] = tasks[-1]._replace(cut_off=True)
    return tasks


def _fields(text: str) -> list[tuple[str, str]]:
    """Headings in order, each with the text up to the next; several words mean the same heading."""
    matches = list(_HEADING.finditer(text))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    fields = []
    for match, end in zip(matches, ends[: len(matches)], strict=True):
        name = (match["name"] or match["example"]).lower().split()[-1]
        fields.append((_MEANT.get(name, name), _trim(text[match.end() : end])))
    return fields


def _pair(fields: Sequence[tuple[str, str]], *, opens: str) -> list[tuple[str, str]]:
    """(input, output) pairs of headings; `opens` names the one that begins an example."""
    closes = "output" if opens == "input" else "input"
    found: list[tuple[str, str]] = []
    current: dict[str, str] = {}

    def close() -> None:
        if current:
            found.append((_input(current.get("input", "")), current.get("output", "")))
        current.clear()

    for name, value in fields:
        if name == "instruction" and (found or current):
            break  # the model has gone on to a task of its own
        if name == "example" and current:
            close()
        if name in (opens, closes):
            # A heading that comes again begins the next example; models forget the one that should have begun it.
            if name in current or (name == opens and closes in current):
                close()
            current[name] = value
        elif name == "example" and value:
            current.setdefault(opens, value)
    close()
    return found


def _instances(found: Sequence[tuple[str, str]], finish_reason: str | None) -> tuple[Instance, ...]:
    cut = finish_reason == "length"
    made = [
        Instance(input=given, output=output, reason="instance_cut_off" if cut and number == len(found) else None)
        for number, (given, output) in enumerate(found, 1)
    ]
    return tuple(made[:MOST_INSTANCES])


def _input(text: str) -> str:
    plain = text.strip().strip("<>[]().-–—*_ ").lower()
    return "" if plain in NO_INPUT else text


def _trim(text: str) -> str:
    """A text without the lines at its end that only separate it from the next: rules, lone numbers and marks."""
    lines = text.strip().split("\n")
    while len(lines) > 1 and (not lines[-1].strip() or _BETWEEN.fullmatch(lines[-1].strip())):
        lines.pop()
    return "\n".join(lines).strip()


def _unlabelled(text: str) -> str:
    return _trim(re.sub(r"\A\s*example[ \t]*\d*[ \t]*:?[ \t]*$", "", text, flags=re.I | re.M))


def _one_line(text: str) -> str:
    flat = " ".join(_trim(text).split())
    flat = _LABEL_PREFIX.sub("", flat)
    if flat.count("**") % 2 and flat.endswith("**"):  # the mark that opens it went with the number
        flat = flat[:-2].rstrip()
    for mark in ("**", "__", '"'):
        if len(flat) > 2 * len(mark) and flat.startswith(mark) and flat.endswith(mark):
            flat = flat[len(mark) : -len(mark)].strip()
    return flat
