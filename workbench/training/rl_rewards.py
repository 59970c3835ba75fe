"""What judges an answer while a policy is reinforced, and the rule for answers that do not end.

A reward model scores through `reward_models.RewardScorer`; any other judge is a class with `score` (see `Reward`),
handed to `rlhf.train_rloo` by whoever calls it. A score that is no number ends the run in words, because one of them
would spoil a whole step.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from workbench.errors import ModelProblem, NotFound, RunProblem, WorkbenchError
from workbench.job import Job
from workbench.records import Model, Record
from workbench.store import models as model_store
from workbench.training.provenance import digest_reading
from workbench.training.rl_configs import RLConfig

if TYPE_CHECKING:
    from workbench.datasets.render import Renderer
    from workbench.training.reward_models import RewardModel
    from workbench.training.rl_prompts import AskedPrompt

PINNED = "reward.json"


@dataclass(frozen=True)
class Answer:
    """An answer that the policy gave."""

    prompt: AskedPrompt
    """What was asked."""
    ids: tuple[int, ...]
    """Its tokens, with the one that ended it."""
    text: str
    """Its text, without control tokens."""
    ended: bool
    """Whether it ended by itself."""


class Reward(Protocol):
    """Whatever can say how good answers are."""

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """One figure an answer, in order; more is better."""


@dataclass(frozen=True)
class Scored:
    """Answers with their scores before and after the end rule."""

    answers: tuple[Answer, ...]
    """The answers."""
    raw: tuple[float, ...]
    """Scores as the reward gave them."""
    rewards: tuple[float, ...]
    """Scores that are learned from."""

    @property
    def ended(self) -> float:
        """Share of answers that ended by themselves."""
        return sum(answer.ended for answer in self.answers) / max(1, len(self.answers))


def apply_end_rule(scores: Sequence[float], ended: Sequence[bool], missing_end_score: float | None) -> list[float]:
    """Replace the score of answers without an end-of-turn token (the "EOS trick" of Huang et al. 2024).

    Args:
        scores: one an answer.
        ended: whether each ended by itself.
        missing_end_score: what replaces the score of one that did not; None keeps it.
    """
    if missing_end_score is None:
        return list(scores)
    return [score if done else missing_end_score for score, done in zip(scores, ended, strict=True)]


def score_answers(reward: Reward, answers: Sequence[Answer], missing_end_score: float | None) -> Scored:
    """Ask a reward for scores, check them, and apply the end rule.

    Raises:
        RunProblem: the reward failed, or gave a score that is no number.
    """
    try:
        raw = [float(score) for score in reward.score(answers)]
    except WorkbenchError as error:
        raise _reward_failed(error.what, error.remedy) from error
    except (OSError, RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise _reward_failed(str(error) or type(error).__name__) from error
    if len(raw) != len(answers):
        raise _reward_failed(f"{len(raw)} scores came back for {len(answers)} answers")
    for score, answer in zip(raw, answers, strict=True):
        if not math.isfinite(score):
            raise RunProblem(
                "the reward of an answer is no number",
                place=f"prompt {answer.prompt.row_id}",
                value=answer.text,
                remedy="The reward model is damaged or its training diverged: score a text with it on its run's page, "
                "then train it again, or resume once it gives numbers.",
            )
    rewards = apply_end_rule(raw, [answer.ended for answer in answers], missing_end_score)
    return Scored(tuple(answers), tuple(raw), tuple(rewards))


def _reward_failed(why: str, remedy: str = "") -> RunProblem:
    return RunProblem(
        f"the reward could not be asked: {why}",
        place="reward",
        remedy=f"{remedy} Put the reward model back and resume; nothing learned so far is lost.".strip(),
    )


@dataclass
class RewardFunction:
    """The reward as TRL calls it; remembers what it scored last."""

    reward: Reward
    """Who judges."""
    renderer: Renderer
    """Of the policy."""
    prompts: Sequence[AskedPrompt]
    """The training prompts; TRL's column `row` counts in them."""
    missing_end_score: float | None
    """See `apply_end_rule`."""
    last: Scored | None = field(default=None, init=False)
    """What was scored last."""
    __name__ = "reward"

    def __call__(self, *, completion_ids: Sequence[Sequence[int]], row: Sequence[int], **_: Any) -> list[float]:
        """Score the answers of one generation, in order."""
        answers = [make_answer(self.prompts[n], ids, self.renderer) for n, ids in zip(row, completion_ids, strict=True)]
        self.last = score_answers(self.reward, answers, self.missing_end_score)
        return list(self.last.rewards)


def make_answer(prompt: AskedPrompt, ids: Sequence[int], renderer: Renderer) -> Answer:
    """An answer from its tokens.

    Args:
        prompt: what was asked.
        ids: tokens, with the one that ended it where there is one.
        renderer: of the policy.
    """
    ended = bool(ids) and ids[-1] in renderer.stop_ids
    return Answer(prompt, tuple(ids), renderer.decode(ids), ended)


