"""Deleting for good: only what nothing refers to any more. Everything else is refused with what stands in the way.

What is in use can be archived instead. Rows of the database go first, in one transaction with the check; files follow,
so that a crash leaves files without a row, never a row without files.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from workbench.errors import Conflict
from workbench.records import ModelSource, Run, RunState, Variant
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store import tables
from workbench.store.database import Store, row_dict
from workbench.store.lineage import ALL_RUNS, OUTSIDE, ids_in, read_inputs

SHOWN = 3


def delete_dataset(store: Store, name_or_id: str) -> None:
    """Delete a dataset with all its versions and files.

    Raises:
        NotFound: there is none.
        Conflict: a run, a queue or another dataset refers to it; says which.
    """
    dataset = dataset_store.get_dataset(store, name_or_id)
    versions = dataset_store.list_versions(store, dataset.id)
    ids = {dataset.id, *(version.id for version in versions)}
    with store.write() as connection:
        uses = _version_uses(store, connection, ids, names=_names(dataset.name, versions), inside=dataset.id)
        _refuse(uses, f"the dataset {dataset.name!r}")
        table = tables.versions
        # Children point to their parents, so the chain is cut before it goes.
        connection.execute(update(table).where(table.c.dataset_id == dataset.id).values(parent_id=None))
        connection.execute(delete(table).where(table.c.dataset_id == dataset.id))
        connection.execute(delete(tables.datasets).where(tables.datasets.c.id == dataset.id))
    shutil.rmtree(store.settings.datasets_dir / dataset.id, ignore_errors=True)


def delete_version(store: Store, version_id: str) -> None:
    """Delete one version and those of its files that no other version shares.

    Raises:
        NotFound: there is none.
        Conflict: a later version was made from it, or a run or a queue refers to it.
    """
    version = dataset_store.get_version(store, version_id)
    dataset = dataset_store.get_dataset(store, version.dataset_id)
    table = tables.versions
    with store.write() as connection:
        children = connection.execute(select(table.c.number).where(table.c.parent_id == version.id)).scalars().all()
        uses = [f"version {number}, which was made from it" for number in children]
        named = {f"{dataset.name}@{version.number}", f"{dataset.id}@{version.number}"}
        newest = connection.execute(select(func.max(table.c.number)).where(table.c.dataset_id == dataset.id)).scalar()
        if newest == version.number:
            named |= {dataset.name, dataset.id}
        uses += _version_uses(store, connection, {version.id}, names=named, inside=dataset.id)
        _refuse(uses, f"version {version.number} of {dataset.name!r}")
        connection.execute(delete(table).where(table.c.id == version.id))
        others = connection.execute(select(table.c.manifest).where(table.c.dataset_id == dataset.id)).scalars().all()
    kept = {name for manifest in others for name in manifest_files(manifest)}
    for name in manifest_files(version.manifest):
        if name not in kept:
            (store.settings.datasets_dir / dataset.id / name).unlink(missing_ok=True)


def delete_variant(store: Store, name_or_id: str) -> None:
    """Delete a variant and its adapter's files, where they lie in the workbench's home.

    Raises:
        NotFound: there is none.
        Conflict: it has answers, or a run, a queue or a conversation refers to it.
    """
    variant = model_store.get_variant(store, name_or_id)
    with store.write() as connection:
        uses = _variant_uses(store, connection, variant)
        if variant.adapter_path is None and variant.model_id is not None:
            uses.append("its base model, which answers by it")
        _refuse(uses, f"the variant {variant.name!r}")
        connection.execute(delete(tables.variants).where(tables.variants.c.id == variant.id))
        others = connection.execute(select(tables.variants.c.adapter_path)).scalars().all()
    if variant.adapter_path and variant.adapter_path not in others and _inside(store, variant.adapter_path):
        shutil.rmtree(variant.adapter_path, ignore_errors=True)


def delete_model(store: Store, name_or_id: str) -> None:
    """Delete a base model with its own variant and the files that were made for it; files elsewhere stay.

    Raises:
        NotFound: there is none.
        Conflict: it is the bundled one, an adapter was trained on it, a run was made with it, or it gave answers.
    """
    model = model_store.get_model(store, name_or_id)
    if model.source is ModelSource.BUNDLED:
        what = "the bundled model comes with the workbench and stays in the catalog"
        raise Conflict(what, value=model.name, remedy="Archive it, and it is no longer offered.")
    table = tables.variants
    with store.write() as connection:
        uses = []
        for row in connection.execute(select(table).where(table.c.model_id == model.id)):
            variant = Variant(**row_dict(row))
            own = variant.adapter_path is None
            uses += _variant_uses(store, connection, variant) if own else [f"the variant {variant.name!r}"]
        for run in _runs(store):
            adding = run.kind == "add_model" and run.state.active and run.spec.get("name") == model.name
            if adding or _mentions(store, run, {model.id}, {model.name}):
                uses.append(f"the run {run.name!r}")
        _refuse(uses, f"the model {model.name!r}")
        connection.execute(delete(table).where(table.c.model_id == model.id))
        connection.execute(delete(tables.models).where(tables.models.c.id == model.id))
        others = connection.execute(select(tables.models.c.path)).scalars().all()
    if model.path and model.path not in others and _inside(store, model.path):
        shutil.rmtree(model.path, ignore_errors=True)


def delete_run(store: Store, run_id: str) -> None:
    """Delete a run with its log, checkpoints, figures, and the answers that only it asked for.

    Raises:
        NotFound: there is none.
        Conflict: it is at work, it made something that is still there, or its answers were ranked.
    """
    run = run_store.get_run(store, run_id)
    completions = tables.completions
    with store.write() as connection:
        uses = []
        state = connection.execute(select(tables.runs.c.state).where(tables.runs.c.id == run.id)).scalar_one()
        if RunState(state).active:
            uses.append("the processes that are at work on it; stop it first")
        variants = select(tables.variants.c.name).where(tables.variants.c.run_id == run.id)
        uses += [f"the variant {name!r}, which it made" for name in connection.execute(variants).scalars()]
        uses += _run_uses(store, connection, run)
        _refuse(uses, f"the run {run.name!r}")
        mine = select(completions.c.id).where(completions.c.run_id == run.id)
        connection.execute(delete(tables.scores).where(tables.scores.c.completion_id.in_(mine)))
        grown = select(tables.candidates.c.id).where(tables.candidates.c.run_id == run.id)
        reviews, undos = tables.candidate_reviews, tables.candidate_review_undos
        said = select(reviews.c.id).where(reviews.c.candidate_id.in_(grown))
        connection.execute(delete(undos).where(undos.c.review_id.in_(said)))
        connection.execute(delete(reviews).where(reviews.c.candidate_id.in_(grown)))
        connection.execute(delete(tables.candidates).where(tables.candidates.c.run_id == run.id))
        connection.execute(delete(tables.generator_replies).where(tables.generator_replies.c.run_id == run.id))
        for table in (completions, tables.metrics, tables.samples, tables.attempts):
            connection.execute(delete(table).where(table.c.run_id == run.id))
        connection.execute(delete(tables.runs).where(tables.runs.c.id == run.id))
    shutil.rmtree(store.settings.run_dir(run.id), ignore_errors=True)


def delete_server(store: Store, name_or_id: str) -> str:
    """Delete a remote server's entry; forgetting its key is left to `workbench.generation.servers`.

    Returns:
        The server's id.

    Raises:
        NotFound: there is none.
        Conflict: there are variants on it.
    """
    server = model_store.get_server(store, name_or_id)
    with store.write() as connection:
        variants = select(tables.variants.c.name).where(tables.variants.c.server_id == server.id)
        uses = [f"the variant {name!r}" for name in connection.execute(variants).scalars()]
        _refuse(uses, f"the server {server.name!r}", remedy="Delete these variants first.")
        connection.execute(delete(tables.servers).where(tables.servers.c.id == server.id))
    return server.id


def manifest_files(manifest: Any) -> list[str]:
    """Names of the files that a version's manifest is made of."""
    files = [str(segment["file"]) for segment in manifest.get("segments", ())]
    return [*files, str(manifest["patch"])] if manifest.get("patch") else files


