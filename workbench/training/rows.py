"""From dataset versions to rendered training rows: what the trainer trains on and the forecast counts.

Rendering itself is `workbench.datasets.render`, which rows are kept out is `workbench.datasets.versions`, and what
makes rows useless is `workbench.datasets.checks`. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import DataProblem, ModelProblem, TemplateProblem, UsageError
from workbench.job import Job
from workbench.records import Example, Model, Record, Row
from workbench.store import models as model_store
from workbench.store.database import Store
from workbench.store.datasets import find_version, get_version
from workbench.training.configs import SFTConfig, TrainingConfig
from workbench.training.provenance import digest_reading, made_with

if TYPE_CHECKING:
    from workbench.datasets.checks import CheckReport, Finding
    from workbench.datasets.render import Renderer


class Inputs(Record):
    """What a run trains on, as ids that do not change while it is stopped."""

    version_id: str
    """The dataset's version."""
    held_out_version_id: str | None = None
    """Another dataset's version to measure on."""
    model_id: str
    """The base model."""
    adapter_id: str | None = None
    """The variant to go on from."""


@dataclass(frozen=True)
class TrainingRow:
    """One rendered row."""

    row_id: str
    """The dataset row it comes from; several where a template makes one row of each assistant turn."""
    ids: tuple[int, ...]
    """Token ids."""
    labels: tuple[int, ...]
    """The same ids where the loss is taken, -100 elsewhere."""

    @property
    def supervised(self) -> int:
        """Tokens the loss is taken on; the first token of a row is never predicted."""
        return sum(label != -100 for label in self.labels[1:])


@dataclass(frozen=True)
class TrainingRows:
    """All rendered rows of one side of the split."""

    rows: tuple[TrainingRow, ...]
    """Rows with at least one supervised token."""
    truncated: int
    """Rows that were cut to the longest length."""
    left_out: int
    """Rows without a supervised token, and rows the template does not accept."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(row.ids) for row in self.rows]

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def supervised(self) -> int:
        """Supervised tokens of all rows."""
        return sum(row.supervised for row in self.rows)


def resolve_inputs(store: Store, config: TrainingConfig) -> Inputs:
    """Look up what the config names.

    Raises:
        NotFound: a dataset, version, model or variant is not there.
        DataProblem: a dataset holds what the method does not learn from.
        UsageError: the adapter to go on from lies over another base.
    """
    from workbench.training.reward_models import refuse_scorers_as_policy

    refuse_scorers_as_policy(store, config)
    model = model_store.get_model(store, config.model)
    versions: list[str | None] = []
    for reference in (config.dataset, config.held_out):
        if not isinstance(reference, str):
            versions.append(None)
            continue
        dataset, version = find_version(store, reference)
        if dataset.kind not in config.dataset_kinds:
            wanted = " or ".join(config.dataset_kinds)
            raise DataProblem(
                f"this training needs a dataset of {wanted}, but this one holds {dataset.kind}",
                place=dataset.name,
                remedy=f"Choose a dataset of {wanted}.",
            )
        versions.append(version.id)
    adapter = model_store.get_variant(store, config.adapter) if config.adapter else None
    if adapter and (adapter.model_id != model.id or not adapter.adapter_path):
        raise UsageError(
            "the variant to go on from has no adapter over this base model",
            place="adapter",
            value=adapter.name,
            remedy=f"Choose an adapter of {model.name}, or leave it empty for a new one.",
        )
    return Inputs(
        version_id=versions[0] or "",
        held_out_version_id=versions[1],
        model_id=model.id,
        adapter_id=adapter.id if adapter else None,
    )


def pin_inputs(config: TrainingConfig, job: Job) -> Inputs:
    """What the config named at the run's first start: a dataset that got a newer version since is still the old one."""
    path = job.folder / "inputs.json"
    if path.is_file():
        return Inputs.model_validate_json(path.read_bytes())
    inputs = resolve_inputs(job.store, config)
    reading = digest_reading(model_store.get_model(job.store, inputs.model_id))
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(inputs.model_dump(), indent=1), encoding="utf-8")
    os.replace(aside, path)
    job.result(
        version_id=inputs.version_id,
        model_id=inputs.model_id,
        made_with=made_with(job.settings),
        base_reading=reading,
    )
    return inputs


def split_rows(store: Store, config: TrainingConfig, inputs: Inputs) -> tuple[list[Row], list[Row]]:
    """Training rows and held-out rows of the pinned versions, split by prompt."""
    from workbench.datasets.versions import iter_rows, split_held_out

    rows = list(iter_rows(store, get_version(store, inputs.version_id)))
    if inputs.held_out_version_id is not None:
        return rows, list(iter_rows(store, get_version(store, inputs.held_out_version_id)))
    if config.held_out is None or isinstance(config.held_out, str) or len(rows) < 2:
        return rows, []
    _, held = split_held_out(rows, config.held_out, config.seed)
    apart = set(held)
    return [row for row in rows if row.row_id not in apart], [row for row in rows if row.row_id in apart]


