"""Runs made of other runs: launching a part, waiting for it, passing its progress on, and going on after a resume.

What a flow does is its own file's business: `tour`, `protocol`.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import JsonValue

from workbench.errors import RunProblem
from workbench.job import Job
from workbench.records import Interval, Model, Run, RunState, Variant
from workbench.runs import launch, liveness
from workbench.store import models as model_store
from workbench.store import runs as run_store


def ready_model(model_name: str, job: Job) -> Model:
    """The base model, added first where it is the bundled one and not ready yet."""
    if model_name != "bundled":
        return model_store.get_model(job.store, model_name)
    from workbench.models.adding import ensure_bundled

    model = ensure_bundled(job.store)
    if model.path is None:
        run_part(job, "converting", "add_model", {"source": "bundled", "reference": ""}, "Add the bundled model")
        model = model_store.get_model(job.store, model.id)
    return model


def base_variant(job: Job, model: Model) -> Variant:
    """The variant that is the base itself."""
    for variant in model_store.list_variants(job.store, model_id=model.id, archived=True):
        if variant.adapter_path is None:
            return variant
    raise RunProblem("the base model has no variant of its own", value=model.name, remedy="Add the model again.")


def run_part(job: Job, key: str, kind: str, spec: dict[str, Any], name: str) -> Run:
    """Run one part and pass its progress on; after a resume, go on with the part that was under way.

    Args:
        job: the flow's own run.
        key: the part's name in the flow; its run's id goes into the result as `<key>_run`.
        kind: the part's kind.
        spec: its config.
        name: its run's name.

    Raises:
        RunProblem: the part ended badly; its message is passed on.
        Stopped: Stop was pressed; the part is stopped too.
    """
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


def told_interval(interval: Interval | None, *, key: str = "value") -> dict[str, JsonValue] | None:
    """An estimate with its interval, rounded, as documents hold it.

    Args:
        interval: the estimate; None where there is none.
        key: what the estimate itself is called.
    """
    if interval is None:
        return None
    return {
        key: round(interval.value, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "n": interval.n,
    }
