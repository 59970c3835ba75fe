import json
import math
import shutil

import pytest
import tiny

from workbench.datasets.render import load_renderer
from workbench.datasets.versions import iter_rows, write_version
from workbench.errors import DataProblem, NotFound, RunProblem, Stopped, UsageError
from workbench.job import RecordingJob
from workbench.records import Example, Message, Preference, Prompt, RunState
from workbench.runs.kinds import parse_config
from workbench.settings import get_settings
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.datasets import create_dataset, find_version
from workbench.store.runs import add_run
from workbench.training import rlhf, rollouts
from workbench.training.checkpoints import list_checkpoints
from workbench.training.rl_configs import GRPOConfig, RLOOConfig
from workbench.training.rl_prompts import plan_prompts, render_prompts
from workbench.training.rl_rewards import ModelReward, RewardFunction, load_reward, make_answer

WORDS = "red green blue the sea is wide and wind sings over one two three four five".split()
METHODS = {"rloo": (RLOOConfig, rlhf.train_rloo), "grpo": (GRPOConfig, rlhf.train_grpo)}
BOTH = pytest.mark.parametrize("method", list(METHODS))


class ShareOfTokens:
    """A known reward: the share of an answer's tokens that lie in a range of ids."""

    def __init__(self, low=40, high=90):
        self.low, self.high = low, high

    def score(self, answers):
        return [sum(self.low <= token < self.high for token in answer.ids) / len(answer.ids) for answer in answers]


@pytest.fixture
def settings(home, monkeypatch):
    monkeypatch.setenv("WORKBENCH_THREADS", "1")  # a tiny model only waits for a second thread
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def model(store, tmp_path):
    return tiny.register_model(store, tiny.make_model(tmp_path / "base"))


@pytest.fixture
def sft(store, model, tmp_path):
    """A variant to start from."""
    return tiny.register_variant(store, model, tiny.make_adapter(tmp_path / "base", tmp_path / "sft", scale=0.05))


@pytest.fixture
def prompts(store):
    asked = [f"{n} " + " ".join(WORDS[(n * 3 + k) % len(WORDS)] for k in range(2 + n % 5)) for n in range(20)]
    made = [Prompt(messages=(Message(role="user", content=text),)) for text in asked]
    write_version(store, create_dataset(store, "asked", "prompts").id, made[:12])
    write_version(store, create_dataset(store, "apart", "prompts").id, made[12:])
    return made


def config(method="rloo", **changes):
    values = {
        "dataset": "asked",
        "held_out": "apart",
        "model": "tiny",
        "adapter": "tiny tuned",
        "reward": "known",
        "preset": "custom",
        "max_steps": 4,
        "prompts_per_step": 2,
        "answers_per_prompt": 4,
        "max_answer_tokens": 8,
        "learning_rate": 1e-2,
        "eval_every": 0,
        "save_every": 0,
        "seed": 3,
    }
    return METHODS[method][0](**(values | changes))


def new_job(store, folder, run_id="run_test", stop_after=None):
    add_run(store, kind="rloo", name=run_id, slot="train", spec={}, run_id=run_id)
    return RecordingJob(store, folder, run_id=run_id, stop_after=stop_after)


def train(method, job, reward=None, **changes):
    return METHODS[method][1](config(method, **changes), job, reward or ShareOfTokens())


def series(job, name):
    return {step: value for step, key, value in job.points if key == name}


def adapter_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


# Learning ------------------------------------------------------------------------------------------------------------

LEARNING = {
    "prompts_per_step": 8,
    "answers_per_prompt": 8,
    "answers_per_batch": 64,
    "max_answer_tokens": 4,
    "missing_end_score": None,
    "max_steps": 24,
    "eval_every": 24,
    "learning_rate": 2e-2,
}


