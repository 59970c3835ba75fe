"""From preference rows to what a reward model learns from: one item per prompt, its answers once, its pairs by number.

A dataset of preferences has one row per pair, so a ranking of K answers names each of them up to K−1 times. Here rows
that ask the same become one item; equal answers of it become one; a pair keeps its weight, and pairs that several
raters gave add up. What makes rows useless is counted and told, never trained on. Nothing here imports torch.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.errors import DataProblem, TemplateProblem
from workbench.job import Job
from workbench.records import Example, Message, Model, Preference, Row, canonical_json
from workbench.store.database import Store
from workbench.store.datasets import get_version
from workbench.training.reward_configs import RewardConfig
from workbench.training.rows import Inputs, checked_rows

if TYPE_CHECKING:
    from workbench.datasets.render import Renderer

_T = TypeVar("_T")
MOST_DEMONSTRATIONS = 200


@dataclass(frozen=True)
class Answer:
    """One answer to a prompt."""

    ids: tuple[int, ...]
    """Rendered prompt + answer + end-of-turn token."""
    text: str
    """What it says."""
    tokens: int
    """Tokens of the answer alone, its end included."""
    variant: str | None = None
    """The variant that wrote it, where the row tells."""


@dataclass(frozen=True)
class Pair:
    """Two answers of one prompt, and what the rows say of them."""

    better: int
    """Number of the better answer."""
    worse: int
    """Number of the worse one."""
    weight: float
    """Sum of the rows' weights."""
    row_ids: tuple[str, ...]
    """The rows, one for each time the pair was given."""
    confidence: int | None = None
    """How sure the rater was; None where unknown or where raters differ."""
    raters: tuple[str, ...] = ()
    """Who said so."""


@dataclass(frozen=True)
class RankedPrompt:
    """A prompt with its answers and the pairs among them: one batch element."""

    prompt: tuple[Message, ...]
    """What was asked."""
    answers: tuple[Answer, ...]
    """Each different answer once."""
    pairs: tuple[Pair, ...]
    """Ordered pairs."""
    votes: int
    """Rankings the pairs come from; a row that tells no ranking is one by itself. The loss is a mean over these."""

    @property
    def tokens(self) -> int:
        """Tokens of all answers, each with its prompt."""
        return sum(len(answer.ids) for answer in self.answers)

    @property
    def best(self) -> int:
        """The answer that wins most, by weight; the first among equals."""
        net = [0.0] * len(self.answers)
        for pair in self.pairs:
            net[pair.better] += pair.weight
            net[pair.worse] -= pair.weight
        return net.index(max(net))


@dataclass(frozen=True)
class RankedPrompts:
    """One side of the split."""

    prompts: tuple[RankedPrompt, ...]
    """Prompts with at least one pair."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Rows left out, by why: `equal_sides`, `no_weight`, `unrenderable`, `cut_off`."""
    queues: tuple[str, ...] = ()
    """Ids of the ranking queues that the rows tell."""
    sources: tuple[str, ...] = ()
    """Where the rankings come from: rank, playground, demo, import or scorer."""

    @property
    def pairs(self) -> int:
        """Different ordered pairs."""
        return sum(len(item.pairs) for item in self.prompts)

    @property
    def answers(self) -> int:
        """Different answers."""
        return sum(len(item.answers) for item in self.prompts)


def render_answer(
    renderer: Renderer, prompt: Sequence[Message], answer: Sequence[Message], max_length: int | None = None
) -> tuple[tuple[int, ...], int]:
    """An answer as a reward model reads it: prompt, answer and the token that ends the turn, nothing after it.

    Args:
        renderer: of the base model.
        prompt: the conversation up to the answer.
        answer: the answer; usually one assistant turn.
        max_length: longest row in tokens, cut at the right.

    Returns:
        Token ids, and how many of them are the answer; none where the cut leaves nothing of it.

    Raises:
        TemplateProblem: the template refuses the messages.
    """
    row = renderer.render_prompt_completion(prompt, answer, None, max_length)
    if not row.spans:
        return row.ids, 0
    end = row.spans[-1].end
    return row.ids[:end], sum(row.mask[:end])


