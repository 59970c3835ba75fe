"""Base models: what is in the catalog with its facts, what is being added, and the forms that add one."""

from __future__ import annotations

from functools import partial
from typing import Any

import streamlit as st
from pydantic import ValidationError

from workbench.api import Workspace
from workbench.errors import UsageError, WorkbenchError
from workbench.models.adding import AddModelConfig, check_source
from workbench.models.inspecting import ModelFacts
from workbench.records import Model, ModelSource, RunState, utc_now
from workbench.runs.kinds import config_problem
from workbench.store import models as model_store
from workbench.ui.deleting import delete_control
from workbench.ui.errors import show_problem, shown_errors
from workbench.ui.first_model import show_conversion
from workbench.ui.runs import ACTIVE, progress_bar, run_link, state_badge
from workbench.ui.text import ago, bytes_text, exact, plain

ADD_RUN = "models.add_run"
SOURCES: dict[ModelSource, str] = {
    ModelSource.BUNDLED: "Bundled",
    ModelSource.HUB: "Hub",
    ModelSource.LOCAL: "Local folder",
    ModelSource.GGUF: "GGUF file",
}
REFERENCES: dict[ModelSource, tuple[str, str, str]] = {
    ModelSource.HUB: (
        "Hub id",
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        "As owner/name. Gated and private models need HF_TOKEN in the environment of the workbench.",
    ),
    ModelSource.LOCAL: (
        "Folder on this machine",
        "/path/to/model",
        "With config.json, safetensors and a tokenizer. It is used where it lies and never written to.",
    ),
    ModelSource.GGUF: (
        "File on this machine",
        "/path/to/model.gguf",
        "It is converted once into plain safetensors; the file itself stays as it is.",
    ),
}


def show_base_models(ws: Workspace, *, archived: bool) -> None:
    """One card a model."""
    for model in ws.models(archived=archived):
        with st.container(border=True, gap="small"):
            _show_model(ws, model)


def _show_model(ws: Workspace, model: Model) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(plain(model.name), anchor=False, width="content")
        st.badge(SOURCES[model.source], color="gray", help=plain(model.reference))
        if model.path is not None:
            st.badge("Ready", icon=":material/check:", color="green")
        if model.archived_at is not None:
            st.badge("Archived", color="gray")
        with st.container(width="stretch"):
            st.caption(f"Added {ago(model.created_at)}", help=exact(model.created_at))
        _edit_model(ws, model)
        if model.source is not ModelSource.BUNDLED:
            delete_control("model", key=f"models.{model.id}", delete=partial(ws.delete_model, model.id))
    if model.path is None:
        if model.source is ModelSource.BUNDLED:
            st.markdown(
                "Shipped with the workbench; converted once, in about a minute, and then ready without network."
            )
            show_conversion(ws)
        else:
            st.caption("Its files are not there yet.")
        return
    show_facts(model.info)
    if model.base_digest:
        st.caption(f"Digest of the weights `{model.base_digest[:12]}`", help=plain(model.base_digest))


def _edit_model(ws: Workspace, model: Model) -> None:
    with st.popover("Edit", icon=":material/edit:", type="tertiary"), st.form(f"models.edit.{model.id}", border=False):
        name = st.text_input("Name", model.name, max_chars=200)
        away = st.toggle("Archived", model.archived_at is not None, help="Kept, and no longer offered.")
        if st.form_submit_button("Save"):
            with shown_errors():
                archived_at = (model.archived_at or utc_now()) if away else None
                model_store.update_model(ws.store, model.id, name=name or "", archived_at=archived_at)
                st.rerun()


def show_facts(info: dict[str, Any]) -> None:
    """What is known of a model, as short figures on one line; what is not known is left out."""
    parts = []
    if isinstance(parameters := info.get("parameters"), int):
        parts.append(
            f"**{parameters / 1e6:,.0f} M** parameters"
            if parameters < 1e9
            else f"**{parameters / 1e9:.2f} B** parameters"
        )
    if isinstance(size := info.get("bytes"), int):
        parts.append(f"**{plain(bytes_text(size))}** on disk")
    if isinstance(context := info.get("context_length"), int):
        parts.append(f"context **{context:,}** tokens")
    if isinstance(layers := info.get("layers"), int):
        parts.append(
            f"**{layers}** layers" + (f" of width **{info['hidden_size']}**" if info.get("hidden_size") else "")
        )
    if isinstance(vocabulary := info.get("vocab_size"), int) and vocabulary:
        parts.append(f"vocabulary **{vocabulary:,}**")
    if info.get("dtype"):
        parts.append(plain(str(info["dtype"])))
    if info.get("architecture"):
        parts.append(plain(str(info["architecture"])))
    parts.append(f"licence {plain(str(info['licence']))}" if info.get("licence") else "licence not stated")
    if info.get("has_chat_template") is not None:
        parts.append("has a chat template" if info["has_chat_template"] else "**no chat template**")
    st.markdown(" · ".join(parts))


