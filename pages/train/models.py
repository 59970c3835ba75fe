"""Models: what can answer here, and how more of it comes here."""

import streamlit as st

from workbench.ui.base_models import show_add_form, show_adding, show_base_models
from workbench.ui.engines import show_engines
from workbench.ui.errors import shown_errors
from workbench.ui.servers import show_add_server, show_servers
from workbench.ui.store import workspace
from workbench.ui.variant_list import show_import_adapter, show_variants

ws = workspace()
st.title("Models")
st.caption("Base models, the adapters trained on them, and servers elsewhere: everything that can answer.")

base, variants, servers, engines = st.tabs(
    [
        ":material/deployed_code: Base models",
        ":material/layers: Variants",
        ":material/cloud: Servers",
        ":material/bolt: Engines",
    ],
    key="models.tab",
)
with base, shown_errors():
    show_adding(ws)
    show_base_models(ws, archived=st.toggle("Archived too", key="models.archived"))
    with st.expander("Add a base model", icon=":material/add:"), shown_errors():
        show_add_form(ws)
with variants:
    with shown_errors():
        show_variants(ws)
    with st.expander("Import an adapter", icon=":material/download:"), shown_errors():
        show_import_adapter(ws)
with servers:
    with shown_errors():
        show_servers(ws)
    with st.expander("Add a server", icon=":material/add:", expanded=not ws.servers()):
        show_add_server(ws)
with engines:
    show_engines(ws)
