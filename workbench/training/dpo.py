"""Direct preference optimisation (Rafailov et al. 2023) of a LoRA adapter: the run, from top to bottom.

transformers' `Trainer` turns the crank. The loss is TRL's `DPOTrainer`'s on an unweighted batch, held equal by a test;
departures from it: rows come finished from `workbench.datasets.render`; each pair counts by its weight, which TRL
ignores; batches follow a `RunPlan`; the reference is read once before the first step and kept in the run's folder, from
the very adapter the run starts with; logits are made for the answers' tokens only, where the model fits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.job import Job
from workbench.records import Model, Variant
from workbench.store import models as model_store
from workbench.training.batching import RunPlan
from workbench.training.callback import StepReporter
from workbench.training.crank import (
    choose_device,
    failures_in_words,
    load_policy,
    one_device,
    planned,
    planned_arguments,
    publish,
    require_finite,
    train_to_end,
)
from workbench.training.losses import fits, token_logps
from workbench.training.measuring import collate, tell_samples
from workbench.training.pairs import TrainingPair, load_pairs, plan_sequences
from workbench.training.preference_configs import DPOConfig, PreferenceConfig
from workbench.training.reference import answer_logps, reference_logps
from workbench.training.rows import pin_inputs
from workbench.training.stacking import join_stacked, start_adapter

if TYPE_CHECKING:
    import torch

HELD_OUT_FILE = "held_out_rows.jsonl"


def train_dpo(config: DPOConfig, job: Job) -> dict[str, Any]:
    """Train an adapter on preferences, publish it and enter it as a variant.

    Goes on from the newest whole checkpoint in the run's folder, where there is one.

    Args:
        config: what to train on what, and how.
        job: the run.

    Returns:
        adapter_path, variant_id, adapter_digest, train_loss, eval_loss, eval_accuracy, eval_margin, trained_tokens,
        pairs, steps, seconds.

    Raises:
        Stopped: Stop was pressed; the checkpoint is written.
        RunProblem: the loss is no number, memory or disk ran out, or the checks refuse the data.
        UsageError: settings that do not fit the model.
    """
    job.progress(phase="rendering", note="reading the dataset")
    inputs = pin_inputs(config, job)
    model_record = model_store.get_model(job.store, inputs.model_id)
    start_from = model_store.get_variant(job.store, inputs.adapter_id) if inputs.adapter_id else None
    train, apart = load_pairs(job, config, inputs, model_record)
    plan = plan_sequences(config, [pair.sides for pair in train.pairs])
    job.log(
        f"{train.in_words()} to train on, {apart.in_words()} held out; {plan.steps} steps of {plan.tokens} tokens, "
        f"{plan.padding:.0%} padding"
    )

    from workbench.datasets.render import load_renderer

    with failures_in_words():
        job.progress(phase="loading the model", done=0, total=plan.steps, unit="steps", note="")
        trainer = build_trainer(config, job, model_record, start_from, train.pairs, plan)
        sides = [side for pair in (*train.pairs, *apart.pairs) for side in pair.sides]
        reference = reference_logps(
            job,
            trainer.model,
            [len(side.ids) for side in sides],
            sides.__getitem__,
            tokens_per_batch=config.tokens_per_batch,
            fast=trainer.fast,
        )
        trainer.train_dataset = pair_entries(train.pairs, reference[: 2 * len(train.pairs)])
        held_out = pair_entries(apart.pairs, reference[2 * len(train.pairs) :])

        renderer = load_renderer(model_record.path or "")
        measured: dict[int, list[dict[str, float]]] = {}

        def evaluate(step: int) -> None:
            job.progress(phase="evaluating")
            measured.clear()
            measured[step] = held_out_pairs(trainer.model, held_out, config, fast=trainer.fast)
            job.metric(step, **{f"eval_{name}": value for name, value in mean_of(measured[step]).items()})

        def sample(step: int) -> None:
            asked, longest = config.sample_prompts, config.sample_tokens
            tell_samples(job, trainer.model, renderer, asked, longest, step=step, steps=plan.steps)

        trainer.reporter = StepReporter(
            job,
            plan,
            eval_every=config.eval_every if held_out else None,
            save_every=config.save_every,
            sample_every=config.sample_every if config.sample_prompts else None,
            evaluate=evaluate,
            sample=sample,
            weight_name="pair_weight",
        )
        train_to_end(trainer, job, plan.steps)

        if held_out and plan.steps not in measured:  # resumed after the last step
            evaluate(plan.steps)
        found = measured.get(plan.steps, [])
        write_held_out_pairs(apart.pairs, found, job.folder / HELD_OUT_FILE)
        job.progress(phase="saving")
        variant = publish(trainer.model, config, job, model_record, join_stacked(trainer.model))
    at_the_end = mean_of(found)
    if found:
        tell_worse(job, at_the_end["loss"], untrained_loss(config))
    return {
        "adapter_path": variant.adapter_path,
        "variant_id": variant.id,
        "adapter_digest": variant.adapter_digest,
        "train_loss": trainer.reporter.mean_loss,
        "eval_loss": at_the_end.get("loss"),
        "eval_accuracy": at_the_end.get("reward_accuracy"),
        "eval_margin": at_the_end.get("reward_margin"),
        "trained_tokens": plan.tokens,
        "pairs": len(train.pairs),
        "steps": plan.steps,
        "seconds": trainer.reporter.seconds,
    }


def dpo_losses(
    ratios: tuple[torch.Tensor, torch.Tensor],
    tokens: tuple[torch.Tensor, torch.Tensor],
    *,
    beta: float,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """The loss of each pair.

    `sigmoid`: −log σ(β·Δ), Δ the difference of the two log-ratios (Rafailov et al. 2023, equation 7); with smoothing ε
    (1−ε)·−log σ(β·Δ) + ε·−log σ(−β·Δ), its conservative form. `ipo`: the squared distance of the difference of
    log-ratios per token to 1/(2β) (Azar et al. 2023, equation 17, averaged over tokens as TRL does).

    Args:
        ratios: log π(answer) − log π_ref(answer) of the better and of the worse answers, each [pairs], in nats.
        tokens: tokens of those answers, each [pairs].
        beta: strength of the hold on the reference.
        loss_type: sigmoid or ipo.
        label_smoothing: share of pairs assumed to be the wrong way round, 0 to below 0.5.

    Returns:
        [pairs]
    """
    from torch.nn.functional import logsigmoid

    chosen, rejected = ratios
    if loss_type == "ipo":
        return (chosen / tokens[0].clamp(min=1) - rejected / tokens[1].clamp(min=1) - 1 / (2 * beta)) ** 2
    margin = beta * (chosen - rejected)
    if not label_smoothing:
        return -logsigmoid(margin)
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def untrained_loss(config: DPOConfig) -> float:
    """The loss of a model that is still its own reference."""
    return 1 / (2 * config.beta) ** 2 if config.loss_type == "ipo" else math.log(2)


def tell_worse(job: Job, loss: float, begun: float) -> None:
    """Log a held-out loss above that of the model the run started from."""
    if loss > begun:
        job.log(
            f"the held-out loss ended at {loss:.3f}, above the {begun:.3f} of the model it started from: what was "
            "learned does not hold for new prompts. Lower learning_rate or epochs, raise beta, or rank more prompts."
        )


# ---- batches ----


def pair_entries(pairs: Sequence[TrainingPair], reference: Sequence[float]) -> list[dict[str, Any]]:
    """Pairs as the trainer holds them: both sides, the weight and the reference's log-probability of each side.

    Args:
        pairs: rendered pairs.
        reference: better and worse side of the first pair, of the second, …
    """
    return [
        {
            "sides": [{"input_ids": side.ids, "labels": side.labels} for side in pair.sides],
            "weight": pair.weight,
            "reference": (reference[2 * number], reference[2 * number + 1]),
        }
        for number, pair in enumerate(pairs)
    ]


def collate_pairs(entries: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pairs as one batch: better answers in the first half of the rows, worse ones in the second.

    Returns:
        input_ids, attention_mask, labels, each [2 × pairs, length]; reference [2 × pairs] and weights [pairs].
    """
    import torch

    batch = collate([entry["sides"][side] for side in (0, 1) for entry in entries])
    batch["reference"] = torch.tensor([entry["reference"][side] for side in (0, 1) for entry in entries])
    batch["weights"] = torch.tensor([entry["weight"] for entry in entries])
    return batch


