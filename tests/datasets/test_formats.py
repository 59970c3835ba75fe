"""Formats: what columns mean, which rows are refused and why, and that hand-made payloads equal validated ones."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.datasets.formats import FORMATS, convert_row, detect_format, find_format, payload_of_row
from workbench.datasets.payloads import encode_payload, encode_plain, payload_from_plain, plain_payload
from workbench.datasets.readers import RowProblem
from workbench.datasets.turns import CELL_LIMIT
from workbench.errors import DataProblem, UsageError
from workbench.records import ROLES, Example, Message, Preference, Prompt, digest


def reading(row: dict, **options):
    return detect_format(list(row), [row], **options)


def take(row: dict, **options):
    return payload_of_row(reading(row, **options), 7, row)


def refused(row: dict, sample: dict | None = None, **options) -> RowProblem:
    found = convert_row(reading(sample or row, **options), 7, row)
    assert isinstance(found, RowProblem) and found.row == 7 and found.what and found.remedy
    return found


def turns(*pairs: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(Message(role=role, content=content) for role, content in pairs)


QA = turns(("user", "q"), ("assistant", "a"))
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"instruction": "q", "output": "a"}, "alpaca"),
        ({"Instruction": "q", "Response": "a"}, "alpaca"),
        ({"instruction": "q", "input": "", "completion": "a"}, "alpaca"),
        ({"instruction": "q", "input": "<noinput>", "output": "a"}, "alpaca"),
        ({"prompt": "q", "completion": "a"}, "prompt_completion"),
        ({"prompt": "q", "response": "a"}, "prompt_completion"),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, "prompt_completion"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt"),
        ({"conversations": [{"from": "user", "value": "q"}, {"from": "bot", "value": "a"}]}, "sharegpt"),
        ({"conversations": TURNS}, "messages"),
        ({"messages": TURNS}, "messages"),
        ({"messages": json.dumps(TURNS)}, "messages"),
        ({"conversations": json.dumps([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}])}, "sharegpt"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, TURNS[1]]}, "messages"),
    ],
)  # fmt: skip
def test_every_way_to_write_a_question_and_an_answer_gives_the_same_example(row, name):
    assert reading(row).format.name == name
    assert take(row) == Example(messages=QA)


def test_input_follows_the_instruction_after_an_empty_line_and_a_system_column_comes_first():
    row = {"system": "Be brief.", "instruction": "Translate.", "input": "Hund", "output": "dog"}
    assert take(row).messages == turns(("system", "Be brief."), ("user", "Translate.\n\nHund"), ("assistant", "dog"))


def test_tools_and_tool_turns_are_kept():
    tools = [{"type": "function", "function": {"name": "now"}}]
    call = [{"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}]
    messages = [
        {"role": "user", "content": "time?"},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "12:00", "tool_call_id": "c1", "name": "now"},
        {"role": "assistant", "content": "Noon.", "tool_calls": None},
    ]
    example = take({"messages": messages, "tools": json.dumps(tools)})
    assert (
        example.tools == tools and example.messages[1].tool_calls == call and example.messages[2].tool_call_id == "c1"
    )
    assert example.messages[3].tool_calls is None


def test_other_columns_are_kept_as_meta_as_far_as_they_are_json_and_small():
    row = {
        "instruction": "q",
        "output": "a",
        "topic": "t",
        "n": 3,
        "x": float("nan"),
        "none": None,
        "big": "x" * 200_000,
    }
    row |= {"bytes": b"\x00", "tags": ["a", {"b": None}], "meta": {"inner": 1}}
    assert take(row).meta == {"topic": "t", "n": 3, "tags": ["a", {"b": None}], "inner": 1}


def test_numbers_become_text_and_nan_is_missing():
    assert take({"instruction": "6*7?", "output": 42}).messages[1].content == "42"
    assert take({"instruction": "q", "input": float("nan"), "output": True}).messages == turns(
        ("user", "q"), ("assistant", "true")
    )
    assert refused({"instruction": "q", "output": float("nan")}).what == "empty"


def test_a_mapping_goes_before_the_usual_names():
    row = {"q": "ask", "a": "say", "instruction": "other", "output": "other"}
    example = take(row, mapping={"instruction": "q", "output": "a"})
    assert example.messages == turns(("user", "ask"), ("assistant", "say"))
    assert example.meta == {"instruction": "other", "output": "other"}
    with pytest.raises(UsageError, match="does not have"):
        reading(row, mapping={"instruction": "nope"})
    with pytest.raises(DataProblem, match="with this mapping"):
        reading(row, mapping={"nonsense": "q"})


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"question": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "good"}],
         "rejected": [{"role": "assistant", "content": "bad"}]},
        {"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
         "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}]},
        {"prompt": "q", "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
         "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}]},
        {"prompt": "q", "chosen": json.dumps([{"role": "assistant", "content": "good"}]), "rejected": "bad"},
    ],
)  # fmt: skip
def test_every_way_to_write_a_preference_gives_the_same_one(row):
    expected = Preference(
        prompt=turns(("user", "q")), chosen=turns(("assistant", "good")), rejected=turns(("assistant", "bad"))
    )
    assert take(row) == expected


def test_whole_conversations_that_share_an_answer_split_at_the_last_shared_question():
    shared = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
    found = take({
        "chosen": [*shared, {"role": "assistant", "content": "x"}],
        "rejected": [*shared, {"role": "assistant", "content": "y"}],
    })  # fmt: skip
    assert [turn.content for turn in found.prompt] == ["q", "a", "r"]


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ({"prompt": "q"}, None), ({"instruction": "q"}, None), ({"text": "q"}, None), ({"question": "q"}, None),
        ({"question": "q", "answer": "a"}, "a"), ({"prompt": "q", "reference": "a"}, "a"),
        ({"messages": [{"role": "user", "content": "q"}]}, None),
        ({"messages": [{"role": "user", "content": "q"}], "reference": "a"}, "a"),
    ],
)  # fmt: skip
def test_a_lone_question_is_a_prompt(row, reference):
    assert take(row) == Prompt(messages=turns(("user", "q")), reference=reference)


def test_question_and_answer_become_examples_when_asked_for():
    assert take({"question": "q", "answer": "a"}, kind="instructions") == Example(messages=QA)
    assert take({"instruction": "q", "output": "a"}, kind="prompts").reference == "a"


def conversation(*pairs: tuple[object, object]) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


GOOD = conversation(("user", "q"), ("assistant", "a"))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (conversation(("assistant", "a")), "turn 1 is an assistant turn before any user turn"),
        (conversation(("user", "q"), ("user", "r"), ("assistant", "a")), "turn 2 is a second user turn in a row"),
        (conversation(("user", "q"), ("assistant", "a"), ("assistant", "b")), "second assistant turn in a row"),
        (conversation(("user", "q"), ("assistant", "a"), ("user", "r")), "the last turn is a user turn"),
        (conversation(("system", "s")), "the last turn is a system turn"),
        (conversation(("user", "q"), ("assistant", "  ")), "turn 2 (assistant) is empty"),
        (conversation(("user", ""), ("assistant", "a")), "turn 1 (user) is empty"),
        (conversation(("user", "q"), ("assistant", None)), "turn 2 (assistant) is empty"),
        (conversation(("user", "q"), ("system", "s"), ("assistant", "a")), "a system turn after the first"),
        (conversation(("user", "q"), ("tool", "s"), ("assistant", "a")), "answers no assistant turn"),
        (conversation(("narrator", "q"), ("assistant", "a")), "turn 1 has an unknown role"),
        (conversation((3, "q"), ("assistant", "a")), "turn 1 has an unknown role"),
        (conversation(([], "q"), ("assistant", "a")), "turn 1 has an unknown role"),
        (conversation(("user", {"a": 1}), ("assistant", "a")), "is an object where text is expected"),
        (conversation(("user", [{"type": "image_url"}]), ("assistant", "a")), "something that is not text"),
        (conversation(("user", "x" * (CELL_LIMIT + 1)), ("assistant", "a")), "longer than 20 MB"),
        ({"messages": []}, "empty"),
        ({"messages": None}, "empty"),
        ({}, "empty"),
        ({"messages": "hello"}, "text that is not JSON"),
        ({"messages": '{"a": 1}'}, "is not a list of turns"),
        ({"messages": 5}, "is not a list of turns"),
        ({"messages": ["hello"]}, "turn 1 is not an object"),
        ({"messages": [{"content": "q"}]}, "turn 1 has no 'role'"),
        ({"messages": [{"role": "user", "content": "q", "name": 3}]}, "'name' that is not text"),
        ({"messages": [{"role": "user", "content": "q", "tool_calls": "x"}]}, "text that is not JSON"),
        ({"messages": "[" * 100_000}, "text that is not JSON"),
    ],
)  # fmt: skip
def test_a_conversation_that_is_none_is_refused_in_words(row, words):
    assert words in refused(row, GOOD).what


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        ({"instruction": "", "output": "a"}, "instruction", "empty"),
        ({"instruction": "q", "output": " \n"}, "output", "empty"),
        ({"instruction": "q"}, "output", "empty"),
        ({"instruction": "q", "output": None}, "output", "empty"),
        ({"instruction": "q", "output": ["a"]}, "output", "is a list where text is expected"),
        ({"instruction": "q", "output": b"\xff\xfe"}, "output", "bytes that are not text"),
        ({"instruction": "x" * (CELL_LIMIT + 1), "output": "a"}, "instruction", "longer than 20 MB"),
    ],
)
def test_an_empty_or_wrong_cell_is_refused_with_its_column(row, column, words):
    found = refused(row, {"instruction": "q", "output": "a"})
    assert found.column == column and words in found.what and len(found.value) <= 160


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "q", "chosen": "same", "rejected": "same"}, "both answers are the same"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "no prompt"),
        ({"prompt": "q", "chosen": "", "rejected": "b"}, "empty"),
        *(
            ({"prompt": "q", "chosen": "a", "rejected": "b", "weight": weight}, "is no weight")
            for weight in ("heavy", -1, float("nan"), float("inf"), "nan", True, 1e308, 1e-320)
        ),
        ({"prompt": "q", "chosen": [{"role": "user", "content": "q"}], "rejected": "b"}, "no prompt"),
    ],
)
def test_a_preference_that_is_none_is_refused_in_words(row, words):
    assert words in refused(row, {"prompt": "q", "chosen": "a", "rejected": "b", "weight": 1}).what


def test_unknown_columns_are_told_with_what_is_expected():
    with pytest.raises(DataProblem) as caught:
        reading({"foo": "x", "bar": "y"})
    text = caught.value.sentence()
    assert "Found: foo, bar" in text and all(known.name in text for known in FORMATS)
    with pytest.raises(UsageError, match="no such format"):
        find_format("nope")


def test_the_seed_tasks_with_nested_instances_are_told_as_unknown(shared_data):
    with (shared_data / "self_instruct_seed_tasks.jsonl").open() as file:
        rows = [json.loads(line) for line in file]
    with pytest.raises(DataProblem, match="Found: id, name, instruction, instances, is_classification"):
        detect_format(list(rows[0]), rows)
    read = detect_format(list(rows[0]), rows, format_name="prompts")
    assert all(not isinstance(convert_row(read, 1, row), RowProblem) for row in rows)


words = st.text(min_size=1, max_size=30).filter(str.strip)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
metas = st.dictionaries(st.text(min_size=1, max_size=8), json_values, max_size=3)
messages = st.builds(
    Message, role=st.sampled_from(ROLES), content=words, name=st.none() | words,
    tool_calls=st.none() | st.lists(json_values, max_size=2), tool_call_id=st.none() | words,
)  # fmt: skip
several = st.lists(messages, min_size=1, max_size=4).map(tuple)
payloads = st.one_of(
    st.builds(Example, messages=several, tools=st.none() | st.lists(json_values, max_size=2), meta=metas),
    st.builds(
        Preference,
        prompt=several,
        chosen=several,
        rejected=several,
        weight=st.just(0.0) | st.floats(1e-6, 1e6),
        meta=metas,
    ),
    st.builds(Prompt, messages=several, reference=st.none() | words, meta=metas),
)


@settings(max_examples=150, deadline=None)
@given(payloads)
def test_a_plain_payload_gives_back_its_record_and_its_digest(payload):
    from workbench.datasets.payloads import decode_payload, kind_of

    plain = plain_payload(payload)
    text, row_hash = encode_plain(plain)
    assert row_hash == digest(plain)
    assert payload_from_plain(kind_of(payload), plain) == payload
    assert encode_payload(decode_payload(kind_of(payload), text)) == (text, row_hash)


said = st.fixed_dictionaries({"role": st.sampled_from([*ROLES, "human", "x", 3]), "content": words | json_values})
cells = st.one_of(
    json_values, words, st.floats(), st.binary(max_size=5), st.lists(said, max_size=4),
    st.lists(st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": words}), max_size=4),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_row_made_by_hand_is_one_that_validation_accepts(data):
    known = data.draw(st.sampled_from(FORMATS))
    row = data.draw(st.fixed_dictionaries({item.columns[0]: cells for item in known.fields}, optional={"topic": cells}))
    found = convert_row(detect_format(list(row), [row], format_name=known.name), 1, row)
    if not isinstance(found, RowProblem):
        assert plain_payload(payload_from_plain(known.kind, found)) == found
        encode_plain(found)
