"""Kahneman–Tversky optimisation (Ethayarajh et al. 2024) of a LoRA adapter: the run, from top to bottom.

transformers' `Trainer` turns the crank; what surrounds the loss is `dpo`'s. The loss is TRL's `KTOTrainer`'s on the
same batch, held equal by a test. Its baseline z0, how far the model has moved from the reference, is estimated as TRL
does: each prompt of a batch with the answer of the one before it, without gradient. Departures from TRL: rows come
finished from `workbench.datasets.render`; batches follow a `RunPlan`, so the mismatched answers are those of the very
batch in every epoch; reference log-probabilities of both are read once before the first step and kept in the run's
folder. Each answer counts by its weight, which TRL knows nothing of; z0 does not, because it tells of the model and not
of the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.job import Job
from workbench.store import models as model_store
from workbench.training.batching import Batch, plan_evaluation
from workbench.training.callback import StepReporter
from workbench.training.crank import failures_in_words, planned, publish, require_finite, train_to_end
from workbench.training.dpo import HELD_OUT_FILE, build_preference_trainer, mean_of, tell_worse
from workbench.training.labels import LabelledAnswer, LabelledAnswers, load_answers
from workbench.training.losses import token_logps
from workbench.training.measuring import collate, tell_samples
from workbench.training.pairs import plan_sequences
from workbench.training.preference_configs import KTOConfig
from workbench.training.reference import reference_logps
from workbench.training.rows import TrainingRow, pin_inputs
from workbench.training.stacking import join_stacked

if TYPE_CHECKING:
    import torch


def train_kto(config: KTOConfig, job: Job) -> dict[str, Any]:
    """Train an adapter on answers told good or bad, publish it and enter it as a variant.

    Goes on from the newest whole checkpoint in the run's folder, where there is one.

    Args:
        config: what to train on what, and how.
        job: the run.

    Returns:
        adapter_path, variant_id, adapter_digest, train_loss, eval_loss, eval_margin, eval_kl, trained_tokens, answers,
        desirable, steps, seconds.

    Raises:
        Stopped: Stop was pressed; the checkpoint is written.
        RunProblem: the loss is no number, memory or disk ran out, or the checks refuse the data.
        UsageError: settings that do not fit the model.
    """
    job.progress(phase="rendering", note="reading the dataset")
    inputs = pin_inputs(config, job)
    model_record = model_store.get_model(job.store, inputs.model_id)
    start_from = model_store.get_variant(job.store, inputs.adapter_id) if inputs.adapter_id else None
    train, apart = load_answers(job, config, inputs, model_record)
    plan = plan_sequences(config, [[answer.row] for answer in train.answers])
    job.log(
        f"{train.in_words()} to train on, {apart.in_words()} held out; {plan.steps} steps of {plan.tokens} tokens, "
        f"{plan.padding:.0%} padding"
    )
    tell_imbalance(job, train, config)

    from workbench.datasets.render import load_renderer

    with failures_in_words():
        job.progress(phase="loading the model", done=0, total=plan.steps, unit="steps", note="")
        trainer = build_preference_trainer(trainer_class(), config, job, model_record, start_from, plan)
        trainer.config = config
        held_out_plan = plan_evaluation(
            [len(answer.row.ids) for answer in apart.answers], tokens_per_batch=config.tokens_per_batch
        )
        batches = AnswerBatches(train.answers, plan.batches, config.max_length)
        held_out = AnswerBatches(apart.answers, held_out_plan, config.max_length)
        lengths = [*batches.lengths(), *held_out.lengths()]
        reference = reference_logps(
            job,
            trainer.model,
            lengths,
            lambda number: (
                batches.sequence(number)
                if number < batches.sequences
                else held_out.sequence(number - batches.sequences)
            ),
            tokens_per_batch=config.tokens_per_batch,
            fast=trainer.fast,
        )
        batches.reference = reference[: batches.sequences]
        held_out.reference = reference[batches.sequences :]
        trainer.train_dataset = list(range(len(train.answers)))
        trainer.data_collator = batches.collate

        renderer = load_renderer(model_record.path or "")
        measured: dict[int, list[dict[str, float]]] = {}

        def evaluate(step: int) -> None:
            job.progress(phase="evaluating")
            measured.clear()
            measured[step] = held_out_answers(trainer, held_out, held_out_plan)
            job.metric(step, **{f"eval_{name}": value for name, value in summary(measured[step]).items()})

        def sample(step: int) -> None:
            asked, longest = config.sample_prompts, config.sample_tokens
            tell_samples(job, trainer.model, renderer, asked, longest, step=step, steps=plan.steps)

        trainer.reporter = StepReporter(
            job,
            plan,
            eval_every=config.eval_every if apart.answers else None,
            save_every=config.save_every,
            sample_every=config.sample_every if config.sample_prompts else None,
            evaluate=evaluate,
            sample=sample,
            weight_name="answer_weight",
        )
        train_to_end(trainer, job, plan.steps)

        if apart.answers and plan.steps not in measured:  # resumed after the last step
            evaluate(plan.steps)
        found = measured.get(plan.steps, [])
        write_held_out_answers(apart.answers, found, job.folder / HELD_OUT_FILE)
        job.progress(phase="saving")
        variant = publish(trainer.model, config, job, model_record, join_stacked(trainer.model))
    at_the_end = summary(found)
    if found:
        tell_worse(job, at_the_end["loss"], untrained_loss(apart.answers, config))
    return {
        "adapter_path": variant.adapter_path,
        "variant_id": variant.id,
        "adapter_digest": variant.adapter_digest,
        "train_loss": trainer.reporter.mean_loss,
        "eval_loss": at_the_end.get("loss"),
        "eval_margin": at_the_end.get("reward_margin"),
        "eval_kl": at_the_end.get("kl"),
        "trained_tokens": plan.tokens,
        "answers": len(train.answers),
        "desirable": train.desirable,
        "steps": plan.steps,
        "seconds": trainer.reporter.seconds,
    }


def kto_losses(
    ratios: torch.Tensor,
    desirable: torch.Tensor,
    baseline: torch.Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> torch.Tensor:
    """The loss of each answer: λ·(1 − σ(±β·(log-ratio − z0))), + for good ones (Ethayarajh et al. 2024, section 4.1).

    Args:
        ratios: log π(answer) − log π_ref(answer), [answers], in nats.
        desirable: whether each is a good one, [answers].
        baseline: z0, one number of at least 0, in nats; no gradient goes through it.
        beta: strength of the hold on the reference.
        desirable_weight: λ of good answers.
        undesirable_weight: λ of bad ones.

    Returns:
        [answers]
    """
    import torch

    ahead = torch.where(desirable, ratios - baseline, baseline - ratios)
    return (1 - torch.sigmoid(beta * ahead)) * torch.where(desirable, desirable_weight, undesirable_weight)


def untrained_loss(answers: Sequence[LabelledAnswer], config: KTOConfig) -> float:
    """The mean loss of a model that is still its own reference: half of λ, each answer counting by its weight."""
    losses = [config.desirable_weight if each.desirable else config.undesirable_weight for each in answers]
    weights = [each.weight for each in answers]
    return sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / (2 * sum(weights))


def tell_imbalance(job: Job, train: LabelledAnswers, config: KTOConfig) -> None:
    """Log weights that leave good and bad answers out of balance, and one side missing (section 4.2 of the paper)."""
    good, bad = train.desirable, len(train.answers) - train.desirable
    if not good or not bad:
        job.log(f"all answers are {'good' if good else 'bad'}: the model is only pushed one way; watch the samples")
        return
    more = train.weight_of(True) / train.weight_of(False)
    ratio = config.desirable_weight / config.undesirable_weight * more
    if not 1 - 1e-9 <= ratio <= 4 / 3 + 1e-9:  # weights such as 1/3 seldom add up to whole numbers
        job.log(
            f"{good} good and {bad} bad answers with these weights count {ratio:.2f} to 1; between 1 and 1.33 to 1 is "
            f"advised, so either desirable_weight between {config.undesirable_weight / more:.2f} and "
            f"{config.undesirable_weight / more * 4 / 3:.2f}, or undesirable_weight between "
            f"{config.desirable_weight * more * 3 / 4:.2f} and {config.desirable_weight * more:.2f}"
        )


# ---- batches ----


def partners(batch: Sequence[int], rows: int) -> list[int]:
    """For each row of a batch the one whose answer stands in for its own where z0 is estimated.

    The one before it, the first with the last, as TRL pairs them; a row alone in its batch takes its neighbour's.

    Args:
        batch: row numbers.
        rows: rows of the whole dataset.
    """
    if len(batch) == 1:
        return [(batch[0] + 1) % rows]
    return [batch[-1], *batch[:-1]]


def mismatched(asked: LabelledAnswer, answered: LabelledAnswer, max_length: int) -> TrainingRow:
    """The prompt of one row with the answer of another, cut at the right to `max_length` tokens."""
    ids = asked.row.ids[: asked.start] + answered.row.ids[answered.start :]
    labels = (-100,) * asked.start + answered.row.labels[answered.start :]
    return TrainingRow(row_id=asked.row.row_id, ids=ids[:max_length], labels=labels[:max_length])


class AnswerBatches:
    """Answers, their mismatched counterparts, and what the reference gives to both.

    Args:
        answers: the rendered answers.
        planned: all batches that will be asked for; they decide which counterparts there are.
        max_length: longest sequence in tokens.
    """

    def __init__(self, answers: Sequence[LabelledAnswer], planned: Iterable[Batch], max_length: int) -> None:
        self.answers = answers
        self.max_length = max_length
        met = {pair: None for batch in planned for pair in zip(batch, partners(batch, len(answers)), strict=True)}
        self.pairs = list(met)
        self.place = {pair: len(answers) + number for number, pair in enumerate(self.pairs)}
        self.reference: Sequence[float] = ()

    @property
    def sequences(self) -> int:
        """Answers and counterparts together."""
        return len(self.answers) + len(self.pairs)

    def sequence(self, number: int) -> TrainingRow:
        """The answers in order, then their counterparts."""
        if number < len(self.answers):
            return self.answers[number].row
        asked, answered = self.pairs[number - len(self.answers)]
        return mismatched(self.answers[asked], self.answers[answered], self.max_length)

    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        own = [len(answer.row.ids) for answer in self.answers]
        begins = [answer.start for answer in self.answers]
        return own + [min(begins[a] + own[b] - begins[b], self.max_length) for a, b in self.pairs]

    def collate(self, batch: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch of row numbers as tensors.

        Returns:
            input_ids, attention_mask, labels, each [rows, length], and the same of the counterparts as mismatched_…;
            reference and mismatched_reference, desirable, weights, each [rows].
        """
        import torch

        places = [self.place[pair] for pair in zip(batch, partners(batch, len(self.answers)), strict=True)]
        tensors: dict[str, torch.Tensor] = {}
        for prefix, numbers in (("", list(batch)), ("mismatched_", places)):
            rows = [self.sequence(number) for number in numbers]
            made = collate([{"input_ids": row.ids, "labels": row.labels} for row in rows])
            tensors |= {prefix + name: value for name, value in made.items()}
            tensors[f"{prefix}reference"] = torch.tensor([self.reference[number] for number in numbers])
        tensors["desirable"] = torch.tensor([self.answers[number].desirable for number in batch])
        tensors["weights"] = torch.tensor([self.answers[number].weight for number in batch])
        return tensors