@BOTH
def test_a_known_reward_rises_and_a_larger_beta_keeps_kl_smaller(method, store, sft, prompts, tmp_path):
    found = {}
    for beta in (0.01, 1.0):
        job = new_job(store, tmp_path / f"run{beta}", f"run_{beta}")
        result = train(method, job, beta=beta, **LEARNING)
        reward, kl = series(job, "reward"), series(job, "kl")
        assert set(reward) == set(kl) == set(range(1, 25))
        assert kl[1] == pytest.approx(0, abs=1e-6)
        found[beta] = sum(reward[step] for step in range(20, 25)) / 5, sum(kl[step] for step in range(20, 25)) / 5
        assert all(math.isfinite(value) and value < 100 for value in kl.values())
        held = series(job, "eval_reward"), series(job, "eval_kl")
        assert held[1][0] == pytest.approx(0, abs=1e-6)
        assert result["eval_reward"] == held[0][24] and result["eval_reward_start"] == held[0][0]
        if beta == 0.01:
            assert found[beta][0] > reward[1] + 0.3
            assert held[0][24] > held[0][0] + 0.3
    assert found[1.0][1] < 0.5 * found[0.01][1]


@BOTH
def test_every_series_is_told_at_every_step(method, store, sft, prompts, tmp_path):
    job = new_job(store, tmp_path / "run")
    result = train(method, job, sample_prompts=("red sea",), sample_every=0)
    steps = set(range(1, 5))
    for name in (
        "loss", "reward", "reward_before_end_rule", "reward_low", "reward_high", "same_reward", "kl", "kl_per_token",
        "answer_tokens", "ended", "learning_rate", "grad_norm", "entropy", "clipped", "tokens_per_s", "step_s",
        "generate_s", "score_s", "reference_s", "epoch", "memory_mb", "answers_learned",
    ):  # fmt: skip
        assert set(series(job, name)) == steps, name
    for name in ("eval_reward", "eval_reward_low", "eval_reward_high", "eval_kl", "eval_kl_per_token", "eval_ended"):
        assert set(series(job, name)) == {0, 4}, name
    assert series(job, "answers_learned")[4] == result["answers"] == 32
    assert {(step, slot) for step, slot, *_ in job.samples} == {(step, slot) for step in (0, 4) for slot in range(4)}
    entries = [json.loads(line) for line in (job.folder / rlhf.HELD_OUT_FILE).read_text().splitlines()]
    assert [entry["reward"] for entry in entries] == sorted(entry["reward"] for entry in entries)
    assert sum(entry["reward"] for entry in entries) / 8 == pytest.approx(result["eval_reward"])
    variant = model_store.get_variant(store, result["variant_id"])
    assert variant.name == "tiny tuned reinforced" and variant.run_id == job.run_id
    assert job.phases[-1] == "saving"


@BOTH
def test_answers_without_an_end_get_the_replacing_score(method, store, sft, prompts, tmp_path):
    job = new_job(store, tmp_path / "run")
    train(method, job, missing_end_score=-1.0)
    ended, reward, before = series(job, "ended"), series(job, "reward"), series(job, "reward_before_end_rule")
    assert min(ended.values()) < 1
    for step, share in ended.items():
        assert reward[step] <= -(1 - share) + share + 1e-9
        assert before[step] >= 0
        if share == 0:
            assert reward[step] == -1


def answers_in(job):
    return {
        entry["row_id"]: entry
        for entry in map(json.loads, (job.folder / rlhf.HELD_OUT_FILE).read_text("utf-8").splitlines())
    }


def test_a_yardstick_beside_the_reward_sees_what_the_reward_cannot(store, sft, prompts, tmp_path):
    start = new_job(store, tmp_path / "start", "run_start")
    train("rloo", start, max_steps=1, learning_rate=1e-12, max_answer_tokens=4)
    said = answers_in(start)  # the references: what the model says before it learns
    rows = iter_rows(store, find_version(store, "apart")[1])
    apart = [row.payload.model_copy(update={"reference": said[row.row_id]["answer"] or "?"}) for row in rows]
    write_version(store, create_dataset(store, "apart with references", "prompts").id, apart)
    job = new_job(store, tmp_path / "run")
    watching = LEARNING | {"beta": 0.01, "held_out": "apart with references", "watch_scorers": ("chrf", "assistant")}
    result = train("rloo", job, **watching)
    chrf, reward = series(job, "eval_chrf"), series(job, "eval_reward")
    assert set(chrf) == set(series(job, "eval_assistant")) == {0, 24}
    assert chrf[24] < chrf[0] and reward[24] > reward[0]
    assert series(job, "eval_chrf_low")[0] <= chrf[0] <= series(job, "eval_chrf_high")[0]
    assert (result["eval_chrf_start"], result["eval_chrf"]) == (chrf[0], chrf[24])
    (warning,) = result["warnings"]
    assert job.results["warnings"] == [warning] and f"WARNING: {warning}" in job.lines
    assert "chrf (chrf against the reference) has fallen" in warning and "reward has risen" in warning
    held = answers_in(job)
    assert sum(entry["chrf"] for entry in held.values()) / len(held) == pytest.approx(chrf[24])


