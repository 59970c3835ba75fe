"""A prompt set's answers: the figures of each variant with intervals, then the prompts with answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import streamlit as st
from pydantic import ValidationError

from workbench.api import Workspace
from workbench.evaluation.aggregate import (
    AnswerCell,
    AnswerGrid,
    VariantSummary,
    export_grid,
    filter_grid,
    load_grid,
    paired_difference,
    rule_verdicts,
)
from workbench.evaluation.prompts import GridPrompt
from workbench.records import Interval, Run, Variant
from workbench.scoring.scorers import REWARD, figure_range, figure_title
from workbench.ui import charts
from workbench.ui.panes import CARD_WIDTH, FINISHES, card_columns, show_fingerprint
from workbench.ui.text import count, plain, show_messages

PAGE_ROWS = 10
SHOWN_PROMPT = 900
SHOWN_ANSWER = 1200
MIMES = {"csv": "text/csv", "jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet"}


@st.cache_resource(max_entries=4, show_spinner=False)
def _ended_grid(_ws: Workspace, home: str, run_id: str, stamp: str) -> AnswerGrid:
    return _ws.answers(run_id)


def grid_of(ws: Workspace, run: Run) -> AnswerGrid:
    """The run's grid; that of an ended run is worked out once."""
    if run.state.active:
        return load_grid(ws.store, run)
    names = [variant.name for variant in ws.variants(archived=True)]  # a new name must show
    return _ended_grid(ws, str(ws.settings.home), run.id, f"{run.attempt} {run.ended_at} {names}")


@st.cache_data(max_entries=64, show_spinner=False)
def _difference(_grid: AnswerGrid, key: str, first: str, second: str, scorer: str | None) -> Interval | None:
    return paired_difference(_grid, first, second, scorer)


def show_summary(grid: AnswerGrid, *, settled: bool) -> None:
    """Each variant's figures over the whole set, as a table and as points with intervals.

    Args:
        grid: all answers.
        settled: whether the run has ended; differences are worked out only then.
    """
    summaries = [grid.summary[variant.id] for variant in grid.variants]
    st.dataframe(summary_table(summaries), hide_index=True, height="content", alt="Figures of each variant")
    shares = {item.name: item.share for item in summaries if item.share is not None}
    metrics = list(dict.fromkeys(name for item in summaries for name in item.metrics))
    with st.grid(2, min_column_width=340):
        if shares:
            with st.container(gap="xsmall"):
                st.markdown("**Answers that pass every rule**", help="95 % Wilson intervals.")
                charts.show(
                    charts.interval_figure(shares, "share of answers", share=True),
                    key=f"grid.shares.{grid.run_id}",
                    alt="; ".join(f"{name} {share_text(item)}" for name, item in shares.items()),
                )
        for metric in metrics:
            means = {item.name: item.metrics[metric] for item in summaries if metric in item.metrics}
            title, bounds = figure_title(metric), figure_range(metric)
            with st.container(gap="xsmall"):
                st.markdown(f"**{plain(title)}**", help="Mean over prompts with a 95 % bootstrap interval.")
                charts.show(
                    charts.interval_figure(means, f"{title}, {bounds}" if bounds else title),
                    key=f"grid.{metric}.{grid.run_id}",
                    alt="; ".join(f"{name} {interval_text(item)}" for name, item in means.items()),
                )
    if any(item.rules for item in summaries):
        with st.expander("Rule by rule", icon=":material/rule:"):
            st.dataframe(
                rule_table(summaries), hide_index=True, height="content", alt="Share of answers that keep a rule"
            )
    if settled and len(grid.variants) > 1 and (shares or metrics):
        _show_differences(grid, bool(shares), metrics)


def summary_table(summaries: Sequence[VariantSummary]) -> pd.DataFrame:
    """One line a variant; every estimate with its interval; columns without any figure are left out."""
    lines = []
    for item in summaries:
        line: dict[str, object] = {
            "Variant": item.name,
            "Answers": item.n,
            "Pass all rules": share_text(item.share),
            **{figure_title(name, short=True): interval_text(value) for name, value in item.metrics.items()},
            "Tokens": interval_text(item.mean_tokens),
            "Tokens/s": "" if item.tokens_per_s is None else f"{item.tokens_per_s:.1f}",
            "Empty": share_text(item.empty),
            "Cut at the limit": share_text(item.unfinished),
            "Failed": item.failed or None,
            "Not asked yet": item.missing or None,
        }
        lines.append(line)
    table = pd.DataFrame(lines)
    empty = [name for name in table.columns if table[name].isna().all() or (table[name].astype(str) == "").all()]
    return table.drop(columns=empty)


