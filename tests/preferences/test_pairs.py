"""From rankings to pairs, labels, best answers, and versions of datasets."""

from __future__ import annotations

from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.preferences.voting import make_answers, make_queue, rank
from workbench.datasets.versions import iter_rows
from workbench.errors import Conflict, DataProblem, UsageError
from workbench.preferences.pairs import (
    build_examples,
    build_labels,
    build_preferences,
    iter_labels,
    load_ranked,
    ranking_pairs,
)
from workbench.preferences.queues import create_queue_from
from workbench.records import Example, Labelled, Preference, Ranking, Version, utc_now
from workbench.store import models as model_store
from workbench.store import rankings as rank_store
from workbench.store.database import Store


def a_ranking(tiers: list[list[str]], unusable: list[str] | None = None) -> Ranking:
    shown = tuple(each for tier in tiers for each in tier) + tuple(unusable or ())
    return Ranking(
        id="rk", item_id="ri", rater="Ada", shown=shown, tiers=tuple(map(tuple, tiers)),
        unusable=tuple(unusable or ()), nonce="n", created_at=utc_now(),
    )  # fmt: skip


def test_all_pairs_are_above_to_below_with_one_weight_each() -> None:
    pairs = ranking_pairs(a_ranking([["a"], ["b", "c"], ["d"]], ["e"]))
    assert [pair[:2] for pair in pairs] == [
        *(("a", each) for each in "bcde"), ("b", "d"), ("c", "d"), ("b", "e"), ("c", "e"), ("d", "e"),
    ]  # fmt: skip
    assert {pair.weight for pair in pairs} == {1 / comb(5, 2)}


def test_adjacent_pairs_skip_no_place_and_unusable_is_the_last_place() -> None:
    pairs = ranking_pairs(a_ranking([["a"], ["b", "c"], ["d"]], ["e"]), scheme="adjacent")
    assert [pair[:2] for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("d", "e")]
    with pytest.raises(UsageError, match="scheme"):
        ranking_pairs(a_ranking([["a"], ["b"]]), scheme="odd")  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(st.permutations("abcdefghi"), st.lists(st.integers(1, 4), min_size=1, max_size=9))
def test_weights_of_a_ranking_sum_to_the_share_of_pairs_it_decides(order: list[str], sizes: list[int]) -> None:
    tiers: list[list[str]] = []
    for size in sizes:
        taken = [order.pop() for _ in range(min(size, len(order)))]
        tiers += [taken] if taken else []
    ranking = a_ranking(tiers, order)
    tied = sum(comb(len(tier), 2) for tier in [*tiers, order])
    total = comb(9, 2)
    assert sum(pair.weight for pair in ranking_pairs(ranking)) == pytest.approx((total - tied) / total)


def test_all_bad_and_all_tied_give_no_pair() -> None:
    assert ranking_pairs(a_ranking([["a", "b", "c"]])) == []
    assert ranking_pairs(a_ranking([]).model_copy(update={"shown": ("a", "b"), "all_bad": True})) == []


def test_preferences_are_a_version_with_provenance_split_by_prompt(store: Store) -> None:
    queue = make_queue(store, prompts=20)
    for item in rank_store.list_items(store, [queue.id]):
        rank(store, item, [[2], [0, 1]], confidence=4)
    built = build_preferences(store, [queue.name], "Votes", held_out=0.2)
    assert built.held_out is not None and (built.rows, built.rankings) == (40, 20)
    rows = [row.payload for row in iter_rows(store, built.train)]
    held = [row.payload for row in iter_rows(store, built.held_out)]
    first = rows[0]
    assert isinstance(first, Preference) and first.weight == pytest.approx(1 / 3)
    assert (
        first.chosen[0].content.startswith("three") and first.meta["rater"] == "Ada" and first.meta["confidence"] == 4
    )
    chosen = first.meta["chosen"]
    assert isinstance(chosen, dict) and chosen["seed"] == 2 and chosen["position"] in (1, 2, 3)
    asked = [{row.prompt for row in part if isinstance(row, Preference)} for part in (rows, held)]
    assert not asked[0] & asked[1] and 2 <= len(asked[1]) <= 6


