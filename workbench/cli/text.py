"""`workbench generate`, `compare` and `answers`: what models say, one prompt or many at a time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from workbench.cli import output
from workbench.cli.following import told_interval
from workbench.cli.options import with_config
from workbench.cli.output import Json, plain, show, table
from workbench.cli.runs import launched
from workbench.errors import GenerationProblem, UsageError
from workbench.evaluation.tasks import AnswerConfig
from workbench.records import Completion, Sampling, Variant
from workbench.scoring.scorers import figure_title
from workbench.settings import typed_path

if TYPE_CHECKING:
    from workbench.api import Workspace
    from workbench.evaluation.aggregate import AnswerGrid

FormatName = Literal["csv", "jsonl", "parquet"]
answers = typer.Typer(help="Show and export answers to a prompt set.", no_args_is_help=True, add_completion=False)
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Run that answered the prompt set.", show_default=False)]


def read_prompt(text: str) -> str:
    """The prompt as given, or from standard input where it is `-`."""
    return sys.stdin.read() if text == "-" else text


@with_config(Sampling)
def generate(
    options: dict[str, Any],
    prompt: Annotated[str, typer.Argument(help="What to answer; - reads standard input.", show_default=False)],
    variant: Annotated[
        str, typer.Option("--variant", help="Who answers, by name or id; `base` is the bundled model.")
    ] = "base",
    system: Annotated[str, typer.Option("--system", help="System prompt.")] = "",
    json: Json = False,
) -> None:
    """Answer one prompt. On a terminal the text appears as it is written."""
    from workbench.api import find_variant

    Sampling.model_validate(options)
    workspace = output.open_workspace()
    chosen = find_variant(workspace, variant)
    asked = read_prompt(prompt)
    if sys.stdout.isatty() and not json:
        completion = _stream(workspace, chosen, asked, system, options)
    else:
        completion = workspace.generate(chosen.id, asked, system=system, **options)
        show(completion, lambda out: out.print(plain(completion.text)))
    if completion.error is not None:
        raise GenerationProblem(completion.error, place=chosen.name)
    speed = f", {completion.tokens / completion.seconds:.0f} tokens/s" if completion.seconds else ""
    output.note(f"[{chosen.name}: {completion.tokens} tokens{speed}, {completion.finish_reason}]")


def _stream(workspace: Workspace, variant: Variant, prompt: str, system: str, options: dict[str, Any]) -> Completion:
    with workspace.stream(variant.id, prompt, system=system, **options) as handle:
        try:
            for piece in handle:
                sys.stdout.write(plain(piece))
                sys.stdout.flush()
        except KeyboardInterrupt:
            handle.close()
            raise
        finally:
            sys.stdout.write("\n")
    if handle.completion is None:
        raise GenerationProblem("the answer ended without a record", place=variant.name, remedy="Ask again.")
    return handle.completion


@with_config(AnswerConfig)
def compare(
    options: dict[str, Any],
    prompt: Annotated[
        str | None, typer.Argument(help="One prompt to answer; - reads standard input.", show_default=False)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow a prompt set to its end.")] = False,
    json: Json = False,
) -> None:
    """Answer a prompt with several variants side by side, or a whole prompt set (`--prompts`) in the background."""
    from workbench.api import find_variant

    if (prompt is None) == ("prompts" not in options):
        raise UsageError(
            "either one prompt or a prompt set is needed", place="--prompts", remedy="Give PROMPT or --prompts DATASET."
        )
    for name in ("limit", "scorers", "concurrency"):
        if prompt is not None and name in options:
            raise UsageError("this is for prompt sets", place=name, remedy="Leave it out, or give --prompts.")
    workspace = output.open_workspace()
    names = options.pop("variants", ["base"])
    variants = [find_variant(workspace, name) for name in dict.fromkeys(names)]
    if prompt is None:
        prompts = options.pop("prompts")
        workspace.version(prompts)
        run = workspace.answer_prompts(prompts, [variant.id for variant in variants], **options)
        launched(workspace, run, wait)
        if wait and not json:
            _print_summary(output.console(), workspace.answers(run.id))
        return
    _compare_one(workspace, variants, read_prompt(prompt), options)


def _compare_one(workspace: Workspace, variants: list[Variant], prompt: str, options: dict[str, Any]) -> None:
    config = AnswerConfig.model_validate({"prompts": "one", "variants": [v.id for v in variants], **options})
    ids = [variant.id for variant in variants]
    found = workspace.compare(ids, prompt, system=config.system, **config.sampling.model_dump())
    texts = [pane.problem or (pane.completion.text if pane.completion else "") for pane in found.panes]

    def human(out: Console) -> None:
        if out.is_terminal:
            out.print(table([variant.name for variant in variants], [texts], empty=""))
            return
        for variant, text in zip(variants, texts, strict=True):
            out.print(f"== {plain(variant.name)}")
            out.print(plain(text))

    named = []
    for pane in found.panes:
        told = {} if pane.completion is None else pane.completion.model_dump(mode="json")
        named.append({"variant": pane.variant.name, "problem": pane.problem or None, **told})
    document = {"prompt": prompt, "answers": named}
    if not found.failed:
        show(document, human)
        return
    # What the others answered is kept: only the call as a whole has failed.
    names = ", ".join(pane.variant.name for pane in found.failed)
    told_why = " ".join(pane.problem for pane in found.failed)
    if not output.surface.json:
        human(output.console())
    raise typer.Exit(output.tell_error(GenerationProblem(f"no whole answer: {told_why}", place=names), more=document))


@answers.command("show")
def show_answers(
    run: RunId,
    differing: Annotated[
        bool, typer.Option("--differing", help="Only prompts where some variants passed and others did not.")
    ] = False,
    search: Annotated[str, typer.Option("--search", help="Only prompts whose texts hold this.")] = "",
    rows: Annotated[int, typer.Option("--rows", min=0, max=10_000, help="Prompts to show.")] = 5,
    offset: Annotated[int, typer.Option("--offset", min=0, help="Prompts to skip.")] = 0,
    json: Json = False,
) -> None:
    """Show each variant's figures and the answers side by side."""
    from workbench.evaluation.aggregate import filter_grid, grid_frame

    grid = output.open_workspace().answers(run)
    found = filter_grid(grid, differing=differing, search=search)
    shown = found.model_copy(update={"prompts": found.prompts[offset : offset + rows]})
    document = {
        "run_id": grid.run_id,
        "version_id": grid.version_id,
        "summary": grid.summary,
        "prompts": len(grid.prompts),
        "found": len(found.prompts),
        "rows": grid_frame(shown),
    }

    def human(out: Console) -> None:
        _print_summary(out, grid)
        lines = []
        for prompt in shown.prompts:
            cells = [shown.cell(prompt.row_id, variant.id) for variant in shown.variants]
            texts = ["" if cell is None else cell.completion.error or cell.completion.text for cell in cells]
            lines.append([prompt.question, *texts])
        columns = ["prompt", *(variant.name for variant in shown.variants)]
        out.print(table(columns, lines, empty="No prompt fits." if not found.prompts else ""))
        out.print(f"{len(shown.prompts)} of {len(found.prompts):,} prompts.")

    show(document, human)


