from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from scripted_generator import ScriptedGenerator, ServedJob

from workbench.api import Workspace
from workbench.datasets.versions import iter_rows, split_held_out, write_version
from workbench.errors import DataProblem, NotFound, RunProblem, Stopped, UsageError
from workbench.records import Example, Message, Prompt, Run, RunState
from workbench.self_instruct.configs import SelfInstructConfig
from workbench.self_instruct.held_out import HeldOutShare, find_held_out_shares, held_out_texts
from workbench.self_instruct.review import read_plan, review_candidate
from workbench.self_instruct.rounds import TRIES, grow_dataset
from workbench.self_instruct.seeds import SEEDS_NAME, install_seeds, read_seeds
from workbench.store import candidates as candidate_store
from workbench.store import datasets as dataset_store
from workbench.store import runs as run_store
from workbench.store.candidates import Candidate
from workbench.store.database import Store
from workbench.store.lineage import read_inputs

SMALL = {"target": 12, "max_requests": 200, "requests_per_round": 2, "retries": 2}


@pytest.fixture
def generator(store: Store) -> Iterator[ScriptedGenerator]:
    with ScriptedGenerator() as made:
        made.variant(store)
        yield made


def start(store: Store, **fields: Any) -> tuple[SelfInstructConfig, Run]:
    config = SelfInstructConfig(**({"variant": "writer"} | SMALL | fields))
    spec = config.model_dump(mode="json")
    return config, run_store.add_run(store, kind="self_instruct", name="Grow", slot="bulk", spec=spec)


def grow(
    store: Store, generator: ScriptedGenerator, folder: Path, *, stop_after: int | None = None, **fields: Any
) -> tuple[Run, dict[str, Any]]:
    config, run = start(store, **fields)
    return run, grow_dataset(config, ServedJob(store, folder, generator.url, run, stop_after=stop_after))


def said(store: Store, run: Run) -> list[tuple[Any, ...]]:
    return [
        (each.position, each.instruction, each.reason, each.score, each.nearest_text, each.is_classification,
         each.instances, each.instance_reason)
        for each in candidate_store.list_candidates(store, run.id)
    ]  # fmt: skip


def test_a_run_grows_tasks_with_examples_and_keeps_every_rejection(store, generator, tmp_path):
    run, result = grow(store, generator, tmp_path)
    found = candidate_store.list_candidates(store, run.id)
    kept = [each for each in found if each.state == "kept"]
    assert result["ended"] == "target" and result["kept"] == len(kept) >= 12
    assert result["candidates"] == len(found) and [each.position for each in found] == list(range(len(found)))
    replies = candidate_store.list_replies(store, run.id)
    assert result["requests"] == len(replies) == len(generator.prompts)
    assert {reply.step for reply in replies} == {"tasks", "sort", "inputs", "labels"}
    why = {each.why for each in found}
    assert {"too_short", "points_outside", "asks_for_program", "starts_not_ascii", "too_similar", "cut_off"} <= why
    for each in found:
        if each.reason == "too_similar":
            assert each.score > 0.7 and each.nearest_text and each.nearest_kind in ("seed", "candidate")
        if each.state == "kept":
            assert each.score <= 0.7 and all(one.output.strip() for one in each.instances if one.reason is None)
        if each.is_classification and each.state == "kept":
            assert {one.output for one in each.instances} == {"good", "bad"}
    assert all(reply.fingerprint == "fp_1" for reply in replies)


def test_the_first_prompts_show_eight_seeds_and_later_ones_two_of_its_own(store, generator, tmp_path):
    run, _ = grow(store, generator, tmp_path)
    seeds = {seed.instruction for seed in read_seeds(store, install_seeds(store))}
    asked = [reply for reply in candidate_store.list_replies(store, run.id, step="tasks")]

    def people(prompt: str) -> int:
        listed = [line.partition(". ")[2] for line in prompt.splitlines() if line[:1].isdigit()]
        assert len(listed) == 8
        return sum(text in seeds for text in listed)

    assert {people(reply.prompt) for reply in asked if reply.round == 1} == {8}
    assert {people(reply.prompt) for reply in asked if reply.round > 1} == {6}