def rule_table(summaries: Sequence[VariantSummary]) -> pd.DataFrame:
    """One line a rule, one column a variant."""
    rules = dict.fromkeys(rule for item in summaries for rule in item.rules)
    columns = {item.name: [share_text(item.rules.get(rule)) for rule in rules] for item in summaries}
    return pd.DataFrame({"Rule": [rule_name(rule) for rule in rules], **columns})


def rule_name(rule: str) -> str:
    """A rule's id as words."""
    words = rule.replace("_", " ")
    return words[:1].upper() + words[1:]


def share_text(item: Interval | None) -> str:
    """`72% (64–79%), n = 120`; empty where there is none."""
    return "" if item is None else f"{item.value:.0%} ({item.low:.0%}–{item.high:.0%}), n = {item.n}"


def told_interval(found: object) -> Interval | None:
    """An interval as a run's result keeps it; None where it is none."""
    try:
        return Interval.model_validate(found)
    except ValidationError:
        return None


def interval_text(item: Interval | None) -> str:
    """`31.4 (29.0–33.9)`; empty where there is none."""
    return "" if item is None else f"{item.value:.1f} ({item.low:.1f}–{item.high:.1f})"


def _show_differences(grid: AnswerGrid, rules: bool, metrics: Sequence[str]) -> None:
    names = {variant.id: variant.name for variant in grid.variants}
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown("**On the same prompts, against**", width="content")
            base = st.selectbox(
                "Against",
                list(names),
                format_func=lambda item: names.get(item, item),
                key=f"grid.base.{grid.run_id}",
                label_visibility="collapsed",
                width=280,
            )
        for variant in grid.variants:
            if variant.id == base:
                continue
            found = [(None, "pass all rules")] if rules else []
            parts = [
                difference_text(_difference(grid, _key(grid), base, variant.id, scorer), words, scorer is None)
                for scorer, words in [*found, *((metric, figure_title(metric, short=True)) for metric in metrics)]
            ]
            told = "; ".join(part for part in parts if part)
            st.markdown(f"**{plain(variant.name)}**: {told or 'no prompt that both answered'}")
        st.caption("Paired over prompts, 95 % bootstrap intervals. An interval that spans 0 shows no difference.")


def _key(grid: AnswerGrid) -> str:
    return f"{grid.run_id} {len(grid.cells)}"


def difference_text(item: Interval | None, words: str, share: bool) -> str:
    """`+12 points (+5 to +19) pass all rules, n = 120`."""
    if item is None:
        return ""
    scale, unit, digits = (100.0, " points", 0) if share else (1.0, "", 1)
    value, low, high = (f"{part * scale:+.{digits}f}" for part in (item.value, item.low, item.high))
    return f"{value}{unit} ({low} to {high}) {words}, n = {item.n}"


def show_export(grid: AnswerGrid) -> None:
    """The answers as a file; written when asked for."""
    with st.popover("Export", icon=":material/download:"):
        st.caption(f"{count(len(grid.cells), 'answer')}, one a line, with scores, settings and fingerprints.")
        for format, mime in MIMES.items():
            st.download_button(
                format.upper() if format == "csv" else {"jsonl": "JSON Lines", "parquet": "Parquet"}[format],
                partial(export_bytes, grid, format),
                f"answers-{grid.run_id}.{format}",
                mime,
                key=f"grid.export.{format}",
                on_click="ignore",
                width="stretch",
            )


def export_bytes(grid: AnswerGrid, format: str) -> bytes:
    """The grid as a file's content."""
    with TemporaryDirectory() as folder:
        return export_grid(grid, Path(folder) / f"answers.{format}", format).read_bytes()


