import json
import math
import warnings
from collections import Counter
from pathlib import Path

import pytest
import tiny
from pydantic import ValidationError

from tests.preferences.voting import make_queue, rank
from workbench.datasets.versions import iter_rows, write_version
from workbench.errors import DataProblem, RunProblem, Stopped, UsageError
from workbench.job import RecordingJob
from workbench.preferences.labels import Label, net_weight, ranking_labels, row_labels
from workbench.preferences.pairs import build_labels, build_preferences, iter_labels, load_ranked
from workbench.records import Labelled, Message, Preference, Row
from workbench.settings import get_settings
from workbench.store import rankings as rank_store
from workbench.store.datasets import create_dataset, find_version, get_version
from workbench.store.runs import add_run
from workbench.training import kto
from workbench.training.labels import LabelledAnswer, render_labels
from workbench.training.pairs import plan_sequences
from workbench.training.preference_configs import KTOConfig

WORDS = "red green blue the sea is wide and wind sings over one two three four five".split()


def say(role, text):
    return (Message(role=role, content=text),)


def make_preferences(count):
    made = []
    for number in range(count):
        question = " ".join(WORDS[(number * 3 + k) % len(WORDS)] for k in range(2 + number % 5))
        made.append(
            Preference(
                prompt=say("user", f"{number} {question}"),
                chosen=say("assistant", " ".join(["one two three"] * (1 + number % 2))),
                rejected=say("assistant", " ".join(["five four three"] * (1 + number % 3))),
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
def preferences(store):
    made = make_preferences(20)
    write_version(store, create_dataset(store, "pairs", "preferences").id, made[:16])
    write_version(store, create_dataset(store, "apart", "preferences").id, made[16:])
    return made


def new_job(store, folder, run_id="run_test", stop_after=None):
    add_run(store, kind="kto", name=run_id, slot="train", spec={}, run_id=run_id)
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
    return KTOConfig(**(values | changes))


def series(job, name):
    return {step: value for step, key, value in job.points if key == name}


def adapter_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def renderer_of(model):
    from workbench.datasets.render import load_renderer

    return load_renderer(model.path)


def rendered(store, model):
    rows = iter_rows(store, find_version(store, "pairs")[1])
    return render_labels(row_labels(rows), renderer_of(model), max_length=1024).answers


def read_answers(model, answers):
    """(prompt's last word, answer, label) as people read them."""
    renderer = renderer_of(model)
    return {
        (
            renderer.decode(answer.row.ids[: answer.start]).split("\n")[1].strip(),
            renderer.decode(answer.row.ids[answer.start :]).strip(),
            answer.desirable,
        )
        for answer in answers
    }


# ---- learning ----


def test_good_answers_rise_above_bad_ones_and_a_variant_is_entered(store, model, preferences, tmp_path):
    job = new_job(store, tmp_path / "run")
    result = kto.train_kto(config(sample_prompts=("red green",)), job)
    steps = result["steps"]
    assert (result["answers"], result["desirable"]) == (32, 16)
    for name in ("loss", "kl", "reward_margin", "reward_chosen", "reward_rejected", "logp_chosen", "logp_rejected"):
        assert series(job, name), name
    margins = series(job, "eval_reward_margin")
    assert margins[0] == pytest.approx(0, abs=1e-4) and margins[steps] > 0.5
    assert series(job, "eval_loss")[0] == pytest.approx(0.5, abs=1e-5)
    assert series(job, "loss")[1] == pytest.approx(0.5, abs=1e-5)
    assert series(job, "kl")[1] == pytest.approx(0, abs=1e-5) and all(
        value >= 0 for value in series(job, "kl").values()
    )
    assert result["eval_loss"] == pytest.approx(series(job, "eval_loss")[steps]) and result["eval_loss"] < 0.45
    assert series(job, "answer_weight")[steps] == 3 * 32
    assert {step for step, *_ in job.samples} >= {0, steps}
    entries = [json.loads(line) for line in (job.folder / "held_out_rows.jsonl").read_text().splitlines()]
    assert len(entries) == 8 and sum(entry["good"] for entry in entries) == 4


def test_what_the_trainer_is_fed_is_what_render_gives(store, model, preferences, tmp_path, monkeypatch):
    seen, crossed = Counter(), []
    real = kto.trainer_class()

    def rows_of(inputs, prefix):
        for ids, mask, labels in zip(
            *(inputs[prefix + key] for key in ("input_ids", "attention_mask", "labels")), strict=True
        ):
            length = int(mask.sum())
            assert mask[:length].all() and (labels[length:] == -100).all()
            yield tuple(ids[:length].tolist()), tuple(labels[:length].tolist())

    class Spy(real):
        def training_step(self, model, inputs, *args, **kwargs):
            own = list(rows_of(inputs, ""))
            for row, good in zip(own, inputs["desirable"].tolist(), strict=True):
                seen[row, good] += 1
            crossed.append((own, list(rows_of(inputs, "mismatched_"))))
            return super().training_step(model, inputs, *args, **kwargs)

    monkeypatch.setattr(kto, "trainer_class", lambda: Spy)
    kto.train_kto(config(epochs=2), new_job(store, tmp_path / "run"))
    renderer = renderer_of(model)
    expected = Counter()
    for each in preferences[:16]:
        for answer, good in ((each.chosen, True), (each.rejected, False)):
            made = renderer.render_prompt_completion(each.prompt, answer)
            expected[(made.ids, tuple(made.labels)), good] += 2
    assert seen == expected
    for own, others in crossed:
        assert len(own) > 1
        for place, (ids, labels) in enumerate(others):
            mine, theirs = own[place], own[place - 1]
            start = next(at for at, label in enumerate(mine[1]) if label != -100)
            begins = next(at for at, label in enumerate(theirs[1]) if label != -100)
            assert ids == mine[0][:start] + theirs[0][begins:]
            assert labels == (-100,) * start + theirs[1][begins:]


# ---- equality with TRL ----


@pytest.fixture(scope="module")
def trl_trainer(tmp_path_factory):
    import torch
    import trl
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    disable_progress_bar()
    folder = tiny.make_model(tmp_path_factory.mktemp("trl") / "base")
    table = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": "red"}],
                "completion": [{"role": "assistant", "content": text}],
                "label": label,
            }
            for text, label in (("one", True), ("two three", False))
        ]
    )

    def make(**settings):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = trl.KTOTrainer(
                model=AutoModelForCausalLM.from_pretrained(folder),
                args=trl.KTOConfig(
                    output_dir=str(tmp_path_factory.mktemp("out")), report_to="none", use_cpu=True, bf16=False,
                    gradient_checkpointing=False, per_device_train_batch_size=2, **settings,
                ),
                train_dataset=table,
                processing_class=AutoTokenizer.from_pretrained(folder),
                peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
            )  # fmt: skip
        torch.manual_seed(3)
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(0, 0.1)
        return trainer

    return make


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_the_loss_its_baseline_and_its_gradients_are_trls_on_the_same_batch(
    store, model, preferences, tmp_path, trl_trainer, seed
):
    import random

    import torch

    answers = list(rendered(store, model))
    random.Random(seed).shuffle(answers)
    answers = answers[:7]
    how = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.7}
    theirs, asked = trl_trainer(**how), config(**how)
    plan = plan_sequences(asked, [[answer.row] for answer in answers])
    job = new_job(store, tmp_path / "run")
    ours = kto.build_preference_trainer(kto.trainer_class(), asked, job, model, None, plan)
    ours.config = asked
    assert ours.fast
    batches = kto.AnswerBatches(answers, [tuple(range(7))], 1024)
    batches.reference = kto.reference_logps(
        job, ours.model, batches.lengths(), batches.sequence, tokens_per_batch=512, fast=True
    )
    their_state = theirs.model.state_dict()
    for name, weight in ours.model.state_dict().items():
        weight.copy_(their_state[name])
    batch = batches.collate(range(7))
    fed = {"label": batch["desirable"]}
    for prefix, name in (("", ""), ("mismatched_", "KL_")):
        for key in ("input_ids", "attention_mask"):
            fed[name + key] = batch[prefix + key]
        fed[f"{name}completion_mask"] = (batch[f"{prefix}labels"] != -100).long()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        their_loss = theirs.compute_loss(theirs.model, fed)
    ours.good, ours.bad, ours.step_weight = int(batch["desirable"].sum()), int((~batch["desirable"]).sum()), 7.0
    our_loss = ours.compute_loss(ours.model, batch)
    assert abs(float(our_loss.detach()) - float(their_loss.detach())) <= 1e-5
    their_loss.backward()
    our_loss.backward()
    slopes = {name: weight.grad for name, weight in theirs.model.named_parameters() if weight.requires_grad}
    for name, weight in ours.model.named_parameters():
        if weight.requires_grad:
            assert torch.allclose(weight.grad, slopes[name], atol=1e-5), name
    told = {name: values[-1] for name, values in theirs._metrics["train"].items()}
    for our_name, their_name in {
        "kl": "kl",
        "reward_margin": "rewards/margins",
        "reward_chosen": "rewards/chosen",
        "reward_rejected": "rewards/rejected",
        "logp_chosen": "logps/chosen",
        "logp_rejected": "logps/rejected",
    }.items():
        assert (our_name in ours._noted) == (their_name in told)  # a batch may hold only good or only bad answers
        if their_name in told:
            assert ours._noted[our_name] / 7 == pytest.approx(told[their_name], abs=1e-4), our_name


