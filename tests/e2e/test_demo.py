"""The demo in a real Chromium, at a desk and on a phone, base and tuned through the engine; the report as a file."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import workbench
from test_main_flow import clean, settled, until

from workbench.records import Run, RunState
from workbench.settings import Settings
from workbench.store import rankings as ranking_store
from workbench.store import runs as run_store
from workbench.store.database import Store, open_store

pytestmark = [pytest.mark.bundled, pytest.mark.e2e, pytest.mark.timeout(900)]
TITLE = "Base or tuned? <b>&amp;</b>"
LOOKS = {"desktop": {}, "dark": {"dark": True}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def store(toured: tuple[Path, dict[str, Any]]) -> Iterator[Store]:
    opened = open_store(Settings(home=toured[0]))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def demo(toured: tuple[Path, dict[str, Any]], store: Store) -> Iterator[dict[str, Any]]:
    """A demo of base and tuned model, started and stopped by the command line."""
    home, variants = toured[0], toured[1]["variants"]
    started = workbench(
        home, "demo", "start", "--variants", variants["base"], "--variants", variants["tuned"], "--title", TITLE,
        "--examples", "How do astronauts sleep in space?", "--max-tokens", "48", "--per-visitor", "100", "--json",
    )  # fmt: skip
    assert started.returncode == 0, started.stdout + started.stderr
    document = json.loads(started.stdout)
    yield document
    if run_store.get_run(store, document["run_id"]).state.active:
        stopped = workbench(home, "demo", "stop", document["run_id"], "--json")
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr


class Watched:
    """A page, every address it asked for, and every complaint of the browser."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.on("console", lambda message: self._hear(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))

    def _hear(self, kind: str, text: str) -> None:
        if kind == "error":
            self.complaints.append(text)

    def texts(self) -> list[str]:
        return [
            str(text) for text in self.page.evaluate("[...document.querySelectorAll('textarea')].map(t => t.value)")
        ]

    def shown(self, words: str) -> Any:
        # Not by the page's own script: its policy forbids what the driver would evaluate there.
        return until(lambda: [text for text in self.texts() if words in text], 120)


