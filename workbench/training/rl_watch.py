"""What is watched while a policy is reinforced: the figures of a step, held-out measurements, and over-optimisation.

The reward cannot show by itself that it is being outwitted: it is what rises. A yardstick that has no part in it, such
as a kit's rules or chrF against references, is measured on the same held-out answers where the run names one.

KL is measured here alike for every method, whatever estimator enters its loss: the log-ratio of policy to reference
summed over an answer's tokens, averaged over answers drawn from the policy. It is unbiased, in nats, and may be
slightly negative by chance.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from workbench.job import Job
from workbench.records import Record
from workbench.scoring.scorers import METRICS, figure_title, measure_text
from workbench.training.batching import RunPlan
from workbench.training.callback import StepReporter
from workbench.training.rl_rewards import Answer, Scored

SURE = 2.5
"""Standard errors by which the held-out reward must have fallen before it is called so: more than the usual 2, because
the best of several measurements is the best partly by chance."""
SURE_OF_START = 2.5
"""Standard errors by which a yardstick must have fallen since the start. Every measurement looks again: with nine looks
at 38 prompts and no true change, this and the next together are passed once in about one run of ten."""
SURE_OF_BEST = 3.0
"""The same since its own best measurement, which is the best partly by chance."""
FEWEST = 8
"""Held-out prompts below which nothing is said."""


class HeldOutPoint(Record):
    """A measurement on the held-out prompts, one answer to each, always drawn with the same seed."""

    step: int
    """Optimizer steps done."""
    rewards: tuple[float, ...]
    """Reward of each prompt's answer, the end rule applied, in an order that does not change."""
    kl: float
    """Nats an answer, from the policy to the one it started from."""
    yardsticks: dict[str, tuple[float | None, ...]] = {}
    """What each scorer that has no part in the reward says of the same answers; None where it has no reference."""

    @property
    def reward(self) -> float:
        """Mean over prompts."""
        return statistics.fmean(self.rewards)

    def figure(self, scorer: str) -> float | None:
        """A yardstick's mean over the prompts it can measure; None where there is none."""
        values = self.figures(scorer)
        return statistics.fmean(values) if values else None

    def figures(self, scorer: str) -> list[float]:
        """A yardstick's figures of the prompts it can measure."""
        return [value for value in self.yardsticks.get(scorer, ()) if value is not None]


def find_over_optimisation(points: Sequence[HeldOutPoint]) -> list[str]:
    """Whether the policy has come to please the reward without being better by it on prompts it has not seen.

    That is so when, since its best measurement, KL has climbed and the held-out reward has fallen by more than chance:
    by 2.5 standard errors of the differences prompt by prompt (Gao, Schulman and Hilton 2023 show the shape: reward
    rises with KL, then falls).

    Args:
        points: all measurements so far, in order of step.

    Returns:
        The warning in words; empty where there is none to give.
    """
    if len(points) < 2:
        return []
    last, best = points[-1], max(points, key=lambda point: point.reward)
    if best.step == last.step or last.kl <= best.kl or not len(best.rewards) == len(last.rewards) >= FEWEST:
        return []
    if not _has_fallen(best.rewards, last.rewards, SURE):
        return []
    return [
        f"Over-optimisation: since step {best.step} KL has climbed from {best.kl:.2f} to {last.kl:.2f} nats an answer "
        f"while the held-out reward has fallen from {best.reward:.3f} to {last.reward:.3f}. The policy goes where the "
        f"reward is not to be trusted: stop, and train again for about {max(1, best.step)} steps, with a larger beta "
        f"or a lower learning_rate."
    ]


def find_outwitting(points: Sequence[HeldOutPoint]) -> list[str]:
    """Which yardsticks say that the policy got worse on prompts it has not seen, whatever the reward says.

    That is so when KL has climbed and a yardstick has fallen by more than chance, prompt by prompt: by two standard
    errors since the start, or by 2.5 since its own best measurement.

    Args:
        points: all measurements so far, in order of step.

    Returns:
        A warning in words for each such yardstick.
    """
    return [found for scorer in (points[-1].yardsticks if points else ()) if (found := _outwitted(points, scorer))]


def _outwitted(points: Sequence[HeldOutPoint], scorer: str) -> str | None:
    last, measured = points[-1], [point for point in points if point.figures(scorer)]
    if len(measured) < 2:
        return None
    best = max(measured, key=lambda point: point.figure(scorer) or 0.0)
    for before, sure in ((measured[0], SURE_OF_START), (best, SURE_OF_BEST)):
        then, now = before.figures(scorer), last.figures(scorer)
        if before.step == last.step or last.kl <= before.kl or not len(then) == len(now) >= FEWEST:
            continue
        if _has_fallen(then, now, sure):
            rises = last.reward > before.reward
            return (
                f"Over-optimisation: since step {before.step} KL has climbed from {before.kl:.2f} to {last.kl:.2f} "
                f"nats an answer and {scorer} ({figure_title(scorer).lower()}) has fallen from "
                f"{statistics.fmean(then):.1f} to {statistics.fmean(now):.1f} on the held-out prompts, "
                + ("while" if rises else "and so has")
                + f" the held-out reward {'has risen ' if rises else ''}from {before.reward:.3f} to {last.reward:.3f}. "
                + ("The policy pleases the reward model and not what it stands for: " if rises else "")
                + "stop, read the held-out answers, and train again for fewer steps, with a larger beta, or with a "
                "reward model that has seen answers like these ranked."
            )
    return None


