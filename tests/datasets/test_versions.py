"""Versions: what is stored is what was given, edits write little, and nothing partial is ever visible."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.datasets import versions
from workbench.datasets.payloads import encode_payload
from workbench.datasets.segments import Staging, dataset_folder
from workbench.datasets.statistics import describe
from workbench.datasets.versions import (
    count_rows,
    diff_versions,
    edit_version,
    iter_rows,
    read_page,
    read_row,
    split_held_out,
    write_version,
)
from workbench.errors import Conflict, DataProblem, NotFound, StoreProblem, UsageError
from workbench.records import Example, Message, Preference, Prompt, Row, new_id
from workbench.store.datasets import create_dataset, list_versions


def example(question: str, answer: str = "an answer", **meta) -> Example:
    return Example(
        messages=(Message(role="user", content=question), Message(role="assistant", content=answer)), meta=meta
    )


def questions(store, version) -> list[str]:
    return [row.payload.messages[0].content for row in iter_rows(store, version)]


def files(store, dataset_id: str) -> set[str]:
    return {path.name for path in dataset_folder(store.settings, dataset_id).iterdir()}


def written(store, dataset_id: str) -> dict[str, tuple[int, int]]:
    folder = dataset_folder(store.settings, dataset_id)
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.fixture
def dataset(store):
    return create_dataset(store, new_id("name"), "instructions")


@pytest.fixture
def version(store, dataset):
    return write_version(store, dataset.id, (example(f"question {n}") for n in range(10)), message="first")


def test_rows_come_back_as_they_were_given(store, dataset):
    tools = [{"name": "now", "x": [1.5, None]}]
    given_rows = [
        example("é\n\0 “quoted” \\ 日本 👩‍👩‍👧", topic="t", n=1, none=None),
        Example(
            messages=(
                Message(role="system", content="s"),
                Message(role="user", content="q", name="Ann"),
                Message(role="assistant", content="", tool_calls=[{"id": "1"}]),
                Message(role="tool", content="r", tool_call_id="1"),
                Message(role="assistant", content="a"),
            ),
            tools=tools,
        ),
    ]
    stored = write_version(store, dataset.id, given_rows, message="m", provenance={"source": "here"})
    rows = list(iter_rows(store, stored))
    assert [row.payload for row in rows] == given_rows
    assert [row.row_hash for row in rows] == [encode_payload(payload)[1] for payload in given_rows]
    assert (stored.number, stored.rows, stored.parent_id, stored.message) == (1, 2, None, "m")
    assert read_row(store, stored, rows[1].row_id) == rows[1]
    with pytest.raises(NotFound):
        read_row(store, stored, "nothing")


ASKED = (Message(role="user", content="q"),)
GOOD, BAD = (Message(role="assistant", content="a"),), (Message(role="assistant", content="b"),)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("preferences", Preference(prompt=ASKED, chosen=GOOD, rejected=BAD, weight=0.5)),
        ("prompts", Prompt(messages=ASKED, reference="")),
    ],
)
def test_every_kind_is_stored(store, kind, payload):
    dataset = create_dataset(store, kind, kind)
    stored = write_version(store, dataset.id, [payload])
    assert [row.payload for row in iter_rows(store, stored)] == [payload]
    assert describe(store, stored).rows == 1
    with pytest.raises(DataProblem, match="holds"):
        write_version(store, dataset.id, [example("q")], parent=stored)


def test_the_hash_covers_content_and_order_and_not_the_layout(store, monkeypatch):
    payloads = [example(f"q{n}", n=n) for n in range(25)]
    first = write_version(store, create_dataset(store, "a", "instructions").id, payloads)
    monkeypatch.setattr(versions, "SEGMENT_ROWS", 4)
    second = write_version(store, create_dataset(store, "b", "instructions").id, payloads)
    third = write_version(store, create_dataset(store, "c", "instructions").id, payloads[::-1])
    assert len(second.manifest["segments"]) == 7
    assert first.content_hash == second.content_hash != third.content_hash
    assert questions(store, second) == [f"q{n}" for n in range(25)]
    assert [row.payload.messages[0].content for row in read_page(store, second, offset=10, limit=7).rows] == [
        f"q{n}" for n in range(10, 17)
    ]


def test_an_edit_keeps_order_and_ids_and_touches_no_segment(store, dataset, monkeypatch):
    monkeypatch.setattr(versions, "SMALL_SEGMENT", 0)
    first = write_version(store, dataset.id, [example(f"question {n}") for n in range(10)])
    before = written(store, dataset.id)
    ids = [row.row_id for row in iter_rows(store, first)]
    second = edit_version(
        store, first, replaced={ids[3]: example("changed")}, removed={ids[0], ids[5]}, appended=[example("new")]
    )
    expected = ["question 1", "question 2", "changed", "question 4", *(f"question {n}" for n in range(6, 10)), "new"]
    assert questions(store, second) == expected and second.rows == 9
    assert questions(store, first) == [f"question {n}" for n in range(10)]
    assert before.items() <= written(store, dataset.id).items()
    found = diff_versions(store, first, second)
    assert found.changed == (ids[3],) and set(found.removed) == {ids[0], ids[5]} and len(found.added) == 1
    assert read_row(store, second, ids[3]).payload == example("changed")
    with pytest.raises(NotFound):
        read_row(store, second, ids[0])
    plain = write_version(store, create_dataset(store, "plain", "instructions").id, map(example, expected))
    assert plain.content_hash == second.content_hash


def test_an_edit_that_changes_nothing_is_no_version(store, version):
    first = next(iter_rows(store, version))
    assert edit_version(store, version, replaced={first.row_id: first.payload}) == version
    assert len(list_versions(store, version.dataset_id)) == 1


def test_edits_that_cannot_be_are_refused(store, dataset, version):
    ids = [row.row_id for row in iter_rows(store, version)]
    with pytest.raises(NotFound):
        edit_version(store, version, removed={"nothing"})
    with pytest.raises(DataProblem, match="no row would be left"):
        edit_version(store, version, removed=set(ids))
    second = edit_version(store, version, removed={ids[0]})
    with pytest.raises(NotFound):
        edit_version(store, second, replaced={ids[0]: example("x")})
    kept = files(store, dataset.id)
    with pytest.raises(Conflict):
        edit_version(store, version, appended=[example("x")])
    with pytest.raises(DataProblem, match="holds instructions"):
        edit_version(store, second, appended=[Prompt(messages=(Message(role="user", content="q"),))])
    assert files(store, dataset.id) == kept


def test_many_single_edits_keep_files_few(store, dataset, version):
    for n in range(12):
        version = edit_version(store, version, appended=[example(f"more {n}")])
    assert len(version.manifest["segments"]) == 1
    assert questions(store, version)[10:] == [f"more {n}" for n in range(12)]
    assert len({row.row_id for row in iter_rows(store, version)}) == 22


def test_a_large_edit_writes_the_segments_anew_and_keeps_ids(store, version, monkeypatch):
    monkeypatch.setattr(versions, "MAX_DELTA", 3)
    ids = [row.row_id for row in iter_rows(store, version)]
    edited = edit_version(
        store, version, removed=set(ids[:4]), replaced={ids[5]: example("x")}, appended=[example("y")]
    )
    assert edited.manifest["removed"] == [] and edited.manifest["patch"] is None
    assert [row.row_id for row in iter_rows(store, edited)][:6] == ids[4:]
    assert questions(store, edited) == ["question 4", "x", *(f"question {n}" for n in range(6, 10)), "y"]


def test_a_new_version_from_a_file_keeps_the_ids_of_equal_rows(store, dataset, version):
    ids = [row.row_id for row in iter_rows(store, version)]
    payloads = [example("new"), *(row.payload for row in iter_rows(store, version)), example("question 3")]
    second = write_version(store, dataset.id, payloads, parent=version)
    found = [row.row_id for row in iter_rows(store, second)]
    assert found[1:11] == ids and len(set(found)) == 12
    assert len(diff_versions(store, version, second).added) == 2
    with pytest.raises(UsageError):
        other = create_dataset(store, "other", "instructions")
        diff_versions(store, version, write_version(store, other.id, [example("q")]))


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3)),
        st.tuples(st.just("remove"), st.integers(0, 30)),
        st.tuples(st.just("replace"), st.integers(0, 30)),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations, st.sampled_from([0, 2, 2000]), st.sampled_from([2, 20_000]), st.integers(0, 12), st.integers(1, 5))
def test_any_run_of_edits_gives_what_a_list_would(store, monkeypatch, steps, small, delta, offset, limit):
    monkeypatch.setattr(versions, "SMALL_SEGMENT", small)
    monkeypatch.setattr(versions, "MAX_DELTA", delta)
    dataset = create_dataset(store, new_id("name"), "instructions")
    current = write_version(store, dataset.id, [example(f"q{n}") for n in range(4)])
    model = [(row.row_id, row.payload.messages[0].content) for row in iter_rows(store, current)]
    for count, (what, value) in enumerate(steps):
        if what == "append":
            current = edit_version(store, current, appended=[example(f"a{count}-{n}") for n in range(value)])
            known = {row_id for row_id, _ in model}
            new = [row.row_id for row in iter_rows(store, current) if row.row_id not in known]
            model += [(row_id, f"a{count}-{n}") for n, row_id in enumerate(new)]
            continue
        row_id = model[value % len(model)][0]
        if what == "replace":
            current = edit_version(store, current, replaced={row_id: example(f"r{count}")})
            model = [(key, f"r{count}" if key == row_id else text) for key, text in model]
        elif len(model) > 1:
            current = edit_version(store, current, removed={row_id})
            model = [item for item in model if item[0] != row_id]
    assert [(row.row_id, row.payload.messages[0].content) for row in iter_rows(store, current)] == model
    page = read_page(store, current, offset=offset, limit=limit)
    assert [row.row_id for row in page.rows] == [row_id for row_id, _ in model[offset : offset + limit]]
    assert page.total == current.rows == len(model)
    found = read_page(store, current, search="R", limit=100)
    assert [row.row_id for row in found.rows] == [key for key, _ in model]
    found = read_page(store, current, search="a0-0", limit=100)
    assert [row.row_id for row in found.rows] == [key for key, text in model if text == "a0-0"]


@pytest.mark.parametrize(
    ("term", "found"),
    [
        ("HELLO", {0}), ("50%", {1}), ("_", {2}), ('"quoted"', {2}), ("line\nbreak", {3}), ("back\\slash", {3}),
        ("straße", {4}), ("ÉTÉ", {4}), ("messages", set()), ("role", set()), ("content", set()), ("topic", set()),
        ("geography", {5}), ("' OR 1=1 --", set()), (".*", set()), ("7", {6}), ("   ", {0, 1, 2, 3, 4, 5, 6}),
    ],
)  # fmt: skip
def test_a_search_takes_the_text_literally_and_looks_at_what_rows_say(store, dataset, term, found):
    asked = [
        "Hello there",
        "50% off",
        'snake_case and "quoted"',
        "a line\nbreak, a back\\slash",
        "Straße, été",
        "x",
        "y",
    ]
    meta = [{}, {}, {}, {}, {}, {"topic": "Geography"}, {"n": 7}]
    payloads = [example(text, "ok", **kept) for text, kept in zip(asked, meta, strict=True)]
    stored = write_version(store, dataset.id, payloads)
    page = read_page(store, stored, search=term, limit=100)
    assert {asked.index(row.payload.messages[0].content) for row in page.rows} == found
    assert page.total == count_rows(store, stored, search=term) == len(found)


def test_a_page_out_of_bounds_is_refused_and_one_past_the_end_is_empty(store, version):
    with pytest.raises(UsageError):
        read_page(store, version, offset=-1)
    with pytest.raises(UsageError):
        read_page(store, version, limit=0)
    assert read_page(store, version, offset=50).rows == ()
    assert read_page(store, version, offset=8, limit=5, search="question").total == 10


@pytest.mark.parametrize("name", ["it's [odd] *?", "ünï {x}"])
def test_a_home_folder_of_any_name_works(tmp_path, monkeypatch, name):
    from workbench.settings import Settings
    from workbench.store.database import open_store

    opened = open_store(Settings(home=tmp_path / name))
    dataset = create_dataset(opened, "d", "instructions")
    stored = write_version(opened, dataset.id, [example("a"), example("b")])
    assert read_page(opened, stored, search="b").total == 1
    opened.close()


def test_nothing_is_left_when_a_writer_fails(store, dataset):
    def rows():
        yield example("a")
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        write_version(store, dataset.id, rows())
    with pytest.raises(DataProblem, match="no rows"):
        write_version(store, dataset.id, [])
    assert list_versions(store, dataset.id) == []
    assert not dataset_folder(store.settings, dataset.id).exists()
    assert [path for path in (store.settings.datasets_dir / ".writing").iterdir() if path.is_dir()] == []


def test_a_full_disk_is_told_in_words_and_nothing_is_stored(store, dataset, monkeypatch):
    monkeypatch.setattr(Staging, "path", lambda self, name: Path("/dev/full"))
    with pytest.raises(StoreProblem, match="disk is full"):
        write_version(store, dataset.id, (example("x" * 1000, str(n)) for n in range(20_000)))
    with pytest.raises(StoreProblem, match="disk is full"):
        write_version(store, dataset.id, [example("x")])
    assert list_versions(store, dataset.id) == []


def test_what_a_killed_writer_left_is_removed_by_the_next_one(store, dataset, version, home):
    script = """
        import sys, time
        from workbench.store.database import open_store
        from workbench.datasets.versions import VersionWriter
        writer = VersionWriter(open_store())
        for n in range(6000):
            writer.add({"messages": [{"role": "user", "content": str(n)}]})
        folder = writer._staging.folder.parent.parent / sys.argv[1]
        (folder / f"{writer.version_id}-0000.parquet").write_bytes(b"moved, but not named in the store")
        print(writer.version_id, flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), dataset.id], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    left = process.stdout.readline().strip()
    staging = store.settings.datasets_dir / ".writing" / left
    moved = dataset_folder(store.settings, dataset.id) / f"{left}-0000.parquet"
    assert left and staging.is_dir()
    second = edit_version(store, version, appended=[example("while the other one lives")])
    assert staging.is_dir() and moved.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    third = edit_version(store, second, appended=[example("after it was killed")])
    assert not staging.exists() and not moved.exists()
    assert third.rows == 12 and questions(store, version) == [f"question {n}" for n in range(10)]


