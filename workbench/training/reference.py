"""Log-probabilities of the model a run starts from: computed once, before the first step, and kept in the run's folder.

DPO and KTO hold the trained model near to this one. Keeping a number for each sequence takes the place of a second
model in memory, and a resumed run reads the very numbers it began with.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workbench.datasets.segments import disk_told
from workbench.errors import RunProblem, Stopped
from workbench.job import Job
from workbench.records import digest
from workbench.training.measuring import held_out_losses
from workbench.training.rows import TrainingRow

FILE = "reference_logps.json"
CHUNK_BATCHES = 16
"""Batches between two looks at Stop."""


def answer_logps(model: Any, rows: Sequence[TrainingRow], tokens_per_batch: int, *, fast: bool) -> list[float]:
    """Log-probability of each row's answer in nats, with dropout off and no random number drawn.

    Args:
        model: the model as it is trained.
        rows: rendered rows.
        tokens_per_batch: bound on rows × longest row of a batch.
        fast: whether the model `losses.fits`.
    """
    return [-loss for loss, _ in held_out_losses(model, rows, tokens_per_batch, fast=fast)]


def reference_logps(
    job: Job,
    model: Any,
    lengths: Sequence[int],
    make: Callable[[int], TrainingRow],
    *,
    tokens_per_batch: int,
    fast: bool,
) -> list[float]:
    """What the model gives each sequence now, before anything is learned; read from the run's folder where it is kept.

    Args:
        job: the run.
        model: as the run starts it: a new adapter changes nothing yet, one to continue is as it was found.
        lengths: tokens of each sequence.
        make: a sequence by its number; asked for once each.
        tokens_per_batch: bound on rows × longest row of a batch.
        fast: whether the model `losses.fits`.

    Raises:
        Stopped: Stop was pressed; a resumed run begins this again.
        RunProblem: the model's own numbers are broken.
        StoreProblem: the disk is full.
    """
    path = job.folder / FILE
    asked = digest([len(lengths), list(lengths)])
    kept = _read(path, asked)
    if kept is not None:
        return kept
    found = [0.0] * len(lengths)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    done = 0
    job.progress(phase="reading the reference", done=0, total=len(order), unit="sequences")
    while done < len(order):
        if done and job.should_stop():
            raise Stopped("stopped as asked before the first step", remedy="Resume begins again.")
        chunk = order[done : done + 1]
        while done + len(chunk) < len(order):
            longest = lengths[order[done + len(chunk)]]
            if (len(chunk) + 1) * longest > CHUNK_BATCHES * tokens_per_batch:
                break
            chunk.append(order[done + len(chunk)])
        values = answer_logps(model, [make(number) for number in chunk], tokens_per_batch, fast=fast)
        for number, value in zip(chunk, values, strict=True):
            found[number] = value
        done += len(chunk)
        job.progress(done=done)
    broken = sum(not math.isfinite(value) for value in found)
    if broken:
        raise RunProblem(
            f"the model to start from gives no probability to {broken} of {len(found)} sequences",
            remedy="Its weights hold numbers that are none: start from another variant, or train in float32.",
        )
    _write(path, asked, found)
    return found


def _read(path: Path, asked: str) -> list[float] | None:
    """The kept numbers, None where there are none for these sequences."""
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_bytes())
        return [float(value) for value in kept["logps"]] if kept["sequences"] == asked else None
    except (ValueError, KeyError, TypeError):  # damaged: computed anew from the same start
        return None


def _write(path: Path, asked: str, logps: Sequence[float]) -> None:
    aside = path.with_suffix(".partial")
    with disk_told(str(path)), aside.open("w", encoding="utf-8") as file:
        json.dump({"sequences": asked, "logps": list(logps)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
