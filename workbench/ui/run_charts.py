"""Which charts and figures a method's run shows: one table, drawn alike for all of them.

A method that is not in the table shows its loss, learning rate, speed and memory. The series themselves are told by
the method's own file in `workbench.training`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from workbench.api import Workspace
from workbench.records import Run
from workbench.scoring.scorers import figure_title, scorer_names
from workbench.ui import charts
from workbench.ui.runs import took
from workbench.ui.text import figure, plain

FEW_POINTS = 12
"""Up to so many points a series is drawn as it is, beyond as its moving average over the faint points."""
HELD_OUT_ANSWERS = "held_out_answers.jsonl"


@dataclass(frozen=True)
class Chart:
    """One chart of a run."""

    title: str
    """Shown above it."""
    unit: str
    """Of the vertical axis."""
    lines: Mapping[str, str]
    """Series by shown name."""
    bands: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Lower and upper series by shown name."""
    tick: str | None = None
    """Format of the vertical axis."""
    smooth: bool = False
    """Whether a long series of steps is shown as its moving average."""


@dataclass(frozen=True)
class Figure:
    """One figure at the head of a run."""

    label: str
    """Words above it."""
    series: str
    """Whose last value it is."""
    help: str
    """What it means."""
    share: bool = False
    """Whether it is shown in per cent."""


LOSS = Chart("Loss", "loss", {"train": "loss", "held-out": "eval_loss"}, smooth=True)
LEARNING_RATE = Chart("Learning rate", "learning rate", {"learning rate": "learning_rate"}, tick=".1e")
SPEED = Chart("Speed", "tokens/s", {"speed": "tokens_per_s"})
MEMORY = Chart("Memory", "MB", {"memory": "memory_mb"})
MACHINE = (LEARNING_RATE, SPEED, MEMORY)

SIDES = (
    Chart(
        "Implied reward of both sides",
        "β × log-ratio",
        {
            "preferred": "reward_chosen",
            "other": "reward_rejected",
            "preferred, held-out": "eval_reward_chosen",
            "other, held-out": "eval_reward_rejected",
        },
    ),
    Chart("Margin", "preferred less other", {"train": "reward_margin", "held-out": "eval_reward_margin"}, smooth=True),
)
REINFORCED = (
    Chart(
        "Reward",
        "reward",
        {"answers of the step": "reward", "held-out prompts": "eval_reward"},
        {
            "middle 80 % of the answers": ("reward_low", "reward_high"),
            "held-out, 95 % interval": ("eval_reward_low", "eval_reward_high"),
        },
        smooth=True,
    ),
    *(
        Chart(
            f"{figure_title(name)} ({name}), held-out prompts",
            figure_title(name, short=True),
            {"held-out": f"eval_{name}"},
            {"95 % interval": (f"eval_{name}_low", f"eval_{name}_high")},
        )
        for name in scorer_names()
    ),
    Chart("KL of an answer", "nats", {"step": "kl", "held-out": "eval_kl"}, smooth=True),
    Chart("KL of a token", "nats", {"step": "kl_per_token", "held-out": "eval_kl_per_token"}, smooth=True),
    Chart("Score before the end rule", "score", {"step": "reward_before_end_rule"}, smooth=True),
    Chart("Length of answers", "tokens", {"step": "answer_tokens", "held-out": "eval_answer_tokens"}, smooth=True),
    Chart("Answers that end", "share", {"step": "ended", "held-out": "eval_ended"}, tick=".0%", smooth=True),
    Chart("Entropy", "nats a token", {"step": "entropy"}, smooth=True),
    Chart(
        "Seconds of a step",
        "s",
        {"whole": "step_s", "drawing answers": "generate_s", "scoring": "score_s", "reference": "reference_s"},
    ),
    Chart("Loss", "loss", {"step": "loss"}, smooth=True),
    *MACHINE,
)

CHARTS: dict[str, tuple[Chart, ...]] = {
    "reward": (
        LOSS,
        Chart(
            "Pairs in the right order",
            "share",
            {"train": "accuracy", "held-out": "eval_accuracy"},
            tick=".0%",
            smooth=True,
        ),
        Chart("Margin", "preferred less other", {"train": "margin", "held-out": "eval_margin"}, smooth=True),
        *MACHINE,
    ),
    "dpo": (
        LOSS,
        Chart(
            "Pairs in the right order",
            "share",
            {"train": "reward_accuracy", "held-out": "eval_reward_accuracy"},
            tick=".0%",
            smooth=True,
        ),
        *SIDES,
        *MACHINE,
    ),
    "kto": (LOSS, Chart("KL", "nats", {"train": "kl", "held-out": "eval_kl"}, smooth=True), *SIDES, *MACHINE),
    "rloo": REINFORCED,
    "grpo": REINFORCED,
}
"""Charts of each method, the large one first; series that a run has not told are left out."""

