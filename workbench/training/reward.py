"""A reward model from rankings: the run, from top to bottom.

After Ouyang et al. 2022 ("InstructGPT", section 3.5 and appendix C.2): per prompt of K ranked answers the loss is
−1/C(K,2) · Σ log σ(r_w − r_l) over all its pairs, which are one batch element, so each answer is read once: K
forwards, not K(K−1). The score is read at the last token by a fresh head; dropout is off; at the end a bias makes
demonstrations score 0 on average. Departures: LoRA instead of all weights; batches by a budget of tokens instead of 64
prompts; pairs carry the weights of their rows, so that any dataset of preferences serves.

transformers' `Trainer` turns the crank. What the scores are worth is `reward_report`'s business.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelProblem
from workbench.job import Job
from workbench.records import Model, Variant
from workbench.store import models as model_store
from workbench.training.adapter_rank import tell_large_rank
from workbench.training.batching import Batch, RunPlan, plan_run
from workbench.training.callback import StepReporter
from workbench.training.checking import find_demonstrations
from workbench.training.crank import (
    choose_device,
    failures_in_words,
    layers_in_words,
    lora_config,
    one_device,
    planned,
    planned_arguments,
    require_finite,
    train_to_end,
)
from workbench.training.reward_configs import RewardConfig
from workbench.training.reward_diagnostics import PairScores, pair_accuracy, pair_loss
from workbench.training.reward_models import (
    FOLDER,
    TASK,
    init_head,
    last_token_scores,
    load_reward_base,
    pad_rows,
    publish_reward,
    score_rows,
)
from workbench.training.reward_report import diagnose
from workbench.training.reward_rows import Answer, RankedPrompt, RankedPrompts, load_demonstrations, load_ranked_prompts
from workbench.training.rows import pin_inputs

if TYPE_CHECKING:
    import torch

NEAR = 0.6
"""Answers of one batch whose lengths differ by more than this factor are read in separate forward passes."""


def train_reward(config: RewardConfig, job: Job) -> dict[str, Any]:
    """Learn a reward model from preferences and publish it as `<run>/reward/`.

    Goes on from the newest whole checkpoint in the run's folder, where there is one.

    Args:
        config: what to learn from what, and how.
        job: the run.

    Returns:
        `reward` (fields of `RewardModel`), train_loss, eval_loss, eval_accuracy, trained_tokens, steps, seconds, and
        `demonstrations` (their mean score before and after the bias).

    Raises:
        Stopped: Stop was pressed; the checkpoint is written.
        DataProblem: the rows prefer nothing to anything, or the checks refuse them.
        RunProblem: the loss is no number, memory or disk ran out.
        UsageError: settings that do not fit the model.
    """
    from workbench.datasets.render import load_renderer

    job.progress(phase="rendering", note="reading the dataset")
    inputs = pin_inputs(config, job)
    demonstrations_id = _pin_demonstrations(config, job)
    model_record = model_store.get_model(job.store, inputs.model_id)
    start_from = model_store.get_variant(job.store, inputs.adapter_id) if inputs.adapter_id else None
    train, held_out = load_ranked_prompts(job, config, inputs, model_record)
    renderer = load_renderer(model_record.path or "")
    demonstrations = load_demonstrations(
        job.store, demonstrations_id, train, renderer, max_length=config.max_length, seed=config.seed
    )
    plan = plan_run(
        [item.tokens for item in train.prompts],
        tokens_per_batch=config.tokens_per_batch,
        batches_per_step=config.gradient_accumulation_steps,
        seed=config.seed,
        epochs=config.epochs,
        max_steps=config.max_steps,
    )
    job.log(
        f"{len(train.prompts)} training prompts with {train.answers} answers in {train.pairs} pairs, "
        f"{len(held_out.prompts)} prompts held out with {held_out.pairs} pairs; {plan.steps} steps over {plan.tokens} "
        "tokens"
    )
    with failures_in_words():
        job.progress(phase="loading the model", done=0, total=plan.steps, unit="steps", note="")
        trainer = build_trainer(config, job, model_record, start_from, train.prompts, plan)
        measured: dict[int, PairScores] = {}

        def evaluate(step: int) -> None:
            job.progress(phase="evaluating")
            measured.clear()
            measured[step] = score_prompts(trainer.model, held_out, config.tokens_per_batch)
            job.metric(
                step,
                eval_loss=pair_loss(measured[step]),
                eval_accuracy=pair_accuracy(measured[step]),
                eval_margin=statistics.fmean(measured[step].margins()),
            )

        reporter = StepReporter(
            job,
            plan,
            eval_every=config.eval_every if held_out.prompts else None,
            save_every=config.save_every,
            sample_every=None,
            evaluate=evaluate,
            sample=lambda step: None,
            weight_name="rankings",
        )
        trainer.reporter = reporter
        train_to_end(trainer, job, plan.steps)

        if held_out.prompts and plan.steps not in measured:  # resumed after the last step
            evaluate(plan.steps)
        job.progress(phase="scoring demonstrations")
        bias, centred = center(trainer.model, demonstrations)
        job.log(f"demonstrations scored {bias:+.3f} on average; with that taken off, {centred['after']:+.3f}")
        job.progress(phase="measuring")
        report = diagnose(
            job,
            config,
            trainer.model,
            bias=bias,
            train=train,
            held_out=held_out,
            scores=measured.get(plan.steps),
            demonstrations=demonstrations,
            demonstrations_told=centred,
            model_record=model_record,
            start_from=start_from,
            renderer=renderer,
        )
        job.progress(phase="saving")
        digest = publish_reward(
            trainer.model,
            job.folder / FOLDER,
            model_record,
            bias=bias,
            facts={
                "run_id": job.run_id,
                "demonstrations": centred,
                "max_length": config.max_length,
                "pad_token_id": _safe_pad(renderer.special_ids, renderer.stop_ids),
                "read_at": "the last token of prompt + answer + end-of-turn; subtract the bias",
            },
        )
    accuracy = report.accuracy.model_dump(mode="json") if report.accuracy else None
    return {
        "reward": {
            "model_id": model_record.id,
            "digest": digest,
            "bias": bias,
            "max_length": config.max_length,
            "accuracy": accuracy,
            "pairs": train.pairs,
        },
        "demonstrations": centred,
        "demonstrations_version_id": demonstrations_id,
        "train_loss": reporter.mean_loss,
        "eval_loss": report.loss,
        "eval_accuracy": report.accuracy.value if report.accuracy else None,
        "trained_tokens": plan.tokens,
        "steps": plan.steps,
        "seconds": reporter.seconds,
    }


def _pin_demonstrations(config: RewardConfig, job: Job) -> str | None:
    """The version of the demonstrations at the run's first start."""
    if config.demonstrations is None:
        return None
    path = job.folder / "demonstrations.json"
    if path.is_file():
        pinned = json.loads(path.read_text("utf-8"))
        return str(pinned["demonstrations_version_id"])
    version = find_demonstrations(job.store, config.demonstrations)
    path.write_text(json.dumps({"demonstrations_version_id": version.id}), encoding="utf-8")
    job.result(demonstrations_version_id=version.id)
    return version.id


