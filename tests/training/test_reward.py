import itertools
import json
import math
from pathlib import Path

import pytest
import tiny

from workbench.datasets.versions import write_version
from workbench.errors import DataProblem, ModelProblem, NotFound, RunProblem, Stopped, UsageError
from workbench.job import RecordingJob
from workbench.models.loading import quiet_peft
from workbench.records import Example, Message, Preference, RunState
from workbench.settings import get_settings
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.datasets import create_dataset
from workbench.training import reward
from workbench.training.batching import plan_run
from workbench.training.checkpoints import latest_checkpoint, list_checkpoints
from workbench.training.reward_configs import RewardConfig
from workbench.training.reward_models import (
    RewardScorer,
    get_reward_model,
    init_head,
    last_token_scores,
    list_reward_models,
    load_reward_base,
    pad_rows,
)
from workbench.training.reward_report import read_report
from workbench.training.reward_rows import group_rows, load_ranked_prompts, render_answer
from workbench.training.rows import pin_inputs

COLOURS = "red green blue sea wind poem Paris German morning".split()


def say(role, text):
    return (Message(role=role, content=text),)


def ask(number):
    return f"Tell me {number} about {COLOURS[number % len(COLOURS)]} and {COLOURS[(number * 5 + 2) % len(COLOURS)]}"


def answers(number, k):
    """Answers from best to worst: the more often one says "sings", the better."""
    filler = [COLOURS[(number + step) % len(COLOURS)] for step in range(6)]
    return [" ".join(["sings"] * (2 * (k - place)) + filler[: 1 + (number + place) % 3]) for place in range(k)]


def ranking(number, k=3, **meta):
    told = answers(number, k)
    weight = 1 / math.comb(k, 2)
    return [
        Preference(
            prompt=say("user", ask(number)),
            chosen=say("assistant", better),
            rejected=say("assistant", worse),
            weight=weight,
            meta={"ranking": f"rk_{number}", "rater": "ann", "confidence": 1 + number % 5, **meta},
        )
        for better, worse in itertools.combinations(told, 2)
    ]


def make_rankings(count, k=3, start=0):
    return [row for number in range(start, start + count) for row in ranking(number, k)]


@pytest.fixture
def settings(home, monkeypatch):
    monkeypatch.setenv("WORKBENCH_THREADS", "1")  # a tiny model only waits for a second thread
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def model(store, tmp_path):
    return tiny.register_model(store, tiny.make_model(tmp_path / "base"))


@pytest.fixture
def rankings(store):
    write_version(store, create_dataset(store, "pairs", "preferences").id, make_rankings(24))


def dataset(store, name, rows, kind="preferences"):
    write_version(store, create_dataset(store, name, kind).id, rows)


def new_job(store, folder=None, run_id="run_test", stop_after=None):
    run_store.add_run(store, kind="reward", name=run_id, slot="train", spec={}, run_id=run_id)
    return RecordingJob(store, folder or store.settings.run_dir(run_id), run_id=run_id, stop_after=stop_after)


def finish(store, job, result):
    run_store.update_run(store, job.run_id, state=RunState.FINISHED, result=json.loads(json.dumps(result)))


def config(**changes):
    values = {
        "dataset": "pairs",
        "held_out": 0.25,
        "model": "tiny",
        "preset": "custom",
        "epochs": 4,
        "learning_rate": 5e-3,
        "lora_r": 4,
        "lora_alpha": 8,
        "tokens_per_batch": 512,
        "answered_prompts": 2,
        "answer_tokens": 4,
        "seed": 7,
    }
    return RewardConfig(**(values | changes))


def series(job, name):
    return {step: value for step, key, value in job.points if key == name}


def renderer_of(model):
    from workbench.datasets.render import load_renderer

    return load_renderer(model.path)


def stored_rows(store, name="pairs"):
    from workbench.datasets.versions import iter_rows
    from workbench.store.datasets import find_version

    return list(iter_rows(store, find_version(store, name)[1]))


def grouped(store, model, name="pairs", **options):
    return group_rows(stored_rows(store, name), renderer_of(model), max_length=512, **options)


