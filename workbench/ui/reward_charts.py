"""Figures of a reward model: calibration, rewards by group of answers, and what keeping the best of n brings."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from workbench.records import Interval
from workbench.training.reward_diagnostics import CalibrationBin, Distribution
from workbench.ui.charts import BAND, COLORS, FAINT

_MARGIN = {"l": 8, "r": 16, "t": 28, "b": 8}


def calibration_figure(bins: Sequence[CalibrationBin]) -> go.Figure:
    """How often raters prefer the answer the model prefers, against how sure the model is; the diagonal is perfect."""
    observed = [each.observed for each in bins]
    figure = go.Figure(
        go.Scatter(x=[0.5, 1], y=[0.5, 1], mode="lines", name="perfect", line={"color": FAINT, "dash": "dot"},
                   hoverinfo="skip")
    )  # fmt: skip
    figure.add_scatter(
        x=[each.predicted for each in bins],
        y=[each.value for each in observed],
        mode="lines+markers",
        name="held-out pairs",
        line={"color": COLORS[0], "width": 2},
        marker={"size": 10},
        error_y=_bars(observed),
        customdata=[(each.low, each.high, each.n) for each in observed],
        hovertemplate="sure of %{x:.0%}: right in %{y:.0%}, %{customdata[0]:.0%} to %{customdata[1]:.0%}, "
        "n = %{customdata[2]}<extra></extra>",
    )
    _lay_out(figure, "how sure the model is", "how often raters agree")
    figure.update_xaxes(range=[0.48, 1.02], tickformat=".0%")
    figure.update_yaxes(range=[-0.02, 1.04], tickformat=".0%")
    return figure


def distribution_figure(groups: Mapping[str, Distribution]) -> go.Figure:
    """Rewards of each group of answers as a box with its points, and the mean with its interval."""
    figure = go.Figure()
    for place, (name, group) in enumerate(groups.items()):
        shown, color = html.escape(name, quote=False), COLORS[place % len(COLORS)]
        figure.add_box(
            x=list(group.scores), y=[shown] * len(group.scores), name=shown, orientation="h", boxpoints="all",
            jitter=0.5, pointpos=0, marker={"size": 4, "opacity": 0.5, "color": color}, line={"color": color},
            hovertemplate="reward %{x:.3f}<extra>%{y}</extra>", showlegend=False,
        )  # fmt: skip
        mean = group.mean
        figure.add_scatter(
            x=[mean.value],
            y=[shown],
            mode="markers",
            marker={"symbol": "diamond", "size": 11, "color": color, "line": {"width": 1, "color": "white"}},
            error_x={**_bars([mean]), "color": color},
            hovertemplate=f"mean {mean.value:.3f}, {mean.low:.3f} to {mean.high:.3f}, n = {mean.n}"
            "<extra>%{y}</extra>",
            showlegend=False,
        )
    _lay_out(figure, "reward", "", height=90 + 62 * len(groups))
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(zeroline=True, zerolinecolor=FAINT)
    figure.update_yaxes(autorange="reversed")
    return figure


def best_of_figure(curve: Sequence[Interval], kl: Sequence[float]) -> go.Figure:
    """Expected reward of the best of 1, 2, … n answers with its interval; hover tells n and the KL it costs at most."""
    numbers = list(range(1, len(curve) + 1))
    figure = go.Figure(
        go.Scatter(
            x=numbers + numbers[::-1],
            y=[each.high for each in curve] + [each.low for each in curve][::-1],
            mode="lines", fill="toself", fillcolor=BAND, line={"width": 0}, name="95 % interval", hoverinfo="skip",
        )
    )  # fmt: skip
    figure.add_scatter(
        x=numbers,
        y=[each.value for each in curve],
        mode="lines+markers",
        name="expected reward of the best",
        line={"color": COLORS[1], "width": 2},
        customdata=[(each.low, each.high, each.n, nats) for each, nats in zip(curve, kl, strict=True)],
        hovertemplate="best of %{x}: %{y:.3f}, %{customdata[0]:.3f} to %{customdata[1]:.3f}, prompts n = "
        "%{customdata[2]}, KL at most %{customdata[3]:.2f} nats<extra></extra>",
    )
    _lay_out(figure, "answers drawn", "reward")
    figure.update_xaxes(dtick=max(1, len(curve) // 8))
    return figure


def _bars(intervals: Sequence[Interval]) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [each.high - each.value for each in intervals],
        "arrayminus": [each.value - each.low for each in intervals],
        "thickness": 2,
    }


def _lay_out(figure: go.Figure, across: str, up: str, *, height: int = 320) -> None:
    figure.update_layout(
        height=height, margin=_MARGIN, xaxis_title=across, yaxis_title=up or None, uirevision="keep",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
