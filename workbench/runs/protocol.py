"""InstructGPT's three stages on a starter kit, and DPO beside them: fine-tune → rankings → reward → reinforce, again.

Rankings, reward and reinforcement are gone through in rounds, as the paper iterates them: from the second round on the
answers of the policy before are ranked beside the fine-tuned model's, so that the next reward has seen where the last
one led. Each round learns from all rankings so far, and reinforces the fine-tuned model anew.

The kit's scorer stands in for the people who rank, so that the whole loop can be measured by itself; its rankings are
labelled as a scorer's. Demonstrations and prompts to rank are two parts of the kit's training rows; figures come from
its held-out prompts, which no stage sees. The first stage is kept short on purpose: a model that already keeps every
rule leaves nothing to reinforce. With rankings by people the same is done page by page; see the guide.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import JsonValue

from workbench.job import Job
from workbench.records import DatasetKind, Example, Model, Payload, Prompt, Run, Variant, Version
from workbench.runs.parts import base_variant, ready_model, run_part, told_interval
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store

if TYPE_CHECKING:
    from workbench.evaluation.aggregate import AnswerGrid
    from workbench.runs.tour import TourConfig

RANKED_SHARE = 0.4
"""Share of the kit's training prompts that are ranked and reinforced on instead of demonstrated."""
PAIRS_HELD_OUT = 0.15
"""Share of the ranked prompts whose pairs the reward's accuracy is measured on."""
WATCHED_SHARE = 0.3
"""Share of the ranked prompts that reinforcement does not learn from: on these its reward is held against the scorer,
and a fall of ten points takes some thirty prompts to be told from chance."""
ANSWER_TOKENS = 96
QUICK = {"sft_tokens": 2_000, "ranked_prompts": 12, "steps": 4, "prompts": 12, "rounds": 1}
SEEDS_APART = 1_000
"""Between the seeds of two rounds, so that no answer is drawn twice."""


def take_protocol(config: TourConfig, job: Job) -> Mapping[str, Any]:
    """Go through the stages, each a run of its own.

    Args:
        config: which kit, and how much of it.
        job: the tour's own run.

    Returns:
        One document: `stages` (base, sft, rloo, rloo_2 …, dpo: variant, share of answers that keep every rule, mean
        share of rules kept, chrF, KL to the fine-tuned model, seconds), `gains` over the fine-tuned model with paired
        intervals, `rounds` (each one's rankings and reward), `reward` (held-out pair accuracy, number of pairs) and
        `rankings` of the last round, and three answers.

    Raises:
        RunProblem: one of the runs ended badly; its message is passed on.
        DataProblem: the scorer preferred no answer to another.
    """
    from workbench.datasets.starter import install_kit

    began = time.monotonic()
    size = _size(config)
    model = ready_model(config.model, job)
    job.progress("installing the starter kit")
    train, held_out = install_kit(job.store, config.kit)
    shown, asked = _parts_of(job, config.kit, train)
    scorer = _scorer(job, held_out)
    name = f"InstructGPT tour, {config.kit}"
    base = base_variant(job, model)

    sft_spec: dict[str, Any] = {
        "dataset": shown.id, "model": model.id, "preset": "quick", "max_tokens": size["sft_tokens"],
        "name": f"{name}: fine-tuned",
    }  # fmt: skip
    sft_run = run_part(job, "training", "sft", sft_spec, sft_spec["name"])
    sft = _variant(job, sft_run)
    rounds = _rounds(config, job, model, asked, sft, scorer, size, name)
    last = rounds[-1]
    dpo_spec: dict[str, Any] = {
        "dataset": last.pairs["train"], "held_out": last.pairs["held_out"], "model": model.id, "adapter": sft.id,
        "preset": "quick", "name": f"{name}: DPO",
    }  # fmt: skip
    dpo_run = run_part(job, "dpo", "dpo", dpo_spec, dpo_spec["name"])

    runs = {"sft": sft_run, **{stage_of(each.number): each.rloo for each in rounds}, "dpo": dpo_run}
    made = {"base": base} | {stage: _variant(job, run) for stage, run in runs.items()}
    answer_spec: dict[str, Any] = {
        "prompts": held_out.id, "variants": [variant.id for variant in made.values()], "limit": size["prompts"],
        "scorers": [scorer, "chrf"], "temperature": 0.0, "max_tokens": 120,
    }  # fmt: skip
    answers = run_part(job, "answering", "answer", answer_spec, f"{name}: held-out answers")
    moved = {
        stage: _divergence(job, stage, made[stage], made["base" if stage == "sft" else "sft"], held_out, size, name)
        for stage in runs
    }
    job.progress("summing up")
    document = _document(job, answers, made, runs, moved, scorer)
    return document | {
        "protocol": "instructgpt",
        "kit": config.kit,
        "scorer": scorer,
        "rankings": last.rankings,
        "reward": _reward_figures(last.reward),
        "rounds": [_round_figures(each) for each in rounds],
        "parts": {"demonstrations": shown.rows, "prompts_to_rank": asked.rows, "held_out": held_out.rows},
        "answers_run": answers.id,
        "seconds": round(time.monotonic() - began, 1),
        "quick": config.quick,
    }