# ---- the trainer ----


def trainer_class() -> Any:
    """The class: `Trainer` of transformers with the weighted KTO loss."""
    import torch
    from transformers import Trainer

    class PlannedKTOTrainer(planned(Trainer)):  # type: ignore[misc]
        config: KTOConfig
        fast = False
        good = 0.0
        bad = 0.0

        def weight_of(self, batch: Any) -> float:
            return float(batch["weights"].sum())

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            samples, weight = super().get_batch_samples(*args, **kwargs)
            self.good, self.bad = (
                sum(float(batch["weights"][batch["desirable"] == side].sum()) for batch in samples)
                for side in (True, False)
            )
            return samples, weight

        def logps(self, model: Any, inputs: Any, prefix: str = "") -> torch.Tensor:
            """Log-probability of each answer, or of each mismatched one, [rows]."""
            return token_logps(
                model,
                inputs[f"{prefix}input_ids"],
                inputs[f"{prefix}labels"],
                attention_mask=inputs[f"{prefix}attention_mask"],
                fast=self.fast,
            ).sum(dim=1)

        def measure(self, model: Any, inputs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
            """Losses, log-ratios and log-probabilities, each [rows], and z0."""
            with torch.no_grad():
                moved = self.logps(model, inputs, "mismatched_") - inputs["mismatched_reference"]
                baseline = moved.mean().clamp(min=0)
            logps = self.logps(model, inputs)
            ratios = logps - inputs["reference"]
            losses = kto_losses(
                ratios,
                inputs["desirable"],
                baseline,
                beta=self.config.beta,
                desirable_weight=self.config.desirable_weight,
                undesirable_weight=self.config.undesirable_weight,
            )
            return losses, ratios, logps, baseline

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            losses, ratios, logps, baseline = self.measure(model, inputs)
            weights = inputs["weights"]
            whole = weights.sum() if num_items_in_batch is None else num_items_in_batch
            loss = (weights * losses).sum() / whole
            require_finite(loss, self.state.global_step)
            self.note(kl=baseline * weights.sum())
            rewards = self.config.beta * ratios.detach()
            self.note_sides(inputs["desirable"], weights * rewards, weights * logps.detach())
            return loss

        def note_sides(self, desirable: torch.Tensor, rewards: torch.Tensor, logps: torch.Tensor) -> None:
            """Note means over the step's good and bad answers; `note` divides by the weight of all of the step's.

            Args:
                desirable: whether each is a good one, [answers].
                rewards: of each times its weight, [answers].
                logps: of each times its weight, [answers], in nats.
            """
            for name, values in (("reward", rewards), ("logp", logps)):
                if self.good:
                    self.note(**{f"{name}_chosen": values[desirable].sum() * self.step_weight / self.good})
                if self.bad:
                    self.note(**{f"{name}_rejected": values[~desirable].sum() * self.step_weight / self.bad})
            if self.good and self.bad:
                apart = rewards[desirable].sum() / self.good - rewards[~desirable].sum() / self.bad
                self.note(reward_margin=apart * self.step_weight)

    return PlannedKTOTrainer


# ---- held-out answers ----


def held_out_answers(trainer: Any, answers: AnswerBatches, batches: Sequence[Batch]) -> list[dict[str, float]]:
    """For each held-out answer its weight, loss, reward, log-probability and its batch's z0, with dropout off."""
    import torch

    model, device = trainer.model, next(trainer.model.parameters()).device
    found: list[dict[str, float]] = [{} for _ in answers.answers]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                inputs = {name: value.to(device) for name, value in answers.collate(batch).items()}
                losses, ratios, logps, baseline = trainer.measure(model, inputs)
                for place, number in enumerate(batch):
                    found[number] = {
                        "weight": answers.answers[number].weight,
                        "loss": float(losses[place]),
                        "reward": trainer.config.beta * float(ratios[place]),
                        "logp": float(logps[place]),
                        "kl": float(baseline),
                        "good": float(answers.answers[number].desirable),
                    }
    finally:
        model.train(was_training)
    return found


def summary(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over held-out answers: loss and KL over all, rewards and log-probabilities of good and bad ones apart.

    Each answer counts by its weight.
    """
    means = mean_of([{name: each[name] for name in ("weight", "loss", "kl")} for each in found])
    for side, good in (("chosen", 1.0), ("rejected", 0.0)):
        of_side = mean_of([each for each in found if each["good"] == good])
        if of_side:
            means |= {f"reward_{side}": of_side["reward"], f"logp_{side}": of_side["logp"]}
    if "reward_chosen" in means and "reward_rejected" in means:
        means["reward_margin"] = means["reward_chosen"] - means["reward_rejected"]
    return means


def write_held_out_answers(answers: Sequence[LabelledAnswer], found: Sequence[dict[str, float]], path: Path) -> None:
    """Write each held-out answer, the one most wrong first, as JSON lines.

    Each line has row_id, loss, reward, good, weight and tokens.
    """
    entries: list[dict[str, Any]] = [
        {
            "row_id": answer.row.row_id,
            "loss": each["loss"],
            "reward": each["reward"],
            "good": answer.desirable,
            "weight": answer.weight,
            "tokens": answer.row.supervised,
        }
        for answer, each in zip(answers, found, strict=True)
    ]
    entries.sort(key=lambda entry: -entry["loss"])
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
