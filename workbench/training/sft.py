"""Supervised fine-tuning of a LoRA adapter: the run, from top to bottom.

TRL's `SFTTrainer` turns the crank: optimizer, schedule, clipping and accumulation are its own. Departures from stock:
rows come finished from `workbench.datasets.render` and are never tokenized again; batches follow `batching.RunPlan`,
so that a resumed run sees the same ones; logits are made for supervised tokens only (`losses`, where the model fits);
checkpoints are whole or absent (`checkpoints`); held-out loss is a sum over tokens, not a mean of means.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RunProblem, Stopped, UsageError, WorkbenchError
from workbench.job import Job
from workbench.records import Model, Variant
from workbench.store import models as model_store
from workbench.training.batching import RunPlan, plan_run
from workbench.training.callback import StepReporter, trainer_callback
from workbench.training.checkpoints import checkpoint_step, latest_checkpoint, write_checkpoint
from workbench.training.configs import SFTConfig
from workbench.training.losses import fits, supervised_losses
from workbench.training.measuring import collate, held_out_losses, mean_loss, sample_answer, write_held_out
from workbench.training.rows import TrainingRow, load_rows, pin_inputs

if TYPE_CHECKING:
    pass

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
            job.progress(phase="sampling answers", done=step, total=plan.steps, unit="steps")
            for slot, prompt in enumerate(config.sample_prompts):
                job.sample(step, slot, prompt, sample_answer(trainer.model, renderer, prompt, config.sample_tokens))

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
        trainer.add_callback(trainer_callback(reporter))
        checkpoint = latest_checkpoint(job.folder / "checkpoints")
        if checkpoint is not None:
            job.log(f"going on from step {checkpoint_step(checkpoint)}")
            job.result(resumed_step=checkpoint_step(checkpoint))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if reporter.stopped:
            raise Stopped(
                f"stopped as asked after step {trainer.state.global_step} of {plan.steps}",
                remedy="Resume goes on from the checkpoint.",
            )

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
        "train_loss": reporter.loss_sum / max(1, reporter.loss_tokens),
        "eval_loss": mean_loss(losses) if held_out else None,
        "trained_tokens": plan.tokens,
        "supervised_tokens": reporter.loss_tokens,
        "steps": plan.steps,
        "seconds": reporter.seconds,
    }


def choose_device(config: SFTConfig) -> tuple[str, str]:
    """Device and number format that `auto` stands for on this machine."""
    import torch

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no GPU that torch can use", place="device", value="cuda", remedy="Use auto or cpu.")
    dtype = config.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return device, dtype


def warmup_steps(config: SFTConfig, plan: RunPlan) -> int:
    """Steps of warm-up. The first one has learning rate 0, so a warm-up of one step would only waste it."""
    steps = math.ceil(config.warmup_ratio * plan.steps)
    return steps if steps > 1 else 0


def build_trainer(
    config: SFTConfig,
    job: Job,
    model_record: Model,
    start_from: Variant | None,
    rows: Sequence[TrainingRow],
    plan: RunPlan,
) -> Any:
    """TRL's trainer over the base model, a new or continued adapter, and the planned batches."""
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    from workbench.models.loading import load_base, load_tokenizer, load_with_adapter, quiet_peft

    device, dtype = choose_device(config)
    if device == "cpu":
        torch.set_num_threads(job.settings.threads)
    model: Any = load_base(model_record, dtype=dtype, device=device)
    peft_config: Any = None
    if start_from is not None:
        model = load_with_adapter(model, Path(start_from.adapter_path or ""), trainable=True)
    else:
        targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
        peft_config = LoraConfig(
            r=config.lora_r,
            # A whole number is kept one, because PEFT's config says int.
            lora_alpha=int(config.lora_alpha) if config.lora_alpha == int(config.lora_alpha) else config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=targets,
            use_dora=config.use_dora,
            use_rslora=config.use_rslora,
            task_type="CAUSAL_LM",
        )
    args = trl.SFTConfig(
        output_dir=str(job.folder / "checkpoints"),
        max_steps=max(1, plan.steps),
        per_device_train_batch_size=1,  # never used: batches come from the plan
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler,
        warmup_steps=warmup_steps(config, plan),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        bf16=False,  # the base model is loaded in its format; the adapter stays in float32
        activation_checkpointing=config.gradient_checkpointing,
        use_cpu=device == "cpu",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        max_length=None,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        average_tokens_across_devices=False,
        push_to_hub=False,
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # one run, one device
    table = Dataset.from_dict({"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]})
    try:
        with quiet_peft():
            trainer = trainer_class()(
                model=model,
                args=args,
                train_dataset=table,
                data_collator=collate,
                processing_class=load_tokenizer(model_record),
                peft_config=peft_config,
            )
    except ValueError as error:
        if "target modules" in str(error).lower() or "target_modules" in str(error):
            raise UsageError(
                "the model has no layers of these names",
                place="target_modules",
                value=config.target_modules,
                remedy="Use all-linear, or names as the model's page lists them.",
            ) from error
        raise
    trainer.plan = plan
    trainer.keep_checkpoints = config.keep_checkpoints
    trainer.fast_loss = fits(trainer.model)
    return trainer


def trainer_class() -> Any:
    """`SFTTrainer` with the departures named at the top of this file."""
    import torch
    import trl
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file
    from safetensors.torch import save as to_safetensors
    from torch.utils.data import DataLoader

    class PlannedSFTTrainer(trl.SFTTrainer):  # type: ignore[misc]
        plan: RunPlan
        reporter: StepReporter
        keep_checkpoints = 2
        fast_loss = False

        def get_train_dataloader(self) -> Any:
            # The whole run is one pass over the plan, so that skipping to a step is skipping batches. A generator of
            # its own keeps the loader from drawing on the global one.
            return DataLoader(
                self.train_dataset,
                batch_sampler=[list(batch) for batch in self.plan.batches],
                collate_fn=self.data_collator,
                generator=torch.Generator(),
            )

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if self.fast_loss and not return_outputs:
                total, losses, _ = supervised_losses(model, inputs["input_ids"], inputs["labels"])
                loss = total / (len(losses) if num_items_in_batch is None else num_items_in_batch)
            else:
                loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if not return_outputs and not torch.isfinite(loss):
                raise diverged("loss", float(loss.detach()), self.state.global_step)
            return loss

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            samples, items = super().get_batch_samples(*args, **kwargs)
            self.supervised_in_step = int(sum((b["labels"][:, 1:] != -100).sum() for b in samples))
            return samples, items

        def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
            norm = super()._get_grad_norm(model, grad_norm)
            if not math.isfinite(float(norm)):
                raise diverged("gradient", float(norm), self.state.global_step)
            return norm

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                self.reporter.report(
                    self.state.global_step,
                    loss=logs["loss"],
                    learning_rate=logs["learning_rate"],
                    grad_norm=float(logs["grad_norm"]),
                    supervised=self.supervised_in_step,
                )

        def floating_point_ops(self, inputs: Any) -> int:
            return 0  # would count all parameters at each batch, for a figure nobody reads

        def _send_telemetry(self) -> None:
            pass

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            def tensors(value: Any) -> bytes:
                buffer = io.BytesIO()
                torch.save(value, buffer)
                return buffer.getvalue()

            def adapter() -> bytes:
                state = get_peft_model_state_dict(self.model, save_embedding_layers=False)
                return bytes(to_safetensors({name: value.contiguous().cpu() for name, value in state.items()}))

            write_checkpoint(
                Path(self.args.output_dir),
                self.state.global_step,
                {
                    "adapter_model.safetensors": adapter,
                    "optimizer.pt": lambda: tensors(self.optimizer.state_dict()),
                    "scheduler.pt": lambda: tensors(self.lr_scheduler.state_dict()),
                    "rng_state.pth": lambda: tensors(random_state()),
                    "trainer_state.json": lambda: json.dumps(asdict(self.state), sort_keys=True).encode(),
                    "progress.json": lambda: json.dumps(self.reporter.state()).encode(),
                },
                keep=self.keep_checkpoints,
            )

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            folder = Path(resume_from_checkpoint)
            loaded = set_peft_model_state_dict(self.model, load_file(folder / "adapter_model.safetensors"))
            if loaded.unexpected_keys:
                raise RunProblem(
                    "the checkpoint's adapter does not fit this run's settings",
                    place=str(folder),
                    value=loaded.unexpected_keys[0],
                    remedy="Start a new run; resuming needs the settings the run began with.",
                )
            self.reporter.restore(json.loads((folder / "progress.json").read_text()))

    return PlannedSFTTrainer


def random_state() -> dict[str, Any]:
    """State of the random generators that training draws on, as transformers reads it back."""
    import random

    import numpy as np
    import torch

    state = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.random.get_rng_state()
    return state


def diverged(what: str, value: float, step: int) -> RunProblem:
    """The loss or the gradient stopped being a number."""
    return RunProblem(
        f"the {what} is no longer a number: training has diverged",
        place=f"step {step + 1}",
        value=value,
        remedy="Lower learning_rate (a third is a good try), or raise warmup_ratio, and start again. "
        "The checkpoint before is intact.",
    )


@contextmanager
def failures_in_words() -> Iterator[None]:
    """Turn running out of memory into a `RunProblem` that says what to lower."""
    try:
        yield
    except WorkbenchError:
        raise
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and "out of memory" not in text and "can't allocate memory" not in text:
            raise
        raise RunProblem(
            "memory ran out while training",
            remedy="Lower tokens_per_batch (and raise gradient_accumulation_steps to make up for it), lower "
            "max_length, turn on gradient_checkpointing, or take a smaller model.",
        ) from error


def publish(model: Any, config: SFTConfig, job: Job, model_record: Model) -> Variant:
    """Save the adapter as a plain PEFT folder and enter it as a variant; a second call finds the first one's."""
    from workbench.models.adapters import publish_adapter

    folder = job.folder / "adapter"
    with tempfile.TemporaryDirectory(dir=job.folder, prefix="adapter-") as aside:
        model.save_pretrained(aside, save_embedding_layers=False)
        digest = publish_adapter(Path(aside), folder, model_record)
    for variant in model_store.list_variants(job.store, run_id=job.run_id, archived=True):
        return model_store.update_variant(job.store, variant.id, adapter_digest=digest)
    taken = {variant.name for variant in model_store.list_variants(job.store, archived=True)}
    wanted = config.name or f"{model_record.name} tuned on {config.dataset}"
    return model_store.add_variant(
        job.store,
        model_store.unused_name(taken, wanted[:190]),
        model_id=model_record.id,
        adapter_path=str(folder),
        adapter_digest=digest,
        run_id=job.run_id,
    )
