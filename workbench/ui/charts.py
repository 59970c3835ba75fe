"""Plotly figures that look right in the light and the dark theme.

Colours are of a middle lightness, which keeps 3:1 against the background of either theme; bands are translucent. Every
figure has an unchanging `uirevision`, so a zoom survives the next refresh of a live chart.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from workbench.records import Interval
from workbench.runs.curves import MOST_POINTS as MOST_POINTS
from workbench.runs.curves import Points as Points
from workbench.runs.curves import series as series
from workbench.runs.curves import smooth as smooth

COLORS = ("#0D9488", "#D97706", "#6D6AF0", "#DB2777", "#65A30D", "#0284C7", "#A855F7", "#8A7B70")
BAND = "rgba(217, 119, 6, 0.20)"
FAINT = "rgba(128, 140, 140, 0.45)"
CONFIG: dict[str, Any] = {"displayModeBar": False, "scrollZoom": False}
SMALL = 0.01
"""A constant below this, as a learning rate is, gets an axis of its own size; Plotly's would reach from -1 to 1."""


def loss_figure(found: Mapping[str, Points]) -> go.Figure:
    """Training loss, faint with its moving average, and held-out loss with its interval where there is one.

    Args:
        found: from `series`; uses `loss`, `eval_loss`, `eval_loss_low`, `eval_loss_high`.
    """
    figure = go.Figure()
    train, held_out = found.get("loss", []), found.get("eval_loss", [])
    if len(train) > 12:
        _line(figure, train, "each step", "loss", color=FAINT, width=1, legend=False)
        _line(figure, smooth(train), "train, smoothed", "loss", color=COLORS[0])
    elif train:
        _line(figure, train, "train", "loss", color=COLORS[0], markers=len(train) < 3)
    low, high = found.get("eval_loss_low", []), found.get("eval_loss_high", [])
    if low and high:
        _band(figure, low, high)
    if held_out:
        _line(figure, held_out, "held-out", "loss", color=COLORS[1], markers=True)
    return _finish(figure, "loss (nats per token)", height=320)


def line_figure(lines: Mapping[str, Points], unit: str, *, height: int = 220, tick: str | None = None) -> go.Figure:
    """Lines over steps.

    Args:
        lines: points by shown name.
        unit: title of the vertical axis.
        height: pixels.
        tick: format of the vertical axis, for example `.0e`.
    """
    figure = go.Figure()
    for place, (name, points) in enumerate(lines.items()):
        _line(figure, points, name, unit, color=COLORS[place % len(COLORS)], markers=len(points) < 3)
    return _finish(figure, unit, height=height, tick=tick, legend=len(lines) > 1)


def interval_figure(estimates: Mapping[str, Interval], unit: str, *, share: bool = False) -> go.Figure:
    """One point with its interval a row; hover tells the estimate, the interval and how many items it rests on.

    Args:
        estimates: by shown name.
        unit: title of the horizontal axis.
        share: the values are shares, shown as per cent from 0 to 100.
    """
    number = ".0%" if share else ".4g"
    names = list(estimates)
    values = list(estimates.values())
    figure = go.Figure(
        go.Scatter(
            x=[item.value for item in values],
            y=names,
            mode="markers",
            marker={"size": 11, "color": [COLORS[place % len(COLORS)] for place in range(len(names))]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [item.high - item.value for item in values],
                "arrayminus": [item.value - item.low for item in values],
                "thickness": 2,
                "color": "rgba(128, 140, 140, 0.9)",
            },
            customdata=[(item.low, item.high, item.n) for item in values],
            hovertemplate=f"%{{x:{number}}}, %{{customdata[0]:{number}}} to %{{customdata[1]:{number}}}"
            ", n = %{customdata[2]}<extra>%{y}</extra>",
        )
    )
    figure.update_layout(
        height=80 + 44 * len(names), margin={"l": 8, "r": 16, "t": 8, "b": 8}, xaxis_title=unit, showlegend=False
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    if share:
        figure.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
    return figure


def show(figure: go.Figure, *, key: str, alt: str) -> None:
    """Draw a figure across the container.

    Args:
        figure: from this module.
        key: unique in the page; keeps the chart in place while a fragment refreshes it.
        alt: what the chart says, for people who do not see it.
    """
    st.plotly_chart(figure, key=key, config=CONFIG, alt=alt)


def _line(
    figure: go.Figure,
    points: Points,
    name: str,
    unit: str,
    *,
    color: str | None = None,
    width: int = 2,
    markers: bool = False,
    legend: bool = True,
) -> None:
    name = html.escape(name, quote=False)  # Plotly reads a few HTML tags in names, and names may be a person's
    figure.add_scatter(
        x=[step for step, _ in points],
        y=[value for _, value in points],
        name=name,
        mode="lines+markers" if markers else "lines",
        line={"width": width, **({"color": color} if color else {})},
        marker={"size": 7},
        cliponaxis=False,
        showlegend=legend,
        hovertemplate=f"step %{{x}}: %{{y:.4g}}<extra>{name}</extra>" if legend else None,
        hoverinfo=None if legend else "skip",
    )


def _band(figure: go.Figure, low: Points, high: Points) -> None:
    steps = [step for step, _ in high]
    figure.add_scatter(
        x=steps + steps[::-1],
        y=[value for _, value in high] + [value for _, value in low][::-1],
        fill="toself",
        fillcolor=BAND,
        line={"width": 0},
        name="held-out, 95 % interval",
        hoverinfo="skip",
    )


def _finish(figure: go.Figure, unit: str, *, height: int, tick: str | None = None, legend: bool = True) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 12, "t": 28 if legend else 8, "b": 8},
        xaxis_title="step",
        yaxis_title=unit,
        hovermode="x unified",
        uirevision="keep",
        showlegend=legend,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(automargin=True, rangemode="tozero")
    figure.update_yaxes(automargin=True, tickformat=tick)
    level = {value for line in figure.data for value in line.y}
    if len(level) == 1 and 0 < (value := level.pop()) < SMALL:
        figure.update_yaxes(range=[0, 2 * value])
    return figure
