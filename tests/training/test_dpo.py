import json
import math
import warnings
from collections import Counter
from pathlib import Path

import pytest
import tiny
from pydantic import ValidationError

from workbench.datasets.versions import iter_rows, write_version
from workbench.errors import DataProblem, RunProblem, Stopped, UsageError
from workbench.job import RecordingJob
from workbench.records import Example, Message, Preference
from workbench.settings import get_settings
from workbench.store import models as model_store
from workbench.store.datasets import create_dataset, find_version
from workbench.store.runs import add_run
from workbench.training import dpo
from workbench.training.checkpoints import latest_checkpoint
from workbench.training.losses import fits, token_logps
from workbench.training.pairs import plan_sequences, render_pairs
from workbench.training.preference_configs import DPOConfig

WORDS = "red green blue the sea is wide and wind sings over one two three four five".split()


def say(role, text):
    return (Message(role=role, content=text),)


def make_preferences(count, weight=None):
    """The better answer counts up, the worse one counts down: something a small model can learn."""
    made = []
    for number in range(count):
        question = " ".join(WORDS[(number * 3 + k) % len(WORDS)] for k in range(2 + number % 5))
        made.append(
            Preference(
                prompt=say("user", f"{number} {question}"),
                chosen=say("assistant", " ".join(["one two three"] * (1 + number % 2))),
                rejected=say("assistant", " ".join(["five four three"] * (1 + number % 3))),
                weight=1.0 if weight is None else weight(number),
            )
        )
    return made


@pytest.fixture
def settings(home, monkeypatch):
    monkeypatch.setenv("WORKBENCH_THREADS", "1")
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def model(store, tmp_path):
    return tiny.register_model(store, tiny.make_model(tmp_path / "base"))


@pytest.fixture
def adapter(store, model, tmp_path):
    """An adapter to start from."""
    made = tiny.make_adapter(Path(model.path), tmp_path / "sft", scale=0.1)
    return tiny.register_variant(store, model, made)


@pytest.fixture
def preferences(store):
    made = make_preferences(20, weight=lambda number: [1, 1 / 3, 1 / 6][number % 3])
    write_version(store, create_dataset(store, "pairs", "preferences").id, made[:16])
    write_version(store, create_dataset(store, "apart", "preferences").id, made[16:])
    return made


def new_job(store, folder, run_id="run_test", stop_after=None):
    add_run(store, kind="dpo", name=run_id, slot="train", spec={}, run_id=run_id)
    return RecordingJob(store, folder, run_id=run_id, stop_after=stop_after)


def config(**changes):
    values = {
        "dataset": "pairs",
        "held_out": "apart",
        "model": "tiny",
        "preset": "custom",
        "epochs": 3,
        "learning_rate": 5e-3,
        "lora_r": 4,
        "lora_alpha": 8,
        "tokens_per_batch": 256,
        "seed": 7,
    }
    return DPOConfig(**(values | changes))


def series(job, name):
    return {step: value for step, key, value in job.points if key == name}


def adapter_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def rendered(store, model, max_length=1024):
    from workbench.datasets.render import load_renderer

    rows = iter_rows(store, find_version(store, "pairs")[1])
    return render_pairs(rows, load_renderer(model.path), max_length=max_length).pairs


def own_logits(folder, ids, adapter=None):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from workbench.models.loading import quiet_peft

    model = AutoModelForCausalLM.from_pretrained(folder)
    if adapter is not None:
        with quiet_peft():
            model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


# ---- learning ----


