"""From what was accepted to a dataset version, and on to training."""

from __future__ import annotations

from typing import Any, NamedTuple

import streamlit as st

from workbench.api import Workspace
from workbench.records import Dataset, Run, Version
from workbench.self_instruct.review import Include, load_board, measure_funnel
from workbench.ui.links import DATASETS, LINEAGE, NEW_RUN, dataset_query, link_to
from workbench.ui.self_instruct_threshold import kept_threshold
from workbench.ui.state import DATASET_PARAM, KIND_PARAM, OF_PARAM
from workbench.ui.text import ago, count, exact, plain

LABELS: dict[Include, str] = {"accepted": "Accepted by a person", "unrejected": "All that nobody rejected"}


def show_versions(ws: Workspace, run: Run) -> None:
    """The form, and what was made of the run already."""
    threshold = kept_threshold(ws, run)
    funnel = measure_funnel(load_board(ws.store, run.id, threshold=threshold), ws.store)
    accepted = next(stage.count for stage in funnel.stages if stage.name == "accepted")
    made = versions_of(ws, run)
    key = f"self_instruct.version.{run.id}"
    with st.container(border=True):
        st.subheader("Make a version", anchor=False)
        include: Include = st.segmented_control(
            "Which tasks", list(LABELS), format_func=lambda item: LABELS[item], key=f"{key}.include", required=True,
            default="accepted",
        )  # fmt: skip
        tasks = accepted if include == "accepted" else accepted + funnel.open
        name = st.text_input("Dataset", made[0].dataset.name if made else run.name, key=f"{key}.name", max_chars=200)
        if not tasks:
            st.caption(
                "Nobody has accepted a task yet. Review some first; what nobody has read is better left out."
                if funnel.open
                else "There is no task to take: nothing was kept, or all of it was rejected."
            )
        elif include == "unrejected" and funnel.open:
            st.caption(
                f":orange[:material/warning:] {count(funnel.open, 'task')} nobody has read "
                f"{'goes' if funnel.open == 1 else 'go'} in as the generator wrote "
                f"{'it' if funnel.open == 1 else 'them'}."
            )
        else:
            st.caption(
                f"{count(tasks, 'task')}, each example a row. What leaks from a held-out set is never among them."
            )
        label = f"Make a version of {count(tasks, 'task')}"
        if (
            st.button(label, type="primary", icon=":material/save:", disabled=not tasks, key="self_instruct.make")
            and (name or "").strip()
        ):
            version = ws.self_instruct_version(run.id, name or "", threshold=threshold, include=include)
            st.session_state[f"{key}.done"] = version.id
            st.rerun()
        if tasks and not (name or "").strip():
            st.caption(":orange[:material/edit:] The dataset needs a name.")
    for each in made:
        _show_made(each, fresh=st.session_state.get(f"{key}.done") == each.version.id)


class Made(NamedTuple):
    """A version that was made of a run."""

    dataset: Dataset
    """What it is a version of."""
    version: Version
    """The version."""
    tasks: int
    """Tasks in it; each example is a row."""
    reviewers: tuple[str, ...]
    """Who reviewed them."""
    threshold: float | None
    """ROUGE-L F1 above which a task was not new."""


def versions_of(ws: Workspace, run: Run) -> list[Made]:
    """Versions that were made of a run, newest first.

    Args:
        ws: the workspace.
        run: the run.
    """
    found = []
    for dataset in ws.datasets(kind="instructions"):
        for version in ws.versions(dataset.id):
            told: Any = version.provenance.get("self_instruct")
            if isinstance(told, dict) and told.get("run") == run.id:
                people = tuple(map(str, told.get("reviewers") or ()))
                found.append(Made(dataset, version, int(told.get("tasks") or 0), people, told.get("threshold")))
    return sorted(found, key=lambda made: made.version.created_at, reverse=True)


def _show_made(made: Made, *, fresh: bool) -> None:
    version = made.version
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{plain(made.dataset.name)}**, version {version.number}", width="content")
            if fresh:
                st.badge("Just made", icon=":material/check_circle:", color="green")
            people = plain(", ".join(made.reviewers), limit=80) or "nobody"
            st.caption(
                f"{count(version.rows, 'row')} of {count(made.tasks, 'task')}, reviewed by {people}, "
                f"{ago(version.created_at)}",
                help=plain(f"{exact(version.created_at)}; threshold {made.threshold}"),
                width="stretch",
            )
        with st.container(horizontal=True, vertical_alignment="center"):
            link_to(NEW_RUN, "Train on it", icon="add_circle", **{DATASET_PARAM: made.dataset.id, KIND_PARAM: "sft"})
            link_to(DATASETS, "Open the dataset", icon="table_rows", **dataset_query(made.dataset.id))
            link_to(LINEAGE, "Lineage", icon="account_tree", **{OF_PARAM: version.id})