def test_new_votes_make_a_new_version_and_no_change_makes_none(store: Store) -> None:
    queue = make_queue(store, prompts=6)
    items = rank_store.list_items(store, [queue.id])
    for item in items[:5]:
        rank(store, item, [[0], [1], [2]])
    first = build_preferences(store, [queue.id], "Votes", held_out=0)
    assert build_preferences(store, [queue.id], "Votes", held_out=0).train == first.train
    rank(store, items[5], [[0], [1], [2]])
    second = build_preferences(store, [queue.id], "Votes", held_out=0)
    assert (second.train.number, second.train.parent_id, second.train.rows) == (2, first.train.id, 18)
    kept = {row.row_id for row in iter_rows(store, first.train)}
    assert kept < {row.row_id for row in iter_rows(store, second.train)}
    rank_store.undo_last(store, queue.id, "Ada")
    assert build_preferences(store, [queue.id], "Votes", held_out=0).train.content_hash == first.train.content_hash


def test_a_hidden_repeat_and_a_skip_give_no_rows(store: Store) -> None:
    queue = make_queue(store, prompts=3, repeats=0.5)
    while (handed := rank_store.next_item(store, queue.id, "Ada")) is not None:
        rank(store, handed.item, [[0], [1], [2]], shown=handed.shown)
    assert any(ranking.repeat for ranking in rank_store.list_rankings(store))
    skipped = rank_store.list_items(store, [queue.id])[0]
    rank_store.submit_ranking(store, skipped.id, "Ben", nonce="s", skipped="odd")
    assert build_preferences(store, [queue.id], "Votes", held_out=0).rows == 9


def test_ties_alone_make_no_dataset(store: Store) -> None:
    queue = make_queue(store, prompts=2)
    for item in rank_store.list_items(store, [queue.id]):
        rank(store, item, [[0, 1, 2]])
    with pytest.raises(DataProblem, match="none of 2 rankings prefers"):
        build_preferences(store, [queue.id], "Votes")


def test_one_prompt_is_trained_on_and_nothing_held_out(store: Store) -> None:
    queue = make_queue(store, prompts=1)
    rank(store, rank_store.list_items(store, [queue.id])[0], [[0], [1], [2]])
    built = build_preferences(store, [queue.id], "Votes", held_out=0.5)
    assert built.held_out is None and built.train.rows == 3


def test_a_dataset_of_another_make_is_not_overwritten(store: Store) -> None:
    from workbench.datasets.versions import write_version
    from workbench.store.datasets import create_dataset

    queue = make_queue(store, prompts=1)
    rank(store, rank_store.list_items(store, [queue.id])[0], [[0], [1], [2]])
    built = build_preferences(store, [queue.id], "Votes", held_out=0)
    write_version(
        store, built.train.dataset_id, [row.payload for row in iter_rows(store, built.train)][:1], parent=built.train
    )
    with pytest.raises(Conflict, match="changed since"):
        build_preferences(store, [queue.id], "Votes", held_out=0)
    create_dataset(store, "Other", "instructions")
    with pytest.raises(Conflict):
        build_preferences(store, [queue.id], "Other")


def test_labels_take_the_ends_and_all_bad_gives_negatives(store: Store) -> None:
    queue = make_queue(store, prompts=4)
    items = rank_store.list_items(store, [queue.id])
    rank(store, items[0], [[0], [1], [2]], edited="Mine.")
    rank(store, items[1], [], all_bad=True)
    rank(store, items[2], [[0, 1, 2]])
    rank(store, items[3], [[1]], unusable=[items[3].completions[0], items[3].completions[2]])
    told = [(row.completion[0].content, row.label) for row in iter_labels(load_ranked(store, [queue.id]))]
    assert told == [
        ("one says 0", True), ("three says 0", False), ("Mine.", True),
        *((text, False) for text in (f"{name} says 1" for name in told_names(items[1].completions, store))),
        ("two says 3", True), ("one says 3", False), ("three says 3", False),
    ]  # fmt: skip


