"""Conversations of before: the list, names, the archive, and one as a file."""

from __future__ import annotations

import re

import streamlit as st

from workbench.api import Workspace
from workbench.errors import UsageError
from workbench.records import Conversation, Variant, utc_now
from workbench.store import answers as answer_store
from workbench.ui.conversation import Answers, as_json, as_markdown
from workbench.ui.errors import shown_errors
from workbench.ui.text import ago, count, exact, plain

MOST_LISTED = 200
PAGE_ROWS = 10
OPEN = "playground.open"


@st.dialog("Conversations", width="medium", icon=":material/history:")
def show_history(ws: Workspace) -> None:
    """The list, newest first, with a search over titles and prompts; opening one leaves it in `OPEN`."""
    with shown_errors():
        with st.container(horizontal=True, vertical_alignment="bottom"):
            search = st.text_input("Search", type="search", key="playground.history.q", placeholder="Title or prompt")
            archived = st.toggle("Archived too", key="playground.history.archived")
        listed = answer_store.list_conversations(ws.store, limit=MOST_LISTED, archived=archived)
        needle = (search or "").strip().casefold()
        found = [item for item in listed if needle in "\n".join((item.title, *item.user_turns)).casefold()]
        if not found:
            st.caption(
                "No conversation fits." if listed else "No conversation yet. It is kept from the first prompt on."
            )
            return
        pages = -(-len(found) // PAGE_ROWS)
        page = min(st.session_state.get("playground.history.page", 1), pages)
        for item in found[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]:
            _show_line(ws, item)
        if pages > 1:
            st.pagination(pages, key="playground.history.page")


def _show_line(ws: Workspace, item: Conversation) -> None:
    with st.container(horizontal=True, vertical_alignment="center", border=True):
        with st.container(gap=None, width="stretch"):
            st.markdown(f"**{plain(item.title)}**")
            told = f"{count(len(item.user_turns), 'prompt')}, {count(len(item.variants), 'variant')}, "
            told += ago(item.created_at) + (", archived" if item.archived_at else "")
            st.caption(told, help=exact(item.created_at))
        if st.button("Open", key=f"playground.open.{item.id}"):
            st.session_state[OPEN] = item.id
            st.rerun()
        away = item.archived_at is None
        st.button(
            "",
            key=f"playground.archive.{item.id}",
            icon=":material/archive:" if away else ":material/unarchive:",
            help="Archive" if away else "Take out of the archive",
            type="tertiary",
            on_click=put_away,
            args=(ws, item, away),
        )


def put_away(ws: Workspace, conversation: Conversation, away: bool) -> None:
    """Archive a conversation, or take it out of the archive."""
    answer_store.update_conversation(ws.store, conversation.id, archived_at=utc_now() if away else None)


def show_conversation_menu(
    ws: Workspace, conversation: Conversation, answers: Answers, variants: dict[str, Variant]
) -> None:
    """Name, archive, copy and download of the conversation that is open."""
    popover = st.popover(
        "This conversation", icon=":material/forum:", width="content", key="playground.menu", on_change="rerun"
    )
    if not popover.open:
        return
    with popover:
        with st.form("playground.rename", border=False):
            title = st.text_input("Name", conversation.title, max_chars=300)
            if st.form_submit_button("Rename"):
                rename(ws, conversation, title or "")
                st.rerun()
        away = conversation.archived_at is None
        st.button(
            "Archive" if away else "Take out of the archive",
            icon=":material/archive:" if away else ":material/unarchive:",
            key="playground.archive",
            on_click=put_away,
            args=(ws, conversation, away),
        )
        name = file_name(conversation)
        markdown = as_markdown(conversation, answers, variants)
        with st.container(horizontal=True):
            st.download_button(
                "Markdown", markdown, f"{name}.md", "text/markdown", icon=":material/download:", on_click="ignore"
            )
            st.download_button(
                "JSON",
                as_json(conversation, answers, variants),
                f"{name}.json",
                "application/json",
                icon=":material/download:",
                on_click="ignore",
            )
        st.caption("Copy with the button in the corner")
        st.code(markdown, language=None, wrap_lines=True, height=160)


def rename(ws: Workspace, conversation: Conversation, title: str) -> None:
    """Give a conversation another name.

    Raises:
        UsageError: it is empty.
    """
    title = " ".join(title.split())
    if not title:
        raise UsageError("the name is empty", place="name", remedy="Write one.")
    answer_store.update_conversation(ws.store, conversation.id, title=title[:300])


def file_name(conversation: Conversation) -> str:
    """A file name made from the title: letters, digits and dashes."""
    words = re.sub(r"[^a-z0-9]+", "-", conversation.title.lower()).strip("-")[:60]
    return words or conversation.id
