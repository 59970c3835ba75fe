"""What the chatbot kit promises: a persona kept on every turn, size, variety, held-out things not in training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import resources
from itertools import combinations, groupby
from typing import Any

import pytest
from rapidfuzz.distance import LCSseq

from workbench.datasets.starter import install_kit
from workbench.datasets.versions import iter_rows
from workbench.scoring.rules import get_rule_scorer

KIT = resources.files("workbench.datasets") / "kits" / "chatbot"
Row = dict[str, Any]
Turn = dict[str, str]


def read_rows(name: str) -> list[Row]:
    return [json.loads(line) for line in (KIT / name).read_text(encoding="utf-8").splitlines()]


TRAIN = read_rows("train.jsonl")
HELD_OUT = read_rows("held_out.jsonl")
CARD = json.loads((KIT / "kit.json").read_text(encoding="utf-8"))
SYSTEM = {"role": "system", "content": CARD["system_prompt"]}


def whole(row: Row) -> list[Turn]:
    """A row's conversation with its reference, where it has one, as the last turn."""
    reference = [{"role": "assistant", "content": row["reference"]}] if "reference" in row else []
    return [*row["messages"], *reference]


def held_out_dialogues() -> list[list[Turn]]:
    """The longest form of each held-out conversation."""
    by_dialogue = groupby(HELD_OUT, key=lambda row: row["id"].split("-")[0])
    return [whole(list(rows)[-1]) for _, rows in by_dialogue]


DIALOGUES = [*(row["messages"] for row in TRAIN), *held_out_dialogues()]


def answers_by_turn(dialogue: list[Turn]) -> Iterator[tuple[int, str]]:
    yield from enumerate(turn["content"] for turn in dialogue if turn["role"] == "assistant")


def rouge_tokens(text: str) -> list[str]:
    """Split as rouge_score does without a stemmer."""
    return re.findall("[a-z0-9]+", text.lower())


def test_every_answer_keeps_every_rule_on_its_turn():
    score = get_rule_scorer(CARD["scorer"])
    faults = [
        f"{answer!r}: {result.detail}"
        for dialogue in [*DIALOGUES, *(whole(row) for row in HELD_OUT)]
        for turn, answer in answers_by_turn(dialogue)
        for result in score(answer, turn=turn).results
        if not result.passed
    ]
    assert faults == []


def test_the_card_lists_the_rules_that_its_scorer_checks():
    report = get_rule_scorer(CARD["scorer"])("")
    assert CARD["rules"] == [result.rule for result in report.results]


def test_the_card_names_the_kit_and_an_open_licence():
    assert CARD["name"] == "chatbot"
    assert CARD["licence"] == "CC0-1.0"
    assert CARD["title"] and CARD["description"] and CARD["format"]


def test_the_system_prompt_gives_nothing_of_the_manner_away():
    for mark in ("Hello", "Right", "→", "—", "sentence"):
        assert mark not in CARD["system_prompt"]


def test_there_are_enough_conversations_prompts_and_topics():
    assert len(TRAIN) >= 64
    assert len(held_out_dialogues()) >= 12
    assert len(HELD_OUT) >= 40
    assert len({row["topic"] for row in TRAIN}) >= 15


def test_every_row_has_the_same_filled_fields():
    for rows, fields in ((TRAIN, ["id", "topic", "messages"]), (HELD_OUT, ["id", "topic", "messages", "reference"])):
        for row in rows:
            assert list(row) == fields
            assert all(list(turn) == ["role", "content"] for turn in row["messages"]), row["id"]
            texts = [row["id"], row["topic"], *(turn["content"] for turn in whole(row))]
            assert all(text and text == text.strip() for text in texts), row["id"]


def test_every_conversation_begins_with_the_persona_and_then_takes_turns():
    for row in TRAIN + HELD_OUT:
        first, *turns = whole(row)
        assert first == SYSTEM, row["id"]
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2), row["id"]


def test_training_conversations_have_two_to_four_user_turns():
    assert {sum(turn["role"] == "user" for turn in row["messages"]) for row in TRAIN} == {2, 3, 4}


def test_each_held_out_conversation_is_asked_at_its_first_second_and_third_turn():
    for _, rows in groupby(HELD_OUT, key=lambda row: row["id"].split("-")[0]):
        forms = [whole(row) for row in rows]
        assert [len(form) for form in forms] == [3, 5, 7]
        assert forms[2][:5] == forms[1] and forms[1][:3] == forms[0]


def test_ids_are_unique_across_both_files():
    ids = [row["id"] for row in TRAIN + HELD_OUT]
    assert len(ids) == len(set(ids))


def test_held_out_topics_are_absent_from_training():
    assert not {row["topic"] for row in TRAIN} & {row["topic"] for row in HELD_OUT}


def test_no_answer_and_no_next_step_is_given_twice():
    answers = [answer for dialogue in DIALOGUES for _, answer in answers_by_turn(dialogue)]
    assert len(answers) == len(set(answers))
    steps = [answer.split("\n")[1] for answer in answers]
    assert len(steps) == len(set(steps))


def test_no_two_first_questions_have_a_rouge_l_above_0_7():
    questions = [rouge_tokens(dialogue[1]["content"]) for dialogue in DIALOGUES]
    near = [(a, b) for a, b in combinations(questions, 2) if 2 * LCSseq.similarity(a, b) / (len(a) + len(b)) > 0.7]
    assert near == []


def test_every_conversation_is_short_enough_for_a_small_model():
    """About four characters make a token of English, and a turn's marks take five: 260 tokens at most."""
    for dialogue in DIALOGUES:
        assert sum(len(turn["content"]) / 4 + 5 for turn in dialogue) <= 260, dialogue[1]["content"]


def test_the_kit_is_installed_with_its_conversations(store):
    train, held_out = install_kit(store, "chatbot")
    example = next(iter_rows(store, train)).payload
    assert [message.as_dict() for message in example.messages] == TRAIN[0]["messages"]
    assert example.meta == {"id": TRAIN[0]["id"], "topic": TRAIN[0]["topic"]}
    prompts = [row.payload for row in iter_rows(store, held_out)]
    assert [prompt.reference for prompt in prompts] == [row["reference"] for row in HELD_OUT]
    assert {prompt.messages[-1].role for prompt in prompts} == {"user"}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_reference_fits_its_own_turn_and_no_other_kind_of_turn(place: int):
    score = get_rule_scorer(CARD["scorer"])
    row = HELD_OUT[place]
    assert sum(turn["role"] == "user" for turn in row["messages"]) == place + 1
    assert score(row["reference"], turn=place).passed
    assert not score(row["reference"], turn=0 if place else 1).passed
