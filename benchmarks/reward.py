"""`reward`: learn from one prompt with K = 9 ranked answers: rows read and time, beside TRL's pairwise trainer.

TRL's `RewardTrainer` reads both sides of each of the 36 pairs, 72 rows; ours reads each answer once. The loss over all
pairs on one network is compared first. Times are of forward and backward through LoRA r16 on all linear layers, the
two taking turns.
"""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bundled import model_folder, rows_of_known_lengths, threads
from benchmarks.figures import Figure

K = 9
ROUNDS = 3
TRL_PAIRS = 4
"""Pairs of one of TRL's batches."""
PEER = "TRL RewardTrainer"


def measure() -> list[Figure]:
    """Rows read and seconds for one prompt, ours and TRL's, after the losses were held against each other."""
    import torch

    torch.set_num_threads(threads())
    rows = _ranking()
    with tempfile.TemporaryDirectory() as folder:
        ours, item = _ours(rows, Path(folder))
        stock = _trl(rows, Path(folder) / "trl")
        difference = _loss_difference(ours, item, stock)

        def our_step() -> None:
            from workbench.training.reward import collate

            ours.compute_loss(ours.model, collate([item])).backward()

        def their_step() -> None:
            for batch in stock.get_train_dataloader():
                stock.compute_loss(stock.model, batch).backward()

        our_step()  # warms up
        read: list[int] = [0, 0]
        taken: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for side, (trainer, step) in enumerate(((ours, our_step), (stock, their_step))):
                read[side], seconds = _counted(trainer, step)
                taken[side].append(seconds)
    seconds, theirs = (statistics.median(times) for times in taken)
    return [
        Figure("reward", "loss_difference", difference, "nats", len(rows)),
        Figure("reward", "rows_read", read[0], "rows", K, {PEER: read[1]}),
        Figure("reward", "prompt", seconds, "s", ROUNDS, {PEER: theirs}),
    ]


def _ranking() -> list[Any]:
    """One prompt with nine answers, 54 to 100 tokens each with the prompt, as the 36 rows of its ranking."""
    from workbench.records import Message, Preference

    drawn = rows_of_known_lengths(count=K, shortest=54, longest=100, total=660)
    prompt = (Message(role="user", content=drawn[0][0]),)
    answers = [(Message(role="assistant", content=answer),) for _, answer in drawn]
    return [
        Preference(prompt=prompt, chosen=better, rejected=worse, weight=1 / math.comb(K, 2), meta={"ranking": "one"})
        for better, worse in itertools.combinations(answers, 2)
    ]


def _ours(rows: list[Any], folder: Path) -> tuple[Any, Any]:
    """Our trainer and the prompt as its one batch element."""
    from workbench.datasets.render import load_renderer
    from workbench.job import RecordingJob
    from workbench.records import ModelSource, Row
    from workbench.settings import Settings
    from workbench.store import models as model_store
    from workbench.store.database import open_store
    from workbench.training.batching import plan_run
    from workbench.training.reward import build_trainer
    from workbench.training.reward_configs import RewardConfig
    from workbench.training.reward_rows import group_rows

    store = open_store(Settings(home=folder / "home"))
    model = model_store.add_model(store, "bundled", ModelSource.LOCAL, str(model_folder()))
    model = model_store.update_model(store, model.id, path=str(model_folder()))
    numbered = [Row(row_id=f"row_{place}", row_hash="", payload=row) for place, row in enumerate(rows)]
    (item,) = group_rows(numbered, load_renderer(model_folder()), max_length=1_024).prompts
    config = RewardConfig(dataset="rows", model=model.id, preset="quick", lora_r=16, lora_alpha=32)
    plan = plan_run([item.tokens], tokens_per_batch=8_192, batches_per_step=1, seed=0, epochs=1)
    trainer = build_trainer(config, RecordingJob(store, folder / "run"), model, None, [item], plan)
    trainer.model.train()
    store.close()
    return trainer, item


def _trl(rows: list[Any], folder: Path) -> Any:
    """TRL's own trainer over the 36 pairs, with the same adapter and batches of `TRL_PAIRS`."""
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from workbench.models.loading import quiet_peft

    plain = [
        {name: [turn.as_dict() for turn in getattr(row, name)] for name in ("prompt", "chosen", "rejected")}
        for row in rows
    ]
    arguments = trl.RewardConfig(
        output_dir=str(folder),
        per_device_train_batch_size=TRL_PAIRS,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        dataloader_pin_memory=False,
    )
    with quiet_peft():
        trainer = trl.RewardTrainer(
            model=AutoModelForSequenceClassification.from_pretrained(model_folder(), num_labels=1),
            args=arguments,
            train_dataset=Dataset.from_list(plain),
            processing_class=AutoTokenizer.from_pretrained(model_folder()),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS"),
        )
    trainer.model.train()
    return trainer


def _loss_difference(ours: Any, item: Any, stock: Any) -> float:
    """Our loss of the prompt against the mean of TRL's over its 36 pairs, both over our network and tokens."""
    import torch

    from workbench.training.reward import collate

    dice = torch.Generator().manual_seed(1)
    for name, weight in ours.model.named_parameters():
        if "lora_B" in name:
            weight.data = 0.01 * torch.randn(weight.shape, generator=dice)
    # Stock sequence classification finds a row's end by the padding token, which must then be no end-of-turn token.
    pad = 0
    ours.model.get_base_model().config.pad_token_id = pad
    stock.data_collator.pad_token_id, before = pad, stock.data_collator.pad_token_id
    pairs = [
        {"chosen_ids": list(item.answers[pair.better].ids), "rejected_ids": list(item.answers[pair.worse].ids)}
        for pair in item.pairs
    ]
    with torch.no_grad():
        mine = float(ours.compute_loss(ours.model, collate([item])))
        parts = [
            float(type(stock).compute_loss(stock, ours.model, stock.data_collator(pairs[start : start + TRL_PAIRS])))
            for start in range(0, len(pairs), TRL_PAIRS)
        ]
    stock.data_collator.pad_token_id = before
    return abs(mine - statistics.fmean(parts))


def _counted(trainer: Any, step: Callable[[], None]) -> tuple[int, float]:
    """Rows that go through the body of the model in a step, and its seconds."""
    rows = []
    body = trainer.model.get_base_model().base_model
    hook = body.register_forward_pre_hook(
        lambda module, given, named: rows.append(len(named["input_ids"] if "input_ids" in named else given[0])),
        with_kwargs=True,
    )
    began = time.perf_counter()
    step()
    seconds = time.perf_counter() - began
    hook.remove()
    return sum(rows), seconds
