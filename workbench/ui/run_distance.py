"""How far a training run moved its model: earlier measurements of the KL, and a form for another one."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.records import Run, RunState, Variant
from workbench.store.models import list_variants
from workbench.ui.errors import shown_errors
from workbench.ui.grid import told_interval
from workbench.ui.links import DATASETS, RUNS, go_to, link_to, run_query
from workbench.ui.run_results import find_variant
from workbench.ui.runs import run_link
from workbench.ui.text import ago, figure, plain

SHOWN = 200


def show_distance(ws: Workspace, run: Run) -> None:
    """KL of the variant a run made, in nats an answer."""
    variant = find_variant(ws, run.result.get("variant_id"))
    if variant is None:
        st.caption("Measured on answers of the variant that the run makes; it has made none yet.")
        return
    _show_measured(ws, variant)
    _show_form(ws, run, variant)


def _show_measured(ws: Workspace, variant: Variant) -> None:
    measured = [found for found in ws.runs(kinds=["kl"], limit=SHOWN) if found.spec.get("variant") == variant.id]
    lines = []
    for found in measured:
        if found.state.active:
            run_link(found)
        told = told_interval(found.result.get("kl_sequence"))
        if found.state is not RunState.FINISHED or told is None:
            continue
        other = find_variant(ws, found.result.get("reference"))
        lines.append(
            {
                "From": other.name if other else "a deleted variant",
                "KL of an answer": figure(told.value, 3),
                "95 % interval": f"{figure(told.low, 3)} to {figure(told.high, 3)}",
                "Prompts": told.n,
                "Measured": ago(found.created_at),
            }
        )
    if lines:
        st.dataframe(pd.DataFrame(lines), hide_index=True, height="content", alt="KL measurements of this variant")


def _show_form(ws: Workspace, run: Run, variant: Variant) -> None:
    starts = _references(ws, run, variant)
    sets = [found.name for found in ws.datasets()]
    if not sets:
        st.caption("Measured on prompts of a dataset; there is none.")
        link_to(DATASETS, "Datasets", icon="table_rows")
        return
    prompts = [found.name for found in ws.datasets(kind="prompts")]
    st.caption(
        "Draws an answer to each prompt and tells how much likelier this variant holds it than the other does: how "
        "much of the other model was given up for what was gained."
    )
    left, middle, right = st.columns([2, 2, 1])
    other = left.selectbox("From", list(starts), format_func=lambda key: starts.get(key, key), key="run.kl.from")
    at = sets.index(prompts[0]) if prompts else 0
    asked = middle.selectbox("Prompts of", sets, index=at, key="run.kl.prompts")
    limit = right.number_input("At most", 1, 10_000, 32, key="run.kl.limit", help="Prompts to answer.")
    if st.button("Measure", icon=":material/straighten:", key="run.kl.launch"):
        with shown_errors():
            launched = ws.measure_kl(variant.id, str(asked), reference=other, limit=int(limit))
            go_to(RUNS, **run_query(launched))


def _references(ws: Workspace, run: Run, variant: Variant) -> dict[str, str]:
    """What it can be held against, by id: first what the run went on from, then its base."""
    found = {}
    began = find_variant(ws, run.result.get("reference_id") or run.spec.get("adapter"))
    if began is not None and began.model_id == variant.model_id:
        found[began.id] = f"{plain(began.name)} (it went on from it)"
    for each in list_variants(ws.store, model_id=variant.model_id, archived=True):
        if each.adapter_path is None:
            found.setdefault(each.id, f"{plain(each.name)} (its base)")
    return found
