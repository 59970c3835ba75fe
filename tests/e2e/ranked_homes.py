"""A home in which two people have ranked answers that read like real ones, for pictures and for looking at figures."""

from __future__ import annotations

import json
import random
from importlib.resources import files

from workbench.records import Completion, Message, Ranking, RankQueue, Sampling, new_id, utc_now
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.store import rankings
from workbench.store.database import Store

NAMES = ("Base", "Fine-tuned", "DPO on rankings")
RATERS = {"Ada": 0.9, "Grace": 0.75}
"""Who ranks, and how often each sees what there is to see."""


def add_ranked(store: Store, *, prompts: int = 40, ranked: int = 34) -> RankQueue:
    """A queue over the assistant kit's held-out prompts, each shown to both raters, most of it ranked."""
    server = model_store.add_server(store, "lab", "http://127.0.0.1:9/v1", {})
    known = [model_store.add_variant(store, name, server_id=server.id, remote_model=name).id for name in NAMES]
    lines = (
        files("workbench.datasets").joinpath("kits/assistant/held_out.jsonl").read_text(encoding="utf-8").split("\n")
    )
    made: list[Completion] = []
    wanted = []
    for line in lines[:prompts]:
        told = json.loads(line)
        prompt = (Message(role="user", content=told["instruction"]),)
        ids = []
        for variant, text in zip(known, _answers(told["response"]), strict=True):
            ids.append(new_id("cmp"))
            made.append(
                Completion(
                    id=ids[-1], variant_id=variant, prompt=prompt, text=text, sampling=Sampling(), created_at=utc_now()
                )
            )
        wanted.append(rankings.NewItem(prompt=prompt, completions=tuple(ids)))
    answer_store.add_completions(store, made)
    queue = rankings.create_queue(
        store, "House format", wanted, overlap=2, guidelines="Prefer what is right, then what keeps the four lines."
    )
    rankings.add_rankings(store, _votes(rankings.list_items(store, [queue.id])[:ranked]))
    return queue


def _answers(reference: str) -> tuple[str, str, str]:
    """A rambling answer, one that keeps half of the format, and one that keeps all of it."""
    first, *points, following = reference.split("\n")
    said = first.removeprefix("Answer: ")
    rambling = f"That is a great question! {said} There is a lot more to say about this. {said} I hope this helps you."
    return rambling, f"{first}\n{following}", "\n".join([first, *points, following])


def _votes(items: list[rankings.RankItem]) -> list[Ranking]:
    dice = random.Random(0)
    votes = []
    for item in items:
        for rater, care in RATERS.items():
            best_first = list(reversed(item.completions))
            if dice.random() > care:
                dice.shuffle(best_first)
            shown = list(item.completions)
            dice.shuffle(shown)
            tied = dice.random() < 0.15
            tiers = [(best_first[0], best_first[1]), (best_first[2],)] if tied else [(each,) for each in best_first]
            votes.append(
                Ranking(
                    id=new_id("rk"), item_id=item.id, rater=rater, shown=tuple(shown), tiers=tuple(tiers),
                    confidence=dice.choice([3, 4, 5]), seconds=dice.uniform(6, 40), nonce=new_id("n"),
                    created_at=utc_now(),
                )
            )  # fmt: skip
    return votes
