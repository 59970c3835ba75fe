"""Variants: the table, one variant's facts and words, the way to the Playground, and adapters made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.errors import NotFound, UsageError, WorkbenchError
from workbench.models.adapters import check_adapter
from workbench.records import Model, Server, Variant, utc_now
from workbench.settings import typed_path
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.ui.base_models import need_ready_model
from workbench.ui.conversation import MOST_PANES
from workbench.ui.deleting import delete_control
from workbench.ui.errors import show_problem, shown_errors
from workbench.ui.links import EXPORT, LINEAGE, PLAYGROUND, go_to, variants_query
from workbench.ui.runs import run_link
from workbench.ui.text import ago, count, exact, plain

PAGE_ROWS = 25
COLUMNS: dict[str, Any] = {
    "open": st.column_config.ButtonColumn("", width=70, type="tertiary", key="variants.open"),
    "name": st.column_config.TextColumn("Name", width=260),
    "kind": st.column_config.MultiselectColumn(
        "Kind", options=["Base", "Adapter", "Remote"], color=["gray", "green", "orange"]
    ),
    "of": st.column_config.TextColumn("Base or server"),
    "digest": st.column_config.TextColumn(
        "Digest", help="Of the adapter's weights and config, or of the base's weights."
    ),
    "tags": st.column_config.TextColumn("Tags"),
    "created": st.column_config.DatetimeColumn("Made", format="distance"),
}


def kind_of(variant: Variant) -> str:
    """Base, Adapter or Remote."""
    if variant.server_id is not None:
        return "Remote"
    return "Adapter" if variant.adapter_path is not None else "Base"


def show_variants(ws: Workspace) -> None:
    """Search, one page of the table, and what to do with the ticked ones."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        search = st.text_input("Name, tag or note", type="search", key="variants.q", placeholder="Search")
        archived = st.toggle("Archived too", key="variants.archived")
    needle = (search or "").strip().casefold()
    everyone = list(reversed(ws.variants(archived=archived)))
    found = [item for item in everyone if needle in "\n".join((item.name, *item.tags, item.notes)).casefold()]
    if not found:
        st.caption(
            "No variant fits." if everyone else "Nothing can answer yet: make a base model ready, or add a server."
        )
        return
    pages = -(-len(found) // PAGE_ROWS)
    page = min(st.session_state.get("variants.page", 1), pages)
    shown = found[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    models = {model.id: model for model in model_store.list_models(ws.store, archived=True)}
    servers = {server.id: server for server in ws.servers()}
    event = st.dataframe(
        variant_table(shown, models, servers),
        hide_index=True,
        key="variants.table",
        on_select="rerun",
        selection_mode="multi-row",
        height="content",
        column_config=COLUMNS,
        alt="Variants, newest first",
    )
    _compare([shown[row] for row in event.selection.rows if row < len(shown)])
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(count(len(found), "variant"), width="stretch")
        if pages > 1:
            st.pagination(pages, key="variants.page")
    click = st.session_state.get("variants.open")
    if click is not None and 0 <= click["row"] < len(shown):
        _show_variant(ws, shown[click["row"]].id)


def variant_table(variants: Sequence[Variant], models: dict[str, Model], servers: dict[str, Server]) -> pd.DataFrame:
    """One line a variant."""
    return pd.DataFrame(
        {
            "open": ["Open" for _ in variants],
            "name": [item.name for item in variants],
            "kind": [[kind_of(item)] for item in variants],
            "of": [_origin(item, models, servers) for item in variants],
            "digest": [(_digest(item, models) or "unverified")[:12] for item in variants],
            "tags": [", ".join(item.tags) for item in variants],
            "created": [item.created_at for item in variants],
        }
    )


def _origin(variant: Variant, models: dict[str, Model], servers: dict[str, Server]) -> str:
    if variant.server_id is not None:
        return servers[variant.server_id].name if variant.server_id in servers else variant.server_id
    return models[variant.model_id].name if variant.model_id in models else str(variant.model_id)


def _digest(variant: Variant, models: dict[str, Model]) -> str | None:
    if variant.adapter_digest is not None or variant.model_id is None:
        return variant.adapter_digest
    return models[variant.model_id].base_digest if variant.model_id in models else None


def _compare(chosen: Sequence[Variant]) -> None:
    if not chosen:
        st.caption("Tick variants to let them answer side by side.")
        return
    too_many = len(chosen) > MOST_PANES
    label = "Ask it in the Playground" if len(chosen) == 1 else f"Compare {len(chosen)} in the Playground"
    if st.button(label, icon=":material/compare_arrows:", type="primary", disabled=too_many, key="variants.compare"):
        go_to(PLAYGROUND, **variants_query(*(item.id for item in chosen)))
    if too_many:
        st.caption(f"The Playground has room for {MOST_PANES}.")


@st.dialog("Variant", width="medium", icon=":material/deployed_code:")
def _show_variant(ws: Workspace, variant_id: str) -> None:
    with shown_errors():
        variant = ws.variant(variant_id)
        models = {model.id: model for model in model_store.list_models(ws.store, archived=True)}
        servers = {server.id: server for server in ws.servers()}
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(kind_of(variant), color="gray")
            st.caption(
                f"{plain(_origin(variant, models, servers))}, made {ago(variant.created_at)}",
                help=exact(variant.created_at),
            )
        _links(ws, variant)
        if variant.server_id is not None:
            st.caption("A remote server's fingerprint is its own claim, so its answers are marked as unverified.")
        elif (digest := _digest(variant, models)) is not None:
            st.caption("Digest of the adapter" if variant.adapter_path else "Digest of the base's weights")
            st.code(digest, language=None)
        _edit_variant(ws, variant)
        delete_control("variant", key=f"variant.{variant.id}", delete=partial(ws.delete_variant, variant.id))


def _links(ws: Workspace, variant: Variant) -> None:
    base = next(
        (item for item in ws.variants() if item.model_id == variant.model_id and item.adapter_path is None), None
    )
    with st.container(horizontal=True):
        if variant.adapter_path is not None and base is not None:
            if st.button("Compare with base", icon=":material/compare_arrows:", key="variants.with_base"):
                go_to(PLAYGROUND, **variants_query(base.id, variant.id))
        elif st.button("Ask it", icon=":material/forum:", key="variants.ask"):
            go_to(PLAYGROUND, **variants_query(variant.id))
        if variant.model_id is not None and st.button("Export", icon=":material/ios_share:", key="variants.export"):
            go_to(EXPORT, variant=variant.id)
        if st.button("Lineage", icon=":material/account_tree:", key="variants.lineage"):
            go_to(LINEAGE, of=variant.id)
        if variant.run_id is not None:
            try:
                run_link(run_store.get_run(ws.store, variant.run_id), label="The run that made it")
            except NotFound:
                st.caption("The run that made it is gone.")


def _edit_variant(ws: Workspace, variant: Variant) -> None:
    with st.form(f"variants.edit.{variant.id}", border=False):
        name = st.text_input("Name", variant.name, max_chars=200)
        tags = st.multiselect(
            "Tags", variant.tags, variant.tags, accept_new_options=True, placeholder="Type and press Enter"
        )
        notes = st.text_area("Notes", variant.notes)
        away = st.toggle("Archived", variant.archived_at is not None, help="Kept with its answers, no longer offered.")
        if st.form_submit_button("Save", type="primary"):
            archived_at = (variant.archived_at or utc_now()) if away else None
            model_store.update_variant(
                ws.store, variant.id, name=name or "", tags=tags, notes=notes or "", archived_at=archived_at
            )
            st.rerun()


def show_import_adapter(ws: Workspace) -> None:
    """Take in a PEFT folder made elsewhere, after showing what it holds and whether it fits the base."""
    try:
        ready = {model.id: model for model in need_ready_model(ws)}
    except UsageError as error:
        st.caption(error.sentence())
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        folder = st.text_input("Adapter folder", placeholder="/path/to/adapter", key="models.adapter.folder")
        base = st.selectbox(
            "Base", list(ready), format_func=lambda item: ready[item].name, key="models.adapter.base", required=True
        )
        name = st.text_input("Name", placeholder="made from the folder", key="models.adapter.name")
    if not folder or base is None:
        st.caption("A LoRA folder as PEFT writes it. It is checked against the base and copied; your folder stays.")
        return
    try:
        path = typed_path(folder)
        facts = check_adapter(path, ready[base])
    except WorkbenchError as error:
        show_problem(error)
        return
    kinds = [word for word, there in (("DoRA", facts.use_dora), ("rank-stabilised", facts.use_rslora)) if there]
    st.success("It fits this base.", icon=":material/check_circle:")
    told = [
        f"rank **{facts.r}**",
        f"alpha **{facts.alpha:g}**",
        f"{count(len(facts.targets), 'kind')} of layers",
        *kinds,
    ]
    st.markdown(" · ".join(told), help=plain(", ".join(facts.targets)))
    if not facts.mixable:
        st.caption("It cannot share a batch with other adapters; answers beside others take longer.")
    if st.button("Import the adapter", type="primary", icon=":material/download:", key="models.adapter.import"):
        taken = {item.name for item in ws.variants(archived=True)}
        wanted = (name or "").strip() or model_store.unused_name(taken, path.name[:190])
        variant = ws.import_adapter(path, base, wanted)
        st.session_state.pop("models.adapter.folder", None)
        st.toast(f"{plain(variant.name)} can answer now.", icon=":material/check_circle:")
        st.rerun()
