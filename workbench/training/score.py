"""Score answers with a reward model, as a run: given texts, the answers of a run, or n samples to each prompt.

Best of n asks a variant n times for each prompt and shows what keeping the best would bring: the expected reward of
the best of 1, 2, … n answers, beside how far that moves from the variant, at most log n − (n−1)/n nats (Stiennon et
al. 2020, appendix G.3). Answers are kept as they come, so a stopped run goes on with what is missing. How a variant is
reached is the job's business.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from workbench.errors import DataProblem, NotFound, RunProblem, Stopped, TemplateProblem, UsageError, WorkbenchError
from workbench.job import Job
from workbench.records import (
    Completion,
    Interval,
    Message,
    Record,
    Run,
    RunConfig,
    Sampling,
    Score,
    Variant,
    new_id,
    utc_now,
)
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store
from workbench.store.datasets import find_version, get_version
from workbench.training.configs import in_group
from workbench.training.crank import auto_device
from workbench.training.reward_diagnostics import distribution
from workbench.training.reward_models import RewardModel, RewardScorer, base_of, get_reward_model
from workbench.training.reward_rows import render_answer

if TYPE_CHECKING:
    from workbench.datasets.render import Renderer
    from workbench.generation.client import ChatClient

SCORES = "scores.json"
SCORED_AT_ONCE = 64
LOOK_S = 1.0
ROUNDS = 1000
Mode = Literal["texts", "run", "best_of"]
_WHAT, _HOW = "What to score", "Sampling"


class ScoreConfig(RunConfig):
    """Which reward model scores what: given answers to a prompt, the answers of a run, or n samples of a variant."""

    reward: str = Field(min_length=1, json_schema_extra=in_group(_WHAT))
    """Reward model: the name or id of the run that made it."""
    prompt: str = Field(default="", max_length=100_000, json_schema_extra=in_group(_WHAT))
    """What was asked, as one user turn."""
    answers: tuple[str, ...] = Field(default=(), max_length=256, json_schema_extra=in_group(_WHAT))
    """Answers to the prompt, to score as they are."""
    answers_of: str = Field(default="", json_schema_extra=in_group(_WHAT))
    """Id of a run whose answers are scored: one that answered a prompt set or sampled answers to rank."""
    variant: str = Field(default="", json_schema_extra=in_group(_WHAT))
    """Variant that answers the prompt or prompts n times, to see what keeping the best would bring."""
    prompts: str = Field(default="", json_schema_extra=in_group(_WHAT))
    """Dataset whose prompts the variant answers, instead of the one prompt."""
    limit: int | None = Field(default=8, ge=1, le=10_000, json_schema_extra=in_group(_WHAT))
    """Answer only the first so many prompts of the dataset; all when left out."""
    n: int = Field(default=8, ge=2, le=256, json_schema_extra=in_group(_HOW))
    """Answers to each prompt."""
    temperature: float = Field(default=0.8, gt=0, le=2, json_schema_extra=in_group(_HOW))
    """Higher gives answers that differ more."""
    top_p: float = Field(default=0.95, gt=0, le=1, json_schema_extra=in_group(_HOW))
    """Nucleus share kept."""
    max_tokens: int = Field(default=160, ge=1, le=8192, json_schema_extra=in_group(_HOW))
    """Longest answer, in tokens."""
    seed: int = Field(default=0, ge=0, lt=2**31, json_schema_extra=in_group(_HOW))
    """Seed of each prompt's first answer; the next ones count on from it."""
    concurrency: int = Field(default=16, ge=1, le=256, json_schema_extra=in_group(_HOW, advanced=True))
    """Requests under way at once."""

    @property
    def mode(self) -> Mode:
        """What is scored."""
        return "texts" if self.answers else "run" if self.answers_of else "best_of"

    def sampling(self, number: int) -> Sampling:
        """Settings of a prompt's answer of this number, from 0."""
        told = {name: getattr(self, name) for name in ("temperature", "top_p", "max_tokens")}
        return Sampling(**told, seed=self.seed + number)


