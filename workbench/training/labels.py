"""From versions of preferences, and the rankings behind them, to single answers told good or bad: what KTO trains on.

The better side of a pair is good, the worse one bad; within a ranking this is `preferences.pairs.iter_labels`' reading.
Where a version was made of rankings, answers that raters called all bad and versions they wrote themselves come with
them, although they are in no pair. Nothing here imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from workbench.datasets.checks import normal_prompt
from workbench.datasets.segments import disk_told
from workbench.datasets.versions import iter_rows
from workbench.errors import DataProblem, NotFound, TemplateProblem
from workbench.job import Job
from workbench.preferences.pairs import iter_labels, load_ranked
from workbench.records import Message, Model, Prompt, Ranking, Record, Row, Version
from workbench.store.database import Store
from workbench.store.datasets import HELD_OUT_END, find_version, get_dataset, get_version
from workbench.training.pairs import preference_of
from workbench.training.preference_configs import PreferenceConfig
from workbench.training.rows import Inputs, TrainingRow, checked_rows

if TYPE_CHECKING:
    from workbench.datasets.render import Renderer


@dataclass(frozen=True)
class LabelledAnswer:
    """A rendered answer that is desirable or not."""

    row: TrainingRow
    """Prompt and answer, the loss on the answer."""
    desirable: bool
    """What people said of it."""

    @property
    def start(self) -> int:
        """Where the answer begins, in tokens."""
        return next(place for place, label in enumerate(self.row.labels) if label != -100)


@dataclass(frozen=True)
class LabelledAnswers:
    """All labelled answers of one side of the split, each answer to a prompt once."""

    answers: tuple[LabelledAnswer, ...]
    """In the order in which they were first met."""
    contested: int = 0
    """Left out: as often called better as worse, as the middle of a ranking is."""
    unreadable: int = 0
    """Left out: sides that the template refuses, or whose prompt leaves no room for them."""

    @property
    def desirable(self) -> int:
        """Number of good ones."""
        return sum(answer.desirable for answer in self.answers)

    def in_words(self) -> str:
        """Numbers of each, for the run's log."""
        left = [(self.contested, "called good as often as bad"), (self.unreadable, "that cannot be learned")]
        out = ", ".join(f"{count} {why}" for count, why in left if count)
        good = self.desirable
        return f"{good} good and {len(self.answers) - good} bad answers" + (f" ({out} left out)" if out else "")


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
    """Better than another, or worse."""


def pair_labels(rows: Iterable[Row]) -> Iterable[Label]:
    """Both sides of each preference as labels; ties and rows with equal sides say nothing."""
    for row in rows:
        payload = preference_of(row)
        if payload.weight == 0 or payload.chosen == payload.rejected:
            continue
        source = str(payload.meta.get("ranking") or row.row_id)
        for answer, good in ((payload.chosen, True), (payload.rejected, False)):
            yield Label(source=source, row_id=row.row_id, prompt=payload.prompt, answer=answer, good=good)


def render_labels(labels: Iterable[Label], renderer: Renderer, *, max_length: int) -> LabelledAnswers:
    """Labels as rendered answers, each answer to a prompt once.

    Within a ranking an answer that beats one and loses to another stands in the middle and says nothing, as in
    `workbench.preferences.pairs.iter_labels`. Between rankings the majority decides; an even vote says nothing.

    Args:
        labels: of rankings and rows.
        renderer: of the base model.
        max_length: longest row in tokens, prompt included.
    """
    rows: dict[tuple[int, ...], TrainingRow] = {}
    said: dict[tuple[int, ...], dict[str, set[bool]]] = {}
    unreadable = 0
    for label in labels:
        try:
            made = renderer.render_prompt_completion(label.prompt, label.answer, None, max_length)
        except TemplateProblem:
            unreadable += 1  # `check_gates` has named it
            continue
        row = TrainingRow(row_id=label.row_id, ids=made.ids, labels=tuple(made.labels))
        if not row.supervised:
            unreadable += 1
            continue
        rows.setdefault(row.ids, row)
        said.setdefault(row.ids, {}).setdefault(label.source, set()).add(label.good)
    answers, contested = [], 0
    for ids, row in rows.items():
        votes = sum(1 if next(iter(views)) else -1 for views in said[ids].values() if len(views) == 1)
        if votes:
            answers.append(LabelledAnswer(row, votes > 0))
        else:
            contested += 1
    return LabelledAnswers(tuple(answers), contested, unreadable)