@pytest.mark.parametrize("held_out", [None, 0.2])
def test_a_run_whose_watch_is_blind_says_so_at_once(held_out, store, sft, prompts, tmp_path):
    job = new_job(store, tmp_path / "run")
    result = train("rloo", job, held_out=held_out, max_steps=1, missing_end_score=None)
    words = "Nothing is held out" if held_out is None else "Only 2 of the prompts are held out"
    assert words in result["warnings"][0] == job.results["warnings"][0]
    assert any(line.startswith(f"WARNING: {words}") for line in job.lines)


# What TRL is given ---------------------------------------------------------------------------------------------------


@BOTH
def test_the_prompt_tokens_of_the_real_batch_are_those_of_render(
    method, store, model, sft, prompts, tmp_path, monkeypatch
):
    seen = set()
    real = rlhf.reinforcing

    def spying(base):
        class Spy(real(base)):
            def _compute_loss(self, policy, inputs):
                for ids, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True):
                    seen.add(tuple(ids[mask.bool()].tolist()))
                return super()._compute_loss(policy, inputs)

        return Spy

    monkeypatch.setattr(rlhf, "reinforcing", spying)
    train(method, new_job(store, tmp_path / "run"), max_steps=6, learning_rate=1e-4)
    renderer = load_renderer(model.path)
    assert seen == {tuple(renderer.prompt_ids(prompt.messages)) for prompt in prompts[:12]}


def build(method, store, model, sft, tmp_path, **changes):
    import trl

    settings = config(method, **changes)
    renderer = load_renderer(model.path)
    asked, _ = render_prompts(iter_rows(store, find_version(store, "asked")[1]), renderer, longest=400)
    plan = plan_prompts(
        [len(prompt.ids) for prompt in asked],
        prompts_per_step=2,
        answers_per_prompt=4,
        iterations=1,
        seed=0,
        epochs=1,
        max_steps=4,
    )
    parts = rlhf.TrainerParts(
        *((trl.RLOOTrainer, trl.RLOOConfig) if method == "rloo" else (trl.GRPOTrainer, trl.GRPOConfig)), {}
    )
    judge = RewardFunction(ShareOfTokens(), renderer, asked, settings.missing_end_score)
    job = new_job(store, tmp_path / "built")
    return rlhf.build_trainer(settings, job, model, sft, renderer, judge, plan, parts), asked