def show_rows(grid: AnswerGrid) -> None:
    """Filters, one page of prompts with the answers side by side, and one of them in full where asked for."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        search = st.text_input(
            "Prompt, reference or answer", type="search", placeholder="Search", key=f"grid.q.{grid.run_id}"
        )
        judged = any(summary.share is not None for summary in grid.summary.values())
        differing = judged and len(grid.variants) > 1
        if differing:
            differing = st.toggle(
                "Only where variants differ",
                key=f"grid.differing.{grid.run_id}",
                help="Where one passes all rules and another does not.",
            )
        show_export(grid)
    found = filter_grid(grid, differing=differing, search=search or "")
    if not found.prompts:
        st.caption("No prompt fits.")
        return
    pages = -(-len(found.prompts) // PAGE_ROWS)
    page = min(st.session_state.get(f"grid.page.{grid.run_id}", 1), pages)
    for prompt in found.prompts[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]:
        _show_row(found, prompt)
    with st.container(horizontal=True, vertical_alignment="center"):
        shown = count(len(found.prompts), "prompt")
        st.caption(
            shown if len(found.prompts) == len(grid.prompts) else f"{shown} of {len(grid.prompts):,}", width="stretch"
        )
        if pages > 1:
            st.pagination(pages, key=f"grid.page.{grid.run_id}")


def _show_row(grid: AnswerGrid, prompt: GridPrompt) -> None:
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center"):
            with st.container(width="stretch"):
                st.text(_cut(prompt.question, SHOWN_PROMPT))
            if st.button("Open", icon=":material/open_in_full:", type="tertiary", key=f"grid.open.{prompt.row_id}"):
                _show_full(grid, prompt)
        with st.grid(card_columns(len(grid.variants)), min_column_width=CARD_WIDTH):
            for variant in grid.variants:
                with st.container(border=True, gap="xsmall"):
                    _show_cell(variant, grid.cell(prompt.row_id, variant.id), full=False)


def _show_cell(variant: Variant, cell: AnswerCell | None, *, full: bool) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{plain(variant.name)}**", width="content")
        if cell is not None and cell.passed is not None:
            if cell.passed:
                st.badge("passes", icon=":material/check:", color="green")
            else:
                st.badge("fails", icon=":material/close:", color="red")
        if cell is not None:
            for name, value in cell.values.items():
                digits = 2 if name.startswith(REWARD) else 0
                st.badge(f"{figure_title(name, short=True)} {value:.{digits}f}", color="gray")
        if cell is not None and full:
            show_fingerprint(cell.completion.fingerprint, verified=cell.completion.verified)
    if cell is None:
        st.caption("Not answered yet.")
        return
    answer = cell.completion
    if answer.error is not None:
        st.error(plain(answer.error), icon=":material/error:")
    elif answer.text.strip():
        st.text(answer.text if full else _cut(answer.text, SHOWN_ANSWER))
    else:
        st.caption("An empty answer.")
    _show_rules(cell, full=full)
    if full and answer.error is None:
        ending = FINISHES.get(answer.finish_reason or "", (answer.finish_reason or "unknown ending", ""))[0]
        st.caption(f"{count(answer.tokens, 'token')} in {answer.seconds:.2f} s · {plain(ending)}")


def _show_rules(cell: AnswerCell, *, full: bool) -> None:
    marks = []
    for score in cell.scores:
        for rule, passed in rule_verdicts(score).items():
            told = score.detail.get(rule)
            detail = str(told.get("detail", "")) if isinstance(told, dict) else ""
            if full or not passed:
                marks.append((rule, passed, detail))
    if not marks:
        return
    with st.container(horizontal=True, gap="small"):
        for rule, passed, detail in marks:
            if passed:
                st.badge(rule_name(rule), icon=":material/check:", color="green", help=plain(detail) or None)
            else:
                st.badge(rule_name(rule), icon=":material/close:", color="red", help=plain(detail) or None)


@st.dialog("One prompt in full", width="large", icon=":material/open_in_full:")
def _show_full(grid: AnswerGrid, prompt: GridPrompt) -> None:
    show_messages(prompt.messages)
    if prompt.reference is not None:
        with st.container(border=True, gap="xsmall"):
            st.markdown("**Reference**")
            st.text(prompt.reference)
    if prompt.meta:
        st.caption(plain(", ".join(f"{name}: {value}" for name, value in prompt.meta.items()), limit=300))
    with st.grid(card_columns(len(grid.variants)), min_column_width=CARD_WIDTH):
        for variant in grid.variants:
            with st.container(border=True, gap="xsmall"):
                _show_cell(variant, grid.cell(prompt.row_id, variant.id), full=True)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