def make_trainer(store, model, items, tmp_path, **changes):
    settings = config(**changes)
    plan = plan_run([i.tokens for i in items], tokens_per_batch=100_000, batches_per_step=1, seed=0, epochs=1)
    trainer = reward.build_trainer(settings, RecordingJob(store, tmp_path / "trainer"), model, None, items, plan)
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1)
    return trainer


# Rows ---------------------------------------------------------------------------------------------------------------


def test_a_ranking_becomes_one_item_with_each_answer_once_and_every_pair(store, model):
    dataset(store, "pairs", ranking(0, 4) + ranking(1, 4))
    found = grouped(store, model)
    assert [len(item.answers) for item in found.prompts] == [4, 4]
    assert [len(item.pairs) for item in found.prompts] == [6, 6]
    assert [item.votes for item in found.prompts] == [1, 1]
    for item in found.prompts:
        assert sum(pair.weight for pair in item.pairs) == pytest.approx(1.0)
        assert item.answers[item.best].text == answers(found.prompts.index(item), 4)[0]


def test_rankings_of_one_prompt_by_two_raters_share_its_answers_and_add_up(store, model):
    one, other = ranking(0, 3), ranking(0, 3, ranking="rk_b", rater="bob")
    turned = other[0].model_copy(update={"chosen": other[0].rejected, "rejected": other[0].chosen})
    dataset(store, "pairs", [*one, turned, *other[1:]])
    (item,) = grouped(store, model).prompts
    assert len(item.answers) == 3
    assert item.votes == 2
    assert len(item.pairs) == 4  # the contradicted pair stands both ways
    both = next(pair for pair in item.pairs if len(pair.row_ids) == 2)
    assert both.weight == pytest.approx(2 / 3)
    assert both.raters == ("ann", "bob")


def test_pairs_without_a_ranking_are_rankings_of_two_each(store, model):
    rows = [row.model_copy(update={"meta": {}, "weight": 1.0}) for row in ranking(0, 3)]
    dataset(store, "pairs", rows)
    (item,) = grouped(store, model).prompts
    assert item.votes == 3
    (balanced,) = grouped(store, model, balance_prompts=True).prompts
    assert balanced.votes == 1
    assert sum(pair.weight for pair in balanced.pairs) == pytest.approx(1.0)


def test_an_answer_is_rendered_as_prompt_answer_and_end_of_turn(store, model):
    renderer = renderer_of(model)
    ids, tokens = render_answer(renderer, say("user", "hello"), say("assistant", "red sea"))
    asked = renderer.prompt_ids(say("user", "hello"))
    assert list(ids[: len(asked)]) == asked
    assert ids[-1] in renderer.stop_ids
    assert tokens == len(ids) - len(asked)


def test_equal_sides_are_left_out_and_counted(store, model, tmp_path):
    same = ranking(3, 2)[0]
    dataset(store, "pairs", [*make_rankings(8), same.model_copy(update={"rejected": same.chosen})])
    job = new_job(store)
    settings = config(held_out=None)
    train, _ = load_ranked_prompts(job, settings, pin_inputs(settings, job), model)
    assert train.left_out == {"equal_sides": 1}
    assert any("same to the model" in line for line in job.lines)


def test_all_ties_are_refused_in_words(store, model):
    rows = [row.model_copy(update={"rejected": row.chosen}) for row in make_rankings(4)]
    dataset(store, "pairs", rows)
    with pytest.raises(DataProblem, match=r"8 of 8|12 of 12 rows have two sides that are the same"):
        reward.train_reward(config(held_out=None), new_job(store))


def test_data_of_one_prompt_cannot_be_split(store, model):
    dataset(store, "pairs", ranking(0, 4))
    with pytest.raises(DataProblem, match=r"same prompt, so that none can be held out"):
        reward.train_reward(config(), new_job(store))


def test_data_of_one_prompt_is_learned_with_a_warning_where_nothing_is_held_out(store, model):
    dataset(store, "pairs", ranking(0, 4))
    job = new_job(store)
    result = reward.train_reward(config(held_out=None), job)
    assert result["eval_accuracy"] is None
    assert any("one prompt" in line for line in job.lines)
    notes = read_report(store, job.run_id).notes
    assert any("Nothing was held out" in note for note in notes)
    assert any("one prompt" in note for note in notes)


