"""How far a variant has moved from another of the same base: KL in nats, measured on answers it draws itself.

A run of its own, so that fine-tuning, DPO and RL can be compared by one yardstick: for each prompt one answer is drawn
at temperature 1, and KL(variant ‖ reference) is estimated by log π(answer) − log π_reference(answer), without bias
(the plain Monte Carlo estimate; single values may be below 0). Per token it is the sum over all answers ÷ their tokens.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from workbench.errors import DataProblem, UsageError
from workbench.job import Job
from workbench.preferences.intervals import bootstrap_mean
from workbench.records import Model, RunConfig, Variant
from workbench.store import models as model_store
from workbench.store.database import Store
from workbench.store.datasets import find_version
from workbench.training.rows import TrainingRow

if TYPE_CHECKING:
    from workbench.datasets.render import Renderer
    from workbench.training.rl_prompts import AskedPrompt

ROWS = "kl_rows.jsonl"
AT_ONCE = 16
UNTOLD_ROOM = 4096
"""Tokens that a prompt may have where the model's files do not tell how many it reads."""


class KLConfig(RunConfig):
    """Which variant is held against which other, on which prompts."""

    variant: str = Field(min_length=1)
    """The variant that answers: a name or an id."""
    reference: str | None = Field(default=None)
    """What it is held against; its base model where empty."""
    prompts: str = Field(min_length=1)
    """Dataset of any kind whose prompts are answered: a name, name@version or id."""
    limit: int = Field(default=32, ge=1, le=10_000)
    """Most prompts to answer."""
    max_tokens: int = Field(default=96, ge=1, le=8192)
    """Longest answer, in tokens."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Same seed, variant and prompts draw the same answers."""


def measure_kl(config: KLConfig, job: Job) -> dict[str, Any]:
    """Draw an answer to each prompt and hold its likelihood under both variants against each other.

    Args:
        config: what to measure.
        job: the run.

    Returns:
        `kl_sequence` (nats an answer, bootstrap over prompts), `kl_token` (nats a token), `n`, `mean_tokens`, and the
        ids of `variant`, `reference` and `version`. Each prompt's values are in `kl_rows.jsonl`, the largest first.

    Raises:
        UsageError: the two are not of one base model on this machine.
        DataProblem: no row asks anything that fits.
        Stopped: Stop was pressed; nothing is kept.
    """
    import torch

    from workbench.datasets.render import load_renderer
    from workbench.training.losses import fits
    from workbench.training.measuring import held_out_losses
    from workbench.training.rollouts import draw_answers

    variant, reference = _sides(job.store, config)
    model_record = model_store.get_model(job.store, str(variant.model_id))
    renderer = load_renderer(model_record.path or "")
    prompts, version_id = _prompts(job, config, renderer, _room(config, model_record))
    job.progress(phase="loading the model")
    with _speakers(job, variant, reference) as (model, speak):
        rows: list[TrainingRow] = []
        chance = torch.Generator(device=next(model.parameters()).device).manual_seed(config.seed)
        with speak(variant):
            for start in range(0, len(prompts), AT_ONCE):
                job.checkpoint_or_stop()
                job.progress("drawing answers", done=start, total=len(prompts), unit="prompts")
                part = prompts[start : start + AT_ONCE]
                drawn = draw_answers(
                    model, [prompt.ids for prompt in part], each=1, most_tokens=config.max_tokens,
                    stop_ids=renderer.stop_ids, temperature=1.0, generator=chance,
                )  # fmt: skip
                rows += [_row(prompt, answer) for prompt, answer in zip(part, drawn, strict=True)]
        losses = []
        for side in (variant, reference):
            job.progress("measuring", note=side.name)
            with speak(side):
                losses.append(held_out_losses(model, rows, 4096, fast=fits(model)))
    told = _told(rows, losses)
    _keep_rows(job, prompts, rows, losses, renderer)
    return told | {"variant": variant.id, "reference": reference.id, "version": version_id}


def check_kl(store: Store, config: KLConfig) -> None:
    """What can be told before a measurement is launched.

    Raises:
        NotFound: a variant or the dataset is not there.
        UsageError: the two are not of one base model on this machine, or the answers leave no room for a prompt.
    """
    variant, _ = _sides(store, config)
    find_version(store, config.prompts)
    _room(config, model_store.get_model(store, str(variant.model_id)))


def _room(config: KLConfig, model: Model) -> int:
    """Tokens that a prompt may have."""
    context = model.info.get("context_length")
    if not isinstance(context, int):
        return UNTOLD_ROOM
    if (room := context - config.max_tokens) < 1:
        raise UsageError(
            f"{model.name} reads {context:,} tokens, which the longest answer fills",
            place="max_tokens",
            value=config.max_tokens,
            remedy="Lower max_tokens.",
        )
    return room


