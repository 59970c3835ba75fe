"""What a queue is made of and what a rater sees of it: answers with one text are one answer, and nobody sees who wrote.

Handing out items and keeping rankings is left to `workbench.store.rankings`, getting answers to whoever asks for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from workbench.errors import UsageError
from workbench.records import Completion, Message, Model, RankItem, RankQueue, Record, Variant, digest
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store import runs as run_store
from workbench.store.answers import list_completions
from workbench.store.database import Store
from workbench.store.rankings import NewItem

LETTERS = "ABCDEFGHI"
MOST_ANSWERS = len(LETTERS)


class BlindAnswer(Record):
    """An answer as a rater sees it."""

    letter: str
    """A, B, C, … in the order displayed."""
    text: str
    """What it says."""
    names_itself: bool = False
    """Whether it gives away who wrote it: names a model, a persona, a variant or a maker."""


class BlindItem(Record):
    """An item as a rater sees it: nothing in it tells who answered, or whether it was shown before."""

    item_id: str
    """The item."""
    prompt: tuple[Message, ...]
    """What was asked."""
    answers: tuple[BlindAnswer, ...]
    """In the order displayed."""


class MadeItems(Record):
    """Items made of answers, and what was left out."""

    items: tuple[NewItem, ...]
    """Prompts with at least two different answers."""
    failed: int = 0
    """Answers that ended in an error or were cancelled."""
    alone: int = 0
    """Prompts with only one answer."""
    identical: int = 0
    """Prompts to which all answers were the same text: a tie that nobody needs to look at."""

    @property
    def left_out(self) -> str:
        """What was left out, in words; empty where nothing was."""
        told = [
            (self.identical, "prompts whose answers are all the same"),
            (self.alone, "prompts with only one answer"),
            (self.failed, "answers that failed"),
        ]
        return ", ".join(f"{count} {what}" for count, what in told if count)


# ---- what a rater sees ----


def blind_item(store: Store, item: RankItem, shown: Sequence[str]) -> BlindItem:
    """One item as a rater sees it; see `blind_items`."""
    return blind_items(store, [(item, shown)])[0]


def blind_items(store: Store, handed: Sequence[tuple[RankItem, Sequence[str]]]) -> list[BlindItem]:
    """Items as a rater sees them: texts under letters, in the order displayed.

    Args:
        store: the store.
        handed: each item with its completion ids in the order displayed.

    Raises:
        NotFound: an answer is no longer in the store.
    """
    found = rank_store.completions_by_id(store, [each for _, shown in handed for each in shown])
    variants = {variant.id: variant for variant in model_store.list_variants(store, archived=True)}
    models = {model.id: model for model in model_store.list_models(store, archived=True)}
    made = []
    for item, shown in handed:
        writers = [
            found[other].variant_id for each in shown for other in (each, *item.merged.get(each, ())) if other in found
        ]
        who = [variants[each] for each in dict.fromkeys(writers)]
        bases = [models[variant.model_id] for variant in who if variant.model_id is not None]
        answers = tuple(
            BlindAnswer(
                letter=letter,
                text=found[each].text,
                names_itself=bool(leaks(found[each].text, who, models=bases, prompt=item.prompt)),
            )
            for letter, each in zip(LETTERS, shown, strict=False)
        )
        made.append(BlindItem(item_id=item.id, prompt=item.prompt, answers=answers))
    return made


def place_letters(shown: Sequence[str], tiers: str) -> dict[str, tuple[Any, ...]]:
    """An order written in letters as completion ids: `B A=C` puts B first, A and C tied behind; `x` marks unusable.

    Args:
        shown: completion ids in the order displayed.
        tiers: letters from best to worst; `>` or a space between places, `=` between ties, `x` before unusable ones.

    Returns:
        `tiers` and `unusable`, as `submit_ranking` takes them.

    Raises:
        UsageError: a letter that was not shown, or something that is no order.
    """
    by_letter = dict(zip(LETTERS, shown, strict=False))

    def find(letter: str) -> str:
        if letter.upper() not in by_letter:
            letters = ", ".join(by_letter)
            raise UsageError(
                "no answer has this letter", place="order", value=letter,
                remedy=f"The letters are {letters}: `B A=C` puts B first, then A and C tied; `xD` says D is unusable.",
            )  # fmt: skip
        return by_letter[letter.upper()]

    placed: list[tuple[str, ...]] = []
    unusable: list[str] = []
    for place in re.sub(r"\s*=\s*", "=", tiers.replace(">", " ")).split():
        if place[0] in "xX" and len(place) > 1:
            unusable += [find(letter) for letter in place[1:].replace("=", "")]
        else:
            placed.append(tuple(find(letter) for letter in place.split("=")))
    return {"tiers": tuple(placed), "unusable": tuple(unusable)}


# ---- answers that give themselves away ----

# Names that hardly stand in an answer for another reason, and those that count only where the writer speaks of itself.
_MODELS = (
    "chatgpt smollm smollm2 smollm3 qwen qwen2 qwen3 deepseek tinyllama vicuna gemma mixtral openassistant".split()
)
_MODELS += ["gpt-3", "gpt-3.5", "gpt-4", "gpt-4o", "gpt-5", "open assistant"]
_MAKERS = "openai anthropic google deepmind microsoft meta alibaba mistral nvidia apple amazon cohere laion".split()
_MAKERS += "claude gemini bard llama alpaca falcon phi grok copilot xai".split()
_MAKERS += ["hugging face", "meta ai"]
_COMMON = "base tuned model answer test best good variant default first second third last assistant chat".split()
_SELF = (
    r"\b(?:i am|i['’]m|my name is|call me|you can call me|i was|as an? ai|created by|developed by|trained by|made by|"
    r"built by|powered by)\b"
)
_INTRODUCED = re.compile(r"\b(?:[Mm]y name is|[Cc]all me)\s+([^\W\d_][\w’'-]*)")
_PERSONA = re.compile(r"\b(?:[Yy]ou are|[Yy]our name is|[Cc]alled|[Nn]amed)\s+([A-ZÀ-ÖØ-Þ][\w’'-]+)")


def leaks(
    text: str, variants: Iterable[Variant], *, models: Iterable[Model] = (), prompt: Sequence[Message] = ()
) -> list[str]:
    """Names in an answer that may tell a rater who wrote it, in the order of the lists; empty where there is none.

    A name counts as a whole word, whatever its case. Makers and names that are also common words count only where the
    answer speaks of itself ("I am … made by Google").

    Args:
        text: the answer.
        variants: who may have written it.
        models: their base models.
        prompt: what was asked; a persona that its system turn gives counts as a name.
    """
    own: list[str] = []
    for variant in variants:
        own += [variant.name, variant.remote_model or ""]
    for model in models:
        own += [model.name, model.reference.rstrip("/").rpartition("/")[2]]
    for turn in prompt:
        if turn.role == "system":
            own += _PERSONA.findall(turn.content)
    plain = [name for name in own if len(name) > 3 and name.casefold() not in _COMMON]
    found = [name for name in [*plain, *_MODELS] if _word(name).search(text)]
    spoken = [name for name in _MAKERS if _spoken(name).search(text)]
    introduced = [match.group(1) for match in _INTRODUCED.finditer(text)]
    kept: dict[str, str] = {}
    for name in [*found, *spoken, *introduced]:
        kept.setdefault(name.casefold(), name)
    return list(kept.values())


def leak_sentence(letters: Sequence[str]) -> str:
    """The warning about answers that tell who wrote them; empty where none does."""
    if not letters:
        return ""
    who = "Answer " + letters[0] if len(letters) == 1 else "Answers " + ", ".join(letters)
    tells = "tells" if len(letters) == 1 else "tell"
    return f"{who} {tells} who may have written it. Judge what is said, not who says it."


@lru_cache(maxsize=1024)
def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)


@lru_cache(maxsize=256)
def _spoken(name: str) -> re.Pattern[str]:
    return re.compile(rf"{_SELF}[^.!?\n]{{0,60}}(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)


# ---- items from answers ----


def merge_identical(completions: Sequence[Completion]) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Ids of answers with different texts, in order, and for each that stands for several, the ids of the others.

    White space at both ends does not make a difference.
    """
    first: dict[str, str] = {}
    merged: dict[str, tuple[str, ...]] = {}
    for completion in completions:
        kept = first.setdefault(completion.text.strip(), completion.id)
        if kept != completion.id:
            merged[kept] = (*merged.get(kept, ()), completion.id)
    return tuple(first.values()), merged