def test_mismatched_answers_are_paired_as_trl_pairs_them(trl_trainer):
    rows = trl_trainer().train_dataset
    assert kto.partners([4, 8, 6], 9) == [6, 4, 8]
    assert rows["KL_completion_ids"][:2] == [rows["completion_ids"][1], rows["completion_ids"][0]]
    assert kto.partners([8], 9) == [0] and kto.partners([3], 9) == [4]


def test_the_baseline_is_never_below_nothing_and_bad_answers_mirror_good_ones():
    import torch

    ratios = torch.tensor([0.5, 0.5, -2.0])
    good = torch.tensor([True, False, False])
    found = kto.kto_losses(ratios, good, torch.tensor(0.5), beta=1.0, desirable_weight=2.0)
    assert found.tolist() == pytest.approx([2 * 0.5, 0.5, 1 / (1 + math.exp(2.5))])


# ---- labels ----


def labels_of(*said):
    return [
        Label(source=source, row_id="", prompt=say("user", prompt), answer=say("assistant", text), good=good)
        for source, prompt, text, good in said
    ]


def test_an_answer_to_a_prompt_counts_once_and_the_middle_of_a_ranking_says_nothing(store, model):
    three = [("rk", "q", "a", True), ("rk", "q", "b", False), ("rk", "q", "a", True), ("rk", "q", "c", False),
             ("rk", "q", "b", True), ("rk", "q", "c", False)]  # fmt: skip
    found = render_labels(labels_of(*three), renderer_of(model), max_length=512)
    assert read_answers(model, found.answers) == {("q", "a", True), ("q", "c", False)}
    assert (found.contested, found.desirable) == (1, 1)
    assert found.in_words() == "1 good and 1 bad answers (1 called good as often as bad left out)"
    again = labels_of(*three, ("two", "q", "b", False), ("three", "q", "a", False), ("four", "q", "a", True))
    more = render_labels(again, renderer_of(model), max_length=512)
    assert read_answers(model, more.answers) == {("q", "a", True), ("q", "b", False), ("q", "c", False)}
    even = labels_of(("one", "q", "a", True), ("two", "q", "a", False), ("two", "other", "a", False))
    assert read_answers(model, render_labels(even, renderer_of(model), max_length=512).answers) == {
        ("other", "a", False)
    }


