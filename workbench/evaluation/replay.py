"""Whether an export still answers as the original did: greedy answers given again by what was written, loaded anew.

Stored answers are taken where the engine gave them with the very weights that are exported (the fingerprint says so);
otherwise the original answers now. Answers must be equal token for token. Sums made in another order round differently,
so that two tokens that were as good as equal may change places: a first difference is let pass when the original's two
best tokens were closer there than a stated bound in logits, and then it is counted and told. Only workers call this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelProblem
from workbench.job import Job
from workbench.records import Completion, Message, Record, Variant
from workbench.store import answers as answer_store
from workbench.store.database import Store

if TYPE_CHECKING:
    from workbench.datasets.render import Renderer

TIE = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.25}
"""Logits within which the two best tokens count as equal, by the number format of the exported weights: for the two
short formats about two steps of the format at the size logits have."""
FRESH = (
    "What is the capital of France?",
    "Name three colours.",
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about the sea.",
    "How do I boil an egg?",
    "Translate into Spanish: good morning.",
    "What is 12 plus 30?",
    "Give me a title for a story about a lost dog.",
)
"""Asked where there are no stored answers."""


class Case(Record):
    """One prompt with the answer to be given again."""

    prompt: tuple[Message, ...]
    """What is asked."""
    text: str | None = None
    """The stored answer; None where the original is to answer now."""
    max_tokens: int
    """Longest answer, in tokens."""


class Tie(Record):
    """A difference that was let pass."""

    prompt: str
    """The last user turn, shortened."""
    token: int
    """Place of the first different token, from 0."""
    margin: float
    """How much better the original's best token was than its second, in logits."""


class ReplayReport(Record):
    """What the replay found."""

    prompts: int
    """Prompts asked."""
    stored: int
    """Of these, with a stored answer."""
    exact: int
    """Answers that were equal token for token."""
    ties: tuple[Tie, ...] = ()
    """Answers that part where two tokens were as good as equal."""
    bound: float
    """The bound in logits."""
    policy: str
    """The same in words."""


def choose_cases(store: Store, variant: Variant, fingerprint: str, *, count: int, max_tokens: int) -> list[Case]:
    """Prompts to replay: stored greedy answers of these very weights first, the newest first; else fresh prompts.

    Args:
        store: the store.
        variant: whose answers.
        fingerprint: of the weights, tokenizer and template that are exported.
        count: most prompts.
        max_tokens: longest fresh answer.
    """
    known: dict[str, Case] = {}
    for answer in reversed(answer_store.list_completions(store, variant_id=variant.id)):
        if len(known) < count and _can_be_replayed(answer, fingerprint):
            key = repr(answer.prompt)
            known.setdefault(key, Case(prompt=answer.prompt, text=answer.text, max_tokens=answer.sampling.max_tokens))
    if known:
        return list(known.values())
    return [Case(prompt=(Message(role="user", content=text),), max_tokens=max_tokens) for text in FRESH[:count]]


def _can_be_replayed(answer: Completion, fingerprint: str) -> bool:
    sampling = answer.sampling
    return (
        answer.verified
        and answer.fingerprint == fingerprint
        and answer.error is None
        and answer.finish_reason in ("stop", "length")
        and sampling.temperature == 0
        and not sampling.stop
        and not sampling.presence_penalty
        and not sampling.frequency_penalty
    )


class Player:
    """A loaded model with the prompt it reads: what gives greedy answers.

    Args:
        model: of transformers or PEFT.
        renderer: tokenizer and template.
    """

    def __init__(self, model: Any, renderer: Renderer) -> None:
        self.model, self.renderer = model.eval(), renderer

    def answer(self, prompt: Sequence[Message], max_tokens: int) -> list[int]:
        """The greedy answer's token ids, without the token that ends it."""
        return self._run(prompt, max_tokens, ())[0]

    def margin(self, prompt: Sequence[Message], so_far: Sequence[int]) -> float:
        """By how many logits the best next token beats the second after part of an answer."""
        return self._run(prompt, 0, so_far)[1]

    def _run(self, prompt: Sequence[Message], max_tokens: int, so_far: Sequence[int]) -> tuple[list[int], float]:
        import torch

        ids = [*self.renderer.prompt_ids(prompt), *so_far]
        answer: list[int] = []
        with torch.inference_mode():
            cache, step = None, torch.tensor([ids])
            while True:
                output = self.model(input_ids=step, past_key_values=cache, use_cache=True)
                logits = output.logits[0, -1].float()
                token = int(logits.argmax())
                if len(answer) >= max_tokens or token in self.renderer.stop_ids:
                    best = logits.topk(2).values
                    return answer, float(best[0] - best[1])
                answer.append(token)
                cache, step = output.past_key_values, torch.tensor([[token]])


