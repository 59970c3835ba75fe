"""One table from a scorer's name to what it does with an answer.

A rule scorer looks at the answer alone and says whether it passes, rule by rule, and how many of the rules it keeps;
a metric scorer compares it with a reference and says a figure; a reward model's scores come from a run of its own. A
new metric is one function and one entry in `METRICS`; a new rule scorer is one entry in `workbench.scoring.rules`.
Intervals and means are left to `workbench.evaluation.aggregate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from workbench.errors import UsageError
from workbench.records import Completion, Message, Score
from workbench.scoring.rule_reports import RuleReport


@dataclass(frozen=True)
class Metric:
    """A scorer that compares an answer with a reference."""

    title: str
    """Words for pages."""
    short: str
    """Words for the head of a column."""
    highest: float
    """The figure of a perfect answer; the worst is 0."""
    measure: Callable[[str, str], float]
    """Answer and reference to the figure."""
    judges: bool = False
    """Whether the figure is also a verdict: the highest passes, anything less does not."""


def sentence_chrf(text: str, reference: str) -> float:
    """ChrF of one answer, 0 to 100 (Popović 2015; character 6-grams, β = 2, sacrebleu's defaults)."""
    if not text.strip():
        return 0.0
    return float(_chrf().sentence_score(text, [reference]).score)


def corpus_chrf(texts: Sequence[str], references: Sequence[str]) -> float:
    """ChrF over all answers at once, 0 to 100: n-gram counts are added up before the F-score is taken.

    Args:
        texts: answers.
        references: as many references, in the same order.

    Raises:
        UsageError: the two differ in length or are empty.
    """
    if not texts or len(texts) != len(references):
        raise UsageError("as many answers as references are needed, at least one", place="chrf")
    return float(_chrf().corpus_score(list(texts), [list(references)]).score)


def exact_match(text: str, reference: str) -> float:
    """1 where answer and reference are the same apart from white space at the ends and runs of it, else 0."""
    return float(text.split() == reference.split())


METRICS: dict[str, Metric] = {
    "chrf": Metric("chrF against the reference", "chrF", 100.0, sentence_chrf),
    "exact_match": Metric("Exact match", "Exact match", 1.0, exact_match, judges=True),
}


REWARD = "reward:"
"""What the name of a reward model's scores begins with; the id of the run that made it follows."""


def figure_title(name: str, *, short: bool = False) -> str:
    """What a scorer's figure is called: a metric's title, the rules kept of a rule scorer, or a reward.

    Args:
        name: the scorer.
        short: for the head of a column.
    """
    if name in METRICS:
        return METRICS[name].short if short else METRICS[name].title
    if name.startswith(REWARD):
        return "Reward"
    return "Rules kept, %"


def figure_range(name: str) -> str:
    """Between what a scorer's figure lies, in words; empty where it is not bounded."""
    if name.startswith(REWARD):
        return ""
    return f"0 to {METRICS[name].highest if name in METRICS else 100.0:g}"


def scorer_names() -> list[str]:
    """Every name that `score_completion` takes."""
    from workbench.scoring.rules import RULE_SCORERS

    return [*RULE_SCORERS, *METRICS]


def check_scorers(names: Iterable[str]) -> tuple[str, ...]:
    """The names, without repeats, once each of them is known.

    Raises:
        UsageError: a name is not in the table.
    """
    known = scorer_names()
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        if name not in known:
            raise UsageError(
                "no such scorer", place="scorers", value=name, remedy=f"Choose among auto, {', '.join(known)}."
            )
    return wanted


def score_completion(name: str, completion: Completion, reference: str | None = None) -> Score | None:
    """What one scorer says of one answer.

    Args:
        name: a rule scorer or a metric.
        completion: the answer.
        reference: a good answer; needed by metrics.

    Returns:
        The score; None where there is nothing to score: the request failed, or a metric has no reference.

    Raises:
        UsageError: the scorer is unknown.
    """
    if completion.error is not None:
        return None
    metric = METRICS.get(name)
    if metric is None:
        report = _check_rules(name, completion.text, completion.prompt)
        detail: dict[str, Any] = {
            result.rule: {"passed": result.passed, "detail": result.detail} for result in report.results
        }
        return Score(
            completion_id=completion.id, scorer=name, passed=report.passed, value=100 * report.kept, detail=detail
        )
    if reference is None:
        return None
    value = metric.measure(completion.text, reference)
    passed = value >= metric.highest if metric.judges else None
    return Score(completion_id=completion.id, scorer=name, passed=passed, value=value)


def measure_text(name: str, text: str, prompt: Sequence[Message], reference: str | None = None) -> float | None:
    """One scorer's figure for a text that is no stored answer: the figure that `score_completion` would give it.

    Args:
        name: a rule scorer or a metric.
        text: the answer.
        prompt: what was asked.
        reference: a good answer; needed by metrics.

    Returns:
        The figure; None where a metric has no reference.

    Raises:
        UsageError: the scorer is unknown.
    """
    metric = METRICS.get(name)
    if metric is None:
        return 100 * _check_rules(name, text, prompt).kept
    return None if reference is None else metric.measure(text, reference)


def _check_rules(name: str, text: str, prompt: Sequence[Message]) -> RuleReport:
    from workbench.scoring.rules import get_rule_scorer

    check_scorers([name])
    asked = sum(message.role == "user" for message in prompt)
    return get_rule_scorer(name)(text, turn=max(0, asked - 1))


@lru_cache(maxsize=1)
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()