def test_the_one_step_style_brings_examples_at_once(store, generator, tmp_path):
    run, result = grow(store, generator, tmp_path, style="alpaca", target=30)
    found = candidate_store.list_candidates(store, run.id)
    assert result["kept"] >= 30 and {reply.step for reply in candidate_store.list_replies(store, run.id)} == {"tasks"}
    assert {"cut_off", "instance_empty", "instance_ends_with_colon"} <= {each.why for each in found}
    assert all(each.instances is not None for each in found)
    assert "numbered 4 to 23" in generator.prompts[0]


def test_a_stopped_run_goes_on_without_asking_anything_again(store, generator, tmp_path):
    whole, _ = grow(store, generator, tmp_path / "whole")
    asked = len(generator.prompts)
    config, run = start(store)
    for attempt in range(200):
        try:
            grow_dataset(config, ServedJob(store, tmp_path / f"{attempt}", generator.url, run, stop_after=3))
            break
        except Stopped:
            continue
    assert attempt >= 3 and said(store, run) == said(store, whole)
    assert len(generator.prompts) == 2 * asked


def test_rate_limits_failures_and_broken_connections_are_waited_out(store, generator, tmp_path):
    generator.faults = ["429", "drop", "", "500", "429", "", "drop", "503"]
    generator.delay_s = 0.01
    run, result = grow(store, generator, tmp_path, retries=6, concurrency=3)
    assert result["ended"] == "target" and generator.most_under_way <= 3
    assert all(reply.error is None for reply in candidate_store.list_replies(store, run.id))


def test_a_generator_that_cannot_be_used_fails_the_run_with_its_words(store, generator, tmp_path):
    generator.broken = True
    config, run = start(store)
    with pytest.raises(RunProblem, match="refuses the key.*resume the run"):
        grow_dataset(config, ServedJob(store, tmp_path, generator.url, run))
    generator.broken = False
    assert grow_dataset(config, ServedJob(store, tmp_path, generator.url, run))["ended"] == "target"
    assert sum(reply.error is not None for reply in candidate_store.list_replies(store, run.id)) == 2


def test_a_generator_that_stays_silent_is_told(store, generator, tmp_path):
    generator.delay_s = 1.5
    with pytest.raises(RunProblem, match="did not answer in time"):
        grow(store, generator, tmp_path, retries=0, timeout_s=1)


def test_a_generator_that_breaks_in_the_middle_loses_nothing(store, generator, tmp_path):
    config, run = start(store, retries=0)
    generator.faults = ["", "", *["400"] * 40]
    with pytest.raises(RunProblem, match="gives no replies"):
        grow_dataset(config, ServedJob(store, tmp_path, generator.url, run))
    before = candidate_store.list_candidates(store, run.id)
    assert before and not any(each.state == "kept" for each in before)
    generator.faults = []
    assert grow_dataset(config, ServedJob(store, tmp_path, generator.url, run))["kept"] >= 12
    after = candidate_store.list_candidates(store, run.id)
    assert [each.id for each in after[: len(before)]] == [each.id for each in before]


def test_a_candidate_whose_request_keeps_failing_is_given_up(store, generator, tmp_path):
    config, run = start(store, retries=0, concurrency=1, requests_per_round=1, target=200, max_requests=40)
    generator.faults = ["", "400", *(["", "", ""] * 3)]
    grow_dataset(config, ServedJob(store, tmp_path, generator.url, run))
    failed = [reply for reply in candidate_store.list_replies(store, run.id) if reply.error]
    assert len(failed) == 1 < TRIES  # asked again in the next round, and answered
    retried = candidate_store.get_candidate(store, failed[0].key.partition("/")[2])
    assert retried.is_classification is not None


def test_a_generator_that_writes_nothing_useful_ends_as_an_ordinary_run(store, generator, tmp_path):
    generator.silly = True
    run, result = grow(store, generator, tmp_path, max_requests=5)
    assert result == {"kept": 0, "candidates": 5, "rounds": 3, "requests": 5, "ended": "requests"}
    assert {each.reason for each in candidate_store.list_candidates(store, run.id)} == {"too_short"}