def replay(
    cases: Sequence[Case], exported: Player, original: Callable[[], Player], dtype: str, job: Job
) -> ReplayReport:
    """Ask what was exported again, and compare.

    Args:
        cases: prompts and stored answers.
        exported: what was written, loaded from scratch.
        original: loads what was exported; called only where it is needed.
        dtype: number format of the exported weights.
        job: told how far it is, asked whether to stop.

    Raises:
        ModelProblem: an answer differs; names the prompt.
        Stopped: stop was asked for.
    """
    loaded: list[Player] = []
    ties, exact = [], 0
    for number, case in enumerate(cases):
        job.checkpoint_or_stop()
        job.progress("replaying answers", done=number, total=len(cases), unit="prompts")
        given = exported.answer(case.prompt, case.max_tokens)
        if case.text is not None and exported.renderer.decode(given) == case.text:
            exact += 1
            continue
        if not loaded:
            job.log("loading the original to compare with")
            loaded.append(original())
        wanted = loaded[0].answer(case.prompt, case.max_tokens)
        if wanted == given:
            exact += 1
            continue
        place = next((i for i, (a, b) in enumerate(zip(wanted, given, strict=False)) if a != b), None)
        place = min(len(wanted), len(given)) if place is None else place
        margin = loaded[0].margin(case.prompt, wanted[:place])
        if not margin < TIE[dtype]:
            raise _differs(case, exported.renderer, wanted, given, place, margin)
        ties.append(Tie(prompt=_question(case)[:200], token=place, margin=margin))
        job.log(f"token {place} of the answer to {_question(case)[:60]!r} was a tie within {margin:.2g} logits")
    job.progress(done=len(cases), total=len(cases))
    return ReplayReport(
        prompts=len(cases),
        stored=sum(case.text is not None for case in cases),
        exact=exact,
        ties=tuple(ties),
        bound=TIE[dtype],
        policy=f"Greedy answers equal token for token; a first difference passes only where the original's two best "
        f"tokens were less than {TIE[dtype]:g} logits apart ({dtype}).",
    )


def _differs(
    case: Case, renderer: Renderer, wanted: Sequence[int], given: Sequence[int], place: int, margin: float
) -> ModelProblem:
    shown = [repr(renderer.decode(list(ids[: place + 8]))[-60:]) for ids in (wanted, given)]
    return ModelProblem(
        f"the exported model answers differently from token {place + 1} on: {shown[1]} instead of {shown[0]} "
        f"(the original preferred its token by {margin:.3g} logits)",
        place=f"prompt {_question(case)[:120]!r}",
        remedy="Nothing was exported. Export with float32 weights, or the adapter instead of merged weights.",
    )


def _question(case: Case) -> str:
    return next((turn.content for turn in reversed(case.prompt) if turn.role == "user"), "")


def exported_renderer(folder: Path, base: Renderer) -> Renderer:
    """Tokenizer and template as they stand in an export; stop ids are the base's."""
    from dataclasses import replace

    from tokenizers import Tokenizer

    from workbench.datasets.render import Renderer
    from workbench.datasets.template import load_template

    template = load_template(folder)
    special = {**base.template.special_tokens, **template.special_tokens}
    template = replace(base.template if template.is_plain else template, special_tokens=special)
    return Renderer(Tokenizer.from_file(str(folder / "tokenizer.json")), template, sorted(base.stop_ids))