def version_of_rankings(store):
    """Twelve prompts ranked best to worst; then one all bad, and one with a rater's own version."""
    queue = make_queue(store, prompts=14)
    items = rank_store.list_items(store, [queue.id])
    for item in items[:12]:
        rank(store, item, [[0], [1], [2]])
    rank(store, items[12], [], all_bad=True)
    rank(store, items[13], [[0, 1, 2]], edited="mine is better")
    return queue, items, build_preferences(store, [queue.name], "ranked", held_out=0.2)


def test_rankings_bring_what_is_all_bad_and_what_raters_wrote(store, model, tmp_path):
    queue, items, built = version_of_rankings(store)
    rows = list(iter_rows(store, built.train))
    found = ranking_labels(store, get_version(store, built.train.id), rows)
    aside = ranking_labels(store, get_version(store, built.held_out.id), list(iter_rows(store, built.held_out)))
    both = [*found, *aside]
    assert sorted(label.answer[0].content for label in both if label.good) == ["mine is better"]
    bad = [label for label in both if not label.good]
    assert {label.prompt for label in bad} == {items[12].prompt} and len(bad) == len(items[12].completions)
    assert all(label.row_id == "" and label.source.startswith("rk_") for label in both)
    held = {row.payload.prompt for row in iter_rows(store, built.held_out)}
    assert not held & {label.prompt for label in found}


