"""A purged row leaves no trace of its words anywhere in the home folder, and everything else stays as it was."""

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.datasets import segments
from workbench.datasets.purging import LONG, STRUCK, purge_row
from workbench.datasets.versions import edit_version, iter_rows, read_page, read_row, write_version
from workbench.errors import Conflict, NotFound
from workbench.records import Completion, Example, Message, Prompt, RunState, Sampling, Score, Version, new_id, utc_now
from workbench.store import answers as answer_store
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import rankings
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.drafts import load_draft, save_draft

SECRET = 'My name is Zoë Quartermain and I live at\n12 "Blackthorn" Lane.'
ANSWER = "Nice to meet you, Zoë Quartermain of Blackthorn Lane."
EDITED = "My name is Zoë Quartermain-Hale these days."


def example(text: str, answer: str = "yes") -> Example:
    return Example(messages=(Message(role="user", content=text), Message(role="assistant", content=answer)))


def everything(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def texts_of(store: Store) -> str:
    """All rows of all versions and the whole home as one text: Parquet is compressed, so it is read."""
    found = []
    for dataset in dataset_store.list_datasets(store, archived=True):
        for path in (store.settings.datasets_dir / dataset.id).rglob("*.parquet"):
            for columns in segments.iter_columns(path, segments.COLUMNS):
                found += [json.dumps(json.loads(text), ensure_ascii=False) for text in columns[2]]
    return "\n".join(found)


def assert_no_trace(store: Store) -> None:
    for word in ("Quartermain", "Blackthorn"):
        forms = {word.encode(), word.encode("utf-16-le")}
        for name, data in everything(store.settings.home).items():
            assert not any(form in data for form in forms), name
        assert word not in texts_of(store)


def completion(variant: str, prompt: str, text: str, **more: Any) -> Completion:
    return Completion(
        id=new_id("cmp"), variant_id=variant, prompt=(Message(role="user", content=prompt),), text=text,
        sampling=Sampling(), created_at=utc_now(), **more,
    )  # fmt: skip


@pytest.fixture
def versions(store: Store) -> list[Version]:
    dataset = dataset_store.create_dataset(store, "people", "instructions")
    rows = [example(f"question {n}", f"answer number {n}") for n in range(12)]
    first = write_version(store, dataset.id, [rows[0], example(SECRET, ANSWER), *rows[1:]])
    row_id = list(iter_rows(store, first))[1].row_id
    second = edit_version(store, first, replaced={row_id: example(EDITED, "Noted.")}, message="a new name")
    third = edit_version(store, second, removed=[row_id, list(iter_rows(store, first))[3].row_id])
    fourth = edit_version(store, third, appended=[example("appended")])
    return [first, second, third, fourth]


def row_of(store: Store, version: Version) -> str:
    return list(iter_rows(store, version))[1].row_id


def test_a_purged_row_leaves_no_word_anywhere_and_a_mark(store: Store, versions: list[Version]) -> None:
    row_id = row_of(store, versions[0])
    before = {v.id: [(r.row_id, r.payload) for r in iter_rows(store, v) if r.row_id != row_id] for v in versions}
    model = model_store.add_server(store, "lab", "http://127.0.0.1:9/v1", {})
    variant = model_store.add_variant(store, "one", server_id=model.id, remote_model="m").id
    run = run_store.add_run(store, kind="sft", name="Tune", slot="train", spec={"sample_prompts": [SECRET]})
    run_store.update_run(store, run.id, state=RunState.FINISHED, result={"version_id": versions[0].id})
    model_store.add_variant(store, "learned", server_id=model.id, remote_model="x", run_id=run.id)
    run_store.add_sample(store, run.id, attempt=1, step=1, slot=0, prompt=SECRET, text="hello")
    folder = store.settings.run_dir(run.id)
    folder.mkdir(parents=True)
    (folder / "worker.log").write_text(f"12:00:00 start\nno answer to {row_id}: {SECRET}\n12:00:01 end\n")
    held = [{"row_id": row_id, "loss": 9.0}, {"row_id": f"{row_id}2", "loss": 1.0}]
    (folder / "held_out_rows.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in held))
    (folder / "spec.json").write_text(json.dumps({"sample_prompts": [SECRET]}))
    (store.settings.inbox_dir / "people.csv").write_text(f'"{SECRET}"')
    asked = completion(variant, SECRET, "Hello!", row_id=row_id, run_id=run.id)
    echoed = completion(variant, "Who am I?", f"You said: {ANSWER}")
    kept = completion(variant, "question 3", "An answer.")
    answer_store.add_completions(store, [asked, echoed, kept])
    answer_store.add_scores(store, [Score(completion_id=asked.id, scorer="chrf", value=1.0)])
    item = rankings.NewItem(prompt=asked.prompt, completions=(asked.id, kept.id), row_id=row_id)
    queue = rankings.create_queue(store, "q", [item])
    handed = rankings.next_item(store, queue.id, "Ana")
    assert handed is not None
    rankings.submit_ranking(
        store, handed.item.id, "Ana", shown=handed.shown, tiers=[list(handed.shown)], nonce="n", comment=SECRET
    )
    talk = answer_store.create_conversation(store, title="t", system="", variants=[variant], sampling=Sampling())
    answer_store.update_conversation(store, talk.id, user_turns=[SECRET, "next"])
    save_draft(store, "craft", {"text": f"{SECRET} and more"})
    other = dataset_store.create_dataset(store, "copied", "prompts")
    copy = write_version(
        store,
        other.id,
        [
            Prompt(messages=(Message(role="user", content=SECRET),)),
            Prompt(messages=(Message(role="user", content="else"),)),
        ],
    )

    report = purge_row(store, "people", row_id)

    assert_no_trace(store)
    assert (report.completions, report.items, report.learned_by, report.left) == (2, 1, ("learned",), ())
    assert report.compacted and set(report.versions) == {copy.id, *(v.id for v in versions)}
    for version in versions:
        now = dataset_store.get_version(store, version.id)
        assert [(r.row_id, r.payload) for r in iter_rows(store, now)] == before[version.id]
        assert (now.content_hash, now.rows) == (version.content_hash, len(before[version.id]))
        assert now.manifest["purged"] == [row_id] and now.manifest["purged_at"]
        assert read_page(store, now, limit=100).total == now.rows == len(read_page(store, now, limit=100).rows)
        assert read_page(store, now, search="Quartermain").total == 0
        with pytest.raises(NotFound):
            read_row(store, now, row_id)
    assert [row.payload.messages[0].content for row in iter_rows(store, dataset_store.get_version(store, copy.id))] == [
        "else"
    ]  # type: ignore[union-attr]
    assert [one.id for one in answer_store.list_completions(store)] == [kept.id]
    assert answer_store.get_conversation(store, talk.id).user_turns == (STRUCK, "next")
    assert load_draft(store, "craft") == {"text": f"{STRUCK} and more"}
    assert run_store.get_run(store, run.id).spec == {"sample_prompts": [STRUCK]}
    assert (folder / "held_out_rows.jsonl").read_text() == json.dumps(held[1]) + "\n"
    assert "12:00:01 end" in (folder / "worker.log").read_text()
    again = purge_row(store, "people", row_id)
    assert (again.versions, again.completions) == ((), 0)
    assert edit_version(store, dataset_store.get_version(store, versions[3].id), appended=[example("more")]).rows == 13


def test_words_that_other_rows_share_stay_with_them(store: Store) -> None:
    dataset = dataset_store.create_dataset(store, "rows", "instructions")
    shared = "Write a short poem about the sea"
    version = write_version(store, dataset.id, [example(shared), example(f"{shared}, please"), example("short")])
    row_id = next(iter(iter_rows(store, version))).row_id
    server = model_store.add_server(store, "lab", "http://127.0.0.1:9/v1", {})
    variant = model_store.add_variant(store, "one", server_id=server.id, remote_model="m").id
    answer_store.add_completions(
        store, [completion(variant, f"{shared}, please", "The sea."), completion(variant, "x", "y", row_id=row_id)]
    )
    report = purge_row(store, "rows", row_id)
    assert report.shared_texts == 2 and report.completions == 1
    assert len(answer_store.list_completions(store)) == 1


def test_a_short_text_goes_with_its_row_and_is_looked_for_nowhere_else(store: Store) -> None:
    dataset = dataset_store.create_dataset(store, "rows", "instructions")
    short = "x" * (LONG - 1)
    version = write_version(store, dataset.id, [example("finished", short), example("other", "b")])
    run = run_store.add_run(store, kind="sft", name="Tune", slot="train", spec={"note": short})
    run_store.update_run(store, run.id, state=RunState.FINISHED)
    purge_row(store, "rows", next(iter(iter_rows(store, version))).row_id)
    told = run_store.get_run(store, run.id)
    assert (told.state, told.spec) == (RunState.FINISHED, {"note": short})


def test_the_last_row_of_a_dataset_can_be_purged(store: Store) -> None:
    dataset = dataset_store.create_dataset(store, "rows", "instructions")
    version = write_version(store, dataset.id, [example(SECRET, ANSWER)])
    purge_row(store, "rows", next(iter(iter_rows(store, version))).row_id)
    now = dataset_store.get_version(store, version.id)
    assert now.rows == 0 and list(iter_rows(store, now)) == [] and read_page(store, now).total == 0
    assert_no_trace(store)


def test_a_purge_waits_for_runs_and_writers_and_refuses_a_row_that_never_was(
    store: Store, versions: list[Version]
) -> None:
    row_id = row_of(store, versions[0])
    with pytest.raises(NotFound, match="no version has such a row"):
        purge_row(store, "people", "nothing-1")
    run = run_store.add_run(store, kind="answer", name="Busy", slot="bulk", spec={})
    with pytest.raises(Conflict, match="a run is at work"):
        purge_row(store, "people", row_id)
    run_store.update_run(store, run.id, state=RunState.FINISHED)
    staging = segments.Staging(store.settings, new_id("ver"))
    with pytest.raises(Conflict, match="being written"):
        purge_row(store, "people", row_id)
    staging.close()
    purge_row(store, "people", row_id)
    assert_no_trace(store)


def test_a_purge_that_was_cut_short_is_finished_by_the_next(
    store: Store, versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.datasets import purging

    def crash(store: Store) -> list[str]:
        raise RuntimeError("killed")

    row_id = row_of(store, versions[0])
    with monkeypatch.context() as patch:
        patch.setattr(purging, "_drop_old_files", crash)
        with pytest.raises(RuntimeError):
            purge_row(store, "people", row_id)
    assert "Quartermain" in texts_of(store)
    purge_row(store, "people", row_id)
    assert_no_trace(store)
