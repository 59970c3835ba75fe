"""Starting a self-instruct run: seeds, who writes, how far, and every further setting of `SelfInstructConfig`."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from workbench.api import Workspace
from workbench.errors import NotFound
from workbench.records import Dataset, ModelSource, Variant
from workbench.self_instruct.configs import AUTO, SelfInstructConfig
from workbench.self_instruct.seeds import ENOUGH, SEEDS_NAME
from workbench.store import datasets as dataset_store
from workbench.ui.first_model import show_first_model
from workbench.ui.forms import checked_config, config_form
from workbench.ui.links import DATASETS, MODELS, SELF_INSTRUCT, dataset_query, go_to, link_to
from workbench.ui.run_details import show_snippets
from workbench.ui.state import RUN_PARAM
from workbench.ui.text import count, plain

FORM = "self_instruct.form"
FIRST = ("style", "target", "max_requests")
HERE = ("variant", "seeds", "held_out")


def show_start(ws: Workspace, *, first: bool) -> None:
    """The form, folded away once there is a run; before it whatever has to be there first, one thing at a time.

    Args:
        ws: the workspace.
        first: whether there is no run yet.
    """
    if not first:
        with st.expander("Grow again", icon=":material/add:"):
            _show_next(ws)
        return
    if not ws.variants():
        st.markdown("A model writes the tasks, so one that can answer comes first.")
        show_first_model(ws)
        return
    with st.container(border=True):
        st.subheader("Grow your first dataset", anchor=False)
        st.markdown(
            "From a few dozen tasks by people, a model writes new ones. Repeats, broken ones and whatever touches held-"
            "out prompts are thrown out with a reason each; what is left you accept, edit or reject."
        )
        _show_next(ws)


def _show_next(ws: Workspace) -> None:
    """The form, or the one thing that is missing for it."""
    if not ws.variants():
        show_first_model(ws)
        return
    seeds = seed_datasets(ws)
    if not seeds:
        st.markdown("**It grows from seeds.** Tasks of many kinds, written by people, come with the workbench.")
        _install(ws, primary=True)
        link_to(DATASETS, "Or import tasks of your own", icon="table_rows")
        return
    _show_form(ws, seeds)


def seed_datasets(ws: Workspace) -> list[Dataset]:
    """Datasets to grow from: instructions with rows, the seeds that ship first."""
    filled = dataset_store.version_counts(ws.store)
    found = [item for item in ws.datasets(kind="instructions") if item.id in filled]
    return sorted(found, key=lambda item: item.name != SEEDS_NAME)


def _install(ws: Workspace, *, primary: bool) -> None:
    if st.button(
        "Install the seed tasks",
        type="primary" if primary else "tertiary",
        icon=":material/download:",
        key="self_instruct.install",
    ):
        ws.install_seeds()
        st.session_state[f"{FORM}.seeds"] = SEEDS_NAME
        st.rerun()


def _show_form(ws: Workspace, seeds: Sequence[Dataset]) -> None:
    names = [item.name for item in seeds]
    variants = {item.id: item for item in ws.variants()}
    for key, offered in ((f"{FORM}.seeds", names), (f"{FORM}.variant", [*variants])):
        if st.session_state.get(key) not in offered:
            st.session_state[key] = offered[0]
    with st.grid(2, min_column_width=280):
        chosen = st.selectbox(
            "Seeds", names, key=f"{FORM}.seeds", persist_state="session", required=True,
            format_func=lambda name: f"{name} ({count(ws.version(name).rows, 'row')})" if name in names else name,
            help=SelfInstructConfig.model_fields["seeds"].description,
        )  # fmt: skip
        writer = st.selectbox(
            "Who writes", list(variants), key=f"{FORM}.variant", persist_state="session", required=True,
            format_func=lambda item: variants[item].name if item in variants else item,
            help=SelfInstructConfig.model_fields["variant"].description,
        )  # fmt: skip
    if SEEDS_NAME not in names:
        _install(ws, primary=False)
    _warn(ws, str(chosen), variants[str(writer)])
    later = [name for name in SelfInstructConfig.model_fields if name not in FIRST]
    values = config_form(SelfInstructConfig, key=FORM, skip=later, columns=3)
    values["held_out"] = _held_out(ws, str(chosen))
    with st.expander("Filters, sampling and limits", icon=":material/tune:"):
        values |= config_form(SelfInstructConfig, key=FORM, skip=[*HERE, *FIRST], columns=4)
    config = checked_config(SelfInstructConfig, {**values, "variant": writer, "seeds": chosen})
    name = st.text_input(
        "Name", key=f"{FORM}.name", max_chars=200, persist_state="session",
        placeholder=f"Grow tasks with {variants[str(writer)].name}"[:200],
    )  # fmt: skip
    if (
        st.button(
            "Grow",
            type="primary",
            icon=":material/psychiatry:",
            disabled=config is None,
            key="self_instruct.launch",
        )
        and config is not None
    ):
        options = config.model_dump(exclude={"variant", "seeds"})
        run = ws.self_instruct(str(writer), seeds=str(chosen), name=(name or "").strip() or None, **options)
        st.session_state.pop(f"{FORM}.name", None)
        go_to(SELF_INSTRUCT, **{RUN_PARAM: run.id})
    if config is not None:
        with st.expander("The same run elsewhere", icon=":material/terminal:"):
            show_snippets("self_instruct", config.model_dump(mode="json"))


def _warn(ws: Workspace, seeds: str, writer: Variant) -> None:
    """What is to be known before a run of hours: a small generator, or hardly any seeds."""
    rows = ws.version(seeds).rows
    if rows < ENOUGH:
        st.warning(
            f"{count(rows, 'seed')} {'is' if rows == 1 else 'are'} few: every request shows {ENOUGH}, so the tasks "
            "will all be alike. The paper began with 175.",
            icon=":material/warning:",
        )
    if _is_bundled(ws, writer):
        with st.container(border=True, gap="xsmall"):
            st.markdown(
                ":material/info: **The bundled model yields little.** With 135 million parameters it mostly repeats "
                "what it is shown; expect a handful of tasks from hundreds of requests. It shows how it works; a "
                "larger model on a server, here or elsewhere, brings a dataset."
            )
            link_to(MODELS, "Add a server", icon="dns")


def _is_bundled(ws: Workspace, variant: Variant) -> bool:
    if variant.model_id is None:
        return False
    try:
        return ws.model(variant.model_id).source is ModelSource.BUNDLED and variant.adapter_path is None
    except NotFound:
        return False


def _held_out(ws: Workspace, seeds: str) -> tuple[str, ...]:
    names = [item.name for item in ws.datasets() if item.name != seeds]
    key = f"{FORM}.held_out"
    held = st.session_state.setdefault(key, [AUTO])
    st.session_state[key] = [name for name in held if name in (AUTO, *names)]
    picked = st.multiselect(
        "Keep clear of", [AUTO, *names], key=key, persist_state="session", placeholder="Nothing is guarded",
        format_func=lambda name: "Every prompt set, and all that was held out" if name == AUTO else name,
        help=SelfInstructConfig.model_fields["held_out"].description,
    )  # fmt: skip
    if not picked:
        st.caption(":orange[:material/warning:] Nothing is guarded: tasks may repeat what you evaluate on.")
    return tuple(picked)


def seeds_link(ws: Workspace, version_id: str) -> None:
    """The link to the seeds of a run, nothing where they are gone."""
    try:
        version = dataset_store.get_version(ws.store, version_id)
        dataset = ws.dataset(version.dataset_id)
    except NotFound:
        return
    link_to(DATASETS, f"Seeds: {plain(dataset.name, limit=40)}", icon="table_rows", **dataset_query(dataset.id))
