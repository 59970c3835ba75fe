"""New run: the form made from the config class, drafts, presets, forecast, checks, launch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from page_helpers import add_sft, labels, open_page, words
from streamlit.testing.v1 import AppTest
from tiny import make_model

from workbench.api import Workspace
from workbench.datasets.versions import write_version
from workbench.models.adding import ensure_bundled
from workbench.records import Labelled, Message, Preference, Run, RunState
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.datasets import HELD_OUT_END, create_dataset
from workbench.store.drafts import load_draft
from workbench.training.configs import PRESETS
from workbench.ui import links

KEY = "new_run.sft"


@pytest.fixture
def ready(store: Store, tmp_path: Path) -> Store:
    """A store with the starter kit, where the bundled model is a tiny one."""
    Workspace().install_kit("assistant")
    model = ensure_bundled(store)
    folder = make_model(tmp_path / "model")
    info = {"parameters": 100_000, "layers": 2, "hidden_size": 64, "vocab_size": 400, "context_length": 512}
    model_store.update_model(store, model.id, path=str(folder), info=info)
    return store


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object, str]]:
    """What the page would have launched."""
    calls: list[tuple[str, object, str]] = []

    def launch(self: Workspace, kind: str, config: object, *, name: str | None = None) -> Run:
        calls.append((kind, config, str(name)))
        return run_store.add_run(self.store, kind=kind, name=str(name), slot="nowhere", spec={})

    monkeypatch.setattr(Workspace, "launch", launch)
    return calls


def launch_button(app: AppTest):
    return next(button for button in app.button if button.label == "Launch")


def test_without_data_the_next_action_is_to_get_some(store: Store) -> None:
    assert labels(open_page(links.NEW_RUN)) == ["Go to datasets"]


def test_a_model_that_is_not_ready_is_made_ready_first(store: Store) -> None:
    Workspace().install_kit("assistant")
    app = open_page(links.NEW_RUN)
    assert "Make it ready" in labels(app)
    assert "Launch" not in labels(app)


def test_the_form_forecasts_checks_and_launches(ready: Store, launched: list) -> None:
    app = open_page(links.NEW_RUN)
    assert {metric.label for metric in app.metric} == {"Time", "Memory"}
    assert not app.error
    assert app.code[0].value.startswith("workbench train sft ")
    app.number_input(key=f"{KEY}.epochs").set_value(3).run()
    launch_button(app).click().run()
    assert not app.exception
    ((kind, config, name),) = launched
    assert (kind, config.epochs, config.preset) == ("sft", 3, "balanced")
    assert name.endswith("(train), balanced")
    assert app.query_params["run"]
    assert load_draft(ready, KEY) is None


def test_a_preset_fills_the_settings_and_a_change_stays(ready: Store, launched: list) -> None:
    app = open_page(links.NEW_RUN)
    app.segmented_control(key=f"{KEY}.preset").set_value("thorough").run()
    assert not app.exception
    assert app.number_input(key=f"{KEY}.lora_r").value == PRESETS["thorough"]["lora_r"]
    assert app.number_input(key=f"{KEY}.learning_rate").value == PRESETS["thorough"]["learning_rate"]
    app.number_input(key=f"{KEY}.lora_r").set_value(8).run()
    launch_button(app).click().run()
    assert launched[0][1].lora_r == 8
    assert launched[0][1].epochs == PRESETS["thorough"]["epochs"]


def test_a_refresh_loses_nothing(ready: Store) -> None:
    app = open_page(links.NEW_RUN)
    app.number_input(key=f"{KEY}.epochs").set_value(7).run()
    app.text_input(key=f"{KEY}.name").set_value("My run").run()
    fresh = open_page(links.NEW_RUN)
    assert fresh.number_input(key=f"{KEY}.epochs").value == 7
    assert fresh.text_input(key=f"{KEY}.name").value == "My run"


def test_a_clone_starts_from_the_other_runs_settings(ready: Store, launched: list) -> None:
    dataset = Workspace().datasets(kind="instructions")[0].name
    run = add_sft(ready, "Mine", RunState.FINISHED, dataset=dataset, lora_r=4, held_out=None, sample_prompts=("Hi?",))
    app = open_page(links.NEW_RUN, clone=run.id)
    assert app.number_input(key=f"{KEY}.lora_r").value == 4
    assert app.text_input(key=f"{KEY}.name").value == "Mine again"
    launch_button(app).click().run()
    config = launched[0][1]
    assert (config.lora_r, config.held_out, config.sample_prompts) == (4, None, ("Hi?",))


def test_a_setting_that_does_not_hold_is_named_in_words(ready: Store) -> None:
    app = open_page(links.NEW_RUN)
    app.number_input(key=f"{KEY}.max_length").set_value(131072)
    app.number_input(key=f"{KEY}.tokens_per_batch").set_value(8).run()
    assert not app.exception
    assert "longer than a whole batch" in app.error[0].value
    assert "Launch" not in labels(app)


def test_hard_findings_stop_the_launch_until_they_are_overruled(ready: Store, tmp_path: Path) -> None:
    from workbench.datasets.versions import write_version
    from workbench.records import Example, Message
    from workbench.store.datasets import create_dataset

    dataset = create_dataset(ready, "Only questions", "instructions")
    rows = [Example(messages=(Message(role="user", content=f"Question {n}?"),)) for n in range(5)]
    rows += [
        Example(messages=(Message(role="user", content=f"Q {n}?"), Message(role="assistant", content="Yes.")))
        for n in range(5)
    ]
    write_version(ready, dataset.id, rows)
    app = open_page(links.NEW_RUN, dataset=dataset.id)
    assert app.selectbox(key=f"{KEY}.dataset").value == "Only questions"
    assert app.error
    assert launch_button(app).disabled
    app.toggle(key=f"{KEY}.overrule_gates").set_value(True).run()
    assert not launch_button(app).disabled


def test_every_setting_can_be_reached_from_the_form(ready: Store) -> None:
    from workbench.training.configs import SFTConfig

    app = open_page(links.NEW_RUN)
    hidden = {"overrule_gates"}
    missing = [
        name for name in SFTConfig.model_fields if name not in hidden and f"{KEY}.{name}" not in app.session_state
    ]
    assert missing == []
    assert "Advanced settings" in [item.label for item in app.expander]
    assert "Forecast" in words(app)


@pytest.fixture
def rewarded(ready: Store) -> Run:
    """A reward model that started from an adapter."""
    model = ensure_bundled(ready)
    tuned = model_store.add_variant(ready, "tuned", model_id=model.id, adapter_path="/nowhere")
    run = run_store.add_run(ready, kind="reward", name="Taste", slot="train", spec={})
    told = {"model_id": model.id, "digest": "d", "bias": 0.0, "max_length": 64, "pairs": 3}
    run_store.update_run(ready, run.id, state=RunState.FINISHED, result={"reward": told})
    folder = ready.settings.run_dir(run.id)
    folder.mkdir(parents=True)
    (folder / "inputs.json").write_text(json.dumps({"adapter_id": tuned.id}))
    return run_store.get_run(ready, run.id)


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_without_a_reward_model_reinforcing_sends_to_one(ready: Store, kind: str) -> None:
    app = open_page(links.NEW_RUN, kind=kind)
    assert "Go to Reward" in labels(app) and "Launch" not in labels(app)


def test_from_a_reward_model_its_base_and_the_adapter_it_judges_are_chosen(
    ready: Store, rewarded: Run, launched: list[tuple[str, object, str]]
) -> None:
    app = open_page(links.NEW_RUN, kind="rloo", reward=rewarded.id)
    chosen = {box.label: box.value for box in app.selectbox}
    tuned = next(each for each in model_store.list_variants(ready) if each.name == "tuned")
    assert (chosen["Reward model"], chosen["Adapter"]) == (rewarded.id, tuned.id)
    launch_button(app).click().run()
    kind, config, _ = launched[0]
    assert kind == "rloo" and config.model_dump()["reward"] == rewarded.id  # type: ignore[attr-defined]
    app = open_page(links.NEW_RUN, kind="rloo", reward="nobody")
    assert "no such reward model" in words(app).lower()


def test_kto_is_launched_on_a_dataset_of_labels_or_of_preferences(
    ready: Store, launched: list[tuple[str, object, str]]
) -> None:
    asked = [(Message(role="user", content=f"Question {n}?"),) for n in range(8)]
    good, bad = ((Message(role="assistant", content=text),) for text in ("Hello", "No"))
    told = [Labelled(prompt=q, completion=good, label=True, weight=2.0) for q in asked]
    told += [Labelled(prompt=q, completion=bad, label=False) for q in asked]
    pairs = [Preference(prompt=q, chosen=good, rejected=bad) for q in asked]
    write_version(ready, create_dataset(ready, "pairs", "preferences").id, pairs)
    dataset = create_dataset(ready, "told", "labels")
    write_version(ready, dataset.id, told)
    app = open_page(links.NEW_RUN, kind="kto", dataset=dataset.id)
    box = app.selectbox(key="new_run.kto.dataset")
    assert [option.partition(" (")[0] for option in box.options] == ["pairs", "told"]
    assert box.value == "told" and not app.error
    assert {metric.label for metric in app.metric} == {"Time", "Memory"} and "Nothing found" in words(app)
    app.number_input(key="new_run.kto.desirable_weight").set_value(1.2).run()
    launch_button(app).click().run()
    assert not app.exception
    ((kind, config, _),) = launched
    fields = config.model_dump()  # type: ignore[attr-defined]
    assert kind == "kto" and fields["dataset"].startswith("told") and fields["desirable_weight"] == 1.2
    app = open_page(links.NEW_RUN, kind="dpo")
    assert [option.partition(" (")[0] for option in app.selectbox(key="new_run.dpo.dataset").options] == ["pairs"]


def test_the_part_kept_aside_comes_last_and_is_what_its_dataset_is_measured_on(ready: Store) -> None:
    pair = Preference(
        prompt=(Message(role="user", content="Hi?"),),
        chosen=(Message(role="assistant", content="Hello"),),
        rejected=(Message(role="assistant", content="No"),),
    )
    for name in ("ranked", "ranked" + HELD_OUT_END):  # the newest stands first in the list of datasets
        write_version(ready, create_dataset(ready, name, "preferences").id, [pair])
    app = open_page(links.NEW_RUN, kind="dpo")
    assert app.selectbox(key="new_run.dpo.dataset").value == "ranked"
    app = open_page(links.NEW_RUN, kind="dpo", dataset="ranked")
    assert app.selectbox(key="new_run.dpo.held_out").value == "ranked" + HELD_OUT_END


def test_a_rank_larger_than_a_layer_is_told_before_the_launch_and_does_not_stop_it(ready: Store) -> None:
    app = open_page(links.NEW_RUN)
    assert not any("larger than layers" in warning.value for warning in app.warning)
    app.number_input(key=f"{KEY}.lora_r").set_value(33).run()
    (told,) = [warning.value for warning in app.warning if "larger than layers" in warning.value]
    assert "rank 33" in told and "at most 32" in told
    assert not launch_button(app).disabled
