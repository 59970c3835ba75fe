"""One run laid beside others: their losses in one chart, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.records import Run
from workbench.ui import charts
from workbench.ui.runs import STATES, took
from workbench.ui.state import COMPARE_PARAM
from workbench.ui.text import figure

MOST_RUNS = 8


def show_comparison(ws: Workspace, run: Run) -> None:
    """Choose runs of the same kind and see losses and differences."""
    others = [other for other in ws.runs(kinds=[run.kind], limit=200) if other.id != run.id]
    if not others:
        st.caption("There is no other run of this kind yet. Clone this one, change a setting, and compare here.")
        return
    names = {other.id: other.name for other in others}
    asked = [part for part in st.query_params.get(COMPARE_PARAM, "").split(",") if part in names]
    chosen = st.multiselect(
        "Compare with",
        list(names),
        asked[:MOST_RUNS],
        format_func=lambda run_id: names[run_id],
        max_selections=MOST_RUNS,
        key=f"run.compare.{run.id}",
        placeholder="Choose runs",
    )
    if not chosen:
        st.caption("Choose one or more runs to see their losses and the settings in which they differ.")
        return
    runs = [run, *(other for other in others if other.id in chosen)]
    labels = run_labels(runs)
    for metric, title in (("eval_loss", "Held-out loss"), ("loss", "Train loss, smoothed")):
        lines = {}
        for item, label in zip(runs, labels, strict=True):
            points = charts.series(ws.metrics(item.id, [metric], most=charts.MOST_POINTS)).get(metric, [])
            if points:
                lines[label] = charts.smooth(points) if metric == "loss" else points
        if lines:
            st.markdown(f"**{title}**")
            charts.show(
                charts.line_figure(lines, "nats per token", height=300),
                key=f"run.compare.{metric}",
                alt=f"{title} of {len(lines)} runs over steps",
            )
    st.markdown("**Differences only**")
    table = differences(runs, labels)
    if table.empty:
        st.caption("These runs have the same settings and results.")
    else:
        st.dataframe(table, alt="Settings and results in which the runs differ")


def run_labels(runs: Sequence[Run]) -> list[str]:
    """Names of runs, told apart by the end of the id where two have the same."""
    names = [run.name for run in runs]
    return [f"{run.name} ({run.id[-4:]})" if names.count(run.name) > 1 else run.name for run in runs]


def differences(runs: Sequence[Run], labels: Sequence[str]) -> pd.DataFrame:
    """A line for each setting and figure in which the runs differ, a column for each run."""
    columns = []
    for run in runs:
        values: dict[str, object] = dict(run.spec)
        values |= {
            f"result: {name.replace('_', ' ')}": value
            for name, value in run.result.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        values |= {"result: state": STATES[run.state][0], "result: time": took(run)}
        columns.append({key: _shown(value) for key, value in values.items() if key != "name"})
    keys = list(dict.fromkeys(key for column in columns for key in column))
    rows = {key: [column.get(key, "–") for column in columns] for key in keys}
    rows = {key: values for key, values in rows.items() if len(set(values)) > 1}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(labels))


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int | float):
        return figure(value)
    if isinstance(value, list):
        return ", ".join(str(part) for part in value) or "–"
    return str(value)
