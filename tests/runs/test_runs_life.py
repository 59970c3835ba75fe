"""The life of a run, with real processes and real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from workbench.errors import Conflict, RunProblem, UsageError
from workbench.records import Attempt, Run, RunState, utc_now
from workbench.runs import launch, liveness
from workbench.runs.identity import boot_id, host_name, lock_held, start_time
from workbench.store import runs as run_store
from workbench.store.database import Store

Until = Callable[..., Run]


def pids(store: Store, run: Run) -> Attempt:
    return run_store.list_attempts(store, run.id)[-1]


def gone(pid: int, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if start_time(pid) is None:
            return True
        time.sleep(0.05)
    return False


def stepping(run: Run) -> bool:
    return run.state is RunState.RUNNING and run.progress.done >= 3


def test_a_run_finishes_with_its_result_its_metrics_and_no_process_left(scripted: Store, until: Until):
    run = launch.launch_run(scripted, "script", {"steps": 5}, name="five steps")
    run = until(run.id, RunState.FINISHED)
    assert run.result["answer"] == 42 and run.failure is None and run.progress.done == 5
    assert [(m.step, m.value) for m in run_store.list_metrics(scripted, run.id)] == [(s, 1 / s) for s in range(1, 6)]
    attempt = pids(scripted, run)
    assert attempt.exit_code == 0 and gone(attempt.worker_pid) and gone(attempt.supervisor_pid)
    assert not lock_held(scripted.settings.run_dir(run.id))


def test_a_problem_is_told_with_its_place_and_remedy_and_without_a_traceback(scripted: Store, until: Until):
    run = until(launch.launch_run(scripted, "script", {"end": "problem"}).id, RunState.FAILED)
    assert run.failure.message == "row 18, column 'output': empty."
    assert run.failure.remedy == "Fill it or drop the row."


@pytest.mark.parametrize(
    ("end", "words"),
    [("raise", "the sky fell"), ("oom", "not enough memory"), ("exit", "ended at once"), ("nan", "not a number")],
)
def test_each_bad_end_is_a_failure_in_words(scripted: Store, until: Until, end: str, words: str):
    run = until(launch.launch_run(scripted, "script", {"end": end}).id, RunState.FAILED)
    assert words in run.failure.message and run.failure.remedy
    assert "Traceback" not in run.failure.message


def test_a_config_that_does_not_hold_is_refused_before_anything_is_stored(scripted: Store):
    with pytest.raises(UsageError, match="steps"):
        launch.launch_run(scripted, "script", {"steps": -1})
    with pytest.raises(UsageError, match="stepz"):
        launch.launch_run(scripted, "script", {"stepz": 1})
    with pytest.raises(UsageError, match="no such kind"):
        launch.launch_run(scripted, "nonsense", {})
    assert run_store.list_runs(scripted) == []


def test_stop_ends_at_a_step_and_resume_goes_on_from_there(scripted: Store, until: Until):
    run = launch.launch_run(scripted, "script", {"steps": 60})
    until(run.id, stepping)
    launch.stop_run(scripted, run.id)
    stopped = until(run.id, RunState.STOPPED)
    assert stopped.failure is None and 3 <= stopped.progress.done < 60
    launch.resume_run(scripted, run.id)
    done = until(run.id, RunState.FINISHED)
    assert done.attempt == 2
    points = run_store.list_metrics(scripted, run.id)
    assert [m.step for m in points] == list(range(1, 61))
    assert {m.attempt for m in points} == {1, 2}


def test_a_run_that_ignores_stop_is_killed_after_the_grace_time(scripted: Store, until: Until):
    run = launch.launch_run(scripted, "script", {"steps": 4000, "ignore_stop": True, "children": 1})
    until(run.id, stepping)
    launch.stop_run(scripted, run.id)
    stopped = until(run.id, RunState.STOPPED)
    assert "did not reach its next checkpoint" in stopped.failure.message
    child = int((scripted.settings.run_dir(run.id) / "children.txt").read_text())
    assert gone(child)


def test_a_killed_worker_is_interrupted_its_children_end_and_the_queue_moves_on(scripted: Store, until: Until):
    first = launch.launch_run(scripted, "script", {"steps": 4000, "children": 2})
    second = launch.launch_run(scripted, "script", {"steps": 1})
    assert second.state is RunState.QUEUED
    until(first.id, stepping)
    os.kill(pids(scripted, first).worker_pid, signal.SIGKILL)
    # Nobody looks: the supervisor alone tells the end and starts the next one.
    until(second.id, RunState.FINISHED, reap=False)
    first = run_store.get_run(scripted, first.id)
    assert first.state is RunState.INTERRUPTED and "SIGKILL" in first.failure.message
    children = (scripted.settings.run_dir(first.id) / "children.txt").read_text().split()
    assert all(gone(int(child)) for child in children)


def test_a_killed_supervisor_leaves_the_worker_at_work_and_the_worker_moves_the_queue_on(scripted: Store, until: Until):
    first = launch.launch_run(scripted, "script", {"steps": 30})
    second = launch.launch_run(scripted, "script", {"steps": 1})
    until(first.id, stepping)
    os.kill(pids(scripted, first).supervisor_pid, signal.SIGKILL)
    liveness.reap(scripted)
    assert run_store.get_run(scripted, first.id).state is RunState.RUNNING
    until(second.id, RunState.FINISHED, reap=False)
    assert run_store.get_run(scripted, first.id).state is RunState.FINISHED


def test_stop_still_works_when_the_supervisor_is_gone(scripted: Store, until: Until):
    run = launch.launch_run(scripted, "script", {"steps": 4000})
    until(run.id, stepping)
    os.kill(pids(scripted, run).supervisor_pid, signal.SIGKILL)
    launch.stop_run(scripted, run.id)
    until(run.id, RunState.STOPPED)


def test_a_deaf_worker_without_supervisor_is_killed_after_the_grace_time_by_the_next_look(
    scripted: Store, until: Until
):
    run = launch.launch_run(scripted, "script", {"steps": 4000, "ignore_stop": True})
    until(run.id, stepping)
    attempt = pids(scripted, run)
    os.kill(attempt.supervisor_pid, signal.SIGKILL)
    launch.stop_run(scripted, run.id)
    until(run.id, RunState.STOPPED)
    assert gone(attempt.worker_pid)


def test_when_worker_and_supervisor_are_both_killed_the_next_look_tells_it_and_starts_the_next(
    scripted: Store, until: Until
):
    first = launch.launch_run(scripted, "script", {"steps": 4000})
    second = launch.launch_run(scripted, "script", {"steps": 1})
    until(first.id, stepping)
    attempt = pids(scripted, first)
    os.kill(attempt.supervisor_pid, signal.SIGKILL)
    os.kill(attempt.worker_pid, signal.SIGKILL)
    gone(attempt.worker_pid)
    until(first.id, RunState.INTERRUPTED, seconds=5)
    until(second.id, RunState.FINISHED)


def test_a_dispatcher_killed_between_claim_and_spawn_leaves_an_interrupted_run_that_resumes(
    scripted: Store, until: Until
):
    run = run_store.add_run(scripted, kind="script", name="claimed", slot="train", spec={"steps": 1})
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    began = psutil.Process(dead.pid).create_time()
    dead.wait()
    claimed = run_store.claim_next(scripted, "train", 1)
    run_store.put_attempt(
        scripted,
        Attempt(run_id=run.id, number=claimed.attempt, host=host_name(), boot_id=boot_id(), supervisor_pid=dead.pid,
                supervisor_start=began, started_at=utc_now()),
    )  # fmt: skip
    until(run.id, RunState.INTERRUPTED, seconds=2)
    launch.resume_run(scripted, run.id)
    until(run.id, RunState.FINISHED)


def test_a_supervisor_killed_before_its_worker_started_is_told_within_seconds(scripted: Store, until: Until):
    run = launch.launch_run(scripted, "script", {"steps": 4000})
    os.kill(pids(scripted, run).supervisor_pid, signal.SIGKILL)
    until(run.id, RunState.INTERRUPTED, seconds=10)


def test_a_pid_given_to_another_process_does_not_keep_a_run_alive(scripted: Store):
    run = run_store.add_run(scripted, kind="script", name="old", slot="train", spec={})
    claimed = run_store.claim_next(scripted, "train", 1)
    run_store.put_attempt(
        scripted,
        Attempt(run_id=run.id, number=claimed.attempt, host=host_name(), boot_id=boot_id(), supervisor_pid=os.getpid(),
                supervisor_start=1.0, started_at=utc_now()),
    )  # fmt: skip
    liveness.reap(scripted)
    assert run_store.get_run(scripted, run.id).state is RunState.INTERRUPTED


def test_only_one_of_two_resumes_wins(scripted: Store, until: Until):
    run = launch.launch_run(scripted, "script", {"steps": 60})
    until(run.id, stepping)
    launch.stop_run(scripted, run.id)
    until(run.id, RunState.STOPPED)
    results: list[str] = []

    def resume() -> None:
        try:
            launch.resume_run(scripted, run.id)
            results.append("won")
        except RunProblem:
            results.append("refused")

    threads = [threading.Thread(target=resume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["refused"] * 3 + ["won"]
    until(run.id, RunState.FINISHED)
    assert run_store.get_run(scripted, run.id).attempt == 2


def test_slots_bound_how_many_runs_of_a_class_work_at_once(scripted: Store, until: Until):
    runs = [launch.launch_run(scripted, "script_io", {"steps": 20}) for _ in range(4)]
    services = [launch.launch_run(scripted, "script_service", {"steps": 20}) for _ in range(2)]
    assert [run.state is RunState.QUEUED for run in runs] == [False, False, True, True]
    assert all(service.state is not RunState.QUEUED for service in services)
    for run in runs + services:
        until(run.id, RunState.FINISHED)


def test_a_queued_run_is_stopped_at_once_and_an_ended_one_cannot_be_stopped(scripted: Store, until: Until):
    first = launch.launch_run(scripted, "script", {"steps": 4000})
    second = launch.launch_run(scripted, "script", {"steps": 1})
    assert launch.stop_run(scripted, second.id).state is RunState.STOPPED
    with pytest.raises(RunProblem, match="already ended"):
        launch.stop_run(scripted, second.id)
    with pytest.raises(Conflict, match="still at work"):
        launch.archive_run(scripted, first.id)
    launch.stop_run(scripted, first.id)
    until(first.id, RunState.STOPPED)
    launch.archive_run(scripted, first.id)
    assert first.id not in [run.id for run in run_store.list_runs(scripted)]


def test_a_stop_pressed_while_the_run_is_starting_is_not_lost(scripted: Store, until: Until):
    run = launch.launch_run(scripted, "script", {"steps": 4000})
    launch.stop_run(scripted, run.id)
    until(run.id, RunState.STOPPED)


def test_runs_outlive_the_process_that_launched_them(scripted: Store, until: Until):
    code = (
        "from workbench.runs.launch import launch_run; from workbench.store.database import open_store;"
        "print(launch_run(open_store(), 'script', {'steps': 20}).id)"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    until(made.stdout.strip(), RunState.FINISHED)