def test_the_split_is_by_prompt(store, model, rankings):
    job = new_job(store)
    train, held_out = load_ranked_prompts(job, config(), pin_inputs(config(), job), model)
    asked = [{item.prompt[-1].content for item in side.prompts} for side in (train, held_out)]
    assert not asked[0] & asked[1]
    assert len(asked[0]) + len(asked[1]) == 24
    assert 4 <= len(asked[1]) <= 8


def test_a_max_length_below_the_prompts_is_refused(store, model, rankings):
    with pytest.raises(DataProblem, match=r"prompt that fills the maximum length.*Raise the maximum length"):
        reward.train_reward(config(max_length=8), new_job(store))


# Loss ---------------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_hand_computed_one(store):
    import torch

    scores = torch.tensor([2.0, 0.5, -1.0])
    pairs = [(0, 1), (0, 2), (1, 2)]

    def log_sigmoid(x):
        return -math.log(1 + math.exp(-x))

    by_hand = -(log_sigmoid(1.5) + log_sigmoid(3.0) + log_sigmoid(1.5)) / 3
    found = reward.ranking_loss(
        scores, torch.tensor([a for a, _ in pairs]), torch.tensor([b for _, b in pairs]), torch.full((3,), 1 / 3)
    )
    assert float(found) == pytest.approx(by_hand, abs=1e-6)
    assert by_hand == pytest.approx((0.2014133 + 0.0485874 + 0.2014133) / 3, abs=1e-6)


def test_a_step_takes_the_mean_of_the_prompts_losses_worked_out_by_hand_from_the_models_scores(store, model, tmp_path):
    import torch

    dataset(store, "pairs", ranking(0, 4) + ranking(1, 3) + ranking(2, 2))
    items = grouped(store, model).prompts
    trainer = make_trainer(store, model, items, tmp_path)
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, reward.collate(items)).item()
    by_hand = []
    for item in items:
        scores = []
        for answer in item.answers:  # one row at a time: no padding, no batch
            ids, lengths = pad_rows([answer.ids])
            scores.append(last_token_scores(trainer.model, ids, lengths).item())
        terms = [
            math.log1p(math.exp(-(scores[a] - scores[b]))) for a, b in itertools.combinations(range(len(scores)), 2)
        ]
        by_hand.append(sum(terms) / math.comb(len(scores), 2))
    assert loss == pytest.approx(sum(by_hand) / 3, abs=1e-5)


def trl_trainer(model_record, rows, folder, trained=None):
    import trl
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = (
        trained
        if trained is not None
        else AutoModelForSequenceClassification.from_pretrained(model_record.path, num_labels=1)
    )
    args = trl.RewardConfig(
        output_dir=str(folder), report_to="none", disable_tqdm=True, use_cpu=True, max_length=None, bf16=False,
        activation_checkpointing=False, per_device_train_batch_size=len(rows), dataset_num_proc=None,
    )  # fmt: skip
    table = Dataset.from_list(
        [
            {
                "prompt": [turn.as_dict() for turn in row.prompt],
                "chosen": [turn.as_dict() for turn in row.chosen],
                "rejected": [turn.as_dict() for turn in row.rejected],
            }
            for row in rows
        ]
    )
    return trl.RewardTrainer(
        model=base, args=args, train_dataset=table, processing_class=AutoTokenizer.from_pretrained(model_record.path)
    )


