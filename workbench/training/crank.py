"""What every method's trainer shares: device, arguments, adapter, planned batches, whole checkpoints, publishing.

The optimizer, its schedule, clipping and accumulation are transformers' own. `planned` and `checkpointed` make a
trainer class obey the run: batches come from a `RunPlan`, checkpoints are whole or absent, a loss that is no number
ends the run in words, and nothing is sent anywhere. What a step's loss is stays each method's business. Everything
here that needs torch imports it when called.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from workbench.errors import RunProblem, Stopped, UsageError, WorkbenchError
from workbench.job import Job
from workbench.records import Model, Variant
from workbench.store import models as model_store
from workbench.training.batching import RunPlan
from workbench.training.callback import StepReporter, trainer_callback
from workbench.training.checkpoints import checkpoint_step, latest_checkpoint, write_checkpoint
from workbench.training.configs import PlannedConfig, TrainingConfig


def auto_device(device: str = "auto", dtype: str = "auto") -> tuple[str, str]:
    """Device and number format that `auto` stands for on this machine; what is not `auto` stays.

    Args:
        device: auto, or in torch's words.
        dtype: auto, float32 or bfloat16.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return device, dtype


def choose_device(config: TrainingConfig) -> tuple[str, str]:
    """Device and number format of a run.

    Raises:
        UsageError: a GPU is asked for and there is none.
    """
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no GPU that torch can use", place="device", value="cuda", remedy="Use auto or cpu.")
    return auto_device(config.device, config.dtype)


def warmup_steps(config: TrainingConfig, steps: int) -> int:
    """Steps of warm-up. The first one has learning rate 0, so a warm-up of one step would only waste it."""
    warm = math.ceil(config.warmup_ratio * steps)
    return warm if warm > 1 else 0


def trainer_arguments(config: TrainingConfig, job: Job, steps: int, device: str) -> dict[str, Any]:
    """What every `TrainingArguments`, transformers' or TRL's, is given; a method adds its own.

    Args:
        config: the method's settings.
        job: the run; checkpoints go below its folder.
        steps: optimizer steps of the run.
        device: of `choose_device`.
    """
    return {
        "output_dir": str(job.folder / "checkpoints"),
        "max_steps": max(1, steps),
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.lr_scheduler,
        "warmup_steps": warmup_steps(config, steps),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "seed": config.seed,
        "bf16": False,  # the base model is loaded in its format; the adapter stays in float32
        "use_cpu": device == "cpu",
        "remove_unused_columns": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "average_tokens_across_devices": False,
        "push_to_hub": False,
    }


def planned_arguments(config: PlannedConfig, job: Job, steps: int, device: str) -> dict[str, Any]:
    """`trainer_arguments` of a method whose batches come from a plan."""
    return trainer_arguments(config, job, steps, device) | {
        "per_device_train_batch_size": 1,  # never used: batches come from the plan
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
    }


def one_device(arguments: Any) -> Any:
    """Training arguments under which a run keeps to one device, however many there are."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def lora_config(config: TrainingConfig, task_type: str = "CAUSAL_LM", **more: Any) -> Any:
    """PEFT's config of a new adapter.

    Args:
        config: the method's settings.
        task_type: PEFT's word for the kind of model.
        more: further fields of `LoraConfig`.
    """
    from peft import LoraConfig

    targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    return LoraConfig(
        r=config.lora_r,
        # A whole number is kept one, because PEFT's config says int.
        lora_alpha=int(config.lora_alpha) if config.lora_alpha == int(config.lora_alpha) else config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
        task_type=task_type,
        **more,
    )


@contextmanager
def layers_in_words(config: TrainingConfig) -> Iterator[None]:
    """Turn PEFT's word about layers that are not there into a `UsageError`."""
    from workbench.models.loading import quiet_peft

    try:
        with quiet_peft():
            yield
    except ValueError as error:
        if "target module" in str(error).lower() or "target_modules" in str(error):
            raise UsageError(
                "the model has no linear layers of these names",
                place="target_modules",
                value=config.target_modules,
                remedy="Use all-linear, or names as the model's page lists them.",
            ) from error
        raise


def load_policy(config: TrainingConfig, job: Job, model_record: Model, device: str, dtype: str) -> Any:
    """The base model on its device, with as many threads as the settings allow."""
    import torch

    from workbench.models.loading import load_base

    if device == "cpu":
        torch.set_num_threads(job.settings.threads)
    return load_base(model_record, dtype=dtype, device=device)


def checkpointed(base: type) -> type:
    """A trainer class whose checkpoints are whole or absent, which tells a diverged run in words and sends nothing.

    Set `reporter` and `keep_checkpoints` on the made trainer. A checkpoint holds the trained weights (adapter and
    modules saved whole), optimizer, schedule, random state, the trainer's state and the reporter's, and what
    `more_files` adds.

    Args:
        base: transformers' `Trainer` or one made from it.
    """
    import torch
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file
    from safetensors.torch import save as to_safetensors

    class Checkpointed(base):  # type: ignore[misc]
        reporter: StepReporter
        keep_checkpoints = 2

        def more_files(self) -> Mapping[str, bytes]:
            """Further files of a checkpoint; `restore_files` reads them back."""
            return {}

        def restore_files(self, folder: Path) -> None:
            """Take up what `more_files` kept."""

        def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
            norm = super()._get_grad_norm(model, grad_norm)
            if not math.isfinite(float(norm)):
                raise diverged("gradient", float(norm), self.state.global_step)
            return norm

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

            more = self.more_files()
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
                    **{name: partial(bytes, content) for name, content in more.items()},
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
            self.restore_files(folder)

    return Checkpointed