def test_margins_rise_and_a_variant_is_entered(store, model, preferences, tmp_path):
    job = new_job(store, tmp_path / "run")
    result = dpo.train_dpo(config(sample_prompts=("red green",)), job)
    steps = result["steps"]
    assert set(series(job, "loss")) == set(range(1, steps + 1))
    for name in ("reward_margin", "reward_accuracy", "reward_chosen", "reward_rejected", "logp_chosen", "grad_norm"):
        assert set(series(job, name)) == set(range(1, steps + 1)), name
    margins = series(job, "eval_reward_margin")
    assert margins[0] == pytest.approx(0, abs=1e-5) and margins[steps] > 0.5
    assert series(job, "eval_loss")[0] == pytest.approx(math.log(2), abs=1e-5)
    assert result["eval_loss"] == pytest.approx(series(job, "eval_loss")[steps]) and result["eval_loss"] < 0.5
    assert result["eval_accuracy"] == 1 and result["eval_margin"] == pytest.approx(margins[steps])
    assert series(job, "loss")[1] == pytest.approx(math.log(2), abs=1e-5)
    total = sum(pair.weight for pair in preferences[:16])
    assert series(job, "pair_weight")[steps] == pytest.approx(3 * total, rel=1e-5)
    assert series(job, "epoch")[steps] == 3
    assert {step for step, *_ in job.samples} >= {0, steps}
    variant = model_store.get_variant(store, result["variant_id"])
    assert (variant.run_id, variant.model_id) == (job.run_id, model.id)
    entries = [json.loads(line) for line in (job.folder / "held_out_rows.jsonl").read_text().splitlines()]
    assert len(entries) == 4 and entries[0]["loss"] >= entries[-1]["loss"]
    assert all(entry["margin"] > 0 and entry["tokens"] > 0 for entry in entries)


def test_what_the_trainer_is_fed_is_what_render_gives(store, model, preferences, tmp_path, monkeypatch):
    from workbench.datasets.render import load_renderer

    seen = Counter()
    real = dpo.trainer_class()

    class Spy(real):
        def training_step(self, model, inputs, *args, **kwargs):
            pairs = len(inputs["weights"])
            found = []
            for ids, mask, labels in zip(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], strict=True):
                length = int(mask.sum())
                assert mask[:length].all() and (labels[length:] == -100).all()
                found.append((tuple(ids[:length].tolist()), tuple(labels[:length].tolist())))
            for place in range(pairs):
                seen[found[place], found[pairs + place], round(float(inputs["weights"][place]), 4)] += 1
            return super().training_step(model, inputs, *args, **kwargs)

    monkeypatch.setattr(dpo, "trainer_class", lambda: Spy)
    dpo.train_dpo(config(epochs=2), new_job(store, tmp_path / "run"))
    renderer = load_renderer(model.path)
    expected = Counter()
    for each in preferences[:16]:
        sides = [renderer.render_prompt_completion(each.prompt, side) for side in (each.chosen, each.rejected)]
        expected[*((side.ids, tuple(side.labels)) for side in sides), round(each.weight, 4)] += 2
    assert seen == expected


def test_weights_change_the_loss_as_the_weighted_mean_says(store, model, preferences, tmp_path):
    import torch

    pairs = rendered(store, model)
    plan = plan_sequences(config(tokens_per_batch=4096), [pair.sides for pair in pairs])
    trainer = dpo.build_trainer(config(), new_job(store, tmp_path / "run"), model, None, pairs, plan)
    reference = torch.linspace(-9, -20, 2 * len(pairs)).tolist()
    entries = dpo.pair_entries(pairs, reference)
    batch = dpo.collate_pairs(entries)
    weights = torch.tensor([pair.weight for pair in pairs])
    assert len(set(weights.tolist())) == 3
    with torch.no_grad():
        whole = trainer.compute_loss(trainer.model, batch)
        alone = torch.stack([trainer.compute_loss(trainer.model, dpo.collate_pairs([entry])) for entry in entries])
    assert whole == pytest.approx(float((weights * alone).sum() / weights.sum()), abs=1e-6)
    assert whole != pytest.approx(float(alone.mean()), abs=1e-3)


# ---- equality with TRL ----


