"""The run page of methods beside supervised fine-tuning: their own charts, figures, warnings and held-out answers."""

from __future__ import annotations

import json

import pytest
from page_helpers import add_sft, open_page, words

from workbench.records import Metric, Run, RunState, utc_now
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.ui import links
from workbench.ui.run_charts import CHARTS, HELD_OUT_ANSWERS

WARNING = "Over-optimisation: since step 8 KL has climbed from 3.00 to 9.00 nats an answer"


def add_run_of(store: Store, kind: str, state: RunState = RunState.RUNNING, steps: int = 20) -> Run:
    """A run of a kind, with points of every series that its charts read."""
    run = run_store.add_run(store, kind=kind, name=f"A {kind} run", slot="nowhere", spec={})
    run_store.update_run(store, run.id, state=state, attempt=1, result={"warnings": [WARNING]})
    lines = {name for chart in CHARTS[kind] for name in chart.lines.values()}
    bands = {name for chart in CHARTS[kind] for pair in chart.bands.values() for name in pair}
    points = [
        Metric(attempt=1, step=step, name=name, value=0.5 + step / 100, at=utc_now())
        for name in lines | bands
        for step in (range(0, steps + 1, 10) if name.startswith("eval_") else range(1, steps + 1))
    ]
    run_store.add_metrics(store, run.id, points)
    return run


@pytest.mark.parametrize("kind", list(CHARTS))
def test_each_method_shows_its_own_series(store: Store, kind: str) -> None:
    run = add_run_of(store, kind, RunState.FINISHED)
    app = open_page(links.RUNS, run=run.id)
    assert not app.exception
    shown = words(app)
    for chart in CHARTS[kind]:
        assert chart.title in shown
    assert len(app.get("plotly_chart")) == len(CHARTS[kind])


def test_the_reward_is_drawn_with_its_bands(store: Store) -> None:
    app = open_page(links.RUNS, run=add_run_of(store, "rloo", RunState.FINISHED).id)
    spec = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert [line["name"] for line in spec["data"]] == [
        "answers of the step",
        "held-out prompts",
        "middle 80 % of the answers",
        "held-out, 95 % interval",
    ]


def test_reward_kl_and_ended_stand_at_the_head_with_the_warning(store: Store) -> None:
    app = open_page(links.RUNS, run=add_run_of(store, "grpo").id)
    metrics = {metric.label: metric.value for metric in app.metric}
    assert list(metrics) == ["Reward", "Held-out reward", "KL of an answer", "Answers that end", "Time"]
    assert 0.6 < float(metrics["KL of an answer"]) < 0.7  # a moving average of points that rise to 0.7
    assert metrics["Answers that end"].endswith("%")
    assert [warning.value.replace("\\", "") for warning in app.warning] == [WARNING]


def test_a_run_without_points_says_so(store: Store) -> None:
    run = run_store.add_run(store, kind="rloo", name="Fresh", slot="nowhere", spec={})
    app = open_page(links.RUNS, run=run.id)
    assert not app.exception
    assert "No step has been measured yet" in words(app)


def test_held_out_answers_are_listed_with_their_reward(store: Store) -> None:
    run = add_run_of(store, "rloo", RunState.FINISHED)
    folder = store.settings.run_dir(run.id)
    folder.mkdir(parents=True)
    entry = {"row_id": "r1", "prompt": "q", "answer": "<b>a</b>", "reward": -1.0, "score": 0.5, "ended": False}
    (folder / HELD_OUT_ANSWERS).write_text(json.dumps(entry | {"tokens": 8, "kl": 0.25}) + "\n")
    app = open_page(links.RUNS, run=run.id)
    app.session_state["run.tabs.rloo"] = "Held-out answers"
    app.run()
    table = app.dataframe[0].value
    assert list(table["reward"]) == [-1.0] and list(table["answer"]) == ["<b>a</b>"]


def test_a_yardstick_stands_beside_the_reward_of_each_held_out_answer(store: Store) -> None:
    run = add_run_of(store, "rloo", RunState.FINISHED)
    assert "Rules kept, % (assistant), held-out prompts" in words(open_page(links.RUNS, run=run.id))
    folder = store.settings.run_dir(run.id)
    folder.mkdir(parents=True)
    entry = {"row_id": "r1", "prompt": "q", "answer": "a", "reward": 1.0, "score": 0.5, "ended": True, "tokens": 8}
    (folder / HELD_OUT_ANSWERS).write_text(json.dumps(entry | {"kl": 0.25, "assistant": 40.0, "chrf": None}) + "\n")
    app = open_page(links.RUNS, run=run.id)
    app.session_state["run.tabs.rloo"] = "Held-out answers"
    app.run()
    table = app.dataframe[0].value
    assert list(table.columns)[:4] == ["reward", "score", "assistant", "chrf"] and list(table["assistant"]) == [40.0]


def test_a_small_constant_is_drawn_where_it_lies() -> None:
    from workbench.ui import charts

    level = charts.line_figure({"learning rate": [(1, 2e-4), (2, 2e-4)]}, "learning rate")
    assert level.layout.yaxis.range == (0, 4e-4)
    assert charts.line_figure({"loss": [(1, 0.5), (2, 0.4)]}, "loss").layout.yaxis.range is None


def test_supervised_fine_tuning_looks_as_before(store: Store) -> None:
    app = open_page(links.RUNS, run=add_sft(store, "One", RunState.FINISHED).id)
    assert [metric.label for metric in app.metric][:2] == ["Train loss", "Held-out loss"]
    assert not app.warning


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_the_form_of_a_reinforcement_run_asks_for_prompts_and_a_reward(store: Store, kind: str) -> None:
    from workbench.datasets.versions import write_version
    from workbench.records import Message, Prompt
    from workbench.store.datasets import create_dataset

    asked = [Prompt(messages=(Message(role="user", content=f"What is {n}?"),)) for n in range(4)]
    write_version(store, create_dataset(store, "asked", "prompts").id, asked)
    reward = run_store.add_run(store, kind="reward", name="Taste", slot="nowhere", spec={})
    told = {"model_id": "mdl_x", "digest": "d", "bias": 0.0, "max_length": 64}
    run_store.update_run(store, reward.id, state=RunState.FINISHED, result={"reward": told})
    app = open_page(links.NEW_RUN, kind=kind)
    assert not app.exception
    shown = {field.label for group in ("text_input", "number_input", "selectbox") for field in app.get(group)}
    assert {"Reward model", "Beta", "Answers per prompt", "Prompts per step"} <= shown
