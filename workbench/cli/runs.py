"""`workbench runs …`: every background run, whatever it does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from workbench.cli import output
from workbench.cli.following import check_finished, follow, run_facts, runs_table
from workbench.cli.output import Json, facts, plain, show
from workbench.errors import UsageError
from workbench.records import Run, RunState

if TYPE_CHECKING:
    from workbench.api import Workspace

runs = typer.Typer(help="Watch, stop, resume and clone background runs.", no_args_is_help=True, add_completion=False)
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.", show_default=False)]
LOG_POLL_S = 0.5


@runs.command("list")
def list_runs(
    kind: Annotated[list[str] | None, typer.Option("--kind", help="Only runs of this kind; repeatable.")] = None,
    state: Annotated[list[RunState] | None, typer.Option("--state", help="Only in this state; repeatable.")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="Also those that were put away.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Newest so many.")] = 50,
    json: Json = False,
) -> None:
    """List runs, newest first."""
    found = output.open_workspace().runs(kinds=kind or None, states=state or None, archived=archived, limit=limit)
    show(found, lambda out: out.print(runs_table(found)))


@runs.command("show")
def show_run(run: RunId, json: Json = False) -> None:
    """Show one run: state, settings, result, latest figures."""
    workspace = output.open_workspace()
    found = workspace.run(run)
    latest = {point.name: point.value for point in workspace.metrics(run)}
    show(found.model_dump(mode="json") | {"latest": latest}, lambda out: _print_run(out, found, latest))


def _print_run(out: Console, run: Run, latest: dict[str, float]) -> None:
    out.print(facts(run_facts(run)))
    for title, values in (("Settings", run.spec), ("Latest figures", latest), ("Result", run.result)):
        shown = [(name, _brief(value)) for name, value in values.items() if value not in (None, "", [], {})]
        if shown:
            out.print(f"\n{title}", style="bold")
            out.print(facts(shown))


def _brief(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else plain(value)
    return text if len(text) <= 200 else text[:199] + "…"


@runs.command("watch")
def watch(run: RunId, json: Json = False) -> None:
    """Follow a run to its end. Leaving does not stop it."""
    workspace = output.open_workspace()
    ended = follow(workspace, workspace.run(run))
    check_finished(ended)
    show(ended, lambda out: out.print(facts(run_facts(ended))))


@runs.command("logs")
def logs(
    run: RunId,
    follow_log: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Last so many lines.")] = 200,
    json: Json = False,
) -> None:
    """Print the end of a run's log."""
    workspace = output.open_workspace()
    if json and follow_log:
        raise UsageError("one document cannot follow a log", place="--follow", remedy="Leave --json or --follow out.")
    text = "\n".join(workspace.log(run).splitlines()[-lines:])
    show({"run": run, "log": text}, lambda out: out.print(plain(text)))
    # The log is read as a tail: what was printed is found again by its length from the file's start.
    path = workspace.settings.run_dir(run) / "worker.log"
    offset = path.stat().st_size if path.exists() else 0
    while follow_log and workspace.run(run).state.active:
        time.sleep(LOG_POLL_S)
        if path.exists() and path.stat().st_size > offset:
            with path.open("rb") as stream:
                stream.seek(offset)
                grown = stream.read()
            offset += len(grown)
            output.console().print(plain(grown.decode("utf-8", "replace")), end="")


@runs.command("stop")
def stop(
    run: RunId,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has ended.")] = True,
    json: Json = False,
) -> None:
    """Ask a run to write its checkpoint and stop."""
    workspace = output.open_workspace()
    stopped = workspace.stop(run)
    if wait:
        stopped = follow(workspace, stopped)
    show(stopped, lambda out: out.print(f"{plain(stopped.name)}: {stopped.state.value}."))


@runs.command("resume")
def resume(
    run: RunId,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = False,
    json: Json = False,
) -> None:
    """Continue a stopped, failed or interrupted run from its last checkpoint."""
    workspace = output.open_workspace()
    launched(workspace, workspace.resume(run), wait)


@runs.command("clone")
def clone(
    run: RunId,
    name: Annotated[str | None, typer.Option("--name", help="Name of the new run.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a setting; repeatable.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = False,
    json: Json = False,
) -> None:
    """Launch a run with another run's settings, some changed."""
    from workbench.cli.options import read_value
    from workbench.runs.kinds import get_kind

    workspace = output.open_workspace()
    fields = get_kind(workspace.run(run).kind).load_config().model_fields
    options = {}
    for change in changes or []:
        field, equals, value = change.partition("=")
        field = field.strip().lstrip("-").replace("-", "_")
        if not equals or field not in fields:
            raise UsageError(
                "no such setting",
                place="--set",
                value=change,
                remedy=f"Write FIELD=VALUE with one of {', '.join(fields)}.",
            )
        options[field] = read_value(fields[field].annotation, value)
    with output.told_as_options(fields):
        copy = workspace.clone(run, name=name, **options)
    launched(workspace, copy, wait)


@runs.command("archive")
def archive(
    run: RunId,
    undo: Annotated[bool, typer.Option("--undo", help="Take it out again.")] = False,
    json: Json = False,
) -> None:
    """Put a run away; nothing of it is deleted."""
    changed = output.open_workspace().edit_run(run, archived=not undo)
    show(changed, lambda out: out.print(f"{plain(changed.name)}: {'taken out again' if undo else 'put away'}."))


def launched(workspace: Workspace, run: Run, wait: bool) -> None:
    """Tell what was launched, after following it where that was asked for."""
    if wait:
        run = follow(workspace, run)
        check_finished(run)
        show(run, lambda out: _print_run(out, run.model_copy(update={"spec": {}}), {}))
        return
    output.note(f"{run.name}: {run.state.value}. `workbench runs watch {run.id}` follows it.")
    show(run, lambda out: out.print(run.id))