def test_answers_that_are_each_unusable_are_brought_as_those_that_are_all_bad(store):
    queue = make_queue(store, prompts=2)
    first, second = rank_store.list_items(store, [queue.id])
    rank(store, first, [[0], [1], [2]])
    rank(store, second, [], unusable=list(second.completions))
    built = build_preferences(store, [queue.name], "ranked", held_out=0.0)
    found = ranking_labels(store, built.train, list(iter_rows(store, built.train)))
    assert [(label.prompt, label.good, label.weight) for label in found] == [
        (second.prompt, False, pytest.approx(1 / 3))
    ] * 3


def test_a_version_and_what_its_rankings_add_say_what_the_rankings_say(store, model):
    queue, _, _ = version_of_rankings(store)
    whole = build_preferences(store, [queue.name], "whole", held_out=0.0)
    rows = list(iter_rows(store, whole.train))
    labels = [*row_labels(rows), *ranking_labels(store, whole.train, rows)]
    found = render_labels(labels, renderer_of(model), max_length=512)
    expected = {
        (each.prompt[0].content, each.completion[0].content, each.label)
        for each in iter_labels(load_ranked(store, [queue.name], held_out=0.0))
    }
    assert read_answers(model, found.answers) == expected
    labelled = build_labels(store, [queue.name], "labelled", held_out=0.0)
    rows = list(iter_rows(store, labelled.train))
    assert ranking_labels(store, labelled.train, rows) == []  # the version holds all that the rankings say
    alone = render_labels(row_labels(rows), renderer_of(model), max_length=512)
    weights = [{answer.row.ids: answer.weight for answer in each.answers} for each in (found, alone)]
    assert weights[0] == pytest.approx(weights[1]) and read_answers(model, alone.answers) == expected
    assert found.contested == 12  # the second of three, each time


def test_what_rankings_add_is_pinned_at_the_first_start(store, model, tmp_path):
    queue, items, _ = version_of_rankings(store)
    asked = config(dataset="ranked", held_out=None, epochs=1)
    job = new_job(store, tmp_path / "run", stop_after=1)
    with pytest.raises(Stopped):
        kto.train_kto(asked, job)
    kept = (job.folder / "ranking_labels.jsonl").read_text()
    assert kept
    for item in items[:4]:
        rank(store, item, [], rater="Eve", all_bad=True)
    second = RecordingJob(store, job.folder)
    result = kto.train_kto(asked, second)
    assert (job.folder / "ranking_labels.jsonl").read_text() == kept
    assert second.lines[0] == job.lines[0] or second.lines[1] == job.lines[1]
    fresh = kto.train_kto(asked, new_job(store, tmp_path / "fresh", "run_fresh"))
    assert fresh["answers"] - fresh["desirable"] != result["answers"] - result["desirable"]


def labelled(prompt, answer, label, weight=1.0):
    return Labelled(prompt=say("user", prompt), completion=say("assistant", answer), label=label, weight=weight)


def write_labels(store, rows, name="told"):
    write_version(store, create_dataset(store, name, "labels").id, rows)
    return name


