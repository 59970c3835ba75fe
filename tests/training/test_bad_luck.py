"""What befalls a run from outside, by method: a disk that fills up at a checkpoint, and data of a single prompt."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_rlhf import ShareOfTokens

from workbench.datasets.versions import write_version
from workbench.errors import DataProblem, RunProblem
from workbench.job import RecordingJob
from workbench.records import Message, Preference, Prompt
from workbench.runs.kinds import get_kind, parse_config
from workbench.settings import get_settings
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.datasets import create_dataset
from workbench.training import rlhf
from workbench.training.checkpoints import list_checkpoints

RL = {"prompts_per_step": 2, "answers_per_prompt": 2, "max_answer_tokens": 4, "missing_end_score": None, "reward": "r"}
METHODS: dict[str, dict[str, Any]] = {
    "kto": {"dataset": "pairs", "tokens_per_batch": 128},
    "dpo": {"dataset": "pairs", "tokens_per_batch": 128},
    "rloo": {"dataset": "asked"} | RL,
    "grpo": {"dataset": "asked"} | RL,
}
RL_METHODS = pytest.mark.parametrize("method", ["rloo", "grpo"])


@pytest.fixture(autouse=True)
def home_with_rows(home: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_THREADS", "1")
    get_settings.cache_clear()
    asked = [(Message(role="user", content=f"{n} red green?"),) for n in range(12)]
    good, bad = (Message(role="assistant", content="the sea"),), (Message(role="assistant", content="no"),)
    pairs = [Preference(prompt=one, chosen=good, rejected=bad) for one in asked]
    write_version(store, create_dataset(store, "pairs", "preferences").id, pairs)
    write_version(store, create_dataset(store, "asked", "prompts").id, [Prompt(messages=one) for one in asked])
    write_version(store, create_dataset(store, "one", "prompts").id, [Prompt(messages=asked[0])])
    write_version(store, create_dataset(store, "the same twice", "prompts").id, [Prompt(messages=asked[0])] * 2)
    tiny.register_model(store, tiny.make_model(tmp_path / "base"))


def train(store: Store, method: str, job: RecordingJob, **changes: Any) -> dict[str, Any]:
    common = {
        "model": "tiny", "preset": "custom", "held_out": None, "max_steps": 4, "save_every": 2, "eval_every": 0,
        "lora_r": 4, "learning_rate": 1e-2, "seed": 3,
    }  # fmt: skip
    config: Any = parse_config(method, common | METHODS[method] | changes)
    if method == "rloo":
        return rlhf.train_rloo(config, job, ShareOfTokens())
    if method == "grpo":
        return rlhf.train_grpo(config, job, ShareOfTokens())
    work: Any = get_kind(method).load_work()
    return dict(work(config, job))


def new_job(store: Store, folder: Path) -> RecordingJob:
    run = run_store.add_run(store, kind="rloo", name=folder.name, slot="train", spec={})
    return RecordingJob(store, folder, run_id=run.id)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_full_disk_at_a_checkpoint_is_told_and_the_run_can_go_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    import torch

    whole = new_job(store, tmp_path / "whole")
    expected = train(store, method, whole)
    job, real, saved = new_job(store, tmp_path / "full"), torch.save, 0

    def full(value: Any, file: Any, *rest: Any, **more: Any) -> None:
        nonlocal saved
        saved += 1
        if saved > 4:  # whole at step 2, and no room left at step 4
            raise OSError(errno.ENOSPC, "No space left on device")
        real(value, file, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(RunProblem, match=r"disk is full.*Free some space"):
            train(store, method, job)
    assert [folder.name for folder in list_checkpoints(job.folder / "checkpoints")] == ["checkpoint-2"]
    assert not (job.folder / "adapter").exists()
    again = RecordingJob(store, job.folder, run_id=job.run_id)
    result = train(store, method, again)
    assert again.results["resumed_step"] == 2
    assert result["adapter_digest"] == expected["adapter_digest"]  # as though the disk had never been full


@RL_METHODS
def test_one_prompt_cannot_be_split_and_is_learned_with_warnings_where_nothing_is_held_out(
    store: Store, tmp_path: Path, method: str
) -> None:
    with pytest.raises(DataProblem, match=r"one prompt|same prompt"):
        train(store, method, new_job(store, tmp_path / "split"), dataset="the same twice", held_out=0.5)
    for name, held_out in (("one", None), ("one", 0.5), ("the same twice", None)):
        job = new_job(store, tmp_path / f"{name} {held_out}")
        result = train(store, method, job, dataset=name, held_out=held_out, max_steps=1, save_every=0)
        assert "There is one prompt to learn from" in result["warnings"][0]
        assert "Nothing is held out" in result["warnings"][1] and job.results["warnings"][:2] == result["warnings"][:2]


def test_a_step_may_ask_a_single_prompt_more_than_once(store: Store, tmp_path: Path) -> None:
    job = new_job(store, tmp_path / "run")
    assert train(store, "rloo", job, dataset="one", prompts_per_step=3, max_steps=1, save_every=0)["answers"] == 6
    assert json.dumps(job.results["warnings"]).count("one prompt to learn from") == 1