def make_items(completions: Iterable[Completion]) -> MadeItems:
    """Group answers by prompt into items, in the order in which prompts first come.

    Raises:
        UsageError: a prompt has more than nine different answers.
    """
    groups: dict[str, list[Completion]] = {}
    failed = alone = identical = 0
    for completion in completions:
        if completion.error is not None or completion.finish_reason in ("error", "cancelled"):
            failed += 1
            continue
        key = digest([completion.row_id, [turn.as_dict() for turn in completion.prompt]])
        groups.setdefault(key, []).append(completion)
    items = []
    for group in groups.values():
        ids, merged = merge_identical(group)
        if len(ids) > MOST_ANSWERS:
            raise UsageError(
                f"a person can rank at most {MOST_ANSWERS} different answers to a prompt",
                place=group[0].row_id or "prompt",
                value=len(ids),
                remedy="Sample fewer, or choose fewer variants.",
            )
        if len(ids) < 2:
            alone += len(group) == 1
            identical += len(group) > 1
            continue
        items.append(NewItem(prompt=group[0].prompt, completions=ids, merged=merged, row_id=group[0].row_id))
    return MadeItems(items=tuple(items), failed=failed, alone=alone, identical=identical)


def create_queue_from(
    store: Store,
    name: str,
    completions: Iterable[Completion],
    *,
    source: Mapping[str, Any] | None = None,
    **options: Any,
) -> RankQueue:
    """Make a queue of answers that are there already.

    Args:
        store: the store.
        name: unique among queues.
        completions: the answers; those to one prompt become one item.
        source: where they come from.
        options: guidelines, overlap, repeats; see `workbench.store.rankings.create_queue`.

    Raises:
        UsageError: no prompt has two different answers, or one has more than nine.
        Conflict: the name is taken.
    """
    made = make_items(completions)
    if not made.items:
        raise UsageError(
            f"there is nothing to rank: {made.left_out or 'no answers'}",
            place=name,
            remedy="Answers differ with another variant, or with a temperature above 0 and several seeds.",
        )
    told = {**(source or {}), "left_out": made.model_dump(mode="json", exclude={"items"})}
    return rank_store.create_queue(store, name, made.items, source=told, **options)


def queue_from_run(store: Store, run_id: str, name: str, **options: Any) -> RankQueue:
    """Make a queue of the answers that a run got to a prompt set; see `create_queue_from`.

    Raises:
        UsageError: the run has no answers that could be ranked.
    """
    run = run_store.get_run(store, run_id)
    source = {"run": run.id, "prompts": run.spec.get("prompts"), "variants": run.spec.get("variants")}
    return create_queue_from(store, name, list_completions(store, run_id=run.id), source=source, **options)
