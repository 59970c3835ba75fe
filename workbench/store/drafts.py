"""Drafts: what a person has typed but not saved, so that a refresh loses nothing."""

from __future__ import annotations

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
