"""`pages`: server-side rerun of every page on a full store.

It holds 1,000,000 rows, 1,000 runs, 100,000 metric points and 50,000 votes.
"""

from __future__ import annotations

import math
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from benchmarks.app_server import PROJECT, AppServer
from benchmarks.figures import Figure, percentile
from benchmarks.votes import add_votes

ROWS, RUNS, POINTS, REPEATS = 1_000_000, 1_000, 100_000, 20
VOTES = {"queues": 5, "items": 2_000, "raters": 5}


def measure() -> list[Figure]:
    """One figure per page: the 95th percentile of warm reruns, HTTP included."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        dataset_id, run_id, queue_id = fill(home)
        figures = []
        with AppServer(PROJECT / "app.py", home) as server:
            pages = [page["url_path"] for page in server.interact()["pages"]]
            parameters = {
                "datasets": {"dataset": [dataset_id]},
                "runs": {"run": [run_id]},
                "rank": {"queue": [queue_id], "rater": ["Ada"]},
                "leaderboard": {"queue": [queue_id]},
            }
            for page in pages:
                # A page and its detail view, where it has one.
                for label, query in ((page or "home", None), (f"{page} (one open)", parameters.get(page))):
                    if query is None and label.endswith("(one open)"):
                        continue
                    server.interact(page=page, **({"query_params": query} if query else {}))
                    times = [_timed(server) for _ in range(REPEATS)]
                    figures.append(Figure("pages", f"p95 {label}", percentile(times, 0.95), "ms", REPEATS))
    return figures


def _timed(server: AppServer) -> float:
    began = time.perf_counter()
    server.interact()
    return 1000 * (time.perf_counter() - began)


def fill(home: Path) -> tuple[str, str, str]:
    """Fill a home through the store's own functions; returns ids of the big dataset, the long run and a queue."""
    from workbench.datasets.versions import write_version
    from workbench.records import Example, Message, Metric, RunState, utc_now
    from workbench.settings import Settings
    from workbench.store import datasets as dataset_store
    from workbench.store import rankings
    from workbench.store import runs as run_store
    from workbench.store.database import open_store

    store = open_store(Settings(home=home))
    dataset = dataset_store.create_dataset(store, "a million rows", "instructions")
    rows = (
        Example(
            messages=(
                Message(role="user", content=f"What is {n} squared?"),
                Message(role="assistant", content=f"{n * n}."),
            )
        )
        for n in range(ROWS)
    )
    write_version(store, dataset.id, rows, parent=None, message="filled", provenance={})
    now = utc_now()
    last = ""
    for number in range(RUNS):
        run = run_store.add_run(store, kind="sft", name=f"run {number}", slot="train", spec={"dataset": dataset.id})
        ended = {"started_at": now - timedelta(minutes=5), "ended_at": now}
        run_store.update_run(store, run.id, state=RunState.FINISHED, **ended)
        last = run.id
    per_series = POINTS // 4
    for name in ("loss", "learning_rate", "tokens_per_s", "grad_norm"):
        points = [
            Metric(attempt=1, step=step, name=name, value=2 * math.exp(-step / 9000), at=now)
            for step in range(per_series)
        ]
        run_store.add_metrics(store, last, points)
    (*_, queue_id) = add_votes(store, **VOTES)
    # Somebody more is to rank this one, so that its desk has items to hand out.
    rankings.update_queue(store, queue_id, overlap=VOTES["raters"] + 1)
    store.close()
    return dataset.id, last, queue_id
