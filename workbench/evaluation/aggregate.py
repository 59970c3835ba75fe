"""From answers and scores to figures with intervals, and to tables that can be shown, filtered and exported.

Of a scorer it knows only that a rule scorer says `passed` with one flag per rule in `detail`, and that a metric scorer
says `value` (chrF has a form over all answers at once). Who answers and who scores is `tasks` and `scorers`.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from workbench.errors import StoreProblem, UsageError
from workbench.evaluation.prompts import GridPrompt, planned_answers, read_prompts
from workbench.preferences.intervals import bootstrap_mean as bootstrap_mean
from workbench.preferences.shares import wilson as wilson
from workbench.records import Completion, Interval, Record, Run, Score, Variant
from workbench.scoring.scorers import corpus_chrf
from workbench.settings import typed_path
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.store.database import Store

EXPORT_FORMATS = ("csv", "jsonl", "parquet")


class AnswerCell(Record):
    """One variant's answer to one prompt with what the scorers said."""

    completion: Completion
    """The answer."""
    scores: tuple[Score, ...] = ()
    """One per scorer; none for an answer that failed."""

    @property
    def passed(self) -> bool | None:
        """Whether the answer passed every scorer that judges; None where none did."""
        verdicts = [score.passed for score in self.scores if score.passed is not None]
        return all(verdicts) if verdicts else None

    @property
    def values(self) -> dict[str, float]:
        """The metric scorers' figures."""
        return {score.scorer: score.value for score in self.scores if score.value is not None}


class VariantSummary(Record):
    """One variant's figures over the whole prompt set."""

    variant_id: str
    """The variant."""
    name: str
    """Its name."""
    n: int = 0
    """Answers it gave; failed requests are not among them."""
    failed: int = 0
    """Requests that got no whole answer."""
    missing: int = 0
    """Prompts not asked yet."""
    share: Interval | None = None
    """Share of answers that pass all rules, with its Wilson interval."""
    rules: dict[str, Interval] = {}
    """The same for each rule alone, over the answers it applies to."""
    metrics: dict[str, Interval] = {}
    """Mean of each metric scorer, with its bootstrap interval over prompts."""
    corpus: dict[str, float] = {}
    """Figures taken over all answers at once, where a metric has such a form."""
    mean_tokens: Interval | None = None
    """Mean length of an answer in tokens."""
    tokens_per_s: float | None = None
    """Median over answers of tokens per second, as each request saw it."""
    empty: Interval | None = None
    """Share of answers without any text."""
    unfinished: Interval | None = None
    """Share of answers cut at the length limit."""


class AnswerGrid(Record):
    """Prompts by variants: every answer, every score, and a summary per variant."""

    run_id: str
    """The run that asked."""
    name: str = ""
    """The run's name."""
    version_id: str | None = None
    """The version of the prompt set that was answered."""
    scorers: tuple[str, ...] = ()
    """Scorers that were applied."""
    prompts: tuple[GridPrompt, ...]
    """Lines, in the set's order."""
    variants: tuple[Variant, ...]
    """Columns, in the order they were asked for."""
    cells: dict[tuple[str, str], AnswerCell] = Field(repr=False)
    """Answers by (row id, variant id); a prompt not asked yet has none."""
    summary: dict[str, VariantSummary]
    """Figures by variant id, always over the whole set: filtering leaves them as they are."""

    def cell(self, row_id: str, variant_id: str) -> AnswerCell | None:
        """The answer in one place of the grid."""
        return self.cells.get((row_id, variant_id))


def load_grid(store: Store, run: Run) -> AnswerGrid:
    """All answers of a run as a grid; works while the run is still at work.

    Args:
        store: the store.
        run: a run that answered a prompt set (kind `answer`, or one that did so on its way).

    Raises:
        UsageError: the run answered no prompt set.
        NotFound: the prompt set it answered is gone.
    """
    plan = planned_answers(store, run)
    variants = tuple(model_store.get_variant(store, variant) for variant in plan.variants)
    return build_grid(
        run_id=run.id,
        name=run.name,
        version_id=plan.version_id,
        scorers=plan.scorers,
        prompts=read_prompts(store, plan),
        variants=variants,
        completions=answer_store.list_completions(store, run_id=run.id),
        scores=answer_store.list_scores(store, run.id),
    )


