from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.growing_homes import add_grown
from workbench.errors import UsageError
from workbench.records import utc_now
from workbench.self_instruct.deciding import redecide
from workbench.self_instruct.filters import TOO_SIMILAR
from workbench.self_instruct.prompts import SeedTask
from workbench.self_instruct.review import load_board, usable_instances
from workbench.self_instruct.seeds import install_seeds, read_seeds
from workbench.self_instruct.similarity import Similarities
from workbench.store import candidates as candidate_store
from workbench.store.candidates import Candidate, Instance
from workbench.store.database import Store

WORDS = ["sort", "the", "list", "of", "names", "words", "—", "a", "b"]
texts = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
states = st.sampled_from([(None, True), (TOO_SIMILAR, False), (TOO_SIMILAR, True), ("too_short", False)])


def candidate(position: int, text: str, reason: str | None, answered: bool) -> Candidate:
    instances = (Instance(output="yes"), Instance(output="", reason="instance_empty")) if answered else None
    return Candidate(id=f"can_{position}", run_id="run_1", position=position, round=1, reply_id="rep_1",
                     instruction=text, reason=reason, instances=instances, created_at=utc_now())  # fmt: skip


@settings(max_examples=150)
@given(
    st.lists(texts, max_size=6),
    st.lists(st.tuples(texts, states), max_size=25),
    st.sampled_from([0.3, 0.5, 2 / 3, 0.7, 0.99, 1.0]),
)
def test_a_fast_decision_counts_what_the_slow_one_decides(
    seeds: list[str], tasks: list[tuple[str, tuple[str | None, bool]]], threshold: float
):
    pool = [SeedTask(row_id=str(n), instruction=text, output="o") for n, text in enumerate(seeds)]
    found = [candidate(n, text, reason, answered) for n, (text, (reason, answered)) in enumerate(tasks)]
    told = Similarities(found, pool, 0.3).decide(threshold)
    slow = redecide(found, pool, threshold)
    kept = [each for each in slow if each.state == "kept"]
    assert (told.kept, told.examples) == (len(kept), sum(len(usable_instances(each)) for each in kept))
    assert told.too_similar == sum(each.reason == TOO_SIMILAR for each in slow)
    assert told.waiting == sum(each.state == "waiting" for each in slow)


def test_a_run_is_counted_as_it_was_decided(store: Store):
    run = add_grown(store)
    seeds = read_seeds(store, install_seeds(store))
    similarities = Similarities(candidate_store.list_candidates(store, run.id), seeds, 0.2)
    for threshold in (0.2, 0.4, 0.7, 0.95):
        board = load_board(store, run.id, threshold=threshold)
        assert similarities.decide(threshold).kept == sum(each.state == "kept" for each in board.candidates)


def test_a_threshold_below_the_floor_is_refused():
    with pytest.raises(UsageError, match="out of bounds"):
        Similarities([], [], 0.3).decide(0.2)
    assert Similarities([], [], 0.3).decide(0.7).kept == 0
