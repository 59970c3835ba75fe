"""`workbench demo …` and `workbench report`: show others what a tuned model changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from workbench.cli import output
from workbench.cli.following import check_finished, follow
from workbench.cli.options import with_config
from workbench.cli.output import Json, facts, plain, show, table
from workbench.demo.configs import DemoConfig
from workbench.records import Run, RunState

if TYPE_CHECKING:
    from workbench.api import Workspace

demo = typer.Typer(help="A page for visitors, as a run.", no_args_is_help=True, add_completion=False)
START_TIMEOUT_S = 120.0


@demo.command("start")
@with_config(DemoConfig)
def start(
    options: dict[str, Any],
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", help="File with the password visitors need; one is made where none is given."),
    ] = None,
    json: Json = False,
) -> None:
    """Start a demo and tell its address. It goes on until `workbench demo stop`."""
    from workbench.api import find_variant

    workspace = output.open_workspace()
    # Never an option of its own: command lines are seen by everybody on the machine and kept in histories.
    password = "" if password_file is None else password_file.read_text("utf-8").strip()
    names = [find_variant(workspace, name).id for name in options.pop("variants", ())]
    run = _until_serving(workspace, workspace.start_demo(names, password=password, **options))
    document = _document(workspace, run)
    show(document, lambda out: out.print(facts(_facts(document))))


def _until_serving(workspace: Workspace, run: Run) -> Run:
    for told in workspace.iter_progress(run.id):
        run = told
        if run.result.get("address") and run.state is RunState.RUNNING and run.progress.phase == "serving":
            return run
    check_finished(run)
    return run


def _document(workspace: Workspace, run: Run) -> dict[str, Any]:
    told = {key: run.result.get(key) for key in ("address", "addresses", "visitors", "questions", "votes", "refused")}
    return {
        "run_id": run.id,
        "title": run.spec.get("title"),
        "state": run.state.value,
        **told,
        "password": workspace.demo_password(run.id),
    }


def _facts(document: dict[str, Any]) -> list[tuple[str, object]]:
    others = (document["addresses"] or [])[1:]
    return [
        ("address", document["address"]),
        ("also at", ", ".join(others)),
        ("password", document["password"]),
        ("run", document["run_id"]),
    ]


@demo.command("list")
def list_demos(
    ended: Annotated[bool, typer.Option("--ended", help="Also those that have ended.")] = False, json: Json = False
) -> None:
    """List demos with their addresses and counts."""
    workspace = output.open_workspace()
    found = [_document(workspace, run) for run in workspace.demos(ended=ended)]

    def human(out: Console) -> None:
        columns = ("run", "title", "state", "address", "visitors", "questions", "votes")
        keys = ("run_id", *columns[1:])
        out.print(table(columns, [[each[key] for key in keys] for each in found], empty="No demo is running."))

    show(found, human)


@demo.command("stop")
def stop(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run of the demo.", show_default=False)],
    json: Json = False,
) -> None:
    """Stop a demo; votes are kept."""
    workspace = output.open_workspace()
    stopped = follow(workspace, workspace.stop(run))
    show(stopped, lambda out: out.print(f"{plain(stopped.name)}: {stopped.state.value}."))


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run that answered the prompt set.", show_default=False)],
    path: Annotated[Path, typer.Argument(help="HTML file to write.", show_default=False)],
    json: Json = False,
) -> None:
    """Write a comparison as one HTML file: answers side by side, figures with intervals, how it was made."""
    written = output.open_workspace().report(run, path)
    show({"path": str(written), "bytes": written.stat().st_size}, lambda out: out.print(f"Written to {written}."))
