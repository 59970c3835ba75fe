"""A scorer in a rater's place."""

from __future__ import annotations

import pytest

from tests.preferences.voting import make_answers
from workbench.errors import NotFound, UsageError
from workbench.evaluation.rank_by_scorer import rank_by_scorer
from workbench.preferences.pairs import load_ranked, ranking_pairs
from workbench.preferences.queues import create_queue_from
from workbench.records import Score
from workbench.scoring.scorers import REWARD
from workbench.store import answers as answer_store
from workbench.store import rankings as rank_store
from workbench.store import runs as run_store
from workbench.store.database import Store

WHOLE = "Answer: Yes.\n- One.\n- Two.\nNext: More?"
HALF = "Answer: Yes.\n- One.\n- Two.\nNext"


def test_answers_that_keep_more_rules_stand_higher_and_equal_ones_tie(store: Store) -> None:
    texts = {"none": "no", "whole": WHOLE, "half": HALF, "other": "never"}
    made = make_answers(store, "Q", texts)
    queue = create_queue_from(store, "q", made)
    assert rank_by_scorer(store, "q", "assistant") == 1
    (ranking,) = rank_store.list_rankings(store, queue_ids=[queue.id])
    by_id = {each.id: each.text for each in made}
    assert [sorted(by_id[each] for each in tier) for tier in ranking.tiers] == [[WHOLE], [HALF], ["never", "no"]]
    assert (ranking.source, ranking.rater) == ("scorer", "scorer: assistant")
    assert len(ranking_pairs(ranking)) == 5  # the tie gives none
    assert rank_by_scorer(store, queue.id, "assistant") == 0  # a second time changes nothing
    assert load_ranked(store, ["q"], held_out=0).items[0].rankings == (ranking,)


def test_a_reward_model_ranks_by_the_scores_it_gave(store: Store) -> None:
    run = run_store.add_run(store, kind="sample", name="s", slot="bulk", spec={})
    made = make_answers(store, "Q", {"a": "one", "b": "two"})
    kept = [each.model_copy(update={"id": f"{each.id}_r", "run_id": run.id}) for each in made]
    answer_store.add_completions(store, kept)
    queue = create_queue_from(store, "q", kept)
    with pytest.raises(NotFound, match="nobody"):
        rank_by_scorer(store, "q", f"{REWARD}nobody")
    scorer = f"{REWARD}{run_store.add_run(store, kind='reward', name='taste', slot='train', spec={}).id}"
    with pytest.raises(UsageError, match="says nothing"):
        rank_by_scorer(store, "q", scorer)
    answer_store.add_scores(
        store,
        [
            Score(completion_id=each.id, scorer=scorer, value=value)
            for each, value in zip(kept, (-1.0, 0.5), strict=True)
        ],
    )
    assert rank_by_scorer(store, "q", scorer) == 1
    (ranking,) = rank_store.list_rankings(store, queue_ids=[queue.id])
    assert ranking.tiers == ((kept[1].id,), (kept[0].id,))


def test_unknown_scorers_and_queues_are_refused_and_a_metric_needs_references(store: Store) -> None:
    create_queue_from(store, "q", make_answers(store, "Q", {"a": "one", "b": "two"}))
    with pytest.raises(UsageError, match="no such scorer"):
        rank_by_scorer(store, "q", "taste")
    with pytest.raises(NotFound):
        rank_by_scorer(store, "nothing", "assistant")
    with pytest.raises(UsageError, match="says nothing"):
        rank_by_scorer(store, "q", "chrf")
