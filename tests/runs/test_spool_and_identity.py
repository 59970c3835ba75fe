"""The metric spool loses and doubles nothing; locks and process identities tell the truth."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.errors import StoreProblem
from workbench.records import Metric, utc_now
from workbench.runs import spool
from workbench.runs.identity import lock_held, start_time, take_lock
from workbench.store import runs as run_store
from workbench.store.database import Store


@pytest.fixture
def run_id(store: Store) -> str:
    return run_store.add_run(store, kind="script", name="r", slot="train", spec={}).id


def points(steps: range, attempt: int = 1) -> list[Metric]:
    return [Metric(attempt=attempt, step=step, name="loss", value=float(step), at=utc_now()) for step in steps]


def test_draining_twice_or_from_the_start_doubles_nothing(store: Store, run_id: str, tmp_path: Path):
    spool.append(tmp_path, points(range(10)))
    assert spool.drain(store, run_id, tmp_path) == 10
    assert spool.drain(store, run_id, tmp_path) == 0
    (tmp_path / "metrics.offset").unlink()
    spool.append(tmp_path, points(range(10, 12)))
    spool.drain(store, run_id, tmp_path)
    assert [m.value for m in run_store.list_metrics(store, run_id)] == [float(step) for step in range(12)]


def test_a_line_cut_by_a_kill_is_left_for_later_and_rubbish_is_skipped(store: Store, run_id: str, tmp_path: Path):
    spool.append(tmp_path, points(range(2)))
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write("rubbish\n")
    whole = points(range(2, 3))[0].model_dump_json()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write(whole[:20])
    assert spool.drain(store, run_id, tmp_path) == 2
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write(whole[20:] + "\n")
    assert spool.drain(store, run_id, tmp_path) == 1


def test_a_line_cut_by_a_kill_takes_no_later_point_with_it(store: Store, run_id: str, tmp_path: Path):
    spool.append(tmp_path, points(range(1, 2)))
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"attempt": 1, "st')
    assert spool.drain(store, run_id, tmp_path) == 1
    spool.append(tmp_path, points(range(2, 4)))
    assert spool.drain(store, run_id, tmp_path) == 2
    assert sorted(each.step for each in run_store.list_metrics(store, run_id)) == [1, 2, 3]


def test_points_wait_in_the_spool_while_the_store_is_busy(
    store: Store, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spool.append(tmp_path, points(range(3)))

    def busy(*_: object) -> None:
        raise StoreProblem("the database stayed busy for 30 seconds")

    with monkeypatch.context() as patched:
        patched.setattr(run_store, "add_metrics", busy)
        assert spool.drain(store, run_id, tmp_path) == 0
    assert spool.drain(store, run_id, tmp_path) == 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_whatever_the_moments_of_draining_every_point_arrives_once(store: Store, tmp_path: Path, cuts: list[int]):
    run_id = run_store.add_run(store, kind="script", name="r", slot="train", spec={}).id
    folder = tmp_path / run_id
    folder.mkdir()
    step = 0
    for cut in cuts:
        spool.append(folder, points(range(step, step + cut)))
        step += cut
        spool.drain(store, run_id, folder)
    assert [m.step for m in run_store.list_metrics(store, run_id)] == list(range(step))


def test_a_later_attempt_s_point_is_the_one_that_counts(store: Store, run_id: str):
    run_store.add_metrics(store, run_id, points(range(5)))
    redone = [m.model_copy(update={"value": -1.0}) for m in points(range(3, 7), attempt=2)]
    run_store.add_metrics(store, run_id, redone)
    assert [m.value for m in run_store.list_metrics(store, run_id)] == [0.0, 1.0, 2.0, -1.0, -1.0, -1.0, -1.0]


def test_a_long_series_is_thinned_for_charts_and_keeps_its_last_point(store: Store, run_id: str):
    run_store.add_metrics(store, run_id, points(range(1, 10_001)))
    run_store.add_metrics(store, run_id, [m.model_copy(update={"name": "eval_loss"}) for m in points(range(5))])
    found = run_store.list_metrics(store, run_id, most=300)
    loss = [m.step for m in found if m.name == "loss"]
    assert 250 <= len(loss) <= 302 and loss[-1] == 10_000 and loss == sorted(loss)
    assert len([m for m in found if m.name == "eval_loss"]) == 5
    assert len(run_store.list_metrics(store, run_id, ["loss"])) == 10_000


def test_the_lock_is_held_until_the_last_process_that_inherited_it_ends(tmp_path: Path):
    assert not lock_held(tmp_path)
    lock = take_lock(tmp_path)
    assert lock is not None and lock_held(tmp_path) and take_lock(tmp_path) is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    os.close(lock)
    assert lock_held(tmp_path)
    child.communicate(b"\n")
    assert not lock_held(tmp_path)


def test_a_zombie_does_not_count_as_alive():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    while start_time(child.pid) is not None:
        pass
    child.wait()
