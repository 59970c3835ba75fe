"""`workbench reward …`: reward models, their reports, scores of answers, and best of n."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from workbench.cli import output
from workbench.cli.following import check_finished, follow, told_interval
from workbench.cli.options import with_config
from workbench.cli.output import Json, facts, plain, show, table
from workbench.cli.runs import launched
from workbench.errors import UsageError
from workbench.training.score import ScoreConfig

if TYPE_CHECKING:
    from workbench.api import Workspace
    from workbench.records import Interval, Run
    from workbench.training.reward_diagnostics import RewardReport
    from workbench.training.score import ScoreReport

reward = typer.Typer(
    help="Reward models: their reports, scores of answers, best of n.", no_args_is_help=True, add_completion=False
)
Model = Annotated[str, typer.Argument(metavar="REWARD", help="Run id or name of the reward model.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end and show the scores.")]
SHOWN_TEXT = 200
MOST_SHOWN = 5


@reward.command("list")
def list_models(
    archived: Annotated[bool, typer.Option("--archived", help="Also those that were put away.")] = False,
    json: Json = False,
) -> None:
    """List reward models, newest first."""
    workspace = output.open_workspace()
    found = workspace.reward_models(archived=archived)

    def human(out: Console) -> None:
        rows = [
            (made.name, told_interval(made.accuracy), made.accuracy.n if made.accuracy else "", made.pairs,
             output.ago(made.created_at), made.run_id)
            for made in found
        ]  # fmt: skip
        columns = ("name", "held-out accuracy", "pairs held out", "pairs learned", "created", "run")
        empty = "No reward model yet. `workbench train reward --dataset NAME` learns one from preferences."
        out.print(table(columns, rows, empty=empty, right=("pairs held out", "pairs learned")))

    show(found, human)


@reward.command("report")
def report(name: Model, json: Json = False) -> None:
    """Show how far a reward model can be trusted."""
    found = output.open_workspace().reward_report(name)
    show(found, lambda out: _print_report(out, found))


def _print_report(out: Console, told: RewardReport) -> None:
    length, agreement, shown = told.length, told.agreement, told.demonstrations
    out.print(
        facts(
            [
                ("learned from", f"{told.training_pairs:,} pairs on {told.training_prompts:,} prompts"),
                ("held out", f"{told.pairs:,} pairs on {told.prompts:,} prompts" if told.prompts else "nothing"),
                ("left out", ", ".join(f"{count} {why.replace('_', ' ')}" for why, count in told.left_out.items())),
                ("accuracy", _share(told.accuracy)),
                ("raters agree", _share(agreement.same) if agreement else "not measured"),
                ("held-out loss", None if told.loss is None else f"{told.loss:.3f}"),
                ("calibration error", None if told.calibration_error is None else f"{told.calibration_error:.3f}"),
                ("longer wins", _share(length.longer_wins) if length else None),
                ("reward and length", f"ρ = {length.spearman.value:.2f} ({length.spearman.low:.2f} to "
                                      f"{length.spearman.high:.2f}, n = {length.spearman.n})" if length else None),
                ("demonstrations", f"{shown['before']:+.3f} before the bias, {shown['after']:+.3f} after, "
                                   f"n = {shown['n']:.0f}" if shown else None),
            ]
        )
    )  # fmt: skip
    for title, shares in (("by confidence", told.by_confidence), ("by number of answers", told.by_k)):
        if shares:
            rows = [(value, _share(share)) for value, share in shares.items()]
            out.print(table((title, "accuracy"), rows, empty=""))
    if told.distributions:
        rows = [(name, _reward(group.mean)) for name, group in told.distributions.items()]
        out.print(table(("answers", "mean reward"), rows, empty=""))
    for pair in told.wrong[:MOST_SHOWN]:
        out.print(f"wrong by {-pair.margin:.2f}: {_short(pair.prompt)}", style="bold")
        out.print(f"  preferred {pair.chosen_reward:+.2f}: {_short(pair.chosen)}")
        out.print(f"  other     {pair.rejected_reward:+.2f}: {_short(pair.rejected)}")
    for note in (*told.warnings, *told.notes):
        out.print(plain(note))


@reward.command("score")
@with_config(ScoreConfig, arguments=("reward",))
def score(options: dict[str, Any], wait: Wait = True, json: Json = False) -> None:
    """Score answers to a prompt (`--prompt`, `--answers`), or all answers of a run (`--answers-of`)."""
    if "variant" in options:
        raise UsageError("a variant is asked by best-of", place="variant", remedy="`workbench reward best-of --help`.")
    _launch(options, wait)


@reward.command("best-of")
@with_config(ScoreConfig, arguments=("reward", "variant"))
def best_of(options: dict[str, Any], wait: Wait = True, json: Json = False) -> None:
    """Ask a variant n times and show what keeping the best answer would bring."""
    if "variant" not in options:
        raise UsageError("a variant that answers is needed", place="variant", remedy="`workbench models variants`.")
    _launch(options, wait)


def _launch(options: dict[str, Any], wait: bool) -> None:
    name = options.pop("reward", None)
    if not name:
        raise UsageError("a reward model is needed", place="reward", remedy="`workbench reward list` shows them.")
    workspace = output.open_workspace()
    run = workspace.score(name, **options)
    if not wait:
        launched(workspace, run, wait=False)
        return
    _tell_scores(workspace, follow(workspace, run))


def _tell_scores(workspace: Workspace, run: Run) -> None:
    check_finished(run)
    told = workspace.scores(run.id)
    names = {variant.id: variant.name for variant in workspace.variants(archived=True)}
    show(told, lambda out: _print_scores(out, told, names))


def _print_scores(out: Console, told: ScoreReport, names: dict[str, str]) -> None:
    for prompt in told.prompts[: MOST_SHOWN if told.mode != "texts" else None]:
        if told.mode != "texts":
            out.print(_short(prompt.prompt), style="bold")
        best = prompt.best
        answers = prompt.answers if told.mode != "best_of" else ((best,) if best else ())
        rows = [
            ("" if each.reward is None else f"{each.reward:+.3f}", each.tokens, _short(each.text), each.note)
            for each in answers
        ]
        out.print(table(("reward", "tokens", "answer", ""), rows, empty="", right=("reward", "tokens")))
    if told.mode != "texts":
        if len(told.prompts) > MOST_SHOWN:
            out.print(f"and {len(told.prompts) - MOST_SHOWN} more prompts; --json tells them all")
        means = [(names.get(writer, writer), _reward(mean)) for writer, mean in told.means.items()]
        out.print(table(("variant", "mean reward"), means, empty=""))
    if told.curve:
        curve = [
            (n, _reward(value), f"{kl:.2f}")
            for n, (value, kl) in enumerate(zip(told.curve, told.kl, strict=True), start=1)
            if n & (n - 1) == 0 or n == len(told.curve)
        ]
        out.print(table(("best of", "expected reward", "KL at most (nats)"), curve, empty="", right=("best of",)))


def _share(share: Interval | None) -> str | None:
    return None if share is None else f"{told_interval(share)}, n = {share.n}"


def _reward(value: Interval) -> str:
    return f"{value.value:+.3f} ({value.low:+.3f} to {value.high:+.3f}, n = {value.n})"


def _short(text: str) -> str:
    line = " ".join(plain(text).split())
    return line if len(line) <= SHOWN_TEXT else line[: SHOWN_TEXT - 1] + "…"
