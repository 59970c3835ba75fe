"""Rules that an answer keeps or breaks, read from the text of the answer alone.

A starter kit that teaches a visible format names its scorer here, so a base model and a tuned one can be compared
without a judge. Whether the answer is true, useful or on the subject is left to the reference metrics and to people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

from workbench.errors import UsageError

MAX_WORDS = 60
_SHOWN = 40


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


def score_assistant(answer: str) -> RuleReport:
    r"""Check an answer against the house format of the *assistant* kit.

    The format is four lines: ``Answer: ….``, ``- ….``, ``- ….`` and ``Next: …?``, at most 60 words in all. White space
    at the end of the answer is ignored; everything else counts. Lines are separated by ``\n`` and numbered without the
    blank ones, so that a stray blank line breaks ``four_lines`` only and each broken rule points to one fault.

    Args:
        answer: the model's text, without the prompt.

    Returns:
        Results for ``four_lines``, ``answer_line``, ``two_bullets``, ``next_question`` and ``at_most_60_words``, in
        this order.
    """
    lines = answer.rstrip().split("\n")
    filled = [line for line in lines if line.strip()]
    return RuleReport(
        results=(
            _result("four_lines", _four_lines_fault(filled, blank=len(lines) - len(filled)), "four lines, none blank"),
            _result("answer_line", _line_fault(filled, 1, "Answer: ", "."), "line 1 is an 'Answer: ' sentence"),
            _result(
                "two_bullets",
                _line_fault(filled, 2, "- ", ".") or _line_fault(filled, 3, "- ", "."),
                "lines 2 and 3 are '- ' points",
            ),
            _result("next_question", _line_fault(filled, 4, "Next: ", "?"), "line 4 is a 'Next: ' question"),
            _word_result(answer),
        )
    )


def get_rule_scorer(name: str) -> Callable[[str], RuleReport]:
    """Return the scorer that a kit names.

    Args:
        name: a key of ``RULE_SCORERS``, as in the kit's ``scorer`` field.

    Raises:
        UsageError: no scorer has this name.
    """
    try:
        return RULE_SCORERS[name]
    except KeyError:
        known = ", ".join(f"'{known}'" for known in sorted(RULE_SCORERS))
        raise UsageError(
            "no rule scorer has this name", place="scorer", value=name, remedy=f"Choose one of: {known}."
        ) from None


def count_words(text: str) -> int:
    """Count the pieces between white space that hold a letter or a digit; a bullet's dash is no word."""
    return sum(any(character.isalnum() for character in piece) for piece in text.split())


def _result(rule: str, fault: str, kept: str) -> RuleResult:
    return RuleResult(rule=rule, passed=not fault, detail=fault or kept)


def _word_result(answer: str) -> RuleResult:
    words = count_words(answer)
    fault = f"{words} words; at most {MAX_WORDS} are allowed" if words > MAX_WORDS else ""
    return _result("at_most_60_words", fault, "1 word" if words == 1 else f"{words} words")


def _four_lines_fault(filled: list[str], *, blank: int) -> str:
    if not filled:
        return "the answer is empty; it must have exactly four lines"
    if len(filled) == 4 and not blank:
        return ""
    count = "1 line" if len(filled) == 1 else f"{len(filled)} lines"
    extra = f" and {blank} blank" if blank else ""
    return f"the answer has {count}{extra}; it must have exactly four, none blank"


def _line_fault(filled: list[str], number: int, start: str, end: str) -> str:
    """Say what is wrong with one line, or return an empty string. ``number`` counts from 1."""
    if len(filled) < number:
        return f"line {number} is missing; it must start with '{start}'"
    line = filled[number - 1]
    shown = line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
    if not line.startswith(start):
        return f"line {number} is '{shown}'; it must start with '{start}'"
    text = line[len(start) :]
    if text[:1].isspace() or not any(character.isalnum() for character in text):
        return f"line {number} is '{shown}'; text must follow '{start}' directly"
    if not text.endswith(end):
        return f"line {number} is '{shown}'; it must end with '{end}'"
    return ""


RULE_SCORERS: Mapping[str, Callable[[str], RuleReport]] = MappingProxyType({"assistant": score_assistant})
"""The scorers that a kit can name."""
