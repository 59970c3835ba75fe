"""What rankings become: versions of datasets, and files that TRL's trainers take as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import streamlit as st

from workbench.api import Workspace
from workbench.preferences.exports import export_for_trl, export_rankings
from workbench.preferences.pairs import HELD_OUT, Built, build_examples, build_labels, build_preferences
from workbench.records import RankQueue
from workbench.store.rankings import SCORER
from workbench.ui.errors import shown_errors
from workbench.ui.links import DATASETS, NEW_RUN, dataset_query, link_to
from workbench.ui.state import KIND_PARAM
from workbench.ui.text import count, plain

PAIRS, LABELS, BEST = "Preference pairs", "Labels", "Best answers"
ENDINGS = {PAIRS: "pairs", LABELS: "labels", BEST: "best"}
METHODS = {
    "preferences": {"reward": "Train a reward model", "dpo": "Train by DPO", "kto": "Train by KTO"},
    "labels": {"kto": "Train by KTO"},
    "instructions": {"sft": "Fine-tune on them"},
}
"""What can learn from a version of each kind."""
MOST_DOWNLOAD_VOTES = 20_000
FILES = {
    "dpo": ("Pairs", "`prompt`, `chosen`, `rejected`: for TRL's DPOTrainer and RewardTrainer"),
    "kto": ("Single labels", "`prompt`, `completion`, `label`: for TRL's KTOTrainer"),
    "sft": ("Best answers", "`messages`: for TRL's SFTTrainer"),
}


def show_export(ws: Workspace, queues: Sequence[RankQueue], votes: int) -> None:
    """A popover with all that can be made of these queues' rankings.

    Args:
        ws: the workspace.
        queues: at least one.
        votes: how many they have, people's and scorers'.
    """
    key = "rank.export." + ".".join(queue.id for queue in queues)
    with st.popover("Export", icon=":material/output:", width="content", key=key, on_change="rerun") as popover:
        if not popover.open:
            return
        if not votes:
            st.caption("There is nothing to export yet: the first vote changes that.")
            return
        with shown_errors():
            _make_dataset(ws, queues, key)
        st.markdown("**Download**")
        if votes > MOST_DOWNLOAD_VOTES:
            st.caption("Too large for the browser; `workbench rank export` writes the same files.")
            return
        _downloads(ws, queues, key)


def _make_dataset(ws: Workspace, queues: Sequence[RankQueue], key: str) -> None:
    st.markdown("**Make a dataset**")
    kind = st.segmented_control(
        "Of", [PAIRS, LABELS, BEST], default=PAIRS, required=True, key=f"{key}.kind", label_visibility="collapsed"
    )
    first = queues[0].name if len(queues) == 1 else "Rankings"
    name = st.text_input("Name", f"{first} {ENDINGS[kind or PAIRS]}", key=f"{key}.name.{kind}", max_chars=180)
    adjacent = kind == PAIRS and st.toggle(
        "Neighbours only",
        key=f"{key}.adjacent",
        help="Only pairs of answers that stand next to each other, instead of all pairs with weight 1/C(K,2).",
    )
    aside = st.number_input(
        "Held out, % of prompts",
        0,
        90,
        round(100 * HELD_OUT),
        key=f"{key}.held_out",
        help="All that asks the same lands on one side.",
    )
    if st.button("Make a version", type="primary", icon=":material/dataset:", key=f"{key}.make"):
        ids = [queue.id for queue in queues]
        share = (aside or 0) / 100
        if kind == PAIRS:
            scheme = "adjacent" if adjacent else "all"
            made = build_preferences(ws.store, ids, name or "", scheme=scheme, held_out=share)  # type: ignore[arg-type]
        elif kind == LABELS:
            made = build_labels(ws.store, ids, name or "", held_out=share)
        else:
            made = build_examples(ws.store, ids, name or "", held_out=share)
        st.session_state[f"{key}.made"] = made
    if before := st.session_state.get(f"{key}.made"):
        _show_made(ws, before)


def _show_made(ws: Workspace, made: Built) -> None:
    for version in (made.train, made.held_out):
        if version is not None:
            dataset = ws.dataset(version.dataset_id)
            told = f"{plain(dataset.name)}, version {version.number}: {count(version.rows, 'row')}"
            link_to(DATASETS, told, icon="check", **dataset_query(dataset.id))
    if by_scorers := made.sources.get(SCORER):
        st.caption(
            f"Of {count(made.rankings, 'ranking')}, {by_scorers:,} by a scorer. Where people ranked an item, only "
            "their rankings of it count."
        )
    learned = ws.dataset(made.train.dataset_id)
    with st.container(horizontal=True):
        for kind, label in METHODS[learned.kind].items():
            link_to(NEW_RUN, label, icon="add_circle", **dataset_query(learned.id), **{KIND_PARAM: kind})


def _downloads(ws: Workspace, queues: Sequence[RankQueue], key: str) -> None:
    def offer(label: str, help_text: str, name: str, make: Callable[[], bytes]) -> None:
        st.download_button(
            label,
            make,
            name,
            "application/jsonl",
            icon=":material/download:",
            key=f"{key}.file.{name}",
            on_click="ignore",
            width="stretch",
            help=help_text,
        )

    ids = [queue.id for queue in queues]
    for trainer, (label, help_text) in FILES.items():
        offer(label, help_text, f"{trainer}.jsonl", partial(trl_bytes, ws, ids, trainer))
    for queue in queues:
        label = "Rankings" if len(queues) == 1 else f"Rankings of {plain(queue.name)}"
        help_text = "Prompts, answers and every vote; imports again as it is."
        offer(label, help_text, f"rankings-{queue.id}.jsonl", partial(rankings_bytes, ws, queue.id))


def trl_bytes(ws: Workspace, queues: Sequence[str], trainer: str) -> bytes:
    """A file for a trainer; empty where the rankings give no row of its kind."""
    from workbench.errors import DataProblem

    with TemporaryDirectory() as folder:
        try:
            return export_for_trl(ws.store, queues, Path(folder) / "rows.jsonl", trainer).read_bytes()
        except DataProblem:
            return b""


def rankings_bytes(ws: Workspace, queue: str) -> bytes:
    """A queue's rankings as a file's content."""
    with TemporaryDirectory() as folder:
        return export_rankings(ws.store, queue, Path(folder) / "rankings.jsonl").read_bytes()