# ---- the trainer ----


def build_trainer(
    config: DPOConfig,
    job: Job,
    model_record: Model,
    start_from: Variant | None,
    pairs: Sequence[TrainingPair],
    plan: RunPlan,
) -> Any:
    """The trainer over the base and its adapter; its `train_dataset` still lacks the reference's numbers."""
    trainer = build_preference_trainer(trainer_class(), config, job, model_record, start_from, plan)
    trainer.train_dataset = pair_entries(pairs, [0.0] * (2 * len(pairs)))
    trainer.data_collator = collate_pairs
    trainer.config = config
    return trainer


def build_preference_trainer(
    kind: Any, config: PreferenceConfig, job: Job, model_record: Model, start_from: Variant | None, plan: RunPlan
) -> Any:
    """A trainer of a `planned` class over the base and the adapter to train, DPO's and KTO's alike."""
    import torch
    from transformers import TrainingArguments, set_seed

    device, dtype = choose_device(config)
    set_seed(config.seed)  # before the adapter is drawn: the trainer sets it only after
    base = load_policy(config, job, model_record, device, dtype)
    model = start_adapter(base, config, start_from, config.on_top, job)
    args = one_device(
        TrainingArguments(
            **planned_arguments(config, job, plan.steps, device), activation_checkpointing=config.gradient_checkpointing
        )
    )
    trainer = kind(model=model, args=args, train_dataset=torch.utils.data.Dataset())
    trainer.plan = plan
    trainer.keep_checkpoints = config.keep_checkpoints
    trainer.fast = fits(model)
    return trainer


