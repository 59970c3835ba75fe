from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.self_instruct import parsing
from workbench.self_instruct.parsing import (
    parse_classification,
    parse_input_first,
    parse_instructions,
    parse_output_first,
    parse_whole_tasks,
)

PIECES = [
    "1.", "9) ", "Task:", "Input:", "Output:", "Label:", "Example 2", "###", "---", "**", "\n", "\n\n", " ", "none",
    "Instruction:", "Sort these.", "[12]", "- ", ":", "\t", "名前", "\ud800", "\x00", "Class label:", "<noinput>",
]  # fmt: skip
replies = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
reasons = st.sampled_from(["stop", "length", None, "content_filter"])


@given(replies, reasons)
def test_no_reply_makes_a_parser_raise(text: str, reason: str | None):
    for read in (parse_instructions, parse_whole_tasks):
        for task in read(text, finish_reason=reason):
            assert task.instruction == " ".join(task.instruction.split()) != ""
    for read_instances in (parse_input_first, parse_output_first):
        assert len(read_instances(text, finish_reason=reason)) <= parsing.MOST_INSTANCES
    assert parse_classification(text) in (True, False, None)


@pytest.mark.parametrize("run", [" ", "\n", "*", "#", "1", "Input: \n", "- ", "\t \n"])
def test_a_reply_that_repeats_itself_is_read_quickly(run: str):
    text = run * (40_000 // len(run)) + "x"
    parse_instructions(text)
    parse_whole_tasks(text)
    parse_input_first(text)
    parse_output_first(text)


def instructions(text: str, finish_reason: str | None = None) -> list[tuple[str, bool]]:
    return [(task.instruction, task.cut_off) for task in parse_instructions(text, finish_reason=finish_reason)]


def test_a_numbered_list_is_read_however_it_is_written():
    text = (
        "Sure! Here are more tasks:\n\n9. Write a haiku\n   about rain.\n10) **Explain tides.**\n"
        "11: Task: Name 12-year-old\n3.5 metre boats.\n(12) Sort words\n\n### 13. Plan a trip.\n---\n"
    )
    assert instructions(text) == [
        ("Write a haiku about rain.", False),
        ("Explain tides.", False),
        ("Name 12-year-old 3.5 metre boats.", False),
        ("Sort words", False),
        ("Plan a trip.", False),
    ]


def test_lines_count_where_nothing_is_numbered():
    assert instructions("- Do this.\n* Do that.\n\nAnd more\n") == [
        ("Do this.", False), ("Do that.", False), ("And more", False),
    ]  # fmt: skip
    assert instructions(" \n ") == []


def test_the_last_item_of_a_reply_cut_by_length_is_marked():
    assert instructions("9. Whole one.\n10. Half o", "length") == [("Whole one.", False), ("Half o", True)]
    assert instructions("9. Whole one.\n10.", "length") == [("Whole one.", False)]
    assert instructions("9. Whole one.\n10. Whole", "stop") == [("Whole one.", False), ("Whole", False)]


@pytest.mark.parametrize(
    ("text", "said"),
    [("yes", True), (" No.", False), ("Fixed labels: YES", True), ("I cannot say", None), ("", None), ("nobody", None)],
)
def test_yes_and_no_are_read(text: str, said: bool | None):
    assert parse_classification(text) is said


def pairs(found: tuple[parsing.Instance, ...]) -> list[tuple[str, str]]:
    return [(each.input, each.output) for each in found]


def test_examples_with_the_input_first_are_read():
    text = (
        "Example 1\nInput: a\nb\nOutput: c\nExample 2\nInput: none\nOutput: d\n\n"
        "**Example 3:**\n**Input:** <noinput>\n**Output:** e\nInput: f\nOutput: g\n###\n\n"
        "Task: Another\nInput: x\nOutput: y"
    )
    assert pairs(parse_input_first(text)) == [("a\nb", "c"), ("", "d"), ("", "e"), ("f", "g")]
    assert pairs(parse_input_first("Plain answer.\nTwo lines.")) == [("", "Plain answer.\nTwo lines.")]
    assert pairs(parse_input_first("Task: Repeated\nInput: a\nOutput: b")) == [("a", "b")]
    assert pairs(parse_input_first("")) == []


def test_an_example_that_was_cut_is_marked():
    found = parse_input_first("Input: a\nOutput: b\nInput: c\nOutput: d", finish_reason="length")
    assert [each.reason for each in found] == [None, "instance_cut_off"]
    assert [each.reason for each in parse_output_first("Label: a\nInput: b", finish_reason="length")] == [
        "instance_cut_off"
    ]
    six = "\n".join(f"Input: {n}\nOutput: o{n}" for n in range(6))
    assert [each.reason for each in parse_input_first(six, finish_reason="length")] == [None] * 5


def test_examples_with_the_label_first_are_read():
    text = "Labels: yes, no\nLabel: yes\nInput: one\nClass label: no\nInput: two\nmore"
    assert pairs(parse_output_first(text)) == [("one", "yes"), ("two\nmore", "no")]
    assert pairs(parse_output_first("no headings at all")) == []
    assert pairs(parse_output_first("Label: yes\nLabel: no\nInput: two")) == [("", "yes"), ("two", "no")]


def test_whole_tasks_are_read():
    text = (
        "4. Instruction: Do x\nInput: none\nOutput: yes\n###\n5. Instruction: Do\ny\nInput: k\nOutput: z\n1. first\n"
        "### \n6. Task: No output\n###\n7. Instruction: half"
    )
    found = parse_whole_tasks(text, finish_reason="length")
    assert [(task.instruction, pairs(task.instances), task.cut_off) for task in found] == [
        ("Do x", [("", "yes")], False),
        ("Do y", [("k", "z\n1. first")], False),
        ("No output", [("", "")], False),
        ("half", [("", "")], True),
    ]
    assert parse_whole_tasks("nothing of the kind") == []
