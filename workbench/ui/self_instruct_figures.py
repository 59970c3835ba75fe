"""Figures of a self-instruct run: the yield funnel, why tasks were lost, what they ask for, how close they come."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from workbench.self_instruct.diversity import Diversity
from workbench.self_instruct.review import LOST, Funnel
from workbench.ui.charts import COLORS, FAINT
from workbench.ui.self_instruct_words import reason_label

VERBS = 20
"""Verbs of the diversity figure, as in the paper."""
NOUNS = 4
"""Nouns of each."""
_MARGIN = {"l": 8, "r": 16, "t": 8, "b": 8}
_SHORT = {
    "read": "Read from replies",
    "passed": "Instruction passed",
    "answered": "Examples written",
    "kept": "Kept",
    "accepted": "Accepted by a person",
}


def funnel_figure(funnel: Funnel) -> go.Figure:
    """How many tasks came how far; hover tells shares and what was lost on the way."""
    stages = funnel.stages
    first = stages[0].count
    told = []
    for before, stage in zip((stages[0], *stages), stages, strict=False):
        lost = "<br>".join(f"−{number:,}: {html.escape(LOST[why])}" for why, number in stage.lost.items())
        told.append((_share(stage.count, first), _share(stage.count, before.count), lost or "nothing lost"))
    figure = go.Figure(
        go.Funnel(
            y=[_SHORT[stage.name] for stage in stages],
            x=[stage.count for stage in stages],
            customdata=told,
            texttemplate="%{x:,}",
            textposition="auto",
            hovertemplate="<b>%{y}</b>: n = %{x:,}<br>%{customdata[0]} of all, %{customdata[1]} of the step before"
            "<br>%{customdata[2]}<extra></extra>",
            marker={"color": [COLORS[5], COLORS[5], COLORS[5], COLORS[0], COLORS[4]]},
            connector={"fillcolor": "rgba(128, 140, 140, 0.18)"},
        )
    )
    figure.update_layout(height=300, margin=_MARGIN, uirevision="keep", showlegend=False)
    figure.update_yaxes(automargin=True)
    return figure


def reasons_figure(lost: Mapping[str, int], noun: str) -> go.Figure:
    """Reasons for rejection, the most frequent first; hover tells the reason in words.

    Args:
        lost: reason → how many.
        noun: of what.
    """
    ordered = sorted(lost.items(), key=lambda item: -item[1])
    total = sum(lost.values())
    figure = go.Figure(
        go.Bar(
            x=[number for _, number in ordered],
            y=[reason_label(why) for why, _ in ordered],
            orientation="h",
            text=[f"{number:,}" for _, number in ordered],
            textposition="auto",
            customdata=[(html.escape(LOST[why]), _share(number, total)) for why, number in ordered],
            hovertemplate="%{customdata[0]}<br>n = %{x:,}, %{customdata[1]} of the losses<extra></extra>",
            marker={"color": COLORS[1]},
        )
    )
    figure.update_layout(
        height=90 + 28 * len(ordered), margin=_MARGIN, uirevision="keep", showlegend=False, xaxis_title=noun
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(dtick=1 if max(lost.values(), default=0) < 8 else None)
    return figure


def diversity_figure(found: Diversity) -> go.Figure:
    """The most frequent verbs, around each its most frequent nouns; all else of a verb is left blank, as in the paper.

    Args:
        found: verbs and pairs, most frequent first.
    """
    verbs = list(found.verbs)[:VERBS]
    ids, labels, parents, values = list(verbs), list(verbs), [""] * len(verbs), [found.verbs[verb] for verb in verbs]
    for verb in verbs:
        for pair in [each for each in found.pairs if each.verb == verb][:NOUNS]:
            ids.append(f"{verb}/{pair.noun}")
            labels.append(html.escape(pair.noun))
            parents.append(verb)
            values.append(pair.count)
    figure = go.Figure(
        go.Sunburst(
            ids=ids,
            labels=labels,
            parents=parents,
            values=values,
            branchvalues="total",
            hovertemplate="%{id}<br>n = %{value:,}, %{percentRoot:.1%} of those shown<extra></extra>",
            insidetextorientation="radial",
            leaf={"opacity": 0.75},
        )
    )
    figure.update_layout(
        height=420, margin={"l": 0, "r": 0, "t": 8, "b": 8}, uirevision="keep", sunburstcolorway=list(COLORS)
    )
    return figure


def score_figure(scores: Sequence[float], own: float, wanted: float) -> go.Figure:
    """How close tasks come to what was there before, with the threshold.

    Args:
        scores: ROUGE-L F1 to the nearest, one a task.
        own: the run's own threshold.
        wanted: the one that is tried.
    """
    figure = go.Figure(
        go.Histogram(
            x=list(scores),
            xbins={"start": 0, "end": 1.0001, "size": 0.05},
            marker={"color": COLORS[5], "line": {"width": 1, "color": "rgba(255, 255, 255, 0.25)"}},
            hovertemplate="%{x}: n = %{y:,}<extra></extra>",
        )
    )
    if own != wanted:
        figure.add_vline(x=own, line={"color": FAINT, "width": 2, "dash": "dot"}, annotation_text="run")
    figure.add_vline(x=wanted, line={"color": COLORS[1], "width": 2}, annotation_text=f"{wanted:.2f}")
    figure.update_layout(
        height=220,
        margin={**_MARGIN, "t": 24},
        uirevision="keep",
        showlegend=False,
        xaxis_title="ROUGE-L F1 to the nearest seed or earlier task",
        yaxis_title="tasks",
    )
    figure.update_xaxes(range=[0, 1.02], automargin=True)
    figure.update_yaxes(automargin=True)
    return figure


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"
