"""`workbench self-instruct …`: grow tasks from seeds, see what became of them, review, make a dataset."""

from __future__ import annotations

import getpass
import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from workbench.cli import output
from workbench.cli.options import with_config
from workbench.cli.output import Json, facts, plain, show, table
from workbench.cli.runs import launched
from workbench.errors import DataProblem, UsageError
from workbench.self_instruct.configs import SelfInstructConfig

if TYPE_CHECKING:
    from workbench.self_instruct.review import CandidatePage, Funnel
    from workbench.store.candidates import Instance, Review

grow = typer.Typer(help="Grow a dataset from a few hand-written tasks.", no_args_is_help=True, add_completion=False)
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run that grew the tasks.", show_default=False)]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold", min=0, max=1, help="Decide novelty again under this ROUGE-L F1; nothing is generated anew.",
        show_default=False,
    ),
]  # fmt: skip
Reviewer = Annotated[
    str | None, typer.Option("--reviewer", help="Who says so; your user name when left out.", show_default=False)
]
SHOWN = 110


def _reviewer(given: str | None) -> str:
    return given if given is not None else getpass.getuser()


@grow.command("start")
@with_config(SelfInstructConfig)
def start(
    options: dict[str, Any],
    name: Annotated[str | None, typer.Option("--name", help="Shown name of the run.", show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end.")] = False,
    json: Json = False,
) -> None:
    """Ask a model for new tasks, round after round, and filter what it writes. Stop and resume as you like."""
    if not options.get("variant"):
        remedy = "`workbench models variants` shows who can write; `base` is the bundled model."
        raise UsageError("who writes is needed", place="--variant", remedy=remedy)
    workspace = output.open_workspace()
    launched(workspace, workspace.self_instruct(options.pop("variant"), name=name, **options), wait)


@grow.command("seeds")
def seeds(json: Json = False) -> None:
    """Put the seed tasks that come with the workbench into a dataset, to read them or to add your own."""
    workspace = output.open_workspace()
    version = workspace.install_seeds()
    name = workspace.dataset(version.dataset_id).name
    document = {"dataset_id": version.dataset_id, "name": name, "version_id": version.id, "rows": version.rows}
    show(document, lambda out: out.print(f"{name}@{version.number}: {version.rows} seed tasks."))


@grow.command("candidates")
def candidates(
    run: RunId,
    state: Annotated[
        Literal["kept", "waiting", "rejected"] | None, typer.Option("--state", help="Only these.", show_default=False)
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Only those thrown out for this; see `funnel`.", show_default=False)
    ] = None,
    review: Annotated[
        Literal["open", "accept", "edit", "reject", "reviewed"] | None,
        typer.Option(
            "--review", help="Only those a person said this of; open are kept and unread.", show_default=False
        ),
    ] = None,
    search: Annotated[str, typer.Option("--search", help="Only those that hold this text.")] = "",
    threshold: Threshold = None,
    offset: Annotated[int, typer.Option("--offset", min=0, help="How many to skip.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many to show.")] = 20,
    json: Json = False,
) -> None:
    """Show what the generator wrote, with decisions, nearest neighbours and reviews."""
    page = output.open_workspace().candidates(
        run, threshold=threshold, state=state, reason=reason, review=review, search=search, offset=offset, limit=limit
    )
    show(page, lambda out: _print_page(out, page, offset))


def _print_page(out: Console, page: CandidatePage, offset: int) -> None:
    rows = [
        (
            each.position + 1,
            page.reviews[each.id].verdict if each.id in page.reviews else each.why or each.state,
            "" if each.score is None else f"{each.score:.2f}",
            len([one for one in each.instances or () if one.reason is None]),
            each.instruction if len(each.instruction) <= SHOWN else each.instruction[: SHOWN - 1] + "…",
            each.id,
        )
        for each in page.candidates
    ]
    columns = ("number", "what became of it", "score", "examples", "instruction", "id")
    out.print(table(columns, rows, empty="No such candidates.", right=("number", "score", "examples")))
    if page.total > len(rows):
        output.note(f"{offset + 1} to {offset + len(rows)} of {page.total:,}; `--offset {offset + len(rows)}` goes on.")


@grow.command("funnel")
def funnel(run: RunId, threshold: Threshold = None, json: Json = False) -> None:
    """Show what became of everything the generator wrote, filter by filter."""
    told = output.open_workspace().funnel(run, threshold=threshold)
    show(told, lambda out: _print_funnel(out, told))


def _print_funnel(out: Console, told: Funnel) -> None:
    from workbench.self_instruct.review import LOST

    rows: list[tuple[object, ...]] = []
    for stage in told.stages:
        rows += [(f"  {reason}", f"-{count:,}", LOST[reason]) for reason, count in stage.lost.items()]
        rows.append((stage.name, f"{stage.count:,}", stage.title))
    out.print(table(("stage", "tasks", ""), rows, empty="", right=("tasks",)))
    out.print(
        facts(
            [
                ("requests", f"{told.requests:,}, {told.failed:,} without a reply, {told.unread:,} without a task"),
                ("examples", f"{told.examples:,} usable"),
                *((f"  {reason}", f"{count:,} thrown out") for reason, count in told.examples_lost.items()),
                ("threshold", f"{told.threshold:g}"),
            ]
        )
    )


@grow.command("diversity")
def diversity(
    run: RunId,
    threshold: Threshold = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many pairs to show.")] = 20,
    json: Json = False,
) -> None:
    """Show which verbs and nouns the tasks begin with, read by position."""
    told = output.open_workspace().diversity(run, threshold=threshold)

    def human(out: Console) -> None:
        rows = [(pair.verb, pair.noun, pair.count) for pair in told.pairs[:limit]]
        out.print(table(("verb", "noun", "tasks"), rows, empty="No verb with a noun was found.", right=("tasks",)))
        output.note(f"{len(told.verbs)} verbs in {told.tasks:,} tasks; {told.without_verb:,} tasks have none.")

    show(told, human)


@grow.command("review")
def review(
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="Its id, as `candidates` tells.")],
    verdict: Annotated[
        Literal["accept", "edit", "reject"], typer.Argument(metavar="VERDICT", help="accept, edit or reject.")
    ],
    instruction: Annotated[
        str | None, typer.Option("--instruction", help="Your wording, of an edit.", show_default=False)
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option("--examples", help="File with your examples, of an edit: JSON, a list of input and output."),
    ] = None,
    reviewer: Reviewer = None,
    json: Json = False,
) -> None:
    """Accept a candidate, edit it, or reject it."""
    edit: dict[str, Any] = {}
    if instruction is not None:
        edit["instruction"] = instruction
    if examples is not None:
        edit["instances"] = _read_examples(examples.expanduser())
    told = output.open_workspace().review_candidate(candidate, verdict, _reviewer(reviewer), **edit)
    _tell_review(told, "Stored")


