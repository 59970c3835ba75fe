"""The report of a reward run: measured once training has ended, kept beside the run, read by pages and command line.

What is measured is `reward_diagnostics`; here it is put together, with the agreement of the raters whose rankings were
learned from, and rewards of answers by who wrote them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from workbench.errors import NotFound
from workbench.job import Job
from workbench.records import Message, Model, Run, Variant
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.training.reward_diagnostics import (
    MOST_SCORES,
    PairScores,
    RewardReport,
    Yardstick,
    calibration,
    clustered_share,
    distribution,
    length_bias,
    most_wrong,
    pair_loss,
    right_order,
    shares_by,
    with_remarks,
)
from workbench.training.reward_rows import Answer, RankedPrompts, render_answer

if TYPE_CHECKING:
    from workbench.datasets.render import Renderer
    from workbench.training.reward_configs import RewardConfig

REPORT = "reward_report.json"
PAIRS = "held_out_rows.jsonl"


def diagnose(
    job: Job,
    config: RewardConfig,
    model: Any,
    *,
    bias: float,
    train: RankedPrompts,
    held_out: RankedPrompts,
    scores: PairScores | None,
    demonstrations: Sequence[Answer],
    demonstrations_told: Mapping[str, float],
    model_record: Model,
    start_from: Variant | None,
    renderer: Renderer,
) -> RewardReport:
    """Measure a trained reward model and write `reward_report.json` and `held_out_rows.jsonl` beside the run.

    Args:
        job: the run.
        config: its settings.
        model: the PEFT model as trained.
        bias: subtracted from each score.
        train: training prompts.
        held_out: held-out prompts.
        scores: of the held-out answers, without the bias; None where nothing is held out.
        demonstrations: answers that score 0 on average.
        demonstrations_told: their mean before and after the bias.
        model_record: the base.
        start_from: the fine-tuned variant it started from.
        renderer: of the base model.
    """
    from workbench.training.reward_models import score_rows

    shown = [answer.ids for answer in demonstrations[:MOST_SCORES]]
    groups = {"demonstrations": score_rows(model, shown, bias=bias)}
    found: dict[str, Any] = {}
    if scores is not None:
        margins, count, prompt = scores.margins(), scores.column("count"), scores.column("prompt")
        bins, error = calibration(margins, count, prompt)
        groups |= _groups_of(job.store, scores, bias)
        if config.answered_prompts and (silent := _silent_writers(job.store, scores, model_record, start_from)):
            groups |= _answer_some(job, config, model, bias, held_out, model_record, silent, renderer)
        found = {
            "loss": pair_loss(scores),
            "accuracy": clustered_share(right_order(margins), count, prompt),
            "by_confidence": shares_by(scores, "confidence"),
            "by_k": shares_by(scores, "k"),
            "calibration": bins,
            "calibration_error": error,
            "length": length_bias(scores),
            "wrong": most_wrong(scores, bias),
        }
        _write_pairs(scores, bias, job.folder / PAIRS)
    report = RewardReport(
        run_id=job.run_id,
        prompts=len(held_out.prompts),
        pairs=held_out.pairs,
        training_prompts=len(train.prompts),
        training_pairs=train.pairs,
        left_out=train.left_out,
        agreement=measure_raters(job.store, train.queues),
        distributions={name: distribution(told) for name, told in groups.items() if told},
        demonstrations=dict(demonstrations_told),
        **found,
    )
    report = with_remarks(report, sources=(*train.sources, *held_out.sources))
    _write_whole(job.folder / REPORT, report.model_dump_json(indent=1))
    return report


def measure_raters(store: Store, queues: Sequence[str]) -> Yardstick | None:
    """How far the people who ranked these queues agree; None where no two ranked the same item. A scorer is nobody."""
    from workbench.preferences.agreement import measure_agreement
    from workbench.preferences.votes import read_votes

    if not queues:
        return None
    agreement = measure_agreement(read_votes(store, list(queues), "people").counted)
    if agreement.same is None:
        return None
    return Yardstick(same=agreement.same, raters=agreement.raters, items=agreement.items)


def _groups_of(store: Store, scores: PairScores, bias: float) -> dict[str, list[float]]:
    """Rewards of held-out answers: the best-ranked and the others, and by the variant that wrote them."""
    names = {variant.id: variant.name for variant in model_store.list_variants(store, archived=True)}
    groups: dict[str, list[float]] = {"best-ranked, held out": [], "other answers, held out": []}
    written: dict[str, list[float]] = {}
    for item, told in zip(scores.prompts, scores.scores, strict=True):
        best = item.best
        for number, (answer, score) in enumerate(zip(item.answers, told, strict=True)):
            groups["best-ranked, held out" if number == best else "other answers, held out"].append(score - bias)
            if answer.variant is not None:
                written.setdefault(f"by {names.get(answer.variant, answer.variant)}", []).append(score - bias)
    return groups | written


def _silent_writers(
    store: Store, scores: PairScores, model_record: Model, start_from: Variant | None
) -> list[tuple[str, Variant | None]]:
    """Base and fine-tuned variant, the base as None, as far as none of the ranked answers is known to be theirs."""
    wrote = {answer.variant for item in scores.prompts for answer in item.answers}
    bases = {
        variant.id
        for variant in model_store.list_variants(store, archived=True)
        if variant.model_id == model_record.id and variant.adapter_path is None
    }
    silent: list[tuple[str, Variant | None]] = []
    if not wrote & bases:
        silent.append((f"by {model_record.name}, greedy", None))
    if start_from is not None and start_from.id not in wrote:
        silent.append((f"by {start_from.name}, greedy", start_from))
    return silent


def _answer_some(
    job: Job,
    config: RewardConfig,
    model: Any,
    bias: float,
    held_out: RankedPrompts,
    model_record: Model,
    writers: Sequence[tuple[str, Variant | None]],
    renderer: Renderer,
) -> dict[str, list[float]]:
    """Rewards of greedy answers to a few held-out prompts, by name of the writer; None is the base and comes first.

    Stopping leaves out what is missing: the reward model itself is trained.
    """
    import torch

    from workbench.models.loading import load_with_adapter
    from workbench.training.crank import choose_device, load_policy
    from workbench.training.measuring import greedy
    from workbench.training.reward_models import score_rows

    device, dtype = choose_device(config)
    policy = load_policy(config, job, model_record, device, dtype)
    groups: dict[str, list[float]] = {}
    for name, variant in writers:
        if variant is not None:
            policy = load_with_adapter(policy, Path(variant.adapter_path or ""))
        policy.eval()
        rows = []
        for item in held_out.prompts[: config.answered_prompts]:
            if job.should_stop():
                return groups
            asked = renderer.prompt_ids(item.prompt)
            with torch.no_grad():
                told = greedy(policy, asked, config.answer_tokens, renderer.stop_ids, policy.device)
            said = Message(role="assistant", content=renderer.decode(told))
            rows.append(render_answer(renderer, item.prompt, (said,))[0])
        groups[name] = score_rows(model, rows, bias=bias)
    return groups


def _write_pairs(scores: PairScores, bias: float, path: Path) -> None:
    """Every held-out pair as a JSON line, the most wrong first."""
    lines = []
    for item, told in zip(scores.prompts, scores.scores, strict=True):
        for pair in item.pairs:
            lines.append(
                {
                    "row_id": pair.row_ids[0],
                    "loss": float(np.logaddexp(0.0, told[pair.worse] - told[pair.better])),
                    "tokens": item.answers[pair.better].tokens + item.answers[pair.worse].tokens,
                    "row_ids": list(pair.row_ids),
                    "margin": told[pair.better] - told[pair.worse],
                    "chosen_reward": told[pair.better] - bias,
                    "rejected_reward": told[pair.worse] - bias,
                    "chosen_tokens": item.answers[pair.better].tokens,
                    "rejected_tokens": item.answers[pair.worse].tokens,
                    "weight": pair.weight,
                    "confidence": pair.confidence,
                    "k": len(item.answers),
                }
            )
    lines.sort(key=lambda line: float(str(line["margin"])))
    _write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))


def _write_whole(path: Path, text: str) -> None:
    aside = path.with_suffix(".partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def read_report(store: Store, run: Run | str) -> RewardReport:
    """The report of a reward run.

    Raises:
        NotFound: there is no such run, or it has no report (yet).
    """
    run_id = run if isinstance(run, str) else run.id
    run_store.get_run(store, run_id)
    try:
        return RewardReport.model_validate_json((store.settings.run_dir(run_id) / REPORT).read_bytes())
    except (OSError, ValidationError) as error:
        raise NotFound(
            "this run has no report", value=run_id, remedy="A reward run writes it when it has finished."
        ) from error
