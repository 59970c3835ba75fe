"""The state that a run gets when its processes have ended without a word."""

from __future__ import annotations

import errno
import signal
from datetime import timedelta

import pytest

from workbench.api import Workspace
from workbench.errors import StoreProblem
from workbench.records import Attempt, Metric, Progress, RunState, utc_now
from workbench.runs import spool
from workbench.runs.identity import host_name
from workbench.runs.outcome import settle
from workbench.store import runs as run_store
from workbench.store.database import Store


def claimed(store: Store, *, running: bool, asked: bool) -> str:
    run = run_store.add_run(store, kind="x", name="x", slot="io", spec={})
    assert run_store.claim_next(store, "io", 1) is not None
    store.settings.run_dir(run.id).mkdir()
    if running:
        run_store.update_run(store, run.id, state=RunState.RUNNING)
    if asked:
        run_store.update_run(store, run.id, stop_requested_at=utc_now())
    return run.id


@pytest.mark.parametrize(("running", "code"), [(False, None), (False, 0), (True, -signal.SIGTERM)])
def test_a_run_stopped_before_its_work_began_is_stopped_and_nothing_went_wrong(
    store: Store, running: bool, code: int | None
):
    run_id = claimed(store, running=running, asked=True)
    assert settle(store, run_id, 1, code)
    run = run_store.get_run(store, run_id)
    assert (run.state, run.failure) == (RunState.STOPPED, None)


def test_a_run_that_had_to_be_killed_after_stop_says_so(store: Store):
    run_id = claimed(store, running=True, asked=True)
    settle(store, run_id, 1, -signal.SIGKILL)
    run = run_store.get_run(store, run_id)
    assert run.state is RunState.STOPPED and run.failure is not None and "in time" in run.failure.message


def test_a_new_attempt_does_not_show_how_far_the_one_before_was(store: Store):
    run_id = claimed(store, running=True, asked=False)
    run_store.update_run(store, run_id, progress=Progress(phase="training", done=5, total=9))
    settle(store, run_id, 1, -signal.SIGKILL)
    assert run_store.get_run(store, run_id).progress.done == 5
    run_store.update_run(store, run_id, state=RunState.QUEUED)
    again = run_store.claim_next(store, "io", 1)
    assert again is not None and again.attempt == 2 and again.progress == Progress()


def test_on_a_full_disk_runs_are_still_told_and_the_next_look_settles_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    run_id = claimed(store, running=True, asked=False)
    long_ago = utc_now() - timedelta(hours=1)
    run_store.put_attempt(store, Attempt(run_id=run_id, number=1, host=host_name(), boot_id="b", started_at=long_ago))
    point = Metric(attempt=1, step=1, name="loss", value=2.0, at=utc_now())
    spool.append(store.settings.run_dir(run_id), [point])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    workspace = Workspace(settings=store.settings)
    with monkeypatch.context() as patched:
        patched.setattr("workbench.runs.spool.os.replace", full)
        patched.setattr("workbench.runs.outcome.run_store.update_run", refused)
        assert [run.id for run in workspace.runs()] == [run_id] and workspace.run(run_id).state is RunState.RUNNING
    assert workspace.run(run_id).state is RunState.INTERRUPTED
    assert [told.value for told in workspace.metrics(run_id)] == [2.0]


def refused(*_: object, **__: object) -> bool:
    raise StoreProblem("the disk is full")