def test_a_label_weighs_as_much_as_the_pairs_behind_it(store: Store) -> None:
    queue = make_queue(store, prompts=5, variants=("a", "b", "c", "d"))
    items = rank_store.list_items(store, [queue.id])
    rank(store, items[0], [[0], [1], [2], [3]], edited="Mine.")
    rank(store, items[1], [[0], [1, 2, 3]])
    rank(store, items[2], [[0, 1], [2, 3]])
    rank(store, items[3], [], all_bad=True)
    rank(store, items[4], [[0], [1]], unusable=[items[4].completions[2], items[4].completions[3]])
    said: dict[str, list[tuple[bool, float]]] = {}
    for row in iter_labels(load_ranked(store, [queue.id], held_out=0)):
        said.setdefault(row.prompt[0].content, []).append((row.label, row.weight))
    half, third, sixth = (pytest.approx(share) for share in (1 / 2, 1 / 3, 1 / 6))
    assert list(said.values()) == [
        [(True, half), (False, half), (True, 1.0)],
        [(True, half), *[(False, sixth)] * 3],
        [(True, third), (True, third), (False, third), (False, third)],
        [(False, 0.25)] * 4,
        [(True, half), (False, sixth), (False, third), (False, third)],
    ]
    for told in said.values():
        for side in (True, False):
            own = 1.0 if (True, 1.0) in told and side else 0.0  # a rater's own version stands beside the ranking
            assert sum(weight for label, weight in told if label is side) <= 1 + own + 1e-9


def test_labels_are_a_version_split_as_pairs_are_with_weights_and_provenance(store: Store) -> None:
    queue = make_queue(store, prompts=20)
    items = rank_store.list_items(store, [queue.id])
    for item in items[:18]:
        rank(store, item, [[2], [0], [1]], confidence=4)
    rank(store, items[18], [], all_bad=True)
    rank(store, items[19], [[0, 1, 2]], edited="Mine.")
    built = build_labels(store, [queue.name], "Told", held_out=0.2)
    pairs = build_preferences(store, [queue.name], "Votes", held_out=0.2)
    assert built.held_out is not None and pairs.held_out is not None
    assert store_kind(store, built.train) == store_kind(store, built.held_out) == "labels"
    assert (built.rows, built.rankings) == (2 * 18 + 3 + 1, 20)
    told = built.train.provenance["rankings"]
    assert isinstance(told, dict) and told["queues"] == [queue.id] and told["held_out"] == 0.2
    held = {row.payload.prompt for row in iter_rows(store, built.held_out) if isinstance(row.payload, Labelled)}
    train = [row.payload for row in iter_rows(store, built.train)]
    in_pairs = {row.payload.prompt for row in iter_rows(store, pairs.held_out) if isinstance(row.payload, Preference)}
    assert in_pairs == held - {items[18].prompt, items[19].prompt}
    assert not held & {row.prompt for row in train if isinstance(row, Labelled)}
    first = train[0]
    assert isinstance(first, Labelled) and first.label and first.weight == pytest.approx(2 / 3)
    assert first.meta["rater"] == "Ada" and first.meta["confidence"] == 4 and str(first.meta["ranking"])[:3] == "rk_"
    answer = first.meta["answer"]
    assert isinstance(answer, dict) and answer["seed"] == 2 and answer["position"] in (1, 2, 3)


def store_kind(store: Store, version: Version) -> str:
    from workbench.store.datasets import get_dataset

    return get_dataset(store, version.dataset_id).kind


def test_new_votes_make_a_new_version_of_labels_and_no_change_makes_none(store: Store) -> None:
    queue = make_queue(store, prompts=4)
    items = rank_store.list_items(store, [queue.id])
    rank(store, items[0], [[0], [1], [2]])
    first = build_labels(store, [queue.id], "Told", held_out=0)
    assert build_labels(store, [queue.id], "Told", held_out=0).train == first.train
    rank(store, items[1], [], all_bad=True)
    second = build_labels(store, [queue.id], "Told", held_out=0)
    assert (second.train.number, second.train.parent_id, second.train.rows) == (2, first.train.id, 5)
    assert {row.row_id for row in iter_rows(store, first.train)} < {
        row.row_id for row in iter_rows(store, second.train)
    }
    with pytest.raises(Conflict, match="was not made of rankings"):
        build_preferences(store, [queue.id], "Told", held_out=0)


