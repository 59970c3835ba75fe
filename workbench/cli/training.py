"""`workbench train …`: training runs, every setting an option."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from workbench.cli import output
from workbench.cli.options import with_config
from workbench.cli.output import Json, facts, show, span
from workbench.cli.runs import launched
from workbench.errors import UsageError
from workbench.runs.kinds import Kind, check_launch, parse_config, training_kinds
from workbench.settings import typed_path

if TYPE_CHECKING:
    from workbench.api import Workspace
    from workbench.training.forecast import Forecast

train = typer.Typer(help="Fine-tune in the background.", no_args_is_help=True, add_completion=False)


@train.callback()
def _group() -> None:
    pass


def _command(kind: Kind) -> Any:
    """`workbench train KIND`: options from the kind's config class."""
    config = kind.load_config()

    @with_config(config)
    def launch_training(
        options: dict[str, Any],
        spec: Annotated[
            Path | None, typer.Option("--spec", help="YAML or JSON file with settings; options given beside it win.")
        ] = None,
        wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show settings and forecast; launch nothing.")] = False,
        json: Json = False,
    ) -> None:
        workspace = output.open_workspace()
        given = {**read_spec(spec, kind.name), **options} if spec else dict(options)
        if "dataset" not in given:
            raise UsageError(
                "a dataset is needed", place="--dataset", remedy="`workbench data list` shows what there is."
            )
        given["model"] = workspace.model(str(given.get("model", "bundled"))).id
        if dry_run:
            _show_plan(workspace, kind.name, given)
            return
        launched(workspace, workspace.launch(kind.name, given), wait)

    launch_training.__doc__ = config.__doc__
    return launch_training


for _kind in training_kinds():
    train.command(_kind.name)(_command(_kind))


def read_spec(path: Path, kind: str) -> dict[str, Any]:
    """Settings from a saved spec.

    Args:
        path: YAML or JSON file with one mapping; a run's `spec.json` serves.
        kind: the kind of run it must be for, where it says so.

    Raises:
        UsageError: the file cannot be read, or is for another kind of run.
    """
    import yaml

    try:
        told = yaml.safe_load(typed_path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UsageError(f"the spec cannot be read: {why}", place="--spec", value=str(path)) from error
    except yaml.YAMLError as error:
        raise UsageError("the spec is neither YAML nor JSON", place="--spec", value=str(path)) from error
    if not isinstance(told, dict):
        raise UsageError("the spec must be a mapping of settings", place="--spec", value=str(path))
    if told.pop("kind", kind) != kind:
        raise UsageError(f"the spec is not for {kind}", place="--spec", value=str(path))
    return {str(name).replace("-", "_"): value for name, value in told.items()}


def _show_plan(workspace: Workspace, kind: str, config: dict[str, Any]) -> None:
    checked = parse_config(kind, config)
    check_launch(workspace.store, kind, checked)
    try:
        forecast = workspace.forecast(kind, checked)
    except UsageError as problem:  # the method has none
        forecast, told = None, problem.what

    def human(out: Console) -> None:
        import yaml

        out.print("# A spec for --spec")
        out.print(yaml.safe_dump({"kind": kind, **checked.model_dump(mode="json")}, sort_keys=False).rstrip())
        out.print("\nForecast", style="bold")
        out.print(facts(_forecast_facts(forecast)) if forecast else told)

    show({"kind": kind, "spec": checked, "forecast": forecast}, human)


def _forecast_facts(forecast: Forecast) -> list[tuple[str, object]]:
    parts = ", ".join(f"{name} {size:,.0f}" for name, size in forecast.memory_parts.items())
    rows = f"{forecast.rows:,}, and {forecast.held_out_rows:,} held out"
    return [
        ("time", f"{span(forecast.seconds)} ({span(forecast.seconds_low)} to {span(forecast.seconds_high)})"),
        ("memory", f"{forecast.memory_mb:,.0f} MB of {forecast.free_mb:,.0f} free: {parts}"),
        ("rows", rows),
        ("steps", f"{forecast.steps:,}"),
        ("tokens", f"{forecast.tokens:,}; {forecast.padding:.0%} of the batches is padding"),
        ("trained parameters", f"{forecast.trained_parameters:,}"),
        ("pace from", forecast.rate_from),
    ]
