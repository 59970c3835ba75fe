"""Rank in a real Chromium: no key is lost, no vote is doubled, and nothing says who wrote an answer."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rank_homes import NAMES, make_queue, open_home
from test_main_flow import clean, settled

from workbench.records import Ranking
from workbench.store import rankings
from workbench.store.database import Store
from workbench.store.drafts import list_drafts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
KEY_MS = 30


def open_desk(page: Any, app: Any, queue_id: str, rater: str = "Ada") -> None:
    page.goto(f"{app.address}/rank?queue={queue_id}&rater={rater}&only=1")
    page.locator(".rank .card").first.wait_for()


def wait_saved(page: Any) -> None:
    page.wait_for_function(
        """() => {
            const desk = [...document.querySelectorAll("*")].map((node) => node.shadowRoot?.querySelector(".rank"));
            const saved = desk.find(Boolean)?.querySelector(".saved");
            return saved?.textContent === "Saved";
        }"""
    )


def standing(store: Store, queue_id: str) -> list[Ranking]:
    return rankings.list_rankings(store, queue_ids=[queue_id])


def test_fifty_items_with_keys_30_ms_apart_and_an_undo_in_the_middle_end_with_fifty_rankings(
    tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    store = open_home(tmp_path / "home")
    queue = make_queue(store, items=50)
    app, page = start_app(tmp_path / "home"), new_page()
    open_desk(page, app, queue.id)
    # The best answer is always the second one shown; item 25 is ranked the other way round, undone and ranked again.
    keys = ["2", "1", "Enter"] * 24 + ["1", "2", "Enter", "Backspace"] + ["2", "1", "Enter"] * 26
    for key in keys:
        page.keyboard.press(key)
        page.wait_for_timeout(KEY_MS)
    page.get_by_text("All done, thank you").wait_for()
    wait_saved(page)
    votes = standing(store, queue.id)
    assert Counter(vote.item_id for vote in votes) == {item.id: 1 for item in rankings.list_items(store, [queue.id])}
    assert all(vote.tiers == ((vote.shown[1],), (vote.shown[0],)) for vote in votes)
    everything = rankings.list_rankings(store, queue_ids=[queue.id], undone=True)
    assert len(everything) == 51 and sum(vote.undone_at is not None for vote in everything) == 1
    store.close()


def desk_html(page: Any) -> str:
    return str(page.locator(".rank").evaluate("node => node.innerHTML")) + page.content()


def test_a_refresh_and_a_closed_browser_lose_nothing_and_nothing_says_who_answered(
    tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    store = open_home(tmp_path / "home")
    queue = make_queue(store, items=4, answers=4, guidelines="Short beats long.")
    app, page = start_app(tmp_path / "home"), new_page()
    page.goto(f"{app.address}/rank?queue={queue.id}")
    page.locator(".rank .name").fill("Åsa 測試")
    page.keyboard.press("Enter")
    page.locator(".rank .card").first.wait_for()
    page.keyboard.press("3")
    page.keyboard.press("1")
    page.keyboard.press("t")
    page.keyboard.press("c")
    page.keyboard.type("0 is no key here, x neither")
    page.reload()
    page.locator(".rank .order", has_text="C = A").wait_for()  # neither order nor comment nor name is asked again
    assert page.locator(".rank .comment").input_value() == "0 is no key here, x neither"
    variants = {each.variant_id for each in store_completions(store, queue.id)}
    assert not [word for word in (*NAMES, *variants) if word in desk_html(page)]
    page.keyboard.press("x")
    page.keyboard.press("2")
    page.keyboard.press("f")
    page.keyboard.press("e")
    page.keyboard.type("!")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    page.locator(".rank .order.quiet").wait_for()
    page.keyboard.press("s")
    page.keyboard.type("not my subject")
    page.keyboard.press("Enter")
    wait_saved(page)
    page.context.close()

    first, skipped = standing(store, queue.id)
    a, b, c, d = first.shown
    assert (first.rater, first.tiers, first.unusable) == ("Åsa 測試", ((c, a), (d,)), (b,))
    assert first.comment == "0 is no key here, x neither" and first.confidence == 1
    assert first.edited is not None and first.edited.endswith("!")
    assert skipped.skipped == "not my subject" and skipped.tiers == ()

    again = new_page()  # another browser: the third item is next, and the last vote can still be taken back
    open_desk(again, app, queue.id, "Åsa 測試")
    assert again.locator(".rank .progress").inner_text() == "2 ranked, 2 left"
    again.keyboard.press("0")
    again.keyboard.press("Enter")
    again.keyboard.press("Backspace")
    again.keyboard.press("Backspace")
    again.locator(".rank .prompt", has_text="Question 1").wait_for()
    for key in ("4", "3", "2", "Enter"):
        again.keyboard.press(key)
    again.locator(".rank .prompt", has_text="Question 2").wait_for()
    wait_saved(again)
    clean(again)
    _, second = standing(store, queue.id)
    assert second.tiers == tuple((each,) for each in reversed(second.shown))
    store.close()


def store_completions(store: Store, queue_id: str) -> list[Any]:
    ids = [each for item in rankings.list_items(store, [queue_id]) for each in item.completions]
    return list(rankings.completions_by_id(store, ids).values())


def test_two_raters_at_once_share_a_queue_without_ranking_anything_twice(
    tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    store = open_home(tmp_path / "home")
    queue = make_queue(store, items=30)
    app, ada, bo = start_app(tmp_path / "home"), new_page(), new_page(width=420)
    open_desk(ada, app, queue.id, "Ada")
    open_desk(bo, app, queue.id, "Bo")
    for page in (ada, bo):
        assert page.locator('[data-testid="stSidebar"]').count() == 0
    ended = re.compile("All done|other raters|Nothing to rank")
    while not all(page.locator(".rank .empty", has_text=ended).is_visible() for page in (ada, bo)):
        if ada.locator(".rank .work").is_visible():  # one presses keys, the other taps
            ada.keyboard.press("1")
            ada.keyboard.press("Enter")
        if bo.locator(".rank .work").is_visible():
            bo.locator(".rank .place").last.click()
            bo.locator(".rank .act.submit").last.click()
        ada.wait_for_timeout(KEY_MS)
    for page in (ada, bo):
        wait_saved(page)
        clean(page)
    votes = standing(store, queue.id)
    assert {vote.rater for vote in votes} == {"Ada", "Bo"}
    assert Counter(Counter(vote.item_id for vote in votes).values()) == {1: 30}
    assert all(vote.tiers[0] == (vote.shown[0 if vote.rater == "Ada" else 1],) for vote in votes)
    store.close()


def test_the_keys_of_the_page_around_are_left_alone_and_keys_of_fields_too(
    tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    store = open_home(tmp_path / "home")
    queue = make_queue(store, items=2, answers=3)
    app, page = start_app(tmp_path / "home"), new_page()
    page.goto(f"{app.address}/rank?queue={queue.id}&rater=Ada")
    page.locator(".rank .card").first.wait_for()
    page.get_by_role("button", name="Rater link").click()
    page.get_by_label("Rater's name").fill("B1t0x")
    page.keyboard.press("Enter")
    page.get_by_text("rater=B1t0x").wait_for()
    page.keyboard.press("Escape")
    settled(page)
    assert page.locator(".rank .order.quiet").is_visible()
    page.keyboard.press("Enter")  # nothing is placed: told, not sent
    assert standing(store, queue.id) == []
    store.close()


def test_a_half_ranking_waits_in_the_store_for_another_browser(
    tmp_path: Path, start_app: Callable[[Path], Any], new_page: Callable[..., Any]
):
    store = open_home(tmp_path / "home")
    queue = make_queue(store, items=3, answers=4)
    app, page = start_app(tmp_path / "home"), new_page()
    open_desk(page, app, queue.id)
    for key in ("3", "1", "t"):
        page.keyboard.press(key)
    order = page.locator(".rank .order").inner_text()
    deadline = time.monotonic() + 30
    while not list_drafts(store, "rank.half.") and time.monotonic() < deadline:
        page.wait_for_timeout(200)
    page.context.close()

    other = new_page()  # a browser of its own, with a storage of its own
    open_desk(other, app, queue.id)
    assert other.locator(".rank .order").inner_text() == order
    for key in ("2", "Enter"):
        other.keyboard.press(key)
    wait_saved(other)
    (vote,) = standing(store, queue.id)
    assert vote.tiers == ((vote.shown[2], vote.shown[0]), (vote.shown[1],), (vote.shown[3],))
    other.wait_for_timeout(500)
    assert list_drafts(store, "rank.half.") == {}
    store.close()