def test_for_pairs_loss_and_gradients_are_those_of_trls_reward_trainer(store, model, tmp_path):
    import torch

    rows = [row for number in range(5) for row in ranking(number, 2)]
    dataset(store, "pairs", rows)
    items = grouped(store, model).prompts
    trainer = make_trainer(store, model, items, tmp_path)
    theirs = trl_trainer(model, rows, tmp_path / "trl")
    # The same network: TRL's own loss over our model, which reads a row's end from the padding token.
    trainer.model.get_base_model().config.pad_token_id = tiny.PAD_ID
    tables = [
        [
            {
                "chosen_ids": list(item.answers[item.pairs[0].better].ids),
                "rejected_ids": list(item.answers[item.pairs[0].worse].ids),
            }
            for item in items
        ]
    ]
    batch = theirs.data_collator(tables[0])
    found = []
    for way in (
        lambda: type(theirs).compute_loss(theirs, trainer.model, dict(batch)),
        lambda: trainer.compute_loss(trainer.model, reward.collate(items)),
    ):
        trainer.model.zero_grad()
        loss = way()
        loss.backward()
        slopes = [p.grad.clone() for p in trainer.model.parameters() if p.requires_grad]
        found.append((loss.item(), slopes))
    assert abs(found[0][0] - found[1][0]) <= 1e-5
    assert found[0][0] > 0.01
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_each_answer_is_read_exactly_once(store, model, tmp_path):
    dataset(store, "pairs", ranking(0, 9) + ranking(1, 4))
    items = grouped(store, model).prompts
    trainer = make_trainer(store, model, items, tmp_path)
    read = []
    body = trainer.model.get_base_model().base_model
    body.register_forward_pre_hook(lambda module, args, kwargs: read.append(kwargs["input_ids"]), with_kwargs=True)
    batch = reward.collate(items)
    trainer.compute_loss(trainer.model, batch)
    assert sum(len(ids) for ids in read) == 13
    seen = sorted(
        tuple(row[:length].tolist())
        for ids, lengths in zip(batch["ids"], batch["lengths"], strict=True)
        for row, length in zip(ids, lengths, strict=True)
    )
    assert seen == sorted(answer.ids for item in items for answer in item.answers)


def test_weights_count_even_in_a_batch_of_one(store, model, tmp_path):
    half = ranking(0, 2)[0].model_copy(update={"weight": 0.25})
    dataset(store, "pairs", [half])
    items = grouped(store, model).prompts
    trainer = make_trainer(store, model, items, tmp_path)
    quarter = trainer.compute_loss(trainer.model, reward.collate(items)).item()
    (balanced,) = grouped(store, model, balance_prompts=True).prompts
    assert trainer.compute_loss(trainer.model, reward.collate([balanced])).item() == pytest.approx(4 * quarter)


# Model --------------------------------------------------------------------------------------------------------------


def test_the_head_is_drawn_with_the_papers_deviation(model):
    base = load_reward_base(model)
    init_head(base, 3)
    first = base.score.weight.detach().clone()
    init_head(base, 3)
    assert (base.score.weight == first).all()
    width = first.shape[1]
    draws = []
    for seed in range(200):
        init_head(base, seed)
        draws += base.score.weight.flatten().tolist()
    mean = sum(draws) / len(draws)
    deviation = math.sqrt(sum((draw - mean) ** 2 for draw in draws) / len(draws))
    assert deviation == pytest.approx(1 / math.sqrt(width + 1), rel=0.02)
    assert abs(mean) < 0.01


def test_dropout_is_off_and_loading_draws_no_random_number(model):
    import torch

    path = Path(model.path) / "config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"attention_dropout": 0.4}))
    before = torch.random.get_rng_state()
    base = load_reward_base(model)
    assert (torch.random.get_rng_state() == before).all()
    assert base.config.attention_dropout == 0.0
    ids, lengths = pad_rows([list(range(3, 40))])
    base.train()
    assert last_token_scores(base, ids, lengths).item() == last_token_scores(base, ids, lengths).item()


