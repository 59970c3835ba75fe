"""The notebook on growing a dataset runs from top to bottom, with a scripted generator and with a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.notebooks.test_notebooks import ACTIVE, execute, load, texts
from tests.self_instruct.scripted_generator import ScriptedGenerator
from workbench.api import Workspace

NAME = "grow_a_dataset"


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    for name, value in {
        "WORKBENCH_HOME": str(tmp_path / "home"),
        "WORKBENCH_THREADS": "1",
        "WORKBENCH_NOTEBOOK_TARGET": "8",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTER_PLATFORM_DIRS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WORKBENCH_DB", raising=False)
    workspace = Workspace(tmp_path / "home")
    yield workspace
    for run in workspace.runs(states=ACTIVE):
        workspace.stop(run.id)
        workspace.wait(run.id, timeout_s=60)
    workspace.store.close()


def test_the_notebook_stores_no_outputs_and_says_what_can_be_set():
    cells = [cell for cell in load(NAME).cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert [cell.metadata.get("tags") for cell in cells].count(["parameters"]) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_dataset_grows_from_seeds_to_a_version(ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORKBENCH_NOTEBOOK_GENERATOR", "writer")
    monkeypatch.setenv("WORKBENCH_NOTEBOOK_REQUESTS", "200")
    with ScriptedGenerator() as generator:
        generator.variant(ws.store)
        told = texts(execute(NAME, tmp_path / "work"))
    assert "read from replies" in told and "too_short" in told and "What the tasks ask for" in told
    assert "0.5: " in told and "accept" in told
    (version,) = ws.versions("Grown by writer")
    assert f"{version.rows} rows of" in told and "(seeds of)" in told and "(made into)" in told
    reviews = version.provenance["self_instruct"]
    assert isinstance(reviews, dict) and reviews["reviewers"] == ["notebook"]
    assert any("Answer briefly." in row.payload.messages[0].content for row in ws.rows(version.id, limit=500).rows)
    assert not any((tmp_path / "work").iterdir()), "a notebook leaves nothing beside itself"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_generator_that_yields_nothing_is_told_so_to_the_end(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORKBENCH_NOTEBOOK_MODEL", "tiny")
    monkeypatch.setenv("WORKBENCH_NOTEBOOK_REQUESTS", "2")
    tiny.register_model(ws.store, tiny.make_model(tmp_path / "tiny", context=4096))
    told = texts(execute(NAME, tmp_path / "work"))
    assert "0 tasks kept of" in told and "Nothing was accepted" in told
    assert [run.name for run in ws.runs(states=["failed", "interrupted"])] == []
