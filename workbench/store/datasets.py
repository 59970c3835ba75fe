"""Datasets and their versions. The rows themselves are Parquet files, which `workbench.datasets.versions` writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from unicodedata import category

from sqlalchemy import delete, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from workbench.errors import Conflict, NotFound, StoreProblem, UsageError
from workbench.records import Dataset, DatasetKind, Version, new_id, utc_now
from workbench.store import tables
from workbench.store.database import Store, row_dict

LONGEST_NAME = 200
HELD_OUT_END = " (held out)"
"""End of the name of the dataset that was kept aside to measure on when another was made."""
_TURNS_TEXT = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of the text after them, also of what follows the name."""


def tidy_name(name: str) -> str:
    """A name on one line, without characters that cannot be stored or disturb what is beside; empty if none shows."""
    name = " ".join(name.split())
    name = "".join(c for c in name if category(c) not in ("Cc", "Cs") and c not in _TURNS_TEXT).strip()
    return name if any(c.isprintable() and not c.isspace() for c in name) else ""


def check_name(name: str, noun: str) -> str:
    """A person's name for a thing, tidied.

    Raises:
        UsageError: it is empty, shows nothing, or is longer than 200 characters.
    """
    name = tidy_name(name)
    if not name:
        raise UsageError(f"a {noun} needs a name", place="name", remedy="Give it one.")
    if len(name) > LONGEST_NAME:
        remedy = f"Keep it to {LONGEST_NAME} characters."
        raise UsageError(f"the {noun}'s name is too long", place="name", value=name, remedy=remedy)
    return name


def clean_tags(tags: Sequence[str]) -> list[str]:
    """A person's labels for a thing: trimmed, each once, none empty."""
    return list(dict.fromkeys(tag for tag in map(tidy_name, tags) if tag))


def create_dataset(
    store: Store, name: str, kind: DatasetKind, *, description: str = "", tags: Sequence[str] = ()
) -> Dataset:
    """Add an empty dataset.

    Raises:
        Conflict: the name is taken.
    """
    dataset = Dataset(
        id=new_id("ds"),
        name=check_name(name, "dataset"),
        kind=kind,
        description=description,
        tags=tuple(clean_tags(tags)),
        created_at=utc_now(),
    )
    try:
        with store.write() as connection:
            connection.execute(insert(tables.datasets).values(dataset.model_dump()))
    except IntegrityError as error:
        raise Conflict(
            "a dataset of this name exists",
            place="name",
            value=dataset.name,
            remedy="Choose another, or add a version.",
        ) from error
    return dataset


@contextmanager
def withdrawn_on_failure(store: Store, dataset_id: str) -> Iterator[None]:
    """Take a dataset that was made for the body out again, should the body fail before it has a version."""
    try:
        yield
    except BaseException:
        table, versions = tables.datasets, tables.versions
        empty = ~exists().where(versions.c.dataset_id == table.c.id)
        with suppress(StoreProblem), store.write() as connection:
            connection.execute(delete(table).where(table.c.id == dataset_id, empty))
        raise


def get_dataset(store: Store, name_or_id: str) -> Dataset:
    """The dataset of this id or name.

    Raises:
        NotFound: there is none.
    """
    table = tables.datasets
    query = select(table).where((table.c.id == name_or_id) | (table.c.name == name_or_id))
    with store.read() as connection:
        # An id means its own thing, whatever names people give to others.
        row = connection.execute(query.order_by(table.c.id != name_or_id)).first()
    if row is None:
        raise NotFound("no such dataset", value=name_or_id, remedy="`workbench data list` shows what there is.")
    return Dataset(**row_dict(row))


def list_datasets(store: Store, *, kind: DatasetKind | None = None, archived: bool = False) -> list[Dataset]:
    """Datasets, newest first."""
    table = tables.datasets
    query = select(table).order_by(table.c.created_at.desc())
    if kind:
        query = query.where(table.c.kind == kind)
    if not archived:
        query = query.where(table.c.archived_at.is_(None))
    with store.read() as connection:
        return [Dataset(**row_dict(row)) for row in connection.execute(query)]


def update_dataset(store: Store, dataset_id: str, **changes: Any) -> Dataset:
    """Change name, description, tags or archived_at.

    Raises:
        Conflict: the new name is taken.
        NotFound: no such dataset.
    """
    if "name" in changes:
        changes["name"] = check_name(changes["name"], "dataset")
    if "tags" in changes:
        changes["tags"] = clean_tags(changes["tags"])
    try:
        with store.write() as connection:
            connection.execute(update(tables.datasets).where(tables.datasets.c.id == dataset_id).values(**changes))
    except IntegrityError as error:
        raise Conflict("a dataset of this name exists", place="name", value=changes.get("name")) from error
    return get_dataset(store, dataset_id)