def _read_examples(path: Path) -> list[Instance]:
    from workbench.store.candidates import Instance

    try:
        read = json_format.loads(path.read_text("utf-8"))
        return [Instance(input=each.get("input", ""), output=each["output"]) for each in read]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = 'Write it as [{"input": "…", "output": "…"}].'
        raise DataProblem("these are no examples", place=str(path), remedy=remedy) from error


@grow.command("undo")
def undo(run: RunId, reviewer: Reviewer = None, json: Json = False) -> None:
    """Take back your last review in a run."""
    told = output.open_workspace().undo_review(run, _reviewer(reviewer))
    if told is None:
        show({"undone": None}, lambda out: out.print("There is nothing to take back."))
        return
    _tell_review(told, "Taken back")


def _tell_review(told: Review, done: str) -> None:
    show(told, lambda out: out.print(plain(f"{done}: {told.verdict} of {told.candidate_id} by {told.reviewer}.")))


@grow.command("version")
def version(
    run: RunId,
    name: Annotated[str, typer.Option("--name", help="Name of the dataset; one made of this run gets a new version.")],
    include: Annotated[
        Literal["accepted", "unrejected"],
        typer.Option("--include", help="What a person accepted, or all that was kept and nobody rejected."),
    ] = "accepted",
    threshold: Threshold = None,
    json: Json = False,
) -> None:
    """Make a dataset of the tasks: what was accepted, with its examples."""
    workspace = output.open_workspace()
    made = workspace.self_instruct_version(run, name, threshold=threshold, include=include)
    title = f"{workspace.dataset(made.dataset_id).name}@{made.number}"
    show(made, lambda out: out.print(plain(f"{title}: {made.rows:,} rows, {made.id}.")))
