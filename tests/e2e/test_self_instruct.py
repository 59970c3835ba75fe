"""Self-instruct in a real Chromium: review by keys, an edit that is refused and mended, and the way to a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rank_homes import open_home
from test_main_flow import clean, settled

from tests.growing_homes import GUARDED, TASKS, add_grown
from workbench.self_instruct.review import load_board as read_board
from workbench.self_instruct.review import page_candidates
from workbench.store import candidates as candidate_store
from workbench.store import datasets as dataset_store

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
KEY_MS = 30


def open_desk(page: Any, app: Any, run_id: str, reviewer: str = "Ada") -> None:
    page.goto(f"{app.address}/self-instruct?run={run_id}&view=review")
    name = page.locator(".review .name")
    name.or_(page.locator(".review .task")).first.wait_for()
    if name.is_visible():
        name.fill(reviewer)
        page.keyboard.press("Enter")
    page.locator(".review .task").wait_for()


def wait_saved(page: Any) -> None:
    page.wait_for_function(
        """() => {
            const desk = [...document.querySelectorAll("*")].map((node) => node.shadowRoot?.querySelector(".review"));
            const saved = desk.find(Boolean)?.querySelector(".saved");
            return saved?.textContent === "Saved";
        }"""
    )


@pytest.mark.parametrize("tasks", [15, 45])
def test_keys_30_ms_apart_with_an_undo_in_the_middle_lose_and_double_nothing(
    tasks: int, tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    store = open_home(tmp_path / "home")
    written = [(f"{text[:-1]}, take {take}.", pairs) for take in range(3) for text, pairs in TASKS][:tasks]
    run = add_grown(store, tasks=written, threshold=1.0)
    wanted = [each.id for each in page_candidates(read_board(store, run.id), review="open").candidates]
    assert len(wanted) == tasks
    app, page = start_app(tmp_path / "home"), new_page()
    open_desk(page, app, run.id)
    # Accepted and rejected in turn; the eighth is rejected by mistake, taken back and accepted.
    for key in ["a", "r"] * 3 + ["a"] + ["r", "Backspace", "a"] + ["r"] * (tasks - 8):
        page.keyboard.press(key)
        page.wait_for_timeout(KEY_MS)
    page.get_by_text("All done, thank you").wait_for()
    wait_saved(page)
    reviews = candidate_store.list_reviews(store, run.id)
    assert Counter(each.candidate_id for each in reviews) == dict.fromkeys(wanted, 1)
    said = {each.candidate_id: each.verdict for each in reviews}
    assert [said[each] for each in wanted] == ["accept", "reject"] * 3 + ["accept"] * 2 + ["reject"] * (tasks - 8)
    everything = candidate_store.list_reviews(store, run.id, undone=True)
    assert len(everything) == tasks + 1 and sum(each.undone_at is not None for each in everything) == 1
    assert {each.reviewer for each in reviews} == {"Ada"}
    clean(page)
    store.close()


def test_an_edit_survives_a_refresh_a_refusal_and_another_try(
    tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    store = open_home(tmp_path / "home")
    run = add_grown(store)
    app, page = start_app(tmp_path / "home"), new_page(width=420)
    open_desk(page, app, run.id)
    page.keyboard.press("e")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("Are rare bakeries a real treat?")  # letters that are keys outside of fields
    page.reload()
    page.locator(".review .task").wait_for()  # the name is kept
    page.keyboard.press("e")
    field = page.get_by_label("Instruction", exact=True)
    assert field.input_value() == "Are rare bakeries a real treat?"
    field.fill(GUARDED)
    page.keyboard.press("Control+Enter")
    page.locator(".review .note", has_text="held out for evaluation").wait_for()
    wait_saved(page)
    assert candidate_store.list_reviews(store, run.id) == []
    page.locator(".review .task", has_text="Task 2").wait_for()
    page.keyboard.press("r")
    page.locator(".review .task", has_text="bakery").wait_for()  # the refused one comes back, its words are kept
    page.keyboard.press("e")
    assert field.input_value() == GUARDED
    field.fill("Describe a bakery at dawn.")
    page.get_by_role("button", name="Add an example").click()
    page.get_by_label("Input of example 2").fill("In winter")
    page.get_by_label("Output of example 2").fill("A second answer.")
    page.get_by_role("button", name="Save and accept").click()
    page.locator(".review .task", has_text="Task 3").wait_for()
    wait_saved(page)
    rejected, edited = candidate_store.list_reviews(store, run.id)
    assert (rejected.verdict, edited.verdict) == ("reject", "edit")
    assert edited.instruction == "Describe a bakery at dawn." and edited.instances is not None
    assert [each.output for each in edited.instances][1:] == ["A second answer."]
    page.context.close()

    again = new_page()  # another browser takes the last one back
    open_desk(again, app, run.id)
    again.keyboard.press("Backspace")
    again.locator(".review .task", has_text="bakery").wait_for()
    wait_saved(again)
    assert [each.verdict for each in candidate_store.list_reviews(store, run.id)] == ["reject"]
    clean(again)
    store.close()


def test_a_candidate_is_rescued_from_the_table_and_what_was_accepted_becomes_a_dataset_to_train_on(
    tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    store = open_home(tmp_path / "home")
    run = add_grown(store)
    app, page = start_app(tmp_path / "home"), new_page()
    page.goto(f"{app.address}/self-instruct?run={run.id}&view=candidates")
    page.get_by_text("To review").last.wait_for()
    settled(page)
    page.locator(".st-key-self_instruct-show button", has_text="Kept").click()
    page.get_by_test_id("stTabs").get_by_text("15 tasks", exact=True).wait_for()  # not the headline
    table = page.locator(".st-key-self_instruct-candidates canvas").first
    table.click(position={"x": 16, "y": 52}, force=True)  # the box of the first row
    name = page.get_by_label("Your name")
    name.fill("Zoë")
    name.press("Enter")
    settled(page)
    page.locator(".st-key-self_instruct-accept button:not([disabled])").click()
    page.get_by_text("Accepted by Zoë").first.wait_for()
    page.get_by_role("tab", name="Version").click()
    page.get_by_role("button", name="Make a version of 1 task").click()
    page.get_by_text("Just made").wait_for()
    clean(page)
    (version,) = [
        version
        for dataset in dataset_store.list_datasets(store, kind="instructions")
        for version in dataset_store.list_versions(store, dataset.id)
        if "self_instruct" in version.provenance
    ]
    assert version.rows == 1
    page.get_by_role("link", name="Train on it").click()
    page.wait_for_url(f"**/new-run?dataset={version.dataset_id}**")
    settled(page)
    clean(page)
    picked = page.locator(".st-key-new_run-sft-dataset input").first
    assert picked.input_value() == "Grow tasks with writer (1 rows)"
    store.close()
