"""`workbench tour`: the whole way once, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from workbench.cli import output
from workbench.cli.following import check_finished, follow
from workbench.cli.options import with_config
from workbench.cli.output import Json, plain, show
from workbench.runs.tour import TourConfig

VARIANTS = ("base", "tuned")


@with_config(TourConfig)
def tour(options: dict[str, Any], json: Json = False) -> None:
    """Install the starter kit, train a LoRA on the bundled model, answer held-out prompts with base and tuned.

    About six minutes on two cores; with --protocol instructgpt also rankings by the kit's scorer, a reward model, RLOO
    and DPO, which take half an hour or more. The run goes on when this command is left; started again, it is joined.
    """
    workspace = output.open_workspace()
    run = workspace.tour(**options)
    output.note(f"Tour {run.id}. It goes on in the background if you leave.")
    run = follow(workspace, run)
    check_finished(run)
    shown = _print_protocol if run.result.get("protocol") == "instructgpt" else _print_tour
    show(run.result, lambda out: shown(out, run.result))


def _print_protocol(out: Console, told: Mapping[str, Any]) -> None:
    rankings, reward = told["rankings"], told["reward"]
    rounds = f" in {len(told['rounds'])} rounds" if len(told.get("rounds") or ()) > 1 else ""
    out.print(
        f"{rankings['rankings']} rankings{rounds} of {rankings['answers']} answers by the scorer '{told['scorer']}', "
        f"not by people: {rankings['pairs']} pairs to train on, {rankings['held_out_pairs']} held out."
    )
    out.print(f"Reward model on held-out pairs: {_accuracy(reward.get('accuracy'))} in the right order.")
    rows = [
        (
            stage["stage"],
            _figure(stage["share"], 100, "%"),
            _figure(stage["score"]),
            _figure(stage["chrf"]),
            _figure(stage["kl_sequence"], 1, "", 2),
            output.span(stage["seconds"]) if stage["seconds"] is not None else "",
        )
        for stage in told["stages"]
    ]
    out.print(
        output.table(("stage", "keep every rule", "score", "chrF", "KL, nats an answer", "training"), rows, empty="")
    )
    for stage, gain in (told.get("gains") or {}).items():
        if gain:
            bounds = f"{gain['low']:+.1f} to {gain['high']:+.1f}, n = {gain['n']}"
            out.print(f"{stage} over sft, score: {gain['value']:+.1f} ({bounds}).")
    out.print("KL is from the base for sft, from sft for the others. Intervals are 95 %.")
    out.print(f"Took {output.span(told.get('seconds'))}. `workbench app` shows it all in the browser.")


def _figure(told: Mapping[str, Any] | None, times: float = 1, unit: str = "", digits: int = 1) -> str:
    if not told:
        return ""
    value, low, high = (f"{told[key] * times:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value}{unit} ({low}–{high})"


def _accuracy(told: Mapping[str, Any] | None) -> str:
    if not told:
        return "no share"
    return f"{told['value']:.0%} ({told['low']:.0%} to {told['high']:.0%}, n = {told['n']})"


def _print_tour(out: Console, told: Mapping[str, Any]) -> None:
    for answer in told.get("answers") or ():
        out.print(plain(answer["prompt"]), style="bold")
        out.print(
            output.table(("base", "tuned"), [(answer["base"], answer["tuned"])], empty=""),
        )
    _print_figures(out, told)
    gain = told.get("chrf_gain")
    if gain:
        bounds = f"{gain['low']:+.1f} to {gain['high']:+.1f}, n = {gain['n']}"
        out.print(f"chrF against the reference answers: {gain['share']:+.1f} points ({bounds}).")
    out.print(f"Took {output.span(told.get('seconds'))}. `workbench app` shows it all in the browser.")
    out.print(f"Talk to it: workbench generate --variant {told.get('variants', {}).get('tuned', 'NAME')} 'Your prompt'")


def _print_figures(out: Console, told: Mapping[str, Any]) -> None:
    """The shares that kept the kit's rules; mean chrF where the kit has no rules to keep."""
    held_out, chrf = told.get("held_out") or {}, told.get("chrf") or {}
    judged = any((held_out.get(name) or {}).get("share") is not None for name in VARIANTS)
    if judged or not chrf:
        out.print("Held-out prompts answered in the kit's format:")
        rows = [(name, output.share(held_out.get(name))) for name in VARIANTS]
        out.print(output.table(("variant", "share"), rows, empty=""))
        return
    out.print("Likeness of held-out answers to their references, mean chrF from 0 to 100:")
    out.print(output.table(("variant", "chrF"), [(name, _mean(chrf.get(name))) for name in VARIANTS], empty=""))


def _mean(figure: Mapping[str, Any] | None) -> str:
    if not figure:
        return "no figure"
    return f"{figure['share']:.1f} ({figure['low']:.1f} to {figure['high']:.1f}, n = {figure['n']})"