def planned(base: type) -> type:
    """A `checkpointed` trainer class whose batches come from a `RunPlan`.

    Set `plan` as well on the made trainer. A step's loss is a sum divided by `num_items_in_batch`, which is the sum of
    `weight_of` over the step's batches, so that accumulated batches count by what is in them. What `compute_loss`
    notes with `note` is averaged likewise over the step and reported beside the loss.

    Args:
        base: transformers' `Trainer` or one made from it.
    """
    import torch
    from torch.utils.data import DataLoader

    class Planned(checkpointed(base)):  # type: ignore[misc]
        plan: RunPlan

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            # compute_loss divides by the whole step's weight itself; nothing is to be divided once more.
            self.model_accepts_loss_kwargs = True
            self.step_weight = 0.0
            self._noted: dict[str, float] = {}

        def weight_of(self, batch: Any) -> float:
            """What a batch counts in its step: by default its supervised tokens."""
            return float((batch["labels"][:, 1:] != -100).sum())

        def note(self, **sums: Any) -> None:
            """Add up figures over a step's batches; reported divided by the step's weight."""
            for name, value in sums.items():
                self._noted[name] = self._noted.get(name, 0.0) + float(value)

        def get_train_dataloader(self) -> Any:
            # The whole run is one pass over the plan, so that skipping to a step is skipping batches. A generator of
            # its own keeps the loader from drawing on the global one.
            return DataLoader(
                self.train_dataset,
                batch_sampler=[list(batch) for batch in self.plan.batches],
                collate_fn=self.data_collator,
                generator=torch.Generator(),
            )

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            samples, _ = super().get_batch_samples(*args, **kwargs)
            self.step_weight = sum(self.weight_of(batch) for batch in samples)
            return samples, torch.tensor(self.step_weight, device=self.args.device)

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                more = {name: value / max(self.step_weight, 1e-12) for name, value in self._noted.items()}
                self._noted.clear()
                self.reporter.report(
                    self.state.global_step,
                    loss=logs["loss"],
                    learning_rate=logs["learning_rate"],
                    grad_norm=float(logs["grad_norm"]),
                    weight=self.step_weight,
                    **more,
                )

    return Planned


def train_to_end(trainer: Any, job: Job, steps: int) -> None:
    """Train from the newest whole checkpoint in the run's folder, or from the start, to the last step.

    Args:
        trainer: of a class that `checkpointed` made, its `reporter` set.
        job: the run.
        steps: optimizer steps of the run.

    Raises:
        Stopped: Stop was pressed; the checkpoint is written.
    """
    trainer.add_callback(trainer_callback(trainer.reporter))
    checkpoint = latest_checkpoint(job.folder / "checkpoints")
    if checkpoint is not None:
        job.log(f"going on from step {checkpoint_step(checkpoint)}")
        job.result(resumed_step=checkpoint_step(checkpoint))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.reporter.stopped:
        raise Stopped(
            f"stopped as asked after step {trainer.state.global_step} of {steps}",
            remedy="Resume goes on from the checkpoint.",
        )


def random_state() -> dict[str, Any]:
    """State of the random generators that training draws on, as transformers reads it back."""
    import random

    import numpy as np
    import torch

    state = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.random.get_rng_state()
    return state


def require_finite(loss: Any, step: int) -> None:
    """Raise `diverged` where a loss, a tensor of one number, is no number."""
    import torch

    if not torch.isfinite(loss):
        raise diverged("loss", float(loss.detach()), step)


def diverged(what: str, value: float, step: int) -> RunProblem:
    """The loss or the gradient stopped being a number."""
    return RunProblem(
        f"the {what} is no longer a number: training has diverged",
        place=f"step {step + 1}",
        value=value,
        remedy="Lower learning_rate (a third is a good try), or raise warmup_ratio, and start again. "
        "The checkpoint before is intact.",
    )


LOWER_TOKENS = "Lower tokens_per_batch (and raise gradient_accumulation_steps to make up for it)"


@contextmanager
def failures_in_words(lower: str = LOWER_TOKENS) -> Iterator[None]:
    """Turn running out of memory into a `RunProblem` that says what to lower.

    Args:
        lower: the method's setting that bounds a batch, in words.
    """
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
            remedy=f"{lower}, lower max_length, turn on gradient_checkpointing, or take a smaller model.",
        ) from error


def publish(model: Any, config: TrainingConfig, job: Job, model_record: Model, adapter: str = "default") -> Variant:
    """Save the adapter as a plain PEFT folder and enter it as a variant; a second call finds the first one's.

    Args:
        model: a PEFT model.
        config: the run's settings; its name is the variant's.
        job: the run.
        model_record: the base.
        adapter: name of the adapter in the model that is published.
    """
    from workbench.models.adapters import publish_adapter

    folder = job.folder / "adapter"
    with tempfile.TemporaryDirectory(dir=job.folder, prefix="adapter-") as aside:
        model.save_pretrained(aside, save_embedding_layers=False, selected_adapters=[adapter])
        saved = Path(aside) / ("" if adapter == "default" else adapter)  # PEFT's way of naming what it writes
        digest = publish_adapter(saved, folder, model_record)
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
