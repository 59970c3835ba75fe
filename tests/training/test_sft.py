import json
import math
from collections import Counter

import pytest
import tiny

from workbench.datasets.versions import iter_rows, write_version
from workbench.errors import DataProblem, RunProblem, Stopped, UsageError
from workbench.job import RecordingJob
from workbench.records import Example, Message, Preference
from workbench.settings import get_settings
from workbench.store import models as model_store
from workbench.store.datasets import create_dataset, find_version, latest_version
from workbench.store.runs import add_run
from workbench.training import sft
from workbench.training.checkpoints import latest_checkpoint, list_checkpoints
from workbench.training.configs import SFTConfig
from workbench.training.losses import fits, supervised_losses
from workbench.training.rows import render_rows

WORDS = "red green blue the sea is wide and wind sings over one two three four five".split()


def make_examples(count: int) -> list[Example]:
    examples = []
    for number in range(count):
        question = " ".join(WORDS[(number * 3 + k) % len(WORDS)] for k in range(2 + number % 5))
        answer = " ".join(WORDS[(number * 7 + k) % len(WORDS)] for k in range(1 + number % 9))
        turns = [Message(role="user", content=f"{number} {question}"), Message(role="assistant", content=answer)]
        if number % 4 == 0:
            turns += [Message(role="user", content="and?"), Message(role="assistant", content="no")]
        examples.append(Example(messages=tuple(turns)))
    return examples


@pytest.fixture
def settings(home, monkeypatch):
    monkeypatch.setenv("WORKBENCH_THREADS", "1")  # a tiny model only waits for a second thread
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def model(store, tmp_path):
    return tiny.register_model(store, tiny.make_model(tmp_path / "base"))


@pytest.fixture
def examples(store):
    made = make_examples(20)
    write_version(store, create_dataset(store, "rows", "instructions").id, made[:16])
    write_version(store, create_dataset(store, "apart", "instructions").id, made[16:])
    return made


def new_job(store, folder, run_id="run_test", stop_after=None):
    add_run(store, kind="sft", name=run_id, slot="train", spec={}, run_id=run_id)
    return RecordingJob(store, folder, run_id=run_id, stop_after=stop_after)


def config(**changes):
    values = {
        "dataset": "rows",
        "held_out": "apart",
        "model": "tiny",
        "preset": "custom",
        "epochs": 3,
        "learning_rate": 5e-3,
        "lora_r": 4,
        "lora_alpha": 8,
        "tokens_per_batch": 128,
        "seed": 7,
    }
    return SFTConfig(**(values | changes))


def series(job, name):
    return {step: value for step, key, value in job.points if key == name}


def adapter_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def test_training_lowers_the_held_out_loss_and_enters_a_variant(store, model, examples, tmp_path):
    job = new_job(store, tmp_path / "run")
    result = sft.train_sft(config(sample_prompts=("red green",)), job)
    losses, held_out = series(job, "loss"), series(job, "eval_loss")
    assert set(losses) == set(range(1, result["steps"] + 1))
    assert held_out[result["steps"]] < held_out[0]
    assert result["eval_loss"] == pytest.approx(held_out[result["steps"]])
    assert series(job, "eval_perplexity")[0] == pytest.approx(math.exp(held_out[0]))
    for name in ("learning_rate", "grad_norm", "tokens_per_s", "supervised_tokens", "epoch", "memory_mb"):
        assert set(series(job, name)) == set(losses)
    assert series(job, "epoch")[result["steps"]] == 3
    assert series(job, "supervised_tokens")[result["steps"]] == result["supervised_tokens"]
    assert {step for step, *_ in job.samples} >= {0, result["steps"]}
    assert job.phases[0] == "rendering" and job.phases[-1] == "saving"
    assert job.told.done == job.told.total == result["steps"]
    variant = model_store.get_variant(store, result["variant_id"])
    assert (variant.run_id, variant.model_id, variant.adapter_digest) == (
        job.run_id,
        model.id,
        result["adapter_digest"],
    )
    entries = [json.loads(line) for line in (job.folder / "held_out_rows.jsonl").read_text().splitlines()]
    assert [entry["row_id"] for entry in entries] != []
    total = sum(entry["loss"] * entry["tokens"] for entry in entries) / sum(entry["tokens"] for entry in entries)
    assert total == pytest.approx(result["eval_loss"])


