"""Whose rankings are whose: people's and scorers' stand in one table and are told apart by their source.

What people do (hand out items, agree, prefer) is counted over people's rankings; a scorer's are looked at by their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from sqlalchemy import ColumnElement

from workbench.store import tables

SCORER = "scorer"
"""Source of a ranking that a rule, a metric or a reward model made."""
DEMO = "demo"
"""Source of a vote by a demo's visitor."""
Sources = Literal["people", "visitors", "scorers", "all"]
"""Whose votes count: people's (pages, files, demo visitors), among them only visitors', scorers', or all together."""


def voted_by(sources: Sources) -> ColumnElement[bool]:
    """The condition that a ranking is by these."""
    source = tables.rankings.c.source
    if sources == "people":
        return source != SCORER
    if sources == "visitors":
        return source == DEMO
    return source == SCORER if sources == "scorers" else source.is_not(None)


def sum_votes(counts: Mapping[str, int]) -> dict[Sources, int]:
    """Votes of each group that has any.

    Args:
        counts: votes by source.
    """
    told: dict[Sources, int] = {
        "people": sum(votes for source, votes in counts.items() if source != SCORER),
        "visitors": counts.get(DEMO, 0),
        "scorers": counts.get(SCORER, 0),
        "all": sum(counts.values()),
    }
    return {group: votes for group, votes in told.items() if votes}
