"""The demo as a run: real processes, a real engine with a tiny model, and the engine killed while somebody asks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client

from tests.tiny import make_adapter, make_model, register_model, register_variant
from workbench.api import Workspace
from workbench.records import Run, RunState
from workbench.store import rankings as ranking_store
from workbench.store import runs as run_store

pytestmark = pytest.mark.slow
ACTIVE = [RunState.QUEUED, RunState.STARTING, RunState.RUNNING]


@pytest.fixture
def ws(home: Path) -> Iterator[Workspace]:
    workspace = Workspace()
    yield workspace
    for run in workspace.runs(states=ACTIVE, archived=True):
        workspace.stop(run.id)
        workspace.wait(run.id, timeout_s=60)
    workspace.store.close()


def serving(ws: Workspace, run: Run) -> Run:
    for told in ws.iter_progress(run.id):
        run = told
        if run.progress.phase == "serving" and "address" in run.result:
            return run
    raise AssertionError(ws.log(run.id))


def kill_engine(ws: Workspace) -> None:
    (engine,) = ws.runs(kinds=["serve"], states=ACTIVE)
    attempt = run_store.list_attempts(ws.store, engine.id)[-1]
    assert attempt.worker_pid is not None
    os.kill(attempt.worker_pid, signal.SIGKILL)


@pytest.mark.timeout(240)
def test_a_demo_starts_serves_outlives_its_engine_and_stops(ws: Workspace, tmp_path: Path) -> None:
    model = register_model(ws.store, make_model(tmp_path / "model", context=8192))
    adapter = make_adapter(Path(str(model.path)), tmp_path / "adapter")
    tuned = register_variant(ws.store, model, adapter)
    run = serving(ws, ws.start_demo(["tiny", tuned.name], title="Tiny", max_tokens=8000, temperature=1.0))
    assert ws.demos() == [ws.run(run.id)] and ws.demo_password(run.id) is None

    client = Client(str(run.result["address"]), verbose=False)
    job = client.submit("Name three colours", api_name="/compare")
    deadline = time.monotonic() + 90
    while not any(first or second for first, second, _ in job.outputs()) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill_engine(ws)
    answers = job.result(timeout=30)[:2]
    assert any("broke off" in text for text in answers), [text[-300:] for text in answers]

    again = client.submit("Name three colours", api_name="/arena")
    while not any(first and second for first, second, _ in again.outputs()) and time.monotonic() < deadline + 60:
        time.sleep(0.05)
    assert any(first and second for first, second, _ in again.outputs()), "the engine was not started anew"
    assert ranking_store.list_queues(ws.store) == []

    ws.stop(run.id)
    ended = ws.wait(run.id, timeout_s=20)
    assert ended.state is RunState.STOPPED and ended.result["questions"] == 2
    assert ws.demos() == [] and ws.demos(ended=True) == [ended]


def test_a_demo_of_an_unknown_variant_is_refused_before_it_starts(ws: Workspace) -> None:
    from workbench.errors import NotFound, UsageError

    with pytest.raises(NotFound):
        ws.start_demo(["nobody", "no one"])
    assert ws.runs(kinds=["demo"]) == []
    with pytest.raises(UsageError, match="variants"):
        ws.start_demo([])


def test_a_given_password_is_in_the_folder_alone(ws: Workspace, tmp_path: Path) -> None:
    model = register_model(ws.store, make_model(tmp_path / "model"))
    register_variant(ws.store, model)
    from workbench.errors import UsageError

    with pytest.raises(UsageError, match="password"):
        ws.start_demo(["tiny", "tiny tuned"], password="short")
    run = serving(ws, ws.start_demo(["tiny", "tiny tuned"], password="correct horse", bind="0.0.0.0"))
    assert ws.demo_password(run.id) == "correct horse"
    assert "correct horse" not in ws.run(run.id).model_dump_json() + ws.log(run.id)
    assert b"correct horse" not in (ws.settings.home / "workbench.db").read_bytes()
    assert "correct horse" not in (ws.settings.run_dir(run.id) / "spec.json").read_text()
