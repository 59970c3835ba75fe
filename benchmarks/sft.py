"""`sft`: one epoch of LoRA r16 on all linear layers over 96 rows of 54 to 1,082 tokens; beside stock TRL.

The losses on one batch are compared first. The limit is what this machine's float32 matrix products allow for the
model's shapes: 0.536 GFLOP a token, forward and backward.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.bundled import load_model, model_folder, rows_of_known_lengths, threads
from benchmarks.figures import Figure

GFLOP_A_TOKEN = 0.536
SHAPES = [(576, 576), (576, 192), (576, 1_536), (1_536, 576)]


def measure() -> list[Figure]:
    """Seconds of an epoch, ours, stock TRL's and TRL's with batches grouped by length."""
    import torch

    torch.set_num_threads(threads())
    pairs = rows_of_known_lengths()
    difference = _loss_difference(pairs)
    with tempfile.TemporaryDirectory() as folder:
        ours, tokens = _ours(pairs, Path(folder) / "home")
        peers = {
            "stock TRL SFTTrainer": _trl(pairs, Path(folder) / "stock"),
            "TRL group_by_length": _trl(pairs, Path(folder) / "grouped", train_sampling_strategy="group_by_length"),
        }
    limit = tokens * GFLOP_A_TOKEN / _gemm_gflops()
    return [
        Figure("sft", "loss_difference", difference, "nats", 8),
        Figure("sft", "epoch", ours, "s", len(pairs), peers, limit),
    ]


def _ours(pairs: list[Any], home: Path) -> tuple[float, int]:
    """Training time and tokens of our own run, called directly in this process."""
    from workbench.datasets.versions import write_version
    from workbench.job import RecordingJob
    from workbench.records import Example, Message, ModelSource
    from workbench.settings import Settings
    from workbench.store import datasets as dataset_store
    from workbench.store import models as model_store
    from workbench.store.database import open_store
    from workbench.store.runs import add_run
    from workbench.training.configs import SFTConfig
    from workbench.training.sft import train_sft

    store = open_store(Settings(home=home))
    model = model_store.add_model(store, "bundled", ModelSource.LOCAL, str(model_folder()))
    model_store.update_model(store, model.id, path=str(model_folder()))
    dataset = dataset_store.create_dataset(store, "rows", "instructions")
    examples = [
        Example(messages=(Message(role="user", content=prompt), Message(role="assistant", content=answer)))
        for prompt, answer in pairs
    ]
    version = write_version(store, dataset.id, examples, parent=None, message="", provenance={})
    config = SFTConfig(
        dataset=version.id, model=model.id, preset="quick", held_out=None, epochs=1, lora_r=16, lora_alpha=32,
        save_every=0, overrule_gates=True, max_length=2_048,
    )  # fmt: skip
    run = add_run(store, kind="sft", name="rows", slot="train", spec=config.model_dump(mode="json"))
    job = RecordingJob(store, home / "run", run_id=run.id)
    result = train_sft(config, job)
    store.close()
    return float(result["seconds"]), int(result["trained_tokens"])


def _trl(pairs: list[Any], folder: Path, **more: Any) -> float:
    """Training time of TRL's own trainer with completion-only loss, batch 4."""
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer

    from workbench.models.loading import quiet_peft

    torch.manual_seed(0)
    table = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": prompt}],
                "completion": [{"role": "assistant", "content": answer}],
            }
            for prompt, answer in pairs
        ]
    )
    arguments = trl.SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        num_train_epochs=1,
        learning_rate=1e-3,
        max_length=2_048,
        completion_only_loss=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        **more,
    )
    with quiet_peft():
        trainer = trl.SFTTrainer(
            model=load_model(),
            args=arguments,
            train_dataset=table,
            processing_class=AutoTokenizer.from_pretrained(model_folder()),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        began = time.perf_counter()
        trainer.train()
    return time.perf_counter() - began


def _loss_difference(pairs: list[Any]) -> float:
    """Largest difference between our loss and the model's own on one padded batch of eight rows."""
    import torch

    from workbench.datasets.render import load_renderer
    from workbench.training.losses import supervised_losses
    from workbench.training.measuring import collate

    renderer = load_renderer(model_folder())
    rows = []
    for prompt, answer in pairs[:8]:
        (row,) = renderer.render([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])
        rows.append({"input_ids": list(row.ids), "labels": list(row.labels)})
    batch = collate(rows)
    model = load_model()
    with torch.no_grad():
        total, losses, _ = supervised_losses(model, batch["input_ids"], batch["labels"])
        own = model(**batch, use_cache=False).loss
    return abs(float(total / len(losses) - own))


def _gemm_gflops() -> float:
    """Billions of multiply-adds × 2 a second for the model's shapes at 1,024 rows; the best of five rounds."""
    import torch

    best = 0.0
    pairs = [(torch.randn(1_024, inner), torch.randn(inner, outer)) for inner, outer in SHAPES]
    for _ in range(5):
        began, work = time.perf_counter(), 0.0
        for left, right in pairs:
            for _ in range(20):
                torch.mm(left, right)
            work += 20 * 2 * left.shape[0] * left.shape[1] * right.shape[1]
        best = max(best, work / (time.perf_counter() - began) / 1e9)
    return best
