"""A run's metric points as curves, for charts in pages and notebooks."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.records import Metric

Points = list[tuple[int, float]]
MOST_POINTS = 1000
"""Points of a series that are read for a chart; more cannot be seen apart."""


def series(metrics: Sequence[Metric]) -> dict[str, Points]:
    """Points by metric name, in order of step."""
    found: dict[str, Points] = {}
    for metric in metrics:
        found.setdefault(metric.name, []).append((metric.step, metric.value))
    for points in found.values():
        points.sort()
    return found


def smooth(points: Points, weight: float = 0.85) -> Points:
    """Exponential moving average with the start-up bias taken out (as in Adam, Kingma and Ba 2015, section 3)."""
    average, total, smoothed = 0.0, 0.0, []
    for step, value in points:
        average = weight * average + (1 - weight) * value
        total = weight * total + (1 - weight)
        smoothed.append((step, average / total))
    return smoothed
