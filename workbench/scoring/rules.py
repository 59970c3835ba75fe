"""Rules that an answer keeps or breaks, read from the text of the answer alone.

A starter kit that teaches a visible format names its scorer here, so a base model and a tuned one can be compared
without a judge. Whether the answer is true, useful or on the subject is left to the reference metrics and to people.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from workbench.errors import UsageError
from workbench.scoring.persona_rules import score_chatbot
from workbench.scoring.rule_reports import (
    RuleReport,
    RuleScorer,
    find_count_fault,
    find_line_fault,
    judge_rule,
    judge_words,
    split_lines,
)

MAX_WORDS = 60


def score_assistant(answer: str, *, turn: int | None = None) -> RuleReport:
    r"""Check an answer against the house format of the *assistant* kit.

    The format is four lines: ``Answer: ….``, ``- ….``, ``- ….`` and ``Next: …?``, at most 60 words in all. White space
    at the end of the answer is ignored; everything else counts. Lines are separated by ``\n`` and numbered without the
    blank ones, so that a stray blank line breaks ``four_lines`` only and each broken rule points to one fault.

    Args:
        answer: the model's text, without the prompt.
        turn: the user turn it answers; the format is the same on every turn.

    Returns:
        Results for ``four_lines``, ``answer_line``, ``two_bullets``, ``next_question`` and ``at_most_60_words``, in
        this order.
    """
    filled, blank = split_lines(answer)
    bullets_fault = find_line_fault(filled, 2, "- ", ".") or find_line_fault(filled, 3, "- ", ".")
    answer_fault = find_line_fault(filled, 1, "Answer: ", ".")
    return RuleReport(
        results=(
            judge_rule("four_lines", find_count_fault(filled, blank, 4), "four lines, none blank"),
            judge_rule("answer_line", answer_fault, "line 1 is an 'Answer: ' sentence"),
            judge_rule("two_bullets", bullets_fault, "lines 2 and 3 are '- ' points"),
            judge_rule("next_question", find_line_fault(filled, 4, "Next: ", "?"), "line 4 is a 'Next: ' question"),
            judge_words("at_most_60_words", answer, most=MAX_WORDS),
        )
    )


def get_rule_scorer(name: str) -> RuleScorer:
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


RULE_SCORERS: Mapping[str, RuleScorer] = MappingProxyType({"assistant": score_assistant, "chatbot": score_chatbot})
"""The scorers that a kit can name."""
