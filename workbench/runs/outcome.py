"""How an attempt ended: the worker writes `outcome.json`, and whoever looks first turns it into the run's state.

The file is what makes the end of a run survive a busy store or a supervisor that was killed meanwhile.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from workbench.errors import Stopped, WorkbenchError
from workbench.records import Failure, Record, RunState, utc_now
from workbench.runs import spool
from workbench.store import runs as run_store
from workbench.store.database import Store

WORKING = (RunState.STARTING, RunState.RUNNING)


class Outcome(Record):
    """What the worker says of its end."""

    attempt: int
    """The attempt it belongs to."""
    state: RunState
    """finished, failed or stopped."""
    failure: Failure | None = None
    """Why it failed."""
    result: dict[str, JsonValue] = {}
    """What it made."""


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write the outcome so that it is either whole or absent."""
    aside = folder / "outcome.json.partial"
    with aside.open("w", encoding="utf-8") as stream:
        stream.write(outcome.model_dump_json())
        stream.flush()
        os.fsync(stream.fileno())
    aside.rename(folder / "outcome.json")


def read_outcome(folder: Path, attempt: int) -> Outcome | None:
    """The outcome of this attempt, None when the worker did not get to write one."""
    try:
        outcome = Outcome.model_validate(json.loads((folder / "outcome.json").read_text("utf-8")))
    except (OSError, ValueError, ValidationError):
        return None
    return outcome if outcome.attempt == attempt else None


def settle(store: Store, run_id: str, attempt: int, exit_code: int | None = None) -> bool:
    """Give a run whose processes have ended its final state.

    Args:
        store: the store.
        run_id: the run.
        attempt: the attempt that ended.
        exit_code: the worker's, negative for a signal; None when nobody saw it.

    Returns:
        Whether this call changed the state.
    """
    folder = store.settings.run_dir(run_id)
    run = run_store.get_run(store, run_id)
    if run.attempt != attempt or run.state not in WORKING:
        return False
    spool.drain(store, run_id, folder)
    outcome = read_outcome(folder, attempt)
    if outcome is None:
        asked, began = run.stop_requested_at is not None, run.state is not RunState.STARTING
        state, failure = _without_outcome(exit_code, asked=asked, began=began, trains=run.slot == "train")
        outcome = Outcome(attempt=attempt, state=state, failure=failure)
    now = utc_now()
    run_store.update_attempt(store, run_id, attempt, ended_at=now, exit_code=exit_code)
    return run_store.update_run(
        store,
        run_id,
        only_in=WORKING,
        state=outcome.state,
        failure=outcome.failure.model_dump(mode="json") if outcome.failure else None,
        result={**run.result, **outcome.result},
        progress=run.progress.model_copy(update={"eta_s": None}),
        ended_at=now,
        stop_requested_at=None,
    )


def _without_outcome(
    exit_code: int | None, *, asked: bool, began: bool, trains: bool
) -> tuple[RunState, Failure | None]:
    if asked and (not began or exit_code == -signal.SIGTERM):
        return RunState.STOPPED, None  # before the work could listen for Stop: nothing is lost
    if asked:
        return RunState.STOPPED, Failure(
            error="Stopped",
            message="It did not reach its next checkpoint in time and was ended.",
            remedy="Resume continues from the last checkpoint it had written.",
        )
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
        guess = " The machine may have run out of memory." if -exit_code == signal.SIGKILL else ""
        return RunState.INTERRUPTED, Failure(
            error=name,
            message=f"Its process was ended from outside by {name}.{guess}",
            remedy="Resume it; if it happens again, "
            + ("make the batches or the sequence length smaller." if trains else "close other programs first."),
        )
    if exit_code is not None and exit_code > 0:
        return RunState.FAILED, Failure(
            error=f"exit code {exit_code}", message="The process ended at once.", remedy="Its log says why."
        )
    return RunState.INTERRUPTED, Failure(
        error="Vanished",
        message="Its process is gone: the machine was switched off, or somebody ended it.",
        remedy="Resume continues from the last checkpoint.",
    )


def failure_of(error: BaseException) -> Failure:
    """An exception as a failure that a person can act on."""
    name = type(error).__name__
    if isinstance(error, WorkbenchError):
        message = WorkbenchError(error.what, place=error.place, value=error.value).sentence()
        return Failure(error=name, message=message, remedy=error.remedy)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(
            error=name,
            message="The disk is full.",
            remedy="Free some space, then resume; the last checkpoint is untouched.",
        )
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return Failure(
            error=name,
            message="There was not enough memory.",
            remedy="Use fewer tokens per batch, a shorter maximum length or a smaller model, then try again.",
        )
    if isinstance(error, ModuleNotFoundError):
        return Failure(error=name, message=f"A package is missing: {error.name}.", remedy="Run `make setup`.")
    text = str(error).strip().splitlines()
    return Failure(
        error=name,
        message=f"{name}: {text[0][:400] if text else 'no message'}",
        remedy="The end of the log shows where. If the input looks right, this is a defect worth reporting.",
    )


def outcome_of(attempt: int, error: BaseException | None, result: Mapping[str, Any]) -> Outcome:
    """The outcome of an attempt that returned, or that raised."""
    if error is None:
        return Outcome(attempt=attempt, state=RunState.FINISHED, result=dict(result))
    if isinstance(error, Stopped):
        return Outcome(attempt=attempt, state=RunState.STOPPED, result=dict(result))
    return Outcome(attempt=attempt, state=RunState.FAILED, failure=failure_of(error), result=dict(result))
