"""`workbench rank …` and `workbench leaderboard`: rank answers blind, turn rankings into data, see who is preferred."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from workbench.cli import output
from workbench.cli.options import with_config
from workbench.cli.output import Json, facts, plain, show, table
from workbench.cli.runs import launched
from workbench.errors import UsageError
from workbench.evaluation.sampling import SampleConfig
from workbench.settings import typed_path
from workbench.store.rankings import Sources

if TYPE_CHECKING:
    from workbench.preferences.leaderboard import Leaderboard
    from workbench.preferences.queues import BlindItem
    from workbench.records import Interval, Ranking, RankQueue

rank = typer.Typer(help="Rank answers blind, and turn rankings into data.", no_args_is_help=True, add_completion=False)
Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="Name or id of the queue.", show_default=False)]
Queues = Annotated[list[str], typer.Argument(metavar="QUEUE…", help="Names or ids of queues.", show_default=False)]
Rater = Annotated[
    str | None, typer.Option("--rater", help="Who ranks; your user name when left out.", show_default=False)
]
Form = Literal["rankings", "dpo", "reward", "kto", "sft"]
HELD_OUT_HELP = "Share of prompts to keep aside."


def _rater(given: str | None) -> str:
    return given if given is not None else getpass.getuser()


@rank.command("queues")
def list_queues(
    archived: Annotated[bool, typer.Option("--archived", help="Also those that were put away.")] = False,
    json: Json = False,
) -> None:
    """List queues, newest first, with how far each is."""
    workspace = output.open_workspace()
    found = workspace.rank_queues(archived=archived)
    progress = [workspace.rank_progress(queue.id) for queue in found]
    documents = [
        queue.model_dump(mode="json") | told.model_dump(include={"total", "done", "votes", "raters", "by_scorers"})
        for queue, told in zip(found, progress, strict=True)
    ]

    def human(out: Console) -> None:
        rows = [
            (
                queue.name,
                told.total,
                told.done,
                told.votes,
                told.raters,
                told.by_scorers or "",
                output.ago(queue.created_at),
                queue.id,
            )
            for queue, told in zip(found, progress, strict=True)
        ]
        columns = ("name", "prompts", "done", "votes", "raters", "by scorers", "created", "id")
        empty = "No queues yet. `workbench rank create PROMPTS --variants NAME` samples answers for one."
        out.print(table(columns, rows, empty=empty, right=columns[1:6]))

    show(documents, human)


@rank.command("create")
@with_config(SampleConfig, arguments=("prompts",))
def create(
    options: dict[str, Any],
    run: Annotated[
        str | None, typer.Option("--from-run", help="Take the answers of this run instead of sampling new ones.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end.")] = False,
    json: Json = False,
) -> None:
    """Sample several answers to each prompt of a set and make a queue of them."""
    workspace = output.open_workspace()
    if run is not None:
        taken = {key: options.pop(key) for key in ("guidelines", "overlap", "repeats") if key in options}
        name = options.pop("queue", None)
        if options:
            place = output.option_name(next(iter(options)))
            raise UsageError("this says how to sample, and nothing is sampled with --from-run", place=place)
        name = name or workspace.run(run).name
        numbers = {key: value if key == "guidelines" else _number(key, value) for key, value in taken.items()}
        _tell_queue(workspace.queue_from_run(run, name, **numbers))
        return
    prompts = options.pop("prompts", None)
    if not prompts:
        raise UsageError("a prompt set is needed", place="prompts", remedy="`workbench data list` shows what there is.")
    started = workspace.sample_answers(prompts, options.pop("variants", ()), **options)
    launched(workspace, started, wait)


def _number(name: str, given: str) -> float | int:
    try:
        return int(given) if name == "overlap" else float(given)
    except ValueError as error:
        raise UsageError("this is no number", place=output.option_name(name), value=given) from error


def _tell_queue(queue: RankQueue) -> None:
    show(queue, lambda out: out.print(f"{plain(queue.name)}: {queue.id}. `workbench rank next {queue.id}` begins."))


@rank.command("import")
def import_file(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Trees, plain lines, pairs, or our own export.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the queue; the file's when left out.")] = None,
    json: Json = False,
) -> None:
    """Read rankings from a file into a new queue."""
    _tell_queue(output.open_workspace().import_rankings(typed_path(path), name or path.name.partition(".")[0]))


@rank.command("next")
def next_item(queue: Queue, rater: Rater = None, json: Json = False) -> None:
    """Take the next item of a queue and show its answers, blind. The same one comes until it is ranked."""
    workspace = output.open_workspace()
    handed = workspace.next_to_rank(queue, _rater(rater))
    if handed is None:
        show({"item_id": None}, lambda out: out.print("Nothing is left for you in this queue."))
        return
    blind = workspace.blind_item(handed)
    guidelines = workspace.rank_queue(queue).guidelines
    show(blind.model_dump(mode="json") | {"guidelines": guidelines}, lambda out: _print_item(out, blind, guidelines))


def _print_item(out: Console, blind: BlindItem, guidelines: str) -> None:
    if guidelines:
        out.print(plain(guidelines), style="dim")
    for turn in blind.prompt:
        out.print(f"\n{turn.role}", style="bold")
        out.print(plain(turn.content))
    for answer in blind.answers:
        hint = "  (names who wrote it)" if answer.names_itself else ""
        out.print(f"\n[{answer.letter}]{hint}", style="bold")
        out.print(plain(answer.text))
    letters = " ".join(answer.letter for answer in reversed(blind.answers))
    output.note(
        f"\n`workbench rank submit {blind.item_id} {letters!r}` ranks {letters[0]} best; A=B ties, xC is unusable."
    )


@rank.command("submit")
def submit(
    item: Annotated[str, typer.Argument(metavar="ITEM", help="Id of the item, as `rank next` told.")],
    order: Annotated[
        str | None,
        typer.Argument(metavar="ORDER", help="Letters from best to worst: 'B A=C xD' ties A and C; D is unusable."),
    ] = None,
    rater: Rater = None,
    all_bad: Annotated[bool, typer.Option("--all-bad", help="Every answer is bad.")] = False,
    skip: Annotated[str | None, typer.Option("--skip", help="Pass the item over, for this reason.")] = None,
    confidence: Annotated[int | None, typer.Option("--confidence", min=1, max=5, help="How sure you are.")] = None,
    comment: Annotated[str, typer.Option("--comment", help="Your words.")] = "",
    edited: Annotated[Path | None, typer.Option("--edited", help="File with your better version.")] = None,
    json: Json = False,
) -> None:
    """Rank an item's answers."""
    from workbench.preferences.queues import place_letters
    from workbench.store.rankings import shown_order

    if (order is not None) + all_bad + (skip is not None) != 1:
        raise UsageError("say an order, --all-bad or --skip, and only one of them", place="order")
    workspace = output.open_workspace()
    shown = shown_order(workspace.store, item, _rater(rater))
    placed: dict[str, Any] = place_letters(shown, order) if order is not None else {}
    own = typed_path(edited).read_text("utf-8") if edited is not None else None
    ranking = workspace.submit_ranking(
        item, _rater(rater), shown=shown, all_bad=all_bad, skipped=skip, confidence=confidence, comment=comment,
        edited=own, **placed,
    )  # fmt: skip
    _tell_ranking(ranking, "Stored")