def test_what_the_trainer_is_fed_is_what_render_gives(store, model, examples, tmp_path, monkeypatch):
    from workbench.datasets.render import load_renderer

    seen = Counter()
    real = sft.trainer_class()

    class Spy(real):
        def training_step(self, model, inputs, *args, **kwargs):
            for ids, mask, labels in zip(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], strict=True):
                length = int(mask.sum())
                assert mask[:length].all() and (labels[length:] == -100).all()
                seen[tuple(ids[:length].tolist()), tuple(labels[:length].tolist())] += 1
            return super().training_step(model, inputs, *args, **kwargs)

    monkeypatch.setattr(sft, "trainer_class", lambda: Spy)
    sft.train_sft(config(epochs=2), new_job(store, tmp_path / "run"))
    renderer = load_renderer(model.path)
    expected = Counter(
        (row.ids, tuple(row.labels))
        for example in examples[:16]
        for row in renderer.render(example.messages, None, max_length=1024)
    )
    assert seen == Counter({key: 2 * count for key, count in expected.items()})


@pytest.mark.parametrize("changes", [{}, {"max_tokens": 1800}, {"use_dora": True}])
def test_a_stopped_run_goes_on_exactly_as_if_it_had_not_been_stopped(store, model, examples, tmp_path, changes):
    settings = config(
        lora_dropout=0.1,
        gradient_accumulation_steps=2,
        sample_prompts=("blue",),
        sample_every=2,
        eval_every=2,
        **changes,
    )
    whole = new_job(store, tmp_path / "whole", "run_whole")
    expected = sft.train_sft(settings, whole)
    per_epoch = sum(1 for epoch in series(whole, "epoch").values() if epoch <= 1)
    first = new_job(store, tmp_path / "cut", "run_cut", stop_after=per_epoch + 1)
    with pytest.raises(Stopped):
        sft.train_sft(settings, first)
    stopped_at = max(series(first, "loss"))
    assert stopped_at == per_epoch + 2 < expected["steps"]
    assert latest_checkpoint(first.folder / "checkpoints").name == f"checkpoint-{stopped_at}"
    second = RecordingJob(store, first.folder, run_id="run_cut")
    second.attempt = 2
    result = sft.train_sft(settings, second)
    joined = series(first, "loss") | series(second, "loss")
    assert set(series(second, "loss")) == set(range(stopped_at + 1, expected["steps"] + 1))
    assert joined == pytest.approx(series(whole, "loss"), abs=1e-6)
    assert series(first, "learning_rate") | series(second, "learning_rate") == series(whole, "learning_rate")
    ours, theirs = adapter_weights(first.folder / "adapter"), adapter_weights(whole.folder / "adapter")
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() <= 1e-6, name
    assert result["train_loss"] == pytest.approx(expected["train_loss"])
    assert result["supervised_tokens"] == expected["supervised_tokens"]
    assert result["trained_tokens"] == expected["trained_tokens"]


def test_a_second_run_of_a_finished_one_makes_no_second_variant(store, model, examples, tmp_path):
    job = new_job(store, tmp_path / "run")
    first = sft.train_sft(config(epochs=1), job)
    again = sft.train_sft(config(epochs=1), RecordingJob(store, job.folder))
    assert (again["variant_id"], again["adapter_digest"]) == (first["variant_id"], first["adapter_digest"])
    assert len(model_store.list_variants(store, run_id=job.run_id)) == 1


def test_checkpoints_hold_the_adapter_and_never_the_base(store, model, examples, tmp_path):
    job = new_job(store, tmp_path / "run")
    sft.train_sft(config(epochs=2, save_every=1, keep_checkpoints=3), job)
    found = list_checkpoints(job.folder / "checkpoints")
    assert len(found) == 3
    assert {path.name for path in found[-1].iterdir()} == {
        "adapter_model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "progress.json",
        "manifest.json",
    }
    assert all("lora" in name for name in adapter_weights(found[-1]))


def test_the_adapter_opens_in_plain_peft_with_the_same_logits(store, model, examples, tmp_path, monkeypatch):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from workbench.models.loading import quiet_peft

    kept = []
    real = sft.publish
    monkeypatch.setattr(sft, "publish", lambda trained, *rest: kept.append(trained) or real(trained, *rest))
    result = sft.train_sft(config(epochs=1), new_job(store, tmp_path / "run"))
    with quiet_peft():
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model.path), result["adapter_path"])
    plain.eval()
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        ours, theirs = kept[0].eval()(input_ids=ids).logits, plain(input_ids=ids).logits
        base = AutoModelForCausalLM.from_pretrained(model.path).eval()(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert (theirs - base).abs().max() > 0.01


def test_the_loss_and_its_gradients_are_stock_trls_on_the_same_batch(store, model, examples, tmp_path):
    import torch
    import trl

    from workbench.datasets.render import load_renderer

    job = new_job(store, tmp_path / "run")
    stored = iter_rows(store, find_version(store, "rows")[1])
    rows = render_rows(stored, load_renderer(model.path), max_length=1024).rows
    plan = sft.plan_run([len(r.ids) for r in rows], tokens_per_batch=512, batches_per_step=1, seed=0, epochs=1)
    trainer = sft.build_trainer(config(), job, model, None, rows, plan)
    assert trainer.fast_loss
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1)
    for batch in list(plan.batches)[:3]:
        found = []
        for stock in (False, True):
            inputs = sft.collate([{"input_ids": rows[r].ids, "labels": rows[r].labels} for r in batch])
            trainer.model.zero_grad()
            way = trl.SFTTrainer.compute_loss if stock else type(trainer).compute_loss
            loss = way(trainer, trainer.model, inputs)
            loss.backward()
            slopes = [p.grad.clone() for p in trainer.model.parameters() if p.requires_grad]
            found.append((loss.detach(), slopes))
        (ours, our_slopes), (theirs, their_slopes) = found
        assert abs(ours - theirs) <= 1e-5
        for one, other in zip(our_slopes, their_slopes, strict=True):
            assert torch.allclose(one, other, atol=1e-5)


