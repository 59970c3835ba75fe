"""A figure, the machine it was taken on, and the table for the README."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.goals import GOALS


@dataclass(frozen=True)
class Figure:
    """One measured figure beside its peers."""

    benchmark: str
    figure: str
    value: float
    unit: str
    n: int
    peers: Mapping[str, float] = field(default_factory=dict)
    limit: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The figure with its goal and whether it is met."""
        goal = GOALS[f"{self.benchmark}.{self.figure.split(' ')[0]}"]
        return {
            "benchmark": self.benchmark,
            "figure": self.figure,
            "value": round(self.value, 6),
            "unit": self.unit,
            "peers": {name: round(value, 6) for name, value in self.peers.items()},
            "limit": None if self.limit is None else round(self.limit, 6),
            "goal": goal.words,
            "met": goal.met(self.value, self.peers, self.limit),
            "n": self.n,
            "machine": machine(),
        }


def machine() -> str:
    """Processor, cores and the versions that matter, in one line."""
    import importlib.metadata as metadata

    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return f"{name}, {os.cpu_count()} cores, torch {metadata.version('torch')}, Python {platform.python_version()}"


def median_seconds(action: Callable[[], object], *, times: int, warmup: int = 0) -> float:
    """Median wall time of an action, in seconds."""
    for _ in range(warmup):
        action()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The figures as a table for the README."""
    lines = ["| benchmark | figure | ours | peers | limit | goal | met |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        peers = "; ".join(f"{name} {value:.4g}" for name, value in row["peers"].items()) or "–"
        limit = "–" if row["limit"] is None else f"{row['limit']:.4g}"
        met = "yes" if row["met"] else "no"
        lines.append(
            f"| {row['benchmark']} | {row['figure']} | {row['value']:.4g} {row['unit']} | {peers} | {limit} "
            f"| {row['goal']} | {met} |"
        )
    return "\n".join(lines)
