"""The tour: starter kit → LoRA on the bundled model → held-out prompts answered by base and tuned.

A run of its own that launches the others, waits for them and passes their progress on. It does none of the work itself,
so stopping it stops what it waits for, and resuming it goes on with what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pydantic import Field, JsonValue

from workbench.errors import RunProblem
from workbench.job import Job
from workbench.records import Interval, Model, Run, RunConfig, RunState, Variant
from workbench.runs import launch, liveness
from workbench.store import models as model_store
from workbench.store import runs as run_store

SHOWN_ANSWERS = 3


class TourConfig(RunConfig):
    """What the tour does."""

    quick: bool = False
    """A short form for a look around: fewer trained tokens and fewer held-out prompts; the figures mean less."""
    kit: str = "assistant"
    """The starter kit."""
    model: str = "bundled"
    """The base model: `bundled`, or the name or id of another in the catalog."""
    max_tokens: int = Field(default=20_000, ge=500)
    """Budget of trained tokens."""
    prompts: int = Field(default=50, ge=1)
    """Most held-out prompts to answer."""


def take_tour(config: TourConfig, job: Job) -> Mapping[str, Any]:
    """Take the tour.

    Args:
        config: which kit, and how much of it.
        job: the tour's own run.

    Returns:
        One document: dataset, run, adapter fingerprint, `held_out` shares with Wilson intervals, mean `chrf` with
        bootstrap intervals, three answers. Where no rule scorer judges the kit, each share is None and chrF is the
        figure.

    Raises:
        RunProblem: one of the runs ended badly; its message is passed on.
    """
    from workbench.datasets.starter import install_kit
    from workbench.store.datasets import get_dataset

    began = time.monotonic()
    model = _ready_model(config, job)
    job.progress("installing the starter kit")
    train, held_out = install_kit(job.store, config.kit)
    job.result(
        dataset={
            "id": train.dataset_id,
            "version": train.id,
            "name": get_dataset(job.store, train.dataset_id).name,
            "rows": train.rows,
        },
        held_out_version=held_out.id,
    )

    budget = min(config.max_tokens, 6_000) if config.quick else config.max_tokens
    spec = {
        "dataset": train.id,
        "model": model.id,
        "preset": "quick",
        "max_tokens": budget,
        "name": f"Tour of the {config.kit} kit",
    }
    sft = _step(job, "training", "sft", spec, f"Tour: {config.kit} LoRA")
    tuned = model_store.get_variant(job.store, str(sft.result["variant_id"]))
    base = _base_variant(job, model)
    count = min(config.prompts, 12) if config.quick else config.prompts
    asked = {
        "prompts": held_out.id,
        "variants": [base.id, tuned.id],
        "limit": count,
        "temperature": 0.0,
        "max_tokens": 120,
    }
    answers = _step(job, "answering", "answer", asked, f"Tour: {config.kit} held-out answers")
    job.progress("summing up")
    document = _document(job, train.id, sft, answers, base, tuned)
    return document | {"seconds": round(time.monotonic() - began, 1), "quick": config.quick}


def _ready_model(config: TourConfig, job: Job) -> Model:
    if config.model != "bundled":
        return model_store.get_model(job.store, config.model)
    from workbench.models.adding import ensure_bundled

    model = ensure_bundled(job.store)
    if model.path is None:
        _step(job, "converting", "add_model", {"source": "bundled", "reference": ""}, "Add the bundled model")
        model = model_store.get_model(job.store, model.id)
    return model


def _base_variant(job: Job, model: Model) -> Variant:
    for variant in model_store.list_variants(job.store, model_id=model.id, archived=True):
        if variant.adapter_path is None:
            return variant
    raise RunProblem("the base model has no variant of its own", value=model.name, remedy="Add the model again.")


def _step(job: Job, key: str, kind: str, spec: dict[str, Any], name: str) -> Run:
    """Run one part and pass its progress on; after a resume, go on with the part that was under way."""
    known = job.folder / f"{key}.run"
    run = _known_run(job, known)
    if run is None or run.state in (RunState.FAILED, RunState.STOPPED, RunState.INTERRUPTED):
        run = launch.resume_run(job.store, run.id) if run else launch.launch_run(job.store, kind, spec, name=name)
        known.write_text(run.id)
    job.result(**{f"{key}_run": run.id})
    while run.state.active:
        told = run.progress
        waiting = "waiting for its turn" if run.state is RunState.QUEUED else told.phase or run.state.value
        job.progress(key, done=told.done, total=told.total, unit=told.unit, note=waiting)
        if job.should_stop():
            _stop_part(job, run)
            job.checkpoint_or_stop()
        time.sleep(0.3)
        liveness.reap(job.store)
        run = run_store.get_run(job.store, run.id)
    if run.state is not RunState.FINISHED:
        why = run.failure.message if run.failure else f"it was {run.state.value}"
        raise RunProblem(
            f"the part '{run.name}' did not finish: {why}",
            remedy=(run.failure.remedy if run.failure else "") or "Resume the tour to go on from there.",
        )
    return run


def _known_run(job: Job, path: Any) -> Run | None:
    return run_store.get_run(job.store, path.read_text().strip()) if path.exists() else None


def _stop_part(job: Job, run: Run) -> None:
    try:
        launch.stop_run(job.store, run.id)
    except RunProblem:
        return  # it has just ended by itself
    while (run := run_store.get_run(job.store, run.id)).state.active:
        time.sleep(0.2)
        liveness.reap(job.store)


def _document(job: Job, version_id: str, sft: Run, answers: Run, base: Variant, tuned: Variant) -> dict[str, Any]:
    from workbench.evaluation.aggregate import load_grid, paired_difference

    grid = load_grid(job.store, answers)
    shown: list[JsonValue] = []
    for prompt in grid.prompts:
        cells = [grid.cell(prompt.row_id, variant.id) for variant in (base, tuned)]
        if all(cell is not None for cell in cells) and len(shown) < SHOWN_ANSWERS:
            texts = [cell.completion.text for cell in cells if cell is not None]
            shown.append({"prompt": prompt.messages[-1].content, "base": texts[0], "tuned": texts[1]})
    held_out: dict[str, JsonValue] = {}
    chrf: dict[str, JsonValue] = {}
    for key, variant in (("base", base), ("tuned", tuned)):
        summary = grid.summary[variant.id]
        held_out[key] = _share(summary.share) or {"share": None, "low": None, "high": None, "n": summary.n}
        chrf[key] = _share(summary.metrics.get("chrf"))
    answered = [grid.cell(prompt.row_id, tuned.id) for prompt in grid.prompts]
    fingerprint = next((cell.completion.fingerprint for cell in answered if cell is not None), None)
    return {
        "version": version_id,
        "run": sft.id,
        "answers_run": answers.id,
        "variants": {"base": base.id, "tuned": tuned.id},
        "adapter_fingerprint": fingerprint,
        "adapter_digest": tuned.adapter_digest,
        "trained_tokens": sft.result.get("trained_tokens"),
        "held_out": held_out,
        "chrf": chrf,
        "chrf_gain": _share(paired_difference(grid, base.id, tuned.id, "chrf")),
        "answers": shown,
    }


def _share(interval: Interval | None) -> JsonValue:
    if interval is None:
        return None
    return {
        "share": round(interval.value, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "n": interval.n,
    }
