"""Queues of answers to rank (`queues`), who is at which item (`handing`), and the rankings (`votes`, `reading`).

Whose rankings are people's and whose a scorer's is told in `sources`.

What rankings mean is left to `workbench.preferences`.
"""

from __future__ import annotations

from workbench.store.rankings.handing import (
    CLAIM_MINUTES,
    REPEAT_GAP,
    HandedItem,
    display_order,
    next_item,
    next_items,
    others_hold,
    release_items,
    shown_order,
)
from workbench.store.rankings.queues import (
    NewItem,
    add_items,
    check_rater,
    count_items,
    create_queue,
    get_item,
    get_queue,
    list_items,
    list_queues,
    update_queue,
)
from workbench.store.rankings.reading import (
    ItemRow,
    VoteRow,
    VotesStamp,
    completion_variants,
    completions_by_id,
    count_by_source,
    list_item_rows,
    list_votes,
    votes_stamp,
)
from workbench.store.rankings.sources import DEMO, SCORER, Sources, sum_votes, voted_by
from workbench.store.rankings.votes import (
    QueueProgress,
    add_rankings,
    check_ranking,
    last_votes,
    list_rankings,
    queue_progress,
    submit_ranking,
    undo_last,
    undo_ranking,
)

__all__ = [
    "CLAIM_MINUTES",
    "DEMO",
    "HandedItem",
    "ItemRow",
    "NewItem",
    "QueueProgress",
    "REPEAT_GAP",
    "SCORER",
    "Sources",
    "VoteRow",
    "VotesStamp",
    "add_items",
    "add_rankings",
    "check_ranking",
    "check_rater",
    "completion_variants",
    "completions_by_id",
    "count_by_source",
    "count_items",
    "create_queue",
    "display_order",
    "get_item",
    "get_queue",
    "last_votes",
    "list_item_rows",
    "list_items",
    "list_queues",
    "list_rankings",
    "list_votes",
    "next_item",
    "next_items",
    "others_hold",
    "queue_progress",
    "release_items",
    "shown_order",
    "submit_ranking",
    "sum_votes",
    "undo_last",
    "undo_ranking",
    "update_queue",
    "voted_by",
    "votes_stamp",
]
