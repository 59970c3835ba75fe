"""Each scorer beside the library it stands on, and what happens where there is nothing to score."""

from __future__ import annotations

import pytest
import sacrebleu

from workbench.errors import UsageError
from workbench.records import Completion, Message, Sampling, utc_now
from workbench.scoring.scorers import check_scorers, corpus_chrf, score_completion, scorer_names

FORMED = "Answer: The Moon orbits the Earth.\n- It takes a month.\n- We see one side.\nNext: Why one side?"


def completion(text: str, error: str | None = None) -> Completion:
    return Completion(
        id="cmp_1",
        variant_id="var_1",
        prompt=(Message(role="user", content="?"),),
        text=text,
        sampling=Sampling(),
        error=error,
        created_at=utc_now(),
    )


@pytest.mark.parametrize(
    ("text", "reference"), [("The cat sat.", "A cat sat down."), ("größer", "grösser"), ("x", "y")]
)
def test_chrf_is_the_figure_sacrebleu_gives(text: str, reference: str) -> None:
    score = score_completion("chrf", completion(text), reference)
    assert score is not None
    assert score.value == pytest.approx(sacrebleu.sentence_chrf(text, [reference]).score)
    assert score.passed is None


def test_the_corpus_figure_is_not_the_mean_but_the_one_sacrebleu_gives() -> None:
    texts, references = ["The cat sat.", "No"], ["A cat sat down.", "Not at all, my friend"]
    assert corpus_chrf(texts, references) == pytest.approx(sacrebleu.corpus_chrf(texts, [references]).score)


def test_a_corpus_of_unequal_sides_is_refused() -> None:
    with pytest.raises(UsageError, match="as many"):
        corpus_chrf(["a"], [])


def test_an_empty_answer_has_chrf_zero() -> None:
    score = score_completion("chrf", completion("  \n"), "anything")
    assert score is not None and score.value == 0.0


@pytest.mark.parametrize(("text", "same"), [(" Paris \n", True), ("Paris", True), ("paris", False), ("", False)])
def test_exact_match_forgives_white_space_only(text: str, same: bool) -> None:
    score = score_completion("exact_match", completion(text), "Paris")
    assert score is not None
    assert (score.passed, score.value) == (same, float(same))


def test_a_rule_scorer_says_rule_by_rule_what_held() -> None:
    good = score_completion("assistant", completion(FORMED))
    bad = score_completion("assistant", completion("The Moon orbits the Earth."))
    assert good is not None and good.passed is True
    assert bad is not None and bad.passed is False
    assert set(good.detail) == {"four_lines", "answer_line", "two_bullets", "next_question", "at_most_60_words"}


def test_a_failed_request_and_a_missing_reference_get_no_score() -> None:
    assert score_completion("chrf", completion("text"), None) is None
    assert score_completion("assistant", completion("", error="gone")) is None


def test_unknown_scorers_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="assistant, chatbot, chrf, exact_match"):
        check_scorers(["chrf", "bleurt"])
    with pytest.raises(UsageError, match="no such scorer"):
        score_completion("bleurt", completion("x"))
    assert check_scorers(["chrf", "chrf"]) == ("chrf",)
    assert check_scorers(scorer_names()) == tuple(scorer_names())
