"""The supervisor: a small process that starts the worker, waits for it, tells how it ended, and dispatches again.

`python -m workbench.runs.supervise RUN ATTEMPT`, started detached by a launcher. It imports nothing heavy. It holds the
run's lock together with the worker, so that the run counts as alive while either of them is there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

from workbench.errors import StoreProblem
from workbench.records import RunState, utc_now
from workbench.runs import identity, launch, outcome
from workbench.runs.launchers.local import child_environment
from workbench.settings import get_settings
from workbench.store import runs as run_store
from workbench.store.database import Store, open_store

LOCK_WAIT_S = 15.0
POLL_S = 0.1


class _Stop:
    """Set by SIGTERM; read by the waiting loop."""

    def __init__(self) -> None:
        self.asked_at: float | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.asked_at = self.asked_at or time.monotonic()


def main(run_id: str, attempt: int) -> int:
    """Supervise one attempt of a run to its end."""
    stop = _Stop()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    store = open_store(get_settings())
    lock = _wait_for_lock(store, run_id)
    if lock is None:
        print(f"{run_id}: another process still holds the run's lock", flush=True)
        return 1
    run = run_store.get_run(store, run_id)
    if run.attempt != attempt or run.state is not RunState.STARTING:
        return 0  # told as interrupted, or stopped, while this process was starting
    me = os.getpid()
    run_store.update_attempt(store, run_id, attempt, supervisor_pid=me, supervisor_start=identity.start_time(me))
    worker = _start_worker(store, run_id, attempt, lock)
    _retry(lambda: _enter_worker(store, run_id, attempt, worker.pid))
    code = _wait(store, run_id, worker, stop)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, signal.SIGKILL)  # whatever the worker left in its group
    _retry(lambda: outcome.settle(store, run_id, attempt, code))
    os.close(lock)
    _retry(lambda: launch.dispatch(store))
    return 0


def _wait_for_lock(store: Store, run_id: str) -> int | None:
    folder = store.settings.run_dir(run_id)
    deadline = time.monotonic() + LOCK_WAIT_S
    while (lock := identity.take_lock(folder)) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return lock


def _start_worker(store: Store, run_id: str, attempt: int, lock: int) -> subprocess.Popen[bytes]:
    folder = store.settings.run_dir(run_id)
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "workbench.runs.worker", run_id, str(attempt), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
            pass_fds=(lock,),
            cwd=folder,
            env=child_environment(store.settings),
        )


def _enter_worker(store: Store, run_id: str, attempt: int, pid: int) -> None:
    run_store.update_attempt(store, run_id, attempt, worker_pid=pid, worker_start=identity.start_time(pid))
    now = utc_now()
    run_store.update_run(
        store, run_id, only_in=[RunState.STARTING], state=RunState.RUNNING, started_at=now, heartbeat_at=now
    )


def _wait(store: Store, run_id: str, worker: subprocess.Popen[bytes], stop: _Stop) -> int:
    if run_store.get_run(store, run_id).stop_requested_at is not None:
        stop.asked_at = stop.asked_at or time.monotonic()  # asked before this process could take a signal
    passed_on = False
    while (code := worker.poll()) is None:
        if stop.asked_at is not None:
            if not passed_on:
                with contextlib.suppress(ProcessLookupError):
                    worker.send_signal(signal.SIGTERM)
                passed_on = True
            if time.monotonic() - stop.asked_at > store.settings.stop_grace_s:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)
        time.sleep(POLL_S)
    return code


def _retry(action: Callable[[], object], *, times: int = 20, pause_s: float = 3.0) -> None:
    # The store may be busy or its disk full for a while; the end of a run must still be told.
    for left in range(times, 0, -1):
        try:
            action()
            return
        except StoreProblem as error:
            print(error.sentence(), flush=True)
            if left == 1:
                raise
            time.sleep(pause_s)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