def add_version(
    store: Store,
    dataset_id: str,
    *,
    content_hash: str,
    rows: int,
    manifest: dict[str, Any],
    parent_id: str | None,
    message: str = "",
    provenance: dict[str, Any] | None = None,
    version_id: str | None = None,
) -> Version:
    """Append a version.

    Args:
        store: the store.
        dataset_id: the dataset.
        content_hash: digest over the ordered row hashes.
        rows: number of rows.
        manifest: which files and changes make up the version.
        parent_id: the version this one was made from; must be the latest one.
        message: what changed.
        provenance: where it came from.
        version_id: given when files already carry it.

    Raises:
        Conflict: somebody else added a version since `parent_id`.
    """
    table = tables.versions
    with store.write() as connection:
        latest = connection.execute(
            select(table.c.id, table.c.number).where(table.c.dataset_id == dataset_id).order_by(table.c.number.desc())
        ).first()
        if (latest.id if latest else None) != parent_id:
            raise Conflict(
                "the dataset got a newer version in the meantime",
                place=f"dataset {dataset_id}",
                value=latest.id if latest else None,
                remedy="Look at it and apply your change on top.",
            )
        version = Version(
            id=version_id or new_id("ver"),
            dataset_id=dataset_id,
            number=latest.number + 1 if latest else 1,
            parent_id=parent_id,
            content_hash=content_hash,
            rows=rows,
            manifest=manifest,
            message=message,
            provenance=provenance or {},
            created_at=utc_now(),
        )
        connection.execute(insert(table).values(version.model_dump()))
    return version


def get_version(store: Store, version_id: str) -> Version:
    """The version of this id.

    Raises:
        NotFound: there is none.
    """
    with store.read() as connection:
        row = connection.execute(select(tables.versions).where(tables.versions.c.id == version_id)).first()
    if row is None:
        raise NotFound("no such version", value=version_id)
    return Version(**row._mapping)


def list_versions(store: Store, dataset_id: str) -> list[Version]:
    """Versions of a dataset, newest first."""
    table = tables.versions
    query = select(table).where(table.c.dataset_id == dataset_id).order_by(table.c.number.desc())
    with store.read() as connection:
        return [Version(**row._mapping) for row in connection.execute(query)]


def latest_version(store: Store, dataset_id: str) -> Version | None:
    """The newest version, None while an import is still under way."""
    table = tables.versions
    query = select(table).where(table.c.dataset_id == dataset_id).order_by(table.c.number.desc()).limit(1)
    with store.read() as connection:
        row = connection.execute(query).first()
    return None if row is None else Version(**row._mapping)


def find_version(store: Store, reference: str) -> tuple[Dataset, Version]:
    """Resolve `name`, `name@3`, a dataset id or a version id to a dataset and one of its versions.

    Raises:
        NotFound: nothing fits.
    """
    if reference.startswith("ver_"):
        version = get_version(store, reference)
        return get_dataset(store, version.dataset_id), version
    number = None
    try:
        dataset = get_dataset(store, reference)  # a name may itself end in @3
    except NotFound:
        head, _, tail = reference.rpartition("@")
        if not head or not tail.isdecimal() or len(tail) > 9:
            raise
        dataset, number = get_dataset(store, head), int(tail)
    versions = list_versions(store, dataset.id)
    for version in versions:
        if number is None or version.number == number:
            return dataset, version
    if not versions:
        raise NotFound(
            "the dataset has no rows yet",
            place=dataset.name,
            remedy="Its import is under way or did not finish; import a file under its name.",
        )
    raise NotFound(
        "the dataset has no such version",
        place=dataset.name,
        value=number,
        remedy=f"`workbench data show {dataset.name!r}` lists its versions.",
    )


def version_counts(store: Store) -> dict[str, tuple[int, int]]:
    """For each dataset id: number of versions and rows of the newest one."""
    table = tables.versions
    last = select(table.c.dataset_id, func.max(table.c.number).label("number")).group_by(table.c.dataset_id).subquery()
    query = select(table.c.dataset_id, table.c.number, table.c.rows).join(
        last, (table.c.dataset_id == last.c.dataset_id) & (table.c.number == last.c.number)
    )
    with store.read() as connection:
        return {row.dataset_id: (row.number, row.rows) for row in connection.execute(query)}