@pytest.fixture(scope="module")
def trl_trainer(tmp_path_factory):
    """Makes TRL's own trainer on the tiny model, a new adapter with weights that do something, and no dropout."""
    import torch
    import trl
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    disable_progress_bar()
    folder = tiny.make_model(tmp_path_factory.mktemp("trl") / "base")
    turn = [{"role": "user", "content": "red"}]
    table = Dataset.from_list(
        [
            {
                "prompt": turn,
                "chosen": [{"role": "assistant", "content": "one"}],
                "rejected": [{"role": "assistant", "content": "two three"}],
            }
        ]
    )

    def make(**settings):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = trl.DPOTrainer(
                model=AutoModelForCausalLM.from_pretrained(folder),
                args=trl.DPOConfig(
                    output_dir=str(tmp_path_factory.mktemp("out")), report_to="none", use_cpu=True, bf16=False,
                    gradient_checkpointing=False, **settings,
                ),
                train_dataset=table,
                processing_class=tokenizer,
                peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
            )  # fmt: skip
        torch.manual_seed(3)
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(0, 0.1)
        return trainer

    return make


def asked_of_trl(trainer, batch):
    with warnings.catch_warnings():  # it asks transformers by a deprecated name
        warnings.simplefilter("ignore", FutureWarning)
        return trainer.compute_loss(trainer.model, batch)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_the_loss_and_its_gradients_are_trls_on_an_unweighted_batch(
    store, model, preferences, tmp_path, trl_trainer, loss_type
):
    import torch

    pairs = rendered(store, model)
    theirs = trl_trainer(loss_type=[loss_type], beta=0.3)
    asked = config(loss_type=loss_type, beta=0.3, lora_r=4, lora_alpha=8)
    plan = plan_sequences(asked, [pair.sides for pair in pairs])
    ours = dpo.build_trainer(asked, new_job(store, tmp_path / "run"), model, None, pairs, plan)
    assert ours.fast
    reference = dpo.answer_logps(ours.model, [side for pair in pairs for side in pair.sides], 512, fast=True)
    their_state = theirs.model.state_dict()
    for name, weight in ours.model.state_dict().items():
        weight.copy_(their_state[name])
    entries = [entry | {"weight": 1.0} for entry in dpo.pair_entries(pairs, reference)]
    batch = dpo.collate_pairs(entries[:6])
    fed = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    fed["completion_mask"] = (batch["labels"] != -100).long()
    their_loss = asked_of_trl(theirs, fed)
    our_loss = ours.compute_loss(ours.model, batch)
    assert abs(float(our_loss.detach()) - float(their_loss.detach())) <= 1e-5
    assert abs(float(our_loss.detach()) - math.log(2)) > 1e-3
    their_loss.backward()
    our_loss.backward()
    slopes = {name: weight.grad for name, weight in theirs.model.named_parameters() if weight.requires_grad}
    assert slopes
    for name, weight in ours.model.named_parameters():
        if weight.requires_grad:
            assert torch.allclose(weight.grad, slopes[name], atol=1e-5), name
    told = {name: values[-1] for name, values in theirs._metrics["train"].items()}
    noted = {name: value / 6 for name, value in ours._noted.items()}
    for our_name, their_name in {
        "reward_margin": "rewards/margins",
        "reward_chosen": "rewards/chosen",
        "reward_rejected": "rewards/rejected",
        "reward_accuracy": "rewards/accuracies",
        "logp_chosen": "logps/chosen",
        "logp_rejected": "logps/rejected",
    }.items():
        assert noted[our_name] == pytest.approx(told[their_name], abs=1e-4), our_name


def test_smoothing_is_trls_pair_by_pair(trl_trainer):
    """TRL smooths in its `aot` loss, which is the conservative DPO loss where a batch is one pair."""
    import torch

    theirs = trl_trainer(loss_type=["aot"], beta=0.2, label_smoothing=0.1)
    ids = torch.arange(3, 3 + 24).view(2, 12)
    mask = torch.zeros_like(ids)
    mask[0, 5:] = mask[1, 7:] = 1
    fed = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask}
    with torch.no_grad():
        loss = asked_of_trl(theirs, fed)
        labels = ids.masked_fill(mask == 0, -100)
        asked = {"attention_mask": fed["attention_mask"], "fast": False}
        policy = token_logps(theirs.model, ids, labels, **asked).sum(1)
        with theirs.model.disable_adapter():
            reference = token_logps(theirs.model, ids, labels, **asked).sum(1)
    ratios = (policy - reference).chunk(2)
    own = dpo.dpo_losses(ratios, (mask[:1].sum(1), mask[1:].sum(1)), beta=0.2, label_smoothing=0.1)
    assert float(own[0]) == pytest.approx(float(loss), abs=1e-5)


