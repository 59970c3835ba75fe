"""What notebooks show of runs, datasets, comparisons and leaderboards: readable, escaped, and needing nothing else."""

from __future__ import annotations

import copy
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.generation.scripted import ScriptedServer, says, whole
from tests.notebooks.shown_html import read
from tests.preferences.voting import make_queue, rank
from workbench.api import Workspace
from workbench.datasets.versions import write_version
from workbench.errors import UsageError
from workbench.notebook import cards
from workbench.notebook.drawing import Line, line_chart, ticks
from workbench.notebook.results import ShownReward
from workbench.notebook.shown import ShownRun
from workbench.records import (
    Example,
    Failure,
    Interval,
    Labelled,
    Message,
    Metric,
    Preference,
    Progress,
    Prompt,
    Run,
    RunState,
    utc_now,
)
from workbench.runs import launch, liveness
from workbench.store import rankings
from workbench.store import runs as run_store
from workbench.training.reward_diagnostics import Distribution, RewardReport, WrongPair, Yardstick

EVIL = "<script>alert('x')</script><img src=http://elsewhere.example/a.png onerror=alert(1)> & 日本"


@pytest.fixture
def ws(home: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(launch, "dispatch", lambda store: [])  # runs stay queued
    monkeypatch.setattr(liveness, "reap", lambda store: None)  # and what says it runs is left alone
    return Workspace()


def shown(value: Any) -> str:
    return read(value._repr_html_())


def a_run(ws: Workspace, name: str = "Learn") -> Run:
    return run_store.add_run(ws.store, kind="sft", name=name, slot="train", spec={})


def add_points(ws: Workspace, run: Run, **values: float) -> None:
    now = utc_now()
    points = [
        Metric(attempt=1, step=step, name=name, value=value / step, at=now)
        for name, value in values.items()
        for step in range(1, 31)
    ]
    run_store.add_metrics(ws.store, run.id, points)


def test_a_run_displayed_again_shows_how_it_stands_then(ws: Workspace):
    run = a_run(ws)
    kept = ws.run(run.id)
    assert "waits for its turn" in shown(kept)
    moving = Progress(phase="training", done=12, total=30, unit="steps", eta_s=95)
    run_store.update_run(ws.store, run.id, state=RunState.RUNNING, progress=moving)
    add_points(ws, run, loss=3.0, eval_loss=2.5, tokens_per_s=900)
    html = cards.run_card(run_store.get_run(ws.store, run.id), ws.metrics(run.id), now=utc_now())
    text = read(html)
    assert "training · 12 of 30 steps · 2 min left" in text and "width:40.0%" in html and "as of" in text
    assert html.count("<polyline") == 3 and html.count("<circle") == 30 and "30 tokens/s" in text
    told = Failure(error="RunProblem", message=f"it broke {EVIL}", remedy="Do this.")
    run_store.update_run(ws.store, run.id, state=RunState.FAILED, failure=told)
    text = shown(kept)
    assert "failed" in text and "Do this." in text and "<script>" in text and "as of" not in text


def test_a_run_that_was_deleted_shows_what_is_known_of_it(ws: Workspace):
    run = ws.run(a_run(ws, "Gone").id)
    ws.store.close()
    ws.settings.home.joinpath("workbench.db").rename(ws.settings.home / "away.db")
    assert "Gone" in shown(run)
    assert "\\ud800" not in ascii(cards.run_card(run.model_copy(update={"name": "half of a \ud800"})))


def test_a_shown_run_is_the_run(ws: Workspace):
    plain = a_run(ws)
    run = ws.run(plain.id)
    assert run == plain and plain == run and run in [plain] and run != a_run(ws)
    assert repr(run) == repr(plain) and run.model_dump() == plain.model_dump()
    for twin in (copy.deepcopy(run), run.model_copy(), pickle.loads(pickle.dumps(run))):
        assert twin == run and isinstance(twin, ShownRun) and "Learn" in shown(twin)
    dataset = ws.new_dataset("notes")
    assert len({dataset, ws.dataset("notes"), *ws.datasets()}) == 1


@pytest.mark.parametrize(
    ("kind", "series", "units"),
    [
        ("sft", ("loss", "eval_loss"), ["loss (nats per token)"]),
        ("reward", ("loss", "accuracy", "margin"), ["loss", "share of pairs", "margin"]),
        (
            "dpo",
            ("loss", "eval_reward_accuracy", "reward_margin", "reward_chosen"),
            ["loss", "share of pairs", "margin"],
        ),
        ("rloo", ("loss", "reward", "eval_reward", "kl", "eval_kl", "reward_low"), ["reward", "KL from the start"]),
    ],
)
def test_each_method_gets_the_charts_it_is_watched_by(
    ws: Workspace, kind: str, series: tuple[str, ...], units: list[str]
):
    run = run_store.add_run(ws.store, kind=kind, name="Learn", slot="train", spec={})
    add_points(ws, run, **dict.fromkeys(series, 0.5))
    html = ws.run(run.id)._repr_html_()
    read(html)
    told = re.findall(r"aria-label='([^']+) over steps", html)
    assert len(told) == len(units) and all(name.startswith(unit) for name, unit in zip(told, units, strict=True))


def test_a_reward_report_shows_accuracy_beside_agreement_and_what_speaks_against_it(ws: Workspace):
    share = Interval(value=0.7, low=0.6, high=0.8, n=40)
    wrong = WrongPair(
        row_ids=("r",), prompt=EVIL, chosen=EVIL, rejected="no", chosen_reward=-1.0, rejected_reward=0.5, k=2
    )
    report = RewardReport(
        run_id="r", prompts=12, pairs=40, training_prompts=3, training_pairs=9, accuracy=share, wrong=(wrong,),
        agreement=Yardstick(same=share, raters=2, items=9), warnings=("It may reward length.",),
        demonstrations={"n": 4, "before": 1.0, "spread": 0.1, "after": 0.0},
        distributions={"demonstrations": Distribution(scores=(0.0,), mean=Interval(value=0, low=0, high=0, n=1))},
    )  # fmt: skip
    found = ShownReward.of(report, ws.store)
    assert found == report and found._repr_html_().count("<svg") == 2
    text = shown(found)
    for words in ("9 pairs on 3 prompts", "raters among themselves", "+1.000 on average", "-1.50", "reward length"):
        assert words in text
    assert "<script>" in text and "<svg" not in shown(ShownReward.of(RewardReport(run_id="r"), ws.store))


def test_a_dataset_shows_its_head_and_how_much_there_is(ws: Workspace):
    train, held_out = ws.install_kit("assistant")
    text = shown(ws.dataset(train.dataset_id))
    assert "version 1 of 1 · 260 rows" in text and "and 255 more" in text and "answer" in text
    assert "reference" in shown(ws.version(held_out.id)) and "50 rows" in shown(ws.versions(held_out.dataset_id)[0])
    assert "no version yet" in shown(ws.new_dataset("empty"))


def test_what_rows_say_is_text(ws: Workspace):
    turns = {
        "instructions": Example(messages=(Message(role="user", content=EVIL), Message(role="assistant", content=EVIL))),
        "preferences": Preference(
            prompt=(Message(role="user", content=EVIL),),
            chosen=(Message(role="assistant", content="good"),),
            rejected=(Message(role="assistant", content="bad " * 500),),
        ),
        "labels": Labelled(
            prompt=(Message(role="user", content=EVIL),),
            completion=(Message(role="assistant", content=EVIL),),
            label=False,
        ),
        "prompts": Prompt(messages=(Message(role="user", content=EVIL),), reference="so"),
    }
    for kind, payload in turns.items():
        dataset = ws.new_dataset(f"{kind} <b>x</b>", kind, description=EVIL)  # type: ignore[arg-type]
        write_version(ws.store, dataset.id, [payload])
        text = shown(dataset)
        assert "<b>x</b>" in text and text.count("<script>") >= 2 and len(text) < 3000


def test_a_comparison_shows_a_pane_each_and_one_failure_spoils_no_other(ws: Workspace):
    with (
        ScriptedServer(says(200, whole(EVIL)), models=[{"id": "good"}]) as near,
        ScriptedServer(says(400, {"error": {"message": "no <b>room</b>"}}), models=[{"id": "bad"}]) as far,
    ):
        names = [
            ws.remote_variant(ws.add_server(name, server.url).id, model).name
            for name, server, model in (("near", near, "good"), ("far", far, "bad"))
        ]
        found = ws.compare(names, "Say <i>hello</i>", temperature=0)
        assert [pane.variant.name for pane in found.panes] == names
        assert len(found.completions) == 1 and [pane.variant.name for pane in found.failed] == names[1:]
        text = shown(found)
        assert "Say <i>hello</i>" in text and "<script>alert('x')</script>" in text and "no <b>room</b>" in text
        assert all(name in text for name in names) and "temperature 0, top_p 0.95, seed 0" in text
        assert "<script>" in shown(ws.generate(names[0], "hi"))
    with pytest.raises(UsageError, match="no variant"):
        ws.compare([], "hi")


def test_a_leaderboard_says_what_cannot_be_told_yet(ws: Workspace):
    queue = make_queue(ws.store, prompts=3, variants=("one", "<i>two</i>"))
    board = ws.leaderboard([queue.id])
    assert "There are no votes yet" in shown(board)
    for item in rankings.list_items(ws.store, [queue.id]):
        rank(ws.store, item, [[0], [1]])
    text = shown(ws.leaderboard([queue.id]))
    assert "not distinguishable yet: 3 to 0" in text and "3 votes · 3 prompts · 1 rater" in text
    assert "<i>two</i>" in text and "100%" in text and " to " in text


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(allow_nan=True, allow_infinity=True)), max_size=30),
    st.text(max_size=20),
)
def test_any_points_give_a_chart_that_can_be_drawn(points: list[tuple[int, float]], name: str):
    html = line_chart([Line(name, sorted(points), dots=True)], "unit")
    read(html.encode("utf-8", "replace").decode())
    assert not re.search(r"['\s,](nan|inf|-inf)['\s,]", html)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_round_few_and_inside(low: float, width: float):
    found = ticks(low, low + width)
    assert len(found) <= 8 and found == sorted(found)
    room = width * 1e-6 + (abs(low) + width) * 1e-12
    assert all(low - room <= tick <= low + width + room for tick in found)


def test_watching_outside_a_notebook_only_waits(ws: Workspace):
    run = a_run(ws)
    run_store.update_run(ws.store, run.id, state=RunState.FINISHED)
    assert ws.watch(run.id).state is RunState.FINISHED


def test_watching_in_a_notebook_redraws_one_output(ws: Workspace, monkeypatch: pytest.MonkeyPatch):
    from workbench.notebook.watching import CellOutput

    seen: list[Any] = []

    def display(value: Any, display_id: bool) -> SimpleNamespace:
        seen.append(("new", value))
        return SimpleNamespace(update=lambda value: seen.append(("again", value)))

    fake = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1), display=SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython", fake)
    output = CellOutput()
    for value in (1, 2, 3):
        output.show(value)
    assert seen == [("new", 1), ("again", 2), ("again", 3)]