def _has_fallen(then: Sequence[float], now: Sequence[float], sure: float) -> bool:
    """Whether figures fell, prompt by prompt, by more than so many standard errors of the differences."""
    falls = [before - after for before, after in zip(then, now, strict=True)]
    return statistics.fmean(falls) > sure * statistics.stdev(falls) / math.sqrt(len(falls))


def find_blind_spots(references: Sequence[str | None], scorers: Sequence[str]) -> list[str]:
    """Why over-optimisation would not be seen, in words; empty where it would.

    Args:
        references: of each held-out prompt, None where it has none.
        scorers: the yardsticks that are asked for.
    """
    if not references:
        return [
            "Nothing is held out, so over-optimisation would not be seen: a rising reward is all there will be. Hold "
            "out a share of the prompts, or name another dataset under held_out."
        ]
    found = []
    if len(references) < FEWEST:
        found.append(
            f"Only {len(references)} of the prompts are held out, fewer than the {FEWEST} from which a fall can be "
            "told from chance, so over-optimisation would not be seen. Hold out more, or raise held_out_prompts."
        )
    known = sum(reference is not None for reference in references)
    for scorer in scorers:
        if scorer in METRICS and known < FEWEST <= len(references):
            found.append(
                f"{scorer} compares answers with references, which {known} of {len(references)} held-out prompts have: "
                f"it takes {FEWEST} for it to watch. Name a dataset with references under held_out."
            )
    return found


def measure_yardsticks(answers: Sequence[Answer], scorers: Sequence[str]) -> dict[str, tuple[float | None, ...]]:
    """What each scorer says of each answer; None where a metric has no reference."""
    return {
        scorer: tuple(
            measure_text(scorer, answer.text, answer.prompt.messages, answer.prompt.reference) for answer in answers
        )
        for scorer in scorers
    }


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Normal 95 % interval of a mean; the mean itself twice where there is one value."""
    mean = statistics.fmean(values)
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean - half, mean + half


def reward_series(scored: Scored, answers_per_prompt: int) -> dict[str, float]:
    """The series of one set of answers.

    `reward_low` and `reward_high` bound the middle 80 % of the answers' rewards; `same_reward` is the share of prompts
    whose answers were all worth the same, from which nothing about the reward can be learned.

    Args:
        scored: answers, those of one prompt next to each other.
        answers_per_prompt: how many those are.
    """
    rewards = sorted(scored.rewards)
    groups = [scored.rewards[at : at + answers_per_prompt] for at in range(0, len(rewards), answers_per_prompt)]
    return {
        "reward": statistics.fmean(rewards),
        "reward_before_end_rule": statistics.fmean(scored.raw),
        "reward_low": rewards[round(0.1 * (len(rewards) - 1))],
        "reward_high": rewards[round(0.9 * (len(rewards) - 1))],
        "same_reward": sum(max(group) - min(group) < 1e-9 for group in groups) / len(groups),
        "answer_tokens": statistics.fmean(len(answer.ids) for answer in scored.answers),
        "ended": scored.ended,
    }


class RLReporter(StepReporter):
    """A step reporter that checkpoints only between two sets of answers.

    TRL keeps drawn answers in memory for all iterations on them. A checkpoint or a stop that falls in between waits
    for the last of these steps, so that a resumed run has no answers to find again.
    """

    iterations = 1
    """Optimizer steps on the same answers."""

    def __init__(self, job: Job, plan: RunPlan, *, iterations: int, **rhythm: object) -> None:
        super().__init__(job, plan, weight_name="answers_learned", **rhythm)  # type: ignore[arg-type]
        self.iterations = iterations
        self._owed = False

    def end_step(self, step: int) -> tuple[bool, bool]:
        """As every reporter, but a checkpoint or stop waits until the answers are used up."""
        save, stop = super().end_step(step)
        self._owed |= save
        if step % self.iterations and step < self.plan.steps:
            self.stopped = False
            return False, False
        save, self._owed = self._owed, False
        return save, stop

    def report(self, step: int, **points: Any) -> None:
        """Record the points of one step, and the seconds it took.

        Args:
            step: optimizer steps done.
            points: as `StepReporter.report` takes them.
        """
        super().report(step, step_s=self._took, **points)
