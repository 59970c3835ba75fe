"""Pieces of the HTML report: escaped text, tables, and charts as Plotly reads them. Knows nothing of answers."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from workbench.records import Interval

COLORS = ("#0D9488", "#D97706", "#6D6AF0", "#DB2777", "#65A30D", "#0284C7")


def interval_chart(key: str, estimates: Sequence[tuple[str, Interval]], unit: str) -> dict[str, Any]:
    """One point with its interval a row, as Plotly's JSON; the figures are shares, 0 to 1.

    Args:
        key: makes the chart's id.
        estimates: shown name and figure, in order.
        unit: title of the horizontal axis.
    """
    values = [item for _, item in estimates]
    return {
        "id": f"chart-{key}",
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "x": [item.value for item in values],
                "y": list(range(len(values))),
                "marker": {"size": 12, "color": [COLORS[n % len(COLORS)] for n in range(len(values))]},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [item.high - item.value for item in values],
                    "arrayminus": [item.value - item.low for item in values],
                    "thickness": 2,
                    "color": "rgba(128, 140, 140, 0.9)",
                },
                "cliponaxis": False,
                "customdata": [[item.low, item.high, item.n] for item in values],
                "hovertemplate": "%{x:.0%}, %{customdata[0]:.0%} to %{customdata[1]:.0%}, n = %{customdata[2]}"
                "<extra></extra>",
            }
        ],
        "layout": {
            "height": 90 + 44 * len(values),
            "margin": {"l": 8, "r": 16, "t": 8, "b": 8},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": {
                "range": [-0.02, 1.02],
                "tickformat": ".0%",
                "title": {"text": unit},
                "automargin": True,
                "gridcolor": "rgba(128, 140, 140, 0.3)",
                "zeroline": False,
            },
            "yaxis": {
                "range": [len(values) - 0.5, -0.5],
                "automargin": True,
                "gridcolor": "rgba(128, 140, 140, 0.2)",
                "zeroline": False,
                "tickvals": list(range(len(values))),
                # Plotly reads a few tags in names, and names may be a person's.
                "ticktext": [html.escape(_cut(name), quote=False) for name, _ in estimates],
            },
        },
    }


def chart_places(charts: Sequence[Mapping[str, Any]], key: str) -> str:
    """Where the chart of this key is drawn; empty where there is none."""
    found = [chart for chart in charts if chart["id"] == f"chart-{key}"]
    return "".join(f"<div class='chart' id='{chart['id']}'></div>" for chart in found)


def script_json(value: object) -> str:
    """JSON for a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def sha256(script: str) -> str:
    """The hash by which a content policy allows a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def escaped(value: object) -> str:
    """Text for any place in HTML, attributes included."""
    return html.escape(str(value), quote=True)


def written(text: str) -> str:
    """What a model or a person wrote, line breaks kept."""
    return f"<div class='text' dir='auto'>{escaped(text)}</div>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts that may be wider than the page; columns without any text are left out."""
    kept = [place for place in range(len(heads)) if any(row[place] for row in rows)]
    heads, rows = [heads[place] for place in kept], [[row[place] for place in kept] for row in rows]
    head = "".join(f"<th>{escaped(each)}</th>" for each in heads)
    body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def fact_list(facts: Iterable[tuple[str, object]]) -> str:
    """Names and values under each other; empty values are left out."""
    lines = (f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in facts if value not in (None, ""))
    return f"<dl>{''.join(lines)}</dl>"


def share_text(item: Interval | None) -> str:
    """`72% (64–79%), n = 120`; empty where there is none."""
    return "" if item is None else f"{item.value:.0%} ({item.low:.0%}–{item.high:.0%}), n = {item.n}"


def mean_text(item: Interval | None) -> str:
    """`31.4 (29.0–33.9)`; empty where there is none."""
    return "" if item is None else f"{item.value:.1f} ({item.low:.1f}–{item.high:.1f})"


def as_words(name: str) -> str:
    """An identifier as words."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _cut(name: str) -> str:
    return name if len(name) <= 60 else name[:59] + "…"


def date_text(moment: datetime | None) -> str:
    """A time in UTC; empty where there is none."""
    return "" if moment is None else moment.strftime("%Y-%m-%d %H:%M UTC")