def group_rows(
    rows: Iterable[Row], renderer: Renderer, *, max_length: int, balance_prompts: bool = False
) -> RankedPrompts:
    """Group preference rows by prompt and render each different answer once.

    Args:
        rows: rows of a dataset of preferences.
        renderer: of the base model.
        max_length: longest row in tokens.
        balance_prompts: scale each prompt's weights so that they sum to 1, and count it as one vote.
    """
    groups: dict[str, _Group] = {}
    left_out: dict[str, int] = {}
    told: dict[str, dict[str, None]] = {"queue": {}, "source": {}}
    for row in rows:
        if not isinstance(row.payload, Preference):
            raise DataProblem("the row is not a preference", place=f"row {row.row_id}")
        key = canonical_json([turn.as_dict() for turn in row.payload.prompt])
        group = groups.setdefault(key, _Group(row.payload.prompt))
        why = group.add(row.row_id, row.payload, renderer, max_length)
        if why:
            left_out[why] = left_out.get(why, 0) + 1
        for name, seen in told.items():
            if isinstance(value := row.payload.meta.get(name), str):
                seen[value] = None
    made = [group.finish(balance_prompts) for group in groups.values() if group.pairs]
    return RankedPrompts(
        prompts=tuple(made),
        left_out=left_out,
        queues=tuple(told["queue"]),
        sources=tuple(told["source"]),
    )


class _Group:
    """The rows of one prompt while they are read."""

    def __init__(self, prompt: tuple[Message, ...]) -> None:
        self.prompt = prompt
        self.answers: dict[tuple[int, ...], Answer] = {}
        self.rendered: dict[str, tuple[int, ...] | str] = {}
        self.pairs: dict[tuple[tuple[int, ...], tuple[int, ...]], list[tuple[str, Preference]]] = {}
        self.votes: set[str] = set()

    def add(self, row_id: str, row: Preference, renderer: Renderer, max_length: int) -> str:
        """Take in a row; otherwise why it is left out."""
        if row.weight == 0:
            return "no_weight"
        sides = []
        for name, turns in (("chosen", row.chosen), ("rejected", row.rejected)):
            ids = self._render(turns, row.meta.get(name), renderer, max_length)
            if isinstance(ids, str):
                return ids
            sides.append(ids)
        if sides[0] == sides[1]:
            return "equal_sides"
        self.pairs.setdefault((sides[0], sides[1]), []).append((row_id, row))
        ranking = row.meta.get("ranking")
        self.votes.add(ranking if isinstance(ranking, str) else row_id)
        return ""

    def _render(
        self, turns: tuple[Message, ...], origin: Any, renderer: Renderer, max_length: int
    ) -> tuple[int, ...] | str:
        key = canonical_json([turn.as_dict() for turn in turns])
        if key not in self.rendered:
            try:
                ids, tokens = render_answer(renderer, self.prompt, turns, max_length)
            except TemplateProblem:
                self.rendered[key] = "unrenderable"
                return "unrenderable"
            self.rendered[key] = ids if tokens else "cut_off"
            if tokens:
                variant = origin.get("variant") if isinstance(origin, dict) else None
                text = "\n\n".join(turn.content for turn in turns if turn.role == "assistant")
                made = Answer(ids, text, tokens, variant if isinstance(variant, str) else None)
                self.answers.setdefault(ids, made)
        return self.rendered[key]

    def finish(self, balance: bool) -> RankedPrompt:
        """The item; answers that stand in no pair are left out."""
        used = {ids for pair in self.pairs for ids in pair}
        answers = [answer for ids, answer in self.answers.items() if ids in used]
        number = {answer.ids: place for place, answer in enumerate(answers)}
        weights = {pair: sum(row.weight for _, row in rows) for pair, rows in self.pairs.items()}
        scale = 1 / sum(weights.values()) if balance else 1.0
        pairs = [
            Pair(
                better=number[better],
                worse=number[worse],
                weight=scale * weights[better, worse],
                row_ids=tuple(row_id for row_id, _ in rows),
                confidence=_confidence([row for _, row in rows]),
                raters=tuple(dict.fromkeys(str(row.meta["rater"]) for _, row in rows if row.meta.get("rater"))),
            )
            for (better, worse), rows in self.pairs.items()
        ]
        return RankedPrompt(
            prompt=self.prompt,
            answers=tuple(answers),
            pairs=tuple(pairs),
            votes=1 if balance else len(self.votes),
        )


