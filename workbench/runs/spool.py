"""Metric points on their way to the store: appended to a file first, drained by whoever has time.

A busy or missing store never stops training, and points written just before a kill are not lost: the supervisor, the
next attempt or the next look drains what the worker left behind. Draining twice is harmless, since a point's key is
(run, attempt, step, name).
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import BinaryIO

from workbench.errors import StoreProblem
from workbench.records import Metric
from workbench.store import runs as run_store
from workbench.store.database import Store

BATCH = 2_000


def append(folder: Path, points: list[Metric]) -> None:
    """Add points to a run's spool, one JSON line each. A line that a kill cut off is ended first, and lost alone."""
    lines = "".join(point.model_dump_json() + "\n" for point in points).encode()
    with (folder / "metrics.jsonl").open("a+b") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                lines = b"\n" + lines
        stream.write(lines)


def drain(store: Store, run_id: str, folder: Path) -> int:
    """Move what is new in the spool into the store.

    Returns:
        The number of points read; 0 when the store is busy or the disk full, in which case the next drain tries again.
    """
    path, mark = folder / "metrics.jsonl", folder / "metrics.offset"
    if not path.exists():
        return 0
    total = 0
    with path.open("rb") as stream:
        # One drainer at a time, so that the offset never goes back over a newer one.
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            offset = int(mark.read_text())
        except (OSError, ValueError):
            offset = 0
        stream.seek(offset)
        while True:
            points, offset = _read_batch(stream, offset)
            if not points:
                return total
            try:
                run_store.add_metrics(store, run_id, points)
                aside = folder / "metrics.offset.partial"
                aside.write_text(str(offset))
                os.replace(aside, mark)
            except (StoreProblem, OSError):
                return total
            total += len(points)


def _read_batch(stream: BinaryIO, offset: int) -> tuple[list[Metric], int]:
    points: list[Metric] = []
    for line in stream:
        if not line.endswith(b"\n"):
            break  # a line still being written, or cut by a kill
        offset += len(line)
        try:
            points.append(Metric.model_validate(json.loads(line)))
        except ValueError:
            continue
        if len(points) >= BATCH:
            break
    return points, offset
