"""Supervised fine-tuning of a LoRA adapter: the run, from top to bottom.

TRL's `SFTTrainer` turns the crank: optimizer, schedule, clipping and accumulation are its own. Departures from stock:
rows come finished from `workbench.datasets.render` and are never tokenized again; batches follow `batching.RunPlan`,
so that a resumed run sees the same ones; logits are made for supervised tokens only (`losses`, where the model fits);
checkpoints are whole or absent (`checkpoints`); held-out loss is a sum over tokens, not a mean of means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.job import Job
from workbench.records import Model, Variant
from workbench.store import models as model_store
from workbench.training.adapter_rank import tell_large_rank
from workbench.training.batching import RunPlan, plan_run
from workbench.training.callback import StepReporter
from workbench.training.configs import SFTConfig
from workbench.training.crank import (
    choose_device,
    failures_in_words,
    layers_in_words,
    load_policy,
    lora_config,
    one_device,
    planned,
    planned_arguments,
    publish,
    require_finite,
    train_to_end,
)
from workbench.training.losses import fits, supervised_losses
from workbench.training.measuring import collate, held_out_losses, mean_loss, tell_samples, write_held_out
from workbench.training.rows import TrainingRow, load_rows, pin_inputs

HELD_OUT_FILE = "held_out_rows.jsonl"


def train_sft(config: SFTConfig, job: Job) -> dict[str, Any]:
    """Fine-tune an adapter on a dataset, publish it and enter it as a variant.

    Goes on from the newest whole checkpoint in the run's folder, where there is one.

    Args:
        config: what to train on what, and how.
        job: the run.

    Returns:
        adapter_path, variant_id, adapter_digest, train_loss, eval_loss, trained_tokens, steps, seconds.

    Raises:
        Stopped: Stop was pressed; the checkpoint is written.
        RunProblem: the loss is no number, memory or disk ran out, or the checks refuse the data.
        UsageError: settings that do not fit the model.
    """
    job.progress(phase="rendering", note="reading the dataset")
    inputs = pin_inputs(config, job)
    model_record = model_store.get_model(job.store, inputs.model_id)
    start_from = model_store.get_variant(job.store, inputs.adapter_id) if inputs.adapter_id else None
    train_rows, held_out_rows = load_rows(job, config, inputs, model_record)
    plan = plan_run(
        train_rows.lengths,
        tokens_per_batch=config.tokens_per_batch,
        batches_per_step=config.gradient_accumulation_steps,
        seed=config.seed,
        epochs=config.epochs,
        max_steps=config.max_steps,
        max_tokens=config.max_tokens,
    )
    job.log(
        f"{len(train_rows.rows)} training rows of {train_rows.tokens} tokens ({train_rows.supervised} supervised), "
        f"{len(held_out_rows.rows)} held out; {plan.steps} steps of {plan.tokens} tokens, {plan.padding:.0%} padding"
    )

    from workbench.datasets.render import load_renderer

    with failures_in_words():
        job.progress(phase="loading the model", done=0, total=plan.steps, unit="steps", note="")
        trainer = build_trainer(config, job, model_record, start_from, train_rows.rows, plan)
        held_out = held_out_rows.rows

        renderer = load_renderer(model_record.path or "")
        measured: dict[int, list[tuple[float, int]]] = {}

        def evaluate(step: int) -> None:
            job.progress(phase="evaluating")
            measured.clear()
            measured[step] = held_out_losses(trainer.model, held_out, config.tokens_per_batch, fast=trainer.fast_loss)
            loss = mean_loss(measured[step])
            job.metric(step, eval_loss=loss, eval_perplexity=math.exp(min(loss, 700.0)))

        def sample(step: int) -> None:
            asked, longest = config.sample_prompts, config.sample_tokens
            tell_samples(job, trainer.model, renderer, asked, longest, step=step, steps=plan.steps)

        reporter = StepReporter(
            job,
            plan,
            eval_every=config.eval_every if held_out else None,
            save_every=config.save_every,
            sample_every=config.sample_every if config.sample_prompts else None,
            evaluate=evaluate,
            sample=sample,
        )
        trainer.reporter = reporter
        train_to_end(trainer, job, plan.steps)

        if held_out and plan.steps not in measured:  # resumed after the last step
            evaluate(plan.steps)
        losses = measured.get(plan.steps, [])
        write_held_out(held_out, losses, job.folder / HELD_OUT_FILE)
        job.progress(phase="saving")
        variant = publish(trainer.model, config, job, model_record)
    return {
        "adapter_path": variant.adapter_path,
        "variant_id": variant.id,
        "adapter_digest": variant.adapter_digest,
        "train_loss": reporter.mean_loss,
        "eval_loss": mean_loss(losses) if held_out else None,
        "trained_tokens": plan.tokens,
        "supervised_tokens": round(reporter.weight),
        "steps": plan.steps,
        "seconds": reporter.seconds,
    }


def build_trainer(
    config: SFTConfig,
    job: Job,
    model_record: Model,
    start_from: Variant | None,
    rows: Sequence[TrainingRow],
    plan: RunPlan,
) -> Any:
    """TRL's trainer over the base model, a new or continued adapter, and the planned batches."""
    import trl
    from datasets import Dataset

    from workbench.models.loading import load_tokenizer, load_with_adapter

    device, dtype = choose_device(config)
    model: Any = load_policy(config, job, model_record, device, dtype)
    if start_from is not None:
        model = load_with_adapter(model, Path(start_from.adapter_path or ""), trainable=True)
    args = one_device(
        trl.SFTConfig(
            **planned_arguments(config, job, plan.steps, device),
            activation_checkpointing=config.gradient_checkpointing,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
        )
    )
    table = Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]})
    with layers_in_words(config):
        trainer = trainer_class()(
            model=model,
            args=args,
            train_dataset=table,
            data_collator=collate,
            processing_class=load_tokenizer(model_record),
            peft_config=lora_config(config) if start_from is None else None,
        )
    if start_from is None:
        tell_large_rank(trainer.model, job)
    trainer.plan = plan
    trainer.keep_checkpoints = config.keep_checkpoints
    trainer.fast_loss = fits(trainer.model)
    return trainer


def trainer_class() -> Any:
    """`SFTTrainer` with the departures named at the top of this file."""
    import trl

    class PlannedSFTTrainer(planned(trl.SFTTrainer)):  # type: ignore[misc]
        fast_loss = False

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if self.fast_loss and not return_outputs:
                total, losses, _ = supervised_losses(model, inputs["input_ids"], inputs["labels"])
                loss = total / (len(losses) if num_items_in_batch is None else num_items_in_batch)
            else:
                loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if not return_outputs:
                require_finite(loss, self.state.global_step)
            return loss

    return PlannedSFTTrainer
