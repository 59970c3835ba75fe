"""The Export and Lineage pages, and the buttons that delete and purge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from page_helpers import add_sft, finish_with_variant, labels, open_page, press, words
from streamlit.testing.v1 import AppTest

from workbench.api import Workspace
from workbench.datasets.versions import write_version
from workbench.records import Completion, Example, Message, RunState, Sampling, new_id, utc_now
from workbench.runs.kinds import get_kind
from workbench.store import answers as answer_store
from workbench.store import datasets as dataset_store
from workbench.store import rankings as ranking_store
from workbench.store import runs as run_store
from workbench.ui import lineage_page, links
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


def chosen(app: AppTest) -> list[str]:
    """What the box under the kinds offers."""
    return list(app.selectbox[0].options)


def test_lineage_offers_everything_that_was_made_by_kind(ws: Workspace, tmp_path: Path) -> None:
    assert "Nothing was made yet" in words(open_page(links.LINEAGE))
    train, _ = ws.install_kit("assistant")
    run, _, tuned = finish_with_variant(ws.store, "Kind one")
    add_sft(ws.store, "Broke off", RunState.FAILED)
    asked = (Message(role="user", content="Why?"),)
    answers = [
        Completion(
            id=new_id("cmp"), variant_id=tuned, prompt=asked, text=text, sampling=Sampling(), created_at=utc_now()
        )
        for text in ("So.", "Thus.")
    ]
    answer_store.add_completions(ws.store, answers)
    item = ranking_store.NewItem(prompt=asked, completions=tuple(each.id for each in answers))
    queue = ranking_store.create_queue(ws.store, "Which is kinder?", [item])
    app = open_page(links.LINEAGE)
    offered = {
        "Variants": "Kind one",
        "Runs": f"{run.name}, Supervised fine-tune",
        "Versions": f"{ws.dataset(train.dataset_id).name}@1",
        "Rankings": "Which is kinder?",
        "Base models": ws.models()[0].name,
    }
    assert list(app.segmented_control[0].options) == [  # nothing of a kind that is not there
        f"{name} ({len(chosen_of(app, name))})" for name in offered
    ]
    for name, label in offered.items():
        assert any(label in each for each in chosen_of(app, name)), name
        assert not app.exception and app.dataframe, name
    assert not any("Broke off" in each for each in chosen_of(app, "Runs"))

    app = open_page(links.LINEAGE, of=queue.id)
    assert app.selectbox[0].value == queue.id
    shown = app.dataframe[0].value
    row = shown["name"].tolist().index("Which is kinder?")
    assert shown["open"].tolist()[row] == "Open"
    node = ws.lineage(queue.id).node(queue.id)
    assert lineage_page._address(node) == (links.LEADERBOARD, {"queue": queue.id})


def chosen_of(app: AppTest, name: str) -> list[str]:
    app.segmented_control[0].set_value(name).run()
    return chosen(app)


def test_lineage_of_an_older_version_is_shown_though_only_the_newest_is_offered(ws: Workspace) -> None:
    dataset = ws.new_dataset("Two of them")
    told = [Example(messages=(Message(role="user", content="Why?"), Message(role="assistant", content=text)))
            for text in ("So.", "Thus.")]  # fmt: skip
    old = write_version(ws.store, dataset.id, told[:1])
    new = write_version(ws.store, dataset.id, told, parent=old)
    app = open_page(links.LINEAGE)
    assert chosen_of(app, "Versions") == ["Two of them@2"] and app.selectbox[0].value == new.id
    app = open_page(links.LINEAGE, of=old.id)
    assert chosen(app) == ["Two of them@1", "Two of them@2"] and app.selectbox[0].value == old.id


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
