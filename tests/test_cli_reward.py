"""`workbench reward …`, called as `main` calls them, and the same through `Workspace`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from workbench.api import Workspace
from workbench.cli import run
from workbench.errors import NotFound, UsageError
from workbench.models.adding import ensure_bundled
from workbench.records import Interval, RunState
from workbench.runs import launch
from workbench.runs.kinds import get_kind, training_kinds
from workbench.runs.snippets import as_command
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.training.reward_diagnostics import Distribution, RewardReport, WrongPair
from workbench.training.reward_report import REPORT
from workbench.training.score import SCORES, ScoredAnswer, ScoredPrompt, ScoreReport

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setattr(launch, "dispatch", lambda store: [])  # runs stay queued

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def made(store: Store) -> str:
    model = ensure_bundled(store)
    model_store.add_variant(store, "base one", model_id=model.id)
    reward = run_store.add_run(store, kind="reward", name="Taste", slot="train", spec={})
    share = Interval(value=0.7, low=0.6, high=0.8, n=40)
    told = {"model_id": model.id, "digest": "d", "bias": 1.0, "max_length": 64, "pairs": 9}
    run_store.update_run(
        store, reward.id, state=RunState.FINISHED, result={"reward": {**told, "accuracy": share.model_dump()}}
    )
    folder = store.settings.run_dir(reward.id)
    (folder / "reward").mkdir(parents=True)
    (folder / "reward" / "reward.json").write_text("{}")
    wrong = WrongPair(
        row_ids=("r",),
        prompt="Say hi",
        chosen="hi\x1b[31m",
        rejected="no",
        chosen_reward=-1.0,
        rejected_reward=0.5,
        k=2,
    )
    report = RewardReport(
        run_id=reward.id, prompts=12, pairs=40, training_prompts=3, training_pairs=9, accuracy=share, loss=0.6,
        by_k={"2": share}, wrong=(wrong,), demonstrations={"n": 4, "before": 1.0, "spread": 0.1, "after": 0.0},
        distributions={"demonstrations": Distribution(scores=(0.0,), mean=Interval(value=0, low=0, high=0, n=1))},
        warnings=("It may reward length.",), notes=("Only 12 prompts.",),
    )  # fmt: skip
    (folder / REPORT).write_text(report.model_dump_json())
    return reward.id


def document(told: tuple[int, str, str], code: int = 0) -> Any:
    assert told[0] == code, told
    return json.loads(told[1])


def test_reward_models_are_listed_and_an_empty_list_says_how_to_make_one(call: Call) -> None:
    code, out, _ = call("reward", "list")
    assert code == 0 and "workbench train reward --dataset" in out
    assert document(call("reward", "list", "--json")) == []


def test_a_report_is_told_by_name_with_its_warnings(call: Call, made: str) -> None:
    assert [told["run_id"] for told in document(call("reward", "list", "--json"))] == [made]
    assert "70% (60% to 80%)" in call("reward", "list")[1]
    code, out, _ = call("reward", "report", "Taste")
    assert code == 0
    for words in (
        "70% (60% to 80%), n = 40",
        "+1.000 before the bias, +0.000 after",
        "It may reward length.",
        "Say hi",
    ):
        assert words in out
    assert "\x1b" not in out
    assert document(call("reward", "report", made, "--json"))["accuracy"]["value"] == 0.7
    assert document(call("reward", "report", "nobody", "--json"), 1)["error"]["kind"] == "NotFound"


def test_answers_are_scored_by_a_run(call: Call, made: str, store: Store) -> None:
    arguments = ("reward", "score", "Taste", "--prompt", "q", "--answers", "a", "--answers", "b", "--no-wait", "--json")
    launched = document(call(*arguments))
    assert launched["kind"] == "score" and launched["slot"] == "bulk"
    assert launched["spec"]["reward"] == made and launched["spec"]["answers"] == ["a", "b"]
    assert as_command("score", launched["spec"]).startswith("workbench reward score --reward ")
    for wrong, place in (
        (("reward", "score", "Taste", "--json"), "--answers"),
        (("reward", "score", "Taste", "--answers", "a", "--json"), "--prompt"),
        (("reward", "score", "Taste", "--variant", "base one", "--json"), "--variant"),
        (("reward", "score", "--prompt", "q", "--json"), "--reward"),
        (("reward", "best-of", "Taste", "--prompt", "q", "--json"), "--variant"),
        (("reward", "best-of", "Taste", "base one", "--json"), "--prompt"),
    ):
        assert document(call(*wrong), 2)["error"]["place"] == place, wrong
    assert document(call("reward", "best-of", "Taste", "nobody", "--prompt", "q", "--json"), 1)["error"]["kind"]


def test_scores_of_a_finished_run_are_shown(
    call: Call, made: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ScoreReport(
        run_id="r", reward_run_id=made, reward="Taste", mode="best_of",
        prompts=(ScoredPrompt(prompt="Is it?", answers=(ScoredAnswer(text="yes", reward=0.5, tokens=2),)),),
        means={"var": Interval(value=0.1, low=0.0, high=0.2, n=1)},
        curve=(Interval(value=0.1, low=0, high=0.2, n=1), Interval(value=0.5, low=0.2, high=0.7, n=1)), kl=(0.0, 0.19),
    )  # fmt: skip

    def finished(self: Workspace, run_id: str) -> Any:
        run_store.update_run(store, run_id, state=RunState.FINISHED)
        folder = store.settings.run_dir(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SCORES).write_text(told.model_dump_json())
        yield run_store.get_run(store, run_id)

    monkeypatch.setattr(Workspace, "iter_progress", lambda self, run_id, **_: finished(self, run_id))
    monkeypatch.setattr(Workspace, "wait", lambda self, run_id, **_: next(finished(self, run_id)))
    code, out, _ = call("reward", "best-of", "Taste", "base one", "--prompt", "Is it?", "--n", "2")
    assert code == 0
    assert "+0.500" in out and "yes" in out and "0.19" in out
    asked = document(call("reward", "best-of", "Taste", "base one", "--prompt", "Is it?", "--json"))
    assert asked["curve"][1]["value"] == 0.5


def test_the_notebook_api_tells_mistakes_before_a_run_is_launched(call: Call, made: str) -> None:
    ws = Workspace()
    assert [model.run_id for model in ws.reward_models()] == [made]
    assert ws.reward_report("Taste").pairs == 40
    with pytest.raises(NotFound, match="reward model"):
        ws.score("nobody", prompt="q", answers=["a"])
    with pytest.raises(NotFound):
        ws.score("Taste", variant="nobody", prompt="q")
    with pytest.raises(NotFound):
        ws.score("Taste", answers_of="run_nothing")
    with pytest.raises(UsageError):
        ws.score("Taste")
    assert not ws.runs(kinds=["score"])
    assert ws.score("Taste", variant="base one", prompt="q").name == "Best of n with Taste"
    with pytest.raises(NotFound, match="no scores"):
        ws.scores(ws.runs(kinds=["score"])[0].id)


def test_a_reward_run_trains_and_a_score_run_does_not_hold_the_trainers_slot() -> None:
    assert "reward" in [kind.name for kind in training_kinds()]
    assert get_kind("score").slot == "bulk"
