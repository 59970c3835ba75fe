"""A home with a tiny model, an adapter of it, and two people's rankings of its answers."""

from __future__ import annotations

from pathlib import Path

from tests import tiny
from workbench.datasets.versions import write_version
from workbench.records import Completion, Message, Prompt, Sampling, new_id, utc_now
from workbench.settings import Settings
from workbench.store import answers as answer_store
from workbench.store import rankings
from workbench.store.database import Store, open_store
from workbench.store.datasets import create_dataset

COLOURS = ("red", "green", "blue", "brown", "white", "grey")
PROMPTS = "Questions"


def make_home(home: Path, *, prompts: int = 24) -> Store:
    """Whoever ranked liked answers that name a colour and end, and liked rambling least."""
    store = open_store(Settings(home=home))
    model = tiny.register_model(store, tiny.make_model(home.parent / "base"))
    folder = tiny.make_adapter(Path(str(model.path)), home.parent / "tuned", scale=0.05)
    tuned = tiny.register_variant(store, model, folder, name="fine-tuned")
    made, items, asked = [], [], []
    for number in range(prompts):
        colour = COLOURS[number % len(COLOURS)]
        prompt = (Message(role="user", content=f"What is the colour of thing {number}? Name it."),)
        asked.append(Prompt(messages=prompt))
        texts = (f"The colour is {colour}.", f"{colour}, and the wind sings over the sea", "0123456789 " * 3)
        answers = [
            Completion(
                id=new_id("cmp"), variant_id=tuned.id, prompt=prompt, text=text, sampling=Sampling(),
                created_at=utc_now(), finish_reason="stop",
            )
            for text in texts
        ]  # fmt: skip
        made += answers
        items.append(rankings.NewItem(prompt=prompt, completions=tuple(each.id for each in answers)))
    answer_store.add_completions(store, made)
    write_version(store, create_dataset(store, PROMPTS, "prompts").id, asked)
    queue = rankings.create_queue(store, "House style", items, overlap=2)
    for rater in ("Ada", "Bo"):
        for place, item in enumerate(rankings.list_items(store, [queue.id])):
            best, middle, worst = item.completions
            turned = rater == "Bo" and place % 5 == 0  # two people never agree all the time
            tiers = [[middle], [best], [worst]] if turned else [[best], [middle], [worst]]
            rankings.submit_ranking(
                store, item.id, rater, shown=item.completions, tiers=tiers, confidence=1 + place % 3,
                nonce=f"{rater}-{place}",
            )  # fmt: skip
    return store
