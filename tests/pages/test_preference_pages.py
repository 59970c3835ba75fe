"""What the pages show of preferences before a run: both sides as tokens, and the checks of DPO and KTO."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from page_helpers import labels, open_page, words
from streamlit.testing.v1 import AppTest
from tiny import make_model, make_tokenizer

from workbench.datasets.versions import iter_rows, write_version
from workbench.models.adding import ensure_bundled
from workbench.records import Message, ModelSource, Preference
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.datasets import create_dataset
from workbench.ui import links


def preference(prompt: str, chosen: str, rejected: str) -> Preference:
    sides = [(Message(role="assistant", content=text),) for text in (chosen, rejected)]
    return Preference(prompt=(Message(role="user", content=prompt),), chosen=sides[0], rejected=sides[1])


@pytest.fixture
def ready(store: Store, tmp_path: Path) -> Store:
    model = ensure_bundled(store)
    info = {"parameters": 100_000, "layers": 2, "hidden_size": 64, "vocab_size": 400, "context_length": 512}
    model_store.update_model(store, model.id, path=str(make_model(tmp_path / "model")), info=info)
    return store


def test_both_sides_of_a_preference_stand_beside_each_other_with_their_counts(store: Store, tmp_path: Path) -> None:
    def script(better: str, worse: str) -> None:
        from workbench.records import Message, Preference
        from workbench.ui.inspector import show_inspector
        from workbench.ui.store import workspace

        sides = [(Message(role="assistant", content=text),) for text in (better, worse)]
        prompt = (Message(role="user", content="Say hi"),)
        show_inspector(workspace(), Preference(prompt=prompt, chosen=sides[0], rejected=sides[1]))

    model = model_store.add_model(store, "tiny", ModelSource.LOCAL, "x")
    model_store.update_model(store, model.id, path=str(make_tokenizer(tmp_path / "tok")))
    app = AppTest.from_function(script, args=("hello there", "no")).run()
    assert not app.exception
    assert len(app.columns) == 2
    counts = []
    for column, title in zip(app.columns, ("Chosen", "Rejected"), strict=True):
        shown = [item.value for item in column.markdown]
        assert shown[0] == f"**{title}**" and "learned" in shown[1]
        counts.append(shown[1])
    assert counts[0] != counts[1] and len(app.html) == 2 and not app.warning
    same = AppTest.from_function(script, args=("no", "no")).run()
    assert "the same to this model" in same.warning[0].value


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_the_checks_of_preferences_stop_a_launch_until_they_are_overruled(ready: Store, kind: str) -> None:
    dataset = create_dataset(ready, "Twins", "preferences")
    first = write_version(ready, dataset.id, [preference(f"Q {n}?", "yes", "yes") for n in range(6)])
    app = open_page(links.NEW_RUN, kind=kind, dataset=dataset.id)
    assert any("two sides that are the same" in error.value for error in app.error)
    launch = next(button for button in app.button if button.label == "Launch")
    assert launch.disabled
    app.toggle(key=f"new_run.{kind}.overrule_gates").set_value(True).run()
    assert not next(button for button in app.button if button.label == "Launch").disabled
    write_version(ready, dataset.id, [preference(f"Q {n}?", "yes", "no") for n in range(6)], parent=first)
    app = open_page(links.NEW_RUN, kind=kind, dataset=dataset.id)
    assert not app.error and "Nothing found" in words(app) and "Launch" in labels(app)


def test_held_out_answers_of_kto_stand_with_their_own_text_label_and_weight(store: Store) -> None:
    def script(run_id: str) -> None:
        from workbench.ui.run_details import show_held_out_rows
        from workbench.ui.store import workspace

        show_held_out_rows(workspace(), workspace().run(run_id))

    rows = [preference("Q?", "yes", "no"), preference("R?", "sure", "never")]
    version = write_version(store, create_dataset(store, "pairs", "preferences").id, rows)
    first = next(iter(iter_rows(store, version))).row_id
    run = run_store.add_run(store, kind="kto", name="kto", slot="train", spec={})
    folder = store.settings.run_dir(run.id)
    folder.mkdir(parents=True)
    (folder / "inputs.json").write_text(json.dumps({"version_id": version.id}))
    entries = [
        {"row_id": row_id, "loss": 0.9, "reward": 0.1, "good": good, "weight": weight, "tokens": 3}
        for row_id, good, weight in ((first, False, 0.5), ("", False, 1.0), (first, True, 2.0))
    ]
    (folder / "held_out_rows.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    app = AppTest.from_function(script, args=(run.id,)).run()
    assert not app.exception and "removed" not in words(app)
    table = app.dataframe[0].value
    assert list(table["answer"]) == ["no", "", "yes"] and list(table["weight"]) == [0.5, 1.0, 2.0]
    assert list(table["good"]) == [False, False, True] and list(table["prompt"]) == ["Q?", "", "Q?"]
