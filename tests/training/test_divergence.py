"""KL between variants: against a hand computation, and nothing where nothing moved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from workbench.datasets.render import load_renderer
from workbench.datasets.versions import write_version
from workbench.errors import UsageError
from workbench.job import RecordingJob
from workbench.records import Message, Prompt
from workbench.settings import get_settings
from workbench.store import models as model_store
from workbench.store.datasets import create_dataset
from workbench.training.divergence import ROWS, KLConfig, measure_kl


@pytest.fixture
def prompts(store, monkeypatch):
    monkeypatch.setenv("WORKBENCH_THREADS", "1")
    get_settings.cache_clear()
    asked = [Prompt(messages=(Message(role="user", content=f"{n} red green?"),)) for n in range(5)]
    return write_version(store, create_dataset(store, "asked", "prompts").id, asked)


@pytest.fixture
def model(store, tmp_path):
    return tiny.register_model(store, tiny.make_model(tmp_path / "base"))


def adapter(store, model, tmp_path: Path, name: str, seed: int):
    folder = tiny.make_adapter(Path(model.path), tmp_path / name, seed=seed)
    return model_store.add_variant(store, name, model_id=model.id, adapter_path=str(folder))


def test_a_variant_is_at_no_distance_from_itself_and_at_some_from_others(store, model, prompts, tmp_path):
    one, two = adapter(store, model, tmp_path, "one", 1), adapter(store, model, tmp_path, "two", 2)
    job = RecordingJob(store, tmp_path / "run")
    same = measure_kl(KLConfig(variant="one", reference="one", prompts="asked", max_tokens=6), job)
    assert same["kl_sequence"]["value"] == pytest.approx(0, abs=1e-5) and same["n"] == 5
    far = measure_kl(KLConfig(variant=one.id, reference=two.id, prompts="asked", max_tokens=6), job)
    from_base = measure_kl(KLConfig(variant="one", prompts="asked", max_tokens=6), job)
    assert abs(far["kl_sequence"]["value"]) > 1e-3 and abs(from_base["kl_sequence"]["value"]) > 1e-3
    assert far["kl_sequence"]["low"] <= far["kl_sequence"]["value"] <= far["kl_sequence"]["high"]
    assert far["kl_token"] == pytest.approx(far["kl_sequence"]["value"] / far["mean_tokens"])


def test_the_estimate_is_that_of_the_full_logits(store, model, prompts, tmp_path, monkeypatch):
    import torch

    from workbench.models.loading import load_base, load_with_adapter
    from workbench.training import rollouts

    drawn = {}
    real = rollouts.draw_answers

    def spy(_model, asked, **options):
        found = real(_model, asked, **options)
        drawn.update({tuple(ids): answer for ids, answer in zip(asked, found, strict=True)})
        return found

    monkeypatch.setattr(rollouts, "draw_answers", spy)
    one = adapter(store, model, tmp_path, "one", 1)
    job = RecordingJob(store, tmp_path / "run")
    told = measure_kl(KLConfig(variant="one", prompts="asked", max_tokens=6), job)
    plain = load_base(model)

    def log_probability(net, prompt, answer):
        with torch.no_grad():
            logs = torch.log_softmax(net(torch.tensor([[*prompt, *answer]])).logits[0].double(), -1)
        return sum(float(logs[len(prompt) + place - 1, token]) for place, token in enumerate(answer))

    base = [log_probability(plain, prompt, answer) for prompt, answer in drawn.items()]
    tuned_model = load_with_adapter(plain, Path(one.adapter_path or ""))
    tuned = [log_probability(tuned_model, prompt, answer) for prompt, answer in drawn.items()]
    by_hand = [there - here for there, here in zip(tuned, base, strict=True)]
    assert told["kl_sequence"]["value"] == pytest.approx(sum(by_hand) / 5, abs=1e-4)
    kept = [json.loads(line) for line in (job.folder / ROWS).read_text().splitlines()]
    assert [entry["kl"] for entry in kept] == pytest.approx(sorted(by_hand, reverse=True), abs=1e-4)
    renderer = load_renderer(model.path)
    texts = {renderer.decode(answer): len(answer) for answer in drawn.values()}
    assert {entry["answer"]: entry["tokens"] for entry in kept} == texts
    assert sorted(entry["prompt"] for entry in kept) == [f"{n} red green?" for n in range(5)]


def test_variants_of_other_bases_and_of_servers_are_refused(store, model, prompts, tmp_path):
    other = tiny.register_model(store, tiny.make_model(tmp_path / "other", seed=3), name="other")
    job = RecordingJob(store, tmp_path / "run")
    adapter(store, model, tmp_path, "one", 1)
    base = next(each for each in model_store.list_variants(store, model_id=other.id))
    with pytest.raises(UsageError, match="one base"):
        measure_kl(KLConfig(variant="one", reference=base.id, prompts="asked"), job)
    server = model_store.add_variant(store, "far away", remote_model="x")
    with pytest.raises(UsageError, match="server"):
        measure_kl(KLConfig(variant=server.id, prompts="asked"), job)
