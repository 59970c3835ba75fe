"""The Models page: what is there, what is refused and why, servers and what becomes of their models."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_chat import ScriptedChat, scripted_chat
from streamlit.testing.v1 import AppTest

from workbench.api import Workspace
from workbench.models.adding import ensure_bundled
from workbench.records import ModelSource, RunState
from workbench.store import deletion
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.ui.variant_list import variant_table

APP = str(Path(__file__).resolve().parents[2] / "app.py")
# pyarrow reads time zones from pandas 3 in a way that pandas 4 will change.
pytestmark = pytest.mark.filterwarnings("ignore:Series.values returning an ndarray that drops timezone")
PAGE = "pages/train/models.py"


@pytest.fixture
def ws(home: Path) -> Iterator[Workspace]:
    workspace = Workspace()
    yield workspace
    workspace.store.close()


@pytest.fixture
def chat() -> Iterator[ScriptedChat]:
    with scripted_chat() as server:
        yield server


def open_page() -> AppTest:
    app = AppTest.from_file(APP, default_timeout=30).run()
    app.switch_page(PAGE).run()
    assert not app.exception
    return app


def click(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception
    return app


def test_the_bundled_model_is_there_with_the_one_action_that_makes_it_ready(ws: Workspace) -> None:
    app = open_page()
    assert "SmolLM2" in app.subheader[0].value
    assert [button.label for button in app.button if button.label.startswith("Convert")] == [
        "Convert the bundled model"
    ]


def test_a_ready_model_shows_its_facts(ws: Workspace) -> None:
    model = ensure_bundled(ws.store)
    info = {"parameters": 134_515_008, "context_length": 8192, "licence": "apache-2.0", "has_chat_template": True}
    model_store.update_model(ws.store, model.id, path="/models/x", base_digest="ab" * 32, info=info)
    shown = " ".join(item.value for item in open_page().markdown)
    assert "135 M" in shown and "8,192" in shown and "has a chat template" in shown


@pytest.mark.parametrize(
    ("source", "reference", "reason"),
    [
        (ModelSource.HUB, "https://hub/x", "not a hub id"),
        (ModelSource.LOCAL, "/nowhere/at/all", "no such folder"),
        (ModelSource.GGUF, "/nowhere/at.gguf", "cannot be read"),
    ],
)
def test_what_cannot_be_added_is_refused_in_words_before_a_run(
    ws: Workspace, source: ModelSource, reference: str, reason: str
) -> None:
    app = open_page()
    app.segmented_control(key="models.add.source").set_value(source).run()
    app.text_input(key=f"models.add.reference.{source}").set_value(reference).run()
    assert not app.exception and reason in app.error[0].value
    assert not any(button.label == "Add the model" for button in app.button)
    assert ws.runs(kinds=["add_model"]) == []


def test_a_folder_with_pickled_weights_is_refused_by_name(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    app = open_page()
    app.segmented_control(key="models.add.source").set_value(ModelSource.LOCAL).run()
    app.text_input(key=f"models.add.reference.{ModelSource.LOCAL}").set_value(str(tmp_path)).run()
    assert "pickled" in app.error[0].value


def test_a_server_is_probed_its_key_kept_from_the_store_and_its_models_become_variants(
    ws: Workspace, chat: ScriptedChat
) -> None:
    app = open_page()
    inputs = {item.label: item for item in app.text_input}
    inputs["Name"] = [item for item in app.text_input if item.placeholder == "lab vLLM"][0]
    inputs["Name"].set_value("lab")
    inputs["Base URL"].set_value(chat.url)
    inputs["Key"].set_value("sk-very-secret")
    click(app, "Probe and add")
    (server,) = ws.servers()
    assert server.capabilities["models"] == chat.models
    assert stat.S_IMODE(ws.settings.keys_file.stat().st_mode) == 0o600
    assert b"sk-very-secret" not in (ws.settings.home / "workbench.db").read_bytes()
    next(item for item in app.multiselect if item.label == "Models that shall answer here").set_value(["echo"])
    click(app, "Add as variants")
    assert [(item.server_id, item.remote_model) for item in ws.variants()] == [(server.id, "echo")]
    assert any("echo" in item.value for item in app.caption)


def test_a_server_that_is_not_there_is_told_in_words(ws: Workspace) -> None:
    app = open_page()
    next(item for item in app.text_input if item.placeholder == "lab vLLM").set_value("lab")
    next(item for item in app.text_input if item.label == "Base URL").set_value("http://127.0.0.1:9/v1")
    click(app, "Probe and add")
    assert "cannot be reached" in app.error[0].value and ws.servers() == []


def test_an_adapter_needs_a_base_and_a_folder_that_holds_one(ws: Workspace, tmp_path: Path) -> None:
    assert any("No base model is ready" in item.value.capitalize() for item in open_page().caption) or any(
        "no base model is ready yet" in item.value for item in open_page().caption
    )
    model_store.update_model(ws.store, ensure_bundled(ws.store).id, path=str(tmp_path))
    app = open_page()
    app.text_input(key="models.adapter.folder").set_value(str(tmp_path / "gone")).run()
    assert "no such folder" in app.error[0].value


def test_the_variants_table_tells_base_adapter_and_remote_apart(ws: Workspace, chat: ScriptedChat) -> None:
    model = model_store.update_model(ws.store, ensure_bundled(ws.store).id, path="/models/x", base_digest="ab" * 32)
    model_store.add_variant(ws.store, "the base", model_id=model.id)
    model_store.add_variant(ws.store, "tuned", model_id=model.id, adapter_path="/a", adapter_digest="cd" * 32)
    server = ws.add_server("lab", chat.url)
    ws.remote_variant(server.id, "echo")
    table = variant_table(ws.variants(), {model.id: model}, {server.id: server})
    assert [kind[0] for kind in table["kind"]] == ["Base", "Adapter", "Remote"]
    assert list(table["digest"]) == ["abababababab", "cdcdcdcdcdcd", "unverified"]
    assert len(open_page().dataframe[0].value) == 3


def test_without_a_running_engine_the_page_says_so(ws: Workspace) -> None:
    assert any(item.value == "No engine is running." for item in open_page().caption)


def test_a_model_that_nothing_uses_is_deleted_and_the_bundled_one_has_no_such_button(ws: Workspace) -> None:
    ensure_bundled(ws.store)
    model = model_store.add_model(ws.store, "mine", ModelSource.LOCAL, "/nowhere")
    app = open_page()
    assert [button.label for button in app.button].count("Delete the model") == 1
    run = run_store.add_run(ws.store, kind="sft", name="Tune", slot="train", spec={"model": model.id})
    run_store.update_run(ws.store, run.id, state=RunState.STOPPED)
    app = click(app, "Delete the model")
    assert "in use by the run" in app.error[0].value
    deletion.delete_run(ws.store, run.id)
    app = click(app, "Delete the model")
    assert not app.error and [each.name for each in ws.models()] == [ensure_bundled(ws.store).name]