def test_limits_end_the_run(store, generator, tmp_path):
    _, result = grow(store, generator, tmp_path / "a", target=10_000, max_rounds=2)
    assert result["ended"] == "rounds" and result["rounds"] == 2
    _, result = grow(store, generator, tmp_path / "b", target=10_000, max_requests=11)
    assert result["ended"] == "requests" and result["requests"] == 11


def test_nothing_comes_back_that_is_held_out(store, generator, tmp_path):
    plain, _ = grow(store, generator, tmp_path / "plain")
    kept = next(each for each in candidate_store.list_candidates(store, plain.id) if each.state == "kept")
    dataset = dataset_store.create_dataset(store, "exam", "prompts")
    turns = (Message(role="user", content=kept.instruction),)
    version = write_version(store, dataset.id, [Prompt(messages=turns, reference="It stands there.")])
    run, _ = grow(store, generator, tmp_path / "guarded")
    assert run_store.get_run(store, run.id).result["self_instruct"]["held_out_version_ids"] == [version.id]
    twin = next(each for each in candidate_store.list_candidates(store, run.id) if each.instruction == kept.instruction)
    assert (twin.reason, twin.nearest_kind, twin.nearest_text) == ("leaks", "held_out", kept.instruction)
    assert twin.score == 1.0 and not twin.wanted
    unguarded, _ = grow(store, generator, tmp_path / "open", held_out=())
    assert said(store, unguarded) == said(store, plain)


def hold_out_by_share(store: Store, dataset: str, instruction: str, *, share: Any = 0.05, seed: int = 3) -> Run:
    """A training run on a dataset of ten rows, one of which is held out, and that one says `instruction`."""
    made = dataset_store.create_dataset(store, dataset, "instructions")
    texts = [instruction, *(f"Water the plant {number} times." for number in range(9))]

    def rows(order: list[str]) -> list[Example]:
        answer = Message(role="assistant", content="It stands there.")
        return [Example(messages=(Message(role="user", content=text), answer)) for text in order]

    version = write_version(store, made.id, rows(texts))
    # Which row a seed holds out depends on its text; a seed that holds out the one that matters is found.
    found = list(iter_rows(store, version))
    while split_held_out(found, 0.05, seed)[1] != (found[0].row_id,):
        seed += 1
    run = run_store.add_run(
        store, kind="sft", name="Trained", slot="train", spec={"dataset": dataset, "held_out": share, "seed": seed}
    )
    folder = store.settings.run_dir(run.id)
    folder.mkdir(parents=True, exist_ok=True)
    pinned = {"version_id": version.id, "held_out_version_id": None, "model_id": "model_x"}
    (folder / "inputs.json").write_text(json.dumps(pinned))
    return run


def test_nothing_comes_back_that_a_training_run_held_out_by_share(store, generator, tmp_path):
    plain, _ = grow(store, generator, tmp_path / "plain")
    kept = [each for each in candidate_store.list_candidates(store, plain.id) if each.state == "kept"]
    trained = hold_out_by_share(store, "own data", kept[0].instruction)
    again = run_store.add_run(store, kind="sft", name="Same split", slot="train", spec=trained.spec)
    inputs = store.settings.run_dir(trained.id) / "inputs.json"
    (store.settings.run_dir(again.id)).mkdir(parents=True, exist_ok=True)
    (store.settings.run_dir(again.id) / "inputs.json").write_bytes(inputs.read_bytes())
    # What a run only learned from may come back: no share, no guard.
    hold_out_by_share(store, "all of it", kept[1].instruction, share=None)

    run, _ = grow(store, generator, tmp_path / "guarded")
    plan = read_plan(run_store.get_run(store, run.id))
    (share,) = plan.held_out_shares
    assert plan.held_out_version_ids == () and (share.share, share.seed) == (0.05, trained.spec["seed"])
    found = {each.instruction: each for each in candidate_store.list_candidates(store, run.id)}
    assert found[kept[0].instruction].reason == "leaks"
    assert found[kept[0].instruction].nearest_text == kept[0].instruction
    assert found[kept[1].instruction].reason is None
    with pytest.raises(UsageError, match="held out"):
        review_candidate(store, found[kept[1].instruction].id, "edit", "Ada", instruction=kept[0].instruction)
    unguarded, _ = grow(store, generator, tmp_path / "open", held_out=("own data",))
    assert read_plan(run_store.get_run(store, unguarded.id)).held_out_shares == ()


