"""The checks of the rows before a run: what would teach nothing or teach harm, with the rows and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.records import RunConfig
from workbench.store.datasets import get_version
from workbench.training.configs import TrainingConfig
from workbench.ui.inspector import model_renderer
from workbench.ui.text import count, plain

if TYPE_CHECKING:
    from workbench.datasets.checks import Finding

AT_ONCE = 3000
"""Rows up to which the checks are made without being asked for."""


def show_gates(ws: Workspace, config: RunConfig) -> bool:
    """Check the rows as they would be trained and show what was found.

    Args:
        ws: the workspace.
        config: the checked config.

    Returns:
        Whether the run may start: no hard finding, or the checks were left to the run, which makes them in any case.
    """
    if not isinstance(config, TrainingConfig):
        st.caption("The run checks the rows before it trains.")
        return True
    from workbench.training.rows import resolve_inputs

    inputs = resolve_inputs(ws.store, config)
    version = get_version(ws.store, inputs.version_id)
    # The config's own fields that the checks depend on are the cache's key.
    asked = (
        version.content_hash,
        inputs.held_out_version_id,
        str(config.held_out),
        config.max_length,
        str(getattr(config, "max_answer_tokens", "")),
        config.dataset_kinds,
        config.seed,
        inputs.model_id,
        (config.lora_r, config.target_modules, config.adapter, getattr(config, "on_top", "")),
    )
    known = st.session_state.get("new_run:checked")
    if version.rows > AT_ONCE and known != asked:
        st.caption(f"{count(version.rows, 'row')} take a moment. The run checks them too, before it trains.")
        if not st.button("Check now", icon=":material/rule:"):
            return True
    st.session_state["new_run:checked"] = asked
    findings = _findings(ws, config, asked)
    if not findings:
        st.markdown(f":green-badge[:material/check: Nothing found] in {count(version.rows, 'row')}")
        return True
    for finding in findings:
        text = f"{plain(finding.message)}\n\n{plain(finding.remedy)}"
        if finding.severity == "hard":
            st.error(text, icon=":material/block:")
        else:
            st.warning(text, icon=":material/info:")
    rows = [{"Check": item.gate.replace("_", " "), "Row id": row} for item in findings for row in item.row_ids]
    if rows:
        with st.expander("Rows concerned", icon=":material/list:"):
            st.dataframe(pd.DataFrame(rows), hide_index=True, alt="Rows concerned by the checks")
    return all(finding.severity != "hard" for finding in findings)


@st.cache_data(show_spinner="Checking the rows", max_entries=20)
def _findings(_ws: Workspace, _config: TrainingConfig, asked: tuple[object, ...]) -> list[Finding]:
    from workbench.training.adapter_rank import check_rank
    from workbench.training.rows import check_method, resolve_inputs, split_rows

    inputs = resolve_inputs(_ws.store, _config)
    train, held_out = split_rows(_ws.store, _config, inputs)
    model = _ws.model(inputs.model_id)
    return check_method(_config, train, held_out, model_renderer(model)) + check_rank(_config, model)
