"""Votes: stored once, as rankings of source demo, in the order shown, and nothing before a vote."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running_demo import make_variants

from tests.pages.scripted_chat import ScriptedChat
from workbench.demo.arena import CHOICES, Arena
from workbench.demo.compare import Pane
from workbench.demo.configs import DemoConfig
from workbench.demo.limits import Refused
from workbench.errors import StoreProblem
from workbench.records import Completion, Message, RankQueue, Sampling, Variant, new_id, utc_now
from workbench.store import answers as answer_store
from workbench.store import rankings as ranking_store
from workbench.store.database import Store


@pytest.fixture
def variants(store: Store, chat: ScriptedChat) -> list[Variant]:
    return make_variants(store, chat, "echo", "hostile", "slow")


@pytest.fixture
def arena(store: Store, variants: list[Variant]) -> Arena:
    return Arena(store, DemoConfig(variants=tuple(item.id for item in variants), title="Which?"), "run_demo")


def answer(variant: Variant, text: str, prompt: str = "What?", error: str = "") -> Pane:
    completion = Completion(
        id=new_id("cmp"),
        variant_id=variant.id,
        prompt=(Message(role="user", content=prompt),),
        text=text,
        sampling=Sampling(seed=3),
        finish_reason="stop",
        created_at=utc_now(),
    )
    return Pane(variant, text=text, completion=completion, problem=error, done=True)


def queue_of(store: Store) -> RankQueue:
    (queue,) = ranking_store.list_queues(store)
    return queue


def test_nothing_is_stored_before_the_vote(store: Store, arena: Arena, variants: list[Variant]) -> None:
    arena.begin("me", [answer(variants[0], "one"), answer(variants[1], "two")])
    assert arena.waits_for("me")
    assert ranking_store.list_queues(store) == []
    assert answer_store.list_completions(store, variant_id=variants[0].id) == []


@pytest.mark.parametrize(("choice", "best"), [("A is better", 0), ("B is better", 1)])
def test_a_vote_is_a_ranking_with_the_order_shown(
    store: Store, arena: Arena, variants: list[Variant], choice: str, best: int
) -> None:
    panes = [answer(variants[1], "left"), answer(variants[0], "right")]
    arena.begin("me", panes)
    assert arena.vote("me", choice).names == (variants[1].name, variants[0].name)
    (ranking,) = ranking_store.list_rankings(store, queue_ids=[queue_of(store).id])
    ids = [pane.completion.id for pane in panes if pane.completion]
    assert ranking.shown == tuple(ids) and ranking.source == "demo"
    assert ranking.tiers == ((ids[best],), (ids[1 - best],))
    kept = answer_store.get_completion(store, ids[0])
    assert kept.text == "left" and kept.variant_id == variants[1].id and kept.sampling.seed == 3


def test_a_tie_and_two_bad_answers_are_stored_as_such(store: Store, arena: Arena, variants: list[Variant]) -> None:
    for visitor, choice in (("x", "Tie"), ("y", "Both are bad")):
        arena.begin(visitor, [answer(variants[0], "one"), answer(variants[1], "two")])
        arena.vote(visitor, choice)
    tie, bad = ranking_store.list_rankings(store, queue_ids=[queue_of(store).id])
    assert len(tie.tiers) == 1 and len(tie.tiers[0]) == 2
    assert bad.all_bad and bad.tiers == ()
    assert tie.rater != bad.rater and tie.rater.startswith("visitor-")


def test_a_vote_sent_again_or_changed_counts_once(store: Store, arena: Arena, variants: list[Variant]) -> None:
    arena.begin("me", [answer(variants[0], "one"), answer(variants[1], "two")])
    threads = [threading.Thread(target=arena.vote, args=("me", choice)) for choice in CHOICES * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (ranking,) = ranking_store.list_rankings(store)
    assert arena.votes == 1 and not arena.waits_for("me")
    assert arena.vote("me", "Tie").choice is not None and len(ranking_store.list_rankings(store)) == 1
    assert ranking.nonce.startswith("demo-")


def test_a_store_that_fails_once_loses_and_doubles_nothing(
    store: Store, arena: Arena, variants: list[Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    arena.begin("me", [answer(variants[0], "one"), answer(variants[1], "two")])
    submit = ranking_store.submit_ranking

    def fail(*_: object, **__: object) -> None:
        monkeypatch.setattr(ranking_store, "submit_ranking", submit)
        raise StoreProblem("the database is busy")

    monkeypatch.setattr(ranking_store, "submit_ranking", fail)
    with pytest.raises(StoreProblem):
        arena.vote("me", "Tie")
    assert arena.waits_for("me")
    arena.vote("me", "B is better")
    queue = queue_of(store)
    assert len(ranking_store.list_items(store, [queue.id])) == len(ranking_store.list_rankings(store)) == 1


def test_votes_of_all_demos_of_a_title_go_to_one_queue(store: Store, arena: Arena, variants: list[Variant]) -> None:
    other = Arena(store, DemoConfig(variants=tuple(item.id for item in variants), title=" Which? "), "run_other")
    for number, each in enumerate((arena, other, arena)):
        each.begin("me", [answer(variants[0], f"one {number}"), answer(variants[1], "two")])
        each.vote("me", "Tie")
    assert queue_of(store).name == "Demo: Which?"
    assert len(ranking_store.list_items(store, [queue_of(store).id])) == 3


def test_there_is_nothing_to_vote_on_without_two_whole_different_answers(arena: Arena, variants: list[Variant]) -> None:
    with pytest.raises(Refused, match="Ask a question first"):
        arena.vote("me", "Tie")
    with pytest.raises(Refused, match="same"):
        arena.begin("me", [answer(variants[0], "one"), answer(variants[1], " one\n")])
    with pytest.raises(Refused, match="could not answer"):
        arena.begin("me", [answer(variants[0], "one"), answer(variants[1], "t", error="broke off")])
    with pytest.raises(Refused, match="Ask a question first"):
        arena.vote("me", "Tie")
    arena.begin("me", [answer(variants[0], "one"), answer(variants[1], "two")])
    with pytest.raises(Refused, match="A vote is one of"):
        arena.vote("me", "A")
    with pytest.raises(Refused, match="Ask a question first"):
        arena.vote("somebody else", "Tie")


def test_pairs_are_drawn_from_all_variants_in_both_orders(arena: Arena, variants: list[Variant]) -> None:
    drawn = {tuple(item.id for item in arena.draw(variants)) for _ in range(300)}
    assert len(drawn) == 6 and all(left != right for left, right in drawn)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(min_size=1, max_size=30), st.sampled_from(CHOICES))
def test_any_text_can_be_voted_on(store: Store, arena: Arena, variants: list[Variant], text: str, choice: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    arena.begin("me", [answer(variants[0], text + "1", prompt=text), answer(variants[1], text + "2", prompt=text)])
    assert arena.vote("me", choice).choice == choice


def test_an_answer_that_names_its_model_is_told_before_the_vote(store: Store, arena: Arena, variants: list[Variant]):
    named, other = variants[0].remote_model or variants[0].name, "Blue."
    assert arena.begin("me", [answer(variants[0], "Red."), answer(variants[1], other)]) == ""
    telling = arena.begin("me", [answer(variants[1], other), answer(variants[0], f"I am ChatGPT, or {named}.")])
    assert telling.startswith("Answer B tells who may have written it.")
    assert named not in telling, "the warning itself stays blind"
    arena.vote("me", "A is better")
