"""Lineage: what came from what as a graph and a table, and the way to make an adapter again."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.errors import WorkbenchError
from workbench.records import Variant
from workbench.store.lineage import Lineage, Node
from workbench.ui.errors import show_problem, shown_errors
from workbench.ui.links import DATASETS, EXPORT, MODELS, RUNS, go_to, link_to
from workbench.ui.state import DATASET_PARAM, OF_PARAM, RUN_PARAM, VARIANT_PARAM, VERSION_PARAM
from workbench.ui.text import ago, count, exact, plain, shorten

KINDS = {
    "source": ("Source", "note", "#8a8f98"),
    "version": ("Version", "folder", "#0e9f8e"),
    "model": ("Base model", "box3d", "#5b7bd5"),
    "run": ("Run", "box", "#c98a1b"),
    "variant": ("Variant", "component", "#7d5bd5"),
    "queue": ("Rankings", "box", "#c2557a"),
    "gone": ("Gone", "note", "#8a8f98"),
}
MOST_NODES = 80
COLUMNS: dict[str, Any] = {
    "open": st.column_config.ButtonColumn("", width=70, type="tertiary", key="lineage.open"),
    "place": st.column_config.TextColumn("", width=70),
    "what": st.column_config.TextColumn("What"),
    "name": st.column_config.TextColumn("Name", width=240),
    "facts": st.column_config.TextColumn("Facts"),
    "became": st.column_config.TextColumn("What became of it"),
    "made": st.column_config.TextColumn("Made"),
}


def show_lineage(ws: Workspace) -> None:
    """Choose a thing; its graph, table and, for an adapter, how to make it again."""
    choices = _choices(ws)
    if not choices:
        with st.container(border=True):
            st.subheader("Nothing was made yet", anchor=False)
            st.markdown("Import data or fine-tune an adapter; what came from what is then shown here.")
            link_to(DATASETS, "Go to datasets", icon="table_rows")
        return
    asked = st.query_params.get(OF_PARAM)
    if asked and asked not in choices:
        choices = {asked: asked, **choices}
    ids = list(choices)
    root = st.selectbox(
        "Of", ids, index=ids.index(asked) if asked else 0, format_func=lambda key: choices[key],
        key=f"lineage.of.{asked or ''}",
    )  # fmt: skip
    found = ws.lineage(root)
    _graph(found)
    _table(found)
    _details(found)
    node = found.node(found.root)
    if node.kind == "variant":
        variant = ws.variant(node.id)
        if variant.adapter_path is not None:
            _reproduce(ws, variant)


def _choices(ws: Workspace) -> dict[str, str]:
    """What may be asked for, most wanted first: adapters, other variants, newest versions."""
    variants = sorted(reversed(ws.variants(archived=True)), key=lambda item: item.adapter_path is None)
    choices = {item.id: f"Variant: {item.name}" for item in variants}
    for dataset in ws.datasets():
        for version in ws.versions(dataset.id)[:1]:
            choices[version.id] = f"Version: {dataset.name}@{version.number}"
    return choices


def dot(found: Lineage) -> str:
    """The graph in Graphviz's language; names stand in quotes and cannot leave them."""
    lines = [
        "digraph { rankdir=LR; bgcolor=transparent; ranksep=0.45; nodesep=0.25;",
        'node [style="filled", fontname="sans-serif", fontsize=11, fontcolor=white, color=transparent];',
        'edge [fontname="sans-serif", fontsize=9, color="#8a8f98", fontcolor="#8a8f98"];',
    ]
    kept = {node.id for node in found.nodes[:MOST_NODES]} | {found.root}
    for node in found.nodes:
        if node.id in kept:
            title, shape, color = KINDS[node.kind]
            label = _quoted(f"{shorten(node.title, 34)}\n{shorten(_kind_words(node, title), 40)}")
            ring = ', penwidth=3, color="#e0b020"' if node.id == found.root else ""
            lines.append(f'{_quoted(node.id)} [label={label}, shape={shape}, fillcolor="{color}"{ring}];')
    for edge in found.edges:
        if {edge.source, edge.target} <= kept:
            lines.append(f"{_quoted(edge.source)} -> {_quoted(edge.target)} [label={_quoted(edge.label)}];")
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _kind_words(node: Node, title: str) -> str:
    if node.kind == "run":
        return f"{node.detail['run_kind']}, {node.detail['state']}"
    if node.kind == "version":
        return f"{node.detail['rows']:,} rows, {str(node.detail['content_hash'])[:8]}"
    if node.kind == "queue":
        raters: Any = node.detail["raters"]
        return f"{node.detail['votes']} votes, {count(len(raters), 'rater')}"
    digest = node.detail.get("adapter_digest") or node.detail.get("base_digest")
    return f"{title.lower()} {str(digest)[:8]}" if digest else title.lower()