def check_what(config: ScoreConfig) -> None:
    """Whether a config names one thing to score; not asked of every config, because a form fills it bit by bit.

    Raises:
        UsageError: it names none or several, or parts that do not go together.
    """
    if sum((bool(config.answers), bool(config.answers_of), bool(config.variant))) != 1:
        raise UsageError(
            "say one thing to score: answers, answers_of or variant",
            place="answers",
            remedy="Give answers with their prompt, the id of a run, or a variant that answers.",
        )
    if config.answers_of and (config.prompt or config.prompts):
        raise UsageError("the answers of a run have prompts of their own", place="answers_of")
    if config.answers and not config.prompt.strip():
        raise UsageError("answers need the prompt they answer", place="prompt", remedy="Say what was asked.")
    if config.answers and config.prompts:
        raise UsageError("given answers answer one prompt", place="prompts", remedy="Leave the dataset out.")
    if config.variant and bool(config.prompt.strip()) == bool(config.prompts):
        raise UsageError("say either a prompt or a dataset of prompts", place="prompt")


def check_score(store: Store, config: ScoreConfig) -> None:
    """What can be told before a score run is launched.

    Raises:
        UsageError: it names not one thing to score, or a run that gives no answers.
        NotFound: reward model, run, variant or dataset are not there.
    """
    check_what(config)
    get_reward_model(store, config.reward)
    if config.answers_of:
        _answers_of(store, config.answers_of)
    if config.variant:
        model_store.get_variant(store, config.variant)
    if config.prompts:
        find_version(store, config.prompts)


class ScoredAnswer(Record):
    """An answer with its reward."""

    text: str
    """The answer."""
    reward: float | None
    """Its score, the bias taken off; None where it cannot be scored."""
    tokens: int = 0
    """Its length for the reward model."""
    completion_id: str | None = None
    """The completion, where it is one."""
    variant_id: str | None = None
    """Who gave it."""
    note: str = ""
    """Why it has no reward, or that it was cut."""


class ScoredPrompt(Record):
    """A prompt with its scored answers."""

    prompt: str
    """What was asked last."""
    row_id: str | None = None
    """The prompt's row, where it comes from a dataset."""
    answers: tuple[ScoredAnswer, ...]
    """In the order in which they were given."""

    @property
    def best(self) -> ScoredAnswer | None:
        """The answer with the highest reward."""
        scored = [answer for answer in self.answers if answer.reward is not None]
        return max(scored, key=lambda answer: answer.reward or 0.0, default=None)


class ScoreReport(Record):
    """What a score run found."""

    run_id: str
    """The run."""
    reward_run_id: str
    """The reward model's run."""
    reward: str
    """The reward model's name."""
    mode: Mode
    """texts, run or best_of."""
    prompts: tuple[ScoredPrompt, ...]
    """Prompts with their answers."""
    means: dict[str, Interval] = {}
    """Mean reward by variant id; `given` for texts."""
    curve: tuple[Interval, ...] = ()
    """Expected reward of the best of 1, 2, … n answers, mean over prompts."""
    kl: tuple[float, ...] = ()
    """How far keeping the best of 1, 2, … n moves from the variant at most, in nats a sequence."""


class Asked(NamedTuple):
    """A prompt to answer n times."""

    row_id: str | None
    messages: tuple[Message, ...]


def score_answers(config: ScoreConfig, job: Job) -> dict[str, Any]:
    """Score what the config names; answers that are completions get the score `reward:<run id>` in the store.

    Args:
        config: what to score, with which reward model.
        job: the run.

    Returns:
        reward_run_id, scored, mean, best (highest reward), and for best of n `expected_best` (reward of the best of n).

    Raises:
        Stopped: stop was asked for; answers so far are kept.
        RunProblem: not one answer could be had or scored, or a score is no number.
        NotFound: the reward model, run, variant or dataset is not there.
    """
    check_what(config)
    reward = pin_reward(config, job)
    model = base_of(job.store, reward)
    if config.mode == "texts":
        given = _given(config)
    elif config.mode == "run":
        given = _of_run(job, config.answers_of)
    else:
        given = _sampled(config, job)

    from workbench.datasets.render import load_renderer
    from workbench.training.crank import failures_in_words

    job.progress(phase="loading the reward model", done=0, total=len(given), unit="answers")
    with failures_in_words():
        scorer = RewardScorer.load(reward, model, *auto_device())
        scored = score_completions(given, scorer, load_renderer(model.path or ""), reward, job)
    if config.mode != "texts":
        answer_store.add_scores(
            job.store,
            [
                Score(completion_id=each.completion_id, scorer=f"reward:{reward.run_id}", value=each.reward)
                for each in scored
                if each.completion_id is not None and each.reward is not None
            ],
        )
    report = make_report(config, job.run_id, reward, given, scored)
    aside = job.folder / f"{SCORES}.partial"
    aside.write_text(report.model_dump_json(), encoding="utf-8")
    os.replace(aside, job.folder / SCORES)
    rewards = [each.reward for each in scored if each.reward is not None]
    if not rewards:
        raise RunProblem(
            f"not one of {len(scored)} answers could be scored: {scored[0].note if scored else 'there is none'}",
            place=reward.name,
            remedy="Shorten the prompt, or train a reward model with a larger max_length.",
        )
    return {
        "reward_run_id": reward.run_id,
        "scored": len(rewards),
        "mean": statistics.fmean(rewards),
        "best": max(rewards),
        "expected_best": report.curve[-1].value if report.curve else None,
    }


