"""From rankings to a reward, from the reward to a reinforced model, and DPO beside it, in a real Chromium."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import end_runs
from reward_homes import PROMPTS, make_home
from test_main_flow import clean, click, settled, until
from test_screenshots import LOOKS, shoot_loop

from workbench.records import Run, RunState
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.rankings import list_queues

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A home with rankings, whose workers keep to one thread each."""
    monkeypatch.setenv("WORKBENCH_THREADS", "1")
    made = make_home(tmp_path / "home")
    yield made
    made.close()
    end_runs(tmp_path / "home")


def choose(page: Any, key: str, text: str) -> None:
    """Pick the option of a selectbox that a text leads to."""
    box = page.locator(f".st-key-{key} input")
    box.click()
    box.fill(text)
    page.get_by_role("option", name=text).first.click()
    settled(page)


def launch(page: Any, store: Store, name: str, kind: str) -> Run:
    """Give the run that is set up a name, launch it, and wait for it on its page."""
    page.locator(f".st-key-new_run-{kind}-preset").get_by_text("Quick").click()
    settled(page)
    page.locator(f".st-key-new_run-{kind}-name input").fill(name)
    page.keyboard.press("Enter")
    settled(page)
    clean(page)
    page.get_by_role("button", name="Launch").click()
    page.wait_for_url(re.compile(r"runs\?.*run=run_"))
    found = re.search(r"run=(run_\w+)", page.url)
    assert found is not None
    run = until(lambda: (now := run_store.get_run(store, found[1])).state.active or now)
    run = until(lambda: None if (now := run_store.get_run(store, found[1])).state.active else now)
    log = store.settings.run_dir(run.id) / "worker.log"
    assert run.state is RunState.FINISHED and run.kind == kind, f"{run.failure}\n{log.read_text()[-3000:]}"
    return run


def see_charts(page: Any, *titles: str) -> None:
    page.locator(".js-plotly-plot").first.wait_for()
    settled(page)
    for title in titles:
        page.get_by_text(title, exact=True).first.wait_for()
    clean(page)


def test_rankings_become_a_reward_the_reward_a_model_and_so_does_dpo(
    store: Store, tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    app, page = start_app(tmp_path / "home"), new_page()
    tuned = next(each for each in model_store.list_variants(store) if each.adapter_path)

    page.goto(f"{app.address}/leaderboard?queue={list_queues(store)[0].id}")
    settled(page)
    make_a_version(page)
    dataset = dataset_store.get_dataset(store, "House style pairs")
    page.get_by_role("link", name="Train a reward model").last.click()
    page.wait_for_url(re.compile(f"new-run.*dataset={dataset.id}"))
    settled(page)
    choose(page, "new_run-reward-model", "tiny")
    choose(page, "new_run-reward-held_out", "20% of the prompts")
    choose(page, "new_run-reward-adapter", "Go on from fine-tuned")
    reward = launch(page, store, "House taste", "reward")
    page.get_by_role("link", name="How far to trust it").click()
    page.wait_for_url(re.compile(f"reward\\?.*run={reward.id}"))
    look_at_the_report(page)
    score_an_answer(page)

    page.get_by_role("link", name="Reinforce with it").click()
    page.wait_for_url(re.compile("new-run"))
    settled(page)
    choose(page, "new_run-rloo-dataset", PROMPTS)
    chosen = {part: page.locator(f".st-key-new_run-rloo-{part} input").input_value() for part in ("adapter", "reward")}
    assert chosen == {"adapter": "Go on from fine-tuned", "reward": "House taste"}
    rloo = launch(page, store, "Reinforced", "rloo")
    see_charts(page, "Reward", "KL of an answer", "Answers that end")
    assert run_store.get_run(store, rloo.id).result["reward_run_id"] == reward.id

    page.goto(f"{app.address}/new-run?kind=dpo&dataset={dataset.id}")
    settled(page)
    choose(page, "new_run-dpo-model", "tiny")
    choose(page, "new_run-dpo-adapter", "Start from fine-tuned")
    dpo = launch(page, store, "Preferred", "dpo")
    see_charts(page, "Margin", "Implied reward of both sides")
    made = str(dpo.result["variant_id"])
    page.get_by_role("button", name="Compare before and after").click()
    page.wait_for_url(re.compile(f"playground.*variants={tuned.id}(,|%2C){made}"))
    answer_side_by_side(page)
    page.context.close()
    for look in ("dark", "narrow"):
        shoot_loop(new_page(**LOOKS[look]), app.address, reward.id, rloo.id, dpo.id, look, tmp_path)


def make_a_version(page: Any) -> None:
    page.get_by_role("button", name="Export").click()
    page.get_by_test_id("stNumberInputField").fill("0")
    page.keyboard.press("Enter")
    settled(page)
    page.get_by_role("button", name="Make a version").click()
    page.get_by_role("link", name="House style pairs, version 1: 144 rows").last.wait_for()
    clean(page)


def look_at_the_report(page: Any) -> None:
    settled(page)
    page.locator(".js-plotly-plot").first.wait_for()
    for words in ("Held-out accuracy", "Raters agree", "Calibration", "Rewards of answers", "Reward and length"):
        page.get_by_text(words).first.wait_for()
    page.get_by_text("2 raters").first.wait_for()
    clean(page)


def score_an_answer(page: Any) -> None:
    page.get_by_role("tab", name="Score an answer").click()
    page.locator(".st-key-reward-prompt textarea").fill("What is the colour of thing 3? Name it.")
    page.locator(".st-key-reward-answer textarea").fill("The colour is red.")
    page.locator(".st-key-reward-other textarea").fill("0123456789 0123456789")
    page.keyboard.press("Control+Enter")
    settled(page)
    click(page, "reward-score")
    page.get_by_text(re.compile(r"[+−-]\d+\.\d\d")).last.wait_for(timeout=120_000)
    page.get_by_text("Finished").first.wait_for(timeout=120_000)
    settled(page)
    clean(page)


def answer_side_by_side(page: Any) -> None:
    settled(page)
    box = page.locator('[data-testid="stChatInput"] textarea')
    box.fill("What is the colour of thing 3?")
    box.press("Enter")
    page.wait_for_url(re.compile("conversation=cnv_"))
    page.locator(".st-key-playground-edit").first.wait_for(timeout=120_000)
    clean(page)
