"""A rank larger than a layer: allowed, and warned of alike by every method, before and in the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from test_rlhf import make_reward_model

from workbench.job import RecordingJob
from workbench.records import Model
from workbench.runs.kinds import get_kind, parse_config, training_kinds
from workbench.settings import get_settings
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.training.adapter_rank import check_rank, large_rank
from workbench.training.configs import TrainingConfig

NARROW = 32  # the key and value layers of the tiny model


@pytest.fixture
def model(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setenv("WORKBENCH_THREADS", "1")
    get_settings.cache_clear()
    tiny.write_asked(store, 12)
    return tiny.register_model(store, tiny.make_model(tmp_path / "base"))


def settings_of(kind: str, **changes: Any) -> TrainingConfig:
    fields: dict[str, Any] = {
        "dataset": "instructions" if kind == "sft" else "preferences", "held_out": None, "model": "tiny",
        "preset": "custom", "max_steps": 1,
    }  # fmt: skip
    if kind in ("rloo", "grpo"):
        fields |= {"reward": "good answers", "max_answer_tokens": 4, "prompts_per_step": 1, "answers_per_prompt": 2}
    if kind == "reward":
        fields |= {"answered_prompts": 0}
    config = parse_config(kind, fields | changes)
    assert isinstance(config, TrainingConfig)
    return config


def warnings_of(store: Store, folder: Path, kind: str, **changes: Any) -> list[str]:
    """What a run of this kind warns of concerning its rank, on its page and in its log alike."""
    run = run_store.add_run(store, kind=kind, name=kind, slot="train", spec={})
    job = RecordingJob(store, folder / run.id, run_id=run.id)
    result = get_kind(kind).load_work()(settings_of(kind, **changes), job)
    shown = (job.results | dict(result or {})).get("warnings", [])
    found = [warning for warning in shown if "rank" in warning]
    assert [line.removeprefix("WARNING: ") for line in job.lines if "rank" in line] == found
    return found


@pytest.mark.parametrize("kind", [kind.name for kind in training_kinds()])
def test_every_method_trains_at_a_rank_beyond_a_layer_and_warns(
    store: Store, model: Model, tmp_path: Path, kind: str
) -> None:
    make_reward_model(store, model)
    (warning,) = warnings_of(store, tmp_path, kind, lora_r=NARROW + 1)
    assert f"rank {NARROW + 1} is larger than layers it lies on: k_proj ({NARROW}), v_proj ({NARROW})" in warning
    assert f"Set lora_r to at most {NARROW}" in warning
    (finding,) = check_rank(settings_of(kind, lora_r=NARROW + 1), model)
    assert finding.severity == "soft" and f"{finding.message} {finding.remedy}" == warning  # told before, too
    assert check_rank(settings_of(kind, lora_r=NARROW), model) == []


def test_a_rank_as_large_as_the_narrowest_layer_is_not_warned_of(store: Store, model: Model, tmp_path: Path) -> None:
    assert warnings_of(store, tmp_path, "sft", lora_r=NARROW) == []
    wide = {"lora_r": NARROW + 1, "target_modules": ("q_proj", "o_proj")}
    assert warnings_of(store, tmp_path, "dpo", **wide) == [] and check_rank(settings_of("dpo", **wide), model) == []


def test_an_adapter_that_is_gone_on_from_keeps_its_rank_and_is_not_warned_of(
    store: Store, model: Model, tmp_path: Path
) -> None:
    tiny.register_variant(store, model, tiny.make_adapter(tmp_path / "base", tmp_path / "sft", r=4))
    asked = {"adapter": "tiny tuned", "lora_r": NARROW + 1}
    for kind in ("sft", "reward", "dpo"):
        assert warnings_of(store, tmp_path, kind, **asked) == [] and check_rank(settings_of(kind, **asked), model) == []
    assert len(warnings_of(store, tmp_path, "dpo", **asked, on_top="stack")) == 1
    assert len(check_rank(settings_of("dpo", **asked, on_top="stack"), model)) == 1


def test_each_kind_of_layer_is_named_once_with_its_narrowest() -> None:
    sides = {"layers.0.a": 8, "layers.1.a": 6, "layers.0.b": 64}
    assert large_rank(6, sides) is None and large_rank(1, {}) is None
    told = large_rank(9, sides)
    assert told is not None and "a (6)." in told and "b (" not in told and "at most 6" in told
