from __future__ import annotations

import json

import pytest

from workbench.self_instruct.filters import (
    INSTANCE_REASONS,
    INSTRUCTION_REASONS,
    REASONS,
    InstructionRules,
    LeakGuard,
    find_word,
    judge_instances,
    judge_instruction,
    reason_of,
)
from workbench.self_instruct.seeds import SEEDS_FILE
from workbench.store.candidates import Instance


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Name three rivers.", "too_short"),
        ("", "too_short"),
        ("   ", "too_short"),
        ("Name four long rivers.", None),
        ("word " * 150, None),
        ("word " * 151, "too_long"),
        ("Describe what the image shows.", "points_outside"),
        ("Please Go  to the shop and buy milk.", "points_outside"),
        ("Explain what an imagery analyst does.", None),
        ("Explain how profiles differ from filed papers.", None),
        ("Draw a house with a garden.", "points_outside"),
        ("Write a program that adds two numbers.", "asks_for_program"),
        ("Write a programme for the village fair.", "asks_for_program"),
        ("Please write a program that adds two numbers.", None),
        ("- Sort the numbers in this list.", "starts_with_punctuation"),
        ("“Sort” the numbers in this list.", "starts_not_ascii"),
        ("Übersetze den Satz in die Gegenwart.", "starts_not_ascii"),
        ("Keep É inside where it stands.", None),
        ("Sort this: the list below holds 8 tasks for an assistant.", "repeats_prompt"),
        ("Sort the list below by how long each task takes.", None),
    ],
)
def test_an_instruction_is_thrown_out_for_its_words(text: str, reason: str | None):
    assert judge_instruction(text) == reason


def test_words_and_thresholds_are_settings():
    rules = InstructionRules(min_words=2, max_words=5, words=("spread sheet",), programs=False)
    assert judge_instruction("Draw it", rules) is None
    assert judge_instruction("Write a program now.", rules) is None
    assert judge_instruction("one two three four five six", rules) == "too_long"
    assert judge_instruction("Fill the Spread\nsheet.", rules) == "points_outside"
    assert find_word("anything", ["", " "]) is None


def one(given: str, output: str, reason: str | None = None) -> Instance:
    return Instance(input=given, output=output, reason=reason)


@pytest.mark.parametrize(
    ("instances", "reasons"),
    [
        ([one("a", "b")], [None]),
        ([one("a", " ")], ["instance_empty"]),
        ([one("same ", "same")], ["instance_echoes"]),
        ([one("the list:", "b")], ["instance_ends_with_colon"]),
        ([one("a", "as follows:")], ["instance_ends_with_colon"]),
        ([one("a", "The gardener watered the roses before breakfast.")], ["instance_repeats_prompt"]),
        ([one("a", "b"), one("a", "b"), one("c", "b")], [None, "instance_repeats", None]),
        ([one("a", "b"), one("c", "d"), one("a", "x")], ["instance_contradicts"] * 3),
        ([one("", "b"), one("", "c")], ["instance_contradicts"] * 2),
        ([one("a", ""), one("a", "x")], ["instance_empty", None]),
        ([one("a", "b"), one("c", "d", "instance_cut_off")], [None, "instance_cut_off"]),
    ],
)
def test_instances_are_thrown_out_with_their_reasons(instances: list[Instance], reasons: list[str | None]):
    assert [each.reason for each in judge_instances(instances)] == reasons


def test_the_last_instance_of_a_reply_that_was_cut_is_thrown_out():
    judged = judge_instances([one("a", "b"), one("c", "d")], last_cut_off=True)
    assert [each.reason for each in judged] == [None, "instance_cut_off"]


def test_a_task_without_usable_instance_has_the_reason_of_its_first():
    assert reason_of(()) == "no_instances"
    assert reason_of(judge_instances([one("a", ""), one("b", "b")])) == "instance_empty"
    assert reason_of(judge_instances([one("a", ""), one("b", "c")])) is None


def test_what_is_held_out_does_not_come_back_as_training_data():
    held = "Explain to a child why the leaves of trees turn red and yellow in autumn."
    answer = "Trees take the green out of their leaves before winter, and the other colours show."
    guard = LeakGuard([held, answer, "Yes"])
    leak = guard.find("Explain to a child why leaves of trees turn red or yellow in autumn.")
    assert leak is not None and leak.text == held and leak.score >= 0.7
    assert guard.find("Explain to a child how trees drink.") is None
    judged = guard.judge(
        "Answer the question.", [one("", answer), one("", "Yes"), one(held, "It is cold."), one("x", "y")]
    )
    assert [each.reason for each in judged] == ["instance_leaks", None, "instance_leaks", None]
    assert len(guard) == 3 and LeakGuard([]).find(held) is None


def test_every_reason_has_its_words():
    assert set(REASONS) == {*INSTRUCTION_REASONS, *INSTANCE_REASONS, "no_answer"}
    assert all(words.endswith(".") for words in REASONS.values())


def test_the_shipped_seeds_pass_their_own_filters():
    seeds = [json.loads(line) for line in SEEDS_FILE.read_text("utf-8").splitlines()]
    assert len(seeds) >= 60 and sum(seed["is_classification"] for seed in seeds) >= 10
    assert len({seed["id"] for seed in seeds}) == len(seeds) and len({seed["topic"] for seed in seeds}) >= 20
    for seed in seeds:
        assert judge_instruction(seed["instruction"]) is None, seed
        assert judge_instances([one(seed["input"], seed["output"])])[0].reason is None, seed