def build_grid(
    *,
    run_id: str,
    prompts: Sequence[GridPrompt],
    variants: Sequence[Variant],
    completions: Iterable[Completion],
    scores: Iterable[Score],
    name: str = "",
    version_id: str | None = None,
    scorers: Sequence[str] = (),
) -> AnswerGrid:
    """Put answers and scores in their places and work out each variant's figures.

    An answer beats a failed request for the same place; of two answers the first one counts, so that a figure that
    was shown once does not change.
    """
    by_completion: dict[str, list[Score]] = {}
    for score in scores:
        by_completion.setdefault(score.completion_id, []).append(score)
    wanted_rows, wanted_variants = {prompt.row_id for prompt in prompts}, {variant.id for variant in variants}
    chosen: dict[tuple[str, str], Completion] = {}
    for completion in completions:
        if completion.row_id not in wanted_rows or completion.variant_id not in wanted_variants:
            continue
        place = (completion.row_id, completion.variant_id)
        if place not in chosen or (chosen[place].error is not None):
            chosen[place] = completion
    cells = {
        place: AnswerCell(completion=completion, scores=tuple(by_completion.get(completion.id, ())))
        for place, completion in chosen.items()
    }
    return AnswerGrid(
        run_id=run_id,
        name=name,
        version_id=version_id,
        scorers=tuple(scorers),
        prompts=tuple(prompts),
        variants=tuple(variants),
        cells=cells,
        summary={variant.id: _summarise(variant, prompts, cells) for variant in variants},
    )


def _summarise(
    variant: Variant, prompts: Sequence[GridPrompt], cells: dict[tuple[str, str], AnswerCell]
) -> VariantSummary:
    found = [(prompt, cells.get((prompt.row_id, variant.id))) for prompt in prompts]
    asked = [(prompt, cell) for prompt, cell in found if cell is not None]
    given = [(prompt, cell) for prompt, cell in asked if cell.completion.error is None]
    answers = [cell.completion for _, cell in given]
    speeds = [answer.tokens / answer.seconds for answer in answers if answer.seconds > 0 and answer.tokens]
    return VariantSummary(
        variant_id=variant.id,
        name=variant.name,
        n=len(given),
        failed=len(asked) - len(given),
        missing=len(found) - len(asked),
        share=_share(cell.passed for _, cell in given),
        rules=_rule_shares([cell for _, cell in given]),
        metrics=_metric_means([cell for _, cell in given]),
        corpus=_corpus_figures(given),
        mean_tokens=bootstrap_mean([answer.tokens for answer in answers]) if answers else None,
        tokens_per_s=float(np.median(speeds)) if speeds else None,
        empty=_share(not answer.text.strip() for answer in answers),
        unfinished=_share(answer.finish_reason == "length" for answer in answers),
    )


def _share(verdicts: Iterable[bool | None]) -> Interval | None:
    known = [verdict for verdict in verdicts if verdict is not None]
    return wilson(sum(known), len(known)) if known else None


def rule_verdicts(score: Score) -> dict[str, bool]:
    """Rule by rule, what a rule scorer said; rules that did not apply are left out."""
    verdicts: dict[str, bool] = {}
    for rule, value in score.detail.items():
        told = value.get("passed") if isinstance(value, dict) else value
        if isinstance(told, bool):
            verdicts[rule] = told
    return verdicts


def _rule_shares(cells: Sequence[AnswerCell]) -> dict[str, Interval]:
    told: dict[str, list[bool]] = {}
    for cell in cells:
        for score in cell.scores:
            if score.passed is not None:
                for rule, verdict in rule_verdicts(score).items():
                    told.setdefault(rule, []).append(verdict)
    return {rule: wilson(sum(verdicts), len(verdicts)) for rule, verdicts in told.items()}


def _metric_means(cells: Sequence[AnswerCell]) -> dict[str, Interval]:
    told: dict[str, list[float]] = {}
    for cell in cells:
        for scorer, value in cell.values.items():
            told.setdefault(scorer, []).append(value)
    return {scorer: bootstrap_mean(values) for scorer, values in told.items()}


def _corpus_figures(given: Sequence[tuple[GridPrompt, AnswerCell]]) -> dict[str, float]:
    pairs = [
        (cell.completion.text, prompt.reference)
        for prompt, cell in given
        if prompt.reference is not None and "chrf" in cell.values
    ]
    return {"chrf": corpus_chrf([text for text, _ in pairs], [reference for _, reference in pairs])} if pairs else {}


def paired_difference(
    grid: AnswerGrid, first: str, second: str, scorer: str | None = None, *, confidence: float = 0.95
) -> Interval | None:
    """How much the second variant is above the first on the prompts that both answered.

    Args:
        grid: the answers.
        first: variant id to compare against.
        second: variant id whose gain is asked for.
        scorer: a metric scorer; None takes the share of answers that pass all rules.
        confidence: between 0 and 1, both excluded.

    Returns:
        The mean difference with a bootstrap interval over prompts; None where no prompt has both figures.
    """
    gains: list[float] = []
    for prompt in grid.prompts:
        pair = [_figure(grid.cell(prompt.row_id, variant), scorer) for variant in (first, second)]
        if pair[0] is not None and pair[1] is not None:
            gains.append(pair[1] - pair[0])
    return bootstrap_mean(gains, confidence) if gains else None