def test_a_model_that_scales_its_logits_is_trained_with_trls_own_loss(tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny.make_model(tmp_path / "m")).requires_grad_(False)
    assert fits(model)
    original = model.forward

    def scaled(*args, **kwargs):
        labels = kwargs.pop("labels", None)
        output = original(*args, **kwargs)
        output.logits = output.logits * 0.5
        if labels is not None:
            output.loss = model.loss_function(output.logits, labels, vocab_size=model.config.vocab_size)
        return output

    model.forward = scaled
    assert not fits(model)


def test_supervised_losses_in_tiles_equal_those_in_one_piece(tmp_path, monkeypatch):
    import torch
    from transformers import AutoModelForCausalLM

    from workbench.training import losses

    model = AutoModelForCausalLM.from_pretrained(tiny.make_model(tmp_path / "m")).requires_grad_(False)
    ids = torch.arange(3, 63).view(2, 30)
    whole = supervised_losses(model, ids, ids)
    monkeypatch.setattr(losses, "TILE_CELLS", 400 * 7)
    tiled = supervised_losses(model, ids, ids)
    assert torch.allclose(whole[1], tiled[1], atol=1e-6)
    assert whole[2].tolist() == [0] * 29 + [1] * 29


def test_a_loss_that_is_no_number_ends_the_run_in_words(store, model, examples, tmp_path):
    job = new_job(store, tmp_path / "run")
    real = sft.supervised_losses

    def broken(*args):
        total, losses, rows = real(*args)
        return total * float("nan"), losses, rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "supervised_losses", broken)
        with pytest.raises(RunProblem, match=r"no longer a number.*learning_rate"):
            sft.train_sft(config(held_out=None), job)


