"""`workbench models kl` and `Workspace.measure_kl`: what is launched, what is told, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from workbench.api import Workspace
from workbench.cli import run
from workbench.datasets.versions import write_version
from workbench.errors import NotFound, UsageError
from workbench.models.adding import ensure_bundled
from workbench.records import Message, Prompt, Run, RunState, Variant
from workbench.runs import launch
from workbench.runs.snippets import as_command
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.datasets import create_dataset

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setattr(launch, "dispatch", lambda store: [])  # runs stay queued

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def tuned(store: Store) -> Variant:
    model = ensure_bundled(store)
    model_store.add_variant(store, "plain", model_id=model.id)
    asked = [Prompt(messages=(Message(role="user", content="Say hi"),))]
    write_version(store, create_dataset(store, "asked", "prompts").id, asked)
    return model_store.add_variant(store, "tuned", model_id=model.id, adapter_path="/nowhere")


def document(told: tuple[int, str, str], code: int = 0) -> Any:
    assert told[0] == code, told
    return json.loads(told[1])


def test_a_measurement_is_launched_by_name_and_its_command_can_be_copied(call: Call, tuned: Variant) -> None:
    arguments = ("models", "kl", "tuned", "--prompts", "asked", "--reference", "base", "--limit", "5", "--no-wait")
    told = document(call(*arguments, "--json"))
    plain = model_store.get_variant(Workspace().store, "plain")
    assert (told["kind"], told["name"]) == ("kl", "KL of tuned from plain")
    assert told["spec"]["variant"] == tuned.id and told["spec"]["reference"] == plain.id
    line = as_command("kl", told["spec"]).replace("\\\n", "")
    assert line.split()[:5] == ["workbench", "models", "kl", "--variant", tuned.id] and "--limit 5" in line
    again = document(call(*line.split()[1:], "--no-wait", "--json"))
    assert again["spec"] == told["spec"]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("tuned",), 2, "--prompts"),
        (("--prompts", "asked"), 2, "--variant"),
        (("tuned", "--prompts", "asked", "--limit", "0"), 2, "--limit"),
        (("tuned", "--prompts", "nothing"), 1, "nothing"),
        (("nobody", "--prompts", "asked"), 1, "nobody"),
        (("tuned", "--prompts", "asked", "--reference", "nobody"), 1, "nobody"),
    ],
)
def test_what_does_not_hold_is_told_before_a_run_is_launched(
    call: Call, tuned: Variant, arguments: tuple[str, ...], code: int, word: str
) -> None:
    assert word in json.dumps(document(call("models", "kl", *arguments, "--json"), code)["error"])
    assert Workspace().runs(kinds=["kl"]) == []


def test_what_was_measured_is_told_with_its_interval(
    call: Call, tuned: Variant, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = {
        "kl_sequence": {"value": 1.5, "low": 1.0, "high": 2.25, "n": 32},
        "kl_token": 0.0321, "n": 32, "mean_tokens": 48.0,
        "variant": tuned.id, "reference": model_store.get_variant(store, "plain").id, "version": "v",
    }  # fmt: skip

    def finished(self: Workspace, run_id: str) -> Iterator[Run]:
        run_store.update_run(store, run_id, state=RunState.FINISHED, result=result)
        yield run_store.get_run(store, run_id)

    monkeypatch.setattr(Workspace, "iter_progress", finished)
    code, out, _ = call("models", "kl", "tuned", "--prompts", "asked")
    assert code == 0
    for words in ("1.500 (1.000 to 2.250)", "0.0321", "plain", "32, of 48 tokens"):
        assert words in out


def test_a_notebook_launches_the_same(call: Call, tuned: Variant) -> None:
    ws = Workspace()
    assert ws.measure_kl("tuned", "asked", max_tokens=8).spec["reference"] is None
    with pytest.raises(NotFound):
        ws.measure_kl("tuned", "nothing")
    with pytest.raises(UsageError):
        ws.measure_kl("tuned", "asked", limit=0)