def _safe_pad(special: frozenset[int], stops: frozenset[int]) -> int | None:
    """A token that ends no row, for stock sequence classification, which takes the last token that is no padding."""
    return min(special - stops, default=None)


def build_trainer(
    config: RewardConfig,
    job: Job,
    model_record: Model,
    start_from: Variant | None,
    prompts: Sequence[RankedPrompt],
    plan: RunPlan,
) -> Any:
    """The trainer over the base with a score head, an adapter, and the planned batches."""
    from transformers import TrainingArguments

    device, dtype = choose_device(config)
    model = load_trainable(config, job, model_record, start_from, device, dtype)
    args = one_device(
        TrainingArguments(
            **planned_arguments(config, job, plan.steps, device),
            activation_checkpointing=config.gradient_checkpointing,
            activation_checkpointing_kwargs={"use_reentrant": False},
            label_names=[],
        )
    )
    trainer = trainer_class()(model=model, args=args, train_dataset=list(prompts), data_collator=collate)
    trainer.plan = plan
    trainer.keep_checkpoints = config.keep_checkpoints
    return trainer


def load_trainable(
    config: RewardConfig, job: Job, model_record: Model, start_from: Variant | None, device: str, dtype: str
) -> Any:
    """The base with a drawn score head and LoRA weights, new ones or those of a fine-tuned variant.

    Raises:
        UsageError: the layers are not there.
        ModelProblem: the variant's adapter cannot be continued as a reward model.
    """
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import set_seed

    from workbench.models.adapters import UNMIXABLE, WEIGHTS, check_adapter

    if device == "cpu":
        torch.set_num_threads(job.settings.threads)
    set_seed(config.seed)
    base = load_reward_base(model_record, dtype=dtype, device=device)
    init_head(base, config.seed)
    if start_from is None:
        made = lora_config(config, TASK)
    else:
        folder = Path(start_from.adapter_path or "")
        check_adapter(folder, model_record)
        made = LoraConfig.from_pretrained(str(folder))
        odd = [name for name in UNMIXABLE if name not in ("use_dora",) and getattr(made, name, None)]
        if odd:
            raise ModelProblem(
                "the adapter trains more than LoRA weights, which a reward model cannot take over",
                place=start_from.name,
                value=odd[0],
                remedy="Start from a plain LoRA adapter, or leave it empty.",
            )
        made.task_type, made.inference_mode, made.lora_dropout = TASK, False, config.lora_dropout
        made.base_model_name_or_path = None  # of the run that made it, perhaps in another place
    with layers_in_words(config):
        model = get_peft_model(base, made)
    if start_from is not None:
        heads = {name: value for name, value in get_peft_model_state_dict(model).items() if ".lora_" not in name}
        loaded = set_peft_model_state_dict(model, heads | load_file(folder / WEIGHTS))
        if loaded.unexpected_keys:
            raise ModelProblem(
                "the adapter changes layers that a reward model does not have",
                place=start_from.name,
                value=loaded.unexpected_keys[0],
                remedy="Start from another adapter, or leave it empty.",
            )
    else:
        tell_large_rank(model, job)
    return model