def test_probabilities_and_their_gradients_are_stock_trls(store, model, sft, prompts, tmp_path):
    import torch
    import trl

    trainer, asked = build("rloo", store, model, sft, tmp_path, temperature=0.7)
    assert trainer.fast
    drawn = trainer.draw([prompt.ids for prompt in asked[:3]], 2)
    ids, mask, columns = rlhf.beside([prompt.ids for prompt in asked[:3] for _ in range(2)], drawn, "cpu")
    weights = torch.linspace(-1, 1, columns)[None] * mask[:, -columns:]
    found = []
    for stock in (False, True):
        way = trl.RLOOTrainer if stock else type(trainer)
        trainer.model.zero_grad()
        logps, entropies, _ = way._get_per_token_logps_and_entropies(
            trainer, trainer.model, ids, mask, columns, compute_entropy=True
        )
        (logps * weights).sum().backward()
        slopes = [p.grad.clone() for p in trainer.model.parameters() if p.requires_grad]
        found.append((logps.detach() * mask[:, -columns:], entropies.detach() * mask[:, -columns:], slopes))
    (ours, our_entropies, our_slopes), (theirs, their_entropies, their_slopes) = found
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(our_entropies, their_entropies, atol=1e-4)
    assert len(our_slopes) == len(their_slopes) > 0
    for one, other in zip(our_slopes, their_slopes, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@BOTH
def test_smaller_batches_and_checkpointed_activations_change_memory_and_not_what_is_learned(
    method, store, sft, prompts, tmp_path
):
    ways = ({}, {"answers_per_batch": 2}, {"answers_per_batch": 3, "gradient_checkpointing": True})
    jobs = [new_job(store, tmp_path / f"run{place}", f"run_{place}") for place in range(len(ways))]
    for job, way in zip(jobs, ways, strict=True):
        train(method, job, missing_end_score=None, learning_rate=1e-3, held_out=None, **way)
    for name in ("reward", "kl", "grad_norm", "entropy"):
        for other in jobs[1:]:
            assert series(other, name) == pytest.approx(series(jobs[0], name), abs=1e-3), name


def test_kl_is_the_log_ratio_to_the_sft_policy_as_counted_by_hand(store, model, sft, prompts, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from workbench.models.loading import quiet_peft

    trainer, asked = build("grpo", store, model, sft, tmp_path)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "lora_B.default" in name:
                weight.add_(0.02)
    scored, kls = trainer.measure(asked[:5])
    with quiet_peft():
        before = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model.path), sft.adapter_path).eval()
    policy = trainer.model.eval()
    for answer, kl in zip(scored.answers, kls, strict=True):
        ids = torch.tensor([[*answer.prompt.ids, *answer.ids]])
        start = len(answer.prompt.ids)
        by_hand = 0.0
        with torch.no_grad():
            now, then = (m(input_ids=ids).logits[0].log_softmax(-1) for m in (policy, before))
        for place, token in enumerate(answer.ids, start=start):
            by_hand += float(now[place - 1, token] - then[place - 1, token])
        assert kl == pytest.approx(by_hand, abs=1e-4)
    assert max(abs(kl) for kl in kls) > 0.01


def test_the_reference_does_not_learn_and_the_policy_does(store, model, sft, prompts, tmp_path):
    trainer, _ = build("rloo", store, model, sft, tmp_path)
    trained = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    assert trained and all(".default." in name for name in trained)
    assert "ref" in trainer.model.peft_config


