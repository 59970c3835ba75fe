"""`start`: from process start to the first finished page, on an empty home; beside an empty Streamlit app."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.app_server import PROJECT, AppServer
from benchmarks.figures import Figure

TIMES = 3


def measure() -> list[Figure]:
    """Median over a few starts, ours and an empty app's in turn."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        empty.write_text("import streamlit as st\nst.title('empty')\n")
        _first_page(PROJECT / "app.py", Path(folder) / "warm")  # fills the disk cache
        ours, bare = [], []
        for number in range(TIMES):
            ours.append(_first_page(PROJECT / "app.py", Path(folder) / f"home{number}"))
            bare.append(_first_page(empty, Path(folder) / f"home{number}"))
    peers = {"empty Streamlit app": statistics.median(bare)}
    return [Figure("start", "first_page", statistics.median(ours), "s", TIMES, peers)]


def _first_page(script: Path, home: Path) -> float:
    began = time.perf_counter()
    with AppServer(script, home) as server:
        server.interact()
        return time.perf_counter() - began
