"""The Export and Lineage pages, and the buttons that delete and purge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from page_helpers import add_sft, finish_with_variant, labels, open_page, press, words

from workbench.api import Workspace
from workbench.records import RunState
from workbench.runs.kinds import get_kind
from workbench.store import datasets as dataset_store
from workbench.store import runs as run_store
from workbench.ui import links
from workbench.ui.lineage_page import dot

# pyarrow reads time zones from pandas 3 in a way that pandas 4 will change.
pytestmark = pytest.mark.filterwarnings("ignore:Series.values returning an ndarray that drops timezone")


@pytest.fixture
def ws(home: Path) -> Iterator[Workspace]:
    workspace = Workspace()
    yield workspace
    workspace.store.close()


def test_export_says_what_is_missing_before_anything_can_be_shared(ws: Workspace) -> None:
    app = open_page(links.EXPORT)
    assert "There is nothing to share yet" in words(app)


def test_export_launches_a_run_with_what_was_chosen(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.register_model(ws.store, tiny.make_model(tmp_path / "base"))
    tuned = tiny.register_variant(ws.store, model, tiny.make_adapter(tmp_path / "base", tmp_path / "adapter"))
    monkeypatch.setattr("workbench.runs.launch.dispatch", lambda store: [])
    app = open_page(links.EXPORT)
    assert "It will hold the adapter" in words(app)
    press(app, "Export")
    run = ws.runs(kinds=["export"])[0]
    config = get_kind("export").load_config().model_validate(run.spec)
    assert (config.variant, config.form, run.state) == (tuned.id, "adapter_zip", RunState.QUEUED)  # type: ignore[attr-defined]
    app = open_page(links.EXPORT, variant=tuned.id)
    app.session_state["export.form"] = "hub"
    app.run()
    press(app, "Export")
    assert "repository is missing" in words(app) and len(ws.runs(kinds=["export"])) == 1


def test_a_finished_and_a_failed_export_tell_what_came_of_them(ws: Workspace) -> None:
    tie = {"prompt": "p", "token": 3, "margin": 1e-4}
    replay = {"prompts": 8, "exact": 7, "stored": 8, "bound": 0.001, "ties": [tie]}
    failure = {"error": "ModelProblem", "message": "it answers differently", "remedy": "Use float32."}
    result = {"path": "/x/adapter.zip", "bytes": 2_000_000, "replay": replay}
    outcomes = {
        "good": {"state": RunState.FINISHED, "result": result},
        "bad": {"state": RunState.FAILED, "failure": failure},
    }
    for name, changes in outcomes.items():
        run = run_store.add_run(ws.store, kind="export", name=name, slot="io", spec={})
        run_store.update_run(ws.store, run.id, **changes)
    app = open_page(links.EXPORT)
    shown = words(app)
    assert "7 of 8 answers equal token for token, 1 parted" in shown.replace("\\", "")
    assert "it answers differently" in shown.replace("\\", "")
    assert app.code[0].value == "/x/adapter.zip"


def test_lineage_shows_what_an_adapter_came_from_and_went_into(ws: Workspace) -> None:
    train, _ = ws.install_kit("assistant")
    run, _, tuned = finish_with_variant(ws.store, 'My "tuned" \\ one')
    run_store.update_run(ws.store, run.id, result={**run.result, "version_id": train.id})
    found = ws.lineage(tuned)
    assert found.before[-1] == run.id and train.id in found.before
    assert '\\"tuned\\" \\\\ one' in dot(found)
    app = open_page(links.LINEAGE, of=tuned)
    assert app.dataframe[0].value["place"].tolist()[-1] == "this"
    assert 'My "tuned" \\ one' in app.dataframe[0].value["name"].tolist()
    app = open_page(links.LINEAGE, of="var_gone")
    assert "Nothing in the store goes by this" in words(app)


def test_a_dataset_in_use_is_not_deleted_and_one_that_is_free_goes(ws: Workspace) -> None:
    train, held_out = ws.install_kit("assistant")
    run = add_sft(ws.store, "Uses it", RunState.FINISHED)
    run_store.update_run(ws.store, run.id, result={"version_id": train.id})
    app = open_page(links.DATASETS, dataset=train.dataset_id)
    app.session_state["dataset.tabs"] = "Details"
    app.run()
    press(app, "Delete the dataset")
    assert "is in use by the run" in words(app).replace("\\", "")
    app = open_page(links.DATASETS, dataset=held_out.dataset_id)
    app.session_state["dataset.tabs"] = "Details"
    app.run()
    press(app, "Delete the dataset")
    assert [item.id for item in dataset_store.list_datasets(ws.store)] == [train.dataset_id]


def test_a_run_is_deleted_from_its_page(ws: Workspace) -> None:
    run = add_sft(ws.store, "Away", RunState.FAILED)
    app = open_page(links.RUNS, run=run.id)
    assert "Delete the run" in labels(app)
    press(app, "Delete the run")
    assert not ws.runs() and not ws.settings.run_dir(run.id).exists()
