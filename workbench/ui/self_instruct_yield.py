"""What a run yields: the funnel, why tasks were lost, what the kept ones ask for, and what was kept clear of."""

from __future__ import annotations

import streamlit as st

from workbench.api import Workspace
from workbench.errors import NotFound
from workbench.records import Run, RunState
from workbench.self_instruct.review import Board, Funnel, board_diversity, load_board, measure_funnel, read_plan
from workbench.store import datasets as dataset_store
from workbench.ui import charts
from workbench.ui.errors import shown_errors
from workbench.ui.self_instruct_figures import diversity_figure, funnel_figure, reasons_figure
from workbench.ui.self_instruct_start import seeds_link
from workbench.ui.self_instruct_threshold import kept_threshold
from workbench.ui.self_instruct_words import losses, yield_advice
from workbench.ui.text import count, plain

EVERY_S = 4.0


def show_yield(ws: Workspace, run: Run) -> None:
    """Everything in figures; drawn again now and then while the run is at work."""
    st.fragment(run_every=EVERY_S if run.state.active else None)(_body)(ws, run.id, run.state)


def _body(ws: Workspace, run_id: str, known: RunState) -> None:
    with shown_errors():
        run = ws.run(run_id)
        board = load_board(ws.store, run.id, threshold=kept_threshold(ws, run))
        funnel = measure_funnel(board, ws.store)
        advice = yield_advice(funnel, ended=not known.active)
        if advice:
            st.warning("\n\n".join(advice), icon=":material/filter_alt:")
        if not board.candidates:
            _nothing_yet(funnel, known)
            _guarded(ws, run, funnel)
            return
        lost = losses(funnel)
        with st.grid(2, min_column_width=380) as grid:
            with grid.cell():
                st.subheader("How far tasks came", anchor=False)
                charts.show(funnel_figure(funnel), key="self_instruct.funnel", alt=_spoken(funnel))
            with grid.cell():
                st.subheader("Why tasks were lost", anchor=False)
                if lost:
                    charts.show(reasons_figure(lost, "tasks"), key="self_instruct.lost", alt="Tasks lost, by reason")
                else:
                    st.caption("No filter threw anything out so far.")
        _examples(funnel)
        _guarded(ws, run, funnel)
        _diversity(board)


def _nothing_yet(funnel: Funnel, known: RunState) -> None:
    if known.active:
        st.caption("No task has been read yet. The first ones come with the first reply.")
    elif funnel.requests:
        st.caption(f"{count(funnel.requests, 'request')} brought no task that could be read.")
    else:
        st.caption("Nothing was asked yet. Resume the run to go on.")


def _spoken(funnel: Funnel) -> str:
    return "; ".join(f"{stage.title}: {stage.count:,}" for stage in funnel.stages)


def _examples(funnel: Funnel) -> None:
    told = f"{count(funnel.examples, 'usable example')} of the tasks kept."
    if not funnel.examples_lost:
        st.caption(told)
        return
    with st.expander(
        f"{told} {count(sum(funnel.examples_lost.values()), 'example')} thrown out", icon=":material/list_alt:"
    ):
        charts.show(
            reasons_figure(funnel.examples_lost, "examples"),
            key="self_instruct.examples",
            alt="Examples thrown out, by reason",
        )


def _version_name(ws: Workspace, version_id: str) -> str:
    try:
        version = dataset_store.get_version(ws.store, version_id)
        return f"{ws.dataset(version.dataset_id).name}@{version.number}"
    except NotFound:
        return "one that was deleted since"


def _guarded(ws: Workspace, run: Run, funnel: Funnel) -> None:
    """What nothing may leak from, and how much was refused for it."""
    plan = read_plan(run)
    names = [_version_name(ws, version_id) for version_id in plan.held_out_version_ids]
    names += [f"{share.share:.0%} of {_version_name(ws, share.version_id)}" for share in plan.held_out_shares]
    tasks, examples = losses(funnel).get("leaks", 0), funnel.examples_lost.get("instance_leaks", 0)
    with st.container(horizontal=True, vertical_alignment="center"):
        if not names:
            st.caption(
                ":material/shield: Nothing was held out when it began, so nothing was refused for leaking.",
                width="stretch",
            )
        else:
            refused = f"{count(tasks, 'task')} and {count(examples, 'example')} refused"
            st.caption(
                f":material/shield: Kept clear of {plain(', '.join(names), limit=200)}: {refused} as too close.",
                width="stretch",
            )
        seeds_link(ws, plan.seeds_version_id)


def _diversity(board: Board) -> None:
    st.subheader("What the tasks ask for", anchor=False)
    found = board_diversity(board)
    if not found.verbs:
        st.caption("No verb was found in what was kept." if found.tasks else "Nothing was kept yet.")
        return
    charts.show(
        diversity_figure(found),
        key="self_instruct.diversity",
        alt="Verbs and nouns of the tasks: "
        + ", ".join(f"{pair.verb} {pair.noun} {pair.count}" for pair in found.pairs[:10]),
    )
    st.caption(
        f"The most frequent verbs, around each its most frequent nouns, of {count(found.tasks, 'task')} that nobody "
        f"rejected: {count(len(found.verbs), 'verb')}, {count(len(found.pairs), 'pair')}; {found.without_verb:,} have "
        "no such verb, as plain questions. Read by position, so a few are misread."
    )
