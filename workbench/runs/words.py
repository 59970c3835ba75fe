"""How far a run is, in the words that the terminal and notebooks share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.records import Progress


def span(seconds: float | None) -> str:
    """A duration that a person reads at a glance; empty where it is not known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def describe_progress(told: Progress) -> str:
    """Phase, counts and time left in one line."""
    parts = [told.phase]
    if told.total:
        parts.append(f"{told.done:,.0f} of {told.total:,.0f} {told.unit}".strip())
    elif told.done:
        parts.append(f"{told.done:,.0f} {told.unit}".strip())
    if told.eta_s is not None:
        parts.append(f"{span(told.eta_s)} left")
    if told.note:
        parts.append(told.note)
    return " · ".join(part for part in parts if part)