def test_a_share_of_the_seeds_themselves_and_of_what_was_deleted_guards_nothing(store, generator, tmp_path):
    trained = hold_out_by_share(store, "own data", "Say how a kettle is descaled.")
    version_id = read_inputs(store, trained.id)["version_id"]
    _, seeds = dataset_store.find_version(store, "own data")
    assert find_held_out_shares(store, ("auto",), seeds=seeds) == ()
    share = HeldOutShare(version_id=version_id, share=0.05, seed=trained.spec["seed"])
    assert "Say how a kettle is descaled." in list(held_out_texts(store, [], [share]))
    gone = share.model_copy(update={"version_id": "ver_gone"})
    assert list(held_out_texts(store, [], [gone])) == []


def test_each_step_asks_the_generator_with_its_own_sampling(store, generator, tmp_path):
    grow(store, generator, tmp_path, target=4)
    asked: dict[str, list[dict[str, Any]]] = {"tasks": [], "sort": [], "inputs": []}
    for ask in generator.asks:
        prompt = ask["messages"][-1]["content"]
        step = "tasks" if prompt.startswith("The list below") else "sort"
        asked[step if step == "tasks" or prompt.startswith("For each task") else "inputs"].append(ask)
    for ask in asked["tasks"]:
        assert (ask["temperature"], ask["top_p"], ask["presence_penalty"]) == (0.7, 0.5, 2)
    for ask in asked["sort"]:
        assert (ask["temperature"], ask["top_p"], ask["max_tokens"]) == (0, 1, 8) and "presence_penalty" not in ask
    for ask in asked["inputs"]:
        assert (ask["temperature"], ask["top_p"]) == (0, 1) and "presence_penalty" not in ask
    assert all(asked.values())
    seeds = [ask["seed"] for ask in generator.asks]
    assert len(set(seeds)) == len(seeds), "each request draws a seed of its own"

    generator.asks.clear()
    grow(store, generator, tmp_path / "warm", target=4, temperature=1.1, top_p=0.9, presence_penalty=0.5)
    first = generator.asks[0]
    assert (first["temperature"], first["top_p"], first["presence_penalty"]) == (1.1, 0.9, 0.5)


def test_examples_are_asked_for_up_to_a_higher_score_where_wanted(store, generator, tmp_path):
    run, _ = grow(store, generator, tmp_path, threshold=0.4, examples_up_to=0.8, target=4)
    found = candidate_store.list_candidates(store, run.id)
    near = [each for each in found if each.reason == "too_similar" and each.score <= 0.8]
    far = [each for each in found if each.reason == "too_similar" and each.score > 0.8]
    assert near and all(each.instances is not None for each in near)
    assert far and all(each.instances is None for each in far)


def test_what_cannot_be_grown_from_is_told(store, generator, tmp_path):
    prompts = dataset_store.create_dataset(store, "exam", "prompts")
    write_version(store, prompts.id, [Prompt(messages=(Message(role="user", content="Why?"),))])
    with pytest.raises(DataProblem, match="seeds are instructions"):
        grow(store, generator, tmp_path, seeds="exam")
    with pytest.raises(NotFound):
        grow(store, generator, tmp_path, seeds="nothing")
    with pytest.raises(NotFound):
        grow(store, generator, tmp_path, variant="nobody")
    install_seeds(store)
    with pytest.raises(UsageError, match="seeds cannot be held out"):
        grow(store, generator, tmp_path, held_out=(SEEDS_NAME,))


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="lower min_words"):
        SelfInstructConfig(variant="v", min_words=9, max_words=3)
    with pytest.raises(ValidationError, match="below the threshold"):
        SelfInstructConfig(variant="v", examples_up_to=0.5)


