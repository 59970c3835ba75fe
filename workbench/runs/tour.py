"""The tour: starter kit → LoRA on the bundled model → held-out prompts answered by base and tuned.

With the protocol *instructgpt* it goes on to rankings, a reward model and reinforcement: see `protocol`.

A run of its own that launches the others, waits for them and passes their progress on. It does none of the work itself,
so stopping it stops what it waits for, and resuming it goes on with what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, JsonValue

from workbench.job import Job
from workbench.records import Run, RunConfig, Variant
from workbench.runs.parts import base_variant, ready_model, run_part, told_interval
from workbench.store import models as model_store

SHOWN_ANSWERS = 3


class TourConfig(RunConfig):
    """What the tour does."""

    quick: bool = False
    """A short form for a look around: fewer trained tokens and fewer held-out prompts; the figures mean less."""
    kit: str = "assistant"
    """The starter kit."""
    model: str = "bundled"
    """The base model: `bundled`, or the name or id of another in the catalog."""
    max_tokens: int = Field(default=20_000, ge=500)
    """Budget of trained tokens."""
    prompts: int = Field(default=50, ge=1)
    """Most held-out prompts to answer."""
    protocol: Literal["sft", "instructgpt"] = "sft"
    """sft: fine-tune and compare. instructgpt: then rank answers by the kit's scorer, learn a reward from the rankings,
    reinforce, once more with the new policy's answers, and train DPO on the same rankings; an hour on two cores."""
    sft_tokens: int = Field(default=4_500, ge=500, json_schema_extra={"group": "InstructGPT", "advanced": True})
    """Trained tokens of the first stage under instructgpt: few, so that there is something left to reinforce."""
    ranked_prompts: int = Field(default=64, ge=4, json_schema_extra={"group": "InstructGPT", "advanced": True})
    """Prompts whose answers are ranked."""
    answers: int = Field(default=4, ge=2, le=9, json_schema_extra={"group": "InstructGPT", "advanced": True})
    """Answers to each of them."""
    steps: int = Field(default=30, ge=1, json_schema_extra={"group": "InstructGPT", "advanced": True})
    """Optimizer steps of the reinforcement."""
    rounds: int = Field(default=2, ge=1, le=5, json_schema_extra={"group": "InstructGPT", "advanced": True})
    """Times through rankings, reward and reinforcement; from the second on the answers of the policy before are ranked,
    too."""


def take_tour(config: TourConfig, job: Job) -> Mapping[str, Any]:
    """Take the tour.

    Args:
        config: which kit, and how much of it.
        job: the tour's own run.

    Returns:
        One document: dataset, run, adapter fingerprint, `held_out` shares with Wilson intervals, mean `chrf` with
        bootstrap intervals, three answers. Where no rule scorer judges the kit, each share is None and chrF is the
        figure.

    Raises:
        RunProblem: one of the runs ended badly; its message is passed on.
    """
    from workbench.datasets.starter import install_kit
    from workbench.store.datasets import get_dataset

    if config.protocol == "instructgpt":
        from workbench.runs.protocol import take_protocol

        return take_protocol(config, job)
    began = time.monotonic()
    model = ready_model(config.model, job)
    job.progress("installing the starter kit")
    train, held_out = install_kit(job.store, config.kit)
    job.result(
        dataset={
            "id": train.dataset_id,
            "version": train.id,
            "name": get_dataset(job.store, train.dataset_id).name,
            "rows": train.rows,
        },
        held_out_version=held_out.id,
    )

    budget = min(config.max_tokens, 6_000) if config.quick else config.max_tokens
    spec = {
        "dataset": train.id,
        "model": model.id,
        "preset": "quick",
        "max_tokens": budget,
        "name": f"Tour of the {config.kit} kit",
    }
    sft = run_part(job, "training", "sft", spec, f"Tour: {config.kit} LoRA")
    tuned = model_store.get_variant(job.store, str(sft.result["variant_id"]))
    base = base_variant(job, model)
    count = min(config.prompts, 12) if config.quick else config.prompts
    asked = {
        "prompts": held_out.id,
        "variants": [base.id, tuned.id],
        "limit": count,
        "temperature": 0.0,
        "max_tokens": 120,
    }
    answers = run_part(job, "answering", "answer", asked, f"Tour: {config.kit} held-out answers")
    job.progress("summing up")
    document = _document(job, train.id, sft, answers, base, tuned)
    return document | {"seconds": round(time.monotonic() - began, 1), "quick": config.quick}


def _document(job: Job, version_id: str, sft: Run, answers: Run, base: Variant, tuned: Variant) -> dict[str, Any]:
    from workbench.evaluation.aggregate import load_grid, paired_difference

    grid = load_grid(job.store, answers)
    shown: list[JsonValue] = []
    for prompt in grid.prompts:
        cells = [grid.cell(prompt.row_id, variant.id) for variant in (base, tuned)]
        if all(cell is not None for cell in cells) and len(shown) < SHOWN_ANSWERS:
            texts = [cell.completion.text for cell in cells if cell is not None]
            shown.append({"prompt": prompt.messages[-1].content, "base": texts[0], "tuned": texts[1]})
    held_out: dict[str, JsonValue] = {}
    chrf: dict[str, JsonValue] = {}
    for key, variant in (("base", base), ("tuned", tuned)):
        summary = grid.summary[variant.id]
        held_out[key] = told_interval(summary.share, key="share") or {
            "share": None,
            "low": None,
            "high": None,
            "n": summary.n,
        }
        chrf[key] = told_interval(summary.metrics.get("chrf"), key="share")
    answered = [grid.cell(prompt.row_id, tuned.id) for prompt in grid.prompts]
    fingerprint = next((cell.completion.fingerprint for cell in answered if cell is not None), None)
    return {
        "version": version_id,
        "run": sft.id,
        "answers_run": answers.id,
        "variants": {"base": base.id, "tuned": tuned.id},
        "adapter_fingerprint": fingerprint,
        "adapter_digest": tuned.adapter_digest,
        "trained_tokens": sft.result.get("trained_tokens"),
        "held_out": held_out,
        "chrf": chrf,
        "chrf_gain": told_interval(paired_difference(grid, base.id, tuned.id, "chrf"), key="share"),
        "answers": shown,
    }