def show_adding(ws: Workspace) -> None:
    """Runs that add a model from elsewhere, with their progress, and why the last one of this session failed."""
    active = [
        run.id
        for run in ws.runs(kinds=["add_model"], states=ACTIVE)
        if run.spec.get("source") != ModelSource.BUNDLED.value
    ]
    if active:
        st.fragment(run_every=1.0)(_adding)(ws, tuple(active))
    known = st.session_state.get(ADD_RUN)
    if known is None:
        return
    run = ws.run(known)
    if run.state in (RunState.FAILED, RunState.INTERRUPTED, RunState.STOPPED):
        reason = f"{run.failure.message}. {run.failure.remedy}" if run.failure else f"It was {run.state.value}."
        st.error(f"{plain(run.name)}: {plain(reason)}", icon=":material/error:")
        with st.container(horizontal=True):
            if st.button("Try again", icon=":material/refresh:", key="models.add.again"):
                ws.resume(run.id)
                st.rerun()
            run_link(run, label="Open its run")


def _adding(ws: Workspace, known: tuple[str, ...]) -> None:
    with shown_errors():
        for run in [ws.run(run_id) for run_id in known]:
            if not run.state.active:
                st.rerun()
            with st.container(border=True, gap="small"):
                with st.container(horizontal=True, vertical_alignment="center"):
                    state_badge(run)
                    run_link(run)
                    if st.button("Stop", icon=":material/stop_circle:", key=f"models.add.stop.{run.id}"):
                        ws.stop(run.id)
                progress_bar(run)


def show_add_form(ws: Workspace) -> None:
    """Add a base model: where from, which; what a folder or file holds is told before anything is started."""
    source = st.segmented_control(
        "Where it comes from",
        list(REFERENCES),
        format_func=SOURCES.__getitem__,
        default=ModelSource.HUB,
        required=True,
        key="models.add.source",
    )
    label, example, help_text = REFERENCES[source]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        reference = st.text_input(label, placeholder=example, help=help_text, key=f"models.add.reference.{source}")
        name = st.text_input("Name", placeholder="made from the reference", key="models.add.name")
        revision = ""
        if source is ModelSource.HUB:
            revision = st.text_input("Revision", placeholder="newest", help="Branch, tag or commit.") or ""
    if not reference:
        st.caption(
            "Weights are read from safetensors or GGUF only; pickles and models with code of their own are refused."
        )
        return
    config = _checked(source, reference, name or "", revision)
    if config is None:
        return
    if st.button("Add the model", type="primary", icon=":material/add:", key="models.add"):
        run = ws.launch("add_model", config, name=f"Add {config.name or config.reference}"[:200])
        st.session_state[ADD_RUN] = run.id
        st.rerun()


def _checked(source: ModelSource, reference: str, name: str, revision: str) -> AddModelConfig | None:
    try:
        config = AddModelConfig(source=source, reference=reference, name=name or None, revision=revision or None)
        facts = check_source(config)
    except ValidationError as error:
        show_problem(config_problem(error))
        return None
    except WorkbenchError as error:
        show_problem(error)
        return None
    if isinstance(facts, ModelFacts):
        st.success("This can be added.", icon=":material/check_circle:")
        show_facts(facts.model_dump())
        if not facts.has_chat_template:
            st.caption("Without a chat template it can be trained and asked once an adapter or folder brings one.")
    elif source is ModelSource.HUB:
        st.caption("What the hub holds is looked at first; only the files that are needed are fetched.")
    return config


def need_ready_model(ws: Workspace) -> list[Model]:
    """Base models that can be used now.

    Raises:
        UsageError: there is none.
    """
    ready = [model for model in ws.models() if model.path is not None]
    if not ready:
        raise UsageError(
            "no base model is ready yet", remedy="Convert the bundled model, or add one, under Base models."
        )
    return ready