def pin_reward(config: ScoreConfig, job: Job) -> RewardModel:
    """The reward model that the config named at the run's first start."""
    pinned = run_store.get_run(job.store, job.run_id).result.get("reward_run_id")
    reward = get_reward_model(job.store, pinned if isinstance(pinned, str) else config.reward)
    job.result(reward_run_id=reward.run_id)
    return reward


# What is scored -----------------------------------------------------------------------------------------------------


def _given(config: ScoreConfig) -> list[Completion]:
    asked = (Message(role="user", content=config.prompt),)
    return [
        Completion(id="", variant_id="", prompt=asked, text=text, sampling=Sampling(), created_at=utc_now())
        for text in config.answers
    ]


def _of_run(job: Job, reference: str) -> list[Completion]:
    run, found = _answers_of(job.store, reference)
    job.result(answers_run_id=run.id)
    return found


def _answers_of(store: Store, reference: str) -> tuple[Run, list[Completion]]:
    run = run_store.get_run(store, reference)
    found = [each for each in answer_store.list_completions(store, run_id=run.id) if each.error is None]
    if not found:
        raise DataProblem(
            "this run has no answers",
            place=run.name,
            value=run.kind,
            remedy="Choose a run that answered a prompt set or sampled answers to rank.",
        )
    return run, found


def _sampled(config: ScoreConfig, job: Job) -> list[Completion]:
    variant = _pin_variant(config, job)
    asked = _asked(config, job)
    known = {
        (each.row_id, each.sampling.seed)
        for each in answer_store.list_completions(job.store, run_id=job.run_id)
        if each.error is None
    }
    missing = [
        (prompt, config.sampling(number))
        for prompt in asked
        for number in range(config.n)
        if (prompt.row_id, config.seed + number) not in known
    ]
    first_error = _ask_all(config, job, variant, missing, total=len(asked) * config.n)
    found = [each for each in answer_store.list_completions(job.store, run_id=job.run_id) if each.error is None]
    if not found:
        raise RunProblem(
            f"not one of {len(asked) * config.n} requests got an answer; the first said: {first_error}",
            place=variant.name,
            remedy="Check that it answers in the Playground, then resume the run.",
        )
    place = {prompt.row_id: number for number, prompt in enumerate(asked)}
    return sorted(found, key=lambda each: (place.get(each.row_id, len(place)), each.sampling.seed or 0))


def _pin_variant(config: ScoreConfig, job: Job) -> Variant:
    pinned = run_store.get_run(job.store, job.run_id).result.get("variant_id")
    variant = model_store.get_variant(job.store, pinned if isinstance(pinned, str) else config.variant)
    job.result(variant_id=variant.id)
    return variant


def _asked(config: ScoreConfig, job: Job) -> list[Asked]:
    """The prompts to answer; those of a dataset in its order, each once."""
    from workbench.datasets.versions import iter_rows
    from workbench.training.rl_prompts import prompt_of

    if not config.prompts:
        return [Asked(None, (Message(role="user", content=config.prompt),))]
    pinned = run_store.get_run(job.store, job.run_id).result.get("version_id")
    version = get_version(job.store, pinned) if isinstance(pinned, str) else find_version(job.store, config.prompts)[1]
    job.result(version_id=version.id)
    found: dict[tuple[Message, ...], Asked] = {}
    for row in iter_rows(job.store, version):
        messages = prompt_of(row.payload)
        if messages:
            found.setdefault(messages, Asked(row.row_id, messages))
        if config.limit is not None and len(found) >= config.limit:
            break
    if not found:
        raise DataProblem("no row has a prompt to answer", place=config.prompts, remedy="Choose another dataset.")
    return list(found.values())


