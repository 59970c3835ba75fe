"""What the assistant kit promises: its format, its size, its variety, and held-out topics absent from training."""

import json
import re
from importlib import resources
from itertools import combinations

import pytest
from rapidfuzz.distance import LCSseq

from workbench.scoring.rules import get_rule_scorer

KIT = resources.files("workbench.datasets") / "kits" / "assistant"
Row = dict[str, str]


def read_rows(name: str) -> list[Row]:
    return [json.loads(line) for line in (KIT / name).read_text(encoding="utf-8").splitlines()]


TRAIN = read_rows("train.jsonl")
HELD_OUT = read_rows("held_out.jsonl")
CARD = json.loads((KIT / "kit.json").read_text(encoding="utf-8"))


def rouge_tokens(text: str) -> list[str]:
    """Split as rouge_score does without a stemmer."""
    return re.findall("[a-z0-9]+", text.lower())


def faults(rows: list[Row]) -> list[str]:
    score = get_rule_scorer(CARD["scorer"])
    return [
        f"{row['id']}: {result.detail}"
        for row in rows
        for result in score(row["response"]).results
        if not result.passed
    ]


def test_every_training_response_follows_every_rule():
    assert faults(TRAIN) == []


def test_every_held_out_response_follows_every_rule():
    assert faults(HELD_OUT) == []


def test_the_card_lists_the_rules_that_its_scorer_checks():
    report = get_rule_scorer(CARD["scorer"])(TRAIN[0]["response"])
    assert CARD["rules"] == [result.rule for result in report.results]


def test_the_card_names_the_kit_and_an_open_licence():
    assert CARD["name"] == "assistant"
    assert CARD["licence"] == "CC0-1.0"
    assert CARD["system_prompt"] is None
    assert CARD["title"] and CARD["description"] and CARD["format"]


def test_there_are_enough_rows_and_topics():
    assert len(TRAIN) >= 250
    assert len(HELD_OUT) >= 48
    assert len({row["topic"] for row in TRAIN}) >= 20


def test_every_row_has_the_same_four_filled_fields():
    for row in TRAIN + HELD_OUT:
        assert list(row) == ["id", "topic", "instruction", "response"]
        assert all(text and text == text.strip() for text in row.values()), row["id"]


def test_ids_are_unique_across_both_files():
    ids = [row["id"] for row in TRAIN + HELD_OUT]
    assert len(ids) == len(set(ids))


def test_held_out_topics_are_absent_from_training():
    assert not {row["topic"] for row in TRAIN} & {row["topic"] for row in HELD_OUT}


@pytest.mark.parametrize("start", ["Answer: ", "Next: "])
def test_no_answer_and_no_follow_up_question_is_given_twice(start: str):
    lines = [line for row in TRAIN + HELD_OUT for line in row["response"].split("\n") if line.startswith(start)]
    assert len(lines) == len(set(lines))


def test_no_two_instructions_have_a_rouge_l_above_0_7():
    rows = [(row["id"], rouge_tokens(row["instruction"])) for row in TRAIN + HELD_OUT]
    near = [
        (first, second)
        for (first, a), (second, b) in combinations(rows, 2)
        if 2 * LCSseq.similarity(a, b) / (len(a) + len(b)) > 0.7
    ]
    assert near == []


def test_the_shortcut_for_rouge_l_agrees_with_the_reference():
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    for one, other in combinations([row["instruction"] for row in TRAIN[::20]], 2):
        a, b = rouge_tokens(one), rouge_tokens(other)
        expected = scorer.score(one, other)["rougeL"].fmeasure
        assert 2 * LCSseq.similarity(a, b) / (len(a) + len(b)) == pytest.approx(expected)
