"""Base models, remote servers and variants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Table, insert, select, update
from sqlalchemy.exc import IntegrityError

from workbench.errors import Conflict, NotFound
from workbench.records import Model, ModelSource, Server, Variant, new_id, utc_now
from workbench.store import tables
from workbench.store.database import Store, row_dict
from workbench.store.datasets import LONGEST_NAME, check_name, clean_tags, tidy_name


def _insert(store: Store, table: Table, values: dict[str, Any], noun: str) -> None:
    try:
        with store.write() as connection:
            connection.execute(insert(table).values(values))
    except IntegrityError as error:
        if "foreign key" in str(error.orig).lower():
            raise NotFound(f"what this {noun} was made of is gone", value=values.get("name")) from error
        raise Conflict(f"a {noun} of this name exists", place="name", value=values.get("name")) from error


def _find(store: Store, table: Table, name_or_id: str, noun: str, remedy: str) -> dict[str, Any]:
    query = select(table).where((table.c.id == name_or_id) | (table.c.name == name_or_id))
    with store.read() as connection:
        # An id means its own thing, whatever names people give to others.
        row = connection.execute(query.order_by(table.c.id != name_or_id)).first()
    if row is None:
        raise NotFound(f"no such {noun}", value=name_or_id, remedy=remedy)
    return row_dict(row)


def _update(store: Store, table: Table, key: str, noun: str, changes: dict[str, Any]) -> None:
    if "name" in changes:
        changes["name"] = check_name(changes["name"], noun)
    if "tags" in changes:
        changes["tags"] = clean_tags(changes["tags"])
    try:
        with store.write() as connection:
            connection.execute(update(table).where(table.c.id == key).values(**changes))
    except IntegrityError as error:
        raise Conflict(f"a {noun} of this name exists", place="name", value=changes.get("name")) from error


def _model(store: Store, values: dict[str, Any]) -> Model:
    here = store.settings.models_dir / values["id"]
    return Model(**{**values, "path": _after_move(values["path"], here)})


def _variant(store: Store, values: dict[str, Any]) -> Variant:
    made_here = store.settings.run_dir(values["run_id"]) / "adapter" if values["run_id"] else None
    here = made_here or store.settings.models_dir / values["id"]
    return Variant(**{**values, "adapter_path": _after_move(values["adapter_path"], here)})


def _after_move(path: str | None, here: Path) -> str | None:
    """Where a folder lies: where it was put, or at its place in this home, should the home have been moved since."""
    return str(here) if path and not Path(path).exists() and here.exists() else path


def add_model(store: Store, name: str, source: ModelSource, reference: str, *, model_id: str | None = None) -> Model:
    """Enter a base model whose files are still to be fetched or converted.

    Raises:
        Conflict: the name is taken.
    """
    model = Model(
        id=model_id or new_id("mdl"),
        name=check_name(name, "model"),
        source=source,
        reference=reference,
        path=None,
        created_at=utc_now(),
    )
    _insert(store, tables.models, model.model_dump(), "model")
    return model


def get_model(store: Store, name_or_id: str) -> Model:
    """The base model of this id or name.

    Raises:
        NotFound: there is none.
    """
    found = _find(store, tables.models, name_or_id, "model", "`workbench models list` shows what there is.")
    return _model(store, found)


def list_models(store: Store, *, archived: bool = False) -> list[Model]:
    """Base models, oldest first."""
    table = tables.models
    query = select(table).order_by(table.c.created_at)
    if not archived:
        query = query.where(table.c.archived_at.is_(None))
    with store.read() as connection:
        return [_model(store, row_dict(row)) for row in connection.execute(query)]


def update_model(store: Store, model_id: str, **changes: Any) -> Model:
    """Change name, path, base_digest, info or archived_at."""
    _update(store, tables.models, model_id, "model", changes)
    return get_model(store, model_id)


def add_server(store: Store, name: str, base_url: str, capabilities: dict[str, Any]) -> Server:
    """Enter a remote server.

    Raises:
        Conflict: the name is taken.
    """
    server = Server(
        id=new_id("srv"),
        name=check_name(name, "server"),
        base_url=base_url,
        capabilities=capabilities,
        created_at=utc_now(),
    )
    _insert(store, tables.servers, server.model_dump(), "server")
    return server


def get_server(store: Store, name_or_id: str) -> Server:
    """The remote server of this id or name.

    Raises:
        NotFound: there is none.
    """
    return Server(**_find(store, tables.servers, name_or_id, "server", "The Models page shows what there is."))


def list_servers(store: Store) -> list[Server]:
    """Remote servers, oldest first."""
    with store.read() as connection:
        rows = connection.execute(select(tables.servers).order_by(tables.servers.c.created_at))
        return [Server(**row_dict(row)) for row in rows]


def update_server(store: Store, server_id: str, **changes: Any) -> Server:
    """Change name, base_url or capabilities."""
    _update(store, tables.servers, server_id, "server", changes)
    return get_server(store, server_id)


def add_variant(
    store: Store,
    name: str,
    *,
    model_id: str | None = None,
    adapter_path: str | None = None,
    adapter_digest: str | None = None,
    run_id: str | None = None,
    server_id: str | None = None,
    remote_model: str | None = None,
    tags: Sequence[str] = (),
    variant_id: str | None = None,
) -> Variant:
    """Enter something that can answer.

    Raises:
        Conflict: the name is taken.
    """
    variant = Variant(
        id=variant_id or new_id("var"),
        name=check_name(name, "variant"),
        model_id=model_id,
        adapter_path=adapter_path,
        adapter_digest=adapter_digest,
        run_id=run_id,
        server_id=server_id,
        remote_model=remote_model,
        tags=tuple(clean_tags(tags)),
        created_at=utc_now(),
    )
    _insert(store, tables.variants, variant.model_dump(), "variant")
    return variant


def get_variant(store: Store, name_or_id: str) -> Variant:
    """The variant of this id or name.

    Raises:
        NotFound: there is none.
    """
    found = _find(store, tables.variants, name_or_id, "variant", "`workbench models variants` shows what there is.")
    return _variant(store, found)


def list_variants(
    store: Store, *, model_id: str | None = None, run_id: str | None = None, archived: bool = False
) -> list[Variant]:
    """Variants, oldest first."""
    table = tables.variants
    query = select(table).order_by(table.c.created_at)
    if model_id:
        query = query.where(table.c.model_id == model_id)
    if run_id:
        query = query.where(table.c.run_id == run_id)
    if not archived:
        query = query.where(table.c.archived_at.is_(None))
    with store.read() as connection:
        return [_variant(store, row_dict(row)) for row in connection.execute(query)]


def update_variant(store: Store, variant_id: str, **changes: Any) -> Variant:
    """Change name, tags, notes, adapter_digest or archived_at."""
    _update(store, tables.variants, variant_id, "variant", changes)
    return get_variant(store, variant_id)


def unused_name(names: set[str], wanted: str) -> str:
    """`wanted`, or `wanted 2`, `wanted 3`, … when it is taken; always one that `check_name` takes."""
    wanted = tidy_name(wanted)[:LONGEST_NAME].rstrip() or "Unnamed"
    number, name = 1, wanted
    while name in names:
        number += 1
        ending = f" {number}"
        name = wanted[: LONGEST_NAME - len(ending)].rstrip() + ending
    return name
