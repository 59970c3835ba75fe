"""Runs as the pages show them: state, progress, what to compare, and the notice when one has ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

import streamlit as st

from workbench.api import Workspace
from workbench.records import Failure, Run, RunState, utc_now
from workbench.runs.kinds import KINDS
from workbench.store.lineage import read_inputs
from workbench.ui.errors import shown_errors
from workbench.ui.links import PLAYGROUND, RUNS, link_to, run_query, variants_query
from workbench.ui.state import LAST_LOOK
from workbench.ui.store import workspace
from workbench.ui.text import ago, duration, exact, figure, plain

Color = Literal["red", "orange", "blue", "green", "gray", "violet"]

STATES: dict[RunState, tuple[str, str, Color]] = {
    RunState.QUEUED: ("Queued", "hourglass_empty", "gray"),
    RunState.STARTING: ("Starting", "rocket_launch", "blue"),
    RunState.RUNNING: ("Running", "play_circle", "blue"),
    RunState.FINISHED: ("Finished", "check_circle", "green"),
    RunState.FAILED: ("Failed", "error", "red"),
    RunState.STOPPED: ("Stopped", "stop_circle", "orange"),
    RunState.INTERRUPTED: ("Interrupted", "power_off", "orange"),
}
ACTIVE = tuple(state for state in RunState if state.active)


def kind_name(kind: str) -> str:
    """The kind of a run in words."""
    return KINDS[kind].title if kind in KINDS else kind.replace("_", " ").capitalize()


def state_badge(run: Run) -> None:
    """The run's state as a badge; a run that was asked to stop says so."""
    label, icon, color = STATES[run.state]
    if run.state is RunState.RUNNING and run.stop_requested_at is not None:
        label, icon, color = "Stopping", "stop_circle", "orange"
    st.badge(label, icon=f":material/{icon}:", color=color, help=_state_help(run))


def _state_help(run: Run) -> str:
    lines = [f"Launched {exact(run.created_at)}"]
    if run.started_at:
        lines.append(f"started {exact(run.started_at)}")
    if run.ended_at:
        lines.append(f"ended {exact(run.ended_at)}")
    if run.state.active and run.heartbeat_at:
        lines.append(f"last sign of life {ago(run.heartbeat_at)}")
    return plain("; ".join(lines))


def failure_words(failure: Failure) -> str:
    """Why a run failed and what to do, as Markdown. A name that the message begins with is left as it is written."""
    first, *_ = failure.message.split(maxsplit=1) or [""]
    said = failure.message[:1].upper() + failure.message[1:] if first.isalpha() else failure.message
    return plain(said) + (f"\n\n{plain(failure.remedy)}" if failure.remedy else "")


def progress_line(run: Run) -> str:
    """Phase, how far, and how long still, on one line of plain text."""
    told = run.progress
    if run.state is RunState.QUEUED:
        return "Waiting for its turn"
    parts = [told.phase[:1].upper() + told.phase[1:] if told.phase else "Starting"]
    if told.total:
        parts.append(f"{figure(told.done)} of {figure(told.total)} {told.unit}".rstrip())
    elif told.done:
        parts.append(f"{figure(told.done)} {told.unit}".rstrip())
    if told.eta_s is not None and run.state.active:
        parts.append(f"about {duration(told.eta_s)} left")
    return ", ".join(parts)


def progress_bar(run: Run) -> None:
    """A bar where the total is known, a line of text where it is not."""
    share = run.progress.share
    if run.state is not RunState.QUEUED and share is not None:
        st.progress(share, text=plain(progress_line(run)))
    else:
        st.caption(plain(progress_line(run)))
    if run.progress.note:
        st.caption(plain(run.progress.note))


def show_queue(ws: Workspace, run: Run) -> None:
    """What a queued run waits for: the runs that hold its slot."""
    if run.state is not RunState.QUEUED:
        return
    working = ws.runs(states=(RunState.STARTING, RunState.RUNNING))
    for other in working:
        if other.slot == run.slot:
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.caption("It starts when this one ends:", width="content")
                run_link(other)


def took(run: Run) -> str:
    """How long the last attempt took, or has taken so far."""
    if run.started_at is None:
        return "–"
    return duration(((run.ended_at or utc_now()) - run.started_at).total_seconds())


def run_link(run: Run, *, label: str | None = None) -> None:
    """A link to the run's page."""
    link_to(RUNS, plain(label or run.name, limit=60), icon="monitoring", **run_query(run))


def compare_pair(ws: Workspace, run: Run) -> tuple[str, str] | None:
    """Ids of the variant that a finished run started from and of the one it made; None where there is no such pair.

    It started from the adapter that it went on from, or from its base model.
    """
    variants = ws.variants()
    wanted = run.result.get("variant_id")
    tuned = next(
        (item for item in variants if wanted == item.id or (item.adapter_path and item.run_id == run.id)), None
    )
    if tuned is None or tuned.model_id is None:
        return None
    start = read_inputs(ws.store, run.id).get("adapter_id")
    before = next((item for item in variants if item.id == start), None) or next(
        (item for item in variants if item.model_id == tuned.model_id and item.adapter_path is None), None
    )
    return None if before is None else (before.id, tuned.id)


def compare_words(ws: Workspace, run: Run) -> str:
    """What the button says that leads to them."""
    went_on = read_inputs(ws.store, run.id).get("adapter_id") is not None
    return "Compare before and after" if went_on else "Compare base and tuned"


def compare_link(ws: Workspace, run: Run) -> None:
    """The link from a finished run to before and after side by side, nothing where there is nothing to compare."""
    pair = compare_pair(ws, run) if run.state is RunState.FINISHED else None
    if pair is not None:
        link_to(PLAYGROUND, compare_words(ws, run), icon="compare_arrows", **variants_query(*pair))


def active_runs(ws: Workspace) -> list[Run]:
    """Runs that wait or work, engines and demos left out, newest first."""
    return [run for run in ws.runs(states=ACTIVE) if run.slot != "service"]


def ended_since(runs: Iterable[Run], moment: datetime) -> list[Run]:
    """Runs that finished or failed after a moment, the earliest first."""
    ended = [
        run
        for run in runs
        if run.state in (RunState.FINISHED, RunState.FAILED) and run.ended_at is not None and run.ended_at > moment
    ]
    return sorted(ended, key=lambda run: run.ended_at or run.created_at)


def notify_ended() -> None:
    """A toast for each run that finished or failed since this session last looked; looks again while one is at work."""
    every = 5 if active_runs(workspace()) else None
    st.fragment(run_every=every)(_notify)()


def _notify() -> None:
    with shown_errors():
        now = utc_now()
        since = st.session_state.get(LAST_LOOK)
        st.session_state[LAST_LOOK] = now
        if since is None:
            return
        recent: Sequence[Run] = workspace().runs(states=(RunState.FINISHED, RunState.FAILED), limit=50)
        for run in ended_since(recent, since):
            if run.slot == "service":
                continue
            if run.state is RunState.FINISHED:
                st.toast(f"{plain(run.name, limit=80)} has finished.", icon=":material/check_circle:", duration="long")
            else:
                reason = f": {plain(run.failure.message, limit=160)}" if run.failure else "."
                st.toast(f"{plain(run.name, limit=80)} failed{reason}", icon=":material/error:", duration="infinite")
