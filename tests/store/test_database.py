"""The store: migrations, concurrent writers, and refusals in words."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import select

from workbench.errors import Conflict, NotFound, StoreProblem, UsageError
from workbench.settings import Settings
from workbench.store import datasets as dataset_store
from workbench.store import drafts, migrate, tables
from workbench.store.database import Store, open_store, refuse_network_file_system


def test_the_migrations_build_exactly_the_tables_that_the_code_uses(store: Store):
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []


def test_the_head_named_in_the_code_is_the_newest_migration():
    assert ScriptDirectory(str(migrate.MIGRATIONS)).get_current_head() == migrate.HEAD


def test_the_oldest_schema_upgrades_and_keeps_what_it_holds(settings: Settings):
    store = Store.__new__(Store)
    store.settings, store.is_sqlite = settings.prepare(), True
    from workbench.store.database import _make_engine

    store.engine = _make_engine(settings.database_url, True)
    migrate.upgrade(store, "0001")
    dataset = dataset_store.create_dataset(store, "kept", "prompts")
    store.close()
    assert dataset_store.get_dataset(open_store(settings), "kept") == dataset


def test_opening_a_new_store_from_many_processes_at_once_works(home: Path):
    code = "from workbench.store.database import open_store; open_store()"
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


def test_transactions_that_read_and_then_write_wait_for_each_other(store: Store):
    drafts.save_draft(store, "count", 0)
    problems: list[BaseException] = []

    def add() -> None:
        try:
            for _ in range(25):
                with store.write() as connection:
                    value = connection.execute(select(tables.drafts.c.value)).scalar_one()
                    connection.execute(tables.drafts.update().values(value=value + 1))
        except BaseException as error:  # collected for the main thread
            problems.append(error)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and drafts.load_draft(store, "count") == 100


def test_a_file_that_is_no_database_is_told_in_words(settings: Settings):
    settings.prepare()
    (settings.home / "workbench.db").write_bytes(b"this is a letter, not a database" * 100)
    with pytest.raises(StoreProblem, match="not a usable database"):
        open_store(settings)


def test_a_home_that_cannot_be_made_is_told_with_the_remedy(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreProblem, match="WORKBENCH_HOME"):
        open_store(Settings(home=tmp_path / "file" / "home"))


def test_sqlite_on_a_network_file_system_is_refused():
    mounts = "/dev/sda1 / ext4 rw 0 0\nserver:/export /mnt/team\\040share nfs4 rw 0 0\n"
    refuse_network_file_system(Path("/home/me"), mounts)
    with pytest.raises(StoreProblem, match="network file system"):
        refuse_network_file_system(Path("/mnt/team share/bench"), mounts)


def test_the_database_password_never_stands_in_a_message(tmp_path: Path):
    with pytest.raises(Exception) as caught:
        open_store(Settings(home=tmp_path, db="postgresql+psycopg://me:secret@127.0.0.1:1/none"))
    assert "secret" not in str(caught.value)


def test_names_are_unique_trimmed_and_bounded(store: Store):
    assert dataset_store.create_dataset(store, "  two   words ", "prompts").name == "two words"
    with pytest.raises(Conflict, match="two words"):
        dataset_store.create_dataset(store, "two words", "prompts")
    for bad in ("", "   ", "x" * 201):
        with pytest.raises(UsageError):
            dataset_store.create_dataset(store, bad, "prompts")


def test_a_version_made_on_an_old_state_is_refused_with_what_came_in_between(store: Store):
    dataset = dataset_store.create_dataset(store, "d", "prompts")

    def add(parent: str | None) -> str:
        return dataset_store.add_version(store, dataset.id, content_hash="h", rows=1, manifest={}, parent_id=parent).id

    first = add(None)
    second = add(first)
    with pytest.raises(Conflict, match="newer version"):
        add(first)
    assert [v.id for v in dataset_store.list_versions(store, dataset.id)] == [second, first]
    assert dataset_store.find_version(store, "d")[1].id == second
    assert dataset_store.find_version(store, "d@1")[1].id == first
    with pytest.raises(NotFound, match="no such version"):
        dataset_store.find_version(store, "d@7")


def test_a_database_damaged_in_the_middle_is_told_in_words(settings: Settings):
    open_store(settings).close()
    path = settings.home / "workbench.db"
    content = bytearray(path.read_bytes())
    content[100:-100:7] = b"\xbe" * len(content[100:-100:7])
    path.write_bytes(content)
    with pytest.raises(StoreProblem, match="not a usable database"):
        open_store(settings)


def test_a_database_of_a_newer_release_is_left_alone(settings: Settings):
    open_store(settings).close()
    with sqlite3.connect(settings.home / "workbench.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreProblem, match="newer workbench.*9999"):
        open_store(settings)


def test_an_address_that_is_none_is_told_in_words(tmp_path: Path):
    with pytest.raises(StoreProblem, match="WORKBENCH_DB"):
        open_store(Settings(home=tmp_path, db="foo"))


def test_the_database_is_in_wal_mode(store: Store):
    with sqlite3.connect(store.settings.home / "workbench.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
