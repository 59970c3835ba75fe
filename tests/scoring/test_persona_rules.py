"""The chatbot persona's manner, rule by rule and turn by turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.records import Completion, Message, Sampling, utc_now
from workbench.scoring.persona_rules import score_chatbot
from workbench.scoring.rule_reports import RuleReport, count_words
from workbench.scoring.rules import get_rule_scorer
from workbench.scoring.scorers import score_completion

FIRST = "Hello, neighbour! A dry chain squeaks. Oil each link lightly.\n→ Wipe the chain first.\n— Pip"
LATER = FIRST.replace("Hello", "Right")
RULES = ("three_lines", "opening", "at_most_two_sentences", "one_next_step", "signature", "at_most_40_words")

words = st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, max_size=10).map(" ".join)
openings = st.sampled_from(["Hello", "Right"])
good_answers = st.builds("{}, neighbour! {}. {}.\n→ {}.\n— Pip".format, openings, words, words, words)


def broken(report: RuleReport) -> list[str]:
    return [result.rule for result in report.results if not result.passed]


def detail(report: RuleReport, rule: str) -> str:
    return next(result.detail for result in report.results if result.rule == rule)


def completion(text: str, *roles: str) -> Completion:
    prompt = tuple(Message.model_validate({"role": role, "content": "?"}) for role in roles)
    return Completion(
        id="cmp_1", variant_id="var_1", prompt=prompt, text=text, sampling=Sampling(), created_at=utc_now()
    )


def test_a_good_answer_keeps_every_rule_in_the_kits_order():
    report = score_chatbot(FIRST)
    assert report.passed
    assert tuple(result.rule for result in report.results) == RULES


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        ("three_lines", FIRST + "\nCome again."),
        ("three_lines", FIRST.replace("\n", "\n\n")),
        ("three_lines", "\n" + FIRST),
        ("opening", FIRST.removeprefix("Hello, neighbour! ")),
        ("opening", FIRST.replace("neighbour", "friend").replace("! ", ", ")),
        ("opening", " " + FIRST.removeprefix("Hello, neighbour! ")),
        ("at_most_two_sentences", FIRST.replace("lightly.", "lightly. Then ride.")),
        ("at_most_two_sentences", FIRST.replace("lightly.", "lightly")),
        ("at_most_two_sentences", FIRST.replace("A dry chain squeaks. Oil each link lightly.", ".")),
        ("one_next_step", FIRST.replace("→ ", "Next: ")),
        ("one_next_step", FIRST.replace("→ Wipe", "→  Wipe")),
        ("one_next_step", FIRST.replace("first.", "first")),
        ("one_next_step", FIRST.replace("first.", "first. Then oil it.")),
        ("one_next_step", FIRST.replace("first.", "first → then oil it.")),
        ("one_next_step", FIRST.replace("lightly.", "lightly → and wait.")),
        ("signature", FIRST.replace("— Pip", "- Pip")),
        ("signature", FIRST.replace("— Pip", "— Pip.")),
        ("signature", FIRST.replace("— Pip", "— Sam")),
        ("at_most_40_words", FIRST.replace("dry", "dry " * 40)),
    ],
)
def test_each_fault_breaks_precisely_one_rule(rule: str, answer: str):
    assert broken(score_chatbot(answer)) == [rule]


def test_an_untuned_answer_breaks_the_rules_that_are_the_personas_own():
    answer = "Your chain may be dry. Apply some oil to it and it should stop squeaking."
    assert broken(score_chatbot(answer)) == ["three_lines", "opening", "one_next_step", "signature"]


@pytest.mark.parametrize(("answer", "turn", "kept"), [
    (FIRST, 0, True), (FIRST, 1, False), (LATER, 0, False), (LATER, 1, True), (LATER, 7, True),
    (FIRST, None, True), (LATER, None, True),
])  # fmt: skip
def test_hello_is_said_on_the_first_turn_only(answer: str, turn: int | None, kept: bool):
    assert broken(score_chatbot(answer, turn=turn)) == ([] if kept else ["opening"])


@pytest.mark.parametrize(
    ("roles", "passed"),
    [
        (("user",), True),
        (("system", "user"), True),
        (("system", "user", "assistant", "user"), False),
        ((), True),
    ],
)
def test_a_stored_answer_is_scored_on_the_turn_that_its_prompt_ends_with(roles: tuple[str, ...], passed: bool):
    score = score_completion("chatbot", completion(FIRST, *roles))
    assert score is not None
    assert score.passed is passed
    assert list(score.detail) == list(RULES)


def test_a_broken_rule_quotes_the_line_and_says_what_it_must_be():
    report = score_chatbot("Oil it.\nWipe it.\nBye", turn=1)
    assert detail(report, "opening") == (
        "line 1 is 'Oil it.'; it must start with 'Right, neighbour! ' after the first turn"
    )
    assert detail(report, "one_next_step") == "line 2 is 'Wipe it.'; it must start with '→ '"
    assert detail(report, "signature") == "line 3 is 'Bye'; it must be '— Pip'"


def test_an_empty_answer_breaks_all_rules_but_the_one_on_its_length():
    report = score_chatbot(" \n ")
    assert broken(report) == list(RULES[:-1])
    assert detail(report, "three_lines") == "the answer is empty; it must have exactly three lines"
    assert detail(report, "signature") == "line 3 is missing; it must be '— Pip'"


def test_white_space_at_the_end_of_the_answer_is_ignored():
    assert score_chatbot(FIRST + " \n\n").passed


def test_a_number_with_a_point_is_no_end_of_a_sentence():
    assert score_chatbot(FIRST.replace("lightly", "with 0.5 ml")).passed


def test_one_sentence_is_enough():
    assert score_chatbot(FIRST.replace(" Oil each link lightly.", "")).passed


def test_forty_words_pass_and_forty_one_do_not():
    most = FIRST.replace("dry", " ".join(["dry"] * (41 - count_words(FIRST))))
    assert count_words(most) == 40
    assert score_chatbot(most).passed
    assert broken(score_chatbot(most.replace("dry", "dry dry", 1))) == ["at_most_40_words"]


def test_the_scorer_is_found_by_its_name():
    assert get_rule_scorer("chatbot") is score_chatbot


@given(st.text(), st.none() | st.integers(0, 9))
def test_any_text_at_all_gets_a_report_with_every_rule(text: str, turn: int | None):
    assert tuple(result.rule for result in score_chatbot(text, turn=turn).results) == RULES


@given(good_answers)
def test_any_answer_in_the_manner_passes(answer: str):
    assert set(broken(score_chatbot(answer))) <= {"at_most_40_words"}


@given(good_answers, st.integers(0, 2))
def test_dropping_any_line_fails(answer: str, dropped: int):
    lines = answer.split("\n")
    del lines[dropped]
    assert "three_lines" in broken(score_chatbot("\n".join(lines)))


@given(good_answers, st.integers(0, 3), st.text())
def test_adding_a_line_passes_only_as_white_space_at_the_end(answer: str, place: int, line: str):
    lines = answer.split("\n")
    lines.insert(place, line)
    assert score_chatbot("\n".join(lines)).passed <= (place == 3 and not line.strip())