@pytest.mark.parametrize("each", [1, 3])
def test_drawn_answers_follow_the_models_own_probabilities(each, model, prompts, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(model.path)
    asked = [list(range(3, 9)), list(range(10, 30)), [7]]
    arguments = {"each": each, "most_tokens": 12, "temperature": 1e-4}
    found = rollouts.draw_answers(policy, asked, stop_ids=[tiny.END_ID], **arguments)
    assert len(found) == 3 * each
    for place, ids in enumerate(found):
        text = list(asked[place // each])
        with torch.no_grad():
            for token in ids:
                assert token == int(policy(input_ids=torch.tensor([text])).logits[0, -1].argmax())
                text.append(token)
    stop = found[0][4]  # rows leave the batch when they end: the others go on as before
    cut = rollouts.draw_answers(policy, asked, stop_ids=[stop], **arguments)
    for whole, short in zip(found, cut, strict=True):
        assert short == (whole[: whole.index(stop) + 1] if stop in whole else whole)


def test_a_token_is_drawn_as_often_as_its_probability_says():
    import torch

    chances = torch.tensor([0.1, 0.0, 0.6, 0.3])
    dice = torch.Generator().manual_seed(0)
    drawn = rollouts.draw_tokens(chances.log().expand(20_000, 4), 1.0, dice)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert torch.allclose(shares, chances, atol=0.02) and shares[1] == 0
    warm = torch.bincount(rollouts.draw_tokens(chances.log().expand(20_000, 4), 2.0, dice), minlength=4) / 20_000
    assert torch.allclose(warm, chances.sqrt() / chances.sqrt().sum(), atol=0.02)


# Stop, resume, publish -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "changes"), [("rloo", {}), ("grpo", {"answers_per_batch": 4}), ("rloo", {"num_iterations": 2})]
)
def test_a_stopped_run_goes_on_exactly_as_if_it_had_not_been_stopped(method, changes, store, sft, prompts, tmp_path):
    changes |= {"max_steps": 8, "eval_every": 2, "watch_scorers": ("assistant",)}
    whole = new_job(store, tmp_path / "whole", "run_whole")
    expected = train(method, whole, **changes)
    first = new_job(store, tmp_path / "cut", "run_cut", stop_after=2)
    with pytest.raises(Stopped):
        train(method, first, **changes)
    stopped_at = max(series(first, "loss"))
    assert stopped_at in (3, 4) and stopped_at % changes.get("num_iterations", 1) == 0
    second = RecordingJob(store, first.folder, run_id="run_cut")
    second.attempt = 2
    result = train(method, second, **changes)
    for name in ("loss", "reward", "kl", "eval_reward", "eval_kl", "eval_assistant", "learning_rate"):
        joined = series(first, name) | series(second, name)
        assert joined == pytest.approx(series(whole, name), abs=1e-6), name
    ours, theirs = adapter_weights(first.folder / "adapter"), adapter_weights(whole.folder / "adapter")
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() <= 1e-6, name
    assert {key: result[key] for key in ("answers", "steps", "warnings")} == {
        key: expected[key] for key in ("answers", "steps", "warnings")
    }


@BOTH
def test_the_published_adapter_holds_the_policy_alone_and_opens_in_peft(
    method, store, model, sft, prompts, tmp_path, monkeypatch
):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from workbench.models.loading import quiet_peft

    kept = []
    real = rlhf.publish
    monkeypatch.setattr(rlhf, "publish", lambda trained, *rest: kept.append(trained) or real(trained, *rest))
    result = train(method, new_job(store, tmp_path / "run"))
    folder = tmp_path / "run" / "adapter"
    assert {path.name for path in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors", "base.json"}
    assert not any(path.is_dir() or path.suffix == ".bin" for path in folder.iterdir())
    weights = adapter_weights(folder)
    assert weights.keys() == adapter_weights(tmp_path / "sft").keys()
    assert not any("ref" in name for name in weights)
    with quiet_peft():
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model.path), result["adapter_path"])
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.allclose(kept[0].eval()(input_ids=ids).logits, plain.eval()(input_ids=ids).logits, atol=1e-5)


def test_without_an_adapter_the_base_is_start_and_reference(store, model, prompts, tmp_path):
    job = new_job(store, tmp_path / "run")
    result = train("rloo", job, adapter=None, lora_r=4)
    assert result["reference_id"] is None
    assert series(job, "kl")[1] == pytest.approx(0, abs=1e-6)
    assert any("KL is measured to tiny, since no adapter is named" in line for line in job.lines)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_beta_0_is_refused_unless_it_is_said_that_there_is_to_be_no_anchor(method):
    with pytest.raises(UsageError, match="no_kl_anchor"):
        config(method, beta=0)
    assert config(method, beta=0, no_kl_anchor=True).beta == 0
    assert config("rloo").beta == 0.05 and config("grpo").beta == 0.04


@BOTH
def test_beta_0_is_told_loudly_and_kl_is_measured_all_the_same(method, store, sft, prompts, tmp_path):
    job = new_job(store, tmp_path / "run")
    result = train(method, job, beta=0, no_kl_anchor=True, missing_end_score=None)
    assert "no KL anchor" in result["warnings"][0] and "no KL anchor" in job.results["warnings"][0]
    assert any(line.startswith("WARNING: There is no KL anchor") for line in job.lines)
    kl = series(job, "kl")
    assert kl[1] == pytest.approx(0, abs=1e-6) and kl[4] != 0


class Breaking:
    """A reward that fails from its nth call on."""

    def __init__(self, after, raised=None):
        self.left, self.raised, self.inner = after, raised, ShareOfTokens()

    def score(self, answers):
        self.left -= 1
        if self.left < 0:
            if self.raised is None:
                return [float("nan")] * len(answers)
            raise self.raised
        return self.inner.score(answers)


@pytest.mark.parametrize("raised", [None, OSError("the reward model is gone")])
def test_a_reward_that_breaks_in_the_middle_loses_nothing(raised, store, sft, prompts, tmp_path):
    whole = new_job(store, tmp_path / "whole", "run_whole")
    train("rloo", whole, held_out=None)
    broken = new_job(store, tmp_path / "cut", "run_cut")
    with pytest.raises(RunProblem, match=r"resume"):
        train("rloo", broken, Breaking(2, raised), held_out=None)
    assert [path.name for path in list_checkpoints(broken.folder / "checkpoints")] == ["checkpoint-2"]
    again = RecordingJob(store, broken.folder, run_id="run_cut")
    train("rloo", again, held_out=None)
    joined = series(broken, "reward") | series(again, "reward")
    assert joined == pytest.approx(series(whole, "reward"), abs=1e-6)
    ours, theirs = adapter_weights(broken.folder / "adapter"), adapter_weights(whole.folder / "adapter")
    assert all((ours[name] - theirs[name]).abs().max() <= 1e-6 for name in ours)


def test_a_reward_that_breaks_at_a_measurement_loses_nothing(store, sft, prompts, tmp_path):
    broken = new_job(store, tmp_path / "run")
    with pytest.raises(RunProblem, match="no number"):
        train("rloo", broken, Breaking(3), eval_every=2)
    assert [path.name for path in list_checkpoints(broken.folder / "checkpoints")] == ["checkpoint-2"]


def test_a_learning_rate_beyond_reason_is_refused_and_a_diverged_model_is_told(
    store, sft, prompts, tmp_path, monkeypatch
):
    from pydantic import ValidationError

    with pytest.raises(ValidationError):
        config(learning_rate=1e9)
    with pytest.raises(UsageError, match="learning_rate"):
        parse_config("rloo", {"dataset": "asked", "reward": "r", "learning_rate": 1e9})
    blown = config(max_steps=8, max_grad_norm=0).model_copy(update={"learning_rate": 1e9})
    with pytest.raises(RunProblem, match=r"diverged.*[Ll]ower learning_rate"):
        rlhf.train_rloo(blown, new_job(store, tmp_path / "run"), ShareOfTokens())


def test_running_out_of_memory_names_the_settings_of_this_method(store, sft, prompts, tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(rlhf, "draw_answers", exhausted)
    with pytest.raises(RunProblem, match="Lower answers_per_batch or max_answer_tokens"):
        train("rloo", new_job(store, tmp_path / "run"))


def test_prompts_that_leave_no_room_are_left_out_and_counted(store, sft, prompts, tmp_path):
    long = Prompt(messages=(Message(role="user", content="the sea is wide " * 40),))
    write_version(store, create_dataset(store, "mixed", "prompts").id, [*prompts[:3], long, prompts[0]])
    job = new_job(store, tmp_path / "run")
    train("rloo", job, dataset="mixed", max_length=100, max_steps=1)
    assert "1 of 5 rows leave no room for the answer and are left out" in job.lines
    assert "1 of 5 rows ask what another row asks and are left out" in job.lines
    write_version(store, create_dataset(store, "long", "prompts").id, [long])
    hopeless = {"dataset": "long", "max_length": 100}
    with pytest.raises(DataProblem, match=r"1 of 1 rows have a prompt that leaves no room for an answer"):
        train("rloo", new_job(store, tmp_path / "other", "run_other"), **hopeless)
    with pytest.raises(DataProblem, match=r"no row has a prompt to answer.*92 tokens"):
        train("rloo", new_job(store, tmp_path / "bold", "run_bold"), **hopeless, overrule_gates=True)
    with pytest.raises(UsageError, match="leaves no room for a prompt"):
        config(max_length=8)


def test_prompts_of_any_dataset_are_taken(store, model, sft, prompts, tmp_path):
    said = (Message(role="assistant", content="a"),)
    examples = [Example(messages=(*prompt.messages, *said)) for prompt in prompts[:5]]
    pairs = [Preference(prompt=prompts[n % 3].messages, chosen=said, rejected=said) for n in range(6)]
    write_version(store, create_dataset(store, "examples", "instructions").id, examples)
    write_version(store, create_dataset(store, "pairs", "preferences").id, pairs)
    renderer = load_renderer(model.path)
    for name, count in (("examples", 5), ("pairs", 3)):
        found, _ = render_prompts(iter_rows(store, find_version(store, name)[1]), renderer, longest=100)
        assert [prompt.messages for prompt in found] == [prompt.messages for prompt in prompts[:count]]
        assert [list(prompt.ids) for prompt in found] == [renderer.prompt_ids(p.messages) for p in prompts[:count]]


def test_held_out_prompts_that_are_also_trained_on_are_refused(store, sft, prompts, tmp_path):
    write_version(store, create_dataset(store, "both", "prompts").id, prompts)
    with pytest.raises(DataProblem, match="ask what a training row asks"):
        train("rloo", new_job(store, tmp_path / "run"), dataset="both")


def test_a_reward_that_never_tells_answers_apart_is_warned_of(store, sft, prompts, tmp_path):
    result = train("rloo", new_job(store, tmp_path / "run"), ShareOfTokens(0, 0), missing_end_score=None, max_steps=2)
    assert "In no step did the reward tell the answers to a prompt apart" in result["warnings"][-1]


# Reward models -------------------------------------------------------------------------------------------------------


class Scorer:
    """Stands in for a loaded reward model: what it is given is looked at."""

    def __init__(self):
        self.rows = []

    def score(self, rows):
        self.rows += [list(row) for row in rows]
        return [float(len(row)) for row in rows]


def test_the_reward_model_reads_prompt_answer_and_end_of_turn(model, prompts):
    from workbench.training.rl_prompts import AskedPrompt

    renderer = load_renderer(model.path)
    asked = renderer.prompt_ids(prompts[0].messages)
    prompt = AskedPrompt("row", prompts[0].messages, None, "", tuple(asked))
    said = renderer.encode("the sea")
    scorer = Scorer()
    answers = [make_answer(prompt, ids, renderer) for ids in ([*said, tiny.END_ID], said)]
    assert [answer.ended for answer in answers] == [True, False]
    ModelReward(scorer, renderer).score(answers)
    rendered = renderer.render_prompt_completion(prompts[0].messages, [Message(role="assistant", content="the sea")])
    wanted = list(rendered.ids[: rendered.spans[-1].end])
    assert scorer.rows == [wanted, wanted]


def test_a_reward_model_of_another_tokenizer_reads_the_answer_in_its_own(model, prompts, tmp_path):
    from workbench.training.rl_prompts import AskedPrompt

    plain = load_renderer(tiny.make_model(tmp_path / "other", chat_template=None))
    renderer = load_renderer(model.path)
    prompt = AskedPrompt("row", prompts[0].messages, None, "", tuple(renderer.prompt_ids(prompts[0].messages)))
    scorer = Scorer()
    reward = ModelReward(scorer, renderer, plain)
    reward.score([make_answer(prompt, [*renderer.encode("the sea"), tiny.END_ID], renderer)])
    assert scorer.rows == [[*plain.prompt_ids(prompts[0].messages), *plain.encode("the sea"), reward.end]]
    assert plain.decode(scorer.rows[0]).startswith("User: 0 red green")


def make_reward_model(store, model, name="good answers", run_id="run_reward"):
    """A reward model as a finished reward run leaves it, its head drawn at random."""
    import torch
    from peft import LoraConfig, get_peft_model

    from workbench.models.loading import quiet_peft
    from workbench.training import reward_models

    add_run(store, kind="reward", name=name, slot="train", spec={}, run_id=run_id)
    base = reward_models.load_reward_base(model)
    reward_models.init_head(base, 0)
    folder = store.settings.run_dir(run_id) / reward_models.FOLDER
    with quiet_peft(), torch.random.fork_rng(devices=[]):
        lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS", modules_to_save=[reward_models.HEAD])
        digest = reward_models.publish_reward(get_peft_model(base, lora), folder, model, bias=0.25, facts={})
    made = {"model_id": model.id, "digest": digest, "bias": 0.25, "max_length": 256}
    run_store.update_run(store, run_id, state=RunState.FINISHED, result={"reward": made})
    return reward_models.get_reward_model(store, run_id)


def test_a_reward_model_is_found_by_name_and_scores_as_it_does_alone(store, model, sft, prompts, tmp_path):
    from workbench.training.reward_models import RewardScorer

    record = make_reward_model(store, model)
    job = new_job(store, tmp_path / "run")
    rlhf.train_rloo(config(reward="good answers", missing_end_score=None), job)
    assert job.results["reward_run_id"] == record.run_id
    renderer = load_renderer(model.path)
    asked, _ = render_prompts(iter_rows(store, find_version(store, "asked")[1]), renderer, longest=100)
    reward = load_reward(job, record, model, renderer, "cpu", "float32")
    answers = [make_answer(asked[0], [*renderer.encode(text), tiny.END_ID], renderer) for text in ("the sea", "red")]
    rows = [[*asked[0].ids, *answer.ids] for answer in answers]
    assert reward.score(answers) == pytest.approx(RewardScorer.load(record, model).score(rows), abs=1e-6)
    assert len(set(reward.score(answers))) == 2


def test_a_reward_model_removed_meanwhile_is_told_and_the_run_goes_on_once_it_is_back(
    store, model, sft, prompts, tmp_path
):
    record = make_reward_model(store, model)
    first = new_job(store, tmp_path / "run", stop_after=1)
    settings = config(reward=record.run_id)
    with pytest.raises(Stopped):
        rlhf.train_rloo(settings, first)
    shutil.move(record.folder, tmp_path / "away")
    again = RecordingJob(store, first.folder)
    with pytest.raises(RunProblem, match=r"reward model is gone.*Put it back and resume"):
        rlhf.train_rloo(settings, again)
    shutil.move(tmp_path / "away", record.folder)
    assert rlhf.train_rloo(settings, again)["steps"] == 4
    assert again.results["resumed_step"] == 2


def test_a_reward_model_that_changed_meanwhile_is_not_mixed_in(store, model, sft, prompts, tmp_path):
    record = make_reward_model(store, model)
    first = new_job(store, tmp_path / "run", stop_after=1)
    with pytest.raises(Stopped):
        rlhf.train_rloo(config(reward=record.run_id), first)
    made = {"model_id": model.id, "digest": "other", "bias": 0.25, "max_length": 256}
    run_store.update_run(store, record.run_id, result={"reward": made})
    with pytest.raises(RunProblem, match="no longer the one this run began with"):
        rlhf.train_rloo(config(reward=record.run_id), RecordingJob(store, first.folder))


def test_a_reward_model_is_refused_as_policy(store, model, sft, prompts, tmp_path):
    record = make_reward_model(store, model)
    job = new_job(store, tmp_path / "run")
    for name in (record.name, record.run_id):
        with pytest.raises(UsageError, match="it scores answers and cannot give any"):
            rlhf.train_rloo(config(reward=record.name, adapter=name), job)
    smuggled = model_store.add_variant(store, "smuggled", model_id=model.id, adapter_path=record.folder)
    with pytest.raises(UsageError, match="it scores answers and cannot give any"):
        rlhf.train_rloo(config(reward=record.name, adapter=smuggled.name), job)


def test_an_unknown_reward_model_is_told_before_anything_is_loaded(store, model, sft, prompts, tmp_path):
    record = make_reward_model(store, model)
    with pytest.raises(NotFound, match=record.name):
        rlhf.train_rloo(config(reward="nobody"), new_job(store, tmp_path / "run"))


def test_a_reward_model_over_another_base_with_another_template_is_taken_and_told(store, model, sft, prompts, tmp_path):
    other = tiny.register_model(store, tiny.make_model(tmp_path / "other", seed=5, chat_template=None), "other")
    alike = tiny.register_model(store, tiny.make_model(tmp_path / "alike", seed=6), "alike")
    told = "has another tokenizer or template: it reads answers rendered in its own"
    for base, wanted in ((other, True), (alike, False)):
        make_reward_model(store, base, name=f"of {base.name}", run_id=f"run_of_{base.name}")
        job = new_job(store, tmp_path / f"run_{base.name}", f"run_{base.name}")
        rlhf.train_rloo(config(reward=f"of {base.name}", max_steps=1, missing_end_score=None), job)
        assert any(told in line for line in job.lines) is wanted
        assert len(set(series(job, "reward").values()) | {0.0}) == 2
