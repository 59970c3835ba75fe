"""Queues with votes, made through the store's own functions: for benchmarks of what reads them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.store.database import Store

WRITERS = 4
"""Answers to a prompt, each by another variant; the first writes the best one more often than the others."""


def add_votes(store: Store, *, queues: int, items: int, raters: int) -> list[str]:
    """Add queues in which every item was ranked by every rater: queues × items × raters votes. Returns queue ids.

    The variants are put away, as those of an import are, so that no page offers them.
    """
    from workbench.records import Completion, Message, Ranking, Sampling, new_id, utc_now
    from workbench.store import answers, models, rankings

    dice, now = random.Random(1), utc_now()
    writers = [models.add_variant(store, f"writer {number}").id for number in range(WRITERS)]
    for writer in writers:
        models.update_variant(store, writer, archived_at=now)
    made = []
    for number in range(queues):
        wanted, given = [], []
        for item in range(items):
            prompt = (Message(role="user", content=f"Question {number}.{item}: how would you explain it to a child?"),)
            texts = [
                Completion(
                    id=new_id("cmp"),
                    variant_id=writer,
                    prompt=prompt,
                    text=f"An answer of writer {place} to {number}.{item}.",
                    sampling=Sampling(),
                    created_at=now,
                )
                for place, writer in enumerate(writers)
            ]
            given += texts
            wanted.append(rankings.NewItem(prompt=prompt, completions=tuple(each.id for each in texts)))
        answers.add_completions(store, given)
        queue = rankings.create_queue(store, f"votes {number}", wanted, overlap=raters)
        made.append(queue.id)
        rankings.add_rankings(
            store,
            [
                Ranking(
                    id=new_id("rk"),
                    item_id=item.id,
                    rater=f"rater {rater}",
                    shown=tuple(dice.sample(item.completions, WRITERS)),
                    tiers=_order(dice, item.completions),
                    confidence=dice.randint(1, 5),
                    nonce=new_id("n"),
                    created_at=utc_now(),
                )
                for item in rankings.list_items(store, [queue.id])
                for rater in range(raters)
            ],
        )
    return made


def _order(dice: random.Random, completions: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    order = sorted(range(len(completions)), key=lambda place: place + dice.gauss(0, 2))
    return tuple((completions[place],) for place in order)