def test_running_out_of_memory_is_told_in_words(store, model, examples, tmp_path, monkeypatch):
    def exhausted(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(sft, "supervised_losses", exhausted)
    monkeypatch.setattr(sft, "fits", lambda _: True)
    with pytest.raises(RunProblem, match=r"memory ran out.*tokens_per_batch"):
        sft.train_sft(config(), new_job(store, tmp_path / "run"))


def test_a_full_disk_at_a_checkpoint_is_told_and_the_run_can_go_on(store, model, examples, tmp_path, monkeypatch):
    import errno

    from workbench.training import checkpoints

    job = new_job(store, tmp_path / "run")
    real, calls = checkpoints._write_file, []

    def full(path, content):
        calls.append(path)
        if "checkpoint-2" in str(path) and path.name == "optimizer.pt":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(checkpoints, "_write_file", full)
    with pytest.raises(RunProblem, match="disk is full"):
        sft.train_sft(config(save_every=1), job)
    assert [path.name for path in (job.folder / "checkpoints").iterdir()] == ["checkpoint-1"]
    monkeypatch.setattr(checkpoints, "_write_file", real)
    assert sft.train_sft(config(save_every=1), RecordingJob(store, job.folder))["steps"] > 2


def test_layers_the_model_does_not_have_are_named(store, model, examples, tmp_path):
    with pytest.raises(UsageError, match="no linear layers of these names"):
        sft.train_sft(config(target_modules=("c_attn",)), new_job(store, tmp_path / "run"))


def test_an_adapter_can_be_trained_further(store, model, examples, tmp_path):
    adapter = tiny.make_adapter(tiny.make_model(tmp_path / "copy"), tmp_path / "adapter")
    variant = tiny.register_variant(store, model, adapter)
    result = sft.train_sft(config(epochs=1, adapter=variant.name), new_job(store, tmp_path / "run"))
    before, after = adapter_weights(adapter), adapter_weights(tmp_path / "run" / "adapter")
    assert before.keys() == after.keys()
    change = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert 0 < change < 0.5
    assert result["variant_id"] != variant.id


def test_a_resumed_run_keeps_to_the_version_it_began_with(store, model, examples, tmp_path):
    first = new_job(store, tmp_path / "run", stop_after=1)
    with pytest.raises(Stopped):
        sft.train_sft(config(), first)
    dataset, version = find_version(store, "rows")
    write_version(store, dataset.id, examples[:3], parent=version)
    assert latest_version(store, dataset.id).number == 2
    again = RecordingJob(store, first.folder)
    sft.train_sft(config(), again)
    assert any("16 training rows" in line or "20 training rows" in line for line in again.lines), again.lines


def test_without_held_out_rows_no_held_out_loss_is_told(store, model, examples, tmp_path):
    job = new_job(store, tmp_path / "run")
    result = sft.train_sft(config(held_out=None, epochs=1), job)
    assert result["eval_loss"] is None
    assert not series(job, "eval_loss")


def test_a_share_of_the_prompts_is_held_out(store, model, examples, tmp_path):
    job = new_job(store, tmp_path / "run")
    result = sft.train_sft(config(held_out=0.2, epochs=1), job)
    assert result["eval_loss"] > 0
    held = {json.loads(line)["row_id"] for line in (job.folder / "held_out_rows.jsonl").read_text().splitlines()}
    assert 2 <= len(held) <= 4


def test_rows_without_an_answer_stop_the_run_unless_overruled(store, model, examples, tmp_path):
    empty = Example(messages=(Message(role="user", content="hello there"),))
    write_version(store, create_dataset(store, "holes", "instructions").id, [*examples[:10], empty])
    with pytest.raises(DataProblem, match=r"1 of 11 rows have no token to learn.*overrule_gates"):
        sft.train_sft(config(dataset="holes"), new_job(store, tmp_path / "run"))
    job = new_job(store, tmp_path / "bold", "run_bold")
    assert sft.train_sft(config(dataset="holes", overrule_gates=True, epochs=1), job)["steps"] > 0


def test_held_out_rows_that_are_also_trained_on_stop_the_run(store, model, examples, tmp_path):
    with pytest.raises(DataProblem, match=r"4 of 4 rows of the held-out rows ask what a training row asks"):
        write_version(store, create_dataset(store, "both", "instructions").id, examples)
        sft.train_sft(config(dataset="both"), new_job(store, tmp_path / "run"))


def test_preferences_are_no_examples(store, model, examples, tmp_path):
    pair = {"chosen": (Message(role="assistant", content="a"),), "rejected": (Message(role="assistant", content="b"),)}
    row = Preference(prompt=(Message(role="user", content="q"),), **pair)
    write_version(store, create_dataset(store, "pairs", "preferences").id, [row])
    with pytest.raises(DataProblem, match="needs a dataset of instructions"):
        sft.train_sft(config(dataset="pairs"), new_job(store, tmp_path / "run"))


def test_checkpointed_activations_change_memory_and_not_the_losses(store, model, examples, tmp_path):
    plain, spared = new_job(store, tmp_path / "a", "run_a"), new_job(store, tmp_path / "b", "run_b")
    sft.train_sft(config(epochs=1), plain)
    sft.train_sft(config(epochs=1, gradient_checkpointing=True), spared)
    assert series(spared, "loss") == pytest.approx(series(plain, "loss"), abs=1e-6)


def test_a_base_in_bfloat16_trains_an_adapter_in_float32(store, model, examples, tmp_path):
    import torch

    job = new_job(store, tmp_path / "run")
    result = sft.train_sft(config(epochs=1, dtype="bfloat16"), job)
    assert series(job, "eval_loss")[result["steps"]] < series(job, "eval_loss")[0]
    assert all(weight.dtype == torch.float32 for weight in adapter_weights(job.folder / "adapter").values())


def test_a_short_run_does_not_waste_its_first_step_on_a_learning_rate_of_nothing(store, model, examples, tmp_path):
    job = new_job(store, tmp_path / "run")
    sft.train_sft(config(max_steps=3, warmup_ratio=0.05), job)
    assert series(job, "learning_rate")[1] == pytest.approx(5e-3)


def test_a_reward_model_cannot_be_gone_on_from(store, model, examples, tmp_path, monkeypatch):
    from workbench.training import reward_models

    made = reward_models.RewardModel.model_construct(run_id="run_r", name="my reward")
    monkeypatch.setattr(reward_models, "list_reward_models", lambda store: [made])
    for name in ("run_r", "my reward"):
        with pytest.raises(UsageError, match="this is a reward model"):
            sft.train_sft(config(adapter=name), new_job(store, tmp_path / name, run_id=f"run_{name[:2]}"))
