"""Reward: the empty state, a model's report, its mistakes, and score runs launched and followed."""

from __future__ import annotations

import pytest
from page_helpers import labels, open_page, press, words

from workbench.api import Workspace
from workbench.datasets.versions import write_version
from workbench.models.adding import ensure_bundled
from workbench.records import Interval, Message, Preference, Progress, Run, RunState
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.datasets import create_dataset
from workbench.training.reward_diagnostics import (
    CalibrationBin,
    Correlation,
    Distribution,
    LengthBias,
    RewardReport,
    WrongPair,
    Yardstick,
)
from workbench.training.reward_report import REPORT
from workbench.training.score import SCORES, ScoredAnswer, ScoredPrompt, ScoreReport
from workbench.ui import links, reward_page


def interval(value: float, half: float = 0.1, n: int = 40) -> Interval:
    return Interval(value=value, low=value - half, high=value + half, n=n)


def report_of(run_id: str, **changes: object) -> RewardReport:
    return RewardReport(
        **{
            "run_id": run_id,
            "prompts": 12,
            "pairs": 40,
            "training_prompts": 90,
            "training_pairs": 300,
            "left_out": {"equal_sides": 3},
            "accuracy": interval(0.7),
            "by_confidence": {"1": interval(0.6), "5": interval(0.8)},
            "by_k": {"2": interval(0.7), "4": interval(0.71)},
            "agreement": Yardstick(same=interval(0.74), raters=3, items=9),
            "calibration": (CalibrationBin(predicted=0.6, observed=interval(0.62)),),
            "calibration_error": 0.04,
            "distributions": {"demonstrations": Distribution(scores=(0.1, -0.1), mean=interval(0.0))},
            "length": LengthBias(
                spearman=Correlation(value=0.3, low=0.1, high=0.5, n=60),
                pearson=Correlation(value=0.2, low=0.0, high=0.4, n=60),
                longer_wins=interval(0.55),
            ),
            "wrong": (
                WrongPair(
                    row_ids=("row_1",), prompt="Say **hi**", chosen="<b>hi</b>", rejected="no", chosen_reward=-1.0,
                    rejected_reward=0.5, confidence=4, raters=("ann",), k=3,
                ),
            ),
            "demonstrations": {"n": 50, "before": 1.5, "spread": 0.7, "after": 0.0},
            "warnings": ("It may reward length.",),
            "notes": ("Only 12 prompts are held out, so the intervals are wide.",),
        }
        | changes
    )  # fmt: skip


def add_reward_model(store: Store, name: str = "Taste", **changes: object) -> Run:
    model = ensure_bundled(store)
    run = run_store.add_run(store, kind="reward", name=name, slot="train", spec={"dataset": "pairs"})
    told = {
        "model_id": model.id, "digest": "d", "bias": 1.5, "max_length": 512, "pairs": 300,
        "accuracy": interval(0.7).model_dump(),
    }  # fmt: skip
    run_store.update_run(store, run.id, state=RunState.FINISHED, result={"reward": told})
    folder = store.settings.run_dir(run.id)
    (folder / "reward").mkdir(parents=True)
    (folder / "reward" / "reward.json").write_text("{}")
    (folder / REPORT).write_text(report_of(run.id, **changes).model_dump_json())
    return run_store.get_run(store, run.id)


def add_score(store: Store, reward: Run, state: RunState, told: ScoreReport | None = None, **spec: object) -> Run:
    run = run_store.add_run(store, kind="score", name="Scores", slot="nowhere", spec={"reward": reward.id, **spec})
    progress = Progress(phase="scoring", done=1, total=2, unit="answers")
    run_store.update_run(store, run.id, state=state, progress=progress)
    if told is not None:
        folder = store.settings.run_dir(run.id)
        folder.mkdir(parents=True)
        (folder / SCORES).write_text(told.model_copy(update={"run_id": run.id}).model_dump_json())
    return run_store.get_run(store, run.id)


def scores(mode: str, **changes: object) -> ScoreReport:
    answers = (ScoredAnswer(text="<i>yes</i>", reward=0.8, tokens=3), ScoredAnswer(text="no", reward=-0.4, tokens=2))
    prompt = ScoredPrompt(prompt="Is it so?", answers=answers)
    return ScoreReport(
        **{"run_id": "r", "reward_run_id": "r", "reward": "Taste", "mode": mode, "prompts": (prompt,)} | changes
    )


def test_without_rankings_the_page_sends_to_rank(store: Store) -> None:
    app = open_page(links.REWARD)
    assert labels(app) == ["Go to Rank"]
    assert "No reward model yet" in words(app)


def test_with_preferences_it_offers_to_train_one(store: Store) -> None:
    pair = Preference(
        prompt=(Message(role="user", content="q"),), chosen=(Message(role="assistant", content="a"),),
        rejected=(Message(role="assistant", content="b"),),
    )  # fmt: skip
    write_version(store, create_dataset(store, "pairs", "preferences").id, [pair])
    assert labels(open_page(links.REWARD)) == ["Train a reward model"]


def test_a_report_shows_accuracy_beside_agreement_and_the_bias_before_and_after(store: Store) -> None:
    add_reward_model(store)
    app = open_page(links.REWARD)
    figures = {metric.label: metric.value for metric in app.metric}
    assert figures["Held-out accuracy"] == "70%"
    assert figures["Raters agree"] == "74%"
    assert figures["Calibration error"] == "4.0%"
    assert figures["Demonstrations"] == "+1.50 → +0.00"
    shown = words(app).replace("\\", "")
    assert "60% to 80%, n = 40 pairs on 12 prompts" in shown
    assert "It may reward length." in [box.value.replace("\\", "") for box in app.warning]
    assert "3 with two equal sides" in shown
    for title in ("Accuracy on held-out pairs", "Calibration", "Rewards of answers", "Reward and length"):
        assert title in [each.value for each in app.subheader]


