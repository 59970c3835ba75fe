"""What a rater sees: letters and texts, and a warning where an answer names who wrote it."""

from __future__ import annotations

import pytest

from tests.preferences.voting import make_answers, make_queue
from workbench.errors import UsageError
from workbench.preferences.queues import blind_item, create_queue_from, leaks, place_letters
from workbench.records import Message, Model, ModelSource, Variant, utc_now
from workbench.store import rankings as rank_store
from workbench.store.database import Store


def a_variant(name: str, remote: str | None = None) -> Variant:
    return Variant(id="var_1", name=name, model_id=None, remote_model=remote, created_at=utc_now())


def test_a_rater_sees_letters_and_texts_in_their_own_order_and_no_ids(store: Store) -> None:
    queue = make_queue(store, prompts=1)
    handed = rank_store.next_item(store, queue.id, "Ada")
    assert handed is not None
    seen = blind_item(store, handed.item, handed.shown)
    found = rank_store.completions_by_id(store, handed.shown)
    assert [answer.letter for answer in seen.answers] == ["A", "B", "C"]
    assert [answer.text for answer in seen.answers] == [found[each].text for each in handed.shown]
    told = seen.model_dump_json()
    assert "var_" not in told and "cmp_" not in told and "repeat" not in told


def test_an_answer_that_names_its_writer_carries_a_warning(store: Store) -> None:
    made = make_answers(store, "Who?", {"Quill v2": "I am Quill V2.", "other": "A person."})
    queue = create_queue_from(store, "q", made)
    item = rank_store.list_items(store, [queue.id])[0]
    seen = blind_item(store, item, item.completions)
    assert [answer.names_itself for answer in seen.answers] == [True, False]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Hi, I'm ChatGPT, a model trained by OpenAI.", ["chatgpt", "openai"]),
        ("As an AI made by Google, I cannot.", ["google"]),
        ("I use Google and read about Meta and llamas.", []),
        ("My SMOLLM2-135M says so.", ["SmolLM2-135M", "smollm2"]),
        ("Ask tunedv2x or House Tune", []),
        ("This is the house TUNED style", ["house tuned"]),
        ("my name is Ada and I help.", ["Ada"]),
        ("Pepita weiß es.", ["Pepita"]),
        ("gpt-4o-mini told me", ["gpt-4o-mini", "gpt-4o"]),
        ("The base model is tuned.", []),
        ("", []),
    ],
)
def test_names_that_give_an_answer_away_are_found(text: str, found: list[str]) -> None:
    model = Model(
        id="mdl_1", name="base", source=ModelSource.HUB, reference="HuggingFaceTB/SmolLM2-135M", path=None,
        created_at=utc_now(),
    )  # fmt: skip
    prompt = [Message(role="system", content="You are Pepita, a guide."), Message(role="user", content="Who?")]
    variants = [a_variant("house tuned"), a_variant("base", "gpt-4o-mini"), a_variant("one")]
    assert sorted(leaks(text, variants, models=[model], prompt=prompt), key=str.lower) == sorted(found, key=str.lower)


def test_an_order_in_letters_is_read_with_ties_and_unusable() -> None:
    shown = ["c1", "c2", "c3", "c4"]
    assert place_letters(shown, "b a=C xD") == {"tiers": (("c2",), ("c1", "c3")), "unusable": ("c4",)}
    assert place_letters(shown, "B > A = C > D")["tiers"] == (("c2",), ("c1", "c3"), ("c4",))
    assert place_letters(shown, "A xBCD")["unusable"] == ("c2", "c3", "c4")
    for wrong in ("E", "1", "A==B", "="):
        with pytest.raises(UsageError, match="letter"):
            place_letters(shown, wrong)