@rank.command("score")
def score(
    queue: Queue,
    scorer: Annotated[
        str, typer.Option("--scorer", help="A rule scorer, a metric, or reward:RUN.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Let a scorer rank the queue. Its votes are kept apart, with the source `scorer`.

    People are still handed every item, and progress, the leaderboard and agreement count people; `workbench leaderboard
    --sources scorers` looks at a scorer's votes. `rank dataset` takes a scorer's rankings where no person ranked the
    item.
    """
    added = output.open_workspace().rank_by_scorer(queue, scorer)
    show({"ranked": added, "scorer": scorer}, lambda out: out.print(f"{added} items ranked by {plain(scorer)}."))


@rank.command("undo")
def undo(queue: Queue, rater: Rater = None, json: Json = False) -> None:
    """Take back your last ranking in a queue; `rank next` gives the item again."""
    ranking = output.open_workspace().undo_ranking(queue, _rater(rater))
    if ranking is None:
        show({"undone": None}, lambda out: out.print("There is nothing to take back."))
        return
    _tell_ranking(ranking, "Taken back")


def _tell_ranking(ranking: Ranking, done: str) -> None:
    # Who wrote what stays unsaid, as on the page.
    document = ranking.model_dump(mode="json")
    show(document, lambda out: out.print(f"{done}: ranking {ranking.id} of item {ranking.item_id}."))


@rank.command("export")
def export(
    queues: Queues,
    path: Annotated[Path, typer.Option("--to", help="The file to write, JSON Lines.", show_default=False)],
    form: Annotated[
        Form, typer.Option("--as", help="The rankings themselves, or rows for this trainer of TRL.")
    ] = "rankings",
    part: Annotated[
        Literal["all", "train", "held_out"], typer.Option("--part", help="Which prompts; split as `rank dataset` does.")
    ] = "all",
    scheme: Annotated[
        Literal["all", "adjacent"], typer.Option("--scheme", help="All pairs, or only those of adjacent places.")
    ] = "all",
    held_out: Annotated[float, typer.Option("--held-out", min=0, max=0.99, help=HELD_OUT_HELP)] = 0.1,
    json: Json = False,
) -> None:
    """Write rankings to a file that imports again, or that a TRL trainer takes as it is."""
    workspace = output.open_workspace()
    path = typed_path(path)
    if form == "rankings":
        if len(queues) > 1:
            raise UsageError("one queue at a time", place="--as rankings", remedy="Export them one by one.")
        workspace.export_rankings(queues[0], path)
    else:
        workspace.export_for_trl(queues, path, form, part=part, scheme=scheme, held_out=held_out)
    show({"path": str(path), "form": form}, lambda out: out.print(str(path)))


@rank.command("dataset")
def dataset(
    queues: Queues,
    name: Annotated[str, typer.Option("--name", help="Name of the dataset; a known one gets a new version.")],
    kind: Annotated[
        Literal["preferences", "labels", "examples"],
        typer.Option("--kind", help="Pairs, answers labelled good or bad (for KTO), or the best ones to imitate."),
    ] = "preferences",
    scheme: Annotated[
        Literal["all", "adjacent"], typer.Option("--scheme", help="All pairs, or only those of adjacent places.")
    ] = "all",
    held_out: Annotated[float, typer.Option("--held-out", min=0, max=0.99, help=HELD_OUT_HELP)] = 0.1,
    json: Json = False,
) -> None:
    """Make a dataset of rankings: pairs, labelled answers, or the best answers. New votes make a new version."""
    workspace = output.open_workspace()
    if kind == "preferences":
        built = workspace.build_preferences(queues, name, scheme=scheme, held_out=held_out)
    elif kind == "labels":
        built = workspace.build_labels(queues, name, held_out=held_out)
    else:
        built = workspace.build_examples(queues, name, held_out=held_out)
    rows = [
        (workspace.dataset(version.dataset_id).name, version.number, f"{version.rows:,}", version.id)
        for version in (built.train, built.held_out)
        if version is not None
    ]
    columns = ("dataset", "version", "rows", "id")
    show(built, lambda out: out.print(table(columns, rows, empty="", right=("version", "rows"))))


def leaderboard(
    queues: Annotated[
        list[str] | None, typer.Argument(metavar="[QUEUE…]", help="Queues; all that are not put away when left out.")
    ] = None,
    sources: Annotated[
        Sources | None,
        typer.Option(
            "--sources",
            help="Whose votes; people's when left out, or scorers' where nobody else voted.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show which variant people prefer, how sure that is, and what speaks against trusting it."""
    board = output.open_workspace().leaderboard(queues or None, sources=sources)
    document = board.model_dump(mode="json") | {
        "conclusions": board.conclusions,
        "flagged": board.flagged,
        "made_by": board.made_by,
    }
    show(document, lambda out: _print_board(out, board))


def _print_board(out: Console, board: Leaderboard) -> None:
    rows = [
        (
            rating.rank,
            board.names.get(rating.variant_id, rating.variant_id)
            + (" (put away)" if rating.variant_id in board.archived else ""),
            f"{rating.strength:+.2f}",
            f"{rating.low:+.2f} to {rating.high:+.2f}",
            rating.comparisons,
            f"{rating.wins:g}",
        )
        for rating in board.ratings
    ]
    columns = ("rank", "variant", "strength", "95 % interval", "comparisons", "won")
    out.print(table(columns, rows, empty="", right=("rank", "strength", "comparisons", "won")))
    for sentence in board.conclusions:
        out.print(plain(sentence))
    agreement, who = board.agreement, "scorers" if board.sources == "scorers" else "raters"
    first = board.positions[0].first if board.positions else None
    out.print(
        facts(
            [
                ("votes", f"{board.votes:,} on {board.prompts:,} prompts by {len(board.raters)} {who}"),
                ("made", board.made_by or None),
                ("raters agree", _interval(agreement.same)),
                ("Krippendorff α", None if agreement.alpha_pairs is None else f"{agreement.alpha_pairs:.2f} on pairs"),
                ("first displayed won", _interval(first)),
            ]
        )
    )
    for note in board.notes:
        if note != board.made_by:
            out.print(plain(note))


def _interval(told: Interval | None) -> str | None:
    return None if told is None else f"{told.value:.0%} ({told.low:.0%} to {told.high:.0%}, n = {told.n})"