REINFORCED_FIGURES = (
    Figure("Reward", "reward", "Mean over the answers of a step, moving average."),
    Figure("Held-out reward", "eval_reward", "On prompts that are not trained on, one answer to each."),
    Figure("KL of an answer", "kl", "Nats from the model it started from, over the answers of a step, moving average."),
    Figure("Answers that end", "ended", "Share of the answers that end by themselves, moving average.", share=True),
)
FIGURES: dict[str, tuple[Figure, ...]] = {"rloo": REINFORCED_FIGURES, "grpo": REINFORCED_FIGURES}


def show_charts(found: Mapping[str, charts.Points], kind: str) -> None:
    """The charts of a method for which the run has told series: one large, the others in a grid.

    Args:
        found: points by series.
        kind: a key of `CHARTS`.
    """
    told = [chart for chart in CHARTS[kind] if any(found.get(name) for name in chart.lines.values())]
    for place, chart in enumerate(told[:1]):
        st.caption(chart.title)
        _show(chart, found, key=f"run.chart.{kind}.{place}", height=320)
    with st.grid(3, min_column_width=230):
        for place, chart in enumerate(told[1:], start=1):
            with st.container(gap="xsmall"):
                st.caption(chart.title)
                _show(chart, found, key=f"run.chart.{kind}.{place}", height=220)


def _show(chart: Chart, found: Mapping[str, charts.Points], *, key: str, height: int) -> None:
    lines = {name: found[series] for name, series in chart.lines.items() if found.get(series)}
    if chart.smooth:
        lines = {name: charts.smooth(points) if len(points) > FEW_POINTS else points for name, points in lines.items()}
    drawn = charts.line_figure(lines, chart.unit, height=height, tick=chart.tick)
    for place, (name, (low, high)) in enumerate(chart.bands.items()):
        if found.get(low) and found.get(high):
            _add_band(drawn, found[low], found[high], name, charts.COLORS[place])
    charts.show(drawn, key=key, alt=f"{chart.title} over steps")


def _add_band(drawn: go.Figure, low: charts.Points, high: charts.Points, name: str, color: str) -> None:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    steps = [step for step, _ in high]
    drawn.add_scatter(
        x=steps + steps[::-1],
        y=[value for _, value in high] + [value for _, value in low][::-1],
        fill="toself",
        fillcolor=f"rgba({red}, {green}, {blue}, 0.15)",
        line={"width": 0},
        mode="lines",
        name=name,
        hoverinfo="skip",
    )


def show_figures(ws: Workspace, run: Run) -> None:
    """The figures at the head of a run whose method has some of its own."""
    mine = FIGURES[run.kind]
    found = charts.series(ws.metrics(run.id, [each.series for each in mine], most=charts.MOST_POINTS))
    with st.grid(len(mine) + 1, min_column_width=150):
        for each in mine:
            points = found.get(each.series)
            if points and not each.series.startswith("eval_"):
                points = charts.smooth(points)
            value = points[-1][1] if points else None
            st.metric(each.label, f"{value:.0%}" if each.share and value is not None else figure(value), help=each.help)
        st.metric("Time", took(run))


def show_warnings(run: Run) -> None:
    """What a run warns of, beside its failure."""
    told = run.result.get("warnings")
    for warning in told if isinstance(told, list) else []:
        st.warning(plain(str(warning)), icon=":material/warning:")


def show_held_out_answers(ws: Workspace, run: Run) -> None:
    """The answers to the held-out prompts at the last measurement, the lowest reward first."""
    path = ws.settings.run_dir(run.id) / HELD_OUT_ANSWERS
    if not path.exists():
        st.caption("Written at each measurement: the answers to prompts that are not trained on, with their reward.")
        return
    with path.open(encoding="utf-8") as stream:
        entries = [json.loads(line) for line in stream]
    scorers = [name for name in scorer_names() if entries and name in entries[0]]
    st.dataframe(
        pd.DataFrame(
            entries, columns=["reward", "score", *scorers, "ended", "kl", "tokens", "prompt", "answer", "row_id"]
        ),
        hide_index=True,
        alt="Held-out answers with their reward",
        column_config={
            "reward": st.column_config.NumberColumn("Reward", format="%.3f", help="The end rule applied."),
            "score": st.column_config.NumberColumn("Score", format="%.3f", help="As the reward model gave it."),
            "ended": st.column_config.CheckboxColumn("Ended"),
            "kl": st.column_config.NumberColumn("KL", format="%.2f", help="Nats from the model it started from."),
            "tokens": st.column_config.NumberColumn("Answer tokens"),
            "prompt": st.column_config.TextColumn("Prompt", width="large"),
            "answer": st.column_config.TextColumn("Answer", width="large"),
            "row_id": st.column_config.TextColumn("Row id"),
            **{
                name: st.column_config.NumberColumn(
                    name, format="%.1f", help=f"{figure_title(name)}; it has no part in the reward."
                )
                for name in scorers
            },
        },
    )