@pytest.mark.parametrize("tile", [None, 400 * 7])
def test_log_probs_in_tiles_equal_those_of_full_logits_and_so_do_gradients(tmp_path, monkeypatch, tile):
    import torch
    from transformers import AutoModelForCausalLM

    from workbench.training import losses

    model = AutoModelForCausalLM.from_pretrained(tiny.make_model(tmp_path / "m"))
    model.lm_head.requires_grad_(False)
    assert fits(model)
    if tile:
        monkeypatch.setattr(losses, "TILE_CELLS", tile)
    ids = torch.arange(3, 63).view(3, 20)
    labels = ids.clone()
    labels[0, :8] = labels[1, :15] = labels[2, 12:] = labels[2, :3] = -100
    mask = torch.ones_like(ids)
    slopes = torch.tensor([1.0, -2.5, 0.3])
    found = []
    for fast in (True, False):
        model.zero_grad()
        logps = token_logps(model, ids, labels, attention_mask=mask, fast=fast)
        (logps.sum(1) * slopes).sum().backward()
        found.append((logps.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (ours, our_slopes), (whole, their_slopes) = found
    assert torch.allclose(ours, whole, atol=1e-5) and (ours[labels[:, 1:] == -100] == 0).all()
    chances = model(input_ids=ids).logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    assert torch.allclose(ours, chances * (labels[:, 1:] != -100), atol=1e-5)
    for one, other in zip(our_slopes, their_slopes, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


# ---- stopping and going on ----


@pytest.mark.parametrize("on_top", [None, "continue", "stack"])
def test_a_stopped_run_goes_on_exactly_as_if_it_had_not_been_stopped(
    store, model, adapter, preferences, tmp_path, on_top
):
    start = {} if on_top is None else {"adapter": adapter.name, "on_top": on_top}
    settings = config(lora_dropout=0.1, gradient_accumulation_steps=2, sample_prompts=("blue",), eval_every=2, **start)
    whole = new_job(store, tmp_path / "whole", "run_whole")
    expected = dpo.train_dpo(settings, whole)
    first = new_job(store, tmp_path / "cut", "run_cut", stop_after=2)
    with pytest.raises(Stopped):
        dpo.train_dpo(settings, first)
    stopped_at = max(series(first, "loss"))
    assert stopped_at == 3 < expected["steps"]
    assert latest_checkpoint(first.folder / "checkpoints").name == f"checkpoint-{stopped_at}"
    kept = (first.folder / "reference_logps.json").read_bytes()
    second = RecordingJob(store, first.folder, run_id="run_cut")
    dpo.train_dpo(settings, second)
    assert (first.folder / "reference_logps.json").read_bytes() == kept
    for name in ("loss", "reward_margin", "logp_chosen"):
        joined = series(first, name) | series(second, name)
        assert joined == pytest.approx(series(whole, name), abs=1e-6), name
    ours, theirs = adapter_weights(first.folder / "adapter"), adapter_weights(whole.folder / "adapter")
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() <= 1e-6, name


def test_a_lost_reference_file_is_computed_anew_from_the_same_start(store, model, preferences, tmp_path):
    job = new_job(store, tmp_path / "run", stop_after=2)
    with pytest.raises(Stopped):
        dpo.train_dpo(config(), job)
    path = job.folder / "reference_logps.json"
    kept = json.loads(path.read_text())["logps"]
    path.write_text("{ damaged")
    dpo.train_dpo(config(), RecordingJob(store, job.folder))
    assert json.loads(path.read_text())["logps"] == pytest.approx(kept, abs=1e-6)


def test_a_full_disk_is_told_and_the_run_can_go_on(store, model, preferences, tmp_path, monkeypatch):
    import errno

    from workbench.training import checkpoints

    job = new_job(store, tmp_path / "run")
    real = checkpoints._write_file

    def full(path, content):
        if "checkpoint-2" in str(path) and path.name == "optimizer.pt":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(checkpoints, "_write_file", full)
    with pytest.raises(RunProblem, match="disk is full"):
        dpo.train_dpo(config(save_every=1), job)
    assert [path.name for path in (job.folder / "checkpoints").iterdir()] == ["checkpoint-1"]
    monkeypatch.setattr(checkpoints, "_write_file", real)
    assert dpo.train_dpo(config(save_every=1), RecordingJob(store, job.folder))["steps"] > 2


# ---- starting from an adapter ----


def test_an_adapter_that_goes_on_is_its_own_reference(store, model, adapter, preferences, tmp_path):
    job = new_job(store, tmp_path / "run")
    result = dpo.train_dpo(config(adapter=adapter.name), job)
    assert series(job, "loss")[1] == pytest.approx(math.log(2), abs=1e-5)
    assert series(job, "eval_reward_margin")[0] == pytest.approx(0, abs=1e-4)
    before, after = adapter_weights(Path(adapter.adapter_path)), adapter_weights(job.folder / "adapter")
    assert before.keys() == after.keys()
    assert 0 < max(float((after[name] - before[name]).abs().max()) for name in before) < 1
    assert result["variant_id"] != adapter.id


@pytest.mark.parametrize(
    ("beneath", "above"),
    [({}, {}), ({"use_rslora": True, "r": 3}, {}), ({"targets": ["q_proj", "down_proj"]}, {"use_rslora": True})],
)
def test_a_stacked_adapter_is_published_as_one_with_the_same_logits(
    store, model, preferences, tmp_path, monkeypatch, beneath, above
):
    import torch

    made = tiny.make_adapter(Path(model.path), tmp_path / "sft", scale=0.1, **beneath)
    start = tiny.register_variant(store, model, made)
    ids = torch.arange(3, 60)[None]
    kept = {}
    real = dpo.join_stacked

    def before_joining(trained):
        with torch.no_grad():
            kept["stacked"] = trained.eval()(input_ids=ids).logits
        return real(trained)

    monkeypatch.setattr(dpo, "join_stacked", before_joining)
    job = new_job(store, tmp_path / "run")
    settings = config(adapter=start.name, on_top="stack", lora_r=5, lora_dropout=0.1, **above)
    result = dpo.train_dpo(settings, job)
    assert series(job, "loss")[1] == pytest.approx(math.log(2), abs=1e-5)
    joined = own_logits(model.path, ids, result["adapter_path"])
    assert torch.allclose(joined, kept["stacked"], atol=1e-4)
    below = own_logits(model.path, ids, made)
    assert (joined - below).abs().max() > 0.01 < (joined - own_logits(model.path, ids)).abs().max()
    facts = json.loads((Path(result["adapter_path"]) / "adapter_config.json").read_text())
    assert facts["r"] == 5 + beneath.get("r", 4) == facts["lora_alpha"] and not facts["use_rslora"]
    for name in (job.folder / "checkpoints").iterdir():
        assert not any("beneath" in key for key in adapter_weights(name))


def test_a_stack_on_a_half_precision_base_is_joined_in_full_precision(store, model, adapter, preferences, tmp_path):
    import torch

    job = new_job(store, tmp_path / "run")
    result = dpo.train_dpo(config(adapter=adapter.name, on_top="stack", dtype="bfloat16", epochs=1), job)
    weights = adapter_weights(Path(result["adapter_path"]))
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    beneath = adapter_weights(Path(adapter.adapter_path))
    name = next(key for key in beneath if "lora_A" in key)
    assert torch.equal(weights[name][-4:], beneath[name] * 2)  # alpha / r = 2 is folded in


def test_nothing_of_the_adapter_beneath_is_learned_or_dropped(store, model, preferences, tmp_path):
    made = tiny.make_adapter(Path(model.path), tmp_path / "sft")
    config_path = made / "adapter_config.json"
    config_path.write_text(json.dumps(json.loads(config_path.read_text()) | {"lora_dropout": 0.9}))
    start = tiny.register_variant(store, model, made)
    pairs = rendered(store, model)
    settings = config(adapter=start.name, on_top="stack")
    plan = plan_sequences(settings, [pair.sides for pair in pairs])
    trainer = dpo.build_trainer(settings, new_job(store, tmp_path / "run"), model, start, pairs, plan)
    learned = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    assert learned and all(".default." in name for name in learned)
    batch = dpo.collate_pairs(dpo.pair_entries(pairs, [-9.0] * (2 * len(pairs))))
    trainer.model.train()
    first, again = (trainer.compute_loss(trainer.model, batch).detach() for _ in range(2))
    assert float(first) == float(again)


def test_dora_cannot_be_stacked(store, model, preferences, tmp_path):
    made = tiny.make_adapter(Path(model.path), tmp_path / "dora", use_dora=True)
    start = tiny.register_variant(store, model, made, name="dora")
    with pytest.raises(UsageError, match=r"DoRA.*no other can be stacked.*continue"):
        dpo.train_dpo(config(adapter=start.name, on_top="stack"), new_job(store, tmp_path / "run"))
    with pytest.raises(UsageError, match="DoRA adapter cannot be stacked"):
        config(adapter="x", on_top="stack", use_dora=True)
    job = new_job(store, tmp_path / "on", "run_on")
    assert dpo.train_dpo(config(adapter=start.name, epochs=1), job)["steps"] > 0


def test_an_adapter_of_another_base_is_refused(store, model, preferences, tmp_path):
    other = tiny.register_model(store, tiny.make_model(tmp_path / "other", seed=5), name="other")
    made = tiny.make_adapter(Path(other.path), tmp_path / "theirs")
    start = tiny.register_variant(store, other, made, name="theirs")
    with pytest.raises(UsageError, match=r"no adapter over this base.*theirs"):
        dpo.train_dpo(config(adapter=start.name), new_job(store, tmp_path / "run"))


# ---- what cannot be learned from ----


def write_pairs(store, rows, name="odd"):
    write_version(store, create_dataset(store, name, "preferences").id, rows)
    return name


def test_equal_sides_and_ties_are_left_out_and_told(store, model, preferences, tmp_path):
    same = Preference(prompt=say("user", "q"), chosen=say("assistant", "a"), rejected=say("assistant", "a"))
    tie = make_preferences(30)[-1].model_copy(update={"weight": 0.0})
    name = write_pairs(store, [*preferences[:8], same, tie])
    job = new_job(store, tmp_path / "run")
    assert dpo.train_dpo(config(dataset=name, epochs=1), job)["pairs"] == 8
    assert any("8 pairs (1 with equal sides, 1 of weight 0 left out)" in line for line in job.lines), job.lines


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_data_of_nothing_but_ties_or_equal_sides_is_refused(store, model, preferences, tmp_path, weight):
    rows = [
        each.model_copy(update={"weight": weight} if weight == 0 else {"rejected": each.chosen})
        for each in preferences[:4]
    ]
    name = write_pairs(store, rows)
    with pytest.raises(DataProblem, match="weigh nothing" if weight == 0 else "two sides"):
        dpo.train_dpo(config(dataset=name), new_job(store, tmp_path / "run"))
    with pytest.raises(DataProblem, match="no pair has anything to learn from"):
        dpo.train_dpo(config(dataset=name, overrule_gates=True), new_job(store, tmp_path / "b", "run_b"))


def test_one_prompt_cannot_be_split_but_can_be_trained_on(store, model, tmp_path):
    first = make_preferences(1)[0]
    rows = [first.model_copy(update={"rejected": say("assistant", f"{word} five")}) for word in WORDS[:6]]
    name = write_pairs(store, rows)
    with pytest.raises(DataProblem, match=r"same prompt.*hold nothing out"):
        dpo.train_dpo(config(dataset=name, held_out=0.2), new_job(store, tmp_path / "run"))
    job = new_job(store, tmp_path / "bold", "run_bold")
    assert dpo.train_dpo(config(dataset=name, held_out=None, epochs=1), job)["eval_loss"] is None


def test_a_maximum_length_below_the_prompts_is_refused(store, model, preferences, tmp_path):
    with pytest.raises(DataProblem, match=r"prompt that fills the maximum length.*Raise the maximum length"):
        dpo.train_dpo(config(max_length=12), new_job(store, tmp_path / "run"))


def test_a_learning_rate_beyond_all_reason_is_refused_at_once():
    with pytest.raises((ValidationError, UsageError)):
        config(learning_rate=1e9)


def test_what_does_not_hold_for_new_prompts_is_told(store, model, preferences, tmp_path):
    turned = [each.model_copy(update={"chosen": each.rejected, "rejected": each.chosen}) for each in preferences[16:]]
    job = new_job(store, tmp_path / "run")
    dpo.train_dpo(config(held_out=write_pairs(store, turned, "turned")), job)
    assert any("above the 0.693 of the model it started from" in line for line in job.lines)


def test_a_loss_that_is_no_number_ends_the_run_in_words(store, model, preferences, tmp_path, monkeypatch):
    real = dpo.dpo_losses
    monkeypatch.setattr(dpo, "dpo_losses", lambda *sides, **how: real(*sides, **how) * float("nan"))
    with pytest.raises(RunProblem, match=r"no longer a number.*diverged.*learning_rate"):
        dpo.train_dpo(config(held_out=None), new_job(store, tmp_path / "run"))


def test_examples_are_no_preferences(store, model, preferences, tmp_path):
    turns = Example(messages=(*say("user", "q"), *say("assistant", "a")))
    write_version(store, create_dataset(store, "rows", "instructions").id, [turns])
    with pytest.raises(DataProblem, match="needs a dataset of preferences"):
        dpo.train_dpo(config(dataset="rows"), new_job(store, tmp_path / "run"))


@pytest.mark.parametrize("values", [{"beta": 0}, {"label_smoothing": 0.1, "loss_type": "ipo"}, {"held_out": 1.5}])
def test_settings_out_of_bounds_are_refused(values):
    with pytest.raises((ValidationError, UsageError)):
        config(**values)


def test_presets_fill_what_is_left_open():
    chosen = DPOConfig(dataset="pairs", preset="quick")
    assert (chosen.learning_rate, chosen.epochs) == (1e-4, 1)
    assert DPOConfig(dataset="pairs").learning_rate == 5e-5


def test_checkpointed_activations_change_memory_and_not_the_losses(store, model, preferences, tmp_path):
    plain, spared = new_job(store, tmp_path / "a", "run_a"), new_job(store, tmp_path / "b", "run_b")
    dpo.train_dpo(config(epochs=1), plain)
    dpo.train_dpo(config(epochs=1, gradient_checkpointing=True), spared)
    assert series(spared, "loss") == pytest.approx(series(plain, "loss"), abs=1e-6)


def test_accumulated_batches_count_by_their_pairs_weights(store, model, preferences, tmp_path):
    """One step over all pairs gives the same adapter whether it is one batch or several."""
    whole, parts = new_job(store, tmp_path / "a", "run_a"), new_job(store, tmp_path / "b", "run_b")
    dpo.train_dpo(config(epochs=1, tokens_per_batch=4096), whole)
    dpo.train_dpo(config(epochs=1, gradient_accumulation_steps=64), parts)
    assert series(parts, "loss")[1] == pytest.approx(series(whole, "loss")[1], abs=1e-6)
    assert series(parts, "grad_norm")[1] == pytest.approx(series(whole, "grad_norm")[1], rel=1e-4)
    assert series(parts, "logp_chosen")[1] == pytest.approx(series(whole, "logp_chosen")[1], rel=1e-5)
