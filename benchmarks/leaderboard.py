"""`leaderboard`: first conclusions from 10,000 stored votes, read from the store each time, beside the page's cache.

Wins are counted pair by pair from the rankings themselves first, and held equal to what the leaderboard says.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Figure, median_seconds
from benchmarks.votes import WRITERS, add_votes

if TYPE_CHECKING:
    from workbench.preferences.leaderboard import Leaderboard
    from workbench.store.database import Store

ITEMS, RATERS = 5_000, 2
TIMES = 5


def measure() -> list[Figure]:
    """Fill a store, check the figures, then time the leaderboard, and what a rerun of the page asks instead of it."""
    from workbench.preferences.leaderboard import load_leaderboard
    from workbench.settings import Settings
    from workbench.store.database import open_store
    from workbench.store.rankings import votes_stamp

    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Settings(home=Path(folder) / "home"))
        (queue_id,) = add_votes(store, queues=1, items=ITEMS, raters=RATERS)
        _check(store, queue_id, load_leaderboard(store, [queue_id]))
        whole = median_seconds(lambda: load_leaderboard(store, [queue_id]), times=TIMES, warmup=1)
        stamp = median_seconds(lambda: votes_stamp(store), times=TIMES, warmup=1)
        began = time.process_time()
        load_leaderboard(store, [queue_id])
        busy = time.process_time() - began
        store.close()
    # Other programs take none of the processor time, so it tells what a busy machine's clock does not.
    beside = {"processor time of it": busy, "a rerun of the page asks": stamp}
    return [Figure("leaderboard", f"load of {ITEMS * RATERS:,} votes", whole, "s", TIMES, beside)]


def _check(store: Store, queue_id: str, board: Leaderboard) -> None:
    from workbench.store import rankings

    writers = rankings.completion_variants(
        store, [each for item in rankings.list_items(store, [queue_id]) for each in item.completions]
    )
    wins: Counter[tuple[str, str]] = Counter()
    for ranking in rankings.list_rankings(store, queue_ids=[queue_id]):
        order = [writers[tier[0]] for tier in ranking.tiers]
        wins.update((better, worse) for place, better in enumerate(order) for worse in order[place + 1 :])
    assert board.votes == ITEMS * RATERS and len(board.ratings) == WRITERS
    told = {(pair.better, pair.worse): (pair.wins, pair.losses) for pair in board.pairs}
    assert told == {(a, b): (wins[a, b], wins[b, a]) for a, b in told} and len(told) == WRITERS * (WRITERS - 1) // 2
    assert board.agreement.items == ITEMS
