"""What rows and rankings say of single answers, good or bad and with which weight: what KTO trains on.

The better side of a pair is good, the worse one bad; a labelled row says it itself. Where a version of pairs was made
of rankings, answers that raters called all bad and versions they wrote themselves come with them, although they are in
no pair. How a ranking becomes labels is `pairs.iter_labels`; what a model reads of the answers is `training.labels`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from workbench.datasets.checks import normal_prompt
from workbench.datasets.versions import iter_rows
from workbench.errors import DataProblem, NotFound
from workbench.preferences.pairs import iter_labels, load_ranked
from workbench.records import Labelled, Message, Preference, Prompt, Ranking, Record, Row, Version
from workbench.store.database import Store
from workbench.store.datasets import HELD_OUT_END, find_version, get_dataset


class Label(Record):
    """What one ranking, or one row without a ranking, says of an answer."""

    source: str
    """The ranking's id, or the row's."""
    row_id: str
    """The dataset row it comes from; empty where it comes from the ranking alone."""
    prompt: tuple[Message, ...]
    """What was asked."""
    answer: tuple[Message, ...]
    """What was answered."""
    good: bool
    """Good, or better than another; bad, or worse."""
    weight: float = 1.0
    """What it counts beside others."""


def row_labels(rows: Iterable[Row]) -> Iterable[Label]:
    """What rows say of their answers: a labelled row of its one, a preference of both.

    Ties and preferences with equal sides say nothing.

    Raises:
        DataProblem: a row is neither a preference nor labelled.
    """
    for row in rows:
        payload = row.payload
        if isinstance(payload, Labelled):
            yield Label(
                source=row.row_id, row_id=row.row_id, prompt=payload.prompt, answer=payload.completion,
                good=payload.label, weight=payload.weight,
            )  # fmt: skip
        elif isinstance(payload, Preference):
            yield from _pair_labels(row.row_id, payload)
        else:
            raise DataProblem("the row is neither a preference nor a labelled answer", place=f"row {row.row_id}")


def _pair_labels(row_id: str, payload: Preference) -> Iterable[Label]:
    if payload.weight == 0 or payload.chosen == payload.rejected:
        return
    source = str(payload.meta.get("ranking") or row_id)
    for answer, good in ((payload.chosen, True), (payload.rejected, False)):
        yield Label(
            source=source, row_id=row_id, prompt=payload.prompt, answer=answer, good=good, weight=payload.weight
        )


def net_weight(said: Mapping[str, Sequence[tuple[bool, float]]]) -> float:
    """What all that is said of one answer comes to: above 0 it is good, below 0 bad, and 0 says nothing.

    Within one source an answer that is called good and bad stands in the middle of a ranking and says nothing. Between
    sources the weights of one side are taken from those of the other: KTO's loss of a bad answer is 1 less that of a
    good one (Ethayarajh et al. 2024, equation 8, with equal λ), so that the gradient is that of training on each.

    Args:
        said: source → what it says, good or bad, each with its weight above 0.
    """
    sides = {True: 0.0, False: 0.0}
    for views in said.values():
        if len({good for good, _ in views}) == 1:
            sides[views[0][0]] += sum(weight for _, weight in views)
    return 0.0 if math.isclose(sides[True], sides[False], rel_tol=1e-9) else sides[True] - sides[False]


def ranking_labels(store: Store, version: Version, rows: Sequence[Row]) -> list[Label]:
    """What the rankings that a version was made of say beyond its pairs: answers all bad, and raters' own versions.

    Only of prompts on the version's own side of the split.

    Args:
        store: the store.
        version: of preferences; one that was not made of rankings has none, nor has one of labels, which holds all.
        rows: its rows.
    """
    told = version.provenance.get("rankings")
    if not isinstance(told, dict) or get_dataset(store, version.dataset_id).kind != "preferences":
        return []
    named: Any = told
    try:
        ranked = load_ranked(store, named["queues"], held_out=named["held_out"], seed=named["seed"])
    except (NotFound, KeyError):  # the queue was deleted since: the pairs stand alone
        return []
    aside = {asked_text(each.item.prompt) for each in ranked.items if each.held_out}
    part = "held_out" if rows and all(normal_prompt(row) in aside for row in rows) else "train"
    beyond = [
        replace(each, rankings=(_without_places(ranking) if ranking.tiers else ranking,))
        for each in ranked.items
        for ranking in each.rankings
    ]
    kept_apart = _kept_apart(store, version) if part == "train" else set()
    return [
        Label(
            source=each.rankings[0].id, row_id="", prompt=row.prompt, answer=row.completion, good=row.label,
            weight=row.weight,
        )
        for each in beyond
        if asked_text(each.item.prompt) not in kept_apart
        for row in iter_labels(replace(ranked, items=(each,)), part=part)
    ]  # fmt: skip


def _without_places(ranking: Ranking) -> Ranking:
    """A ranking of which only the rater's own version is left: its places are in the version's pairs already."""
    return ranking.model_copy(update={"tiers": (), "unusable": ()})


def _kept_apart(store: Store, version: Version) -> set[str]:
    """Prompts of the version that was made beside this one to measure on; later votes may have moved the split."""
    try:
        _, sibling = find_version(store, get_dataset(store, version.dataset_id).name + HELD_OUT_END)
    except NotFound:
        return set()
    return {normal_prompt(row) for row in iter_rows(store, sibling)}


def asked_text(prompt: tuple[Message, ...]) -> str:
    """A prompt as `checks.normal_prompt` compares those of rows."""
    return normal_prompt(Row(row_id="", row_hash="", payload=Prompt(messages=prompt)))