def test_the_score_is_read_at_the_last_token_even_where_padding_and_end_of_turn_are_one_token(model, tmp_path):
    path = Path(model.path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token_id": tiny.END_ID}))
    base = load_reward_base(model)
    init_head(base, 0)
    rows = [[5, 6, 7, tiny.END_ID], [8, 9, tiny.END_ID], list(range(10, 30))]
    ids, lengths = pad_rows(rows)
    together = last_token_scores(base, ids, lengths).tolist()
    for row, score in zip(rows, together, strict=True):
        alone = last_token_scores(base, *pad_rows([row])).item()
        assert score == pytest.approx(alone, abs=1e-5)
        assert abs(score - last_token_scores(base, *pad_rows([row[:-1]])).item()) > 1e-4


# The run ------------------------------------------------------------------------------------------------------------


def test_a_known_preference_is_learned(store, model, rankings):
    job = new_job(store)
    result = reward.train_reward(config(), job)
    finish(store, job, result)
    accuracy = series(job, "eval_accuracy")
    assert accuracy[result["steps"]] >= 0.85
    assert result["eval_accuracy"] == pytest.approx(accuracy[result["steps"]])
    assert series(job, "eval_loss")[result["steps"]] < series(job, "eval_loss")[0]
    assert set(series(job, "loss")) == set(range(1, result["steps"] + 1))
    for name in ("margin", "accuracy", "learning_rate", "grad_norm", "rankings", "tokens_per_s"):
        assert set(series(job, name)) == set(series(job, "loss"))
    assert series(job, "rankings")[result["steps"]] == pytest.approx(4 * 18)
    assert job.phases[0] == "rendering" and job.phases[-1] == "saving"
    made = get_reward_model(store, job.run_id)
    assert made == list_reward_models(store)[0]
    assert made.accuracy.value == result["eval_accuracy"]
    assert made.pairs == 18 * 3


def test_the_bias_makes_demonstrations_score_zero_and_is_shown_before_and_after(store, model, rankings):
    examples = [
        Example(messages=(*say("user", f"Say {number}"), *say("assistant", COLOURS[number]))) for number in range(6)
    ]
    dataset(store, "shown", examples, "instructions")
    job = new_job(store)
    result = reward.train_reward(config(demonstrations="shown", epochs=1), job)
    finish(store, job, result)
    told = result["demonstrations"]
    assert told["n"] == 6
    assert abs(told["before"]) > 1e-3
    assert told["after"] == pytest.approx(0, abs=1e-5)
    made = get_reward_model(store, job.run_id)
    assert made.bias == pytest.approx(told["before"])
    scorer = RewardScorer.load(made, model)
    renderer = renderer_of(model)
    rows = [render_answer(renderer, row.messages[:1], row.messages[1:])[0] for row in examples]
    assert sum(scorer.score(rows)) / 6 == pytest.approx(0, abs=1e-5)
    facts = json.loads((Path(made.folder) / "reward.json").read_text())
    assert facts["bias"] == made.bias
    assert facts["demonstrations"] == told


def test_without_a_dataset_the_best_answers_of_training_prompts_are_the_demonstrations(store, model, rankings):
    result = reward.train_reward(config(epochs=1), new_job(store))
    assert result["demonstrations"]["n"] == 18
    assert result["demonstrations"]["after"] == pytest.approx(0, abs=1e-5)


def test_the_published_folder_opens_with_peft_alone_and_scores_as_in_training(store, model, rankings, monkeypatch):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    kept = []
    real = reward.publish_reward
    monkeypatch.setattr(
        reward, "publish_reward", lambda trained, *a, **k: kept.append(trained) or real(trained, *a, **k)
    )
    job = new_job(store)
    finish(store, job, reward.train_reward(config(epochs=1), job))
    made = get_reward_model(store, job.run_id)
    names = {path.name for path in Path(made.folder).iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "reward.json", "base.json", "tokenizer.json"} <= names
    assert "training_args.bin" not in names
    items = grouped(store, model).prompts[:4]
    rows = [answer.ids for item in items for answer in item.answers]
    in_training = [last_token_scores(kept[0].eval(), *pad_rows([row])).item() for row in rows]
    ours = RewardScorer.load(made, model).score(rows)
    plain = AutoModelForSequenceClassification.from_pretrained(model.path, num_labels=1)
    facts = json.loads((Path(made.folder) / "reward.json").read_text())
    plain.config.pad_token_id = facts["pad_token_id"]
    with quiet_peft():
        stock = PeftModel.from_pretrained(plain, made.folder).eval()
    with torch.no_grad():
        theirs = [float(stock(input_ids=torch.tensor([row])).logits[0, 0]) for row in rows]
    for one, other, third in zip(in_training, ours, theirs, strict=True):
        assert other == pytest.approx(one - made.bias, abs=1e-5)
        assert third == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}])
