"""What came from what: datasets, runs, variants, queues and exports as a graph, read from what each of them recorded.

Nothing is stored for this: versions carry their parent and provenance, runs what they were launched with and what they
pinned, variants the run that made them. Pages, the command line and model cards show it; deleting asks `deletion`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import Field, JsonValue
from sqlalchemy import func, select

from workbench.errors import NotFound
from workbench.records import Dataset, Model, RankQueue, Record, Run, Variant, Version
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store import tables
from workbench.store.database import Store
from workbench.store.rankings import Sources, list_queues, voted_by

ALL_RUNS = 1_000_000_000
OUTSIDE = ("import", "add_model", "tour", "serve", "demo")
"""Kinds of runs that nothing goes into: what an import made says so itself."""


class Node(Record):
    """One thing of the graph."""

    id: str
    """The thing's id; `file:…` or `kit:…` for what lies outside the store."""
    kind: str
    """source, version, model, run, variant, queue or gone."""
    title: str
    """Its name."""
    detail: dict[str, JsonValue] = {}
    """What is to be said of it: hashes, rows, state, settings, raters."""
    created_at: datetime | None = None
    """When it was made."""


class Edge(Record):
    """One thing that went into another."""

    source: str
    """Id of what went in."""
    target: str
    """Id of what came of it."""
    label: str
    """How: "trained on", "answered by", …"""


class Lineage(Record):
    """A thing, everything that went into it and everything that came of it."""

    root: str
    """Id of the thing."""
    nodes: tuple[Node, ...]
    """Causes before effects."""
    edges: tuple[Edge, ...]
    """Between these nodes only."""
    before: tuple[str, ...] = Field(default=())
    """Ids of what went in."""
    after: tuple[str, ...] = Field(default=())
    """Ids of what came of it."""

    def node(self, node_id: str) -> Node:
        """The node of this id."""
        return next(node for node in self.nodes if node.id == node_id)


def trace(store: Store, reference: str) -> Lineage:
    """The lineage of a variant, run, model, dataset version or ranking queue.

    Args:
        store: the store.
        reference: an id; the name of a variant or a queue; or a dataset as `name` or `name@3`.

    Raises:
        NotFound: nothing of the store goes by it.
    """
    graph = _Graph(store)
    root = graph.find(reference)
    before, after = graph.reach(root, back=True), graph.reach(root, back=False)
    kept = {root, *before, *after}
    edges = tuple(edge for edge in graph.edges if edge.source in kept and edge.target in kept)
    order = _causes_first(kept, edges, graph.nodes)
    return Lineage(
        root=root,
        nodes=tuple(graph.nodes[key] for key in order),
        edges=edges,
        before=tuple(key for key in order if key in before),
        after=tuple(key for key in order if key in after),
    )


