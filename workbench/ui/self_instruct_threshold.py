"""The threshold of novelty: what another one would keep, at once and without asking the generator again.

All pairs of a run are compared once and kept for the app; a move of the slider only decides anew.
"""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from workbench.api import Workspace
from workbench.records import Run
from workbench.self_instruct.review import Board, load_board, read_config, read_plan
from workbench.self_instruct.seeds import read_seeds
from workbench.self_instruct.similarity import Kept, Similarities
from workbench.store import datasets as dataset_store
from workbench.store.candidates import stamp_candidates
from workbench.store.drafts import drop_draft, load_draft, save_draft
from workbench.ui import charts
from workbench.ui.errors import shown_errors
from workbench.ui.self_instruct_figures import score_figure
from workbench.ui.text import count

FLOOR = 0.3
"""The lowest threshold offered: below, nearly all plain English is alike."""


def _key(run_id: str) -> str:
    return f"self_instruct.threshold.{run_id}"


def kept_threshold(ws: Workspace, run: Run) -> float | None:
    """The threshold that somebody kept for a run; None where the run's own holds.

    Args:
        ws: the workspace.
        run: the run.
    """
    kept = load_draft(ws.store, _key(run.id))
    value = kept.get("threshold") if isinstance(kept, Mapping) else None
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def keep_threshold(ws: Workspace, run: Run, threshold: float) -> None:
    """Let a threshold decide what is kept, here, in the review and in versions made on the page.

    Args:
        ws: the workspace.
        run: the run; its own record stays as it is.
        threshold: ROUGE-L F1, 0 to 1.
    """
    if threshold == read_config(run).threshold:
        drop_draft(ws.store, _key(run.id))
    else:
        save_draft(ws.store, _key(run.id), {"threshold": threshold})


@st.fragment
def show_threshold(ws: Workspace, run: Run) -> None:
    """The slider with what it changes, and the button that keeps it."""
    with shown_errors():
        own = read_config(run).threshold
        kept = kept_threshold(ws, run)
        now = own if kept is None else kept
        similarities = find_similarities(ws, run)
        board = load_board(ws.store, run.id)
        if not board.candidates:
            st.caption("No task has been read yet, so there is nothing to decide.")
            return
        st.markdown(
            "A task is new if its ROUGE-L F1 to every seed and to every task before it does not exceed the threshold. "
            "Lower is stricter. Nothing is generated again."
        )
        key = f"{_key(run.id)}.slider"
        if key not in st.session_state:
            st.session_state[key] = now
        wanted = round(st.slider("Threshold", min(FLOOR, own), 1.0, step=0.01, key=key, persist_state="session"), 4)
        before, after = similarities.decide(now), similarities.decide(wanted)
        _figures(before, after)
        with st.container(horizontal=True, vertical_alignment="center"):
            back = wanted == own and now != own
            label = f"Go back to the run's {own:.2f}" if back else f"Keep {wanted:.2f}"
            if st.button(
                label, type="primary", icon=":material/check:", disabled=wanted == now, key="self_instruct.keep",
                help="From now on it decides what is reviewed and what goes into a version.",
            ):  # fmt: skip
                with st.spinner("Deciding all tasks again"):
                    load_board(ws.store, run.id, threshold=wanted)
                keep_threshold(ws, run, wanted)
                st.rerun()
            st.caption(_standing(own, kept), width="stretch")
        _scores(board, own, wanted)


def _standing(own: float, kept: float | None) -> str:
    if kept is None or kept == own:
        return f"The run's own threshold, {own:.2f}, holds."
    return f"{kept:.2f} holds, kept here; the run itself used {own:.2f}."


def _figures(before: Kept, after: Kept) -> None:
    with st.grid(4, min_column_width=150):
        for label, name, help_text, color in (
            ("Kept", "kept", "Tasks that pass every filter and have a usable example.", "normal"),
            ("Examples", "examples", "Rows that a version of all kept tasks would have.", "normal"),
            ("Too similar", "too_similar", "Tasks thrown out as not new.", "inverse"),
            ("Without examples", "waiting", "Tasks that would pass, but nobody asked for their examples.", "off"),
        ):
            old, new = getattr(before, name), getattr(after, name)
            moved = f"{new - old:+,} from {old:,}" if new != old else None
            st.metric(label, f"{new:,}", delta=moved, delta_color=color, help=help_text)  # type: ignore[arg-type]
    if after.waiting:
        st.caption(
            f"{count(after.waiting, 'task')} would pass but {'has' if after.waiting == 1 else 'have'} no examples: the "
            "run asked only for those of tasks that were new to it. Set “examples up to” when you start a run, to be "
            "able to raise the threshold afterwards; or write the examples yourself under Candidates."
        )


def _scores(board: Board, own: float, wanted: float) -> None:
    scores = [each.score for each in board.candidates if each.score is not None and each.reason != "leaks"]
    if scores:
        charts.show(
            score_figure(scores, own, wanted),
            key="self_instruct.scores",
            alt=f"Histogram of how close {len(scores)} tasks come to the nearest before them",
        )
        st.caption(f"Scores of {count(len(scores), 'task')} as the run decided them.")


def find_similarities(ws: Workspace, run: Run) -> Similarities:
    """All close pairs of a run, compared once as long as nothing is added.

    Args:
        ws: the workspace.
        run: the run.
    """
    stamp = stamp_candidates(ws.store, run.id)
    floor = min(FLOOR, read_config(run).threshold)
    return _similarities(ws, str(ws.settings.home), run.id, stamp, floor)


@st.cache_resource(max_entries=8, show_spinner="Comparing all tasks with each other")
def _similarities(_ws: Workspace, home: str, run_id: str, stamp: tuple[int, ...], floor: float) -> Similarities:
    plan = read_plan(_ws.run(run_id))
    seeds = read_seeds(_ws.store, dataset_store.get_version(_ws.store, plan.seeds_version_id))
    return Similarities(load_board(_ws.store, run_id).candidates, seeds, floor)