def test_a_report_without_held_out_prompts_says_so(store: Store) -> None:
    add_reward_model(
        store, prompts=0, pairs=0, accuracy=None, agreement=None, calibration=(), calibration_error=None, length=None,
        by_confidence={}, by_k={}, wrong=(),
    )  # fmt: skip
    app = open_page(links.REWARD)
    assert "nothing was held out" in words(app)
    app.session_state["reward.tabs"] = "Most wrong pairs"
    app.run()
    assert not app.exception
    assert "Nothing was held out." in words(app)


def test_the_most_wrong_pairs_are_listed_as_text(store: Store) -> None:
    add_reward_model(store)
    app = open_page(links.REWARD)
    app.session_state["reward.tabs"] = "Most wrong pairs"
    app.run()
    assert not app.exception
    table = app.dataframe[0].value
    assert list(table["chosen"]) == ["<b>hi</b>"]
    assert list(table["margin"]) == [-1.5]
    assert not app.html


def test_the_model_of_the_address_is_shown_and_an_unknown_one_is_told(store: Store) -> None:
    first = add_reward_model(store, "First", training_pairs=11)
    add_reward_model(store, "Second", training_pairs=22)
    assert "22 pairs" in words(open_page(links.REWARD))
    app = open_page(links.REWARD, run=first.id)
    assert "11 pairs" in words(app)
    assert list(app.dataframe[0].value["name"]) == ["Second", "First"]
    assert "No such reward model" in open_page(links.REWARD, run="run_x").error[0].value


def test_an_answer_is_scored_by_a_run_and_its_reward_shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = add_reward_model(store)
    asked: list[dict[str, object]] = []

    def score(self: Workspace, reward: str, **what: object) -> Run:
        asked.append({"reward": reward, **what})
        return add_score(store, made, RunState.FINISHED, scores("texts"), prompt="p", answers=["a"])

    monkeypatch.setattr(Workspace, "score", score)
    app = open_page(links.REWARD)
    app.session_state["reward.tabs"] = "Score an answer"
    app.run()
    assert next(button for button in app.button if button.label == "Score").disabled
    app.text_area(key="reward.prompt").set_value("Is it so?").run()
    app.text_area(key="reward.answer").set_value("<i>yes</i>").run()
    press(app, "Score")
    assert asked == [{"reward": made.id, "prompt": "Is it so?", "answers": ["<i>yes</i>"]}]
    assert ["+0.800", "-0.400"] == [metric.value for metric in app.metric if metric.label == "Reward"]
    assert "<i>yes</i>" in [text.value for text in app.text]


def test_a_score_run_at_work_shows_how_far_it_is_and_a_failed_one_why(store: Store) -> None:
    made = add_reward_model(store)
    run = add_score(store, made, RunState.QUEUED, prompt="p", answers=["a"])
    app = open_page(links.REWARD)
    app.session_state["reward.tabs"] = "Score an answer"
    app.run()
    assert not app.exception
    assert "Waiting for its turn" in words(app)
    failure = {"error": "RunProblem", "message": "the score is no number", "remedy": "Train it again."}
    run_store.update_run(store, run.id, state=RunState.FAILED, failure=failure)
    app.run()
    assert "the score is no number" in app.error[0].value.replace("\\", "")


def test_best_of_n_shows_the_curve_and_each_prompts_best(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = add_reward_model(store)
    model = ensure_bundled(store)
    model_store.update_model(store, model.id, path="/nowhere")
    variant = next(
        (each for each in model_store.list_variants(store) if each.model_id == model.id), None
    ) or model_store.add_variant(store, "base", model_id=model.id)  # fmt: skip
    told = scores("best_of", curve=(interval(0.2), interval(0.8)), kl=(0.0, 0.19))
    add_score(store, made, RunState.FINISHED, told, variant=variant.id, prompts="asks")
    asked: list[dict[str, object]] = []

    def score(self: Workspace, reward: str, **what: object) -> Run:
        asked.append(what)
        return add_score(store, made, RunState.QUEUED, variant=variant.id)

    monkeypatch.setattr(Workspace, "score", score)
    app = open_page(links.REWARD)
    app.session_state["reward.tabs"] = "Best of n"
    app.run()
    assert not app.exception
    shown = words(app).replace("\\", "")
    assert "best of 2: +0.800" in shown and "0.19 nats" in shown
    assert list(app.dataframe[0].value["reward"]) == [0.8, -0.4]
    app.text_area(key="reward.best_prompt").set_value("Tell me").run()
    press(app, "Draw and score")
    assert asked == [{"variant": variant.id, "n": 8, "prompt": "Tell me"}]


def test_all_shares_stand_side_by_side() -> None:
    names = list(reward_page.accuracies(report_of("r")))
    assert names == [
        "this model", "raters with each other", "the longer answer", "confidence 1", "confidence 5", "2 answers",
        "4 answers",
    ]  # fmt: skip


def test_a_reward_run_is_set_up_on_the_new_run_page(store: Store) -> None:
    pair = Preference(
        prompt=(Message(role="user", content="q"),), chosen=(Message(role="assistant", content="a"),),
        rejected=(Message(role="assistant", content="b"),),
    )  # fmt: skip
    write_version(store, create_dataset(store, "pairs", "preferences").id, [pair])
    app = open_page(links.NEW_RUN, kind="reward")
    shown = [box.label for box in app.selectbox] + [box.label for box in app.text_input]
    assert any("emonstrations" in label for label in shown), shown
