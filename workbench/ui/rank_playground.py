"""From the Playground into Rank: the answers to the last prompt become an item of a queue."""

from __future__ import annotations

import streamlit as st

from workbench.api import Workspace
from workbench.errors import NotFound, UsageError
from workbench.preferences.queues import make_items
from workbench.records import Conversation, RankItem
from workbench.store import rankings
from workbench.ui.conversation import Answers
from workbench.ui.errors import shown_errors
from workbench.ui.links import RANK, go_to, queue_query

QUEUE = "Playground"


def show_rank_these(ws: Workspace, conversation: Conversation, answers: Answers) -> None:
    """The button that puts the last prompt's answers into the Playground's queue and opens it."""
    last = len(conversation.user_turns) - 1
    ready = [key for key in answers if key[0] == last and answers[key].error is None]
    if len(ready) < 2:
        return
    if st.button(
        "Rank these",
        icon=":material/social_leaderboard:",
        key="playground.rank",
        help="Puts the answers to the last prompt into the queue “Playground” and opens it there, to be ranked blind.",
    ):
        with shown_errors():
            item = queue_answers(ws, conversation, answers)
            go_to(RANK, **queue_query(item.queue_id, item.id))


def queue_answers(ws: Workspace, conversation: Conversation, answers: Answers) -> RankItem:
    """Add the answers to a conversation's last prompt to the Playground's queue, once however often it is asked.

    The queue is shared and may hold other items that nobody has ranked yet; the page is opened at the item given back.

    Args:
        ws: the workspace.
        conversation: it has a last prompt.
        answers: of `load_answers`.

    Raises:
        UsageError: there are no two different answers to it.
    """
    last = len(conversation.user_turns) - 1
    given = [answers[last, variant] for variant in conversation.variants if (last, variant) in answers]
    # Panes saw their own earlier answers, so their prompts may differ; a rater sees the first pane's conversation.
    made = make_items([answer.model_copy(update={"prompt": given[0].prompt, "row_id": None}) for answer in given])
    if not made.items:
        raise UsageError(
            f"there is nothing to rank: {made.left_out or 'no answers'}",
            place="Playground",
            remedy="Ask with another variant, or with another seed and a temperature above 0.",
        )
    source = {"conversation": conversation.id, "variants": list(conversation.variants)}
    try:
        queue = rankings.get_queue(ws.store, QUEUE)
    except NotFound:
        queue = rankings.create_queue(ws.store, QUEUE, made.items, source=source)
    if queue.archived_at is not None:
        queue = rankings.update_queue(ws.store, queue.id, archived_at=None)
    # All were made to answer one prompt, so they are one item.
    known = [
        item for item in rankings.list_items(ws.store, [queue.id]) if item.completions == made.items[0].completions
    ]
    return known[0] if known else rankings.add_items(ws.store, queue.id, made.items)[0]