def test_a_stopped_run_goes_on_exactly_as_if_it_had_not_been_stopped(store, model, rankings, changes):
    settings = config(lora_dropout=0.1, gradient_accumulation_steps=2, eval_every=2, **changes)
    whole = new_job(store, run_id="run_whole")
    expected = reward.train_reward(settings, whole)
    per_epoch = sum(1 for epoch in series(whole, "epoch").values() if epoch <= 1)
    first = new_job(store, run_id="run_cut", stop_after=per_epoch + 1)
    with pytest.raises(Stopped):
        reward.train_reward(settings, first)
    stopped_at = max(series(first, "loss"))
    assert stopped_at == per_epoch + 2 < expected["steps"]
    assert latest_checkpoint(first.folder / "checkpoints").name == f"checkpoint-{stopped_at}"
    second = RecordingJob(store, first.folder, run_id="run_cut")
    second.attempt = 2
    result = reward.train_reward(settings, second)
    assert series(first, "loss") | series(second, "loss") == pytest.approx(series(whole, "loss"), abs=1e-6)
    assert result["reward"]["bias"] == pytest.approx(expected["reward"]["bias"], abs=1e-6)
    assert result["train_loss"] == pytest.approx(expected["train_loss"])
    from safetensors.torch import load_file

    ours, theirs = (load_file(job.folder / "reward" / "adapter_model.safetensors") for job in (first, whole))
    assert ours.keys() == theirs.keys()
    assert any("score" in name for name in ours)
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() <= 1e-6, name


def test_checkpoints_hold_adapter_and_head_and_never_the_base(store, model, rankings):
    from safetensors.torch import load_file

    job = new_job(store)
    reward.train_reward(config(epochs=1, save_every=1, keep_checkpoints=1), job)
    (folder,) = list_checkpoints(job.folder / "checkpoints")
    names = load_file(folder / "adapter_model.safetensors")
    assert all("lora" in name or "score" in name for name in names)
    assert not any("score" in name and "lora" in name for name in names)


def test_it_can_start_from_a_fine_tuned_adapters_weights(store, model, rankings, tmp_path):
    from safetensors.torch import load_file

    adapter = tiny.make_adapter(tiny.make_model(tmp_path / "copy"), tmp_path / "adapter")
    variant = tiny.register_variant(store, model, adapter)
    job = new_job(store)
    reward.train_reward(config(adapter=variant.name, max_steps=1, learning_rate=1e-5, lora_r=16), job)
    before = load_file(adapter / "adapter_model.safetensors")
    after = load_file(job.folder / "reward" / "adapter_model.safetensors")
    assert set(before) < set(after)
    assert max(float((after[name] - before[name]).abs().max()) for name in before) < 1e-3
    distributions = read_report(store, job.run_id).distributions
    assert {"by tiny, greedy", f"by {variant.name}, greedy"} <= set(distributions)


# Bad input ----------------------------------------------------------------------------------------------------------


def test_an_adapter_of_another_base_is_refused(store, model, rankings, tmp_path):
    other = tiny.register_model(store, tiny.make_model(tmp_path / "other", seed=5), name="other")
    adapter = tiny.make_adapter(tiny.make_model(tmp_path / "copy", seed=5), tmp_path / "adapter")
    variant = tiny.register_variant(store, other, adapter)
    with pytest.raises(UsageError, match="no adapter over this base"):
        reward.train_reward(config(adapter=variant.name), new_job(store))


def test_a_reward_model_of_another_base_does_not_load(store, model, rankings, tmp_path):
    job = new_job(store)
    finish(store, job, reward.train_reward(config(max_steps=1), job))
    other = tiny.register_model(store, tiny.make_model(tmp_path / "other", seed=5), name="other")
    with pytest.raises(ModelProblem, match="made for another base, tiny"):
        RewardScorer.load(get_reward_model(store, job.run_id), other)


