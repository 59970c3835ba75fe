"""`workbench self-instruct …`, called as `main` calls it, and what lineage, deletion and purge make of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_generator import ScriptedGenerator, ServedJob

from workbench.api import Workspace
from workbench.cli import run
from workbench.errors import Conflict
from workbench.records import RunState
from workbench.runs.snippets import as_command
from workbench.self_instruct.configs import SelfInstructConfig
from workbench.self_instruct.rounds import grow_dataset
from workbench.store import candidates as candidate_store
from workbench.store import runs as run_store
from workbench.store.database import Store

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(home: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def document(told: tuple[int, str, str], code: int = 0) -> Any:
    assert told[0] == code, told
    return json.loads(told[1])


@pytest.fixture
def grown(store: Store, tmp_path: Path) -> str:
    with ScriptedGenerator() as generator:
        variant = generator.variant(store)
        config = SelfInstructConfig(variant=variant.id, target=8, retries=1)
        spec = config.model_dump(mode="json")
        entered = run_store.add_run(store, kind="self_instruct", name="Grow", slot="bulk", spec=spec)
        result = grow_dataset(config, ServedJob(store, tmp_path / "job", generator.url, entered))
    told = run_store.get_run(store, entered.id).result
    run_store.update_run(store, entered.id, state=RunState.FINISHED, result={**told, **result})
    return entered.id


def test_a_run_is_started_with_options_made_from_its_config(call: Call, store: Store):
    with ScriptedGenerator() as generator:
        generator.variant(store)
        code, out, err = call("self-instruct", "start", "--variant", "writer", "--target", "4", "--wait", "--json")
    told = document((code, out, err))
    assert told["state"] == "finished" and told["result"]["kept"] >= 4 and told["name"] == "Grow tasks with writer"
    assert document(call("self-instruct", "funnel", told["id"], "--json"))["stages"][0]["name"] == "read"


def test_a_copied_command_line_launches_the_same_config(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch):
    with ScriptedGenerator() as generator:
        variant = generator.variant(store)
    config = SelfInstructConfig(
        variant=variant.id,
        seeds=None,
        held_out=(),
        words=("draw", "go to"),
        threshold=0.6,
        programs=False,
        style="alpaca",
    )
    line = as_command("self_instruct", config).replace("\\\n", " ")
    launched: list[dict[str, Any]] = []
    monkeypatch.setattr(
        Workspace, "launch", lambda self, kind, fields, name=None: launched.append(dict(fields)) or fail()
    )

    def fail() -> Any:
        raise Conflict("not now")

    assert call(*shlex.split(line)[1:])[0] == 1
    made = SelfInstructConfig.model_validate(launched[0])
    assert made.model_copy(update={"held_out": ()}) == config


def test_candidates_are_shown_reviewed_and_made_a_dataset(call: Call, grown: str, tmp_path: Path):
    page = document(call("self-instruct", "candidates", grown, "--state", "kept", "--json"))
    assert page["total"] == len(page["candidates"]) >= 8
    first, second, third = (each["id"] for each in page["candidates"][:3])
    code, out, err = call("self-instruct", "candidates", grown, "--reason", "too_short", "--limit", "1")
    assert code == 0 and "too_short" in out and "--offset 1" in err
    assert "accept of" in call("self-instruct", "review", first, "accept", "--reviewer", "Zoë")[1]
    examples = tmp_path / "examples.json"
    examples.write_text(json.dumps([{"input": "i", "output": "o"}]), "utf-8")
    told = document(
        call("self-instruct", "review", second, "edit", "--instruction", "Say it anew.", "--examples", str(examples),
             "--reviewer", "Zoë", "--json")
    )  # fmt: skip
    assert told["instances"] == [{"input": "i", "output": "o", "reason": None}]
    call("self-instruct", "review", third, "reject", "--reviewer", "Zoë")
    assert document(call("self-instruct", "undo", grown, "--reviewer", "Zoë", "--json"))["verdict"] == "reject"
    assert "nothing to take back" in call("self-instruct", "undo", grown, "--reviewer", "Bo")[1]
    funnel = document(call("self-instruct", "funnel", grown, "--json"))
    assert funnel["stages"][-1]["count"] == 2
    out = call("self-instruct", "funnel", grown, "--threshold", "0.1")[1]
    assert "too_similar" in out and "threshold" in out and "0.1" in out
    assert "verb" in call("self-instruct", "diversity", grown)[1]
    made = document(call("self-instruct", "version", grown, "--name", "grown", "--json"))
    assert made["provenance"]["self_instruct"]["reviewers"] == ["Zoë"]
    code, out, _ = call("self-instruct", "version", grown, "--name", "all", "--include", "unrejected")
    assert code == 0 and out.startswith("all@1: ")


def test_what_cannot_be_done_is_told_with_the_right_code(call: Call, grown: str, tmp_path: Path):
    assert call("self-instruct", "start")[0] == 2
    assert call("self-instruct", "start", "--variant", "nobody")[0] == 1
    assert call("self-instruct", "start", "--variant", "writer", "--seeds", "nothing")[0] == 1
    assert call("self-instruct", "start", "--variant", "writer", "--threshold", "2")[0] == 2
    assert call("self-instruct", "candidates", grown, "--reason", "ugly")[0] == 2
    assert call("self-instruct", "funnel", "run_nothing")[0] == 1
    bad = tmp_path / "bad.json"
    bad.write_text('["x"]', "utf-8")
    code, _, err = call("self-instruct", "review", "can_x", "edit", "--examples", str(bad))
    assert code == 1 and "no examples" in err


def test_seeds_can_be_installed_alone(call: Call):
    told = document(call("self-instruct", "seeds", "--json"))
    assert told["name"] == "Self-instruct seeds" and told["rows"] >= 60
    assert document(call("self-instruct", "seeds", "--json")) == told


def test_lineage_reaches_from_the_seeds_through_the_run_to_the_dataset(grown: str, home: Path):
    ws = Workspace()
    version = ws.self_instruct_version(grown, "grown", include="unrejected")
    plan = ws.run(grown).result["self_instruct"]
    found = ws.lineage(version.id)
    edges = {(edge.source, edge.target): edge.label for edge in found.edges}
    assert edges[plan["seeds_version_id"], grown] == "seeds of"
    assert edges[plan["variant_id"], grown] == "wrote tasks in"
    assert edges[grown, version.id] == "made into"
    assert (plan["seeds_version_id"], version.id) not in edges and (plan["variant_id"], version.id) not in edges
    assert set(found.before) >= {"kit:seeds", plan["seeds_version_id"], plan["variant_id"], grown}
    for delete in (
        lambda: ws.delete_run(grown),
        lambda: ws.delete_version(plan["seeds_version_id"]),
        lambda: ws.delete_variant("writer"),
    ):
        with pytest.raises(Conflict, match="in use by"):
            delete()
    ws.store.close()


def test_a_run_is_deleted_with_its_candidates_and_reviews(grown: str, home: Path):
    ws = Workspace()
    first = ws.candidates(grown, state="kept").candidates[0]
    ws.review_candidate(first.id, "accept", "Ada")
    ws.undo_review(grown, "Ada")
    ws.delete_run(grown)
    assert candidate_store.list_candidates(ws.store, grown) == [] == candidate_store.list_replies(ws.store, grown)
    ws.delete_variant("writer")
    ws.store.close()


def test_purging_a_seed_strikes_it_from_prompts_and_candidates(grown: str, home: Path):
    ws = Workspace()
    seeds = ws.install_seeds()
    words = next(
        each.nearest_text for each in candidate_store.list_candidates(ws.store, grown) if each.nearest_kind == "seed"
    )
    row = next(row for row in ws.rows(seeds.id, limit=100).rows if row.payload.meta["instruction"] == words)
    ws.candidates(grown)
    ws.purge_row(seeds.dataset_id, row.row_id)
    assert not any(words in reply.prompt for reply in candidate_store.list_replies(ws.store, grown))
    assert not any(words in (each.nearest_text or "") for each in candidate_store.list_candidates(ws.store, grown))
    ws.store.close()