def render_rows(rows: Iterable[Row], renderer: Renderer, *, max_length: int) -> TrainingRows:
    """Render examples with a model's tokenizer and template.

    Args:
        rows: rows of a dataset of instructions.
        renderer: of the base model.
        max_length: longest row in tokens.
    """
    kept: list[TrainingRow] = []
    truncated = left_out = 0
    for row in rows:
        if not isinstance(row.payload, Example):
            raise DataProblem("the row is not an example", place=f"row {row.row_id}")
        try:
            made = renderer.render(row.payload.messages, row.payload.tools, max_length=max_length)
        except TemplateProblem:
            left_out += 1  # `check_gates` has named it
            continue
        for rendered in made:
            truncated += bool(rendered.truncated)
            one = TrainingRow(row_id=row.row_id, ids=rendered.ids, labels=tuple(rendered.labels))
            if one.supervised:
                kept.append(one)
            else:
                left_out += 1
    return TrainingRows(rows=tuple(kept), truncated=truncated, left_out=left_out)


def check_gates(train: Sequence[Row], held_out: Sequence[Row], renderer: Renderer, *, max_length: int) -> list[Finding]:
    """What the checks say of the rows as they would be trained, hard findings first."""
    from workbench.datasets.checks import check_overlap, check_rows

    return _hard_first(check_rows(train, renderer, max_length), check_overlap(train, held_out))


def check_method(
    config: TrainingConfig, train: Sequence[Row], held_out: Sequence[Row], renderer: Renderer
) -> list[Finding]:
    """What the checks say of the rows as this method would read them, hard findings first.

    A method that takes datasets of prompts reads prompts alone, whatever else its rows hold.

    Args:
        config: the method's settings.
        train: rows learned from.
        held_out: rows kept for measuring.
        renderer: of the base model.
    """
    from workbench.datasets.checks import check_overlap, check_prompts

    if "prompts" not in config.dataset_kinds:
        return check_gates(train, held_out, renderer, max_length=config.max_length)
    room = config.max_length - int(getattr(config, "max_answer_tokens", 1))
    return _hard_first(check_prompts(train, renderer, room), check_overlap(train, held_out))


def _hard_first(*reports: CheckReport) -> list[Finding]:
    found = [finding for report in reports for finding in report.findings]
    return sorted(found, key=lambda finding: finding.severity == "soft")


def refuse_findings(job: Job, config: TrainingConfig, findings: Sequence[Finding]) -> None:
    """Log what the checks found, and refuse to train on it where a hard finding stands and is not overruled.

    Raises:
        DataProblem: a hard finding, and `overrule_gates` is off.
    """
    for finding in findings:
        job.log(f"{finding.severity} finding: {finding.message} {finding.remedy}")
    hard = [finding for finding in findings if finding.severity == "hard"]
    if hard and not config.overrule_gates:
        shown = ", ".join(hard[0].row_ids[:5])
        raise DataProblem(
            " ".join(finding.message for finding in hard),
            place=f"{config.dataset}, rows {shown}" + (", …" if hard[0].count > 5 else ""),
            remedy=" ".join(finding.remedy for finding in hard)
            + " Or set overrule_gates to train all the same, without the rows that cannot be learned.",
        )


def checked_rows(
    job: Job, config: TrainingConfig, inputs: Inputs, model: Model
) -> tuple[list[Row], list[Row], Renderer]:
    """Training rows and held-out rows after the gates, and the model's renderer; findings go to the run's log.

    Raises:
        DataProblem: the checks refuse the rows and `overrule_gates` is off.
        ModelProblem: the model is not on this machine yet.
    """
    from workbench.datasets.render import load_renderer

    if model.path is None:
        raise ModelProblem("the model has not been added yet", place=model.name, remedy="Add it on the Models page.")
    renderer = load_renderer(model.path)
    train, held_out = split_rows(job.store, config, inputs)
    refuse_findings(job, config, check_gates(train, held_out, renderer, max_length=config.max_length))
    return train, held_out, renderer


def load_rows(job: Job, config: SFTConfig, inputs: Inputs, model: Model) -> tuple[TrainingRows, TrainingRows]:
    """Check and render training rows and held-out rows; findings go to the run's log.

    Raises:
        DataProblem: the checks refuse the rows and `overrule_gates` is off, or there is nothing to train on.
        ModelProblem: the model is not on this machine yet.
    """
    train, held_out, renderer = checked_rows(job, config, inputs, model)
    rendered = render_rows(train, renderer, max_length=config.max_length)
    if not rendered.rows:
        raise DataProblem(
            "no row has a token to learn from",
            place=config.dataset,
            value=len(train),
            remedy="Every example needs an assistant's answer that fits into max_length.",
        )
    return rendered, render_rows(held_out, renderer, max_length=config.max_length)
