"""What every method refuses before it starts: adapters that cannot be gone on from, whatever the method."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_rlhf import make_reward_model

from workbench.errors import NotFound, UsageError, WorkbenchError
from workbench.job import RecordingJob
from workbench.models.adapters import import_adapter
from workbench.records import Model
from workbench.runs.kinds import get_kind, parse_config, training_kinds
from workbench.settings import get_settings
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.training.reward_models import RewardModel

EVERY = pytest.mark.parametrize("kind", [kind.name for kind in training_kinds()])


@pytest.fixture
def model(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setenv("WORKBENCH_THREADS", "1")
    get_settings.cache_clear()
    tiny.write_asked(store, 6)
    return tiny.register_model(store, tiny.make_model(tmp_path / "base"))


@pytest.fixture
def reward(store: Store, model: Model) -> RewardModel:
    return make_reward_model(store, model)


def start(store: Store, kind: str, folder: Path, adapter: str) -> None:
    data = "instructions" if kind == "sft" else "preferences"
    fields: dict[str, Any] = {
        "dataset": data, "held_out": None, "model": "tiny", "adapter": adapter, "preset": "custom", "max_steps": 1
    }  # fmt: skip
    if kind in ("rloo", "grpo"):
        fields |= {"reward": "good answers", "max_answer_tokens": 4}
    run_store.add_run(store, kind=kind, name=kind, slot="train", spec={}, run_id="run_test")
    folder.mkdir()
    get_kind(kind).load_work()(parse_config(kind, fields), RecordingJob(store, folder, run_id="run_test"))


@EVERY
def test_an_adapter_of_another_base_is_refused_by_every_method(
    store: Store, model: Model, reward: RewardModel, tmp_path: Path, kind: str
) -> None:
    other = tiny.register_model(store, tiny.make_model(tmp_path / "other", seed=3), name="other")
    adapter = tiny.make_adapter(tmp_path / "other", tmp_path / "adapter")
    tiny.register_variant(store, other, adapter, name="of another")
    with pytest.raises(UsageError, match="no adapter over this base model") as told:
        start(store, kind, tmp_path / "run", "of another")
    assert "tiny" in told.value.remedy and not (tmp_path / "run" / "inputs.json").exists()


@EVERY
def test_a_base_or_a_model_on_a_server_is_no_adapter_to_go_on_from(
    store: Store, model: Model, reward: RewardModel, tmp_path: Path, kind: str
) -> None:
    model_store.add_variant(store, "far away", remote_model="x")
    for place, name in enumerate(("tiny", "far away")):
        with pytest.raises(UsageError, match="no adapter over this base model"):
            start(store, kind, tmp_path / f"run{place}", name)
        with store.write() as connection:
            connection.exec_driver_sql("DELETE FROM runs WHERE id = 'run_test'")


@EVERY
def test_a_reward_model_is_no_adapter_to_go_on_from(
    store: Store, model: Model, reward: RewardModel, tmp_path: Path, kind: str
) -> None:
    if kind == "reward":
        with pytest.raises((UsageError, NotFound)):
            start(store, kind, tmp_path / "run", reward.name)
        return
    with pytest.raises(UsageError, match="it scores answers and cannot give any"):
        start(store, kind, tmp_path / "run", reward.name)


@EVERY
def test_a_reward_models_folder_under_another_name_is_noticed(
    store: Store, model: Model, reward: RewardModel, tmp_path: Path, kind: str
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(reward.folder, copied)
    with pytest.raises(WorkbenchError, match="reward model"):
        import_adapter(store, copied, model, "mine")
    model_store.add_variant(store, "smuggled", model_id=model.id, adapter_path=str(copied))
    with pytest.raises(WorkbenchError, match="reward model|scores answers"):
        start(store, kind, tmp_path / "run", "smuggled")
