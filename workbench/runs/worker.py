"""The worker: the process that does a run's work and reports on it.

`python -m workbench.runs.worker RUN ATTEMPT SUPERVISOR_PID`. A thread carries progress, heartbeat and metrics to the
store, so that a busy store never holds up the work.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from workbench.errors import RunProblem, Stopped, StoreProblem, WorkbenchError
from workbench.records import Metric, Progress, Run, RunState, Variant, utc_now
from workbench.runs import launch, outcome, spool
from workbench.runs.identity import start_time
from workbench.runs.kinds import get_kind, parse_config
from workbench.settings import get_settings
from workbench.store import runs as run_store
from workbench.store.database import Store, open_store

REPORT_S = 0.5
HEARTBEAT_S = 5.0


class RunningJob:
    """The job of a real run: what `workbench.job.Job` promises, carried to the store by a thread."""

    def __init__(self, store: Store, run: Run) -> None:
        self.run_id = run.id
        self.attempt = run.attempt
        self.settings = store.settings
        self.folder: Path = store.settings.run_dir(run.id)
        self.store = store
        self._progress = Progress(phase="starting")
        self._phase_began = time.monotonic()
        self._done_at_begin = 0.0
        self._points: list[Metric] = []  # those that could not be spooled yet
        self._spooled = False
        self._results: dict[str, Any] = dict(run.result)
        self._changed = True
        self._results_changed = False
        self._resumed_step: int | None = None
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._mutex = threading.Lock()
        self._thread = threading.Thread(target=self._report_loop, name="report", daemon=True)

    def start(self) -> None:
        """Begin reporting and listen for Stop."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._thread.start()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._stop.set()

    def progress(
        self,
        phase: str | None = None,
        done: float | None = None,
        total: float | None = None,
        unit: str | None = None,
        note: str | None = None,
    ) -> None:
        """Tell how far the work is; the time left is worked out from the pace since the phase began."""
        with self._mutex:
            now = time.monotonic()
            changes: dict[str, Any] = {"done": done, "total": total, "unit": unit, "note": note}
            if phase is not None and phase != self._progress.phase:
                self._progress = Progress(phase=phase)
                self._phase_began, self._done_at_begin = now, done or 0.0
                self.log(phase)
            changes = {key: value for key, value in changes.items() if value is not None}
            told = self._progress.model_copy(update=changes)
            made = told.done - self._done_at_begin
            if told.total and made > 0:
                left = max(0.0, told.total - told.done) * (now - self._phase_began) / made
                told = told.model_copy(update={"eta_s": round(left, 1)})
            self._progress = told
            self._changed = True

    def metric(self, step: int, **values: float) -> None:
        """Record points of series; a value that is not a number is an error of the work, told at once."""
        now = utc_now()
        for name, value in values.items():
            if not math.isfinite(value):
                raise RunProblem(
                    f"'{name}' is not a number any more",
                    place=f"step {step}",
                    value=str(value),
                    remedy="Lower the learning rate, or look for rows that are unlike the others.",
                )
        points = [
            Metric(attempt=self.attempt, step=step, name=name, value=float(value), at=now)
            for name, value in values.items()
        ]
        with self._mutex:
            self._spooled = True
            try:
                # At once, because a checkpoint may follow: a kill must not leave steps that nobody can see.
                spool.append(self.folder, points)
            except OSError:  # the disk is full, for one: the work goes on, and so do later tries
                self._points += points

    def sample(self, step: int, slot: int, prompt: str, text: str) -> None:
        """Keep a sample answer; one that the store cannot take now is only logged."""
        try:
            run_store.add_sample(
                self.store, self.run_id, attempt=self.attempt, step=step, slot=slot, prompt=prompt, text=text
            )
        except StoreProblem as error:
            self.log(f"sample not kept: {error}")

    def log(self, line: str) -> None:
        """Add a line to the log, with the time."""
        print(f"{datetime.now().astimezone():%H:%M:%S} {line}", flush=True)

    def result(self, **values: Any) -> None:
        """Merge into the run's result; shown within a second."""
        with self._mutex:
            self._results |= values
            self._results_changed = True
            self._resumed_step = values.get("resumed_step", self._resumed_step)

    def results(self) -> dict[str, Any]:
        """All results so far."""
        return dict(self._results)

    def should_stop(self) -> bool:
        """Whether Stop was pressed."""
        return self._stop.is_set()

    def checkpoint_or_stop(self) -> None:
        """Raise `Stopped` when Stop was pressed."""
        if self._stop.is_set():
            raise Stopped("stopped as asked")

    def variant_endpoint(self, variant: Variant) -> tuple[str, str, str]:
        """Base URL, key and model name under which a variant answers."""
        from workbench.runs.engines import endpoint_for

        return endpoint_for(self.store, variant)

    def close(self) -> None:
        """Report the last state and end the thread."""
        self._ended.set()
        self._thread.join(timeout=60)
        self._report(final=True)

    def _report_loop(self) -> None:
        beat = 0.0
        while not self._ended.wait(REPORT_S):
            due = time.monotonic() - beat >= HEARTBEAT_S
            if due:
                beat = time.monotonic()
            self._report(heartbeat=due)

    def _report(self, *, heartbeat: bool = False, final: bool = False) -> None:
        with self._mutex:
            points, self._points = self._points, []
            spooled, self._spooled = self._spooled, False
            changes: dict[str, Any] = {}
            if self._changed or heartbeat or final:
                changes |= {"progress": self._progress, "heartbeat_at": utc_now()}
                self._changed = False
            if self._results_changed:
                changes["result"] = dict(self._results)
                self._results_changed = False
            resumed_step, self._resumed_step = self._resumed_step, None
        try:
            if resumed_step is not None:
                run_store.update_attempt(self.store, self.run_id, self.attempt, resumed_step=resumed_step)
            if points:
                spool.append(self.folder, points)
                points, spooled = [], True
            if spooled or final:
                spool.drain(self.store, self.run_id, self.folder)
            if changes and not run_store.update_run(self.store, self.run_id, only_in=outcome.WORKING, **changes):
                # Somebody settled this run, believing its processes gone: do not go on beside what comes next.
                self._stop.set()
        except (StoreProblem, OSError) as error:
            with self._mutex:
                self._points, self._spooled = points + self._points, True
                self._resumed_step = resumed_step if self._resumed_step is None else self._resumed_step
            print(f"not reported yet: {error}", flush=True)
            self._changed = True
            self._results_changed = self._results_changed or "result" in changes


