"""Homes with a queue of stored answers of two variants that need no model."""

from __future__ import annotations

from pathlib import Path

from workbench.records import Completion, Message, RankQueue, Sampling, new_id, utc_now
from workbench.settings import Settings
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.store import rankings
from workbench.store.database import Store, open_store

NAMES = ("secret-base", "secret-tuned", "secret-third", "secret-fourth")


def make_queue(
    store: Store, *, items: int, answers: int = 2, name: str = "House style", guidelines: str = "", **options: object
) -> RankQueue:
    """A queue whose answers say which of an item they are: `answer 1 to question 7`."""
    known = {variant.name: variant.id for variant in model_store.list_variants(store)}
    if not known:
        server = model_store.add_server(store, "lab", "http://127.0.0.1:9/v1", {})
        known = {
            each: model_store.add_variant(store, each, server_id=server.id, remote_model=each).id for each in NAMES
        }
    made, wanted = [], []
    for number in range(items):
        prompt = (Message(role="user", content=f"Question {number}: how do I keep basil alive on a windowsill?"),)
        ids = []
        for answer, variant in zip(range(answers), NAMES * 3, strict=False):
            text = f"answer {answer} to question {number}\n" + "Water it when the top of the soil is dry. " * (
                answer + 1
            )
            completion = Completion(
                id=new_id("cmp"),
                variant_id=known[variant],
                prompt=prompt,
                text=text,
                sampling=Sampling(),
                created_at=utc_now(),
            )
            made.append(completion)
            ids.append(completion.id)
        wanted.append(rankings.NewItem(prompt=prompt, completions=tuple(ids)))
    answer_store.add_completions(store, made)
    return rankings.create_queue(store, name, wanted, guidelines=guidelines, **options)  # type: ignore[arg-type]


def open_home(home: Path) -> Store:
    return open_store(Settings(home=home))
