"""Queues with answers and votes, made in code."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.preferences.votes import Ballot, Votes
from workbench.records import Completion, Message, Ranking, RankItem, RankQueue, Sampling, new_id, utc_now
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store.answers import add_completions
from workbench.store.database import Store


def variant_id(store: Store, name: str) -> str:
    known = {variant.name: variant.id for variant in model_store.list_variants(store, archived=True)}
    return known.get(name) or model_store.add_variant(store, name).id


def make_answers(store: Store, prompt: str, texts: dict[str, str]) -> list[Completion]:
    """One answer per variant name."""
    made = [
        Completion(
            id=new_id("cmp"),
            variant_id=variant_id(store, name),
            prompt=(Message(role="user", content=prompt),),
            text=text,
            sampling=Sampling(seed=number),
            row_id=f"row {prompt}",
            created_at=utc_now(),
        )
        for number, (name, text) in enumerate(texts.items())
    ]
    add_completions(store, made)
    return made


def make_queue(
    store: Store, prompts: int = 4, variants: Sequence[str] = ("one", "two", "three"), **options: object
) -> RankQueue:
    from workbench.preferences.queues import create_queue_from

    made = [
        answer
        for number in range(prompts)
        for answer in make_answers(store, f"Question {number}?", {name: f"{name} says {number}" for name in variants})
    ]
    return create_queue_from(store, f"queue {new_id('q')}", made, **options)  # type: ignore[arg-type]


def rank(store: Store, item: RankItem, order: Sequence[Sequence[int]], rater: str = "Ada", **vote: object) -> Ranking:
    """Rank by numbers of the item's answers."""
    tiers = [[item.completions[number] for number in tier] for tier in order]
    return rank_store.submit_ranking(store, item.id, rater, nonce=new_id("n"), tiers=tiers, **vote)  # type: ignore[arg-type]


def ballots(votes: Sequence[tuple[str, str, Sequence[int]]], shown: Sequence[int] | None = None) -> list[Ballot]:
    """Ballots from (rater, item, level of each answer)."""
    prompts: dict[str, int] = {}
    made = []
    for rater, item, levels in votes:
        ids = [f"{item}-{number}" for number in range(len(levels))]
        order = ids if shown is None else [ids[number] for number in shown]
        prompt = prompts.setdefault(item, len(prompts))
        made.append(Ballot(item, prompt, rater, tuple(order), dict(zip(ids, levels, strict=True)), False, False))
    return made


def as_votes(cast: Sequence[Ballot], variants: int) -> Votes:
    """Answer n of every item is by variant n."""
    names = "abcdefghi"[:variants]
    writers = {each: names[int(each.rpartition("-")[2])] for ballot in cast for each in ballot.levels}
    return Votes(tuple(cast), writers, {}, len({ballot.prompt for ballot in cast}))
