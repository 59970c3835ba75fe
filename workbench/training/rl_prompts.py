"""The prompts that reinforcement learning answers, taken from a dataset of any kind, and which step asks which.

What a row of a dataset is, and how a prompt is written out, is `workbench.datasets`' business. Answers are drawn by
`rollouts`. Nothing here imports torch.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from pydantic import JsonValue

from workbench.errors import DataProblem, TemplateProblem
from workbench.job import Job
from workbench.records import Example, Labelled, Message, Model, Payload, Preference, Prompt, Row
from workbench.training.batching import RunPlan, check_extent
from workbench.training.checking import check_room
from workbench.training.rl_configs import RLConfig
from workbench.training.rows import Inputs, check_method, refuse_findings, split_rows

if TYPE_CHECKING:
    from workbench.datasets.render import Renderer


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt as the policy reads it."""

    row_id: str
    """The first row that asks it."""
    messages: tuple[Message, ...]
    """The conversation to answer."""
    tools: tuple[JsonValue, ...] | None
    """Tool definitions offered."""
    text: str
    """What the model reads: the rendered conversation with the generation prompt."""
    ids: tuple[int, ...]
    """Its tokens, those of `Renderer.prompt_ids`."""
    reference: str | None = None
    """A good answer, where the row has one; nothing is learned from it."""


def prompt_of(payload: Payload) -> tuple[Message, ...]:
    """The conversation up to the last answer; empty where nobody asks anything."""
    if isinstance(payload, Preference | Labelled):
        messages = payload.prompt
    elif isinstance(payload, Example):
        answers = [place for place, message in enumerate(payload.messages) if message.role == "assistant"]
        messages = payload.messages[: answers[-1]] if answers else payload.messages
    else:
        messages = payload.messages
    return messages if messages and messages[-1].role in ("user", "tool") else ()


def reference_of(payload: Payload) -> str | None:
    """The answer that a row gives to what `prompt_of` asks; a preference's sides are what a reward learns from."""
    if isinstance(payload, Prompt):
        return payload.reference
    if isinstance(payload, Example):
        answers = [message.content for message in payload.messages if message.role == "assistant"]
        return answers[-1] if answers else None
    return None


def render_prompts(rows: Iterable[Row], renderer: Renderer, *, longest: int) -> tuple[list[AskedPrompt], Counter[str]]:
    """The distinct prompts of rows, and how many rows were left out for which reason.

    Args:
        rows: of a dataset of any kind.
        renderer: of the policy.
        longest: tokens that a prompt may have.
    """
    found: dict[str, AskedPrompt] = {}
    left_out: Counter[str] = Counter()
    for row in rows:
        messages = prompt_of(row.payload)
        if not messages:
            left_out["ask nothing"] += 1
            continue
        tools = row.payload.tools if isinstance(row.payload, Example) else None
        try:
            text = renderer.prompt_text(messages, tools)
        except TemplateProblem:
            left_out["are refused by the chat template"] += 1
            continue
        ids = renderer.encode(text)
        if len(ids) > longest:
            left_out["leave no room for the answer"] += 1
        elif text in found:
            left_out["ask what another row asks"] += 1
        else:
            found[text] = AskedPrompt(
                row.row_id, messages, tuple(tools) if tools else None, text, tuple(ids), reference_of(row.payload)
            )
    return list(found.values()), left_out


def load_prompts(
    job: Job, config: RLConfig, inputs: Inputs, model: Model, renderer: Renderer
) -> tuple[list[AskedPrompt], list[AskedPrompt]]:
    """Training prompts and the held-out prompts to measure on; what was left out goes to the run's log.

    Raises:
        DataProblem: no prompt is left, or a held-out prompt is also trained on and `overrule_gates` is off.
        ModelProblem: the longest row does not fit the model.
    """
    check_room(config, model)
    context = model.info.get("context_length")
    room = min(config.max_length, context) if isinstance(context, int) else config.max_length
    train_rows, held_out_rows = split_rows(job.store, config, inputs)
    refuse_findings(job, config, check_method(config, train_rows, held_out_rows, renderer))
    sides = []
    for name, rows in (("", train_rows), ("held-out ", held_out_rows)):
        prompts, left_out = render_prompts(rows, renderer, longest=room - config.max_answer_tokens)
        for reason, count in left_out.items():
            job.log(f"{count} of {len(rows)} {name}rows {reason} and are left out")
        sides.append(prompts)
    train, held_out = sides
    if not train:
        raise DataProblem(
            "no row has a prompt to answer",
            place=config.dataset,
            value=len(train_rows),
            remedy=f"Prompts need a last turn by the user, and at most max_length − max_answer_tokens = "
            f"{room - config.max_answer_tokens} tokens.",
        )
    return train, held_out[: config.held_out_prompts]


def plan_prompts(
    lengths: Sequence[int],
    *,
    prompts_per_step: int,
    answers_per_prompt: int,
    iterations: int,
    seed: int,
    epochs: int,
    max_steps: int | None = None,
) -> RunPlan:
    """Which prompts each optimizer step asks: a pure function of its arguments, so that a resumed run asks the same.

    Steps of one set of answers name the same prompts. A step may straddle the end of an epoch, so that all steps are of
    one size; its tokens are those of the prompts alone, since answers have not been drawn.

    Args:
        lengths: tokens of each prompt.
        prompts_per_step: prompts of a step.
        answers_per_prompt: answers drawn to each.
        iterations: optimizer steps on the same answers.
        seed: the run's seed.
        epochs: passes over the prompts, at least one step.
        max_steps: steps to do instead; the last set of answers may then get fewer iterations.

    Raises:
        UsageError: there are more than `MOST_BATCHES` steps.
    """
    draws = max(1, epochs * len(lengths) // prompts_per_step)
    if max_steps is not None:
        draws = -(-max_steps // iterations)
    check_extent(draws * iterations)
    order: list[int] = []
    epoch = 0
    while lengths and len(order) < draws * prompts_per_step:
        once = list(range(len(lengths)))
        random.Random(f"prompts:{seed}:{epoch}").shuffle(once)
        order += once
        epoch += 1
    batches = [
        tuple(order[draw * prompts_per_step : (draw + 1) * prompts_per_step])
        for draw in range(draws)
        for _ in range(iterations)
    ][:max_steps]
    return RunPlan(
        batches=tuple(batches),
        batches_per_step=1,
        rows=len(lengths),
        tokens_after=tuple(accumulate(answers_per_prompt * sum(lengths[row] for row in batch) for batch in batches)),
        rows_after=tuple(prompts_per_step * (step // iterations + 1) for step in range(len(batches))),
        padding=0.0,
    )
