"""The notebook API: what is given wrongly is told at once and in words, before anything is started for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from workbench.api import Workspace
from workbench.errors import NotFound, UsageError
from workbench.records import Message
from workbench.runs import launch
from workbench.store import models as model_store


@pytest.fixture
def ws(home: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(launch, "dispatch", lambda store: [])  # runs stay queued
    return Workspace()


@pytest.mark.parametrize(
    ("settings", "words"), [({"temperature": 9}, "temperature"), ({"top_p": math.nan}, "top_p"), ({"heat": 1}, "heat")]
)
def test_settings_that_do_not_hold_are_told_before_an_engine_is_looked_for(
    ws: Workspace, settings: dict[str, Any], words: str
):
    for ask in (ws.generate, ws.stream):
        with pytest.raises(UsageError, match=words):
            ask("nobody", "hi", **settings)


def test_a_prompt_that_cannot_be_asked_is_told_before_an_engine_is_looked_for(ws: Workspace):
    half = [Message(role="user", content="\udcff")]
    for prompt, words in (
        ("  ", "empty"),
        ("\udcff", "half of a character"),
        (half, "half of a character"),
        ([], "end"),
    ):
        with pytest.raises(UsageError, match=words):
            ws.generate("nobody", prompt)
    with pytest.raises(UsageError, match="half of a character"):
        ws.generate("nobody", "hi", system="\udcff")


def test_a_path_means_the_callers_folder_although_the_run_works_in_another(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert ws.import_data("rows.jsonl", "d").spec["source"] == str(tmp_path / "rows.jsonl")
    assert ws.add_model("local", "models/mine").spec["reference"] == str(tmp_path / "models/mine")
    assert ws.add_model("hub", "owner/name").spec["reference"] == "owner/name"
    with pytest.raises(UsageError, match="source"):
        ws.add_model("moon", "x")


def test_a_run_named_after_something_with_the_longest_name_can_be_launched(ws: Workspace):
    run = ws.import_data("rows.jsonl", "d" * 200)
    assert run.name.startswith("Import ddd") and len(run.name) == 200 and run.spec["dataset"] == "d" * 200
    assert len(ws.clone(run.id).name) == 200


def test_training_on_a_dataset_that_is_not_there_is_told_at_once(ws: Workspace):
    with pytest.raises(NotFound, match="no such dataset"):
        ws.train("sft", "nothing")
    ws.install_kit("assistant")
    with pytest.raises(UsageError, match="finite"):
        ws.train("sft", ws.datasets(kind="instructions")[0].name, lora_alpha=math.inf)
    assert ws.runs() == []


def test_states_may_be_given_as_plain_texts(ws: Workspace):
    run = ws.import_data("rows.jsonl", "d")
    assert [found.id for found in ws.runs(states=["queued"])] == [run.id]
    assert ws.runs(states=["finished"]) == []


def test_runs_over_a_prompt_set_are_called_as_people_call_it(ws: Workspace):
    _, held_out = ws.install_kit("assistant")
    name = ws.dataset(held_out.dataset_id).name
    server = model_store.add_server(ws.store, "lab", "http://127.0.0.1:9/v1", {})
    variant = model_store.add_variant(ws.store, "far", server_id=server.id, remote_model="m").id
    for reference in (name, held_out.id, held_out.dataset_id):
        assert ws.answer_prompts(reference, [variant]).name == f"Answers to {name}"
        assert ws.sample_answers(reference, [variant]).name == f"Sample {name} to rank"
    for start in (ws.answer_prompts, ws.sample_answers):
        with pytest.raises(NotFound):
            start("nothing", [variant])


def test_one_queue_may_be_named_without_a_list(ws: Workspace) -> None:
    from tests.preferences.voting import make_queue, rank
    from workbench.store import rankings as rank_store

    queue = make_queue(ws.store, prompts=2)
    for item in rank_store.list_items(ws.store, [queue.id]):
        rank(ws.store, item, [[0], [1], [2]])
    assert ws.leaderboard(queue.name) == ws.leaderboard([queue.id])
    assert ws.build_preferences(queue.name, "pairs", held_out=0.0).rows == 6
