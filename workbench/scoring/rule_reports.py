"""What a rule scorer hands back, and the checks on lines and words that several scorers share.

Which rules make up a format is left to the scorers: `rules` and `persona_rules`.
"""

from __future__ import annotations

from typing import Protocol

from pydantic import BaseModel, ConfigDict

_SHOWN = 40
_NUMBERS = ("no", "one", "two", "three", "four", "five")


class RuleResult(BaseModel):
    """One rule applied to one answer."""

    model_config = ConfigDict(frozen=True)

    rule: str
    """The rule's id, as the kit lists it."""
    passed: bool
    """Whether the answer keeps the rule."""
    detail: str
    """What was found, in plain words; for a broken rule also what it must be."""


class RuleReport(BaseModel):
    """Every rule of one scorer applied to one answer, in the kit's order."""

    model_config = ConfigDict(frozen=True)

    results: tuple[RuleResult, ...]
    """One result for each rule."""

    @property
    def passed(self) -> bool:
        """Whether the answer keeps every rule."""
        return all(result.passed for result in self.results)

    @property
    def kept(self) -> float:
        """Share of the rules that the answer keeps, between 0 and 1."""
        return sum(result.passed for result in self.results) / max(1, len(self.results))


class RuleScorer(Protocol):
    """A scorer: an answer's text, and where known the turn it was given in, to a report."""

    def __call__(self, answer: str, *, turn: int | None = None) -> RuleReport:
        """Check an answer.

        Args:
            answer: the model's text, without the prompt.
            turn: the user turn it answers, from 0; None where only the text is known.
        """


def judge_rule(rule: str, fault: str, kept: str) -> RuleResult:
    """The result of one rule: broken where there is a fault, else `kept` is its detail."""
    return RuleResult(rule=rule, passed=not fault, detail=fault or kept)


def judge_words(rule: str, answer: str, *, most: int) -> RuleResult:
    """The result of a rule that bounds an answer's words."""
    words = count_words(answer)
    fault = f"{words} words; at most {most} are allowed" if words > most else ""
    return judge_rule(rule, fault, "1 word" if words == 1 else f"{words} words")


def count_words(text: str) -> int:
    """Count the pieces between white space that hold a letter or a digit; a bullet's dash is no word."""
    return sum(any(character.isalnum() for character in piece) for piece in text.split())


def split_lines(answer: str) -> tuple[list[str], int]:
    r"""The lines that hold something, split at ``\n``, and the number of blank ones before the last of them.

    Rules number lines without the blank ones, so that a stray blank line breaks the rule on their count only.
    """
    lines = answer.rstrip().split("\n")
    filled = [line for line in lines if line.strip()]
    return filled, len(lines) - len(filled)


def find_count_fault(filled: list[str], blank: int, wanted: int) -> str:
    """Say how the number of lines differs from the wanted one (at most five), or return an empty string."""
    if not filled:
        return f"the answer is empty; it must have exactly {_NUMBERS[wanted]} lines"
    if len(filled) == wanted and not blank:
        return ""
    count = "1 line" if len(filled) == 1 else f"{len(filled)} lines"
    extra = f" and {blank} blank" if blank else ""
    return f"the answer has {count}{extra}; it must have exactly {_NUMBERS[wanted]}, none blank"


def find_line_fault(filled: list[str], number: int, start: str, end: str) -> str:
    """Say what is wrong with one line's start and end, or return an empty string. ``number`` counts from 1."""
    if len(filled) < number:
        return f"line {number} is missing; it must start with '{start}'"
    line = filled[number - 1]
    if not line.startswith(start):
        return f"line {number} is '{shorten(line)}'; it must start with '{start}'"
    text = line[len(start) :]
    if text[:1].isspace() or not any(character.isalnum() for character in text):
        return f"line {number} is '{shorten(line)}'; text must follow '{start}' directly"
    if not text.endswith(end):
        return f"line {number} is '{shorten(line)}'; it must end with '{end}'"
    return ""


def shorten(line: str) -> str:
    """The line as a fault quotes it."""
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