def ranking_labels(store: Store, version: Version, rows: Sequence[Row]) -> list[Label]:
    """What the rankings that a version was made of say beyond its pairs: answers all bad, and raters' own versions.

    Only of prompts on the version's own side of the split.

    Args:
        store: the store.
        version: of preferences; one that was not made of rankings has none.
        rows: its rows.
    """
    told = version.provenance.get("rankings")
    if not isinstance(told, dict):
        return []
    named: Any = told
    try:
        ranked = load_ranked(store, named["queues"], held_out=named["held_out"], seed=named["seed"])
    except (NotFound, KeyError):  # the queue was deleted since: the pairs stand alone
        return []
    aside = {_asked(each.item.prompt) for each in ranked.items if each.held_out}
    part = "held_out" if rows and all(normal_prompt(row) in aside for row in rows) else "train"
    beyond = [
        replace(each, rankings=(ranking if ranking.all_bad else _without_places(ranking),))
        for each in ranked.items
        for ranking in each.rankings
    ]
    kept_apart = _kept_apart(store, version) if part == "train" else set()
    return [
        Label(
            source=each.rankings[0].id,
            row_id="",
            prompt=each.item.prompt,
            answer=tuple(Message.model_validate(turn) for turn in label["completion"]),
            good=label["label"],
        )
        for each in beyond
        if _asked(each.item.prompt) not in kept_apart
        for label in iter_labels(replace(ranked, items=(each,)), part=part)
    ]


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


def _asked(prompt: tuple[Message, ...]) -> str:
    return normal_prompt(Row(row_id="", row_hash="", payload=Prompt(messages=prompt)))


def load_answers(
    job: Job, config: PreferenceConfig, inputs: Inputs, model: Model
) -> tuple[LabelledAnswers, LabelledAnswers]:
    """Check and render labelled answers to train on and held out, from pairs and from the rankings behind them.

    What the rankings add is kept in the run's folder at the first start, so that later votes change nothing.

    Raises:
        DataProblem: the checks refuse the rows and `overrule_gates` is off, or there is too little to train on.
        ModelProblem: the model is not on this machine yet.
    """
    train, apart, renderer = checked_rows(job, config, inputs, model)
    more = _pinned_labels(job, inputs)
    aside = {normal_prompt(row) for row in apart}
    sides = [
        [*pair_labels(rows), *(label for label in more if (_asked(label.prompt) in aside) == held)]
        for rows, held in ((train, False), (apart, True))
    ]
    rendered, held_out = (render_labels(labels, renderer, max_length=config.max_length) for labels in sides)
    if len(rendered.answers) < 2:
        raise DataProblem(
            "fewer than two answers can be learned from",
            place=config.dataset,
            value=rendered.in_words(),
            remedy="Answers that people called better or worse are needed, after a prompt shorter than max_length.",
        )
    return rendered, held_out


def _pinned_labels(job: Job, inputs: Inputs) -> list[Label]:
    path = job.folder / "ranking_labels.jsonl"
    if not path.is_file():
        version = get_version(job.store, inputs.version_id)
        found = ranking_labels(job.store, version, list(iter_rows(job.store, version)))
        aside = path.with_suffix(".partial")
        with disk_told(str(path)):
            aside.write_text("".join(label.model_dump_json() + "\n" for label in found), encoding="utf-8")
            os.replace(aside, path)
    with path.open(encoding="utf-8") as lines:
        return [Label.model_validate_json(line) for line in lines]