def trainer_class() -> Any:
    """Transformers' `Trainer` with the weighted DPO loss."""
    from transformers import Trainer

    class PlannedDPOTrainer(planned(Trainer)):  # type: ignore[misc]
        config: DPOConfig
        fast = False

        def weight_of(self, batch: Any) -> float:
            return float(batch["weights"].sum())

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            logps = token_logps(
                model,
                inputs["input_ids"],
                inputs["labels"],
                attention_mask=inputs["attention_mask"],
                fast=self.fast,
            ).sum(dim=1)
            ratios = (logps - inputs["reference"]).chunk(2)
            tokens = (inputs["labels"][:, 1:] != -100).sum(dim=1).chunk(2)
            config, weights = self.config, inputs["weights"]
            losses = dpo_losses(
                ratios,
                tokens,
                beta=config.beta,
                loss_type=config.loss_type,
                label_smoothing=config.label_smoothing,
            )
            whole = weights.sum() if num_items_in_batch is None else num_items_in_batch
            loss = (weights * losses).sum() / whole
            require_finite(loss, self.state.global_step)
            figures = pair_figures(ratios, logps.chunk(2), config.beta)
            self.note(**{name: (weights * values).sum() for name, values in figures.items()})
            return loss

    return PlannedDPOTrainer


def pair_figures(ratios: Sequence[torch.Tensor], logps: Sequence[torch.Tensor], beta: float) -> dict[str, torch.Tensor]:
    """What is told of pairs beside the loss, each [pairs]: implied rewards β·log-ratio, margin, accuracy, log-probs."""
    chosen, rejected = (beta * ratio.detach() for ratio in ratios)
    return {
        "reward_margin": chosen - rejected,
        "reward_accuracy": (chosen > rejected).float(),
        "reward_chosen": chosen,
        "reward_rejected": rejected,
        "logp_chosen": logps[0].detach(),
        "logp_rejected": logps[1].detach(),
    }


# ---- held-out pairs ----


def held_out_pairs(
    model: Any, entries: Sequence[dict[str, Any]], config: DPOConfig, *, fast: bool
) -> list[dict[str, float]]:
    """For each held-out pair its loss, weight and the figures of `pair_figures`, with dropout off."""
    import torch

    from workbench.training.rows import TrainingRow

    rows = [
        TrainingRow(row_id="", ids=side["input_ids"], labels=side["labels"])
        for entry in entries
        for side in entry["sides"]
    ]
    logps = torch.tensor(answer_logps(model, rows, config.tokens_per_batch, fast=fast), dtype=torch.float64)
    reference = torch.tensor([entry["reference"] for entry in entries], dtype=torch.float64)
    both = logps.view(-1, 2)
    ratios = (both - reference).unbind(dim=1)
    counts = torch.tensor([row.supervised for row in rows]).view(-1, 2).unbind(dim=1)
    losses = dpo_losses(
        (ratios[0], ratios[1]),
        (counts[0], counts[1]),
        beta=config.beta,
        loss_type=config.loss_type,
        label_smoothing=config.label_smoothing,
    )
    figures = {"loss": losses} | pair_figures(ratios, both.unbind(dim=1), config.beta)
    return [
        {"weight": float(entry["weight"])} | {name: float(values[number]) for name, values in figures.items()}
        for number, entry in enumerate(entries)
    ]


def mean_of(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means of figures by name, each entry counting by its `weight`."""
    whole = sum(each["weight"] for each in found)
    return {
        name: sum(each["weight"] * each[name] for each in found) / max(whole, 1e-12)
        for name in (found[0] if found else ())
        if name != "weight"
    }


def write_held_out_pairs(pairs: Sequence[TrainingPair], found: Sequence[dict[str, float]], path: Path) -> None:
    """Write each held-out pair, the one most wrong first, as JSON lines: row_id, loss, margin, tokens of both sides."""
    entries: list[dict[str, Any]] = [
        {
            "row_id": pair.row_id,
            "loss": each["loss"],
            "margin": each["reward_margin"],
            "tokens": pair.chosen.supervised + pair.rejected.supervised,
        }
        for pair, each in zip(pairs, found, strict=True)
    ]
    entries.sort(key=lambda entry: -entry["loss"])
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