def _figure(cell: AnswerCell | None, scorer: str | None) -> float | None:
    if cell is None:
        return None
    if scorer is None:
        return None if cell.passed is None else float(cell.passed)
    return cell.values.get(scorer)


def filter_grid(grid: AnswerGrid, *, differing: bool = False, search: str = "") -> AnswerGrid:
    """The grid with fewer lines; the summaries stay those of the whole set.

    Args:
        grid: all answers.
        differing: only prompts where at least one variant passed and at least one did not.
        search: only prompts whose question, reference or any answer contains this text, upper and lower case alike.
    """
    tests: list[Callable[[GridPrompt], bool]] = []
    if differing:
        tests.append(lambda prompt: _verdicts(grid, prompt) == {True, False})
    needle = search.strip().casefold()
    if needle:
        tests.append(lambda prompt: any(needle in text.casefold() for text in _texts(grid, prompt)))
    kept = tuple(prompt for prompt in grid.prompts if all(test(prompt) for test in tests))
    rows = {prompt.row_id for prompt in kept}
    return grid.model_copy(
        update={"prompts": kept, "cells": {place: cell for place, cell in grid.cells.items() if place[0] in rows}}
    )


def _line(grid: AnswerGrid, prompt: GridPrompt) -> list[AnswerCell]:
    found = (grid.cell(prompt.row_id, variant.id) for variant in grid.variants)
    return [cell for cell in found if cell is not None]


def _verdicts(grid: AnswerGrid, prompt: GridPrompt) -> set[bool]:
    return {cell.passed for cell in _line(grid, prompt) if cell.passed is not None}


def _texts(grid: AnswerGrid, prompt: GridPrompt) -> Iterable[str]:
    yield from (turn.content for turn in prompt.messages)
    yield prompt.reference or ""
    yield from (cell.completion.text for cell in _line(grid, prompt))


def grid_frame(grid: AnswerGrid) -> list[dict[str, Any]]:
    """The grid as flat rows, one per answer, with equal keys in every row: a data frame's records."""
    rules = sorted({rule for summary in grid.summary.values() for rule in summary.rules})
    metrics = sorted({metric for summary in grid.summary.values() for metric in summary.metrics})
    rows = []
    for prompt in grid.prompts:
        for variant in grid.variants:
            cell = grid.cell(prompt.row_id, variant.id)
            if cell is not None:
                rows.append(_flat(prompt, variant, cell, rules, metrics))
    return rows


def _flat(
    prompt: GridPrompt, variant: Variant, cell: AnswerCell, rules: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    answer = cell.completion
    verdicts = {rule: verdict for score in cell.scores for rule, verdict in rule_verdicts(score).items()}
    return {
        "row_id": prompt.row_id,
        "prompt": prompt.question,
        "messages": json.dumps([turn.as_dict() for turn in prompt.messages], ensure_ascii=False),
        "reference": prompt.reference,
        "meta": json.dumps(prompt.meta, ensure_ascii=False),
        "variant_id": variant.id,
        "variant": variant.name,
        "text": answer.text,
        "passed": cell.passed,
        **{f"rule_{rule}": verdicts.get(rule) for rule in rules},
        **{metric: cell.values.get(metric) for metric in metrics},
        "tokens": answer.tokens,
        "seconds": answer.seconds,
        "finish_reason": answer.finish_reason,
        "error": answer.error,
        "fingerprint": answer.fingerprint,
        "verified": answer.verified,
        "sampling": json.dumps(answer.sampling.model_dump(mode="json"), ensure_ascii=False),
        "completion_id": answer.id,
        "created_at": answer.created_at.isoformat(),
    }


def export_grid(grid: AnswerGrid, path: Path, format: str = "csv") -> Path:
    """Write the grid's rows to a file: aside first, then renamed, so that a half-written file is never met.

    Args:
        grid: all answers, or a filtered grid.
        path: the file; one that exists is replaced.
        format: csv, jsonl or parquet.

    Raises:
        UsageError: the format is unknown or there is no answer to write.
        StoreProblem: the file cannot be written.
    """
    if format not in EXPORT_FORMATS:
        raise UsageError(
            "no such format", place="format", value=format, remedy=f"Choose one of {', '.join(EXPORT_FORMATS)}."
        )
    rows = grid_frame(grid)
    if not rows:
        raise UsageError(
            "there is no answer to write", place=grid.name or grid.run_id, remedy="Wait for the first answers."
        )
    path = typed_path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        {"csv": _write_csv, "jsonl": _write_jsonl, "parquet": _write_parquet}[format](rows, aside)
        os.replace(aside, path)
    except OSError as error:
        raise StoreProblem(
            f"the file cannot be written: {error.strerror or error}",
            place=str(path),
            remedy="Choose a folder that exists and that you can write to.",
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    return path


def _write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
