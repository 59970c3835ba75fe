"""Tell the living from the vanished: at each look, runs whose processes are gone get a truthful state.

Alive means that the run's lock is held and its process is there, with the right start time, and no zombie. The age of
the heartbeat decides nothing: a machine that swaps or sleeps is slow, not dead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from datetime import timedelta

from workbench.errors import StoreProblem
from workbench.records import Attempt, Run, RunState, utc_now
from workbench.runs import outcome
from workbench.runs.identity import host_name, lock_held, process_lives
from workbench.store import runs as run_store
from workbench.store.database import Store

logger = logging.getLogger(__name__)


def reap(store: Store) -> list[str]:
    """Settle runs that are told as at work but have no living process, and let the queue move on.

    Whoever reads runs calls this first, so it never stands in the way of reading: what cannot be written now, because
    the disk is full or the store busy, is left to the next look.

    Returns:
        Ids of the runs whose state was corrected.
    """
    settled = []
    for run in run_store.list_runs(store, states=outcome.WORKING, archived=True, limit=10_000):
        attempt = _current_attempt(store, run)
        if _alive(store, run, attempt):
            _end_overdue(store, run, attempt)
            continue
        with _left_to_the_next_look(run.id):
            if outcome.settle(store, run.id, run.attempt):
                _end_group(attempt)
                settled.append(run.id)
    if settled or _queue_waits(store):
        from workbench.runs.launch import dispatch

        with _left_to_the_next_look("the queue"):
            dispatch(store)
    return settled


@contextlib.contextmanager
def _left_to_the_next_look(what: str) -> Iterator[None]:
    try:
        yield
    except (StoreProblem, OSError) as error:
        logger.warning("%s could not be brought up to date: %s", what, error)


def _queue_waits(store: Store) -> bool:
    return bool(run_store.list_runs(store, states=[RunState.QUEUED], archived=True, limit=1))


def _current_attempt(store: Store, run: Run) -> Attempt | None:
    return next((a for a in run_store.list_attempts(store, run.id) if a.number == run.attempt), None)


def _alive(store: Store, run: Run, attempt: Attempt | None) -> bool:
    claimed = run_store.claimed_at(store, run.id) or run.created_at
    age = utc_now() - claimed
    if attempt is None:
        # Claimed a moment ago and not entered yet; or its dispatcher was killed in between.
        return age < timedelta(seconds=5)
    if attempt.host != host_name():
        return True
    supervisor = process_lives(attempt, attempt.supervisor_pid, attempt.supervisor_start)
    if run.state is RunState.STARTING:
        return supervisor and age < timedelta(seconds=store.settings.start_timeout_s)
    worker = process_lives(attempt, attempt.worker_pid, attempt.worker_start)
    return (supervisor or worker) and lock_held(store.settings.run_dir(run.id))


def _end_overdue(store: Store, run: Run, attempt: Attempt | None) -> None:
    # Only where the supervisor, which normally keeps this time, is gone.
    if attempt is None or run.stop_requested_at is None or attempt.host != host_name():
        return
    if process_lives(attempt, attempt.supervisor_pid, attempt.supervisor_start):
        return
    if utc_now() - run.stop_requested_at > timedelta(seconds=store.settings.stop_grace_s):
        _end_group(attempt)


def _end_group(attempt: Attempt | None) -> None:
    if attempt is None or attempt.worker_pid is None or attempt.host != host_name():
        return
    if process_lives(attempt, attempt.worker_pid, attempt.worker_start):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(attempt.worker_pid, signal.SIGKILL)