def test_two_writers_at_once_end_in_one_version_and_one_conflict(store, dataset, version):
    import threading

    outcomes: list[object] = []

    def edit(text: str) -> None:
        try:
            outcomes.append(edit_version(store, version, appended=[example(text)]))
        except Conflict as conflict:
            outcomes.append(conflict)

    threads = [threading.Thread(target=edit, args=(f"by {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 3
    newest = list_versions(store, dataset.id)[0]
    assert newest.number == 2 and len(questions(store, newest)) == 11


def test_a_lost_file_is_told(store, version):
    for path in dataset_folder(store.settings, version.dataset_id).iterdir():
        path.unlink()
    for look in (
        lambda: list(iter_rows(store, version)),
        lambda: read_page(store, version),
        lambda: read_page(store, version, search="q"),
        lambda: describe(store, version),
    ):
        with pytest.raises(DataProblem, match="missing or damaged"):
            look()


def rows_of(texts: list[str]) -> list[Row]:
    return [Row(row_id=str(n), row_hash="", payload=example(text)) for n, text in enumerate(texts)]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "A", " a ", "b", "c\nd", "c d", "e", "f"]), min_size=1, max_size=30),
    st.floats(0, 0.99), st.integers(0, 5), st.randoms(),
)  # fmt: skip
def test_a_split_keeps_equal_prompts_together_and_does_not_depend_on_order(texts, fraction, seed, random):
    rows = rows_of(texts)
    prompts = {row.row_id: " ".join(row.payload.messages[0].content.split()).casefold() for row in rows}
    if len(set(prompts.values())) < 2 and fraction:
        with pytest.raises(DataProblem):
            split_held_out(rows, fraction, seed)
        return
    train, held = split_held_out(rows, fraction, seed)
    assert sorted(train + held, key=int) == [row.row_id for row in rows]
    assert not {prompts[key] for key in train} & {prompts[key] for key in held}
    assert train and bool(held) == bool(fraction)
    shuffled = random.sample(rows, len(rows))
    assert set(split_held_out(shuffled, fraction, seed)[1]) == set(held)


