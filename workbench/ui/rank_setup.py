"""Making a queue: of newly sampled answers, of the answers a run got to a prompt set, or of a file of rankings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from workbench.api import Workspace
from workbench.errors import UsageError
from workbench.evaluation.sampling import SampleConfig
from workbench.records import Dataset, RankQueue, Run, RunState
from workbench.ui.answer_form import prompt_datasets, show_no_prompts
from workbench.ui.conversation import MOST_PANES
from workbench.ui.errors import shown_errors
from workbench.ui.first_model import show_first_model
from workbench.ui.forms import checked_config, draw_field
from workbench.ui.inbox import discard, save_upload
from workbench.ui.links import PROMPT_SETS, RANK, go_to, link_to, queue_query
from workbench.ui.playground import default_panes
from workbench.ui.runs import ACTIVE, progress_bar, run_link
from workbench.ui.text import ago, count, plain

FORM = "rank_setup"
SAMPLE, FROM_RUN, FROM_FILE = "Sample new answers", "Answers of a run", "A file of rankings"
FIRST = ("limit", "answers", "temperature", "seed")
QUEUE_FIELDS = ("queue", "overlap", "repeats", "guidelines")
MOST_RUNS = 50
LOOK_EVERY_S = 2.0
FILE_TYPES = ["jsonl", "json", "csv", "tsv", "parquet", "gz"]


def show_setup(ws: Workspace, *, first: bool) -> None:
    """The ways to make a queue, folded away once there is one.

    Args:
        ws: the workspace.
        first: whether there is no queue yet.
    """
    show_sampling(ws)
    if not first:
        with st.expander("New queue", icon=":material/add:"):
            _show_ways(ws)
        return
    with st.container(border=True):
        st.subheader("Make your first queue", anchor=False)
        st.markdown("A queue holds prompts, each with a few answers. Raters put them in order without names.")
        _show_ways(ws)


def _show_ways(ws: Workspace) -> None:
    way = st.segmented_control(
        "Made of",
        [SAMPLE, FROM_RUN, FROM_FILE],
        default=SAMPLE,
        required=True,
        key=f"{FORM}.way",
        label_visibility="collapsed",
    )
    with shown_errors():
        if way == SAMPLE:
            _sample(ws)
        elif way == FROM_RUN:
            _from_run(ws)
        else:
            _from_file(ws)


def show_sampling(ws: Workspace) -> None:
    """Runs that sample answers now, and the last one that failed to make a queue."""
    if ws.runs(kinds=["sample"], states=ACTIVE):
        st.fragment(run_every=LOOK_EVERY_S)(_sampling)(ws)
    for run in ws.runs(kinds=["sample"], limit=1):
        if run.state is RunState.FAILED and run.failure is not None:
            st.warning(f"**{plain(run.name)}** made no queue: {plain(run.failure.message)}", icon=":material/error:")
            run_link(run, label="Settings and log")


def _sampling(ws: Workspace) -> None:
    with shown_errors():
        runs = ws.runs(kinds=["sample"], states=ACTIVE)
        if not runs:
            st.rerun()  # the new queue is in the list now
        for run in runs:
            with st.container(border=True):
                with st.container(horizontal=True, vertical_alignment="center"):
                    st.markdown(f"**{plain(run.name)}**", width="stretch")
                    run_link(run, label="Settings and log")
                progress_bar(run)


# ---- newly sampled answers ----


def _sample(ws: Workspace) -> None:
    datasets = prompt_datasets(ws)
    if not ws.variants():
        show_first_model(ws)
    elif not datasets:
        show_no_prompts(ws)
    else:
        _sample_form(ws, datasets)


def _sample_form(ws: Workspace, datasets: Sequence[Dataset]) -> None:
    by_name = {item.name: item for item in datasets}
    names = {item.id: item.name for item in ws.variants()}
    if f"{FORM}.variants" not in st.session_state:
        st.session_state[f"{FORM}.variants"] = default_panes(ws.variants())
    with st.grid(2, min_column_width=280):
        prompts = st.selectbox(
            "Prompts",
            list(by_name),
            format_func=lambda name: f"{name} ({by_name[name].kind})",
            key=f"{FORM}.prompts",
            persist_state="session",
            required=True,
        )
        variants = st.multiselect(
            "Variants",
            list(names),
            format_func=lambda item: names.get(item, item),
            key=f"{FORM}.variants",
            persist_state="session",
            max_selections=MOST_PANES,
            placeholder="Choose up to six",
            help="They take turns, and the order displayed is shuffled for each rater.",
        )
    values = _fields(FIRST, 4)
    with st.expander("Raters and guidelines", icon=":material/group:"):
        values |= _fields(QUEUE_FIELDS[:3], 3)
        values["guidelines"] = _guidelines()
    with st.expander("More settings", icon=":material/tune:"):
        drawn = {"prompts", "variants", "scorers", *FIRST, *QUEUE_FIELDS}
        values |= _fields([name for name in SampleConfig.model_fields if name not in drawn], 3)
    _show_size(ws, prompts, values)
    if st.button(
        "Sample answers",
        type="primary",
        icon=":material/play_arrow:",
        disabled=not variants or prompts is None,
        key=f"{FORM}.sample",
    ):
        config = checked_config(SampleConfig, {**values, "prompts": prompts, "variants": variants})
        if config is not None:
            ws.sample_answers(str(prompts), variants, **config.model_dump(exclude={"prompts", "variants"}))
            go_to(RANK)
    if not variants:
        st.caption("Choose at least one variant.")


def _fields(names: Sequence[str], columns: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    with st.grid(columns, min_column_width=150):
        for name in names:
            field = SampleConfig.model_fields[name]
            start = field.get_default(call_default_factory=True)
            values[name] = draw_field(name, field, f"{FORM}.{name}", start)
    return values


def _guidelines() -> str:
    text = st.text_area(
        "Guidelines",
        key=f"{FORM}.guidelines",
        persist_state="session",
        placeholder="What makes an answer better? What is a tie, what is unusable?",
        help="Raters see them beside every item. They can be changed later.",
    )
    return text or ""


def _show_size(ws: Workspace, prompts: str | None, values: dict[str, Any]) -> None:
    if prompts is None:
        return
    rows, limit, answers = ws.version(prompts).rows, values.get("limit"), values.get("answers")
    asked = min(rows, limit) if isinstance(limit, int) else rows
    if isinstance(answers, int):
        st.caption(f"{count(asked, 'prompt')}, {count(answers, 'answer')} each: {asked * answers:,} in all.")


# ---- answers that are there, and rankings ----


def _from_run(ws: Workspace) -> None:
    runs = ws.runs(kinds=["answer"], states=[RunState.FINISHED, RunState.STOPPED], limit=MOST_RUNS)
    if not runs:
        st.caption("No run has answered a prompt set yet.")
        link_to(PROMPT_SETS, "Answer a prompt set", icon="checklist")
        return
    by_id: dict[str, Run] = {run.id: run for run in runs}
    with st.grid(2, min_column_width=280):
        picked = st.selectbox(
            "Run",
            list(by_id),
            format_func=lambda key: f"{by_id[key].name}, {ago(by_id[key].created_at)}",
            key=f"{FORM}.run",
            required=True,
        )
        name = st.text_input("Name", by_id[picked].name.removeprefix("Answers to "), key=f"{FORM}.name.{picked}")
    guidelines = _guidelines()
    if st.button("Make the queue", type="primary", icon=":material/add:", key=f"{FORM}.from_run"):
        _open(ws.queue_from_run(picked, name or "", guidelines=guidelines))


def _from_file(ws: Workspace) -> None:
    st.caption(
        "Ranked conversation trees, lines of `prompt`, `answers` and `ranking`, preference pairs, "
        "or the rankings of another workbench."
    )
    upload = st.file_uploader("File", type=FILE_TYPES, key=f"{FORM}.file")
    # Another file is another field, so that each offers its own name.
    stem = "" if upload is None else upload.name.partition(".")[0]
    name = st.text_input("Name", stem, key=f"{FORM}.file_name.{stem}")
    if (
        st.button("Import", type="primary", icon=":material/upload:", disabled=upload is None, key=f"{FORM}.import")
        and upload is not None
    ):
        if not (name or "").strip():
            raise UsageError("the queue needs a name", place="name", remedy="Write one.")
        path = save_upload(ws.settings, upload.name, upload)
        try:
            with st.spinner("Reading the rankings"):
                queue = ws.import_rankings(path, name or "")
        finally:
            discard(ws.settings, path)
        _open(queue)


def _open(queue: RankQueue) -> None:
    go_to(RANK, **queue_query(queue.id))
