"""Drafts: what a person has typed but not saved, so that a refresh loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update

from workbench.records import utc_now
from workbench.store import tables
from workbench.store.database import Store


def save_draft(store: Store, key: str, value: Any) -> None:
    """Keep a draft under a key; the newest wins."""
    table = tables.drafts
    values = {"value": value, "updated_at": utc_now()}
    with store.write() as connection:
        done = connection.execute(update(table).where(table.c.key == key).values(**values))
        if done.rowcount == 0:
            connection.execute(insert(table).values(key=key, **values))


def load_draft(store: Store, key: str) -> Any:
    """The draft under a key, None where there is none."""
    with store.read() as connection:
        return connection.execute(select(tables.drafts.c.value).where(tables.drafts.c.key == key)).scalar()


def drop_draft(store: Store, key: str) -> None:
    """Forget a draft, once it is saved for good."""
    with store.write() as connection:
        connection.execute(delete(tables.drafts).where(tables.drafts.c.key == key))


def save_drafts(store: Store, values: Mapping[str, Any]) -> None:
    """Keep many drafts at once, all or none."""
    table, now = tables.drafts, utc_now()
    with store.write() as connection:
        keys = list(values)
        for start in range(0, len(keys), 500):
            connection.execute(delete(table).where(table.c.key.in_(keys[start : start + 500])))
        if keys:
            connection.execute(insert(table), [{"key": key, "value": values[key], "updated_at": now} for key in keys])


def change_draft(store: Store, key: str, change: Callable[[Any], Any]) -> Any:
    """Change a draft in one step, so that two writers cannot lose each other's words.

    Args:
        store: the store.
        key: the draft's key.
        change: from the draft (None where there is none) to the new one; None forgets it.

    Returns:
        The new draft.
    """
    table = tables.drafts
    with store.write() as connection:
        value = change(connection.execute(select(table.c.value).where(table.c.key == key)).scalar())
        connection.execute(delete(table).where(table.c.key == key))
        if value is not None:
            connection.execute(insert(table).values(key=key, value=value, updated_at=utc_now()))
    return value


def list_drafts(store: Store, prefix: str) -> dict[str, tuple[Any, datetime]]:
    """Drafts whose key begins with this, each with when it was last changed, oldest change first."""
    table = tables.drafts
    query = (
        select(table).where(table.c.key.startswith(prefix, autoescape=True)).order_by(table.c.updated_at, table.c.key)
    )
    with store.read() as connection:
        return {row.key: (row.value, row.updated_at) for row in connection.execute(query)}


def drop_drafts(store: Store, keys: Iterable[str]) -> None:
    """Forget many drafts at once."""
    table, wanted = tables.drafts, list(keys)
    with store.write() as connection:
        for start in range(0, len(wanted), 500):
            connection.execute(delete(table).where(table.c.key.in_(wanted[start : start + 500])))
