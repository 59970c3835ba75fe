"""Answers to a whole prompt set: which prompts, who answers, how, what judges, and the runs of before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.evaluation.tasks import AnswerConfig
from workbench.records import Dataset, Run
from workbench.scoring.scorers import METRICS, scorer_names
from workbench.store import runs as run_store
from workbench.store.datasets import version_counts
from workbench.ui.conversation import MOST_PANES
from workbench.ui.forms import checked_config, draw_field
from workbench.ui.links import DATASETS, PROMPT_SETS, go_to, link_to
from workbench.ui.playground import default_panes
from workbench.ui.runs import ACTIVE, STATES, took
from workbench.ui.state import RUN_PARAM
from workbench.ui.text import count, plain

FORM = "prompt_sets"
FIRST = ("limit", "max_tokens", "temperature", "seed")
PAGE_ROWS = 15
COLUMNS: dict[str, Any] = {
    "open": st.column_config.ButtonColumn("", width=70, type="tertiary", key="prompt_sets.open"),
    "name": st.column_config.TextColumn("Name", width=280),
    "state": st.column_config.MultiselectColumn(
        "State", options=[label for label, _, _ in STATES.values()], color=[color for _, _, color in STATES.values()]
    ),
    "progress": st.column_config.ProgressColumn("Progress", min_value=0, max_value=1, format="percent"),
    "shares": st.column_config.TextColumn("Pass all rules", width=240, help="Share of answers, by variant."),
    "launched": st.column_config.DatetimeColumn("Launched", format="distance"),
    "took": st.column_config.TextColumn("Took"),
}


def prompt_datasets(ws: Workspace) -> list[Dataset]:
    """What can be answered: prompt sets first, then instructions, whose last answers serve as references."""
    filled = version_counts(ws.store)
    everything = [item for item in ws.datasets() if item.id in filled]
    return [item for item in everything if item.kind == "prompts"] + [
        item for item in everything if item.kind == "instructions"
    ]


def show_no_prompts(ws: Workspace) -> None:
    """What to do where there is no prompt set: one action."""
    with st.container(border=True):
        st.subheader("No prompt set yet", anchor=False)
        st.markdown("The starter kit has held-out prompts with a format that can be checked, so a difference shows.")
        if st.button("Install the starter kit", type="primary", icon=":material/download:", key="prompt_sets.kit"):
            ws.install_kit()
            st.rerun()
        link_to(DATASETS, "Import your own prompts", icon="table_rows")


def show_form(ws: Workspace, datasets: Sequence[Dataset]) -> None:
    """The form, and the button that launches the run and opens it."""
    by_name = {item.name: item for item in datasets}
    names = {item.id: item.name for item in ws.variants()}
    if f"{FORM}.variants" not in st.session_state:
        st.session_state[f"{FORM}.variants"] = default_panes(ws.variants())
    with st.container(border=True):
        with st.grid(2, min_column_width=280):
            prompts = st.selectbox(
                "Prompts",
                list(by_name),
                format_func=lambda name: f"{name} ({by_name[name].kind})",
                key=f"{FORM}.prompts",
                persist_state="session",
                required=True,
                help="A prompt set, or instructions: a row's last answer is then the reference.",
            )
            chosen = st.multiselect(
                "Variants",
                list(names),
                format_func=lambda item: names.get(item, item),
                key=f"{FORM}.variants",
                persist_state="session",
                max_selections=MOST_PANES,
                placeholder="Choose up to six",
            )
        _show_size(ws, prompts, len(chosen))
        values = _fields(FIRST, 4)
        with st.expander("More settings", icon=":material/tune:"):
            scorers = st.multiselect(
                "Scorers",
                ["auto", *scorer_names()],
                default=["auto"],
                format_func=_scorer_title,
                key=f"{FORM}.scorers",
                help=AnswerConfig.model_fields["scorers"].description,
            )
            drawn = {"prompts", "variants", "scorers", *FIRST}
            values |= _fields([name for name in AnswerConfig.model_fields if name not in drawn], 3)
        if st.button(
            "Answer the prompts",
            type="primary",
            icon=":material/play_arrow:",
            disabled=not chosen or prompts is None,
            key=f"{FORM}.launch",
        ):
            config = checked_config(
                AnswerConfig, {**values, "prompts": prompts, "variants": chosen, "scorers": scorers or ()}
            )
            if config is not None:
                options = config.model_dump(exclude={"prompts", "variants"})
                run = ws.answer_prompts(str(prompts), chosen, **options)
                go_to(PROMPT_SETS, **{RUN_PARAM: run.id})
        if not chosen:
            st.caption("Choose at least one variant.")


def _fields(names: Sequence[str], columns: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    with st.grid(columns, min_column_width=150):
        for name in names:
            field = AnswerConfig.model_fields[name]
            start = field.get_default(call_default_factory=True)
            values[name] = draw_field(name, field, f"{FORM}.{name}", start)
    return values


def _scorer_title(name: str) -> str:
    if name == "auto":
        return "Automatic: the kit's rules, and chrF"
    return METRICS[name].title if name in METRICS else f"Rules: {name}"


def _show_size(ws: Workspace, prompts: str | None, variants: int) -> None:
    if prompts is None:
        return
    rows = ws.version(prompts).rows
    limit = st.session_state.get(f"{FORM}.limit")
    asked = min(rows, limit) if isinstance(limit, int) else rows
    of = f" of {count(rows, 'prompt')}" if asked < rows else ""
    st.caption(f"{count(asked, 'prompt')}{of} for {count(variants, 'variant')}: {count(asked * variants, 'answer')}.")


def show_runs(ws: Workspace) -> None:
    """Earlier runs that answered prompts, one page at a time; refreshed while one is at work."""
    total = run_store.count_matching_runs(ws.store, kinds=["answer"])
    if not total:
        return
    st.subheader("Answered before")
    pages = -(-total // PAGE_ROWS)
    page = min(st.session_state.get(f"{FORM}.page", 1), pages)
    active = bool(ws.runs(kinds=["answer"], states=ACTIVE))
    st.fragment(run_every=2 if active else None)(_table)(ws, page, active)
    if pages > 1:
        st.pagination(pages, key=f"{FORM}.page")


def _table(ws: Workspace, page: int, drawn_active: bool) -> None:
    runs = ws.runs(kinds=["answer"], limit=PAGE_ROWS, offset=(page - 1) * PAGE_ROWS)
    st.dataframe(run_table(runs), hide_index=True, height="content", column_config=COLUMNS, alt="Runs, newest first")
    click = st.session_state.get("prompt_sets.open")
    if click is not None and 0 <= click["row"] < len(runs):
        go_to(PROMPT_SETS, **{RUN_PARAM: runs[click["row"]].id})
    if drawn_active and not ws.runs(kinds=["answer"], states=ACTIVE):
        st.rerun()


def run_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One line a run."""
    return pd.DataFrame(
        {
            "open": ["Open" for _ in runs],
            "name": [run.name for run in runs],
            "state": [[STATES[run.state][0]] for run in runs],
            "progress": [1.0 if run.result.get("summary") else run.progress.share for run in runs],
            "shares": [_shares(run) for run in runs],
            "launched": [run.created_at for run in runs],
            "took": [took(run) for run in runs],
        }
    )


def _shares(run: Run) -> str:
    summary = run.result.get("summary")
    if not isinstance(summary, dict):
        return ""
    told = [
        f"{item['name']} {item['share']:.0%}"
        for item in summary.values()
        if isinstance(item, dict) and isinstance(item.get("share"), int | float)
    ]
    return "; ".join(told) or plain("no rules")
