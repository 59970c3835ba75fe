"""Open the store: one SQLAlchemy engine, migrations applied, writing transactions that cannot deadlock.

SQLite runs in WAL mode and every writing transaction opens with BEGIN IMMEDIATE: a transaction that first reads and
then writes fails at once with "database is locked" whatever the busy timeout, so writers take the lock first and wait
for it. PostgreSQL is used as it is.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from workbench.errors import StoreProblem, UsageError
from workbench.settings import Settings, get_settings

NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs", "ncpfs", "lustre"}
BUSY_TIMEOUT_S = 30.0


class Store:
    """A connection pool to the workbench's database.

    Args:
        settings: where the database is.

    Raises:
        StoreProblem: the database cannot be opened or lies on a network file system.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.prepare()
        try:
            url = make_url(settings.database_url)
        except ArgumentError as error:
            remedy = "Write it as postgresql+psycopg://user:password@host/name, or unset it."
            raise StoreProblem("this is no address of a database", place="WORKBENCH_DB", remedy=remedy) from error
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite and url.database:
            refuse_network_file_system(Path(url.database).resolve().parent)
        self.engine: Engine = _make_engine(settings.database_url, self.is_sqlite)
        from workbench.store.migrate import upgrade

        try:
            upgrade(self)
        except (OperationalError, sqlite3.DatabaseError, DBAPIError, UnicodeDecodeError) as error:
            raise _translate(error, settings) from error

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading; sees one consistent state."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except UnicodeEncodeError as error:
            raise _half_a_character(error) from error
        except (DBAPIError, UnicodeDecodeError) as error:
            raise _translate(error, self.settings) from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A writing transaction: the lock is taken at the start, committed at the end, rolled back on an error."""
        try:
            with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
                yield connection
        except IntegrityError:
            raise  # a name that is taken, or the like: the caller knows the words
        except UnicodeEncodeError as error:
            raise _half_a_character(error) from error
        except (DBAPIError, UnicodeDecodeError) as error:
            raise _translate(error, self.settings) from error

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def open_store(settings: Settings | None = None) -> Store:
    """Open the store of these settings (default: of the environment) and bring its schema up to date."""
    return Store(settings or get_settings())


_as_json = json.JSONEncoder(ensure_ascii=False).encode
"""Letters as they are, so that tags and texts in JSON columns can be searched for."""


def _make_engine(url: str, is_sqlite: bool) -> Engine:
    if not is_sqlite:
        try:
            return create_engine(url, pool_pre_ping=True, json_serializer=_as_json)
        except ModuleNotFoundError as error:
            raise StoreProblem(
                f"the database driver is missing: {error.name}",
                place=make_url(url).render_as_string(hide_password=True),
                remedy="Install it into .venv; for PostgreSQL: pip install 'psycopg[binary]'.",
            ) from error
    wait = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    engine = create_engine(url, connect_args=wait, json_serializer=_as_json)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # BEGIN is ours, below
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _half_a_character(error: UnicodeEncodeError) -> UsageError:
    # Such text comes from bytes on a command line that are not UTF-8, or from broken JSON.
    return UsageError(
        "the text holds half of a character, which cannot be stored",
        value=error.object[max(0, error.start - 20) : error.end + 20],
        remedy="Write it anew, in UTF-8.",
    )


def _translate(error: Exception, settings: Settings) -> StoreProblem:
    text = str(getattr(error, "orig", None) or error)
    place = settings.database_url if settings.db is None else make_url(settings.db).render_as_string(True)
    if "locked" in text or "busy" in text:
        return StoreProblem(
            "the database stayed busy for 30 seconds",
            place=place,
            remedy="Another program holds it; close it and try again.",
        )
    if "disk is full" in text or "No space left" in text:
        return StoreProblem("the disk is full", place=place, remedy="Free some space and try again; nothing was lost.")
    if "disk I/O error" in text:
        remedy = "It is probably full: free some space and try again."
        return StoreProblem("the disk refused to read or write", place=place, remedy=remedy)
    if isinstance(error, UnicodeDecodeError) or "not a database" in text or "malformed" in text:
        return StoreProblem(
            "the file is not a usable database",
            place=place,
            remedy="Restore a copy, or move the file away to start anew.",
        )
    if "unable to open" in text or "readonly" in text:
        return StoreProblem(
            "the database cannot be opened for writing", place=place, remedy="Check the folder's permissions."
        )
    return StoreProblem(f"the database refused: {text}", place=place)


def refuse_network_file_system(folder: Path, mounts: str | None = None) -> None:
    """Refuse to put SQLite on a network file system, where its locks do not hold.

    Args:
        folder: where the database file lies or will lie.
        mounts: text in the form of /proc/self/mounts; read from there when None.

    Raises:
        StoreProblem: the folder is on such a file system.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text()
        except OSError:
            return
    best: tuple[int, str] = (-1, "")
    for line in mounts.splitlines():
        parts = line.split()
        if len(parts) < 3:
            continue
        point = parts[1].replace("\\040", " ")
        if folder == Path(point) or Path(point) in folder.parents:
            best = max(best, (len(point), parts[2]))
    if best[1] in NETWORK_FILE_SYSTEMS:
        raise StoreProblem(
            "SQLite is not safe on a network file system",
            place=str(folder),
            value=best[1],
            remedy="Set WORKBENCH_HOME to a local disk, or WORKBENCH_DB=postgresql+psycopg://… .",
        )


def row_dict(row: Any) -> dict[str, Any]:
    """A result row as a plain dict, lists turned to tuples where records want them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row._mapping.items()}