def _confidence(rows: Sequence[Preference]) -> int | None:
    told = {row.meta.get("confidence") for row in rows}
    only = told.pop() if len(told) == 1 else None
    return only if isinstance(only, int) and not isinstance(only, bool) else None


def load_ranked_prompts(
    job: Job, config: RewardConfig, inputs: Inputs, model: Model
) -> tuple[RankedPrompts, RankedPrompts]:
    """Check, render and group training rows and held-out rows, split by prompt; findings go to the run's log.

    Raises:
        DataProblem: the checks refuse the rows and `overrule_gates` is off, or no pair is left.
        ModelProblem: the model is not on this machine yet.
    """
    train, held_out, renderer = checked_rows(job, config, inputs, model)
    found = [
        group_rows(rows, renderer, max_length=config.max_length, balance_prompts=config.balance_prompts)
        for rows in (train, held_out)
    ]
    if not found[0].prompts:
        left = ", ".join(f"{count} {WHY[why]}" for why, count in found[0].left_out.items())
        raise DataProblem(
            f"no row prefers one answer to another, so there is nothing to learn: {left}",
            place=config.dataset,
            value=len(train),
            remedy="Rank answers that differ; ties alone say nothing. Answers that only max_length makes alike need a "
            "larger one.",
        )
    if len(found[0].prompts) == 1:
        job.log("all pairs answer one prompt: what is learned holds for that prompt, and nothing can be said beyond it")
    return found[0], found[1]


WHY = {
    "equal_sides": "with two equal sides",
    "no_weight": "with weight 0",
    "unrenderable": "that the chat template refuses",
    "cut_off": "whose answer max_length cuts off whole",
}


def load_demonstrations(
    store: Store, version_id: str | None, train: RankedPrompts, renderer: Renderer, *, max_length: int, seed: int
) -> list[Answer]:
    """Answers whose scores are to be 0 on average: of a dataset, or the best-ranked one of each training prompt.

    Args:
        store: the store.
        version_id: of a dataset of instructions; None for the training prompts' own.
        train: the training prompts.
        renderer: of the base model.
        max_length: longest row in tokens.
        seed: of the draw where there are more than `MOST_DEMONSTRATIONS`.

    Raises:
        DataProblem: no row of the dataset has an answer that can be scored.
    """
    if version_id is None:
        return _drawn([item.answers[item.best] for item in train.prompts], seed)
    from workbench.datasets.versions import iter_rows

    rows = _drawn(list(iter_rows(store, get_version(store, version_id))), seed)
    answers = []
    for row in rows:
        turns = row.payload.messages if isinstance(row.payload, Example) else ()
        last = max((place for place, turn in enumerate(turns) if turn.role == "assistant"), default=0)
        if last == 0:
            continue
        try:
            ids, tokens = render_answer(renderer, turns[:last], turns[last : last + 1], max_length)
        except TemplateProblem:
            continue
        if tokens:
            answers.append(Answer(ids, turns[last].content, tokens))
    if not answers:
        raise DataProblem(
            "no demonstration has an answer that can be scored",
            place="demonstrations",
            remedy="Choose a dataset of instructions whose rows end with an answer.",
        )
    return answers


def _drawn(all_of_them: list[_T], seed: int) -> list[_T]:
    if len(all_of_them) <= MOST_DEMONSTRATIONS:
        return all_of_them
    return random.Random(f"demonstrations:{seed}").sample(all_of_them, MOST_DEMONSTRATIONS)
