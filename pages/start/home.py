"""Home: what exists, what runs, what to do next, and how loaded the machine is."""

import streamlit as st

from workbench.records import RunState
from workbench.runs.kinds import training_kinds
from workbench.ui.home import next_step, show_last_tour, show_next_step, show_running
from workbench.ui.links import DATASETS, MODELS, RUNS, link_to
from workbench.ui.machine import show_meters
from workbench.ui.runs import active_runs, compare_link, run_link, state_badge, took
from workbench.ui.store import workspace
from workbench.ui.text import ago

TRAINING = tuple(kind.name for kind in training_kinds())

st.title("Instruction-tuning workbench")
st.caption("Write or import instructions, fine-tune an adapter in the background, compare its answers with the base.")
ws = workspace()
datasets, variants = ws.datasets(), ws.variants()
finished = ws.runs(kinds=TRAINING, states=[RunState.FINISHED], limit=200)
active = active_runs(ws)

show_next_step(ws, next_step(ws, datasets, finished, active), finished)
show_last_tour(ws)

if active:
    st.subheader("Running now")
    show_running(ws)

st.subheader("What is here")
with st.grid(4, min_column_width=180):
    for label, number, path in (
        ("Datasets", len(datasets), DATASETS),
        ("Finished training runs", len(finished), RUNS),
        ("Base models", len(ws.models()), MODELS),
        ("Adapters", sum(item.adapter_path is not None for item in variants), MODELS),
    ):
        with st.container(border=True, gap="xsmall", height="stretch"):
            st.metric(label, f"{number:,}")
            link_to(path, "Open", icon="arrow_forward")

if finished:
    st.subheader("Recently trained")
    with st.container(border=True):
        for run in finished[:5]:
            with st.container(horizontal=True, vertical_alignment="center"):
                state_badge(run)
                run_link(run)
                st.caption(f"{ago(run.ended_at)}, took {took(run)}", width="stretch")
                compare_link(ws, run)

st.subheader("This machine")
show_meters(ws.settings.home)
