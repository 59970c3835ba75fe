"""Answer a prompt set with several variants, as a run.

Every answer is kept as soon as it is there, and scored at once, so a run that is stopped or killed goes on with what is
missing. Prompts of all variants are asked in turn, so that one engine answers base and adapters in the same batches.
How a variant is reached is the job's business; how text is asked for, the client's; what an answer is worth, `scorers`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field, field_validator

from workbench.errors import RunProblem, Stopped, WorkbenchError
from workbench.evaluation.aggregate import VariantSummary, build_grid
from workbench.evaluation.prompts import AnswerPlan, GridPrompt, plan_answers, read_prompts
from workbench.job import Job
from workbench.records import Completion, Message, RunConfig, Sampling, Variant, new_id, utc_now
from workbench.scoring.scorers import score_completion
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.store import runs as run_store

if TYPE_CHECKING:
    from workbench.generation.client import ChatClient

_SAVE_EVERY = 8
_SAVE_AFTER_S = 1.0


class AnswerConfig(RunConfig):
    """Which prompts are answered, by whom, with which sampling settings and scorers."""

    prompts: str = Field(min_length=1)
    """Prompt set: dataset name, `name@version` or id. Instructions serve too: a row's last answer is the reference."""
    variants: tuple[str, ...] = Field(min_length=1)
    """Variants that answer, by name or id."""
    limit: int | None = Field(default=None, ge=1)
    """Answer only the first so many prompts; all when left out."""
    system: str = ""
    """System prompt for conversations that have none."""
    scorers: tuple[str, ...] = ("auto",)
    """What judges the answers; `auto` takes the rules of the prompt set's kit, and chrF where there are references."""
    temperature: float = Field(default=0.0, ge=0, le=2, json_schema_extra={"group": "Sampling"})
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1, json_schema_extra={"group": "Sampling"})
    """Nucleus share kept."""
    top_k: int = Field(default=0, ge=0, json_schema_extra={"group": "Sampling"})
    """Most likely tokens kept; 0 keeps all."""
    max_tokens: int = Field(default=160, ge=1, le=8192, json_schema_extra={"group": "Sampling"})
    """Longest answer, in tokens."""
    seed: int = Field(default=0, ge=0, lt=2**63, json_schema_extra={"group": "Sampling"})
    """Same seed, settings and prompt give the same text."""
    stop: tuple[str, ...] = Field(default=(), json_schema_extra={"group": "Sampling"})
    """Texts that end the answer; not part of it."""
    presence_penalty: float = Field(default=0.0, ge=-2, le=2, json_schema_extra={"group": "Sampling", "advanced": True})
    """Subtracted once from the logit of each token already in the answer."""
    frequency_penalty: float = Field(
        default=0.0, ge=-2, le=2, json_schema_extra={"group": "Sampling", "advanced": True}
    )
    """Subtracted from a token's logit for each time it stands in the answer."""
    concurrency: int = Field(default=16, ge=1, le=256, json_schema_extra={"advanced": True})
    """Requests under way at once."""

    @field_validator("variants", "scorers")
    @classmethod
    def _drop_repeats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @property
    def sampling(self) -> Sampling:
        """The sampling settings."""
        return Sampling(**{name: getattr(self, name) for name in Sampling.model_fields})


