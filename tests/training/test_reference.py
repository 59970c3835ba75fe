import errno
import json

import pytest
import tiny

from workbench.errors import RunProblem, Stopped, StoreProblem
from workbench.job import RecordingJob
from workbench.training import reference
from workbench.training.reference import answer_logps, reference_logps
from workbench.training.rows import TrainingRow

ROWS = [
    TrainingRow(row_id=str(n), ids=tuple(range(3, 8 + n)), labels=(-100,) * 4 + tuple(range(7, 8 + n)))
    for n in range(12)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny.make_model(tmp_path_factory.mktemp("m") / "base"))


def read(job, model, rows=ROWS, **changes):
    lengths = [len(row.ids) for row in rows]
    how = {"tokens_per_batch": 16, "fast": False} | changes
    return reference_logps(job, model, lengths, rows.__getitem__, **how)


def test_it_is_what_the_model_gives_and_is_read_from_the_file_afterwards(store, tmp_path, model):
    import torch

    job = RecordingJob(store, tmp_path / "run")
    found = read(job, model)
    for row, value in zip(ROWS, found, strict=True):
        chances = model(input_ids=torch.tensor([row.ids])).logits.log_softmax(-1)[0].detach()
        own = sum(float(chances[at - 1, row.ids[at]]) for at in range(4, len(row.ids)))
        assert value == pytest.approx(own, abs=1e-4)
    assert read(job, None) == found  # the model is not asked again
    assert read(RecordingJob(store, tmp_path / "two"), model, tokens_per_batch=400) == pytest.approx(found, abs=1e-4)


def test_other_sequences_are_read_anew(store, tmp_path, model):
    job = RecordingJob(store, tmp_path / "run")
    read(job, model)
    assert len(read(job, model, rows=ROWS[:3])) == 3


def test_stop_is_heard_between_chunks_and_nothing_half_is_left(store, tmp_path, model, monkeypatch):
    monkeypatch.setattr(reference, "CHUNK_BATCHES", 1)
    job = RecordingJob(store, tmp_path / "run", stop_after=2)
    with pytest.raises(Stopped, match="before the first step"):
        read(job, model)
    assert list(job.folder.iterdir()) == []
    assert read(RecordingJob(store, job.folder), model) == pytest.approx(answer_logps(model, ROWS, 16, fast=False))


def test_a_full_disk_is_told(store, tmp_path, model, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reference.os, "fsync", full)
    job = RecordingJob(store, tmp_path / "run")
    with pytest.raises(StoreProblem, match="disk is full"):
        read(job, model)
    assert not (job.folder / reference.FILE).exists()


def test_a_model_without_probabilities_is_told_before_anything_is_trained(store, tmp_path, model, monkeypatch):
    monkeypatch.setattr(reference, "answer_logps", lambda model, rows, budget, fast: [float("nan")] * len(rows))
    with pytest.raises(RunProblem, match="no probability to 12 of 12"):
        read(RecordingJob(store, tmp_path / "run"), model)


def test_what_is_kept_is_plain_json(store, tmp_path, model):
    job = RecordingJob(store, tmp_path / "run")
    found = read(job, model)
    assert json.loads((job.folder / "reference_logps.json").read_text())["logps"] == found
