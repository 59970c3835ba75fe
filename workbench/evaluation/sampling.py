"""Sample several answers to each prompt of a set, as a run, and make a queue of them for people to rank.

How answers are asked for and kept is `tasks`; what a queue is made of is `workbench.preferences.queues`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from workbench.errors import RunProblem
from workbench.evaluation.prompts import GridPrompt, read_prompts
from workbench.evaluation.tasks import AnswerConfig, Intake, Request, ask_all, pin_plan
from workbench.job import Job
from workbench.preferences.queues import MOST_ANSWERS, create_queue_from
from workbench.records import RankQueue, Variant
from workbench.store import answers as answer_store
from workbench.store import datasets as dataset_store
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store.database import Store


class SampleConfig(AnswerConfig):
    """Which prompts are answered how many times, by whom, and the queue the answers go to."""

    answers: int = Field(default=4, ge=2, le=MOST_ANSWERS)
    """Answers to each prompt. Variants take turns, each with another seed every time."""
    queue: str | None = Field(default=None, min_length=1, max_length=200)
    """Name of the queue; made from the prompt set's when left out."""
    guidelines: str = ""
    """What raters are told to look for."""
    overlap: int = Field(default=1, ge=1, le=20)
    """How many raters see each prompt; more than one lets you measure how far they agree."""
    repeats: float = Field(default=0.0, ge=0, le=0.5)
    """Share of prompts shown to the same rater a second time, unannounced, to see how steady they are."""
    scorers: tuple[str, ...] = ()
    """What judges the answers besides people; none when left out."""
    temperature: float = Field(default=0.8, ge=0, le=2, json_schema_extra={"group": "Sampling"})
    """Higher gives answers that differ more; 0 is greedy and gives one answer a variant."""
    temperatures: tuple[float, ...] = Field(default=(), max_length=9, json_schema_extra={"group": "Sampling"})
    """Several temperatures to take in turn, instead of the one above."""
    top_p: float = Field(default=0.95, gt=0, le=1, json_schema_extra={"group": "Sampling"})
    """Nucleus share kept."""

    @model_validator(mode="after")
    def _answers_can_differ(self) -> Self:
        settings = self.temperatures or (self.temperature,)
        if not all(0 <= each <= 2 for each in settings):
            raise ValueError("a temperature lies between 0 and 2")
        if max(settings) == 0 and self.answers > len(self.variants):
            raise ValueError(
                f"at temperature 0 a variant always gives the same answer, so {len(self.variants)} variant(s) cannot "
                f"give {self.answers} different ones: raise the temperature or add variants"
            )
        return self


def plan_requests(config: SampleConfig, prompts: Sequence[GridPrompt], variants: Sequence[Variant]) -> list[Request]:
    """Who answers what with which settings.

    Variants take turns, from prompt to prompt, so that each gives as many answers as the others whatever K is. A
    variant's first answer to a prompt has the config's seed and first temperature, its second the next ones, and so on:
    all variants answer under the same settings.

    Args:
        config: how many answers, seed and temperatures.
        prompts: the prompts.
        variants: who answers.
    """
    temperatures = config.temperatures or (config.temperature,)
    requests = []
    turn = 0
    for prompt in prompts:
        asked: dict[str, int] = {}
        for _ in range(config.answers):
            variant = variants[turn % len(variants)]
            turn += 1
            times = asked[variant.id] = asked.get(variant.id, -1) + 1
            changes = {"seed": (config.seed + times) % 2**63, "temperature": temperatures[times % len(temperatures)]}
            requests.append(Request(prompt, variant, config.sampling.model_copy(update=changes)))
    return requests


def sample_answers(config: SampleConfig, job: Job) -> dict[str, Any]:
    """Sample K answers to each prompt, then make a queue of them; a resumed run asks only for what is missing.

    Args:
        config: what to sample and how.
        job: the run.

    Returns:
        `queue_id`, `items`, `sampled` (answers), `left_out` (counts, see `MadeItems`) and `failed` (requests).

    Raises:
        Stopped: stop was asked for; what is answered is kept.
        RunProblem: not one request got an answer.
        UsageError: no prompt has two different answers.
    """
    store = job.store
    plan = pin_plan(config, job)
    variants = [model_store.get_variant(store, variant) for variant in plan.variants]
    requests = plan_requests(config, read_prompts(store, plan), variants)
    answered = {
        (known.row_id, known.variant_id, known.sampling)
        for known in answer_store.list_completions(store, run_id=job.run_id)
        if known.error is None
    }
    missing = [each for each in requests if (each.prompt.row_id, each.variant.id, each.sampling) not in answered]
    intake = Intake(job, plan.scorers, done=len(requests) - len(missing), total=len(requests))
    ask_all(config, job, intake, missing)
    completions = answer_store.list_completions(store, run_id=job.run_id)
    given = [completion for completion in completions if completion.error is None]
    if not given:
        raise RunProblem(
            f"not one of {len(requests)} requests got an answer; the first said: {intake.first_error}",
            place=config.prompts,
            remedy="Check that the model or server answers in the Playground, then resume the run.",
        )
    job.progress("making the queue")
    queue = _queue_of_run(store, job.run_id)
    if queue is None:
        source = {
            "run": job.run_id,
            "version": plan.version_id,
            "variants": list(plan.variants),
            "sampling": config.sampling.model_dump(mode="json"),
            "temperatures": list(config.temperatures),
        }
        queue = create_queue_from(
            store, _queue_name(config, store, plan.version_id), given, source=source,
            guidelines=config.guidelines, overlap=config.overlap, repeats=config.repeats,
        )  # fmt: skip
    return {
        "queue_id": queue.id,
        "queue": queue.name,
        "items": rank_store.count_items(store)[queue.id],
        "sampled": len(given),
        "left_out": queue.source.get("left_out"),
        "failed": len(requests) - len(given),
    }


def _queue_of_run(store: Store, run_id: str) -> RankQueue | None:
    """The queue that an earlier start of the run made."""
    queues = rank_store.list_queues(store, archived=True)
    return next((queue for queue in queues if queue.source.get("run") == run_id), None)


def _queue_name(config: SampleConfig, store: Store, version_id: str) -> str:
    taken = {queue.name for queue in rank_store.list_queues(store, archived=True)}
    if config.queue:
        return model_store.unused_name(taken, config.queue)
    dataset_id = dataset_store.get_version(store, version_id).dataset_id
    return model_store.unused_name(taken, dataset_store.get_dataset(store, dataset_id).name)
