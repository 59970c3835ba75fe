"""The main job in a real Chromium: a file, its tokens, a run with stop and resume, and both models side by side."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workbench.records import RunState
from workbench.settings import Settings
from workbench.store import answers as answer_store
from workbench.store import datasets as dataset_store
from workbench.store import runs as run_store
from workbench.store.database import Store, open_store

pytestmark = [pytest.mark.bundled, pytest.mark.e2e, pytest.mark.timeout(900)]
ERROR_WORDS = ("Traceback", "NameError", "AttributeError", "KeyError", "TypeError")


def clean(page: Any) -> None:
    """No exception box, no raw exception and no complaint about the address stands on the page."""
    assert page.locator('[data-testid="stException"]').count() == 0
    text = page.locator("body").inner_text()
    assert not [word for word in (*ERROR_WORDS, "Page not found") if word in text], text[:3000]


def settled(page: Any) -> None:
    """Wait until the script run is over."""
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')


def click(page: Any, key: str) -> None:
    page.locator(f".st-key-{key} button").first.click()


def until(condition: Callable[[], Any], seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s")


def write_rows(path: Path) -> Path:
    """A hundred and twenty good rows and one without an answer."""
    colours = ["red", "green", "blue", "black", "white", "brown", "pink", "grey"]
    rows = [
        {"instruction": f"Which colour is number {n} on the list?", "output": f"COLOUR: {colours[n % 8].upper()}!"}
        for n in range(120)
    ]
    rows.insert(20, {"instruction": "What is missing here?", "output": ""})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def store(toured: tuple[Path, dict[str, Any]]) -> Any:
    opened = open_store(Settings(home=toured[0]))
    yield opened
    opened.close()


def test_from_a_file_to_base_and_tuned_side_by_side(
    toured: tuple[Path, dict[str, Any]],
    store: Store,
    start_app: Callable[[Path], Any],
    new_page: Callable[..., Any],
    tmp_path: Path,
):
    app, page = start_app(toured[0]), new_page()
    import_a_file(page, app.address, write_rows(tmp_path / "colours.jsonl"))
    dataset = dataset_store.get_dataset(store, "colours")
    version = dataset_store.latest_version(store, dataset.id)
    assert version is not None and version.rows == 120

    look_at_a_row(page, app.address, dataset.id)
    run_id = start_a_run(page, app.address, dataset.id)
    watch_stop_and_resume(page, new_page(), app.address, store, run_id)
    compare(page, store)


def import_a_file(page: Any, address: str, source: Path) -> None:
    page.goto(f"{address}/datasets?view=import")
    settled(page)
    if (earlier := page.get_by_role("button", name="Choose another")).count():
        earlier.click()  # a home that was used before keeps what was chosen
    page.locator('input[type="file"]').set_input_files(str(source))
    page.locator(".st-key-import-go_good").wait_for()
    settled(page)
    page.get_by_text("1 problem").first.wait_for()
    clean(page)
    page.reload()  # what was chosen is kept
    page.locator(".st-key-import-go_good").wait_for()
    click(page, "import-go_good")
    page.get_by_role("button", name="Open the dataset").click()
    page.wait_for_url(re.compile("dataset=ds_"))
    settled(page)
    clean(page)


def look_at_a_row(page: Any, address: str, dataset_id: str) -> None:
    page.goto(f"{address}/datasets?dataset={dataset_id}")
    settled(page)
    # The table is drawn on a canvas: the first row's mark is below the header, at the left.
    page.locator('[data-testid="stDataFrame"]').first.click(position={"x": 16, "y": 54})
    page.locator("span", has_text="<|im_end|>").first.wait_for()
    page.get_by_text(re.compile(r"\d+ tokens")).first.wait_for()
    clean(page)


def start_a_run(page: Any, address: str, dataset_id: str) -> str:
    page.goto(f"{address}/new-run?dataset={dataset_id}")
    settled(page)
    clean(page)
    page.get_by_role("button", name="Launch").click()
    page.wait_for_url(re.compile(r"runs\?.*run=run_"))
    found = re.search(r"run=(run_\w+)", page.url)
    assert found is not None
    return found[1]


def watch_stop_and_resume(page: Any, second: Any, address: str, store: Store, run_id: str) -> None:
    def losses() -> int:
        return len(run_store.list_metrics(store, run_id, ["loss"]))

    until(lambda: losses() >= 1)
    page.locator(".js-plotly-plot").first.wait_for()
    page.reload()
    page.locator(".js-plotly-plot").first.wait_for()
    second.goto(f"{address}/runs?run={run_id}")
    second.locator(".js-plotly-plot").first.wait_for()
    clean(page)
    clean(second)
    click(page, "run-stop")
    until(lambda: run_store.get_run(store, run_id).state is RunState.STOPPED)
    done = losses()
    second.locator(".st-key-run-resume button").wait_for()
    click(second, "run-resume")
    finished = until(lambda: run_store.get_run(store, run_id).state is RunState.FINISHED, 400)
    assert finished and losses() > done
    assert run_store.get_run(store, run_id).attempt == 2


def compare(page: Any, store: Store) -> None:
    page.reload()  # it was resumed from the other browser
    page.get_by_role("button", name="Compare base and tuned").first.click()
    page.wait_for_url(re.compile("playground"))
    settled(page)
    box = page.locator('[data-testid="stChatInput"] textarea')
    box.fill("Which colour is number 3 on the list?")
    box.press("Enter")
    page.wait_for_url(re.compile("conversation=cnv_"))
    found = re.search(r"conversation=(cnv_\w+)", page.url)
    assert found is not None

    def answered() -> Any:
        kept = answer_store.list_completions(store, conversation_id=found[1])
        return kept if len(kept) == 2 else None

    kept = until(answered)
    assert len({answer.variant_id for answer in kept}) == 2
    assert all(answer.verified and answer.fingerprint and not answer.error for answer in kept)
    for answer in kept:
        page.get_by_text(answer.text.strip().splitlines()[0][:40]).first.wait_for()
    clean(page)


def test_a_deep_link_is_a_fresh_server_s_first_page_without_a_complaint(
    tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    app, page = start_app(tmp_path / "home"), new_page()
    page.goto(f"{app.address}/prompt-sets")
    settled(page)
    page.wait_for_timeout(500)
    assert page.get_by_text("not found").count() == 0
    assert page.get_by_role("heading", name="Prompt sets").count() == 1
    clean(page)


def test_markup_in_a_prompt_is_shown_as_text_and_loads_nothing(
    toured: tuple[Path, dict[str, Any]], store: Store, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    base = toured[1]["variants"]["base"]
    app, page = start_app(toured[0]), new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{app.address}/playground?variants={base}")
    settled(page)
    box = page.locator('[data-testid="stChatInput"] textarea')
    box.fill("<script>window.pwned=1</script><img src='http://203.0.113.9/x.png'> ![x](http://203.0.113.9/y.png) $x^2$")
    box.press("Enter")
    page.wait_for_url(re.compile("conversation="))
    page.get_by_text("<script>window.pwned=1</script>").first.wait_for()
    assert page.evaluate("window.pwned") is None
    assert not [url for url in asked if "203.0.113.9" in url]
    clean(page)


def test_a_killed_app_leaves_the_run_at_work_and_a_killed_engine_is_started_again(
    toured: tuple[Path, dict[str, Any]], store: Store, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    home, document = toured
    app, page = start_app(home), new_page()
    from workbench.api import Workspace

    ws = Workspace(settings=Settings(home=home))
    run = ws.train("sft", document["dataset"]["id"], preset="quick", max_tokens=1500, name="outlives the app")
    page.goto(f"{app.address}/runs?run={run.id}")
    settled(page)
    app.end(signal.SIGKILL)
    assert ws.wait(run.id, timeout_s=300).state is RunState.FINISHED

    variant = document["variants"]["tuned"]
    stream = iter(ws.stream(variant, "Why is the sea salty?", temperature=0.0, max_tokens=400))
    next(stream)
    engine = ws.runs(kinds=["serve"], states=[RunState.RUNNING])[0]
    os.kill(run_store.list_attempts(store, engine.id)[-1].worker_pid, signal.SIGKILL)
    rest = list(stream)  # ends in words, not in an exception
    assert isinstance(rest, list)
    until(lambda: ws.run(engine.id).state is RunState.INTERRUPTED, 10)
    answer = ws.generate(variant, "Why is the sea salty?", temperature=0.0, max_tokens=8)
    assert answer.tokens > 0 and answer.error is None
    ws.store.close()
