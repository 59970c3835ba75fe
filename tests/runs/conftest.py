from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workbench.records import Run, RunState
from workbench.runs import liveness
from workbench.settings import get_settings
from workbench.store import runs as run_store
from workbench.store.database import Store, open_store

HERE = str(Path(__file__).parent)


@pytest.fixture
def scripted(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store whose workers know the scripted kinds; whatever is left at the end is killed."""
    monkeypatch.setenv("WORKBENCH_KINDS", "scripted_kinds:TABLE")
    monkeypatch.setenv("WORKBENCH_STOP_GRACE_S", "2")
    monkeypatch.setenv("PYTHONPATH", HERE)
    monkeypatch.syspath_prepend(HERE)
    get_settings.cache_clear()
    store = open_store(get_settings())
    yield store
    for run in run_store.list_runs(store, archived=True):
        for attempt in run_store.list_attempts(store, run.id):
            for pid in (attempt.supervisor_pid, attempt.worker_pid):
                if pid and pid != os.getpid():
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
    store.close()
    sys.modules.pop("scripted_kinds", None)


@pytest.fixture
def until(scripted: Store) -> Callable[..., Run]:
    """Wait until a run fits a condition; fails with what it was instead."""

    def wait(run_id: str, condition: Callable[[Run], bool] | RunState, seconds: float = 40, reap: bool = True) -> Run:
        deadline = time.monotonic() + seconds
        while True:
            if reap:
                liveness.reap(scripted)
            run = run_store.get_run(scripted, run_id)
            if run.state is condition if isinstance(condition, RunState) else condition(run):
                return run
            if time.monotonic() > deadline:
                log = scripted.settings.run_dir(run_id) / "worker.log"
                raise AssertionError(f"{run!r}\n{log.read_text() if log.exists() else 'no log'}")
            time.sleep(0.05)

    return wait
