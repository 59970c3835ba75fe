"""Remote servers: adding one, what probing found, its key, and which of its models answer here."""

from __future__ import annotations

from functools import partial

import streamlit as st

from workbench.api import Workspace
from workbench.generation.servers import probe_server, save_server_key, server_key
from workbench.records import Server
from workbench.store import models as model_store
from workbench.ui.deleting import delete_control
from workbench.ui.errors import shown_errors
from workbench.ui.text import ago, count, exact, plain

ABILITIES = (
    ("stream", "streams", "Answers appear word by word."),
    ("seed", "takes a seed", "The same seed may give the same text again."),
    ("usage", "counts tokens", "Token counts are the server's own."),
    ("logprobs", "log probabilities", "It tells how likely its tokens were."),
    ("top_k", "takes top k", "Sampling can be cut to the most likely tokens."),
    ("system_fingerprint", "names a fingerprint", "Its own claim of what answered; it cannot be checked."),
)


def show_servers(ws: Workspace) -> None:
    """One card a server."""
    servers = ws.servers()
    if not servers:
        st.caption("No server yet. vLLM, Ollama, llama-server and hosted APIs can answer beside your own models.")
    for server in servers:
        with st.container(border=True, gap="small"):
            _show_server(ws, server)


def _show_server(ws: Workspace, server: Server) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(plain(server.name), anchor=False, width="content")
        st.badge("unverified", color="orange", help="What produces its answers cannot be checked from here.")
        st.caption(
            plain(server.base_url), width="stretch", help=f"Added {exact(server.created_at)}, {ago(server.created_at)}"
        )
        if st.button("Probe again", icon=":material/refresh:", type="tertiary", key=f"servers.probe.{server.id}"):
            with shown_errors(), st.spinner("Asking the server what it can do…"):
                found = probe_server(server.base_url, server_key(ws.settings, server.id))
                server = model_store.update_server(ws.store, server.id, capabilities=found)
        _change_key(ws, server)
        delete_control("server", key=f"servers.{server.id}", delete=partial(ws.delete_server, server.id))
    with st.container(horizontal=True, gap="small"):
        for name, words, help_text in ABILITIES:
            if server.capabilities.get(name):
                st.badge(words, icon=":material/check:", color="green", help=help_text)
        lacking = [words for name, words, _ in ABILITIES if not server.capabilities.get(name)]
        if lacking:
            st.badge(f"{len(lacking)} not found", color="gray", help=plain("Not found: " + ", ".join(lacking)))
    _choose_models(ws, server)


def _change_key(ws: Workspace, server: Server) -> None:
    with st.popover("Key", icon=":material/key:", type="tertiary"), st.form(f"servers.key.{server.id}", border=False):
        key = st.text_input("New key", type="password", help="Empty forgets the key.")
        st.caption(plain(f"Kept in {ws.settings.keys_file}, which only you can read."))
        if st.form_submit_button("Save"):
            with shown_errors():
                save_server_key(ws.settings, server.id, key or "")
                st.toast("The key is changed.", icon=":material/key:")


def _choose_models(ws: Workspace, server: Server) -> None:
    known = {item.remote_model for item in ws.variants(archived=True) if item.server_id == server.id}
    listed = server.capabilities.get("models")
    offered = [str(name) for name in listed if name not in known] if isinstance(listed, list) else []
    if known:
        st.caption(f"Answering here: {plain(', '.join(sorted(str(name) for name in known)), limit=400)}")
    with st.form(f"servers.models.{server.id}", border=False):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            chosen = st.multiselect(
                "Models that shall answer here",
                offered,
                accept_new_options=True,
                placeholder="Choose, or type a name",
                help=f"The server lists {count(len(offered) + len(known), 'model')}; others can be typed.",
            )
            made = st.form_submit_button("Add as variants", icon=":material/add:")
        if made:
            with shown_errors():
                for name in chosen:
                    ws.remote_variant(server.id, name)
                if chosen:
                    st.rerun()


def show_add_server(ws: Workspace) -> None:
    """Address and key of a new server; it is asked what it can do before it is entered."""
    with st.form("servers.add", border=False):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            name = st.text_input("Name", placeholder="lab vLLM", max_chars=200)
            address = st.text_input("Base URL", placeholder="http://127.0.0.1:8000/v1", help="Up to /v1.")
            key = st.text_input("Key", type="password", placeholder="none", help="Sent to this server only.")
        st.caption(
            plain(f"The key is kept in {ws.settings.keys_file}, which only you can read; never in the database.")
        )
        if st.form_submit_button("Probe and add", type="primary", icon=":material/add:"):
            with shown_errors(), st.spinner("Asking the server what it can do…"):
                ws.add_server(name or "", address or "", key or "")
                st.rerun()