# Batches ------------------------------------------------------------------------------------------------------------


def collate(prompts: Sequence[RankedPrompt]) -> dict[str, Any]:
    """Prompts as one batch: their answers in passes of like length, their pairs by number of answer in pass order.

    Returns:
        ids: one [rows, length] a pass, padded on the right; lengths: one [rows] a pass; better, worse, weight, share:
        [pairs], a pair's share being its part of its prompt's weight times the prompt's votes; votes: [].
    """
    import torch

    answers = [answer.ids for item in prompts for answer in item.answers]
    passes = near_lengths([len(ids) for ids in answers])
    place = {answer: number for number, answer in enumerate(answer for batch in passes for answer in batch)}
    better, worse, weight, share = [], [], [], []
    start = 0
    for item in prompts:
        total = sum(pair.weight for pair in item.pairs)
        for pair in item.pairs:
            better.append(place[start + pair.better])
            worse.append(place[start + pair.worse])
            weight.append(pair.weight)
            share.append(item.votes * pair.weight / total)
        start += len(item.answers)
    padded = [pad_rows([answers[answer] for answer in batch]) for batch in passes]
    return {
        "ids": [ids for ids, _ in padded],
        "lengths": [lengths for _, lengths in padded],
        "better": torch.tensor(better),
        "worse": torch.tensor(worse),
        "weight": torch.tensor(weight, dtype=torch.float32),
        "share": torch.tensor(share, dtype=torch.float32),
        "votes": torch.tensor(float(sum(item.votes for item in prompts))),
    }


def near_lengths(lengths: Sequence[int]) -> list[Batch]:
    """Rows in groups of like length, longest first: within a group none is shorter than `NEAR` times the longest."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not groups or lengths[row] < NEAR * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(row)
    return [tuple(group) for group in groups]


def ranking_loss(scores: torch.Tensor, better: torch.Tensor, worse: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Σ −w · log σ(r_better − r_worse): for a ranking of K answers with w = 1/C(K,2) the loss of its prompt.

    Bradley–Terry likelihood of the pairs; Ouyang et al. 2022, equation 1.

    Args:
        scores: [answers].
        better: [pairs], number of the better answer.
        worse: [pairs], number of the worse one.
        weight: [pairs].

    Returns:
        A number, the sum over the pairs.
    """
    import torch

    return -(weight * torch.nn.functional.logsigmoid(scores[better] - scores[worse])).sum()


def trainer_class() -> Any:
    """`Trainer` whose step reads every answer of its prompts once and takes the loss over their pairs."""
    import torch
    import transformers

    class PlannedRewardTrainer(planned(transformers.Trainer)):  # type: ignore[misc]
        def weight_of(self, batch: Any) -> float:
            return float(batch["votes"])

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            scores = torch.cat(
                [
                    last_token_scores(model, ids, lengths)
                    for ids, lengths in zip(inputs["ids"], inputs["lengths"], strict=True)
                ]
            )
            total = ranking_loss(scores, inputs["better"], inputs["worse"], inputs["weight"])
            loss = total / (inputs["votes"] if num_items_in_batch is None else num_items_in_batch)
            require_finite(loss, self.state.global_step)
            with torch.no_grad():
                margin = scores[inputs["better"]] - scores[inputs["worse"]]
                right = (margin > 0).float() + 0.5 * (margin == 0).float()
                self.note(accuracy=(inputs["share"] * right).sum(), margin=(inputs["share"] * margin).sum())
            return (loss, {"scores": scores}) if return_outputs else loss

    return PlannedRewardTrainer


# After training -----------------------------------------------------------------------------------------------------


def score_prompts(model: Any, ranked: RankedPrompts, tokens_per_batch: int) -> PairScores:
    """Scores of all answers of some prompts, without the bias, beside their pairs."""
    rows = [answer.ids for item in ranked.prompts for answer in item.answers]
    return PairScores.of(ranked, score_rows(model, rows, tokens_per_batch=tokens_per_batch))


def center(model: Any, demonstrations: Sequence[Answer]) -> tuple[float, dict[str, Any]]:
    """The bias that makes demonstrations score 0 on average, and what their mean is before and after.

    Args:
        model: the model as trained.
        demonstrations: at least one.

    Returns:
        The bias, and `n`, `before`, `spread` (standard deviation), `after`.
    """
    rows = [answer.ids for answer in demonstrations]
    before = score_rows(model, rows)
    bias = statistics.fmean(before)
    after = score_rows(model, rows, bias=bias)
    told = {
        "n": len(rows),
        "before": bias,
        "spread": statistics.stdev(before) if len(before) > 1 else 0.0,
        "after": round(statistics.fmean(after), 9) + 0.0,  # no minus in front of a zero
    }
    return bias, told