def _sides(store: Store, config: KLConfig) -> tuple[Variant, Variant]:
    variant = model_store.get_variant(store, config.variant)
    if variant.model_id is None:
        raise UsageError(
            "a model on a server does not tell how likely it holds a text", place="variant", value=variant.name,
            remedy="Choose a variant of a base model on this machine.",
        )  # fmt: skip
    if config.reference is None:
        every = model_store.list_variants(store, model_id=variant.model_id, archived=True)
        return variant, next(other for other in every if other.adapter_path is None)
    reference = model_store.get_variant(store, config.reference)
    if reference.model_id != variant.model_id:
        raise UsageError(
            "the two are not of one base model, so that their likelihoods do not compare",
            place="reference",
            value=reference.name,
            remedy=f"Choose a variant of the base of {variant.name}.",
        )
    return variant, reference


def _prompts(job: Job, config: KLConfig, renderer: Renderer, room: int) -> tuple[list[AskedPrompt], str]:
    from workbench.datasets.versions import iter_rows
    from workbench.training.rl_prompts import render_prompts

    dataset, version = find_version(job.store, config.prompts)
    found, left_out = render_prompts(iter_rows(job.store, version), renderer, longest=room)
    for reason, count in left_out.items():
        job.log(f"{count} rows {reason} and are left out")
    if not found:
        why = "; ".join(f"{count} {reason}" for reason, count in left_out.items()) or "it has no rows"
        raise DataProblem(
            f"no row has a prompt that can be answered: {why}", place=dataset.name, remedy="Choose another dataset."
        )
    return found[: config.limit], version.id


@contextmanager
def _speakers(job: Job, *sides: Variant) -> Iterator[tuple[Any, Any]]:
    """The base with the adapters of both sides, and a context in which one of them speaks."""
    import torch
    from peft import PeftModel

    from workbench.models.loading import load_base, load_with_adapter, loading_in_words, quiet_peft

    record = model_store.get_model(job.store, str(sides[0].model_id))
    if not torch.cuda.is_available():
        torch.set_num_threads(job.settings.threads)
    model: Any = load_base(record, device="cuda" if torch.cuda.is_available() else "cpu")
    for side in {side.id: side for side in sides if side.adapter_path}.values():
        folder = Path(side.adapter_path or "")
        if isinstance(model, PeftModel):
            with loading_in_words(str(folder)), quiet_peft():
                model.load_adapter(str(folder), adapter_name=side.id)
        else:
            model = load_with_adapter(model, folder, name=side.id)
    model.eval()

    @contextmanager
    def speak(side: Variant) -> Iterator[None]:
        if side.adapter_path:
            model.set_adapter(side.id)
            yield
        elif isinstance(model, PeftModel):
            with model.disable_adapter():
                yield
        else:
            yield

    yield model, speak


def _row(prompt: AskedPrompt, answer: list[int]) -> TrainingRow:
    ids = (*prompt.ids, *answer)
    return TrainingRow(row_id=prompt.row_id, ids=ids, labels=(*[-100] * len(prompt.ids), *answer))


def _kls(losses: list[list[tuple[float, int]]]) -> list[float]:
    return [there - here for (here, _), (there, _) in zip(*losses, strict=True)]


def _told(rows: list[TrainingRow], losses: list[list[tuple[float, int]]]) -> dict[str, Any]:
    kls, tokens = _kls(losses), [count for _, count in losses[0]]
    return {
        "kl_sequence": bootstrap_mean(kls).model_dump(mode="json"),
        "kl_token": sum(kls) / max(1, sum(tokens)),
        "n": len(rows),
        "mean_tokens": statistics.fmean(tokens),
    }


def _keep_rows(
    job: Job,
    prompts: list[AskedPrompt],
    rows: list[TrainingRow],
    losses: list[list[tuple[float, int]]],
    renderer: Renderer,
) -> None:
    """Each prompt's value with what was asked and answered, the largest first."""
    entries: list[dict[str, Any]] = [
        {
            "row_id": row.row_id,
            "kl": kl,
            "tokens": count,
            "prompt": prompt.messages[-1].content,
            "answer": renderer.decode(row.ids[len(prompt.ids) :]),
        }
        for prompt, row, kl, (_, count) in zip(prompts, rows, _kls(losses), losses[0], strict=True)
    ]
    entries.sort(key=lambda entry: -entry["kl"])
    (job.folder / ROWS).write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
