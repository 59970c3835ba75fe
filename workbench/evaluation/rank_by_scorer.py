"""Rankings that a scorer makes instead of a person: for a measured loop, a first reward, a check of what people say.

They are kept as rankings with the source `scorer` and a rater named after the scorer, so that nobody takes them for
people's: people are still handed every item, and what is counted over people leaves them out. The more rules an answer
keeps, or the higher its figure, the further up it stands; equal figures are ties.
"""

from __future__ import annotations

from collections.abc import Mapping

from workbench.errors import UsageError
from workbench.evaluation.prompts import planned_answers, read_prompts
from workbench.records import Completion, Ranking, RankItem, RankQueue, new_id, utc_now
from workbench.scoring.scorers import REWARD, check_scorers, score_completion
from workbench.store import answers as answer_store
from workbench.store import rankings as rank_store
from workbench.store import runs as run_store
from workbench.store.database import Store

RATER = "scorer: "
"""What the name of such a rater begins with."""
SAME = 1e-9


def rank_by_scorer(store: Store, queue: str, scorer: str) -> int:
    """Rank every item of a queue by a scorer's figure; items that it ranked before are left as they are.

    Args:
        store: the store.
        queue: name or id.
        scorer: a rule scorer, a metric (the prompts need references), or `reward:<run id>` once a `score` run has
            scored the queue's answers.

    Returns:
        How many items were ranked now.

    Raises:
        NotFound: no such queue.
        UsageError: no such scorer, or it says nothing of these answers.
    """
    found = rank_store.get_queue(store, queue)
    if not scorer.startswith(REWARD):
        check_scorers([scorer])
    items = rank_store.list_items(store, [found.id])
    completions = rank_store.completions_by_id(store, [each for item in items for each in item.completions])
    figures = _figures(store, found, items, completions, scorer)
    rankings = [_rank(item, figures, scorer) for item in items if all(each in figures for each in item.completions)]
    if not rankings:
        if scorer.startswith(REWARD):
            run_store.get_run(store, scorer.removeprefix(REWARD))  # an unknown one is told as such
        raise UsageError(
            "this scorer says nothing of the answers in the queue",
            place="scorer",
            value=scorer,
            remedy="A metric needs prompts with references; a reward model has to score the answers first.",
        )
    return rank_store.add_rankings(store, rankings)


def _figures(
    store: Store, queue: RankQueue, items: list[RankItem], completions: Mapping[str, Completion], scorer: str
) -> dict[str, float]:
    """Figure of each answer, by completion id; taken from the store where it was worked out before."""
    run = run_store.get_run(store, str(queue.source["run"])) if queue.source.get("run") else None
    known = {
        score.completion_id: score.value
        for run_id in {completion.run_id for completion in completions.values() if completion.run_id}
        for score in answer_store.list_scores(store, run_id)
        if score.scorer == scorer and score.value is not None
    }
    if scorer.startswith(REWARD):
        return known
    prompts = read_prompts(store, planned_answers(store, run)) if run is not None else []
    references = {prompt.row_id: prompt.reference for prompt in prompts}
    for item in items:
        for each in item.completions:
            completion = completions.get(each)
            if each in known or completion is None:
                continue
            score = score_completion(scorer, completion, references.get(item.row_id or ""))
            if score is not None and score.value is not None:
                known[each] = score.value
    return known


def _rank(item: RankItem, figures: Mapping[str, float], scorer: str) -> Ranking:
    tiers: list[list[str]] = []
    for each in sorted(item.completions, key=lambda completion: -figures[completion]):
        if tiers and figures[tiers[-1][0]] - figures[each] <= SAME:
            tiers[-1].append(each)
        else:
            tiers.append([each])
    return Ranking(
        id=new_id("rk"),
        item_id=item.id,
        rater=f"{RATER}{scorer}",
        shown=item.completions,
        tiers=tuple(map(tuple, tiers)),
        source=rank_store.SCORER,
        nonce=f"{RATER}{scorer}:{item.id}",
        created_at=utc_now(),
    )