def answer_prompts(config: AnswerConfig, job: Job) -> dict[str, Any]:
    """Answer every prompt with every variant; keep and score each answer as it comes.

    Args:
        config: what to answer and how.
        job: the run.

    Returns:
        `answers` (the plan), `summary` {variant id: figures, see `summary_figures`} and `failed` (requests).

    Raises:
        Stopped: stop was asked for; what is answered is kept.
        RunProblem: not one request got an answer.
    """
    store = job.store
    plan = pin_plan(config, job)
    prompts = read_prompts(store, plan)
    variants = [model_store.get_variant(store, variant) for variant in plan.variants]
    answered = {
        (known.row_id, known.variant_id)
        for known in answer_store.list_completions(store, run_id=job.run_id)
        if known.error is None
    }
    total = len(prompts) * len(variants)
    missing = [
        Request(prompt, variant, config.sampling)
        for prompt in prompts
        for variant in variants
        if (prompt.row_id, variant.id) not in answered
    ]
    intake = Intake(job, plan.scorers, done=total - len(missing), total=total)
    ask_all(config, job, intake, missing)
    grid = build_grid(
        run_id=job.run_id,
        prompts=prompts,
        variants=variants,
        completions=answer_store.list_completions(store, run_id=job.run_id),
        scores=answer_store.list_scores(store, job.run_id),
    )
    if not any(summary.n for summary in grid.summary.values()):
        raise RunProblem(
            f"not one of {total} requests got an answer; the first said: {intake.first_error}",
            place=config.prompts,
            remedy="Check that the model or server answers in the Playground, then resume the run.",
        )
    return {
        "answers": plan.model_dump(mode="json"),
        "summary": {variant: summary_figures(summary) for variant, summary in grid.summary.items()},
        "failed": sum(summary.failed for summary in grid.summary.values()),
    }


