"""Launch, dispatch, stop, resume and archive runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Mapping
from typing import Any

from workbench.errors import Conflict, RunProblem
from workbench.records import Attempt, Run, RunConfig, RunState, utc_now
from workbench.runs import liveness
from workbench.runs.identity import boot_id, host_name, process_lives, start_time
from workbench.runs.kinds import check_launch, get_kind, parse_config, slot_limits
from workbench.runs.launchers import local
from workbench.runs.outcome import failure_of
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.datasets import LONGEST_NAME, tidy_name


def launch_run(
    store: Store,
    kind: str,
    config: RunConfig | Mapping[str, Any],
    *,
    name: str | None = None,
    run_id: str | None = None,
) -> Run:
    """Enter a run and start it, or leave it queued when its slot is taken.

    Args:
        store: the store.
        kind: a name that `kinds.all_kinds` knows.
        config: the kind's config or its fields.
        name: shown name; the config's own `name`, else the kind's title, when None.
        run_id: an unused id whose folder was prepared, for what must be there when the worker starts.

    Raises:
        UsageError: the kind is unknown or the config does not hold.
        WorkbenchError: what it names is not there, or does not go together; the kind's own check says so.
    """
    checked = parse_config(kind, config)
    check_launch(store, kind, checked)
    shown = name or getattr(checked, "name", None) or get_kind(kind).title
    run = run_store.add_run(
        store,
        kind=kind,
        name=_cut(str(shown)),
        slot=get_kind(kind).slot,
        spec=checked.model_dump(mode="json"),
        run_id=run_id,
    )
    dispatch(store)
    return run_store.get_run(store, run.id)


def _cut(name: str) -> str:
    # Names of runs are made from names of other things, which may be as long as a name can be.
    name = tidy_name(name) or "Unnamed"
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def dispatch(store: Store) -> list[str]:
    """Start queued runs while their slots have room.

    Returns:
        Ids of the runs that were started.
    """
    started = []
    for slot, limit in slot_limits(store.settings).items():
        while (run := run_store.claim_next(store, slot, limit)) is not None:
            _start(store, run)
            started.append(run.id)
    return started


def _start(store: Store, run: Run) -> None:
    # Until the supervisor has entered itself, this process stands for the run: should it be killed between claim and
    # spawn, the next look sees a dead process and tells the run as interrupted.
    me = os.getpid()
    run_store.put_attempt(
        store,
        Attempt(
            run_id=run.id,
            number=run.attempt,
            host=host_name(),
            boot_id=boot_id(),
            supervisor_pid=me,
            supervisor_start=start_time(me),
            started_at=utc_now(),
        ),
    )
    try:
        folder = store.settings.run_dir(run.id)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "spec.json").write_text(json.dumps({"kind": run.kind, **run.spec}, indent=2), encoding="utf-8")
        pid = local.start(store.settings, run)
    except OSError as error:
        run_store.update_run(
            store,
            run.id,
            only_in=[RunState.STARTING],
            state=RunState.FAILED,
            failure=failure_of(error),
            ended_at=utc_now(),
        )
        return
    run_store.update_attempt(store, run.id, run.attempt, supervisor_pid=pid, supervisor_start=start_time(pid))


def stop_run(store: Store, run_id: str) -> Run:
    """Ask a run to stop: a queued one at once, a working one after its next checkpoint.

    Raises:
        RunProblem: it has already ended.
    """
    now = utc_now()
    if run_store.update_run(store, run_id, only_in=[RunState.QUEUED], state=RunState.STOPPED, ended_at=now):
        return run_store.get_run(store, run_id)
    working = [RunState.STARTING, RunState.RUNNING]
    run = run_store.get_run(store, run_id)
    if run.stop_requested_at is None and not run_store.update_run(
        store, run_id, only_in=working, stop_requested_at=now
    ):
        raise RunProblem(
            "the run has already ended", place=run.name, value=run.state.value, remedy="There is nothing to stop."
        )
    _signal(store, run_id, run.attempt)
    return run_store.get_run(store, run_id)


def _signal(store: Store, run_id: str, number: int) -> None:
    for attempt in run_store.list_attempts(store, run_id):
        if attempt.number != number or attempt.host != host_name():
            continue
        # The supervisor passes the signal on and ends the group after the grace time; without it, the worker is asked
        # directly and `liveness.reap` keeps the time.
        supervisor = attempt.supervisor_pid if attempt.supervisor_pid != os.getpid() else None
        for pid, started in ((supervisor, attempt.supervisor_start), (attempt.worker_pid, attempt.worker_start)):
            if pid is not None and process_lives(attempt, pid, started):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                return


def resume_run(store: Store, run_id: str) -> Run:
    """Queue a stopped, failed or interrupted run again; it continues from its last checkpoint.

    Raises:
        RunProblem: it is not in a state to resume, or somebody else has just resumed it.
    """
    liveness.reap(store)
    run = run_store.get_run(store, run_id)
    resumable = [state for state in RunState if state.resumable]
    changed = run_store.update_run(
        store,
        run_id,
        only_in=resumable,
        state=RunState.QUEUED,
        queued_at=utc_now(),
        stop_requested_at=None,
        archived_at=None,
    )
    if not changed:
        state = run_store.get_run(store, run_id).state
        raise RunProblem(
            "only a stopped, failed or interrupted run can be resumed",
            place=run.name,
            value=state.value,
            remedy="Clone it to do it again." if state is RunState.FINISHED else "It is already on its way.",
        )
    dispatch(store)
    return run_store.get_run(store, run_id)


def archive_run(store: Store, run_id: str, archived: bool = True) -> None:
    """Put a run away, or take it out again.

    Raises:
        Conflict: it is still at work.
    """
    run = run_store.get_run(store, run_id)
    if archived and run.state.active:
        raise Conflict("the run is still at work", place=run.name, remedy="Stop it first.")
    run_store.update_run(store, run_id, archived_at=utc_now() if archived else None)
