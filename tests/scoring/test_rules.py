import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from workbench.errors import UsageError
from workbench.scoring.rule_reports import RuleReport, count_words
from workbench.scoring.rules import RULE_SCORERS, get_rule_scorer, score_assistant

GOOD = (
    "Answer: Leaves change colour when they stop making green chlorophyll.\n"
    "- Yellow was hidden all summer.\n"
    "- Some trees add red.\n"
    "Next: Which trees near you turn first?"
)
RULES = ("four_lines", "answer_line", "two_bullets", "next_question", "at_most_60_words")

words = st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, max_size=8).map(" ".join)
good_answers = st.builds("Answer: {}.\n- {}.\n- {}.\nNext: {}?".format, words, words, words, words)


def broken(report: RuleReport) -> list[str]:
    return [result.rule for result in report.results if not result.passed]


def detail(report: RuleReport, rule: str) -> str:
    return next(result.detail for result in report.results if result.rule == rule)


def test_a_good_answer_keeps_every_rule_in_the_kits_order():
    report = score_assistant(GOOD)
    assert report.passed
    assert tuple(result.rule for result in report.results) == RULES


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        ("four_lines", GOOD + "\nI hope this helps."),
        ("four_lines", GOOD.replace("\n", "\n\n")),
        ("four_lines", "\n" + GOOD),
        ("answer_line", GOOD.removeprefix("Answer: ")),
        ("answer_line", GOOD.replace("Answer:", "answer:")),
        ("answer_line", " " + GOOD),
        ("answer_line", GOOD.replace("chlorophyll.", "chlorophyll")),
        ("two_bullets", GOOD.replace("- Yellow", "* Yellow")),
        ("two_bullets", GOOD.replace("- Some", "1. Some")),
        ("two_bullets", GOOD.replace("red.", "red!")),
        ("two_bullets", GOOD.replace("- Some trees add red.", "- .")),
        ("next_question", GOOD.replace("Next: ", "")),
        ("next_question", GOOD.replace("first?", "first.")),
        ("next_question", GOOD.replace("Next: Which", "Next:  Which")),
        ("at_most_60_words", GOOD.replace("green", "green " * 40)),
    ],
)
def test_each_fault_breaks_precisely_one_rule(rule: str, answer: str):
    assert broken(score_assistant(answer)) == [rule]


def test_an_untuned_answer_breaks_every_rule_about_form():
    report = score_assistant("The leaves change colour in autumn because of chlorophyll.")
    assert broken(report) == ["four_lines", "answer_line", "two_bullets", "next_question"]


def test_a_broken_rule_quotes_the_line_and_says_what_it_must_be():
    report = score_assistant("The leaves turn.\n- One.\n- Two.\nNext: Why?")
    assert detail(report, "answer_line") == "line 1 is 'The leaves turn.'; it must start with 'Answer: '"
    assert detail(score_assistant(""), "next_question") == "line 4 is missing; it must start with 'Next: '"
    assert detail(score_assistant(GOOD + "\n\nMore."), "four_lines") == (
        "the answer has 5 lines and 1 blank; it must have exactly four, none blank"
    )


def test_white_space_at_the_end_of_the_answer_is_ignored():
    assert score_assistant(GOOD + " \n\n").passed


def test_sixty_words_pass_and_sixty_one_do_not():
    short = GOOD.replace("green", " ".join(["green"] * (61 - count_words(GOOD))))
    assert count_words(short) == 60
    assert score_assistant(short).passed
    assert broken(score_assistant(short.replace("green", "green green", 1))) == ["at_most_60_words"]


def test_dashes_are_not_counted_as_words():
    assert count_words("Answer: It is 12.\n- Ten percent is 8.") == 8


def test_a_report_cannot_be_changed():
    report = score_assistant(GOOD)
    with pytest.raises(ValidationError):
        report.results[0].passed = False


def test_the_scorer_is_found_by_its_name():
    assert get_rule_scorer("assistant") is score_assistant
    assert set(RULE_SCORERS) == {"assistant", "chatbot"}


def test_an_unknown_scorer_is_refused_with_the_known_names():
    with pytest.raises(UsageError, match="Choose one of: 'assistant'"):
        get_rule_scorer("poetry")


@given(st.text())
def test_any_text_at_all_gets_a_report_with_every_rule(text: str):
    assert tuple(result.rule for result in score_assistant(text).results) == RULES


@given(good_answers)
def test_any_answer_in_the_format_passes(answer: str):
    assert score_assistant(answer).passed


@given(good_answers, st.integers(0, 3))
def test_dropping_any_line_fails(answer: str, dropped: int):
    lines = answer.split("\n")
    del lines[dropped]
    assert "four_lines" in broken(score_assistant("\n".join(lines)))


@given(good_answers, st.integers(0, 3), st.text())
def test_adding_a_line_never_passes(answer: str, place: int, line: str):
    lines = answer.split("\n")
    lines.insert(place, line)
    assert not score_assistant("\n".join(lines)).passed
