"""People's votes, demo visitors' and scorers': who counts where."""

from __future__ import annotations

from typing import Any

import pytest

from tests.preferences.voting import make_queue, rank
from workbench.datasets.versions import iter_rows
from workbench.errors import UsageError
from workbench.evaluation.rank_by_scorer import rank_by_scorer
from workbench.preferences.exports import export_rankings
from workbench.preferences.imports import import_rankings
from workbench.preferences.leaderboard import BY_SCORERS, load_leaderboard
from workbench.preferences.pairs import build_examples, build_preferences
from workbench.preferences.votes import read_votes
from workbench.records import Preference, RankItem, RankQueue
from workbench.store import rankings as rank_store
from workbench.store.database import Store

SCORER = "scorer: rules"


def score(store: Store, items: list[RankItem], order: list[list[int]]) -> None:
    """A scorer's rankings; like real ones they say that the answers were shown as they stand."""
    for item in items:
        rank(store, item, order, SCORER, source="scorer", shown=item.completions)


def queue_with_items(store: Store, prompts: int, **options: Any) -> tuple[RankQueue, list[RankItem]]:
    queue = make_queue(store, prompts, **options)
    return queue, rank_store.list_items(store, [queue.id])


def best(store: Store, queue: RankQueue, **options: Any) -> str:
    board = load_leaderboard(store, [queue.id], **options)
    return board.names[board.ratings[0].variant_id]


def test_the_leaderboard_counts_people_and_looks_at_scorers_where_asked(store: Store) -> None:
    queue, items = queue_with_items(store, 12)
    score(store, items, [[2], [1], [0]])
    for item in items[:4]:
        rank(store, item, [[0], [1], [2]], "Ada")
    board = load_leaderboard(store, [queue.id])
    assert (board.votes, board.raters, board.sources) == (4, ("Ada",), "people")
    assert board.voted == {"rank": 4, "scorer": 12} and board.rater_sources == {"Ada": ("rank",)}
    assert board.names[board.ratings[0].variant_id] == "one"
    assert board.notes[0] == board.made_by == "Votes of people; 12 that a scorer made are left out."
    scored = load_leaderboard(store, [queue.id], sources="scorers")
    assert (scored.votes, scored.raters, scored.names[scored.ratings[0].variant_id]) == (12, (SCORER,), "three")
    assert scored.notes[0] == f"{BY_SCORERS} People's 4 votes are left out."
    assert (
        all("preferred" not in sentence for sentence in scored.conclusions) and "placed above" in scored.conclusions[0]
    )
    both = load_leaderboard(store, [queue.id], sources="all")
    assert both.votes == 16 and set(both.raters) == {"Ada", SCORER}
    assert both.agreement.items == 4 and both.agreement.same is not None and both.agreement.same.value == 0
    assert both.notes[0] == "12 of 16 votes were made by a scorer, not by people."
    with pytest.raises(UsageError, match="no such votes"):
        load_leaderboard(store, [queue.id], sources="robots")  # type: ignore[arg-type]


def test_a_queue_that_only_a_scorer_ranked_shows_its_votes_and_says_whose_they_are(store: Store) -> None:
    queue, items = queue_with_items(store, 5)
    score(store, items, [[1], [0], [2]])
    board = load_leaderboard(store, [queue.id])
    assert (board.sources, board.votes, board.made_by) == ("scorers", 5, BY_SCORERS)
    assert best(store, queue) == "two" and BY_SCORERS in board.notes
    assert load_leaderboard(store, [queue.id], sources="people").votes == 0
    rank(store, items[0], [[0], [1], [2]])  # the first person's vote changes what is shown unasked
    assert load_leaderboard(store, [queue.id]).sources == "people" and best(store, queue) == "one"


def test_votes_of_people_alone_carry_no_remark(store: Store) -> None:
    queue, items = queue_with_items(store, 2)
    rank(store, items[0], [[0], [1], [2]])
    board = load_leaderboard(store, [queue.id])
    assert board.made_by == "" and not any("scorer" in note for note in board.notes)


