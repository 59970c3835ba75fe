"""From datasets of preferences or of labels to rendered answers told good or bad: what KTO trains on.

What rows and the rankings behind them say of an answer is `preferences.labels`. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.datasets.checks import normal_prompt
from workbench.datasets.segments import disk_told
from workbench.datasets.versions import iter_rows
from workbench.errors import DataProblem, TemplateProblem
from workbench.job import Job
from workbench.preferences.labels import Label, asked_text, net_weight, ranking_labels, row_labels
from workbench.records import Model
from workbench.store.database import Store
from workbench.store.datasets import get_version
from workbench.training.preference_configs import PreferenceConfig
from workbench.training.rows import Inputs, TrainingRow, checked_rows

if TYPE_CHECKING:
    from workbench.datasets.render import Renderer


LABELS_FILE = "ranking_labels.jsonl"
"""What a run read of rankings beside its rows, in its folder."""


@dataclass(frozen=True)
class LabelledAnswer:
    """A rendered answer that is desirable or not."""

    row: TrainingRow
    """Prompt and answer, the loss on the answer."""
    desirable: bool
    """What people said of it."""
    weight: float = 1.0
    """What it counts beside others: by how much one side outweighs the other."""

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

    def weight_of(self, desirable: bool) -> float:
        """Weights of all good, or of all bad ones."""
        return sum(answer.weight for answer in self.answers if answer.desirable == desirable)

    def in_words(self) -> str:
        """Numbers of each, for the run's log."""
        left = [(self.contested, "called good as often as bad"), (self.unreadable, "that cannot be learned")]
        out = ", ".join(f"{count} {why}" for count, why in left if count)
        good = self.desirable
        return f"{good} good and {len(self.answers) - good} bad answers" + (f" ({out} left out)" if out else "")


def render_labels(labels: Iterable[Label], renderer: Renderer, *, max_length: int) -> LabelledAnswers:
    """Labels as rendered answers, each answer to a prompt once and with the weight that `net_weight` gives it.

    Args:
        labels: of rankings and rows.
        renderer: of the base model.
        max_length: longest row in tokens, prompt included.
    """
    rows: dict[tuple[int, ...], TrainingRow] = {}
    said: dict[tuple[int, ...], dict[str, list[tuple[bool, float]]]] = {}
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
        said.setdefault(row.ids, {}).setdefault(label.source, []).append((label.good, label.weight))
    weighed = [(row, net_weight(said[ids])) for ids, row in rows.items()]
    answers = tuple(LabelledAnswer(row, weight > 0, abs(weight)) for row, weight in weighed if weight)
    return LabelledAnswers(answers, len(weighed) - len(answers), unreadable)


def load_answers(
    job: Job, config: PreferenceConfig, inputs: Inputs, model: Model
) -> tuple[LabelledAnswers, LabelledAnswers]:
    """Check and render labelled answers to train on and held out, from rows and from the rankings behind pairs.

    What the rankings add is kept in the run's folder at the first start, so that later votes change nothing.

    Raises:
        DataProblem: the checks refuse the rows and `overrule_gates` is off, or there is too little to train on.
        ModelProblem: the model is not on this machine yet.
    """
    train, apart, renderer = checked_rows(job, config, inputs, model)
    more = _pinned_labels(job, inputs)
    aside = {normal_prompt(row) for row in apart}
    sides = [
        [*row_labels(rows), *(label for label in more if (asked_text(label.prompt) in aside) == held)]
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
    path = job.folder / LABELS_FILE
    if not path.is_file():
        write_labels(path, labels_now(job.store, inputs.version_id))
    content = path.read_bytes()
    job.result(labels_digest=hashlib.sha256(content).hexdigest())
    return [Label.model_validate_json(line) for line in content.splitlines()]


def labels_now(store: Store, version_id: str) -> bytes:
    """What the rankings behind a version add to its rows, as they stand now: one label a line."""
    version = get_version(store, version_id)
    found = ranking_labels(store, version, list(iter_rows(store, version)))
    return "".join(label.model_dump_json() + "\n" for label in found).encode()


def write_labels(path: Path, content: bytes) -> None:
    """Put what rankings add into a run's folder, whole or not at all.

    Raises:
        StoreProblem: the disk is full.
    """
    aside = path.with_suffix(".partial")
    with disk_told(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(content)
        os.replace(aside, path)
