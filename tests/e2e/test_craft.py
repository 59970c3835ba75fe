"""Craft in a real Chromium: what is typed survives a refresh at once, and two people's saves are merged."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import end_runs

from tests.tiny import make_tokenizer
from workbench.api import Workspace
from workbench.datasets.merging import Change
from workbench.datasets.row_drafts import list_unsaved
from workbench.datasets.versions import iter_rows
from workbench.records import Example, Message
from workbench.settings import Settings
from workbench.store import models as model_store

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
ERROR_WORDS = ("Traceback", "NameError", "AttributeError", "KeyError", "TypeError", "went wrong")
TYPED = "Rivers carry salt to the sea <b>all</b> day, and"


def example(question: str, answer: str) -> Example:
    return Example(messages=(Message(role="user", content=question), Message(role="assistant", content=answer)))


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    home = tmp_path / "home"
    workspace = Workspace(settings=Settings(home=home))
    folder = make_tokenizer(workspace.settings.models_dir / "tok")
    model_store.update_model(workspace.store, workspace.model("bundled").id, path=str(folder))
    workspace.new_dataset("mine")
    questions = ["Why is the sea salty?", "How do bees find flowers?", "What makes bread rise?"]
    workspace.save_changes("mine", [Change(payload=example(text, "Because.")) for text in questions])
    yield workspace
    workspace.store.close()
    end_runs(home)


def settled(page: Any) -> None:
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')


def clean(page: Any) -> None:
    assert page.locator('[data-testid="stException"]').count() == 0
    text = page.locator("body").inner_text()
    assert not [word for word in ERROR_WORDS if word in text], text[:3000]


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")


def box(page: Any, row: str, part: str) -> Any:
    return page.locator(f".st-key-craft-field-{row}-{part}-content textarea")


def click(page: Any, key: str) -> None:
    page.locator(f".st-key-{key} button").first.click()
    page.wait_for_timeout(150)
    settled(page)


def view(page: Any, name: str) -> None:
    page.locator(".st-key-craft-view").get_by_text(re.compile(f"^{name}")).click()
    page.wait_for_timeout(150)
    settled(page)


def answers(ws: Workspace) -> list[str]:
    return [row.payload.messages[-1].content for row in iter_rows(ws.store, ws.version("mine"))]


def test_what_is_typed_survives_a_refresh_in_the_middle_of_a_sentence_and_is_saved(
    ws: Workspace, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
) -> None:
    app, page = start_app(ws.settings.home), new_page()
    dataset, row = ws.dataset("mine").id, ws.rows("mine").rows[0].row_id
    page.goto(f"{app.address}/craft?dataset={dataset}")
    page.get_by_role("button", name="Why is the sea salty?").click()
    area = box(page, row, "t1")
    area.click()
    area.press("ControlOrMeta+a")
    area.press_sequentially(TYPED, delay=15)
    until(lambda: list_unsaved(ws.store, dataset))
    page.wait_for_timeout(900)
    assert area.evaluate("field => field === document.activeElement"), "committing must not take the field away"
    area.press_sequentially(" night.", delay=15)
    page.wait_for_timeout(900)
    assert area.input_value() == f"{TYPED} night."
    page.reload()
    box(page, row, "t1").wait_for()
    assert box(page, row, "t1").input_value() == f"{TYPED} night."
    page.get_by_text("learned").first.wait_for()
    clean(page)
    click(page, "craft-review")
    page.get_by_role("button", name=re.compile("1 change → save as version 2")).click()
    until(lambda: answers(ws)[0] == f"{TYPED} night.")
    page.get_by_text("Saved as version 2").first.wait_for()
    assert not list_unsaved(ws.store, dataset)
    clean(page)


def test_two_people_save_at_once_and_the_second_settles_what_both_changed(
    ws: Workspace, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
) -> None:
    app, first, second = start_app(ws.settings.home), new_page(), new_page()
    dataset = ws.dataset("mine").id
    rows = [row.row_id for row in ws.rows("mine").rows]
    for page, edits in ((first, {0: "First says."}), (second, {0: "Second says.", 1: "Second alone."})):
        for place, text in edits.items():
            page.goto(f"{app.address}/craft?dataset={dataset}&row={rows[place]}{draft_of(page)}")
            box(page, rows[place], "t1").fill(text)
            page.wait_for_url(re.compile("draft=drf_"))
            page.wait_for_timeout(900)
            settled(page)
    assert {info.changes for info in list_unsaved(ws.store, dataset)} == {1, 2}
    view(first, "Changes")
    click(first, "craft-save")
    until(lambda: ws.version("mine").number == 2)
    view(second, "Changes")
    second.get_by_text("changed by somebody else too").wait_for()
    assert second.locator(".st-key-craft-save button").is_disabled()
    clean(second)
    second.locator("[class*='st-key-craft-take-']").get_by_text("Mine", exact=True).click()
    second.locator(".st-key-craft-save button:not([disabled])").wait_for()
    click(second, "craft-save")
    until(lambda: ws.version("mine").number == 3)
    assert answers(ws) == ["Second says.", "Second alone.", "Because."]
    second.get_by_text("Saved as version 3").first.wait_for()
    clean(second)


def draft_of(page: Any) -> str:
    found = re.search(r"[?&](draft=drf_\w+)", page.url)
    return f"&{found[1]}" if found else ""
