"""Rank in a real Chromium: no key is lost, no vote is doubled, and nothing says who wrote an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rank_homes import make_queue, open_home

from workbench.records import Ranking
from workbench.store import rankings
from workbench.store.database import Store

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