def _ask_all(
    config: ScoreConfig, job: Job, variant: Variant, missing: Sequence[tuple[Asked, Sampling]], *, total: int
) -> str:
    """Ask for what is missing, `concurrency` requests at once; each answer is kept when it comes.

    Returns:
        What the first failure said; empty where there was none.

    Raises:
        Stopped: stop was asked for; what was under way is kept.
    """
    done, first_error, stopping = total - len(missing), "", False
    job.progress(phase="starting the model", done=done, total=total, unit="answers")
    if not missing:
        return ""
    queue: Iterator[tuple[Asked, Sampling]] = iter(missing)
    under_way: set[Future[Completion]] = set()
    with closing(_connect(job, variant)) as client, ThreadPoolExecutor(config.concurrency) as pool:
        job.progress(phase="answering")
        while True:
            while not stopping and len(under_way) < config.concurrency and (one := next(queue, None)) is not None:
                under_way.add(pool.submit(_ask, client, job.run_id, variant, *one))
            if not under_way:
                break
            finished, under_way = wait(under_way, timeout=LOOK_S, return_when=FIRST_COMPLETED)
            given = [future.result() for future in finished]
            answer_store.add_completions(job.store, given)
            for completion in given:
                if completion.error is not None:
                    first_error = first_error or completion.error
                    job.log(f"no answer: {completion.error}")
            done += len(given)
            job.progress(done=done)
            if not stopping and job.should_stop():
                stopping = True
                job.progress(phase="finishing the answers under way")
    if stopping:
        raise Stopped("stopped as asked; what is answered is kept", remedy="Resume the run to answer the rest.")
    return first_error


def _connect(job: Job, variant: Variant) -> ChatClient:
    from workbench.generation.client import ChatClient

    base_url, key, name = job.variant_endpoint(variant)
    capabilities = {}
    if variant.server_id is not None:
        capabilities = model_store.get_server(job.store, variant.server_id).capabilities
    verified = variant.server_id is None
    return ChatClient(base_url, key, name, variant, verified=verified, capabilities=capabilities)


def _ask(client: ChatClient, run_id: str, variant: Variant, asked: Asked, sampling: Sampling) -> Completion:
    place = {"run_id": run_id, "row_id": asked.row_id, "variant_id": variant.id}
    try:
        return client.complete(asked.messages, sampling).model_copy(update=place)
    except WorkbenchError as error:
        return Completion(
            id=new_id("cmp"), prompt=asked.messages, text="", sampling=sampling, finish_reason="error",
            error=error.sentence(), created_at=utc_now(), **place,
        )  # fmt: skip


# Scoring ------------------------------------------------------------------------------------------------------------


def score_completions(
    completions: Sequence[Completion], scorer: RewardScorer, renderer: Renderer, reward: RewardModel, job: Job
) -> list[ScoredAnswer]:
    """Score answers in the order given; one that cannot be rendered, or whose prompt fills the length, says so.

    Raises:
        Stopped: stop was asked for.
        RunProblem: a score is no number.
    """
    found: list[ScoredAnswer] = []
    job.progress(phase="scoring", done=0, total=len(completions), unit="answers")
    for start in range(0, len(completions), SCORED_AT_ONCE):
        job.checkpoint_or_stop()
        part = completions[start : start + SCORED_AT_ONCE]
        rows = [_render(renderer, each, reward.max_length) for each in part]
        rewards = iter(scorer.score([ids for ids, tokens, _ in rows if tokens]))
        for completion, (_, tokens, note) in zip(part, rows, strict=True):
            found.append(
                ScoredAnswer(
                    text=completion.text,
                    reward=next(rewards) if tokens else None,
                    tokens=tokens,
                    completion_id=completion.id or None,
                    variant_id=completion.variant_id or None,
                    note=note,
                )
            )
        job.progress(done=len(found))
    return found


def _render(renderer: Renderer, completion: Completion, max_length: int) -> tuple[tuple[int, ...], int, str]:
    """Token ids, the answer's number of tokens (0 where it cannot be scored), and what is to be said of it."""
    said = (Message(role="assistant", content=completion.text),)
    try:
        ids, tokens = render_answer(renderer, completion.prompt, said, max_length)
        if not tokens:
            return ids, 0, f"the prompt alone fills the {max_length} tokens that the reward model reads"
        cut = len(ids) >= max_length and ids[-1] not in renderer.stop_ids
        return ids, tokens, f"cut to {max_length} tokens" if cut else ""
    except TemplateProblem as problem:
        return (), 0, problem.what