def test_a_changed_folder_is_noticed(store, model, rankings):
    job = new_job(store)
    finish(store, job, reward.train_reward(config(max_steps=1), job))
    made = get_reward_model(store, job.run_id)
    path = Path(made.folder) / "adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 80'))
    with pytest.raises(ModelProblem, match="not those its run published"):
        RewardScorer.load(made, model)


def test_a_reward_model_is_refused_as_an_adapter_that_answers(store, model, rankings):
    from workbench.models.adapters import check_adapter, import_adapter

    job = new_job(store)
    finish(store, job, reward.train_reward(config(max_steps=1), job))
    folder = Path(get_reward_model(store, job.run_id).folder)
    with pytest.raises(ModelProblem, match=r"reward model.*cannot answer"):
        check_adapter(folder, model)
    with pytest.raises(ModelProblem, match=r"reward model.*cannot answer"):
        import_adapter(store, folder, model, "mine")
    assert [variant.name for variant in model_store.list_variants(store)] == ["tiny"]


def test_scores_that_are_no_numbers_are_told_in_words(store, model, rankings):
    job = new_job(store)
    finish(store, job, reward.train_reward(config(max_steps=1), job))
    scorer = RewardScorer.load(get_reward_model(store, job.run_id), model)
    for name, weight in scorer.model.named_parameters():
        if "score" in name:
            weight.data.fill_(float("nan"))
    with pytest.raises(RunProblem, match=r"score is no number.*answer 1 of 1.*|answer 1 of 1.*score is no number"):
        scorer.score([[5, 6, 7]])
    with pytest.raises(UsageError, match="without a token"):
        scorer.score([[5], []])


def test_a_learning_rate_that_diverges_ends_the_run_in_words(store, model, rankings, monkeypatch):
    real = reward.ranking_loss
    monkeypatch.setattr(reward, "ranking_loss", lambda *args: real(*args) * float("nan"))
    with pytest.raises(RunProblem, match=r"no longer a number.*learning_rate"):
        reward.train_reward(config(held_out=None), new_job(store))


def test_a_full_disk_at_a_checkpoint_is_told_and_the_run_can_go_on(store, model, rankings, monkeypatch):
    import errno

    from workbench.training import checkpoints

    job = new_job(store)
    real = checkpoints._write_file

    def full(path, content):
        if "checkpoint-2" in str(path) and path.name == "optimizer.pt":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(checkpoints, "_write_file", full)
    with pytest.raises(RunProblem, match="disk is full"):
        reward.train_reward(config(save_every=1), job)
    assert [path.name for path in (job.folder / "checkpoints").iterdir()] == ["checkpoint-1"]
    monkeypatch.setattr(checkpoints, "_write_file", real)
    assert reward.train_reward(config(save_every=1), RecordingJob(store, job.folder))["steps"] > 2


def test_running_out_of_memory_is_told_in_words(store, model, rankings, monkeypatch):
    def exhausted(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(reward, "ranking_loss", exhausted)
    with pytest.raises(RunProblem, match=r"memory ran out.*tokens_per_batch"):
        reward.train_reward(config(), new_job(store))


def test_examples_are_no_preferences(store, model):
    dataset(store, "rows", [Example(messages=(*say("user", "q"), *say("assistant", "a")))], "instructions")
    with pytest.raises(DataProblem, match="needs a dataset of preferences"):
        reward.train_reward(config(dataset="rows"), new_job(store))
    dataset(store, "pairs", make_rankings(4))
    with pytest.raises(DataProblem, match="demonstrations are instructions"):
        reward.train_reward(config(demonstrations="pairs"), new_job(store, run_id="run_b"))


def test_an_unknown_reward_model_is_told_with_those_there_are(store, model, rankings):
    with pytest.raises(NotFound, match="workbench train reward"):
        get_reward_model(store, "nobody")
    job = new_job(store)
    finish(store, job, reward.train_reward(config(max_steps=1), job))
    with pytest.raises(NotFound, match="There is 'run_test'"):
        get_reward_model(store, "nobody")
    import shutil

    shutil.rmtree(get_reward_model(store, "run_test").folder)
    with pytest.raises(ModelProblem, match="folder is gone"):
        get_reward_model(store, "run_test")