def main(run_id: str, attempt: int, supervisor: int) -> int:
    """Do the work of one attempt; the exit code is 0 whenever the outcome could be written."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for noisy in ("httpx", "httpx2", "httpcore", "openai", "urllib3", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    store = open_store(get_settings())
    if not _enter(store, run_id, attempt):
        return 0
    run = run_store.get_run(store, run_id)
    job = RunningJob(store, run)
    job.start()
    job.log(f"attempt {attempt} of {run.kind} run {run_id}")
    error: BaseException | None = None
    try:
        kind = get_kind(run.kind)
        job.result(**(_plain(kind.load_work()(parse_config(run.kind, run.spec), job))))
    except Stopped as raised:
        error = raised
        job.log("stopped as asked")
    except WorkbenchError as raised:
        error = raised
        traceback.print_exc()
    except (Exception, SystemExit, KeyboardInterrupt) as raised:
        error = raised
        traceback.print_exc()
    job.close()
    ended = outcome.outcome_of(attempt, error, job.results())
    job.log(ended.state.value if ended.failure is None else f"{ended.state.value}: {ended.failure.message}")
    outcome.write_outcome(job.folder, ended)
    if os.getppid() != supervisor:
        # Nobody waits for this process any more: tell the end and move the queue on from here.
        outcome.settle(store, run_id, attempt, 0)
        launch.dispatch(store)
    sys.stdout.flush()
    return 0


def _enter(store: Store, run_id: str, attempt: int) -> bool:
    """Enter this process as the run's worker, unless the run was settled while it started."""
    run = run_store.get_run(store, run_id)
    if run.attempt != attempt:
        return False
    me = os.getpid()
    run_store.update_attempt(store, run_id, attempt, worker_pid=me, worker_start=start_time(me))
    now = utc_now()
    return run_store.update_run(
        store,
        run_id,
        only_in=outcome.WORKING,
        state=RunState.RUNNING,
        started_at=run.started_at if run.state is RunState.RUNNING else now,
        heartbeat_at=now,
    )


def _plain(result: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(result or {})


if __name__ == "__main__":
    code = main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    # Interpreter teardown of torch and its threads can take seconds or crash; everything is on disk by now.
    os._exit(code)