def as_rows(payloads):
    return [Row(row_id=f"r{n}", row_hash="", payload=payload) for n, payload in enumerate(payloads)]


def test_votes_between_sources_count_by_weight():
    assert net_weight({"one": [(True, 0.5)], "two": [(True, 1.0)]}) == 1.5
    assert net_weight({"one": [(True, 0.5)], "two": [(False, 2.0)]}) == -1.5
    assert net_weight({"one": [(True, 1 / 3), (True, 1 / 3)], "two": [(False, 2 / 3)]}) == 0
    assert net_weight({"one": [(True, 0.5), (False, 0.1)]}) == 0  # the middle of a ranking
    assert net_weight({"one": [(True, 0.5), (False, 0.1)], "two": [(False, 0.2)]}) == -0.2


def test_a_row_of_twice_the_weight_is_the_row_twice(store, model):
    good, bad = labelled("red", "one", True, 0.7), labelled("red", "two", False, 0.7)
    twice = render_labels(row_labels(as_rows([good, good, bad])), renderer_of(model), max_length=512)
    heavy = good.model_copy(update={"weight": 1.4})
    once = render_labels(row_labels(as_rows([heavy, bad])), renderer_of(model), max_length=512)
    assert [answer.weight for answer in twice.answers] == pytest.approx([answer.weight for answer in once.answers])
    assert [answer.weight for answer in once.answers] == pytest.approx([1.4, 0.7])
    pair = make_preferences(1)[0].model_copy(update={"weight": 0.25})
    said = render_labels(row_labels(as_rows([pair, pair])), renderer_of(model), max_length=512).answers
    assert [(answer.desirable, answer.weight) for answer in said] == [(True, 0.5), (False, 0.5)]


def test_the_loss_is_the_weighted_mean_and_twice_the_weight_counts_like_two_answers(
    store, model, tmp_path, monkeypatch
):
    import torch

    rows = [labelled("red", "one", True), labelled("red", "two three", False), labelled("blue", "five", True)]
    answers = list(render_labels(row_labels(as_rows(rows)), renderer_of(model), max_length=512).answers)
    asked = config(desirable_weight=1.5, beta=0.5)
    job = new_job(store, tmp_path / "run")
    plan = plan_sequences(asked, [[answer.row] for answer in answers])
    trainer = kto.build_preference_trainer(kto.trainer_class(), asked, job, model, None, plan)
    trainer.config = asked
    torch.manual_seed(3)
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.3)
    real = type(trainer).logps

    def logps(self, model, inputs, prefix=""):  # a given z0: other rows in the batch would give another
        return inputs["mismatched_reference"] + 0.4 if prefix else real(self, model, inputs)

    monkeypatch.setattr(type(trainer), "logps", logps)

    def measured(weighted):
        batches = kto.AnswerBatches(weighted, [tuple(range(len(weighted)))], 512)
        batches.reference = [-3.0] * batches.sequences
        batch = batches.collate(range(len(weighted)))
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=trainer.weight_of(batch))
        loss.backward()
        slopes = torch.cat([w.grad.flatten() for w in trainer.model.parameters() if w.grad is not None])
        return float(loss.detach()), slopes, trainer.measure(trainer.model, batch)

    def weigh(*weights):
        return [LabelledAnswer(each.row, each.desirable, weight) for each, weight in zip(answers, weights, strict=True)]

    loss, slopes, (losses, ratios, _, baseline) = measured(weigh(2.0, 0.5, 0.25))
    by_hand = [
        lam * (1 - 1 / (1 + math.exp(-0.5 * sign * (ratio - 0.4))))
        for lam, sign, ratio in zip((1.5, 1.0, 1.5), (1, -1, 1), ratios.tolist(), strict=True)
    ]
    assert float(baseline) == pytest.approx(0.4) and losses.tolist() == pytest.approx(by_hand, abs=1e-6)
    expected = (2 * by_hand[0] + 0.5 * by_hand[1] + 0.25 * by_hand[2]) / 2.75
    assert loss == pytest.approx(expected, abs=1e-6)
    even, _, _ = measured(weigh(1.0, 1.0, 1.0))
    assert even == pytest.approx(sum(by_hand) / 3, abs=1e-6) and abs(even - loss) > 1e-3
    one, *others = weigh(1.0, 0.5, 0.25)
    twice, same_slopes, _ = measured([one, one, *others])
    assert twice == pytest.approx(loss, abs=1e-6) and torch.allclose(same_slopes, slopes, atol=1e-6)


