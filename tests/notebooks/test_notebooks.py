"""The notebooks run from top to bottom, in a home of their own, on a model made in code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests import tiny
from tests.notebooks.shown_html import read
from workbench.api import Workspace
from workbench.records import RunState

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = ("first_fine_tune", "rank_and_export", "instructgpt_in_three_steps")
ACTIVE = [RunState.QUEUED, RunState.STARTING, RunState.RUNNING]


def load(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A home with a tiny model; the notebooks run in it, one after the other."""
    folder = tmp_path_factory.mktemp("notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(folder / "home"))
        patch.delenv("WORKBENCH_DB", raising=False)
        patch.setenv("WORKBENCH_THREADS", "1")
        patch.setenv("WORKBENCH_NOTEBOOK_MODEL", "tiny")
        patch.setenv("WORKBENCH_NOTEBOOK_TOKENS", "1500")
        patch.setenv("WORKBENCH_NOTEBOOK_PROMPTS", "3")
        patch.setenv("WORKBENCH_NOTEBOOK_SCORER", "chrf")  # a model made in code keeps no rule of the kit
        patch.setenv("WORKBENCH_NOTEBOOK_RANKED", "6")
        patch.setenv("WORKBENCH_NOTEBOOK_STEPS", "2")
        patch.setenv("WORKBENCH_NOTEBOOK_ANSWER_TOKENS", "24")
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        workspace = Workspace(folder / "home")
        tiny.register_model(workspace.store, tiny.make_model(folder / "tiny"))
        yield workspace
        for run in workspace.runs(states=ACTIVE):
            workspace.stop(run.id)
            workspace.wait(run.id, timeout_s=60)


def execute(name: str, folder: Path) -> list[Any]:
    notebook = load(name)
    folder.mkdir(exist_ok=True)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cells: list[Any]) -> str:
    """All that was shown; each HTML is checked to be whole and to load nothing."""
    found = []
    for cell in cells:
        for output in cell.outputs:
            data = output.get("data", {})
            found += [output.get("text", ""), data.get("text/plain", ""), read(data.get("text/html", ""))]
    return "\n".join(found)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_stores_no_outputs_and_says_what_can_be_set(name: str):
    cells = [cell for cell in load(name).cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert [cell.metadata.get("tags") for cell in cells].count(["parameters"]) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebooks_run_from_top_to_bottom(ws: Workspace, tmp_path: Path):
    told = texts(execute("first_fine_tune", tmp_path / "first"))
    tuned = next(variant for variant in ws.variants() if variant.adapter_path is not None)
    assert "finished" in told and "fingerprint" in told and "learned (coloured)" in told and "steps, about" in told
    assert "train, smoothed" in told or "train" in told
    assert tuned.name in told and "pass all rules" in told and "260 rows" in told
    assert not any((tmp_path / "first").iterdir()), "a notebook leaves nothing beside itself"

    told = texts(execute("rank_and_export", tmp_path / "second"))
    assert "3 of 3 prompts ranked" in told or "2 of 2 prompts ranked" in told
    assert "Leaderboard" in told and "rejected" in told and "answers given again exactly" in told
    assert tuned.adapter_digest is not None and tuned.adapter_digest in told
    assert [run.kind for run in ws.runs(states=["failed", "interrupted"])] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_three_steps_of_instructgpt_and_dpo_run_from_top_to_bottom(ws: Workspace, tmp_path: Path):
    told = texts(execute("instructgpt_in_three_steps", tmp_path / "third"))
    assert "160 demonstrations, 100 prompts to rank, 50 held-out prompts" in told
    assert "6 prompts ranked by {'scorer: chrf'}" in told, "rankings are labelled as a scorer's"
    assert "right on held-out pairs" in told and "preferring the longer answer" in told
    assert "KL from the start" in told and "n = 3)" in told and "nats an answer" in told
    assert "ranked by scorer: chrf" in told, "the lineage reaches who ranked"
    kinds = {run.kind for run in ws.runs(states=["finished"])}
    assert {"sft", "sample", "reward", "score", "rloo", "dpo", "answer", "kl"} <= kinds
    assert [run.name for run in ws.runs(states=["failed", "interrupted"])] == []
    assert {ranking.source for queue in ws.rank_queues() for ranking in ws.rankings(queue.id)} >= {"scorer"}
