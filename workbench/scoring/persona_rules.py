"""Rules of the *chatbot* kit: how Pip of the repair shop speaks, turn by turn.

Every rule can be checked on the answer's text alone. One of them, the opening, also depends on the turn: Pip says
hello once. Where the turn is not known either opening passes.
"""

from __future__ import annotations

import re

from workbench.scoring.rule_reports import (
    RuleReport,
    find_count_fault,
    find_line_fault,
    judge_rule,
    judge_words,
    shorten,
    split_lines,
)

FIRST_OPENING = "Hello, neighbour! "
LATER_OPENING = "Right, neighbour! "
STEP_MARK = "→"
SIGNATURE = "— Pip"
MAX_SENTENCES = 2
MAX_WORDS = 40
_SENTENCE_END = re.compile(r"[.!?…](?=\s|$)")


def score_chatbot(answer: str, *, turn: int | None = None) -> RuleReport:
    r"""Check an answer against the manner of the *chatbot* kit's persona.

    The manner is three lines: ``Hello, neighbour! ….`` (from the second turn on ``Right, neighbour! ….``) with one or
    two sentences after the opening, ``→ ….`` with one next step, and ``— Pip``; at most 40 words in all. White space
    at the end of the answer is ignored. Lines are separated by ``\n`` and numbered without the blank ones.

    Args:
        answer: the model's text, without the prompt.
        turn: the user turn it answers, from 0. Without it the rule ``opening`` takes either opening.

    Returns:
        Results for ``three_lines``, ``opening``, ``at_most_two_sentences``, ``one_next_step``, ``signature`` and
        ``at_most_40_words``, in this order.
    """
    filled, blank = split_lines(answer)
    return RuleReport(
        results=(
            judge_rule("three_lines", find_count_fault(filled, blank, 3), "three lines, none blank"),
            judge_rule("opening", _opening_fault(filled, turn), "line 1 begins as Pip does on this turn"),
            judge_rule("at_most_two_sentences", _sentences_fault(filled), "line 1 says it in one or two sentences"),
            judge_rule("one_next_step", _step_fault(filled, answer), f"line 2 is the only '{STEP_MARK}' step"),
            judge_rule("signature", _signature_fault(filled), f"line 3 is '{SIGNATURE}'"),
            judge_words("at_most_40_words", answer, most=MAX_WORDS),
        )
    )


def _opening_fault(filled: list[str], turn: int | None) -> str:
    allowed = (FIRST_OPENING, LATER_OPENING) if turn is None else (FIRST_OPENING if turn == 0 else LATER_OPENING,)
    if filled and filled[0].startswith(allowed):
        return ""
    found = f"line 1 is '{shorten(filled[0])}'" if filled else "line 1 is missing"
    when = "" if turn is None else " on the first turn" if turn == 0 else " after the first turn"
    wanted = " or ".join(f"'{opening}'" for opening in allowed)
    return f"{found}; it must start with {wanted}{when}"


def _sentences_fault(filled: list[str]) -> str:
    """Either opening is left out of the count, so that a wrong one breaks the rule on openings only."""
    text = filled[0] if filled else ""
    text = text.removeprefix(FIRST_OPENING).removeprefix(LATER_OPENING)
    if not any(character.isalnum() for character in text):
        return "line 1 says nothing; it must have one or two sentences after the opening"
    if not text.endswith("."):
        return f"line 1 ends with '{shorten(text[-12:])}'; it must end with '.'"
    sentences = len(_SENTENCE_END.findall(text))
    return f"line 1 has {sentences} sentences; at most two are allowed" if sentences > MAX_SENTENCES else ""


def _step_fault(filled: list[str], answer: str) -> str:
    fault = find_line_fault(filled, 2, f"{STEP_MARK} ", ".")
    if fault:
        return fault
    marks = answer.count(STEP_MARK)
    if marks != 1:
        return f"'{STEP_MARK}' stands {marks} times; there must be exactly one next step"
    if len(_SENTENCE_END.findall(filled[1])) > 1:
        return f"line 2 is '{shorten(filled[1])}'; the next step must be one sentence"
    return ""


def _signature_fault(filled: list[str]) -> str:
    if len(filled) < 3:
        return f"line 3 is missing; it must be '{SIGNATURE}'"
    # The white space at the end of the answer is no fault, so none at the end of this line is.
    return "" if filled[2].rstrip() == SIGNATURE else f"line 3 is '{shorten(filled[2])}'; it must be '{SIGNATURE}'"