class Round(NamedTuple):
    """One pass through rankings, reward and reinforcement."""

    number: int
    """From 1."""
    rankings: dict[str, JsonValue]
    """What was ranked, and what it gave."""
    pairs: dict[str, str | None]
    """Versions of the preferences of this and all earlier rounds: `train` and `held_out`."""
    reward: Run
    """The reward model's run."""
    rloo: Run
    """The reinforcement's run."""


def stage_of(number: int) -> str:
    """What a round's policy goes by: `rloo`, then `rloo_2`, `rloo_3` and so on."""
    return f"rloo{_mark(number)}"


def _mark(number: int) -> str:
    return "" if number == 1 else f"_{number}"


def _rounds(
    config: TourConfig, job: Job, model: Model, asked: Version, sft: Variant, scorer: str, size: Mapping[str, int],
    name: str,
) -> list[Round]:  # fmt: skip
    rounds: list[Round] = []
    for number in range(1, size["rounds"] + 1):
        mark, called = _mark(number), name if number == 1 else f"{name}, round {number}"
        before = [_variant(job, each.rloo) for each in rounds[-1:]]
        queues = [str(each.rankings["queue"]) for each in rounds]
        rankings, pairs = _rank(config, job, asked, [sft, *before], queues, scorer, size, called, number)
        reward_spec: dict[str, Any] = {
            "dataset": pairs["train"], "held_out": pairs["held_out"], "model": model.id, "adapter": sft.id,
            "preset": "quick", "name": f"{called}: reward",
        }  # fmt: skip
        reward = run_part(job, f"reward{mark}", "reward", reward_spec, reward_spec["name"])
        rloo_spec: dict[str, Any] = {
            "dataset": asked.id, "held_out": WATCHED_SHARE, "held_out_prompts": 64, "model": model.id,
            "adapter": sft.id, "reward": reward.id, "watch_scorers": [scorer], "preset": "quick",
            "max_steps": size["steps"], "max_answer_tokens": ANSWER_TOKENS, "eval_every": 0.5,
            "name": f"{called}: RLOO",
        }  # fmt: skip
        rloo = run_part(job, f"reinforcing{mark}", "rloo", rloo_spec, rloo_spec["name"])
        rounds.append(Round(number, rankings, pairs, reward, rloo))
    return rounds


def _round_figures(each: Round) -> dict[str, JsonValue]:
    return {"round": each.number, "rankings": each.rankings, "reward": _reward_figures(each.reward)}


def _size(config: TourConfig) -> dict[str, int]:
    given = {name: int(getattr(config, name)) for name in QUICK}
    return {name: min(value, QUICK[name]) for name, value in given.items()} if config.quick else given


def _parts_of(job: Job, kit: str, train: Version) -> tuple[Version, Version]:
    """The kit's rows to demonstrate and its prompts to rank: two datasets, the same ones at each call."""
    from workbench.datasets.versions import iter_rows, split_held_out

    rows = list(iter_rows(job.store, train))
    apart = set(split_held_out(rows, RANKED_SHARE, seed=0)[1])
    title = dataset_store.get_dataset(job.store, train.dataset_id).name.removesuffix(" (train)")
    shown = [row.payload for row in rows if row.row_id not in apart]
    asked = [_as_prompt(row.payload) for row in rows if row.row_id in apart]
    return (
        _dataset(job, f"{title} (demonstrations)", "instructions", shown, kit, train),
        _dataset(job, f"{title} (prompts to rank)", "prompts", asked, kit, train),
    )


def _as_prompt(payload: Payload) -> Prompt:
    assert isinstance(payload, Example)  # a kit's training rows are examples
    *asked, answer = payload.messages
    return Prompt(messages=tuple(asked), reference=answer.content, meta=payload.meta)


def _dataset(job: Job, name: str, kind: DatasetKind, rows: list[Any], kit: str, train: Version) -> Version:
    from workbench.datasets.versions import write_version

    provenance = {"kit": kit, "part_of": train.id}
    for dataset in dataset_store.list_datasets(job.store, kind=kind, archived=True):
        version = dataset_store.latest_version(job.store, dataset.id)
        if version is not None and version.provenance == provenance:
            return version
    taken = {dataset.name for dataset in dataset_store.list_datasets(job.store, archived=True)}
    made = dataset_store.create_dataset(
        job.store, model_store.unused_name(taken, name), kind, description="A part of a starter kit.", tags=("starter",)
    )
    return write_version(job.store, made.id, rows, message="A part of the starter kit", provenance=provenance)


def _scorer(job: Job, held_out: Version) -> str:
    """The kit's rule scorer; chrF against the references where it has none."""
    from workbench.evaluation.prompts import kit_scorers

    return next(iter(kit_scorers(job.store, held_out)), "chrf")


