"""The map of pages, and links to them that work before every page of the map exists.

A page is one line in `SECTIONS`; it is offered once its file is there. `url_path` is set for each, so that addresses
stay when files move.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import streamlit as st

from workbench.records import Run
from workbench.ui.state import (
    CLONE_PARAM,
    DATASET_PARAM,
    ITEM_PARAM,
    ONLY_PARAM,
    QUEUE_PARAM,
    RUN_PARAM,
    VARIANTS_PARAM,
)

ROOT = Path(__file__).resolve().parents[2]
ICON = Path(__file__).with_name("icon.svg")
"""Of the browser tab. A Material symbol there would be fetched from a font server; this is local."""

PAGES = "pages"
HOME = f"{PAGES}/start/home.py"
DATASETS = f"{PAGES}/data/datasets.py"
CRAFT = f"{PAGES}/data/craft.py"
SELF_INSTRUCT = f"{PAGES}/data/self_instruct.py"
NEW_RUN = f"{PAGES}/train/new_run.py"
RUNS = f"{PAGES}/train/runs.py"
MODELS = f"{PAGES}/train/models.py"
PLAYGROUND = f"{PAGES}/compare/playground.py"
PROMPT_SETS = f"{PAGES}/compare/prompt_sets.py"
EXPORT = f"{PAGES}/share/export.py"
DEMO = f"{PAGES}/share/demo.py"
LINEAGE = f"{PAGES}/share/lineage.py"
RANK = f"{PAGES}/rank/rank.py"
LEADERBOARD = f"{PAGES}/rank/leaderboard.py"
REWARD = f"{PAGES}/evaluate/reward.py"


class PageEntry(NamedTuple):
    """One line of the map."""

    path: str
    title: str
    icon: str
    url_path: str
    help: str


SECTIONS: dict[str, tuple[PageEntry, ...]] = {
    "Start": (PageEntry(HOME, "Home", "home", "home", "What exists, what runs and what to do next."),),
    "Data": (
        PageEntry(DATASETS, "Datasets", "table_rows", "datasets", "Import rows, read them, see what is trained on."),
        PageEntry(CRAFT, "Craft", "edit_note", "craft", "Write and edit rows by hand; a save makes a version."),
        PageEntry(
            SELF_INSTRUCT, "Self-instruct", "psychiatry", "self-instruct", "Grow a dataset from a few tasks by people."
        ),
    ),
    "Train": (
        PageEntry(NEW_RUN, "New run", "add_circle", "new-run", "Set up a training run, with a forecast and checks."),
        PageEntry(RUNS, "Runs", "monitoring", "runs", "Watch, stop, resume and compare runs."),
        PageEntry(MODELS, "Models", "deployed_code", "models", "Base models, adapters and remote servers."),
    ),
    "Compare": (
        PageEntry(PLAYGROUND, "Playground", "forum", "playground", "Ask several variants the same thing at once."),
        PageEntry(PROMPT_SETS, "Prompt sets", "checklist", "prompt-sets", "Answer a whole set of prompts at once."),
    ),
    "Rank": (
        PageEntry(RANK, "Rank", "social_leaderboard", "rank", "Put answers in order, blind and by keyboard."),
        PageEntry(LEADERBOARD, "Leaderboard", "leaderboard", "leaderboard", "What the rankings say so far."),
    ),
    "Evaluate": (
        PageEntry(
            REWARD, "Reward", "military_tech", "reward", "What reward models learned, and how far to trust them."
        ),
    ),
    "Share": (
        PageEntry(EXPORT, "Export", "ios_share", "export", "Put a variant into a form others can use, and check it."),
        PageEntry(DEMO, "Demo", "co_present", "demo", "A page for others, side by side or blind with a vote."),
        PageEntry(LINEAGE, "Lineage", "account_tree", "lineage", "What came from what, back to rows and raters."),
    ),
}


def rank_only() -> bool:
    """Whether the address is a rater's link, which shows nothing but Rank."""
    return bool(st.query_params.get(ONLY_PARAM))


def has_page(path: str) -> bool:
    """Whether the page of this path is there."""
    return (ROOT / path).is_file()


def page_map() -> dict[str, list[st.Page]]:
    """The pages that exist, by section, for `st.navigation`."""
    sections: dict[str, list[st.Page]] = {}
    for section, entries in SECTIONS.items():
        for entry in entries:
            if has_page(entry.path):
                page = st.Page(
                    entry.path,
                    title=entry.title,
                    icon=f":material/{entry.icon}:",
                    url_path=entry.url_path,
                    default=entry.path == HOME,
                    help=entry.help,
                )
                sections.setdefault(section, []).append(page)
    return sections


def link_to(path: str, label: str, *, icon: str | None = None, help: str | None = None, **query: str) -> None:
    """A link to a page, nothing where the page is not there.

    Args:
        path: one of this module's constants.
        label: shown text; Markdown, so escape names with `text.plain`.
        icon: name of a Material symbol.
        help: tooltip.
        query: query parameters of the address.
    """
    if has_page(path):
        symbol = f":material/{icon}:" if icon else None
        st.page_link(path, label=label, icon=symbol, help=help, query_params=query or None)


def go_to(path: str, **query: str) -> None:
    """Leave for another page at once."""
    st.switch_page(path, query_params=query or None)


def run_query(run: Run) -> dict[str, str]:
    """Query parameters of a run's page."""
    return {RUN_PARAM: run.id}


def dataset_query(name_or_id: str) -> dict[str, str]:
    """Query parameters of a dataset's page."""
    return {DATASET_PARAM: name_or_id}


def clone_query(run: Run) -> dict[str, str]:
    """Query parameters of the New run page that starts from a run's config."""
    return {CLONE_PARAM: run.id}


def variants_query(*variant_ids: str) -> dict[str, str]:
    """Query parameters of a Playground with these variants side by side."""
    return {VARIANTS_PARAM: ",".join(variant_ids)}


def queue_query(queue_id: str, item_id: str | None = None) -> dict[str, str]:
    """Query parameters of a queue's page, or of its leaderboard; with an item, of the page that opens at it."""
    return {QUEUE_PARAM: queue_id} | ({} if item_id is None else {ITEM_PARAM: item_id})
