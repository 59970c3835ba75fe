"""Reward and RLOO runs as real processes: stopped, killed, resumed by several at once, their reward asked to go."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from tests.training.test_rlhf import make_reward_model
from workbench.datasets.versions import write_version
from workbench.errors import Conflict, RunProblem
from workbench.records import Message, Preference, Run, RunState
from workbench.runs import launch, liveness
from workbench.settings import get_settings
from workbench.store import deletion
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store, open_store
from workbench.store.datasets import create_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
STEPS = 12


@pytest.fixture
def store(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A home with a tiny model and preferences; whatever is left at the end is killed."""
    monkeypatch.setenv("WORKBENCH_THREADS", "1")
    get_settings.cache_clear()
    made = open_store(get_settings())
    tiny.register_model(made, tiny.make_model(tmp_path / "base"))
    rows = [
        Preference(
            prompt=(Message(role="user", content=f"What is thing {n}?"),),
            chosen=(Message(role="assistant", content="the sea is wide"),),
            rejected=(Message(role="assistant", content="0123456789 " * (1 + n % 3)),),
        )
        for n in range(24)
    ]
    write_version(made, create_dataset(made, "pairs", "preferences").id, rows)
    yield made
    for run in run_store.list_runs(made, archived=True):
        for attempt in run_store.list_attempts(made, run.id):
            for pid in (attempt.supervisor_pid, attempt.worker_pid):
                if pid and pid != os.getpid() and run.state.active:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
    made.close()


def until(
    store: Store, run_id: str, condition: Callable[[Run], bool], seconds: float = 120, may_fail: bool = False
) -> Run:
    deadline = time.monotonic() + seconds
    while True:
        liveness.reap(store)
        run = run_store.get_run(store, run_id)
        if condition(run):
            return run
        if time.monotonic() > deadline or (run.state is RunState.FAILED and not may_fail):
            log = store.settings.run_dir(run_id) / "worker.log"
            raise AssertionError(f"{run!r}\n{log.read_text() if log.exists() else 'no log'}")
        time.sleep(0.05)


def start(store: Store, kind: str, **fields: Any) -> Run:
    common = {"dataset": "pairs", "model": "tiny", "preset": "custom", "max_steps": STEPS, "save_every": 1}
    return launch.launch_run(store, kind, common | fields, name=kind)


def resume_at_once(store: Store, run_id: str, times: int = 2) -> list[str]:
    """What became of several resumes from as many threads."""
    results: list[str] = []
    ready = threading.Barrier(times)

    def resume() -> None:
        ready.wait()
        try:
            launch.resume_run(store, run_id)
            results.append("won")
        except RunProblem:
            results.append("refused")

    threads = [threading.Thread(target=resume) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(results)


def finished(run: Run) -> bool:
    return run.state is RunState.FINISHED


def steps_told(store: Store, run_id: str) -> list[int]:
    return sorted(point.step for point in run_store.list_metrics(store, run_id, ["loss"]))


def test_a_reward_run_stopped_goes_on_once_and_an_rl_run_outlives_a_kill_with_its_reward_kept(store: Store) -> None:
    long = 300  # seconds of steps, so that it is still at work when it hears
    reward = start(
        store, "reward", tokens_per_batch=64, max_length=64, answered_prompts=0, eval_every=0, max_steps=long
    )
    until(store, reward.id, lambda run: len(steps_told(store, run.id)) >= 2)
    launch.stop_run(store, reward.id)
    until(store, reward.id, lambda run: run.state is RunState.STOPPED)
    assert resume_at_once(store, reward.id) == ["refused", "won"]
    until(store, reward.id, finished)
    assert steps_told(store, reward.id) == list(range(1, long + 1))

    rloo = start(
        store, "rloo", reward="reward", prompts_per_step=2, answers_per_prompt=2, max_answer_tokens=16, eval_every=0
    )
    with pytest.raises(Conflict, match="the run 'rloo', which is at work with it"):
        deletion.delete_run(store, reward.id)  # it has not even looked the name up yet
    until(store, rloo.id, lambda run: len(steps_told(store, run.id)) >= 2)
    os.kill(run_store.list_attempts(store, rloo.id)[-1].worker_pid or 0, signal.SIGKILL)
    until(store, rloo.id, lambda run: run.state is RunState.INTERRUPTED)
    with pytest.raises(Conflict, match="'rloo', which learned from its reward"):
        deletion.delete_run(store, reward.id)
    assert resume_at_once(store, rloo.id, 3) == ["refused", "refused", "won"]
    done = until(store, rloo.id, finished)
    assert done.attempt == 2 and done.result["reward_run_id"] == reward.id
    began = [attempt.resumed_step for attempt in run_store.list_attempts(store, rloo.id)]
    assert began == [None, done.result["resumed_step"]]
    assert sorted(set(steps_told(store, rloo.id))) == list(range(1, STEPS + 1))


def test_a_reward_model_that_goes_while_its_run_is_killed_is_missed_and_once_back_the_run_goes_on(
    store: Store, tmp_path: Path
) -> None:
    reward = make_reward_model(store, model_store.get_model(store, "tiny"), name="taste")
    rloo = start(
        store,
        "rloo",
        reward="taste",
        held_out=0.4,
        prompts_per_step=2,
        answers_per_prompt=2,
        max_answer_tokens=16,
        eval_every=0,
        watch_scorers=["assistant"],
        max_steps=40,
    )
    until(store, rloo.id, lambda run: len(steps_told(store, run.id)) >= 3)
    folder, away = Path(reward.folder), tmp_path / "away"
    shutil.move(folder, away)  # the worker has it in memory; the next one will not
    os.kill(run_store.list_attempts(store, rloo.id)[-1].worker_pid or 0, signal.SIGKILL)
    until(store, rloo.id, lambda run: run.state is RunState.INTERRUPTED)
    launch.resume_run(store, rloo.id)
    failed = until(store, rloo.id, lambda run: run.state is RunState.FAILED, may_fail=True)
    assert failed.failure is not None and "the reward model is gone" in failed.failure.message
    assert "Put it back and resume; nothing learned so far is lost" in failed.failure.remedy
    shutil.move(away, folder)
    launch.resume_run(store, rloo.id)
    done = until(store, rloo.id, lambda run: run.state is not RunState.QUEUED and finished(run))
    assert done.attempt == 3 and int(str(done.result["resumed_step"])) >= 2
    assert sorted(set(steps_told(store, rloo.id))) == list(range(1, 41))
    again = run_store.list_metrics(store, rloo.id, ["eval_assistant"])
    assert {point.step for point in again} == {0, 40}