def test_a_split_holds_out_about_the_share_asked_for():
    train, held = split_held_out(rows_of([f"q{n}" for n in range(1000)]), 0.1, seed=1)
    assert len(held) == 100 and set(held) != set(
        split_held_out(rows_of([f"q{n}" for n in range(1000)]), 0.1, seed=2)[1]
    )
    with pytest.raises(UsageError):
        split_held_out([], 1.0)


def test_statistics_count_what_is_there(store, dataset):
    payloads = [
        example("One two  three", "four", topic="a"),
        example("one two three", "five six", topic="b", extra=1),
        Example(
            messages=(
                Message(role="system", content="s"), Message(role="user", content="q"),
                Message(role="assistant", content="", tool_calls=[{"id": "1"}]),
                Message(role="tool", content="", tool_call_id="1"),
                Message(role="assistant", content="äöü 日本"), Message(role="user", content="r"),
                Message(role="assistant", content="x"),
            )
        ),
        example("One two  three", "four", topic="a"),
    ]  # fmt: skip
    found = describe(store, write_version(store, dataset.id, payloads))
    assert (found.rows, found.turns, found.multi_turn, found.with_system) == (4, 13, 1, 1)
    assert (found.repeated_prompts, found.repeated_rows, found.empty) == (2, 1, 1)
    assert found.meta_columns == {"topic": 3, "extra": 1}
    assert found.words.maximum == 6 and found.characters.maximum == 21
    assert found.answer_characters.maximum == 8 and found.answer_characters.p50 == 4


def test_the_last_page_of_a_large_version_is_read(store, dataset):
    payloads = (example(f"question {n}", "word " * 100) for n in range(30_000))
    stored = write_version(store, dataset.id, payloads)
    page = read_page(store, stored, offset=29_990, limit=20)
    assert [row.payload.messages[0].content for row in page.rows] == [f"question {n}" for n in range(29_990, 30_000)]