def _names(name: str, versions: Sequence[Any]) -> set[str]:
    return {name, *(f"{name}@{version.number}" for version in versions)}


def _variant_uses(store: Store, connection: Connection, variant: Variant) -> list[str]:
    """What refers to a variant: answers, runs but the one that made it, queues and conversations."""
    completions, conversations, uses = tables.completions, tables.conversations, []
    answers = _count(connection, completions, completions.c.variant_id == variant.id)
    if answers:
        uses.append(f"{answers} answer{'s' * (answers != 1)} it gave")
    for run in _runs(store):
        if run.id != variant.run_id and _mentions(store, run, {variant.id}, {variant.name}):
            uses.append(f"the run {run.name!r}")
    for queue_name, source in connection.execute(select(tables.rank_queues.c.name, tables.rank_queues.c.source)):
        if variant.id in set(ids_in(source)):
            uses.append(f"the ranking queue {queue_name!r}")
    for title, panes in connection.execute(select(conversations.c.title, conversations.c.variants)):
        if variant.id in panes:
            uses.append(f"the conversation {title!r}")
    return uses


def _version_uses(store: Store, connection: Connection, ids: set[str], *, names: set[str], inside: str) -> list[str]:
    """What refers to some versions: runs, queues, and other datasets' versions that were made from them."""
    uses = []
    for run in _runs(store):
        if _mentions(store, run, ids, names):
            uses.append(f"the run {run.name!r}")
    for queue_name, source in connection.execute(select(tables.rank_queues.c.name, tables.rank_queues.c.source)):
        if ids & set(ids_in(source)):
            uses.append(f"the ranking queue {queue_name!r}")
    table, owner = tables.versions, tables.datasets
    query = select(owner.c.name, table.c.number, table.c.dataset_id, table.c.id, table.c.provenance).join(
        owner, owner.c.id == table.c.dataset_id
    )
    for name, number, dataset_id, version_id, provenance in connection.execute(query):
        # A later version of the same dataset is told by its parent.
        if dataset_id != inside and version_id not in ids and ids & set(ids_in(provenance)):
            uses.append(f"{name}@{number}, which was made from it")
    return uses


