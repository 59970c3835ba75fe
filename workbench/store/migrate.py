"""Bring the schema up to date with Alembic. Migrations only append; the oldest schema must still upgrade (tested)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect

from workbench.errors import StoreProblem

if TYPE_CHECKING:
    from workbench.store.database import Store

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0003"


def upgrade(store: Store, revision: str = "head") -> None:
    """Apply the migrations that are missing; does nothing when the schema is current.

    Args:
        store: an opened store.
        revision: how far; "head" is all.
    """
    if revision == "head" and current_revision(store) == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with store.write() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, revision)
        except CommandError as error:
            raise StoreProblem(
                "the database was written by a newer workbench",
                value=current_revision(store),
                remedy="Update the workbench, or set WORKBENCH_HOME to another folder.",
            ) from error


def current_revision(store: Store) -> str | None:
    """The revision the database is at, None for a new one."""
    with store.read() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
