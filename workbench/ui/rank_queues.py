"""Queues: the list with how far each is, what a queue's page shows above the desk, and the links for raters."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlsplit

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.errors import NotFound
from workbench.records import RankQueue, utc_now
from workbench.store import rankings
from workbench.ui.errors import show_problem
from workbench.ui.links import LEADERBOARD, RANK, go_to, link_to, queue_query
from workbench.ui.paging import times
from workbench.ui.rank_export import show_export
from workbench.ui.state import ONLY_PARAM, QUEUE_PARAM, RATER_PARAM
from workbench.ui.store import store_key
from workbench.ui.text import count, plain


def find_queue(ws: Workspace) -> RankQueue | None:
    """The queue that the address names; None where it names none, or none that is there."""
    wanted = st.query_params.get(QUEUE_PARAM)
    if not wanted:
        return None
    try:
        return rankings.get_queue(ws.store, wanted)
    except NotFound as error:
        show_problem(error)
        return None


def show_queues(ws: Workspace, queues: Sequence[RankQueue]) -> None:
    """The list, newest first; a click opens a queue's desk."""
    items, stamp = rankings.count_items(ws.store), rankings.votes_stamp(ws.store)
    progress = [
        _progress(ws, store_key(ws), queue.id, queue.overlap, items.get(queue.id, 0), stamp) for queue in queues
    ]
    scored = any(item.by_scorers for item in progress)
    table = pd.DataFrame(
        {
            "open": ["Rank" for _ in queues],
            "name": [queue.name for queue in queues],
            "done": [item.done / item.total if item.total else 0.0 for item in progress],
            "items": [item.total for item in progress],
            "votes": [item.votes for item in progress],
            "raters": [item.raters for item in progress],
            **({"by_scorers": [item.by_scorers for item in progress]} if scored else {}),
            "created": times([queue.created_at for queue in queues]),
        }
    )
    st.dataframe(
        table,
        hide_index=True,
        key="rank.queues",
        height="content",
        alt="Queues, newest first",
        column_config={
            "open": st.column_config.ButtonColumn("", width=70, type="tertiary", key="rank.open"),
            "name": st.column_config.TextColumn("Queue", width=260),
            "done": st.column_config.ProgressColumn(
                "Done",
                min_value=0,
                max_value=1,
                format="percent",
                help="Items with as many people's votes as were asked for.",
            ),
            "items": st.column_config.NumberColumn("Items", format="localized"),
            "votes": st.column_config.NumberColumn("Votes", format="localized"),
            "raters": st.column_config.NumberColumn("Raters"),
            "by_scorers": st.column_config.NumberColumn(
                "By scorers", format="localized", help="Rankings a scorer made. People still rank every item."
            ),
            "created": st.column_config.DatetimeColumn("Created", format="distance"),
        },
    )
    click = st.session_state.get("rank.open")
    if click is not None and 0 <= click["row"] < len(queues):
        go_to(RANK, **queue_query(queues[click["row"]].id))


# Worked out once for each time a vote is given or taken back, an item comes, or more raters are asked for.
@st.cache_data(max_entries=256, show_spinner=False)
def _progress(
    _ws: Workspace, home: str, queue_id: str, overlap: int, items: int, stamp: rankings.VotesStamp
) -> rankings.QueueProgress:
    return rankings.queue_progress(_ws.store, queue_id)


def rater_link(queue: RankQueue, rater: str = "") -> str:
    """The address that shows only Rank, for this queue and, where named, this rater."""
    here = urlsplit(st.context.url or "http://127.0.0.1:8501/rank")
    named = f"&{RATER_PARAM}={quote(rater)}" if rater.strip() else ""
    return f"{here.scheme}://{here.netloc}/rank?{QUEUE_PARAM}={queue.id}{named}&{ONLY_PARAM}=1"


def _edit_queue(ws: Workspace, queue: RankQueue) -> None:
    with st.form(f"rank.edit.{queue.id}", border=False):
        name = st.text_input("Name", queue.name, max_chars=200)
        guidelines = st.text_area(
            "Guidelines",
            queue.guidelines,
            height=220,
            placeholder="What makes an answer better? What is a tie, what is unusable?",
            help="Raters see them beside every item, as plain text.",
        )
        overlap = st.number_input("Raters an item", 1, 50, queue.overlap, help="How many people see each item.")
        repeats = st.number_input(
            "Hidden repeats, % of items",
            0,
            50,
            round(100 * queue.repeats),
            step=5,
            help="Shown a second time without saying so; they tell how far a rater agrees with themselves.",
        )
        with st.container(horizontal=True):
            saved = st.form_submit_button("Save", type="primary")
            away = st.form_submit_button("Put away", icon=":material/archive:", help="Votes are kept and still count.")
    if away:
        rankings.update_queue(ws.store, queue.id, archived_at=utc_now())
        go_to(RANK)
    if saved:
        rankings.update_queue(
            ws.store,
            queue.id,
            name=name or "",
            guidelines=guidelines or "",
            overlap=overlap,
            repeats=(repeats or 0) / 100,
        )
        st.rerun()


def show_head(ws: Workspace, queue: RankQueue, *, only: bool) -> None:
    """Title, and unless raters are to see nothing but the desk, the way back and what else can be done."""
    if only:
        st.title(plain(queue.name), anchor=False)
        return
    if st.button("All queues", icon=":material/arrow_back:", type="tertiary", key="rank.back"):
        go_to(RANK)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.title(plain(queue.name), anchor=False, width="stretch")
        with st.popover("Rater link", icon=":material/link:", width="content"):
            st.caption("This address shows nothing but the queue. Raters may work at the same time.")
            rater = st.text_input("Rater's name", key=f"rank.link.{queue.id}", placeholder="Asked when it is left out")
            st.code(rater_link(queue, rater or ""), language=None, wrap_lines=True)
        with st.popover("Settings", icon=":material/tune:", width="content"):
            _edit_queue(ws, queue)
        progress = rankings.queue_progress(ws.store, queue.id)
        show_export(ws, [queue], progress.votes + progress.by_scorers)
        link_to(LEADERBOARD, "Leaderboard", icon="leaderboard", **queue_query(queue.id))


def show_put_away(ws: Workspace) -> None:
    """Queues that were put away, each with the way back."""
    away = [queue for queue in rankings.list_queues(ws.store, archived=True) if queue.archived_at is not None]
    if not away:
        return
    with st.expander(f"{count(len(away), 'queue')} put away", icon=":material/archive:"):
        for queue in away:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(plain(queue.name), width="stretch")
                link_to(LEADERBOARD, "Leaderboard", icon="leaderboard", **queue_query(queue.id))
                if st.button("Bring back", key=f"rank.back.{queue.id}"):
                    rankings.update_queue(ws.store, queue.id, archived_at=None)
                    st.rerun()