def read_inputs(store: Store, run_id: str) -> dict[str, Any]:
    """What a training run pinned at its first start, as ids; empty where it pinned nothing."""
    try:
        told = json.loads((store.settings.run_dir(run_id) / "inputs.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def ids_in(value: object) -> Iterator[str]:
    """Every text inside a JSON value, whatever it is nested in: what may be the id of something."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from ids_in(inner)
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        for inner in value:
            yield from ids_in(inner)


def _causes_first(kept: set[str], edges: tuple[Edge, ...], nodes: Mapping[str, Node]) -> list[str]:
    """Topological order; among equals, older things first."""
    waiting = {key: 0 for key in kept}
    for edge in edges:
        waiting[edge.target] += 1
    order: list[str] = []

    def age(key: str) -> tuple[bool, str, str]:
        made = nodes[key].created_at
        return made is not None, made.isoformat() if made else "", key

    free = sorted((key for key, count in waiting.items() if not count), key=age)
    while free:
        key = free.pop(0)
        order.append(key)
        for edge in edges:
            if edge.source == key:
                waiting[edge.target] -= 1
                if not waiting[edge.target]:
                    free.append(edge.target)
        free.sort(key=age)
    return order + sorted(kept - set(order), key=age)


class _Graph:
    """Everything in the store as nodes and edges."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []
        self.datasets = {item.id: item for item in dataset_store.list_datasets(store, archived=True)}
        self.versions = {v.id: v for key in self.datasets for v in dataset_store.list_versions(store, key)}
        self.models = {item.id: item for item in model_store.list_models(store, archived=True)}
        self.variants = {item.id: item for item in model_store.list_variants(store, archived=True)}
        self.runs = {item.id: item for item in run_store.list_runs(store, archived=True, limit=ALL_RUNS)}
        self.queues = {item.id: item for item in list_queues(store, archived=True)}
        for version in self.versions.values():
            self._add_version(version)
        for model in self.models.values():
            self._add_model(model)
        for run in self.runs.values():
            self._add_run(run)
        for variant in self.variants.values():
            self._add_variant(variant)
        for queue in self.queues.values():
            self._add_queue(queue)
        self.edges = list(dict.fromkeys(edge for edge in self.edges if edge.source != edge.target))

    def find(self, reference: str) -> str:
        """The node a person means."""
        if reference in self.nodes:
            return reference
        for node in self.nodes.values():
            if node.kind in ("variant", "queue") and node.title == reference:
                return node.id
        if any(reference in (each.id, each.name) for each in dataset_store.list_datasets(self.store, archived=True)):
            return dataset_store.find_version(self.store, reference)[1].id  # one without rows yet is told as such
        try:
            return dataset_store.find_version(self.store, reference)[1].id
        except NotFound as error:
            raise NotFound(
                "nothing in the store goes by this",
                value=reference,
                remedy="Give a variant, a run, a model, a queue, or a dataset as name or name@3.",
            ) from error

    def reach(self, root: str, *, back: bool) -> set[str]:
        """Everything that can be reached from a node in one direction."""
        steps: dict[str, list[str]] = {}
        for edge in self.edges:
            here, there = (edge.target, edge.source) if back else (edge.source, edge.target)
            steps.setdefault(here, []).append(there)
        found: set[str] = set()
        todo = [root]
        while todo:
            for there in steps.get(todo.pop(), ()):
                if there not in found and there != root:
                    found.add(there)
                    todo.append(there)
        return found

    def _link(self, source: object, target: str, label: str, *, gone: str = "") -> None:
        """An edge; what is no longer in the store becomes a node that says so, where `gone` names what it was."""
        if not isinstance(source, str) or not source:
            return
        known = any(
            source in things for things in (self.versions, self.models, self.runs, self.variants, self.queues)
        )  # fmt: skip
        if not known and source not in self.nodes:
            if not gone:
                return
            self.nodes[source] = Node(id=source, kind="gone", title=f"{gone} that is gone")
        self.edges.append(Edge(source=source, target=target, label=label))

    def _add_version(self, version: Version) -> None:
        dataset: Dataset = self.datasets[version.dataset_id]
        purged = version.manifest.get("purged")
        detail: dict[str, JsonValue] = {
            "dataset": dataset.name,
            "dataset_id": dataset.id,
            "number": version.number,
            "kind": dataset.kind,
            "rows": version.rows,
            "content_hash": version.content_hash,
            "message": version.message,
            "provenance": version.provenance,
        }
        if isinstance(purged, list):
            detail["purged"] = len(purged)
        self.nodes[version.id] = Node(
            id=version.id,
            kind="version",
            title=f"{dataset.name}@{version.number}",
            detail=detail,
            created_at=version.created_at,
        )
        self._link(version.parent_id, version.id, "edited into", gone="A version")
        for key, kind in (("source", "file"), ("kit", "kit")):
            named = version.provenance.get(key)
            if isinstance(named, str) and named not in self.queues and version.parent_id is None:
                node = f"{kind}:{named}"
                self.nodes.setdefault(node, Node(id=node, kind="source", title=named, detail={"from": kind}))
                self._link(node, version.id, "imported into")
        grown = version.provenance.get("self_instruct")
        # Seeds and generator of a grown version went into its run; they are told there.
        told = {"run": grown.get("run")} if isinstance(grown, dict) else version.provenance
        for named in ids_in(told):
            if named != version.parent_id:
                maker = self.runs.get(named)
                self._link(named, version.id, "imported" if maker and maker.kind == "import" else "made into")

    def _add_model(self, model: Model) -> None:
        detail: dict[str, JsonValue] = {
            "source": model.source.value,
            "reference": model.reference,
            "base_digest": model.base_digest,
            "licence": model.info.get("licence"),
        }
        self.nodes[model.id] = Node(
            id=model.id, kind="model", title=model.name, detail=detail, created_at=model.created_at
        )

    def _add_run(self, run: Run) -> None:
        figures = {key: value for key, value in run.result.items() if isinstance(value, int | float)}
        detail: dict[str, JsonValue] = {
            "run_kind": run.kind,
            "state": run.state.value,
            "attempts": run.attempt,
            "settings": run.spec,
            "figures": dict(figures),
        }
        for key in ("form", "path", "url", "replay"):
            if key in run.result:
                detail[key] = run.result[key]
        self.nodes[run.id] = Node(id=run.id, kind="run", title=run.name, detail=detail, created_at=run.created_at)
        self._link_run(run)

    def _link_run(self, run: Run) -> None:
        answers = run.result.get("answers")
        if isinstance(answers, dict):
            if run.kind == "answer":
                self._link(answers.get("version_id"), run.id, "prompts of", gone="A prompt set")
                for variant in ids_in(answers.get("variants")):
                    self._link(variant, run.id, "answered in", gone="A variant")
            return
        grown = run.result.get("self_instruct")
        if isinstance(grown, dict):
            self._link(grown.get("seeds_version_id"), run.id, "seeds of", gone="A version")
            self._link(grown.get("variant_id"), run.id, "wrote tasks in", gone="A variant")
            return
        if run.kind == "kl":
            self._link(run.result.get("version"), run.id, "prompts of", gone="A prompt set")
            self._link(run.result.get("variant"), run.id, "answered in", gone="A variant")
            self._link(run.result.get("reference"), run.id, "reference of", gone="A variant")
            return
        # RLOO and GRPO learn from a reward model, a score run asks one; each tells its run.
        self._link(run.result.get("reward_run_id"), run.id, "reward of", gone="A reward model")
        if run.kind == "score":
            self._link(run.result.get("version_id"), run.id, "prompts of", gone="A prompt set")
            self._link(run.result.get("variant_id"), run.id, "answered in", gone="A variant")
            self._link(run.result.get("answers_run_id"), run.id, "scored in", gone="A run")
            return
        self._link(run.result.get("demonstrations_version_id"), run.id, "centred on", gone="A version")
        inputs = {"version_id": run.result.get("version_id"), "model_id": run.result.get("model_id")}
        inputs |= read_inputs(self.store, run.id)
        if run.kind == "export":
            self._link(run.result.get("variant_id") or run.spec.get("variant"), run.id, "exported in", gone="A variant")
        elif run.kind not in OUTSIDE:
            self._link(inputs.get("version_id"), run.id, "trained on by", gone="A version")
            self._link(inputs.get("held_out_version_id"), run.id, "measured on by", gone="A version")
            self._link(inputs.get("model_id"), run.id, "base of", gone="A base model")
            self._link(inputs.get("adapter_id"), run.id, "continued by", gone="A variant")

    def _add_variant(self, variant: Variant) -> None:
        detail: dict[str, JsonValue] = {
            "adapter_digest": variant.adapter_digest,
            "adapter_path": variant.adapter_path,
            "notes": variant.notes,
        }
        if variant.server_id is not None:
            detail["remote_model"] = variant.remote_model
        self.nodes[variant.id] = Node(
            id=variant.id, kind="variant", title=variant.name, detail=detail, created_at=variant.created_at
        )
        if variant.run_id is not None:
            self._link(variant.run_id, variant.id, "made", gone="A run")
        elif variant.model_id is not None:
            self._link(variant.model_id, variant.id, "base of", gone="A base model")

    def _add_queue(self, queue: RankQueue) -> None:
        people, scorers = count_votes(self.store, queue.id), count_votes(self.store, queue.id, "scorers")
        detail: dict[str, JsonValue] = {"votes": sum(people.values()), "raters": dict(people), "source": queue.source}
        if scorers:
            detail["scorers"] = dict(scorers)
        self.nodes[queue.id] = Node(
            id=queue.id, kind="queue", title=queue.name, detail=detail, created_at=queue.created_at
        )
        for named in ids_in(queue.source):
            self._link(named, queue.id, "ranked in")


def count_votes(store: Store, queue_id: str, sources: Sources = "people") -> dict[str, int]:
    """How many votes each person, or each scorer, gave in a queue; skips and votes taken back do not count."""
    rankings, items, undos = tables.rankings, tables.rank_items, tables.ranking_undos
    query = (
        select(rankings.c.rater, func.count())
        .join(items, items.c.id == rankings.c.item_id)
        .where(items.c.queue_id == queue_id, rankings.c.skipped.is_(None), voted_by(sources))
        .where(rankings.c.id.not_in(select(undos.c.ranking_id)))
        .group_by(rankings.c.rater)
        .order_by(rankings.c.rater)
    )
    with store.read() as connection:
        return {str(rater): int(count) for rater, count in connection.execute(query)}