def make_report(
    config: ScoreConfig,
    run_id: str,
    reward: RewardModel,
    completions: Sequence[Completion],
    scored: Sequence[ScoredAnswer],
) -> ScoreReport:
    """Scored answers by prompt, with means and, for best of n, the curve."""
    groups: dict[tuple[str | None, tuple[Message, ...]], list[ScoredAnswer]] = {}
    by_writer: dict[str, list[float]] = {}
    for completion, each in zip(completions, scored, strict=True):
        groups.setdefault((completion.row_id, completion.prompt), []).append(each)
        if each.reward is not None:
            by_writer.setdefault(each.variant_id or "given", []).append(each.reward)
    prompts = [
        ScoredPrompt(prompt=messages[-1].content, row_id=row_id, answers=tuple(group))
        for (row_id, messages), group in groups.items()
    ]
    rewards = [[each.reward for each in prompt.answers if each.reward is not None] for prompt in prompts]
    curve = best_of_curve([told for told in rewards if told]) if config.mode == "best_of" and any(rewards) else []
    return ScoreReport(
        run_id=run_id,
        reward_run_id=reward.run_id,
        reward=reward.name,
        mode=config.mode,
        prompts=tuple(prompts),
        means={writer: distribution(told).mean for writer, told in by_writer.items()},
        curve=tuple(curve),
        kl=tuple(best_of_kl(n) for n in range(1, len(curve) + 1)),
    )


def expected_best(rewards: Sequence[float], n: int) -> float:
    """Expected highest reward among n answers drawn from these without putting back: Σ C(i−1, n−1) / C(N, n) · r₍ᵢ₎.

    An unbiased estimate of what the best of n new answers brings.

    Args:
        rewards: of N answers.
        n: at least 1, at most N.
    """
    ordered = sorted(rewards)
    ways = math.comb(len(ordered), n)
    return sum(math.comb(place, n - 1) / ways * reward for place, reward in enumerate(ordered) if place >= n - 1)


def best_of_kl(n: int) -> float:
    """Upper bound on the KL divergence of best-of-n from the variant, in nats: log n − (n−1)/n."""
    return math.log(n) - (n - 1) / n


def best_of_curve(rewards: Sequence[Sequence[float]], *, seed: int = 0) -> list[Interval]:
    """Expected reward of the best of 1, 2, … N answers, mean over prompts, N being the fewest answers of a prompt.

    The interval is a bootstrap over prompts; of a single prompt over its answers.

    Args:
        rewards: for each prompt those of its answers, at least one.
        seed: same seed, same intervals.
    """
    most = min(len(told) for told in rewards)
    dice = np.random.default_rng(seed)
    if len(rewards) > 1:
        table = np.array([[expected_best(told, n) for n in range(1, most + 1)] for told in rewards])
        drawn = table[dice.integers(0, len(rewards), size=(ROUNDS, len(rewards)))].mean(axis=1)
        values = table.mean(axis=0)
    else:
        told = np.asarray(rewards[0], dtype=np.float64)
        shares = np.array(
            [[math.comb(place, n - 1) / math.comb(most, n) for place in range(most)] for n in range(1, most + 1)]
        )
        values = shares @ np.sort(told)
        drawn = np.sort(told[dice.integers(0, most, size=(ROUNDS, most))], axis=1) @ shares.T
    lows, highs = np.quantile(drawn, [0.025, 0.975], axis=0)
    return [
        Interval(
            value=float(value), low=min(float(low), float(value)), high=max(float(high), float(value)), n=len(rewards)
        )
        for value, low, high in zip(values, lows, highs, strict=True)
    ]


def read_scores(store: Store, run_id: str) -> ScoreReport:
    """What a score run found.

    Raises:
        NotFound: there is no such run, or it has found nothing (yet).
    """
    run_store.get_run(store, run_id)
    try:
        return ScoreReport.model_validate_json((store.settings.run_dir(run_id) / SCORES).read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise NotFound("this run has no scores", value=run_id, remedy="A score run writes them at its end.") from error
