"""Lineage: what came from what as a graph and a table, and the way to make an adapter again."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.errors import WorkbenchError
from workbench.records import RunState
from workbench.store.lineage import ALL_RUNS, OUTSIDE, Lineage, Node
from workbench.ui.errors import show_problem, shown_errors
from workbench.ui.links import DATASETS, EXPORT, LEADERBOARD, MODELS, RUNS, go_to, link_to, queue_query
from workbench.ui.runs import kind_name
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
BASES, OTHERS = "Base models", "Others"
GROUP_OF = {"variant": "Variants", "run": "Runs", "version": "Versions", "queue": "Rankings", "model": BASES}
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
    groups = {name: things for name, things in _groups(ws).items() if things}
    asked = st.query_params.get(OF_PARAM)
    if not asked and set(groups) <= {BASES}:
        with st.container(border=True):
            st.subheader("Nothing was made yet", anchor=False)
            st.markdown("Import data or fine-tune an adapter; what came from what is then shown here.")
            link_to(DATASETS, "Go to datasets", icon="table_rows")
        return
    if asked and not any(asked in things for things in groups.values()):
        groups = _with_asked(ws, groups, asked)
    root = _choose(groups, asked)
    found = ws.lineage(root)
    _graph(found)
    _table(found)
    _details(found)
    node = found.node(found.root)
    if node.kind == "variant":
        variant = ws.variant(node.id)
        if variant.adapter_path is not None:
            _reproduce(ws, variant.id)
            link_to(EXPORT, "Export it", icon="ios_share", **{VARIANT_PARAM: variant.id})
    elif node.kind == "run" and node.detail["run_kind"] == "reward" and node.detail["state"] == RunState.FINISHED:
        _reproduce(ws, node.id)


def _choose(groups: dict[str, dict[str, str]], asked: str | None) -> str:
    """What is to be traced: its kind first, so that a long list of runs hides no variant."""
    start = next((name for name, things in groups.items() if asked in things), next(iter(groups)))
    group = st.segmented_control(
        "Of", list(groups), default=start, required=True, key=f"lineage.group.{asked or ''}",
        format_func=lambda name: f"{name} ({len(groups[name]):,})",
    )  # fmt: skip
    things = groups[group or start]
    ids = list(things)
    return st.selectbox(
        group or start, ids, index=ids.index(asked) if asked in ids else 0, format_func=lambda key: things[key],
        key=f"lineage.of.{group}.{asked or ''}", label_visibility="collapsed", placeholder="Type to search",
    )  # fmt: skip


def _with_asked(ws: Workspace, groups: dict[str, dict[str, str]], asked: str) -> dict[str, dict[str, str]]:
    """The groups with what the address asks for, though the lists do not offer it: an older version, say."""
    found = ws.lineage(asked)
    node = found.node(found.root)
    name = GROUP_OF.get(node.kind, OTHERS)
    return {**groups, name: {asked: node.title, **groups.get(name, {})}}


def _groups(ws: Workspace) -> dict[str, dict[str, str]]:
    """What may be asked for by kind, most wanted first: adapters before bases, else the newest."""
    variants = sorted(reversed(ws.variants(archived=True)), key=lambda item: item.adapter_path is None)
    runs = ws.runs(states=[RunState.FINISHED], archived=True, limit=ALL_RUNS)
    rewards = {item.run_id for item in ws.reward_models(archived=True)}
    newest = [(dataset, version) for dataset in ws.datasets() for version in ws.versions(dataset.id)[:1]]
    return {
        "Variants": {item.id: item.name for item in variants},
        "Reward models": {run.id: f"{run.name}, {ago(run.created_at)}" for run in runs if run.id in rewards},
        "Runs": {
            run.id: f"{run.name}, {kind_name(run.kind)}, {ago(run.created_at)}"
            for run in runs
            if run.kind not in OUTSIDE and run.id not in rewards
        },
        "Versions": {version.id: f"{dataset.name}@{version.number}" for dataset, version in newest},
        "Rankings": {queue.id: queue.name for queue in ws.rank_queues(archived=True)},
        BASES: {item.id: item.name for item in ws.models(archived=True)},
    }


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
        scorers: Any = node.detail.get("scorers", {})
        told = f"{node.detail['votes']} votes, {count(len(raters), 'rater')}"
        return told + (f", {sum(scorers.values())} by scorers" if scorers else "")
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
    if node.kind == "queue":
        return LEADERBOARD, queue_query(node.id)
    return (MODELS, {}) if node.kind in ("model", "variant") else None


def _details(found: Lineage) -> None:
    with st.expander("Everything that is recorded", icon=":material/list_alt:"):
        for node in found.nodes:
            st.markdown(
                f"**{plain(node.title)}** ({KINDS[node.kind][0].lower()}, {plain(node.id)})",
                help=f"{ago(node.created_at)}, {plain(exact(node.created_at))}" if node.created_at else None,
            )
            st.json(node.detail, expanded=False)


def _reproduce(ws: Workspace, made: str) -> None:
    """How to make a variant's adapter, or the reward model of a run, again."""
    st.subheader("Make it again", anchor=False)
    st.caption(
        "The manifest names data, base, settings and the reward model it learned from by their digests. On the same "
        "packages and threads, on CPU, it gives the same one to the last bit."
    )
    try:
        manifest = ws.manifest(made)
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
            "Manifest", manifest.model_dump_json(indent=2), file_name=f"{made}.manifest.json",
            mime="application/json", icon=":material/download:", on_click="ignore", key="lineage.manifest",
        )  # fmt: skip
        missing = any(finding.severity == "missing" for finding in findings)
        if st.button("Make it again", icon=":material/replay:", disabled=missing, key="lineage.reproduce"):
            with shown_errors():
                run = ws.reproduce(manifest)
                go_to(RUNS, **{RUN_PARAM: run.id})
