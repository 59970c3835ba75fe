"""Editing by hand: rows keep their rules, edits of two people come together, nothing is lost."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.datasets import merging
from workbench.datasets.editing import (
    check_payload,
    clean_tags,
    payload_from_json,
    payload_text,
    read_json_rows,
    tags_of,
    with_tags,
)
from workbench.datasets.merging import (
    Change,
    Choice,
    Edits,
    apply_choices,
    merge_changes,
    merge_edits,
    revert_version,
    save_changes,
)
from workbench.datasets.payloads import encode_payload
from workbench.datasets.replacing import Replacement, compile_replacement, preview_replacement
from workbench.datasets.row_drafts import (
    ChangeDraft,
    Drafts,
    RowDraft,
    TurnDraft,
    as_changes,
    blank_row,
    draft_row,
    list_unsaved,
    read_row_draft,
)
from workbench.datasets.versions import edit_version, iter_rows, write_version
from workbench.errors import Conflict, DataProblem, NotFound, UsageError
from workbench.records import Example, Message, Preference, Prompt, new_id
from workbench.store.datasets import create_dataset, latest_version, list_versions


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str, **more) -> Message:
    return Message(role="assistant", content=text, **more)


def example(question: str, answer: str = "an answer", **meta) -> Example:
    return Example(messages=(user(question), assistant(answer)), meta=meta)


@pytest.fixture
def dataset(store):
    return create_dataset(store, new_id("name"), "instructions")


@pytest.fixture
def base(store, dataset):
    return write_version(store, dataset.id, [example(f"question {n}") for n in range(4)])


def ids(store, version) -> list[str]:
    return [row.row_id for row in iter_rows(store, version)]


def asked(store, dataset) -> list[str]:
    return [row.payload.messages[0].content for row in iter_rows(store, latest_version(store, dataset.id))]


# ---- merging ----


def test_rows_that_only_one_side_touched_are_merged_without_a_question(store, dataset, base):
    first, second, third, fourth = ids(store, base)
    edit_version(store, base, replaced={first: example("theirs")}, removed=[second], appended=[example("their new")])
    mine = [
        Change(row_id=third, base_id=base.id, payload=example("mine")),
        Change(row_id=fourth, base_id=base.id),
        Change(payload=example("my new")),
    ]
    saved = save_changes(store, dataset.id, mine)
    assert saved.version is not None and saved.version.number == 3 and not saved.conflicts
    assert asked(store, dataset) == ["theirs", "mine", "their new", "my new"]
    assert saved.version.message == "1 edited, 1 new, 1 deleted"


def test_the_same_row_changed_on_both_sides_waits_for_a_choice_and_stores_nothing(store, dataset, base):
    row = ids(store, base)[0]
    edit_version(store, base, replaced={row: example("theirs")})
    saved = save_changes(store, dataset.id, [Change(row_id=row, base_id=base.id, payload=example("mine"))])
    assert saved.version is None
    (conflict,) = saved.conflicts
    assert [payload.messages[0].content for payload in (conflict.base, conflict.mine, conflict.theirs)] == [
        "question 0", "mine", "theirs",
    ]  # fmt: skip
    assert len(list_versions(store, dataset.id)) == 2


@pytest.mark.parametrize(
    ("take", "expected"),
    [
        ("mine", ["mine", "question 1", "question 2", "question 3"]),
        ("theirs", ["theirs", "question 1", "question 2", "question 3"]),
        ("both", ["theirs", "question 1", "question 2", "question 3", "mine"]),
    ],
)
def test_a_choice_settles_a_conflict(store, dataset, base, take, expected):
    row = ids(store, base)[0]
    edit_version(store, base, replaced={row: example("theirs")})
    mine = [Change(row_id=row, base_id=base.id, payload=example("mine"))]
    (conflict,) = save_changes(store, dataset.id, mine).conflicts
    choice = Choice(row_id=row, take=take, theirs_hash=conflict.theirs_hash)
    assert save_changes(store, dataset.id, mine, choices=[choice]).version is not None
    assert asked(store, dataset) == expected


def test_a_choice_over_what_they_wrote_before_does_not_count_for_what_they_wrote_since(store, dataset, base):
    row = ids(store, base)[0]
    second = edit_version(store, base, replaced={row: example("theirs")})
    mine = [Change(row_id=row, base_id=base.id, payload=example("mine"))]
    (conflict,) = save_changes(store, dataset.id, mine).conflicts
    choice = Choice(row_id=row, take="mine", theirs_hash=conflict.theirs_hash)
    edit_version(store, second, replaced={row: example("theirs, better")})
    saved = save_changes(store, dataset.id, mine, choices=[choice])
    assert saved.version is None and saved.conflicts[0].theirs.messages[0].content == "theirs, better"


def test_a_row_edited_here_and_deleted_there_comes_back_as_a_new_row_where_mine_is_chosen(store, dataset, base):
    row = ids(store, base)[0]
    edit_version(store, base, removed=[row])
    mine = [Change(row_id=row, base_id=base.id, payload=example("mine"))]
    (conflict,) = save_changes(store, dataset.id, mine).conflicts
    assert conflict.theirs is None and conflict.theirs_hash is None
    with pytest.raises(UsageError, match="not two to keep"):
        save_changes(store, dataset.id, mine, choices=[Choice(row_id=row, take="both")])
    save_changes(store, dataset.id, mine, choices=[Choice(row_id=row, take="mine")])
    assert asked(store, dataset) == ["question 1", "question 2", "question 3", "mine"]


def test_a_row_deleted_here_and_edited_there_is_a_conflict_too(store, dataset, base):
    row = ids(store, base)[0]
    edit_version(store, base, replaced={row: example("theirs")})
    mine = [Change(row_id=row, base_id=base.id)]
    (conflict,) = save_changes(store, dataset.id, mine).conflicts
    assert conflict.mine is None
    save_changes(store, dataset.id, mine, choices=[Choice(row_id=row, take="mine", theirs_hash=conflict.theirs_hash)])
    assert asked(store, dataset) == ["question 1", "question 2", "question 3"]


def test_both_doing_the_same_is_no_conflict(store, dataset, base):
    first, second, *_ = ids(store, base)
    latest = edit_version(store, base, replaced={first: example("same")}, removed=[second])
    merge = merge_edits(store, base, Edits(replaced={first: example("same")}, removed=(second,)), latest)
    assert not merge.conflicts and not len(merge.clean) and set(merge.same) == {first, second}
    saved = save_changes(
        store, dataset.id,
        [Change(row_id=first, base_id=base.id, payload=example("same")), Change(row_id=second, base_id=base.id)],
    )  # fmt: skip
    assert saved.version == latest


def test_an_edit_that_changes_nothing_leaves_their_change_alone(store, dataset, base):
    row = ids(store, base)[0]
    edit_version(store, base, replaced={row: example("theirs")})
    save_changes(store, dataset.id, [Change(row_id=row, base_id=base.id, payload=example("question 0"))])
    assert asked(store, dataset)[0] == "theirs"


def test_rows_read_in_different_versions_are_held_against_the_one_they_were_read_in(store, dataset, base):
    first, second, *_ = ids(store, base)
    newer = edit_version(store, base, replaced={first: example("theirs"), second: example("theirs too")})
    changes = [
        Change(row_id=first, base_id=base.id, payload=example("mine")),
        Change(row_id=second, base_id=newer.id, payload=example("mine too")),
    ]
    merge = merge_changes(store, changes, newer)
    assert [conflict.row_id for conflict in merge.conflicts] == [first]
    assert list(merge.clean.replaced) == [second]


def test_the_first_save_of_an_empty_dataset_makes_version_one(store, dataset):
    saved = save_changes(store, dataset.id, [Change(payload=example("first"))], message="begin")
    assert (saved.version.number, saved.version.message, saved.over) == (1, "begin", None)


def test_wrong_use_is_told_in_words(store, dataset, base):
    row = ids(store, base)[0]
    with pytest.raises(UsageError, match="nothing to save"):
        save_changes(store, dataset.id, [])
    with pytest.raises(UsageError, match="changed twice"):
        save_changes(store, dataset.id, [Change(row_id=row, base_id=base.id)] * 2)
    with pytest.raises(NotFound, match="no such row"):
        save_changes(store, dataset.id, [Change(row_id="nothing", base_id=base.id)])
    with pytest.raises(UsageError, match="both replaced and removed|at once"):
        merge_edits(store, base, Edits(replaced={row: example("x")}, removed=(row,)), base)
    with pytest.raises(UsageError, match="one dataset"):
        merge_edits(store, None, Edits(removed=(row,)), base)
    with pytest.raises(DataProblem, match="nothing to learn"):
        save_changes(store, dataset.id, [Change(payload=Example(messages=(user("only a question"),)))])
    with pytest.raises(DataProblem, match="holds instructions"):
        save_changes(store, dataset.id, [Change(payload=Prompt(messages=(user("a prompt"),)))])
    with pytest.raises(DataProblem, match="no row would be left"):
        save_changes(store, dataset.id, [Change(row_id=key, base_id=base.id) for key in ids(store, base)])
    assert latest_version(store, dataset.id) == base


def test_many_who_save_at_the_same_moment_all_find_their_rows_in_the_end(store, dataset, base):
    rows, problems = ids(store, base), []

    def save(number: int) -> None:
        changes = [
            Change(row_id=rows[number], base_id=base.id, payload=example(f"by {number}")),
            Change(payload=example(f"new by {number}")),
        ]
        try:
            assert save_changes(store, dataset.id, changes).version is not None
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    told = asked(store, dataset)
    assert told[:4] == [f"by {n}" for n in range(4)] and set(told[4:]) == {f"new by {n}" for n in range(4)}


def test_a_save_that_never_gets_its_turn_is_refused_in_words(store, dataset, base, monkeypatch):
    def refuse(*args, **kwargs):
        raise Conflict("the dataset got a newer version in the meantime")

    monkeypatch.setattr(merging, "edit_version", refuse)
    with pytest.raises(Conflict, match="newer version"):
        save_changes(store, dataset.id, [Change(payload=example("new"))])


def test_an_older_version_comes_back_under_the_same_row_ids(store, dataset, base):
    row = ids(store, base)[0]
    save_changes(store, dataset.id, [Change(row_id=row, base_id=base.id), Change(payload=example("new"))])
    back = revert_version(store, base)
    assert (back.number, back.message, back.content_hash) == (3, "Back to version 1", base.content_hash)
    assert ids(store, back) == ids(store, base)
    assert revert_version(store, base) == back
    again = save_changes(store, dataset.id, [Change(row_id=row, base_id=back.id, payload=example("edited"))])
    assert asked(store, dataset)[0] == "edited" and again.version.number == 4


SIDES = st.lists(st.sampled_from(["keep", "edit", "delete"]), min_size=5, max_size=5)


def side_edits(plan: list[str], rows: list[str], who: str, new: int) -> Edits:
    return Edits(
        replaced={row: example(f"{who} {row}") for row, what in zip(rows, plan, strict=True) if what == "edit"},
        removed=tuple(row for row, what in zip(rows, plan, strict=True) if what == "delete"),
        appended=tuple(example(f"{who} new {n}") for n in range(new)),
    )


def as_list(edits: Edits, base) -> list[Change]:
    return [
        *(Change(row_id=row, base_id=base.id, payload=payload) for row, payload in edits.replaced.items()),
        *(Change(row_id=row, base_id=base.id) for row in edits.removed),
        *(Change(payload=payload) for payload in edits.appended),
    ]


def content(store, version) -> tuple[dict[str, str], Counter[str]]:
    """The old rows by id, and the new ones in any order."""
    rows = {row.row_id: row for row in iter_rows(store, version)}
    first = list_versions(store, version.dataset_id)[-1]
    old = {row.row_id for row in iter_rows(store, first)}
    return (
        {key: row.row_hash for key, row in rows.items() if key in old},
        Counter(row.row_hash for key, row in rows.items() if key not in old),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mine=SIDES, new_mine=st.integers(0, 2), new_theirs=st.integers(0, 2), theirs=SIDES)
def test_disjoint_edits_give_the_same_content_in_either_order(store, mine, theirs, new_mine, new_theirs):
    theirs = ["keep" if own != "keep" else other for own, other in zip(mine, theirs, strict=True)]
    ends = []
    for order in (("a", "b"), ("b", "a")):
        made = create_dataset(store, new_id("name"), "instructions")
        rows = [example(f"question {n}") for n in range(5)] + [example("stays")]
        base = write_version(store, made.id, rows)
        keys = [f"row {n}" for n in range(5)]
        real = ids(store, base)[:5]
        sides = {"a": side_edits(mine, real, "mine", new_mine), "b": side_edits(theirs, real, "theirs", new_theirs)}
        # Row ids differ between the two datasets, so what is written into rows must not hold them.
        names = dict(zip(real, keys, strict=True))
        for who in order:
            edits = sides[who]
            renamed = {row: example(f"{who} {names[row]}") for row in edits.replaced}
            if changes := as_list(edits.model_copy(update={"replaced": renamed}), base):
                saved = save_changes(store, made.id, changes)
                assert saved.version is not None and not saved.conflicts
        old, new = content(store, latest_version(store, made.id))
        ends.append(({names.get(key, "stays"): value for key, value in old.items()}, new))
    assert ends[0] == ends[1]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mine=SIDES, theirs=SIDES, new=st.integers(0, 2), take=st.sampled_from(["mine", "theirs"]))
def test_nothing_of_either_side_is_lost_without_a_choice(store, mine, theirs, new, take):
    made = create_dataset(store, new_id("name"), "instructions")
    base = write_version(store, made.id, [*(example(f"question {n}") for n in range(5)), example("stays")])
    rows = ids(store, base)[:5]
    my, their = side_edits(mine, rows, "mine", new), side_edits(theirs, rows, "theirs", 1)
    theirs_saved = save_changes(store, made.id, as_list(their, base)).version
    merge = merge_edits(store, base, my, theirs_saved)
    conflicts = {conflict.row_id for conflict in merge.conflicts}
    expected = {
        row for row, a, b in zip(rows, mine, theirs, strict=True) if "keep" not in (a, b) and (a, b) != ("delete",) * 2
    }
    assert conflicts == expected
    assert merge.clean.appended == my.appended
    untouched_by_them = {row for row, what in zip(rows, theirs, strict=True) if what == "keep"}
    assert set(merge.clean.replaced) == set(my.replaced) & untouched_by_them
    assert set(merge.clean.removed) == set(my.removed) & untouched_by_them
    settled = apply_choices(
        merge, [Choice(row_id=c.row_id, take=take, theirs_hash=c.theirs_hash) for c in merge.conflicts]
    )
    assert not settled.conflicts
    if take == "mine":
        kept = {payload.messages[0].content for payload in (*settled.clean.replaced.values(), *settled.clean.appended)}
        assert kept == {payload.messages[0].content for payload in (*my.replaced.values(), *my.appended)}
    else:
        assert settled.clean == merge.clean


# ---- the rules of a row ----


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (Example(messages=(user("  "), assistant("x"))), "turn 1 (user) is empty"),
        (Example(messages=(user("x"), assistant(""))), "turn 2 (assistant) is empty"),
        (Example(messages=(user("x"), user("y"))), "second user turn"),
        (Example(messages=(assistant("x"),)), "before any user turn"),
        (Example(messages=(user("x"), assistant("y")), tools=["not an object"]), "tool 1 is not an object"),
        (Example(messages=(user("x"), assistant("y", tool_calls=["f"]))), "tool call that is no object"),
        (Example(messages=(Message(role="user", content="x", tool_calls=[{}]), assistant("y"))), "calls tools"),
        (Example(messages=(user("half \ud800"), assistant("y"))), "half of a surrogate pair"),
        (Prompt(messages=(user("x"), assistant("y"))), "a prompt ends with a user turn"),
        (Preference(prompt=(user("x"),), chosen=(assistant("y"),), rejected=(assistant("y"),)), "are the same"),
        (Preference(prompt=(assistant("x"),), chosen=(assistant("y"),), rejected=(assistant("z"),)), "before any user"),
        (Preference(prompt=(user("x"),), chosen=(user("y"),), rejected=(assistant("z"),)), "second user turn"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_in_words(payload, words):
    problems = check_payload(payload)
    assert any(words.lower() in problem.sentence().lower() for problem in problems), problems
    assert all(problem.remedy for problem in problems)


def test_a_conversation_with_tools_is_sound():
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Łódź"}}}
    messages = (
        Message(role="system", content="Help."), user("Weather?"), assistant("", tool_calls=[call]),
        Message(role="tool", content="", name="weather", tool_call_id="c1"), assistant("It rains 🌧."),
    )  # fmt: skip
    tools = [{"type": "function", "function": {"name": "weather"}}]
    assert check_payload(Example(messages=messages, tools=tools)) == []


def test_a_megabyte_of_text_is_checked_and_stored_as_it_is(store, dataset):
    big = example("x" * 1_000_000, "<b>not markup</b> \u202e ﷽ " * 1000)
    saved = save_changes(store, dataset.id, [Change(payload=big)])
    assert next(iter_rows(store, saved.version)).payload == big


def test_tags_are_kept_in_meta_without_repeats():
    tagged = with_tags(example("q", topic="sea"), [" to  check ", "good", "good", ""])
    assert tagged.meta == {"topic": "sea", "tags": ["to check", "good"]}
    assert with_tags(tagged, []).meta == {"topic": "sea"}
    assert tags_of({"tags": "one, two,,one"}) == ("one", "two") and tags_of({"tags": 3}) == ()
    same = example("q", tags="one, two")
    assert with_tags(same, ["one", "two"]) is same
    with pytest.raises(UsageError, match="longer than 60"):
        clean_tags(["x" * 61])


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("instructions", [1], "JSON object"),
        ("instructions", {"text": "x"}, "needs 'messages'"),
        ("instructions", {"messages": [{"role": "robot", "content": "x"}]}, "turn 1 has an unknown role"),
        ("instructions", {"messages": [{"content": "x"}]}, "has no 'role'"),
        ("instructions", {"messages": []}, "empty"),
        ("instructions", {"messages": [{"role": "user", "content": "x"}], "tools": "{broken"}, "not JSON"),
        ("instructions", {"messages": [{"role": "user", "content": "x"}], "colour": 1}, "colour"),
        ("preferences", {"prompt": "x", "chosen": "y"}, "needs 'rejected'"),
        ("preferences", {"prompt": "x", "chosen": "y", "rejected": " "}, "empty"),
        ("preferences", {"prompt": "x", "chosen": "y", "rejected": "z", "weight": -1}, "weight"),
    ],
)
def test_a_row_in_json_that_is_none_is_told_with_its_place(kind, value, words):
    with pytest.raises(DataProblem, match=words):
        payload_from_json(kind, value)


def test_rows_are_read_from_an_object_a_list_or_lines():
    row = '{"messages": [{"from": "human", "value": "hi"}, {"role": "gpt", "content": "hello"}]}'
    expected = example("hi", "hello")
    assert read_json_rows("instructions", row) == [expected]
    assert read_json_rows("instructions", f"[{row}, {row}]") == [expected] * 2
    assert read_json_rows("instructions", f"{row}\n\n{row}\n") == [expected] * 2
    preference = read_json_rows("preferences", '{"prompt": "a", "chosen": "b", "rejected": "c", "weight": 0.5}')
    assert preference[0].weight == 0.5 and preference[0].chosen[0].role == "assistant"
    for text, words in (("", "no JSON"), ("{nope", "not valid JSON"), ("[]", "list of rows is empty")):
        with pytest.raises(DataProblem, match=words):
            read_json_rows("instructions", text)


def test_a_row_as_text_shows_every_part_of_it():
    row = Preference(prompt=(user("q"),), chosen=(assistant("a"),), rejected=(assistant("b"),), weight=0.5)
    told = payload_text(row)
    assert all(part in told for part in ("[user]\nq", "[better assistant]\na", "[worse assistant]\nb", "0.5"))
    assert payload_text(None) == ""


# ---- find and replace ----


def preview(rows, find, replace="", **options):
    return preview_replacement(
        [(f"r{n}", row) for n, row in enumerate(rows)], Replacement(find=find, replace=replace, **options)
    )


def test_a_replacement_is_worked_out_text_by_text_with_counts():
    rows = [example("Cat cat", "a cat"), example("dog", "dog")]
    found = preview(rows, "cat", "fox")
    assert (found.rows, found.count, [row.row_id for row in found.changed]) == (2, 2, ["r0"])
    assert [(turn.title, turn.after, turn.count) for turn in found.changed[0].turns] == [
        ("turn 1, user", "Cat fox", 1), ("turn 2, assistant", "a fox", 1),
    ]  # fmt: skip
    assert preview(rows, "cat", "fox", match_case=False).count == 3
    assert preview(rows, "cat", "fox", scope="assistant").count == 1
    assert preview(rows, "cat", "fox", scope="system").count == 0


def test_plain_text_is_taken_literally():
    rows = [example("a.b (x)", r"\1 $0")]
    assert preview(rows, ".", "!").changed[0].payload.messages[0].content == "a!b (x)"
    assert preview(rows, "A.B", r"\1", match_case=False).changed[0].payload.messages[0].content == r"\1 (x)"


def test_a_regular_expression_fills_in_its_groups():
    rows = [example("on 2024-05-06", "fine")]
    found = preview(rows, r"(\d+)-(\d+)-(\d+)", r"\3.\2.\1", regex=True)
    assert found.changed[0].payload.messages[0].content == "on 06.05.2024"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"find": ""}, "nothing to find"),
        ({"find": "(", "regex": True}, "not a regular expression"),
        ({"find": "*a", "regex": True}, "not a regular expression"),
        ({"find": "question", "replace": r"\2", "regex": True}, "cannot be filled in"),
        ({"find": "question", "replace": r"\g<name>", "regex": True}, "cannot be filled in"),
    ],
)
def test_a_pattern_that_is_none_is_told_in_words(options, words):
    with pytest.raises(UsageError, match=words):
        preview([example("question")], **options)


def test_a_pattern_that_would_take_for_ever_is_given_up():
    replace = compile_replacement(Replacement(find="(a+)+(b+)+$", regex=True), limit_s=0.05)
    with pytest.raises(UsageError, match="takes more than"):
        replace("a" * 5000 + "b" * 5000 + "c")
        replace("aab" * 5000 + "c")


def test_replacing_everything_with_nothing_is_refused_row_by_row():
    found = preview([example("all", "all"), example("all of it", "all of it")], "all", "")
    assert [row.row_id for row in found.refused] == ["r0"] and "empty" in found.refused[0].problem
    assert [row.row_id for row in found.changed] == ["r1"]
    everything = preview([example("a", "b")], r"[\s\S]+", "", regex=True)
    assert not everything.changed and len(everything.refused) == 1


def test_references_and_both_answers_of_a_preference_are_looked_at():
    prompt = Prompt(messages=(user("colour"),), reference="colour")
    assert preview([prompt], "colour", "color").count == 2
    assert preview([prompt], "colour", "color", scope="user").count == 1
    pair = Preference(prompt=(user("q"),), chosen=(assistant("good cat"),), rejected=(assistant("bad cat"),))
    titles = [turn.title for turn in preview([pair], "cat", "fox").changed[0].turns]
    assert titles == ["better answer, turn 1, assistant", "worse answer, turn 1, assistant"]


@settings(max_examples=60, deadline=None)
@given(find=st.text(min_size=1, max_size=3), put=st.text(max_size=3), text=st.text(max_size=30))
def test_a_plain_replacement_is_what_python_says_whatever_the_text(find, put, text):
    made, count = compile_replacement(Replacement(find=find, replace=put))(text)
    assert made == text.replace(find, put) and count == text.count(find)


# ---- drafts ----

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSONS = st.recursive(st.none() | st.booleans() | st.integers() | TEXTS, lambda inner: st.lists(inner, max_size=2))
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=TEXTS,
    name=st.none() | TEXTS,
    tool_calls=st.none() | st.lists(JSONS, max_size=2),
    tool_call_id=st.none() | TEXTS,
)
TURNS = st.lists(MESSAGES, min_size=1, max_size=3).map(tuple)
META = st.dictionaries(st.sampled_from(["tags", "topic"]), JSONS | st.lists(TEXTS, max_size=3), max_size=2)
PAYLOADS = (
    st.builds(Example, messages=TURNS, tools=st.none() | st.lists(JSONS, max_size=2), meta=META)
    | st.builds(Prompt, messages=TURNS, reference=st.none() | TEXTS, meta=META)
    | st.builds(Preference, prompt=TURNS, chosen=TURNS, rejected=TURNS, weight=st.floats(0, 10), meta=META)
)
KINDS = {Example: "instructions", Prompt: "prompts", Preference: "preferences"}


@settings(max_examples=150, deadline=None)
@given(payload=PAYLOADS)
def test_a_row_goes_through_the_editor_s_fields_unchanged(payload):
    row = RowDraft.model_validate(draft_row(payload).model_dump(mode="json"))
    made, problems = read_row_draft(KINDS[type(payload)], row)
    assert made is not None and encode_payload(made) == encode_payload(payload)
    assert [p for p in problems if p.place != "tags"] == check_payload(payload)


@pytest.mark.parametrize("kind", ["instructions", "preferences", "prompts"])
def test_a_blank_row_is_unfinished_and_says_what_is_missing(kind):
    payload, problems = read_row_draft(kind, blank_row(kind))
    assert payload is not None and problems


def test_fields_that_are_no_json_or_no_role_keep_the_draft_and_say_so():
    row = RowDraft(
        turns=(TurnDraft(role="robot", content="x"), TurnDraft(role="assistant", tool_calls="{nope")), tools='{"a": 1}'
    )
    payload, problems = read_row_draft("instructions", row)
    told = " ".join(problem.sentence() for problem in problems)
    assert payload is None
    assert "unknown role 'robot'" in told and "not valid JSON" in told and "Tools: not a list" in told


def test_collected_changes_survive_and_are_told_from_those_of_others(store, dataset, base):
    row = ids(store, base)[0]
    mine = Drafts(store, dataset.id, "instructions", "drf_a")
    other = Drafts(store, dataset.id, "instructions", "drf_b")
    edited = ChangeDraft(action="edit", base_id=base.id, row=draft_row(example("mine")))
    mine.change(row, lambda _: edited)
    mine.put_many({"new-1": ChangeDraft(action="new", row=blank_row("instructions"))})
    other.change(row, lambda _: ChangeDraft(action="delete", base_id=base.id))
    again = Drafts(store, dataset.id, "instructions", "drf_a")
    assert set(again.all()) == {row, "new-1"} and again.get(row) == edited
    assert {info.draft_id: info.changes for info in list_unsaved(store, dataset.id)} == {"drf_a": 2, "drf_b": 1}
    changes, unfinished = as_changes("instructions", again.all())
    assert set(changes) == {row} and set(unfinished) == {"new-1"}
    save_changes(store, dataset.id, list(changes.values()))
    again.drop_saved({key: again.all()[key] for key in changes})
    assert set(again.all()) == {"new-1"}
    other.drop(other.all())
    assert [info.draft_id for info in list_unsaved(store, dataset.id)] == ["drf_a"]


def test_a_change_made_while_it_was_being_saved_is_not_forgotten(store, dataset, base):
    row = ids(store, base)[0]
    drafts = Drafts(store, dataset.id, "instructions", "drf_a")
    drafts.change(row, lambda _: ChangeDraft(action="edit", base_id=base.id, row=draft_row(example("one"))))
    read = drafts.all()
    drafts.change(row, lambda _: ChangeDraft(action="edit", base_id=base.id, row=draft_row(example("two"))))
    drafts.drop_saved(read)
    assert drafts.get(row).row.turns[0].content == "two"


def test_a_draft_refuses_more_changes_than_it_can_hold(store, dataset, monkeypatch):
    monkeypatch.setattr("workbench.datasets.row_drafts.MOST_CHANGES", 2)
    drafts = Drafts(store, dataset.id, "instructions", "drf_a")
    many = {f"new-{n}": ChangeDraft(action="new", row=blank_row("instructions")) for n in range(3)}
    with pytest.raises(UsageError, match="collects at most"):
        drafts.put_many(many)
    assert not drafts.all()