def summary_figures(summary: VariantSummary) -> dict[str, Any]:
    """A variant's figures as flat JSON: `share`, `low`, `high`, `n`, `chrf`, …; None where there is no figure."""
    share = summary.share
    figures: dict[str, Any] = {
        "name": summary.name,
        "n": summary.n,
        "failed": summary.failed,
        "share": share.value if share else None,
        "low": share.low if share else None,
        "high": share.high if share else None,
        "rules": {rule: interval.value for rule, interval in summary.rules.items()},
        "mean_tokens": summary.mean_tokens.value if summary.mean_tokens else None,
        "tokens_per_s": summary.tokens_per_s,
        "empty": summary.empty.value if summary.empty else None,
        "unfinished": summary.unfinished.value if summary.unfinished else None,
    }
    for metric, interval in summary.metrics.items():
        figures |= {metric: interval.value, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
    return figures


def pin_plan(config: AnswerConfig, job: Job) -> AnswerPlan:
    """The plan of the first start, so that a version or variant name that moved since changes nothing."""
    pinned = run_store.get_run(job.store, job.run_id).result.get("answers")
    if isinstance(pinned, dict):
        return AnswerPlan.model_validate(pinned)
    plan = plan_answers(
        job.store, prompts=config.prompts, variants=config.variants, limit=config.limit, scorers=config.scorers
    )
    job.result(answers=plan.model_dump(mode="json"))
    return plan


def _connect(job: Job, variant: Variant) -> ChatClient:
    from workbench.generation.client import ChatClient

    base_url, key, model = job.variant_endpoint(variant)
    capabilities = {}
    if variant.server_id is not None:
        capabilities = model_store.get_server(job.store, variant.server_id).capabilities
    return ChatClient(
        base_url=base_url,
        key=key,
        model=model,
        variant=variant,
        verified=variant.server_id is None,
        capabilities=capabilities,
    )


class Request(NamedTuple):
    """One question to one variant."""

    prompt: GridPrompt
    variant: Variant
    sampling: Sampling


def ask_all(config: AnswerConfig, job: Job, intake: Intake, requests: Sequence[Request]) -> None:
    """Ask everything, `concurrency` requests at once; answers arrive at the intake and are safe from then on.

    Raises:
        Stopped: stop was asked for; what was under way is kept.
    """
    intake.tell("starting the models")
    if not requests:
        return
    with ExitStack() as stack:
        variants = {request.variant.id: request.variant for request in requests}
        clients = {key: stack.enter_context(closing(_connect(job, variant))) for key, variant in variants.items()}
        intake.tell("answering")
        _keep_asking(config, job, intake, requests, clients)


def _keep_asking(
    config: AnswerConfig,
    job: Job,
    intake: Intake,
    requests: Sequence[Request],
    clients: Mapping[str, ChatClient],
) -> None:
    """Keep `concurrency` requests under way until none is left or stop is asked for."""
    queue: Iterator[Request] = iter(requests)
    under_way: dict[Future[Completion], GridPrompt] = {}
    stopping = False
    with ThreadPoolExecutor(config.concurrency, thread_name_prefix="answer") as pool:
        try:
            while True:
                while not stopping and len(under_way) < config.concurrency:
                    request = next(queue, None)
                    if request is None:
                        break
                    client = clients[request.variant.id]
                    under_way[pool.submit(_ask, config, job.run_id, request, client)] = request.prompt
                if not under_way:
                    break
                finished, _ = wait(under_way, timeout=_SAVE_AFTER_S, return_when=FIRST_COMPLETED)
                for future in finished:
                    intake.take(under_way.pop(future), future.result())
                intake.save(force=False)
                if not stopping and job.should_stop():
                    stopping = True
                    intake.tell("finishing the answers under way")
        finally:
            intake.save(force=True)
    if stopping:
        raise Stopped("stopped as asked; what is answered is kept", remedy="Resume the run to answer the rest.")


def _ask(config: AnswerConfig, run_id: str, request: Request, client: ChatClient) -> Completion:
    """One request; a failure becomes an answer that says why."""
    messages = request.prompt.messages
    if config.system.strip() and messages[0].role != "system":
        messages = (Message(role="system", content=config.system), *messages)
    place = {"run_id": run_id, "row_id": request.prompt.row_id, "variant_id": request.variant.id}
    try:
        return client.complete(messages, request.sampling).model_copy(update=place)
    except WorkbenchError as error:
        return Completion(
            id=new_id("cmp"),
            prompt=messages,
            text="",
            sampling=request.sampling,
            finish_reason="error",
            error=error.sentence(),
            created_at=utc_now(),
            **place,
        )


class Intake:
    """Where answers arrive: scored at once, stored in small batches, counted. Used by the job's own thread only."""

    def __init__(self, job: Job, scorers: Sequence[str], *, done: int, total: int) -> None:
        self.first_error = ""
        self._job, self._scorers = job, scorers
        self._done, self._total = done, total
        self._tokens, self._failed = 0, 0
        self._began = self._saved_at = time.monotonic()
        self._waiting: list[tuple[Completion, str | None]] = []

    def take(self, prompt: GridPrompt, completion: Completion) -> None:
        """Count an answer and hold it until the next save."""
        self._waiting.append((completion, prompt.reference))
        self._tokens += completion.tokens
        if completion.error is None:
            self._done += 1
        else:
            self._failed += 1
            self.first_error = self.first_error or completion.error
            self._job.log(f"no answer to {prompt.row_id}: {completion.error}")

    def save(self, *, force: bool) -> None:
        """Write what is held once it is enough or old enough, and tell how far the work is."""
        if not self._waiting:
            return
        now = time.monotonic()
        if not force and len(self._waiting) < _SAVE_EVERY and now - self._saved_at < _SAVE_AFTER_S:
            return
        scores = [score_completion(name, *held) for held in self._waiting for name in self._scorers]
        answer_store.add_completions(self._job.store, [completion for completion, _ in self._waiting])
        answer_store.add_scores(self._job.store, [score for score in scores if score is not None])
        self._waiting, self._saved_at = [], now
        self.tell()

    def tell(self, phase: str | None = None) -> None:
        """Tell how far the work is."""
        pace = self._tokens / max(time.monotonic() - self._began, 1e-6)
        note = f"{pace:.0f} tokens/s" if self._tokens else ""
        if self._failed:
            note += f", {self._failed} failed"
        done = self._done + self._failed
        self._job.progress(phase, done=done, total=self._total, unit="answers", note=note)