def test_any_dataset_of_instructions_serves_as_seeds(store: Store):
    dataset = dataset_store.create_dataset(store, "own", "instructions")

    def row(asked: str, answer: str, **meta: Any) -> Example:
        turns = (Message(role="user", content=asked), Message(role="assistant", content=answer))
        return Example(messages=turns, meta=meta)

    rows = [
        row("Sort these.\n\nb a", "a b", is_classification=False),
        row("Plain question?", "Yes", is_classification=True),
        row("New words.\n\nx", "y", instruction="Old words.", input="x"),
        row("Two\n\nparts\n\nc", "d", instruction="Two\n\nparts", input="c", is_classification="maybe"),
        row("No answer", " "),
    ]
    seeds = read_seeds(store, write_version(store, dataset.id, rows))
    told = [(seed.instruction, seed.input, seed.output, seed.is_classification) for seed in seeds]
    assert told == [
        ("Sort these.", "b a", "a b", False),
        ("Plain question?", "", "Yes", True),
        ("New words.", "x", "y", None),
        ("Two\n\nparts", "c", "d", None),
    ]


def test_seeds_are_installed_once(store: Store):
    first = install_seeds(store)
    assert first.rows >= 60 and install_seeds(store) == first
    seeds = read_seeds(store, first)
    assert len(seeds) == first.rows and sum(bool(seed.is_classification) for seed in seeds) >= 10
    assert all(isinstance(seed.is_classification, bool) for seed in seeds)


def until_ended(ws: Workspace, run_id: str, seconds: float = 60) -> Run:
    return ws.wait(run_id, timeout_s=seconds, poll_s=0.05)


def test_a_killed_worker_resumes_and_comes_to_the_same(store: Store, generator, tmp_path):
    whole, _ = grow(store, generator, tmp_path)
    asked = len(generator.prompts)
    generator.delay_s = 0.05
    ws = Workspace(settings=store.settings)
    run = ws.launch("self_instruct", {"variant": "writer", **SMALL, "concurrency": 2})
    deadline = time.monotonic() + 60
    while len(candidate_store.list_replies(store, run.id)) < 12:
        assert time.monotonic() < deadline, ws.log(run.id)
        time.sleep(0.05)
    worker = run_store.list_attempts(store, run.id)[-1].worker_pid
    os.kill(worker, signal.SIGKILL)
    assert until_ended(ws, run.id).state is RunState.INTERRUPTED or ws.run(run.id).state is RunState.FAILED
    stored = {reply.id for reply in candidate_store.list_replies(store, run.id)}
    generator.delay_s = 0.0
    ws.resume(run.id)
    ended = until_ended(ws, run.id)
    assert ended.state is RunState.FINISHED, ws.log(run.id)
    assert said(store, run) == said(store, whole) and ended.result["ended"] == "target"
    replies = candidate_store.list_replies(store, run.id)
    assert stored <= {reply.id for reply in replies}
    assert len({reply.key for reply in replies}) == len(replies) == asked
    ws.store.close()


def test_candidates_are_typed_records(store, generator, tmp_path):
    run, _ = grow(store, generator, tmp_path, target=1)
    for candidate in candidate_store.list_candidates(store, run.id):
        assert Candidate.model_validate(candidate.model_dump()) == candidate


class Crash(BaseException):
    pass


@pytest.mark.parametrize("after_writing", [True, False])
def test_a_crash_beside_any_write_changes_nothing_in_the_end(store, generator, tmp_path, monkeypatch, after_writing):
    fields = {"target": 5, "requests_per_round": 1, "concurrency": 1}
    whole, _ = grow(store, generator, tmp_path / "whole", **fields)
    config, run = start(store, **fields)
    writes = {name: getattr(candidate_store, name) for name in ("add_replies", "add_candidates")}
    left = 0

    def crashing(name: str) -> Any:
        def write(*arguments: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0 and not after_writing:
                raise Crash
            writes[name](*arguments)
            if left < 0:
                raise Crash

        return write

    for name in writes:
        monkeypatch.setattr(candidate_store, name, crashing(name))
    crashes = 0
    while True:
        left = 1 + crashes % 3
        try:
            grow_dataset(config, ServedJob(store, tmp_path / str(crashes), generator.url, run))
            break
        except Crash:
            crashes += 1
    assert crashes > 5 and said(store, run) == said(store, whole)
    replies = candidate_store.list_replies(store, run.id)
    assert len({reply.key for reply in replies}) == len(replies)