def _variant(job: Job, run: Run) -> Variant:
    return model_store.get_variant(job.store, str(run.result["variant_id"]))


def _rank(
    config: TourConfig, job: Job, asked: Version, writers: list[Variant], queues: list[str], scorer: str,
    size: Mapping[str, int], name: str, number: int,
) -> tuple[dict[str, JsonValue], dict[str, str | None]]:  # fmt: skip
    """Sample answers, let the scorer rank them, and make preferences of these and all earlier rankings."""
    from workbench.evaluation.rank_by_scorer import rank_by_scorer
    from workbench.preferences.pairs import build_preferences

    spec = {
        "prompts": asked.id, "variants": [writer.id for writer in writers], "answers": config.answers,
        "limit": size["ranked_prompts"], "temperature": 1.0, "top_p": 1.0, "max_tokens": ANSWER_TOKENS,
        "seed": SEEDS_APART * (number - 1), "scorers": [scorer], "queue": f"{name}, ranked",
        "guidelines": "Ranked by the kit's scorer, not by people.",
    }  # fmt: skip
    sampled = run_part(job, f"sampling{_mark(number)}", "sample", spec, f"{name}: answers to rank")
    job.progress("ranking by the scorer")
    queue = str(sampled.result["queue_id"])
    rank_by_scorer(job.store, queue, scorer)
    title = f"{name}, preferences {job.run_id[-6:]}"
    built = build_preferences(job.store, [*queues, queue], title, held_out=PAIRS_HELD_OUT)
    told: dict[str, JsonValue] = {
        "queue": queue,
        "source": "scorer",
        "rankings": built.rankings,
        "answers": config.answers,
        "pairs": built.train.rows,
        "held_out_pairs": built.held_out.rows if built.held_out else 0,
        "version": built.train.id,
    }
    job.result(**{f"rankings{_mark(number)}": told})
    return told, {"train": built.train.id, "held_out": built.held_out.id if built.held_out else None}


def _divergence(
    job: Job, stage: str, variant: Variant, reference: Variant, held_out: Version, size: Mapping[str, int], name: str
) -> Run:
    """How far a stage moved: the fine-tuned model from the base, the others from the fine-tuned model."""
    spec = {
        "variant": variant.id, "reference": reference.id, "prompts": held_out.id,
        "limit": min(32, size["prompts"]), "max_tokens": ANSWER_TOKENS,
    }  # fmt: skip
    return run_part(job, f"kl_{stage}", "kl", spec, f"{name}: KL of {stage}")


def _reward_figures(run: Run) -> dict[str, JsonValue]:
    made = run.result.get("reward")
    told = made if isinstance(made, dict) else {}
    return {
        "run": run.id,
        "accuracy": told.get("accuracy"),
        "bias": told.get("bias"),
        "pairs": told.get("pairs"),
        "eval_loss": run.result.get("eval_loss"),
        "seconds": run.result.get("seconds"),
    }


def _document(
    job: Job, answers: Run, made: Mapping[str, Variant], runs: Mapping[str, Run], moved: Mapping[str, Run], scorer: str
) -> dict[str, Any]:
    from workbench.evaluation.aggregate import load_grid

    grid = load_grid(job.store, answers)
    stages: list[JsonValue] = []
    for stage, variant in made.items():
        summary, run = grid.summary[variant.id], runs.get(stage)
        kl = moved[stage].result if stage in moved else {}
        stages.append(
            {
                "stage": stage,
                "variant": variant.id,
                "run": run.id if run else None,
                "share": told_interval(summary.share),
                "score": told_interval(summary.metrics.get(scorer)),
                "chrf": told_interval(summary.metrics.get("chrf")),
                "kl_sequence": kl.get("kl_sequence"),
                "kl_token": kl.get("kl_token"),
                "seconds": run.result.get("seconds") if run else None,
            }
        )
    return {
        "stages": stages,
        "gains": _gains(grid, made, scorer),
        "variants": {stage: variant.id for stage, variant in made.items()},
        "samples": _samples(grid, made),
    }


def _gains(grid: AnswerGrid, made: Mapping[str, Variant], scorer: str) -> dict[str, JsonValue]:
    """How far each later stage stands above the fine-tuned model on the same prompts."""
    from workbench.evaluation.aggregate import paired_difference

    return {
        stage: told_interval(paired_difference(grid, made["sft"].id, variant.id, scorer))
        for stage, variant in made.items()
        if stage not in ("base", "sft")
    }


def _samples(grid: AnswerGrid, made: Mapping[str, Variant], most: int = 3) -> list[JsonValue]:
    shown: list[JsonValue] = []
    for prompt in grid.prompts[:most]:
        cells = {stage: grid.cell(prompt.row_id, variant.id) for stage, variant in made.items()}
        texts: dict[str, JsonValue] = {
            stage: cell.completion.text if cell is not None else None for stage, cell in cells.items()
        }
        shown.append({"prompt": prompt.messages[-1].content, **texts})
    return shown