def _run_uses(store: Store, connection: Connection, run: Run) -> list[str]:
    completions, items, uses = tables.completions, tables.rank_items, []
    table, owner = tables.versions, tables.datasets
    query = select(owner.c.name, table.c.number, table.c.provenance).join(owner, owner.c.id == table.c.dataset_id)
    for name, number, provenance in connection.execute(query):
        if run.id in set(ids_in(provenance)):
            uses.append(f"{name}@{number}, which it made")
    for queue_name, source in connection.execute(select(tables.rank_queues.c.name, tables.rank_queues.c.source)):
        if run.id in set(ids_in(source)):
            uses.append(f"the ranking queue {queue_name!r}")
    mine = set(connection.execute(select(completions.c.id).where(completions.c.run_id == run.id)).scalars())
    if mine:
        ranked = sum(bool(mine & set(ids)) for ids in connection.execute(select(items.c.completions)).scalars())
        if ranked:
            uses.append(f"{ranked} ranking item{'s' * (ranked != 1)} with its answers")
    for other in _runs(store):
        if other.kind != "score" and other.result.get("reward_run_id") == run.id:
            uses.append(f"the run {other.name!r}, which learned from its reward")
        # A tour that has ended tells what it did; that does not keep its parts.
        # One that waits names a reward model as it was typed, by its id or its name.
        meant = {*ids_in(other.result), *ids_in(other.spec)} & {run.id, *((run.name,) if run.kind == "reward" else ())}
        if other.id != run.id and other.state.active and meant:
            uses.append(f"the run {other.name!r}, which is at work with it")
    return uses


def _runs(store: Store) -> list[Run]:
    # Read beside the writing transaction, which keeps everybody else from changing them.
    return run_store.list_runs(store, archived=True, limit=ALL_RUNS)


def _mentions(store: Store, run: Run, ids: set[str], names: set[str]) -> bool:
    """Whether a run was made with one of these; by name only while it has not pinned what the name means."""
    if run.kind in OUTSIDE and not run.state.active:
        return False
    inputs = read_inputs(store, run.id)
    keys = (
        "version_id",
        "answers",
        "model_id",
        "demonstrations_version_id",
        *(("variant_id",) if run.kind == "export" else ()),
        *(("variant", "reference", "version") if run.kind == "kl" else ()),
    )
    pinned: list[Any] = [run.result.get(key) for key in keys]
    grown = run.result.get("self_instruct")
    if isinstance(grown, dict):
        pinned += [grown.get("seeds_version_id"), grown.get("variant_id")]
    if ids & set(ids_in([run.spec, inputs, pinned])):
        return True
    settled = bool(inputs) or bool({"answers", "self_instruct"} & run.result.keys()) or run.state is RunState.FINISHED
    return not settled and bool(names & set(ids_in(run.spec)))


def _count(connection: Connection, table: Any, where: Any) -> int:
    return int(connection.execute(select(func.count()).select_from(table).where(where)).scalar_one())


def _inside(store: Store, path: str) -> bool:
    home = store.settings.home
    resolved = Path(path).resolve()
    return resolved != home and home in resolved.parents


def _refuse(uses: Sequence[str], what: str, *, remedy: str = "Delete these first, or archive it instead.") -> None:
    if not uses:
        return
    named = list(dict.fromkeys(uses))
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    raise Conflict(f"{what} is in use by {', '.join(named[:SHOWN])}{more}", remedy=remedy)