def test_a_demos_visitors_are_people_and_can_be_looked_at_alone(store: Store) -> None:
    queue, items = queue_with_items(store, 4, overlap=2)
    for item in items:
        rank(store, item, [[0], [1], [2]], "visitor 1", source="demo")
    rank(store, items[0], [[1], [0], [2]], "Ada")
    rank(store, items[1], [[1], [0], [2]], "Imported", source="import")
    assert load_leaderboard(store, [queue.id]).votes == 6
    visitors = load_leaderboard(store, [queue.id], sources="visitors")
    assert (visitors.votes, visitors.raters, best(store, queue, sources="visitors")) == (4, ("visitor 1",), "one")


@pytest.mark.parametrize("sources", ["scorers", "all"])
def test_a_scorer_never_counts_in_the_position_audit(store: Store, sources: Any) -> None:
    queue, items = queue_with_items(store, 30)
    score(store, items, [[0], [1], [2]])  # always the first as it stands
    board = load_leaderboard(store, [queue.id], sources=sources)
    assert board.votes == 30 and board.positions == () and not board.flagged
    rank(store, items[0], [[0], [1], [2]], "Ada")
    told = load_leaderboard(store, [queue.id], sources="all").positions
    assert [(share.rater, share.first.n) for share in told] == [(None, 1), ("Ada", 1)]


def test_two_scorers_do_not_make_people_agree(store: Store) -> None:
    queue, items = queue_with_items(store, 6)
    score(store, items, [[0], [1], [2]])
    for item in items:
        rank(store, item, [[0], [1], [2]], "scorer: other", source="scorer")
        rank(store, item, [[2], [1], [0]], "Ada")
    assert load_leaderboard(store, [queue.id]).agreement.items == 0
    assert load_leaderboard(store, [queue.id], sources="scorers").agreement.raters == 2
    assert {ballot.source for ballot in read_votes(store, [queue.id]).ballots} == {"rank"}


def test_where_people_ranked_an_item_a_scorers_ranking_of_it_makes_no_pairs(store: Store) -> None:
    queue, items = queue_with_items(store, 5)
    score(store, items, [[2], [1], [0]])
    rank(store, items[0], [[0], [1], [2]], "Ada")
    rank_store.submit_ranking(
        store, items[1].id, "Ada", nonce="s", skipped="odd"
    )  # says nothing, so the scorer's counts
    built = build_preferences(store, [queue.id], "Votes", held_out=0)
    assert (built.rankings, built.rows, built.sources) == (5, 15, {"rank": 1, "scorer": 4})
    told: Any = built.train.provenance["rankings"]
    assert told["sources"] == {"rank": 1, "scorer": 4} and told["count"] == 5
    rows = [row.payload for row in iter_rows(store, built.train)]
    whose = {
        source: {row.meta["item"] for row in rows if isinstance(row, Preference) and row.meta["source"] == source}
        for source in ("rank", "scorer")
    }
    assert whose == {"rank": {items[0].id}, "scorer": {item.id for item in items[1:]}}
    examples = build_examples(store, [queue.id], "Best")
    first = next(row.payload for row in iter_rows(store, examples.train))
    assert examples.sources == {"rank": 1, "scorer": 4} and first.meta["raters"] == ["Ada"]


def test_a_scorers_rankings_stay_a_scorers_through_a_file(store: Store, tmp_path: Any) -> None:
    queue, items = queue_with_items(store, 3)
    score(store, items, [[0], [1], [2]])
    back = import_rankings(store, export_rankings(store, queue.id, tmp_path / "r.jsonl"), "back")
    assert load_leaderboard(store, [back.id]).made_by == BY_SCORERS
    assert rank_store.queue_progress(store, back.id, "Ada").left == 3


def test_after_a_scorer_ranked_a_queue_a_person_is_handed_every_item(store: Store) -> None:
    queue, items = queue_with_items(store, 3)
    assert rank_by_scorer(store, queue.id, "assistant") == 3
    voted = []
    while (handed := rank_store.next_item(store, queue.id, "Ada")) is not None:
        rank(store, handed.item, [[0], [1], [2]], shown=handed.shown)
        voted.append(handed.item.id)
    assert voted == [item.id for item in items]