def test_an_answer_called_good_and_bad_is_learned_like_the_difference():
    import torch

    ratio = torch.tensor([0.3, 0.3], requires_grad=True)
    losses = kto.kto_losses(ratio, torch.tensor([True, False]), torch.tensor(0.1), beta=0.7)
    assert float(losses.sum().detach()) == pytest.approx(1)  # so 3 × good and 1 × bad slope like 2 × good
    (slope,) = torch.autograd.grad((torch.tensor([3.0, 1.0]) * losses).sum(), ratio, retain_graph=True)
    (other,) = torch.autograd.grad(2 * losses[0], ratio)
    assert float(slope.sum()) == pytest.approx(float(other.sum()))


def test_a_dataset_of_labels_is_learned_from_with_its_weights(store, model, tmp_path):
    def rows_of(numbers):
        return [
            labelled(f"{n} red", text, label, weight)
            for n in numbers
            for text, label, weight in (("one two three", True, 2.0), ("five four three", False, 0.5))
        ]

    write_labels(store, rows_of(range(12)))
    write_labels(store, rows_of(range(12, 16)), "told apart")
    job = new_job(store, tmp_path / "run")
    result = kto.train_kto(config(dataset="told", held_out="told apart", undesirable_weight=4.0), job)
    steps = result["steps"]
    assert (result["answers"], result["desirable"]) == (24, 12)
    assert series(job, "answer_weight")[steps] == pytest.approx(3 * 12 * 2.5)
    # an untrained model's loss is half of each answer's λ, good ones of four times the weight
    assert series(job, "loss")[1] == pytest.approx((2.0 * 0.5 + 0.5 * 2.0) / 2.5, abs=1e-5)
    assert series(job, "eval_loss")[0] == pytest.approx(0.8, abs=1e-5)
    assert result["eval_margin"] > 0.3
    entries = [json.loads(line) for line in (job.folder / "held_out_rows.jsonl").read_text().splitlines()]
    assert sorted({(entry["good"], entry["weight"]) for entry in entries}) == [(False, 0.5), (True, 2.0)]
    mean = sum(entry["weight"] * entry["loss"] for entry in entries) / sum(entry["weight"] for entry in entries)
    assert result["eval_loss"] == pytest.approx(mean)
    assert (job.folder / "ranking_labels.jsonl").read_text() == ""


def test_labels_are_no_data_for_methods_that_need_pairs_or_examples(store, model, tmp_path):
    from workbench.training.configs import SFTConfig
    from workbench.training.preference_configs import DPOConfig
    from workbench.training.rows import resolve_inputs

    write_labels(store, [labelled("q", "a", True), labelled("q", "b", False)])
    for method, wanted in ((DPOConfig, "preferences"), (SFTConfig, "instructions")):
        with pytest.raises(DataProblem, match=f"needs a dataset of {wanted}, but this one holds labels"):
            resolve_inputs(store, method(dataset="told", model="tiny"))


# ---- stopping and going on ----


@pytest.mark.parametrize("on_top", [None, "stack"])
def test_a_stopped_run_goes_on_exactly_as_if_it_had_not_been_stopped(store, model, preferences, tmp_path, on_top):
    start = {}
    if on_top:
        made = tiny.make_adapter(Path(model.path), tmp_path / "sft", scale=0.1)
        start = {"adapter": tiny.register_variant(store, model, made).name, "on_top": on_top}
    settings = config(lora_dropout=0.1, gradient_accumulation_steps=2, eval_every=2, **start)
    whole = new_job(store, tmp_path / "whole", "run_whole")
    expected = kto.train_kto(settings, whole)
    first = new_job(store, tmp_path / "cut", "run_cut", stop_after=3)
    with pytest.raises(Stopped):
        kto.train_kto(settings, first)
    stopped_at = max(series(first, "loss"))
    assert 1 < stopped_at < expected["steps"]
    second = RecordingJob(store, first.folder, run_id="run_cut")
    kto.train_kto(settings, second)
    for name in ("loss", "kl", "reward_chosen"):
        joined = series(first, name) | series(second, name)
        assert joined == pytest.approx(series(whole, name), abs=1e-6), name
    ours, theirs = adapter_weights(first.folder / "adapter"), adapter_weights(whole.folder / "adapter")
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() <= 1e-6, name


