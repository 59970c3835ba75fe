"""Follow a run to its end: a progress line for people, silence for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from workbench.cli import output
from workbench.cli.output import plain
from workbench.errors import RunProblem
from workbench.records import Interval, Run, RunState
from workbench.runs.words import describe_progress

if TYPE_CHECKING:
    from workbench.api import Workspace


def follow(workspace: Workspace, run: Run) -> Run:
    """Show a run's progress on standard error until it has ended; leaving with Ctrl-C leaves it running."""
    try:
        if output.surface.json:
            return workspace.wait(run.id)
        if sys.stderr.isatty():
            return _follow_live(workspace, run)
        return _follow_plain(workspace, run)
    except KeyboardInterrupt:
        output.note(f"The run goes on in the background. `workbench runs watch {run.id}` shows it again.")
        raise


def _follow_live(workspace: Workspace, run: Run) -> Run:
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.fields[name]}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=output.console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, name=plain(run.name))
        for now in workspace.iter_progress(run.id):
            told, run = now.progress, now
            bar.update(task, description=describe(now), completed=told.done, total=told.total or None)
    return run


def _follow_plain(workspace: Workspace, run: Run) -> Run:
    last = ""
    for now in workspace.iter_progress(run.id):
        run = now
        phase = run.progress.phase or run.state.value
        if phase != last and run.state.active:
            output.note(f"{run.name}: {phase}")
            last = phase
    return run


def describe(run: Run) -> str:
    """State, phase, counts and time left of a run in one line."""
    if not run.state.active or run.state is RunState.QUEUED:
        return run.state.value
    return plain(describe_progress(run.progress) or run.state.value)


def run_facts(run: Run) -> list[tuple[str, object]]:
    """What is said of a run, name by name."""
    rows: list[tuple[str, object]] = [
        ("id", run.id),
        ("name", run.name),
        ("kind", run.kind),
        ("state", run.state.value),
        ("progress", describe_progress(run.progress) if run.state.active else ""),
        ("attempt", run.attempt or ""),
        ("created", output.ago(run.created_at)),
        ("ended", output.ago(run.ended_at)),
        ("tags", ", ".join(run.tags)),
        ("notes", run.notes),
    ]
    if run.failure is not None:
        rows += [("error", run.failure.message), ("remedy", run.failure.remedy)]
    return rows


def check_finished(run: Run) -> None:
    """Leave with exit code 1 unless the run finished, told with its failure.

    Raises:
        Exit: the run failed, was stopped or interrupted.
    """
    if run.state is RunState.FINISHED:
        return
    if run.failure is not None:
        problem = RunProblem(run.failure.message, place=run.name, remedy=run.failure.remedy)
    else:
        problem = RunProblem(
            f"the run was {run.state.value}",
            place=run.name,
            remedy=f"`workbench runs resume {run.id}` goes on with it.",
        )
    raise typer.Exit(output.tell_error(problem, more={"run": run}))


def told_interval(interval: Interval | None, form: str = ".0%") -> str:
    """An estimate with its bounds."""
    if interval is None:
        return ""
    return f"{interval.value:{form}} ({interval.low:{form}} to {interval.high:{form}})"


def runs_table(runs: Sequence[Run]) -> Any:
    """Runs as a table."""
    return output.table(
        ("id", "name", "kind", "state", "progress", "created"),
        [(run.id, run.name, run.kind, run.state.value, _short(run), output.ago(run.created_at)) for run in runs],
        empty="No runs yet. `workbench tour` starts one that shows it all.",
    )


def _short(run: Run) -> str:
    if run.failure is not None and not run.state.active:
        message = run.failure.message
        return message if len(message) <= 60 else message[:59] + "…"
    return describe_progress(run.progress.model_copy(update={"note": ""})) if run.state.active else ""
