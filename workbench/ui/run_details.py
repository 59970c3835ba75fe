"""The quieter tabs of a run's page: held-out rows, settings to copy, log and attempts, notes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.errors import DataProblem, NotFound
from workbench.records import Example, Preference, Prompt, Run
from workbench.runs import snippets
from workbench.store import runs as run_store
from workbench.store.datasets import get_version
from workbench.ui.errors import shown_errors
from workbench.ui.paging import current_page, page_switch
from workbench.ui.text import count, exact, plain, shorten

SHOWN_ROWS = 25
HELD_OUT_FILE = "held_out_rows.jsonl"
LOSS_OF = {"dpo": "Of the pair, in nats.", "kto": "Of the answer."}
"""What a held-out loss is taken of, where it is not a mean over tokens."""


def show_held_out_rows(ws: Workspace, run: Run) -> None:
    """Held-out rows with the loss the tuned model has on each, the worst or the best first."""
    path = ws.settings.run_dir(run.id) / HELD_OUT_FILE
    if not path.exists():
        st.caption("Written when the run finishes: the rows it was not trained on, with the loss on each.")
        return
    with path.open(encoding="utf-8") as stream:
        entries = [json.loads(line) for line in stream]
    if not entries:
        st.caption("No row was held out.")
        return
    order = st.segmented_control("Order", ["Worst first", "Best first"], default="Worst first", required=True)
    if order == "Best first":
        entries.reverse()
    page, pages = current_page("run.held_out_page", len(entries), SHOWN_ROWS)
    shown = entries[(page - 1) * SHOWN_ROWS : page * SHOWN_ROWS]
    found = _row_texts(ws, run, [(entry["row_id"], entry.get("good", True)) for entry in shown])
    texts = [found.get((entry["row_id"], entry.get("good", True)), ("", "")) for entry in shown]
    table = pd.DataFrame(
        {
            "loss": [entry["loss"] for entry in shown],
            **{
                name: [entry[name] for entry in shown]
                for name in ("margin", "reward", "good", "weight")
                if name in entries[0]
            },
            "tokens": [entry["tokens"] for entry in shown],
            "prompt": [asked for asked, _ in texts],
            "answer": [answered for _, answered in texts],
            "row": [entry["row_id"] for entry in shown],
        }
    )
    st.dataframe(
        table,
        hide_index=True,
        height="content",
        alt="Held-out rows with their loss",
        column_config={
            "loss": st.column_config.NumberColumn(
                "Loss", format="%.3f", help=LOSS_OF.get(run.kind, "Nats per token of the answer.")
            ),
            "margin": st.column_config.NumberColumn("Margin", format="%.3f", help="Reward of chosen less rejected."),
            "reward": st.column_config.NumberColumn("Reward", format="%.3f"),
            "good": st.column_config.CheckboxColumn("Good", help="Whether the answer was labelled as good."),
            "weight": st.column_config.NumberColumn("Weight", format="%.3g", help="What it counts beside others."),
            "tokens": st.column_config.NumberColumn("Answer tokens"),
            "prompt": st.column_config.TextColumn("Prompt", width="large"),
            "answer": st.column_config.TextColumn("Answer" if "good" in table else "Wanted answer", width="large"),
            "row": st.column_config.TextColumn("Row id"),
        },
    )
    page_switch(pages, "run.held_out_page", count(len(entries), "row"))


def show_settings(run: Run) -> None:
    """The run's config as a command line, a Python cell and a YAML spec, and as saved."""
    show_snippets(run.kind, run.spec)
    with st.expander("Every setting as saved", icon=":material/data_object:"):
        st.json(run.spec)


def show_snippets(kind: str, config: Mapping[str, Any]) -> None:
    """The same run in three forms to copy."""
    forms = (
        ("Terminal", snippets.as_command, "bash", "Run it in a terminal."),
        ("Python", snippets.as_python, "python", "Run it in a notebook."),
        ("YAML", snippets.as_yaml, "yaml", "Keep it beside your work; the terminal reads it with --spec."),
    )
    for tab, (_, make, language, caption) in zip(st.tabs([form[0] for form in forms]), forms, strict=True):
        with tab:
            st.code(make(kind, config), language=language, wrap_lines=True)
            st.caption(caption)


def show_log(ws: Workspace, run_id: str) -> None:
    """The end of the log, and the starts the run had."""
    with shown_errors():
        text = ws.log(run_id)
        if text:
            st.code(text, language=None, height=360, wrap_lines=True)
            st.caption(f"All of it: {plain(str(ws.settings.run_dir(run_id) / 'worker.log'))}")
        else:
            st.caption("Nothing has been logged yet.")
        attempts = run_store.list_attempts(ws.store, run_id)
        if not attempts:
            return
        st.markdown("**Starts**")
        rows = [
            {
                "Start": attempt.number,
                "Began": exact(attempt.started_at),
                "Ended": exact(attempt.ended_at) if attempt.ended_at else "",
                "Exit code": "" if attempt.exit_code is None else str(attempt.exit_code),
                "From step": "" if attempt.resumed_step is None else str(attempt.resumed_step),
                "Machine": attempt.host,
                "Process": "" if attempt.worker_pid is None else str(attempt.worker_pid),
            }
            for attempt in attempts
        ]
        st.dataframe(pd.DataFrame(rows), hide_index=True, alt="Starts of the run")


def show_notes(ws: Workspace, run: Run) -> None:
    """Name, tags and notes."""
    with st.form(f"run.notes.{run.id}", border=False):
        name = st.text_input("Name", run.name, max_chars=200)
        tags = st.multiselect("Tags", list(run.tags), list(run.tags), accept_new_options=True, placeholder="Add a tag")
        notes = st.text_area("Notes", run.notes, height=160)
        if st.form_submit_button("Save", icon=":material/save:"):
            ws.edit_run(run.id, name=name, tags=tags, notes=notes)
            st.rerun()


def _row_texts(ws: Workspace, run: Run, answers: list[tuple[str, bool]]) -> dict[tuple[str, bool], tuple[str, str]]:
    """Question and answer by row id and whether the answer is a good one; rows no longer there are left out."""
    from workbench.datasets.versions import read_row

    path = ws.settings.run_dir(run.id) / "inputs.json"
    if not path.exists():
        return {}
    inputs = json.loads(path.read_text(encoding="utf-8"))
    texts = {}
    try:
        version = get_version(ws.store, inputs.get("held_out_version_id") or inputs["version_id"])
        for row_id, good in answers:
            if not row_id:  # an answer that stands in a ranking alone, not in the dataset
                continue
            payload = read_row(ws.store, version, row_id).payload
            if isinstance(payload, Prompt):
                continue
            if isinstance(payload, Preference):
                turns = payload.prompt + (payload.chosen if good else payload.rejected)
            else:
                turns = payload.messages if isinstance(payload, Example) else payload.prompt + payload.completion
            asked = next((turn.content for turn in turns if turn.role == "user"), "")
            texts[row_id, good] = shorten(asked, 300), shorten(turns[-1].content, 300)
    except (NotFound, DataProblem):
        st.caption("Some of these rows have been removed from the dataset since.")
    return texts
