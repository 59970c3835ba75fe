"""New run: an older version of the dataset can be chosen, and is what the run is launched with."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_helpers import add_sft, open_page
from tiny import make_model

from workbench.api import Workspace
from workbench.datasets.versions import write_version
from workbench.models.adding import ensure_bundled
from workbench.records import Example, Message, Run, RunState
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.datasets import create_dataset
from workbench.ui import links

KEY = "new_run.sft"


def examples(count: int) -> list[Example]:
    return [
        Example(messages=(Message(role="user", content=f"Q {n}?"), Message(role="assistant", content="Yes.")))
        for n in range(count)
    ]


@pytest.fixture
def ready(store: Store, tmp_path: Path) -> Store:
    model = ensure_bundled(store)
    info = {"parameters": 100_000, "layers": 2, "hidden_size": 64, "vocab_size": 400, "context_length": 512}
    model_store.update_model(store, model.id, path=str(make_model(tmp_path / "model")), info=info)
    alone = create_dataset(store, "Alone", "instructions")
    write_version(store, alone.id, examples(5))
    mine = create_dataset(store, "Mine", "instructions")
    first = write_version(store, mine.id, examples(30), message="begun")
    write_version(store, mine.id, examples(40), parent=first)
    return store


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    calls: list[object] = []

    def launch(self: Workspace, kind: str, config: object, *, name: str | None = None) -> Run:
        calls.append(config)
        return run_store.add_run(self.store, kind=kind, name=str(name), slot="nowhere", spec={})

    monkeypatch.setattr(Workspace, "launch", launch)
    return calls


def version_box(app):
    return next((box for box in app.selectbox if box.label == "Version"), None)


def test_the_latest_is_taken_unless_an_older_one_is_chosen(ready: Store, launched: list) -> None:
    app = open_page(links.NEW_RUN, dataset="Mine")
    box = version_box(app)
    assert box.value == 0
    assert box.options == ["Latest (version 2)", "Version 2, 40 rows", "Version 1, 30 rows: begun"]
    assert "--dataset Mine " in app.code[0].value + " "
    box.set_value(1).run()
    assert not app.exception and not app.error
    assert "Mine@1" in app.code[0].value
    next(button for button in app.button if button.label == "Launch").click().run()
    assert launched[0].dataset == "Mine@1"


def test_a_dataset_of_one_version_offers_none(ready: Store) -> None:
    app = open_page(links.NEW_RUN, dataset="Alone")
    assert version_box(app) is None
    app.selectbox(key=f"{KEY}.dataset").set_value("Mine").run()
    assert version_box(app).value == 0


def test_a_refresh_and_a_clone_keep_the_version(ready: Store) -> None:
    app = open_page(links.NEW_RUN, dataset="Mine")
    version_box(app).set_value(1).run()
    fresh = open_page(links.NEW_RUN)
    assert fresh.selectbox(key=f"{KEY}.dataset").value == "Mine" and version_box(fresh).value == 1
    run = add_sft(ready, "Before", RunState.FINISHED, dataset="Mine@1", held_out=None)
    clone = open_page(links.NEW_RUN, clone=run.id)
    assert clone.selectbox(key=f"{KEY}.dataset").value == "Mine" and version_box(clone).value == 1
    again = open_page(links.NEW_RUN, dataset="Mine")
    assert version_box(again).value == 0
