"""Export: what to share, in which form, and what became of earlier exports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from workbench.api import Workspace
from workbench.evaluation.export_run import FORMS, ExportConfig, choose_weights
from workbench.records import Run, RunState, Variant
from workbench.store import models as model_store
from workbench.ui.errors import shown_errors
from workbench.ui.forms import checked_config, config_form
from workbench.ui.links import LINEAGE, MODELS, NEW_RUN, link_to
from workbench.ui.runs import progress_bar, run_link, state_badge
from workbench.ui.state import OF_PARAM, VARIANT_PARAM
from workbench.ui.text import ago, bytes_text, count, exact, plain

FORM_WORDS = {
    "adapter_zip": "The adapter with tokenizer, template and model card: small, opened with PEFT over the same base.",
    "merged": "Base and adapter as one model: large, opened with transformers alone.",
    "ollama": "Weights and a Modelfile with the translated chat template; `ollama create` takes the folder in.",
    "hub": "Pushed to a repository on the model hub. Needs HF_TOKEN with write access.",
}
ALWAYS_SKIPPED = ("variant", "form")
SKIPPED = {
    "adapter_zip": ("weights", "repo", "private", "dtype"),
    "merged": ("weights", "repo", "private"),
    "ollama": ("repo", "private"),
    "hub": ("folder", "replace"),
}
SHOWN_RUNS = 10


def show_export(ws: Workspace) -> None:
    """The form, or what is missing before anything can be exported."""
    variants = [item for item in ws.variants() if item.model_id is not None]
    ready = {model.id for model in ws.models(archived=True) if model.path is not None}
    variants = [item for item in reversed(variants) if item.model_id in ready]
    if not variants:
        with st.container(border=True):
            st.subheader("There is nothing to share yet", anchor=False)
            st.markdown("Fine-tune an adapter first; then it can be written in a form that others open.")
            link_to(NEW_RUN, "Set up a training run", icon="add_circle")
            link_to(MODELS, "Make a base model ready", icon="deployed_code")
        return
    variant = _choose_variant(variants)
    form = st.segmented_control(
        "Form", list(FORMS), default="adapter_zip" if variant.adapter_path else "merged", required=True,
        format_func=lambda name: FORMS[name], key="export.form",
    )  # fmt: skip
    st.caption(FORM_WORDS[form])
    values: dict[str, Any] = {"variant": variant.id, "form": form}
    values |= config_form(ExportConfig, key=f"export.{form}", skip=[*ALWAYS_SKIPPED, *SKIPPED[form]])
    for name in ("repo", "folder"):
        values[name] = (values.get(name) or "").strip() or None
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Export", type="primary", icon=":material/ios_share:", key="export.launch"):
            config = checked_config(ExportConfig, values)
            if isinstance(config, ExportConfig):
                with shown_errors():
                    run = ws.export(**_call(config))
                    st.toast(f"{plain(run.name)} began.", icon=":material/ios_share:")
        link_to(LINEAGE, "Where it came from", icon="account_tree", **{OF_PARAM: variant.id})
    with shown_errors():
        _tell_weights(ws, variant, values)


def _call(config: ExportConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _choose_variant(variants: Sequence[Variant]) -> Variant:
    asked = st.query_params.get(VARIANT_PARAM)
    at = next((place for place, item in enumerate(variants) if item.id == asked), None)
    if at is None:
        at = next((place for place, item in enumerate(variants) if item.adapter_path), 0)
    return st.selectbox(
        "Variant", variants, index=at, format_func=lambda item: item.name, key=f"export.variant.{asked or ''}"
    )


def _tell_weights(ws: Workspace, variant: Variant, values: dict[str, Any]) -> None:
    known = {key: values[key] for key in ("variant", "form", "weights") if key in values}
    config = ExportConfig.model_construct(**{"weights": "auto", **known})
    written = choose_weights(config, variant, model_store.get_model(ws.store, variant.model_id or ""))
    words = (
        "the adapter" if written == "adapter" else "merged weights" if variant.adapter_path else "the base's weights"
    )
    st.caption(
        f"It will hold {words}. Before it is kept, it is loaded from scratch and must give stored greedy answers again."
    )


def show_exports(ws: Workspace) -> None:
    """Exports, newest first: how far, where to, and what the check found."""
    runs = ws.runs(kinds=["export"], limit=SHOWN_RUNS)
    if not runs:
        return
    st.subheader("Exports", anchor=False)
    active = any(run.state.active for run in runs)
    st.fragment(run_every=1.5 if active else None)(_list)(ws, active)


def _list(ws: Workspace, active: bool) -> None:
    with shown_errors():
        runs = ws.runs(kinds=["export"], limit=SHOWN_RUNS)
        if active and not any(run.state.active for run in runs):
            st.rerun()
        for run in runs:
            with st.container(border=True, gap="small"):
                _show(run)


def _show(run: Run) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        state_badge(run)
        run_link(run)
        st.caption(ago(run.created_at), help=plain(exact(run.created_at)), width="content")
    if run.state.active:
        progress_bar(run)
    elif run.failure is not None:
        st.error(plain(f"{run.failure.message.rstrip('.')}. {run.failure.remedy}"), icon=":material/error:")
    elif run.state is RunState.FINISHED:
        show_exported(run)


def show_exported(run: Run) -> None:
    """Where a finished export lies, how large it is, and what its check found."""
    told: dict[str, Any] = dict(run.result)
    st.code(str(told.get("path") or told.get("url") or ""), language=None)
    st.caption(f"{bytes_text(float(told.get('bytes') or 0))}, {plain(replay_words(told.get('replay') or {}))}")


def replay_words(replay: dict[str, Any]) -> str:
    """What the check of an export found, in a sentence."""
    if not replay.get("prompts"):
        return "not checked."
    text = f"{replay['exact']} of {count(replay['prompts'], 'answer')} equal token for token"
    ties = replay.get("ties") or []
    if ties:
        text += f", {len(ties)} parted where two tokens were within {replay['bound']:g} logits"
    return f"{text}; {replay.get('stored', 0)} had been stored before."