class ModelReward:
    """A reward model as judge.

    It reads what it was trained on: prompt, answer, end-of-turn. An answer that did not end is scored as though it had
    ended there; what that is worth is the end rule's business. Where the reward model has another tokenizer or
    template than the policy, prompt and answer are rendered again in its own.

    Args:
        scorer: of `reward_models.RewardScorer`.
        policy: the policy's renderer.
        own: the reward model's renderer where it differs; None where both read the same tokens.
    """

    def __init__(self, scorer: Any, policy: Renderer, own: Renderer | None = None) -> None:
        self.scorer = scorer
        self.policy = policy
        self.own = own
        self.end = end_of_turn(own or policy)

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Scores with the reward model's bias subtracted."""
        return list(self.scorer.score([self.row(answer) for answer in answers]))

    def row(self, answer: Answer) -> list[int]:
        """The tokens that the reward model reads."""
        if self.own is None:
            said = answer.ids[:-1] if answer.ended else answer.ids
            return [*answer.prompt.ids, *said, self.end]
        tools = list(answer.prompt.tools) if answer.prompt.tools else None
        return [*self.own.prompt_ids(answer.prompt.messages, tools), *self.own.encode(answer.text), self.end]


def end_of_turn(renderer: Renderer) -> int:
    """The token with which a model's template closes an answer."""
    turns = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    row = renderer.render(turns)[-1]
    if row.spans and row.spans[-1].stops:
        return row.ids[row.spans[-1].end - 1]
    return min(renderer.stop_ids)


class PinnedReward(Record):
    """The reward model a run began with."""

    run_id: str
    """The run that made it."""
    digest: str
    """Of its weights."""
    name: str = ""
    """What it was called; empty where an earlier version pinned it."""
    base_name: str = ""
    """What its base was called."""
    base_digest: str = ""
    """Digest of its base's weights."""
    base_reading: str | None = None
    """Digest of its base's tokenizer and chat template."""


def read_pinned_reward(folder: Path) -> PinnedReward | None:
    """The reward model that a run began with; None where none was pinned.

    Args:
        folder: the run's.
    """
    path = folder / PINNED
    return PinnedReward.model_validate_json(path.read_bytes()) if path.is_file() else None


def pin_reward(config: RLConfig, job: Job) -> RewardModel:
    """The reward model that the config named at the run's first start.

    Raises:
        RunProblem: it is gone, or another one has taken its place since.
        NotFound: there is none of this name.
        ModelProblem: its folder is gone before anything was learned.
    """
    from workbench.training.reward_models import get_reward_model

    path = job.folder / PINNED
    pinned = read_pinned_reward(job.folder)
    try:
        found = get_reward_model(job.store, pinned.run_id if pinned else config.reward)
    except (NotFound, ModelProblem) as error:
        if pinned is None:
            raise
        raise RunProblem(
            f"the reward model is gone: {error.what}",
            place=config.reward,
            remedy="Put it back and resume; nothing learned so far is lost. Or start a new run with another one.",
        ) from error
    if pinned is None:
        base = model_store.get_model(job.store, found.model_id)
        pinned = PinnedReward(
            run_id=found.run_id,
            digest=found.digest,
            name=found.name,
            base_name=base.name,
            base_digest=base.base_digest or "",
            base_reading=digest_reading(base),
        )
        aside = path.with_suffix(".partial")
        aside.write_text(pinned.model_dump_json(indent=1), encoding="utf-8")
        os.replace(aside, path)
        job.result(reward_run_id=found.run_id)
    elif pinned.digest != found.digest:
        raise RunProblem(
            "the reward model is no longer the one this run began with",
            place=found.name,
            remedy="Start a new run: rewards of two models cannot be mixed in one.",
        )
    return found


def load_reward(
    job: Job, record: RewardModel, policy_model: Model, policy: Renderer, device: str, dtype: str
) -> ModelReward:
    """Load a reward model beside the policy.

    Args:
        job: the run.
        record: of `pin_reward`.
        policy_model: the policy's base.
        policy: its renderer.
        device: where to score.
        dtype: number format of the reward model's base.
    """
    from workbench.datasets.render import load_renderer
    from workbench.models.loading import model_folder
    from workbench.training.reward_models import RewardScorer

    base = model_store.get_model(job.store, record.model_id)
    own = None
    if not reads_alike(policy_model, base):
        own = load_renderer(model_folder(base))
        job.log(
            f"the reward model {record.name} has another tokenizer or template: it reads answers rendered in its own"
        )
    return ModelReward(RewardScorer.load(record, base, device, dtype), policy, own)


def reads_alike(one: Model, other: Model) -> bool:
    """Whether two base models make the same tokens of the same conversation."""
    from workbench.datasets.template import load_template
    from workbench.models.loading import model_folder

    if one.id == other.id:
        return True
    folders = (model_folder(one), model_folder(other))
    tokens = {hashlib.sha256((folder / "tokenizer.json").read_bytes()).digest() for folder in folders}
    templates = {load_template(folder).source for folder in folders}
    return len(tokens) == len(templates) == 1
