"""Every page, empty and filled, light, dark and narrow: no exception, nothing wider than the window.

With WORKBENCH_SCREENSHOTS set, the pictures are kept there; `make screenshots` does so for the docs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_main_flow import clean, settled

pytestmark = [pytest.mark.bundled, pytest.mark.e2e, pytest.mark.timeout(900)]
PAGES = (
    "home",
    "datasets",
    "craft",
    "new-run",
    "runs",
    "models",
    "playground",
    "prompt-sets",
    "rank",
    "leaderboard",
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
