"""The tour as the pages show it: its parts while it is under way, then what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from workbench.api import Workspace
from workbench.records import Interval, Run, RunState
from workbench.runs.protocol import stage_of
from workbench.store import runs as run_store
from workbench.ui import charts
from workbench.ui.links import PLAYGROUND, link_to, variants_query
from workbench.ui.protocol import show_stages, stage_title
from workbench.ui.runs import progress_line, run_link
from workbench.ui.text import plain

PARTS = (
    ("converting_run", "Make the bundled model ready"),
    ("training_run", "Fine-tune an adapter on the starter kit"),
    ("answering_run", "Answer held-out prompts with base and tuned"),
)


def protocol_parts(rounds: int) -> list[tuple[str, str]]:
    """Parts of InstructGPT's protocol: where their runs stand in the result, and what they do."""
    parts = [("converting_run", "Make the bundled model ready"), ("training_run", "Fine-tune on demonstrations")]
    for number in range(1, rounds + 1):
        mark, which = ("", "") if number == 1 else (f"_{number}", f", round {number}")
        parts += [
            (f"sampling{mark}_run", f"Sample answers, ranked by the kit's scorer{which}"),
            (f"reward{mark}_run", f"Learn a reward from the rankings{which}"),
            (f"reinforcing{mark}_run", f"Reinforce with RLOO{which}"),
        ]
    parts += [
        ("dpo_run", "Train DPO on the same rankings"),
        ("answering_run", "Answer held-out prompts with each stage"),
    ]
    moved = ["sft", *map(stage_of, range(1, rounds + 1)), "dpo"]
    return parts + [(f"kl_{stage}_run", f"Measure how far {stage_title(stage)} moved") for stage in moved]


def _parts(tour: Run) -> Sequence[tuple[str, str]]:
    if tour.spec.get("protocol") != "instructgpt":
        return PARTS
    rounds = tour.spec.get("rounds")
    return protocol_parts(rounds if isinstance(rounds, int) and not tour.spec.get("quick") else 1)


def show_parts(ws: Workspace, tour: Run) -> None:
    """The tour's parts, each with its state and a link to its run."""
    ready = "training_run" in tour.result and "converting_run" not in tour.result
    for key, title in _parts(tour):
        run_id = tour.result.get(key)
        part = run_store.get_run(ws.store, str(run_id)) if run_id else None
        icon, text = _part_state(part, ready and key == "converting_run", tour)
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(f":material/{icon}: {title}", width="content")
            if text:
                st.caption(plain(text), width="content")
            if part is not None:
                run_link(part, label="Open the run")
        if part is not None and part.state is RunState.RUNNING and part.progress.share is not None:
            st.progress(part.progress.share)


def _part_state(part: Run | None, done: bool, tour: Run) -> tuple[str, str]:
    if part is None:
        if done:
            return "check_circle", "already there"
        return ("radio_button_unchecked", "") if tour.state.active else ("remove", "not reached")
    if part.state is RunState.FINISHED:
        return "check_circle", ""
    if part.state.active:
        return "pending", progress_line(part)
    return "error", part.failure.message if part.failure else part.state.value


def show_findings(tour: Run) -> None:
    """What a finished tour found: held-out figures with their intervals and a few answers side by side.

    The figures are shares that kept the kit's rules; mean chrF where the kit has no rules to keep.
    """
    if tour.result.get("protocol") == "instructgpt":
        show_stages(tour)
        return
    shares, means = _intervals(tour.result.get("held_out")), _intervals(tour.result.get("chrf"))
    variants = tour.result.get("variants")
    if shares:
        _show_shares(tour, shares)
    elif means:
        _show_means(tour, means)
    if isinstance(variants, dict) and {"base", "tuned"} <= variants.keys():
        query = variants_query(str(variants["base"]), str(variants["tuned"]))
        link_to(PLAYGROUND, "Ask both something yourself", icon="compare_arrows", **query)
    answers = tour.result.get("answers")
    for item in answers if isinstance(answers, list) else []:
        if isinstance(item, dict):
            _show_answers(item)


def _show_shares(tour: Run, shares: Mapping[str, Interval]) -> None:
    st.subheader("Answers that follow the instruction, on held-out prompts")
    n = next(iter(shares.values())).n
    words = [f"{name} {item.value:.0%} ({item.low:.0%} to {item.high:.0%})" for name, item in shares.items()]
    st.caption(f"{'; '.join(words)}. Shares of {n} prompts, 95 % Wilson intervals.")
    charts.show(
        charts.interval_figure(shares, "answers that follow every rule", share=True),
        key=f"tour.shares.{tour.id}",
        alt=f"Share of answers that follow every rule: {'; '.join(words)}",
    )


def _show_means(tour: Run, means: Mapping[str, Interval]) -> None:
    st.subheader("How close answers come to the references, on held-out prompts")
    n = next(iter(means.values())).n
    words = [f"{name} {item.value:.1f} ({item.low:.1f} to {item.high:.1f})" for name, item in means.items()]
    st.caption(f"{'; '.join(words)}. Mean chrF from 0 to 100 over {n} prompts, 95 % bootstrap intervals.")
    charts.show(
        charts.interval_figure(means, "mean chrF against the reference"),
        key=f"tour.chrf.{tour.id}",
        alt=f"Mean chrF against the reference: {'; '.join(words)}",
    )


def _show_answers(item: Mapping[str, Any]) -> None:
    with st.container(border=True):
        st.text(str(item.get("prompt", "")))
        columns = st.columns(2)
        for column, key in zip(columns, ("base", "tuned"), strict=True):
            with column:
                st.badge(key.capitalize(), color="gray" if key == "base" else "green")
                st.text(str(item.get(key, "")))


def _intervals(shares: object) -> dict[str, Interval]:
    """By shown name, the figures that there are: a kit without a rule scorer has no share."""
    if not isinstance(shares, dict):
        return {}
    return {
        name.capitalize(): Interval(value=item["share"], low=item["low"], high=item["high"], n=item["n"])
        for name, item in shares.items()
        if isinstance(item, dict) and item.get("share") is not None
    }