def _graph(found: Lineage) -> None:
    if len(found.nodes) == 1:
        st.caption("Nothing is recorded before or after it.")
        return
    st.graphviz_chart(dot(found), width="stretch")
    if len(found.nodes) > MOST_NODES:
        st.caption(f"The graph shows {MOST_NODES} of {len(found.nodes)} things; the table has all.")


def _table(found: Lineage) -> None:
    nodes = list(found.nodes)
    place = {**dict.fromkeys(found.before, "before"), **dict.fromkeys(found.after, "after"), found.root: "this"}
    st.dataframe(
        pd.DataFrame(
            {
                "open": ["Open" if _address(node) else "" for node in nodes],
                "place": [place.get(node.id, "") for node in nodes],
                "what": [KINDS[node.kind][0] for node in nodes],
                "name": [node.title for node in nodes],
                "facts": [_kind_words(node, KINDS[node.kind][0]) for node in nodes],
                "became": [
                    ", ".join(f"{e.label} {found.node(e.target).title}" for e in found.edges if e.source == node.id)
                    for node in nodes
                ],
                "made": [ago(node.created_at) if node.created_at else "" for node in nodes],
            }
        ),
        hide_index=True,
        key="lineage.table",
        height="content",
        alt="Everything that went into it and came of it, causes first",
        column_config=COLUMNS,
    )
    click = st.session_state.get("lineage.open")
    if click is not None and 0 <= click["row"] < len(nodes):
        address = _address(nodes[click["row"]])
        if address is not None:
            go_to(address[0], **address[1])


def _address(node: Node) -> tuple[str, dict[str, str]] | None:
    if node.kind == "version":
        query = {DATASET_PARAM: str(node.detail["dataset_id"]), VERSION_PARAM: str(node.detail["number"])}
        return DATASETS, query
    if node.kind == "run":
        return RUNS, {RUN_PARAM: node.id}
    return (MODELS, {}) if node.kind in ("model", "variant") else None


def _details(found: Lineage) -> None:
    with st.expander("Everything that is recorded", icon=":material/list_alt:"):
        for node in found.nodes:
            st.markdown(
                f"**{plain(node.title)}** ({KINDS[node.kind][0].lower()}, {plain(node.id)})",
                help=f"{ago(node.created_at)}, {plain(exact(node.created_at))}" if node.created_at else None,
            )
            st.json(node.detail, expanded=False)


def _reproduce(ws: Workspace, variant: Variant) -> None:
    st.subheader("Make it again", anchor=False)
    st.caption(
        "The manifest names data, base and settings by their digests. On the same packages and threads, on CPU, it "
        "gives the same adapter to the last bit."
    )
    link_to(EXPORT, "Export it", icon="ios_share", **{VARIANT_PARAM: variant.id})
    try:
        manifest = ws.manifest(variant.id)
    except WorkbenchError as problem:
        show_problem(problem)
        return
    findings = ws.check_manifest(manifest)
    for finding in findings:
        if finding.severity == "missing":
            st.error(plain(finding.what), icon=":material/error:")
    differs = [finding.what for finding in findings if finding.severity == "differs"]
    if differs:
        st.warning(plain("Differs from then: " + "; ".join(differs)), icon=":material/info:")
    with st.container(horizontal=True):
        st.download_button(
            "Manifest", manifest.model_dump_json(indent=2), file_name=f"{variant.id}.manifest.json",
            mime="application/json", icon=":material/download:", on_click="ignore", key="lineage.manifest",
        )  # fmt: skip
        missing = any(finding.severity == "missing" for finding in findings)
        if st.button("Make it again", icon=":material/replay:", disabled=missing, key="lineage.reproduce"):
            with shown_errors():
                run = ws.reproduce(manifest)
                go_to(RUNS, **{RUN_PARAM: run.id})