def _print_summary(out: Console, grid: AnswerGrid) -> None:
    metrics = sorted({metric for summary in grid.summary.values() for metric in summary.metrics})
    heads = [figure_title(metric, short=True) for metric in metrics]
    columns = ["variant", "answers", "failed", "pass all rules", *heads, "tokens", "tokens/s", "empty", "cut off"]
    rows = []
    for variant in grid.variants:
        told = grid.summary[variant.id]
        figures = [told_interval(told.metrics.get(metric), ".1f") for metric in metrics]
        tokens = "" if told.mean_tokens is None else f"{told.mean_tokens.value:.0f}"
        speed = "" if told.tokens_per_s is None else f"{told.tokens_per_s:.0f}"
        shares = ["" if part is None else f"{part.value:.0%}" for part in (told.empty, told.unfinished)]
        rows.append([variant.name, told.n, told.failed, told_interval(told.share), *figures, tokens, speed, *shares])
    out.print(table(columns, rows, empty=""))


@answers.command("export")
def export_answers(
    run: RunId,
    path: Annotated[Path, typer.Argument(help="File to write.", show_default=False)],
    format: Annotated[FormatName | None, typer.Option("--format", help="Default: by the file's ending.")] = None,
    json: Json = False,
) -> None:
    """Write answers and scores to a file, one row per answer."""
    from workbench.evaluation.aggregate import EXPORT_FORMATS, export_grid

    ending = path.suffix.lower().removeprefix(".")
    chosen = format or (ending if ending in EXPORT_FORMATS else "csv")
    grid = output.open_workspace().answers(run)
    written = export_grid(grid, typed_path(path), chosen)
    document = {"path": str(written), "format": chosen, "rows": len(grid.cells)}
    show(document, lambda out: out.print(f"{len(grid.cells):,} answers written to {written}."))