def shoot(page: Any, name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("WORKBENCH_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} is too wide"
    page.screenshot(path=str(folder / f"{name}.png"), full_page=True)


@pytest.mark.parametrize("look", LOOKS)
def test_a_visitor_compares_and_votes_and_only_the_demo_is_asked(
    look: str, demo: dict[str, Any], store: Store, new_page: Callable[..., Any], tmp_path: Path
):
    seen = Watched(new_page(**LOOKS[look]))
    page = seen.page
    votes = len(ranking_store.list_rankings(store))
    page.goto(demo["address"])
    page.get_by_role("button", name="Ask", exact=True).wait_for()
    assert page.get_by_role("heading", name=TITLE).count() == 1
    page.get_by_text("How do astronauts sleep in space?").first.click()
    seen.shown("How do astronauts sleep in space?")
    page.get_by_role("button", name="Ask", exact=True).click()
    seen.shown("Question 1 of 10.")
    shoot(page, f"demo-compare-{look}", tmp_path)
    question = page.get_by_label("Your question").locator("visible=true")
    assert question.input_value() == "", "the box is free for a follow-up"
    question.fill("And how do they <b>wash</b>? &amp; <img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Ask", exact=True).click()
    seen.shown("Question 2 of 10.")
    shoot(page, f"demo-follow-up-{look}", tmp_path)
    chats = page.locator(".chat").all()
    assert len(chats) == 2
    for chat in chats:
        told = [message.inner_text().strip() for message in chat.locator(".message").all()]
        assert len(told) == 4 and all(told) and told[0] == "How do astronauts sleep in space?"
        assert told[2] == "And how do they <b>wash</b>? &amp; <img src=x onerror=alert(1)>", "shown as written"
        assert chat.locator(".message img").count() == 0
        messages = chat.locator(".message")
        assert messages.last.evaluate("it => it.getBoundingClientRect().bottom") <= chat.evaluate(
            "it => it.getBoundingClientRect().bottom"
        ), "the newest answer is in view"
    page.get_by_role("button", name="New conversation").click()
    page.locator(".chat .message").first.wait_for(state="detached")
    assert page.locator(".chat .message").count() == 0

    page.get_by_role("tab", name="Blind arena").click()
    page.get_by_label("Your question").locator("visible=true").fill("Why is the sky blue?")
    page.get_by_role("button", name="Ask two of them").click()
    seen.shown("Which answer is better?")
    page.locator(".votes button:not([disabled])").first.wait_for()
    shoot(page, f"demo-arena-{look}", tmp_path)
    page.get_by_role("button", name="B is better").click()
    seen.shown("Thank you: B is better.")
    assert page.locator(".votes button:not([disabled])").count() == 0
    rankings = ranking_store.list_rankings(store)
    assert len(rankings) == votes + 1 and rankings[-1].source == "demo"
    assert rankings[-1].tiers == ((rankings[-1].shown[1],), (rankings[-1].shown[0],))
    assert seen.hosts == {urlsplit(demo["address"]).netloc} and seen.complaints == []


def test_a_program_asks_and_the_list_counts_it(demo: dict[str, Any], toured: tuple[Path, dict[str, Any]]):
    from gradio_client import Client

    base, tuned, status = Client(demo["address"], verbose=False).predict("Why is the sky blue?", api_name="/compare")
    assert base and tuned and base != tuned and "Tokens" in status
    (listed,) = until(
        lambda: [
            each for each in json.loads(workbench(toured[0], "demo", "list", "--json").stdout) if each["questions"]
        ],
        30,
    )
    assert listed["run_id"] == demo["run_id"] and listed["visitors"] >= 1


def test_the_app_starts_a_demo_with_a_password_and_stops_it(
    toured: tuple[Path, dict[str, Any]],
    store: Store,
    start_app: Callable[[Path], Any],
    new_page: Callable[..., Any],
    tmp_path: Path,
):
    app, page = start_app(toured[0]), new_page()
    page.goto(f"{app.address}/demo")
    settled(page)
    clean(page)
    page.get_by_role("radio", name="My network").or_(page.get_by_role("button", name="My network")).first.click()
    page.locator(".st-key-demo-password input").fill("correct horse")
    page.locator(".st-key-demo-password input").press("Enter")
    settled(page)
    page.get_by_role("button", name="Start the demo").click()
    run: Run = until(lambda: _serving(store))
    page.locator(f".st-key-demo-stop-{run.id}").wait_for()
    page.get_by_text(f":{run.result['port']}").first.wait_for()
    clean(page)
    shoot(page, "demo-page", tmp_path)

    phone = Watched(new_page(width=390, height=844))
    phone.page.goto(f"http://127.0.0.1:{run.result['port']}")
    phone.page.locator("#password").fill("wrong horse")
    phone.page.get_by_role("button", name="Enter").click()
    phone.page.get_by_text("That is not the password.").wait_for()
    shoot(phone.page, "demo-password", tmp_path)
    phone.page.locator("#password").fill("correct horse")
    phone.page.get_by_role("button", name="Enter").click()
    phone.page.get_by_role("button", name="Ask", exact=True).wait_for()
    assert len(phone.hosts) == 1

    page.locator(f".st-key-demo-stop-{run.id} button").click()
    until(lambda: run_store.get_run(store, run.id).state is RunState.STOPPED, 30)
    page.locator(f".st-key-demo-stop-{run.id}").wait_for(state="detached")
    clean(page)


def _serving(store: Store) -> Run | None:
    for run in run_store.list_runs(store, kinds=["demo"], states=[RunState.RUNNING]):
        if run.progress.phase == "serving" and run.spec["bind"] != "127.0.0.1":
            return run
    return None


@pytest.mark.parametrize("look", LOOKS)
def test_the_report_opens_from_a_file_and_asks_nobody(
    look: str, toured: tuple[Path, dict[str, Any]], new_page: Callable[..., Any], tmp_path: Path
):
    path = tmp_path / "report.html"
    done = workbench(toured[0], "report", toured[1]["answers_run"], str(path), "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["bytes"] == path.stat().st_size
    seen = Watched(new_page(**LOOKS[look]))
    seen.page.context.set_offline(True)
    seen.page.goto(path.as_uri())
    seen.page.locator("#chart-share .main-svg").first.wait_for()
    time.sleep(0.5)
    assert re.search(r"n = \d+", seen.page.locator("table").first.inner_text())
    assert seen.page.locator("article").count() == len(set(_rows(toured)))
    shoot(seen.page, f"report-{look}", tmp_path)
    assert seen.hosts == {""} and seen.complaints == []


def _rows(toured: tuple[Path, dict[str, Any]]) -> list[str]:
    shown = json.loads(
        workbench(toured[0], "answers", "show", toured[1]["answers_run"], "--rows", "1000", "--json").stdout
    )
    return [row["row_id"] for row in shown["rows"]]
