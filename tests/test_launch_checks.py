"""What can be told before a run starts is told at launch, whichever way it is launched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from workbench.api import Workspace
from workbench.datasets.versions import write_version
from workbench.errors import WorkbenchError
from workbench.models.adding import ensure_bundled
from workbench.records import Example, Message, Preference, Prompt
from workbench.runs import launch
from workbench.store import models as model_store
from workbench.store.database import Store
from workbench.store.datasets import create_dataset


def turn(role: Any, text: str) -> tuple[Message, ...]:
    return (Message(role=role, content=text),)


@pytest.fixture
def workspace(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Datasets of three kinds, a tiny model of context 512 with an adapter, another base, and a remote variant."""
    monkeypatch.setattr(launch, "dispatch", lambda store: [])  # runs stay queued
    ensure_bundled(store)
    for name, seed in (("small", 1), ("other", 2)):
        model = tiny.register_model(store, tiny.make_model(tmp_path / name, seed=seed), name=name)
        model_store.update_model(store, model.id, info={**model.info, "context_length": 512})
        model_store.add_variant(store, f"{name} base", model_id=model.id)
        folder = tiny.make_adapter(Path(str(model.path)), tmp_path / f"{name}-adapter")
        model_store.add_variant(store, f"{name} tuned", model_id=model.id, adapter_path=str(folder))
    server = model_store.add_server(store, "lab", "http://127.0.0.1:9/v1", {})
    model_store.add_variant(store, "remote", server_id=server.id, remote_model="x")
    rows: dict[Any, Any] = {
        "prompts": Prompt(messages=turn("user", "Hi?")),
        "instructions": Example(messages=turn("user", "Hi?") + turn("assistant", "Hello")),
        "preferences": Preference(
            prompt=turn("user", "Hi?"), chosen=turn("assistant", "Hello"), rejected=turn("assistant", "No")
        ),
    }
    for kind, row in rows.items():
        write_version(store, create_dataset(store, kind, kind).id, [row])
    return Workspace()


@pytest.mark.parametrize(
    ("kind", "config", "place"),
    [
        ("reward", {"dataset": "preferences", "demonstrations": "nobody"}, None),
        ("reward", {"dataset": "preferences", "demonstrations": "prompts"}, "demonstrations"),
        ("sft", {"dataset": "instructions", "target_modules": ["nonsense"]}, "target_modules"),
        ("sft", {"dataset": "instructions", "target_modules": ["input_layernorm"]}, "target_modules"),
        ("dpo", {"dataset": "preferences", "held_out": "preferences"}, "held_out"),
        ("reward", {"dataset": "preferences", "held_out": "preferences@1"}, "held_out"),
        ("rloo", {"dataset": "prompts", "reward": "nobody"}, None),
        ("kl", {"variant": "small tuned", "prompts": "prompts", "reference": "other base"}, "reference"),
        ("kl", {"variant": "remote", "prompts": "prompts"}, "variant"),
        ("kl", {"variant": "small tuned", "prompts": "prompts", "max_tokens": 8192}, "max_tokens"),
        ("kl", {"variant": "small tuned", "prompts": "nobody"}, None),
        ("self_instruct", {"variant": "small base", "seeds": "prompts"}, "prompts"),
        ("self_instruct", {"variant": "small base", "seeds": "nobody"}, None),
        ("self_instruct", {"variant": "small base", "seeds": "instructions", "held_out": ["instructions"]}, "held_out"),
        ("score", {"reward": "nobody", "prompt": "Hi?", "answers": ["Hello"]}, None),
    ],
)
def test_what_a_run_would_fail_of_is_told_before_it_is_entered(
    workspace: Workspace, kind: str, config: dict[str, Any], place: str | None
) -> None:
    if kind not in ("kl", "self_instruct", "score"):
        config["model"] = "small"
    with pytest.raises(WorkbenchError) as refused:
        workspace.launch(kind, config)
    assert place is None or refused.value.place == place
    assert refused.value.value is not None or refused.value.remedy
    assert workspace.runs() == []


def test_a_clone_is_checked_like_any_other_launch(workspace: Workspace) -> None:
    run = workspace.self_instruct("small base", seeds="instructions")
    with pytest.raises(WorkbenchError, match="nobody"):
        workspace.clone(run.id, seeds="nobody")
    trained = workspace.train("dpo", "preferences", model="small")
    with pytest.raises(WorkbenchError, match="trains on"):
        workspace.clone(trained.id, held_out="preferences")
    assert {each.id for each in workspace.runs()} == {run.id, trained.id}


def test_rows_may_be_held_out_from_themselves_where_that_is_overruled(workspace: Workspace) -> None:
    run = workspace.train("dpo", "preferences", model="small", held_out="preferences", overrule_gates=True)
    assert run.spec["held_out"] == "preferences"


def test_layers_may_be_named_with_a_part_of_their_path(workspace: Workspace) -> None:
    named = ["self_attn.q_proj", "1.mlp.up_proj"]
    run = workspace.train("sft", "instructions", model="small", target_modules=named)
    assert run.spec["target_modules"] == named
    wrong = ["self_attn.nonsense", "q_proj"]
    with pytest.raises(WorkbenchError, match="no layers of these names") as refused:
        workspace.train("sft", "instructions", model="small", target_modules=wrong)
    assert refused.value.value == "self_attn.nonsense"
    # Some models are called otherwise once they are loaded, and files do not tell.
    run = workspace.train("sft", "instructions", model="small", target_modules=wrong, overrule_gates=True)
    assert run.spec["target_modules"] == wrong


def test_a_kl_run_asks_for_any_length_where_the_model_does_not_tell_its_own(workspace: Workspace) -> None:
    small = model_store.get_model(workspace.store, "small")
    told = {key: value for key, value in small.info.items() if key != "context_length"}
    model_store.update_model(workspace.store, small.id, info=told)
    assert workspace.launch("kl", {"variant": "small tuned", "prompts": "prompts", "max_tokens": 8192}).kind == "kl"
