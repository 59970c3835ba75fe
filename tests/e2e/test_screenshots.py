"""Every page, empty and filled, light, dark and narrow: no exception, nothing wider than the window.

With WORKBENCH_SCREENSHOTS set, the pictures are kept there; `make screenshots` does so for the docs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import workbench
from rank_homes import open_home
from ranked_homes import add_ranked
from test_demo import Watched
from test_main_flow import clean, settled

from tests.growing_homes import add_grown
from workbench.self_instruct.review import load_board, page_candidates, review_candidate

pytestmark = [pytest.mark.bundled, pytest.mark.e2e, pytest.mark.timeout(900)]
PAGES = (
    "home",
    "datasets",
    "craft",
    "self-instruct",
    "new-run",
    "runs",
    "models",
    "playground",
    "prompt-sets",
    "rank",
    "leaderboard",
    "reward",
    "export",
    "demo",
    "lineage",
)
LOOKS = {"light": {}, "dark": {"dark": True}, "narrow": {"width": 420, "height": 900}}


def shoot(page: Any, name: str, tmp_path: Path, *, whole: bool = True) -> None:
    folder = Path(os.environ.get("WORKBENCH_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    settled(page)
    page.wait_for_timeout(700)  # charts and fragments draw after the script has ended
    clean(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), f"{name} is too wide"
    page.screenshot(path=str(folder / f"{name}.png"), full_page=whole)


@pytest.mark.parametrize("look", LOOKS)
def test_screenshots_of_every_page_of_an_empty_home(
    look: str, tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    app, page = start_app(tmp_path / "home"), new_page(**LOOKS[look])
    for name in PAGES:
        page.goto(f"{app.address}/{'' if name == 'home' else name}")
        shoot(page, f"empty-{name}-{look}", tmp_path)


@pytest.mark.parametrize("look", LOOKS)
def test_screenshots_of_every_page_after_the_tour(
    look: str,
    toured: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    start_app: Callable[[Path], Any],
    new_page: Callable[..., Any],
):
    home, document = toured
    variants = document["variants"]
    places = {
        "home": "",
        "datasets": "datasets",
        "dataset": f"datasets?dataset={document['dataset']['id']}",
        "import": "datasets?view=import",
        "new-run": f"new-run?dataset={document['dataset']['id']}",
        "runs": "runs",
        "run": f"runs?run={document['run']}",
        "models": "models",
        "prompt-sets": "prompt-sets",
        "answers": f"prompt-sets?run={document['answers_run']}",
        "craft": f"craft?dataset={document['dataset']['id']}",
        "self-instruct": "self-instruct",
        "rank": "rank",
        "export": "export",
        "lineage": f"lineage?of={variants['tuned']}",
    }
    app, page = start_app(home), new_page(**LOOKS[look])
    for name, place in places.items():
        page.goto(f"{app.address}/{place}")
        shoot(page, f"{name}-{look}", tmp_path)
    page.goto(f"{app.address}/playground?variants={variants['base']},{variants['tuned']}")
    settled(page)
    box = page.locator('[data-testid="stChatInput"] textarea')
    box.fill("How do astronauts sleep in space?")
    box.press("Enter")
    page.wait_for_url("**conversation=**")
    page.locator(".st-key-playground-edit").first.wait_for(timeout=180_000)  # offered once no pane writes any more
    # The page keeps to its end while a conversation grows; a tall window shows the whole of it.
    page.set_viewport_size({"width": page.viewport_size["width"], "height": 1600})
    shoot(page, f"playground-{look}", tmp_path, whole=False)


@pytest.mark.parametrize("look", LOOKS)
def test_screenshots_of_a_self_instruct_run(
    look: str, tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    store = open_home(tmp_path / "home")
    run = add_grown(store)
    for place, candidate in enumerate(page_candidates(load_board(store, run.id), review="open", limit=5).candidates):
        review_candidate(store, candidate.id, "reject" if place == 3 else "accept", "Ada")
    store.close()
    app, page = start_app(tmp_path / "home"), new_page(**{**LOOKS[look], "height": 1500})
    for view in ("yield", "candidates", "threshold", "version"):
        page.goto(f"{app.address}/self-instruct?run={run.id}&view={view}")
        shoot(page, f"self-instruct-{view}-{look}", tmp_path, whole=False)
    page.set_viewport_size({"width": page.viewport_size["width"], "height": 900})
    page.goto(f"{app.address}/self-instruct?run={run.id}&view=review")
    page.locator(".review .name").fill("Ada")
    page.keyboard.press("Enter")
    page.locator(".review .task").wait_for()
    shoot(page, f"self-instruct-review-{look}", tmp_path, whole=False)


@pytest.mark.parametrize("look", LOOKS)
def test_screenshots_of_a_queue_and_of_what_its_rankings_say(
    look: str, tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    store = open_home(tmp_path / "home")
    queue = add_ranked(store)
    store.close()
    app, page = start_app(tmp_path / "home"), new_page(**LOOKS[look])
    page.goto(f"{app.address}/rank?queue={queue.id}&rater=Ada")
    page.locator(".rank .card").first.wait_for()
    cards = page.locator(".rank .card").all_inner_texts()
    page.keyboard.press(str(1 + next(place for place, text in enumerate(cards) if "\n- " in text)))
    shoot(page, f"rank-desk-{look}", tmp_path)
    page.set_viewport_size({"width": page.viewport_size["width"], "height": 1500})
    page.goto(f"{app.address}/leaderboard?queue={queue.id}")
    page.locator(".js-plotly-plot").first.wait_for()
    shoot(page, f"leaderboard-{look}", tmp_path)


@pytest.mark.skipif(not os.environ.get("WORKBENCH_SCREENSHOTS"), reason="for pictures; see test_demo")
def test_screenshots_of_a_demo(toured: tuple[Path, dict[str, Any]], tmp_path: Path, new_page: Callable[..., Any]):
    home, variants = toured[0], toured[1]["variants"]
    started = workbench(
        home, "demo", "start", "--variants", variants["base"], "--variants", variants["tuned"], "--title",
        "Before and after fine-tuning", "--intro", "The same model of 135 million parameters, on the right after "
        "five minutes of training on 260 examples.", "--examples", "How do astronauts sleep in space?",
        "--examples", "What is a good way to start running?", "--max-tokens", "72", "--json",
    )  # fmt: skip
    assert started.returncode == 0, started.stdout + started.stderr
    demo = json.loads(started.stdout)
    try:
        for look, size in LOOKS.items():
            page = new_page(**{**size, "height": 1100})
            page.goto(demo["address"])
            asked = ("What is a good way to start running?", "And how often in a week?")
            for number, question in enumerate(asked, start=1):
                page.get_by_label("Your question").locator("visible=true").fill(question)
                page.get_by_role("button", name="Ask", exact=True).click()
                Watched(page).shown(f"Question {number} of 10.")
            page.wait_for_timeout(500)
            folder = Path(os.environ.get("WORKBENCH_SCREENSHOTS") or tmp_path)
            page.screenshot(path=str(folder / f"demo-{look}.png"))
    finally:
        workbench(home, "demo", "stop", demo["run_id"])


@pytest.mark.timeout(4000)
@pytest.mark.parametrize("look", LOOKS)
def test_screenshots_of_a_reward_and_of_what_learned_from_it(
    look: str,
    looped: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    start_app: Callable[[Path], Any],
    new_page: Callable[..., Any],
):
    home, document = looped
    runs = {stage["stage"]: stage["run"] for stage in document["stages"]}
    app, page = start_app(home), new_page(**LOOKS[look])
    shoot_loop(page, app.address, document["reward"]["run"], runs["rloo"], runs["dpo"], look, tmp_path)


def shoot_loop(page: Any, address: str, reward: str, rloo: str, dpo: str, look: str, tmp_path: Path) -> None:
    """The Reward page, a reinforcement run and a DPO run."""
    places = {"reward": f"reward?run={reward}", "rlhf-run": f"runs?run={rloo}", "dpo-run": f"runs?run={dpo}"}
    for name, place in places.items():
        page.goto(f"{address}/{place}")
        page.locator(".js-plotly-plot").first.wait_for()
        shoot(page, f"{name}-{look}", tmp_path)