def test_a_batch_of_one_row_borrows_its_neighbours_answer(store, model, preferences, tmp_path):
    job = new_job(store, tmp_path / "run")
    result = kto.train_kto(config(tokens_per_batch=32, max_steps=3, max_length=64), job)
    assert result["steps"] == 3 and all(math.isfinite(value) for value in series(job, "loss").values())


# ---- what cannot be learned from ----


def write_pairs(store, rows, name="odd"):
    write_version(store, create_dataset(store, name, "preferences").id, rows)
    return name


def test_ties_alone_are_refused(store, model, preferences, tmp_path):
    first = preferences[0]
    turned = first.model_copy(update={"chosen": first.rejected, "rejected": first.chosen})
    name = write_pairs(store, [first, turned])
    with pytest.raises(DataProblem, match="the other way round"):
        kto.train_kto(config(dataset=name), new_job(store, tmp_path / "run"))
    with pytest.raises(DataProblem, match=r"fewer than two answers.*2 called good as often as bad"):
        kto.train_kto(config(dataset=name, overrule_gates=True), new_job(store, tmp_path / "b", "run_b"))


def test_a_maximum_length_below_the_prompts_is_refused(store, model, preferences, tmp_path):
    with pytest.raises(DataProblem, match="prompt that fills the maximum length"):
        kto.train_kto(config(max_length=12), new_job(store, tmp_path / "run"))


def test_good_and_bad_out_of_balance_are_told_with_weights_that_help(store, model, tmp_path):
    rows = [labelled("red", "one", True, 0.5), *(labelled("red", f"two {word}", False, 0.5) for word in WORDS[:6])]
    job = new_job(store, tmp_path / "run")
    kto.train_kto(config(dataset=write_labels(store, rows), held_out=None, epochs=1), job)
    (line,) = [line for line in job.lines if "0.17 to 1" in line]
    assert "1 good and 6 bad" in line and "desirable_weight between 6.00 and 8.00" in line
    again = new_job(store, tmp_path / "again", "run_again")
    even = [rows[0].model_copy(update={"weight": 3.0}), *rows[1:]]
    kto.train_kto(config(dataset=write_labels(store, even, "even"), held_out=None, epochs=1), again)
    assert not any("to 1" in line for line in again.lines)  # one good answer weighs as much as all bad ones


def test_what_does_not_hold_for_new_prompts_is_told(store, model, preferences, tmp_path):
    turned = [each.model_copy(update={"chosen": each.rejected, "rejected": each.chosen}) for each in preferences[16:]]
    job = new_job(store, tmp_path / "run")
    kto.train_kto(config(held_out=write_pairs(store, turned, "turned")), job)
    assert any("above the 0.500 of the model it started from" in line for line in job.lines)


def test_a_loss_that_is_no_number_ends_the_run_in_words(store, model, preferences, tmp_path, monkeypatch):
    real = kto.kto_losses
    monkeypatch.setattr(kto, "kto_losses", lambda *sides, **how: real(*sides, **how) * float("nan"))
    with pytest.raises(RunProblem, match=r"no longer a number.*diverged.*learning_rate"):
        kto.train_kto(config(held_out=None), new_job(store, tmp_path / "run"))


@pytest.mark.parametrize("values", [{"beta": 0}, {"desirable_weight": 0}, {"learning_rate": 1e9}, {"loss_type": "kto"}])
def test_settings_out_of_bounds_are_refused(values):
    with pytest.raises((ValidationError, UsageError)):
        config(**values)