def test_rankings_that_only_tie_make_no_labels(store: Store) -> None:
    queue = make_queue(store, prompts=2)
    for item in rank_store.list_items(store, [queue.id]):
        rank(store, item, [[0, 1, 2]])
    with pytest.raises(DataProblem, match="none of 2 rankings calls an answer good or bad"):
        build_labels(store, [queue.id], "Told")


def told_names(completions: tuple[str, ...], store: Store) -> list[str]:
    ranking = next(each for each in rank_store.list_rankings(store) if set(each.shown) == set(completions))
    by_id = rank_store.completions_by_id(store, ranking.shown)
    return [by_id[each].text.split()[0] for each in ranking.shown]


def test_the_best_answer_or_the_raters_own_becomes_an_example(store: Store) -> None:
    queue = make_queue(store, prompts=4, overlap=2)
    items = rank_store.list_items(store, [queue.id])
    rank(store, items[0], [[1], [0], [2]])
    rank(store, items[0], [[1, 0], [2]], "Ben")
    rank(store, items[1], [[0], [1, 2]], edited="Better 名前.")
    rank(store, items[2], [[0], [1], [2]])
    rank(store, items[2], [[1], [0], [2]], "Ben")
    rank(store, items[3], [], all_bad=True)
    built = build_examples(store, [queue.id], "Best")
    rows = [row.payload for row in iter_rows(store, built.train)]
    assert all(isinstance(row, Example) for row in rows)
    assert [row.messages[-1].content for row in rows if isinstance(row, Example)] == ["two says 0", "Better 名前."]
    assert [row.meta["edited"] for row in rows] == [False, True]


def test_a_variant_put_away_meanwhile_still_counts(store: Store) -> None:
    from workbench.preferences.leaderboard import load_leaderboard

    queue = make_queue(store, prompts=3)
    items = rank_store.list_items(store, [queue.id])
    rank(store, items[0], [[0], [1], [2]])
    gone = model_store.get_variant(store, "one")
    model_store.update_variant(store, gone.id, archived_at=utc_now())
    rank(store, items[1], [[0], [1], [2]])
    board = load_leaderboard(store, [queue.name])
    assert board.archived == (gone.id,) and board.names[board.ratings[0].variant_id] == "one"
    assert build_preferences(store, [queue.id], "Votes", held_out=0).rows == 6


def test_identical_answers_are_one_answer_and_tie(store: Store) -> None:
    from workbench.preferences.leaderboard import load_leaderboard

    same = make_answers(store, "Same?", {"one": "Yes.", "two": " Yes.", "three": "No."})
    all_same = make_answers(store, "All same?", {"one": "Yes.", "two": "Yes."})
    alone = make_answers(store, "Alone?", {"one": "Yes."})
    queue = create_queue_from(store, "q", [*same, *all_same, *alone])
    [item] = rank_store.list_items(store, [queue.id])
    assert item.completions == (same[0].id, same[2].id) and item.merged == {same[0].id: (same[1].id,)}
    assert queue.source["left_out"] == {"failed": 0, "alone": 1, "identical": 1}
    rank(store, item, [[0], [1]])
    pairs = {(pair.wins, pair.losses, pair.ties) for pair in load_leaderboard(store, [queue.id]).pairs}
    assert pairs == {(1, 0, 0), (0, 0, 1)}
    with pytest.raises(UsageError, match="nothing to rank: 1 prompts with only one answer"):
        create_queue_from(store, "none", alone)
    many = make_answers(store, "Many?", {f"v{n}": f"text {n}" for n in range(10)})
    with pytest.raises(UsageError, match="at most 9"):
        create_queue_from(store, "many", many)
