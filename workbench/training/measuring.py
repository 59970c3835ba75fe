"""What is measured and drawn while a model learns: held-out losses, row by row, and sample answers.

Nothing here disturbs training: dropout is off meanwhile, no random number is drawn, and the model is put back into the
mode it was in. Every method may use it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.job import Job
from workbench.training.batching import Batch, plan_evaluation
from workbench.training.losses import supervised_losses
from workbench.training.rows import TrainingRow

if TYPE_CHECKING:
    import torch

    from workbench.datasets.render import Renderer


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows as one batch, padded on the right to the longest: input_ids, attention_mask, labels, each [rows, length]."""
    import torch

    shape = (len(rows), max(len(row["input_ids"]) for row in rows))
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, -100, dtype=torch.long),
    }
    for place, row in enumerate(rows):
        length = len(row["input_ids"])
        batch["input_ids"][place, :length] = torch.tensor(row["input_ids"])
        batch["attention_mask"][place, :length] = 1
        batch["labels"][place, :length] = torch.tensor(row["labels"])
    return batch


def held_out_losses(
    model: Any, rows: Sequence[TrainingRow], tokens_per_batch: int, *, fast: bool
) -> list[tuple[float, int]]:
    """For each row the sum of its tokens' losses and their number, with dropout off and no random number drawn.

    Args:
        model: the model as it is trained.
        rows: rendered rows.
        tokens_per_batch: bound on rows × longest row of a batch.
        fast: whether `losses.supervised_losses` gives this model's loss.
    """
    import torch

    found: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    batches = plan_evaluation([len(row.ids) for row in rows], tokens_per_batch=tokens_per_batch)
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                for row, loss in zip(batch, _row_losses(model, rows, batch, device, fast), strict=True):
                    found[row] = (loss, rows[row].supervised)
    finally:
        model.train(was_training)
    return found


def _row_losses(model: Any, rows: Sequence[TrainingRow], batch: Batch, device: Any, fast: bool) -> list[float]:
    import torch

    tensors = collate([{"input_ids": rows[row].ids, "labels": rows[row].labels} for row in batch])
    inputs = {name: tensor.to(device) for name, tensor in tensors.items()}
    if fast:
        _, losses, row_of = supervised_losses(model, inputs["input_ids"], inputs["labels"])
        sums = torch.zeros(len(batch), dtype=torch.float64, device=device)
        return [float(value) for value in sums.index_add_(0, row_of, losses.double())]
    labels = inputs.pop("labels")
    logits = model(**inputs, use_cache=False).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
    return [float(value) for value in losses.double().sum(dim=1)]


def mean_loss(losses: Sequence[tuple[float, int]]) -> float:
    """Loss per token over all rows: the sum over the number, not a mean of the rows' means."""
    return sum(total for total, _ in losses) / max(1, sum(tokens for _, tokens in losses))


def write_held_out(rows: Sequence[TrainingRow], losses: Sequence[tuple[float, int]], path: Path) -> None:
    """Write each held-out row's loss per token, worst first, as JSON lines: row_id, loss, tokens."""
    entries: list[dict[str, Any]] = [
        {"row_id": row.row_id, "loss": total / max(1, tokens), "tokens": tokens}
        for row, (total, tokens) in zip(rows, losses, strict=True)
    ]
    entries.sort(key=lambda entry: -entry["loss"])
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def sample_answer(model: Any, renderer: Renderer, prompt: str, max_tokens: int) -> str:
    """The greedy answer to a prompt. Leaves the model's mode and the random generators as they were."""
    import torch

    ids = renderer.prompt_ids([{"role": "user", "content": prompt}])
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            answer = greedy(model, ids, max_tokens, renderer.stop_ids, device)
    finally:
        model.train(was_training)
    return renderer.decode(answer)


def tell_samples(
    job: Job, model: Any, renderer: Renderer, prompts: Sequence[str], max_tokens: int, *, step: int, steps: int
) -> None:
    """Answer each prompt and keep the answers with the run.

    Args:
        job: the run.
        model: as it is at the step.
        renderer: of the base model.
        prompts: what is asked, each in a slot of its own.
        max_tokens: longest answer.
        step: optimizer steps done.
        steps: those of the run.
    """
    job.progress(phase="sampling answers", done=step, total=steps, unit="steps")
    for slot, prompt in enumerate(prompts):
        job.sample(step, slot, prompt, sample_answer(model, renderer, prompt, max_tokens))


def greedy(model: Any, ids: Sequence[int], max_tokens: int, stops: frozenset[int], device: Any) -> list[int]:
    """The most likely continuation of token ids, without the token that ends it."""
    import torch

    cache, step = None, torch.tensor([list(ids)], device=device)
    answer: list[int] = []
    while len(answer) < max_tokens:
        output = model(input_ids=step, past_key_values=cache, use_cache=True)
        token = int(output.logits[0, -1].argmax())
        if token in stops:
            break
        answer.append(token)
        cache, step = output.past_key_values, torch.tensor([[token]], device=device)
    return answer
