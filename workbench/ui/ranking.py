"""The desk where a person ranks: the component in the browser, and what the server does with what it sends.

The browser sends all that is not confirmed yet, in order, each entry under a nonce; here every entry is done once and
confirmed, and the next few items go back. So a rerun that Streamlit drops or a page that is closed costs nothing.
Nothing that is sent says who wrote an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import streamlit as st
from pydantic import Field, ValidationError

from workbench.api import Workspace
from workbench.errors import WorkbenchError
from workbench.preferences.queues import blind_items, leak_sentence
from workbench.preferences.ratings import PairRate, rate_pairs
from workbench.preferences.votes import compare_variants, read_votes
from workbench.records import RankItem, RankQueue, Record, digest
from workbench.store import rankings
from workbench.store.drafts import drop_draft, load_draft, save_draft
from workbench.ui.errors import shown_errors
from workbench.ui.text import count

WINDOW = 6
"""Items in a rater's browser at once: enough for fast keys, few enough to leave others some."""
NEEDED_EVERY = 10
"""Votes after which it is worked out anew how many are still needed."""
BACK = 5
"""Votes of before that Backspace reaches at once; further ones follow."""
_FOLDER = Path(__file__).with_name("rank_component")
_VOTE_FIELDS = ("shown", "tiers", "unusable", "all_bad", "skipped", "confidence", "comment", "edited", "seconds")


class Act(Record):
    """One thing a rater did on an item, as `keys.js` knows them."""

    do: Literal["put", "bad-answer", "tie", "mark", "all-bad"]
    """What."""
    at: int | None = Field(default=None, ge=0, le=8)
    """Number of the answer, from 0."""


class HalfRanking(Record):
    """What there is of a ranking before it is submitted."""

    slot: str = Field(max_length=120)
    """The item in its display order."""
    at: float = Field(ge=0, allow_inf_nan=False)
    """When it was told, in milliseconds since the epoch, by the browser's clock."""
    acts: tuple[Act, ...] = Field(max_length=500)
    """What the rater did, in order."""
    comment: str = Field(max_length=2000)
    """The rater's words."""
    confidence: int | None = Field(ge=1, le=5)
    """How sure the rater is."""
    edited: str | None = Field(max_length=100_000)
    """The rater's better version of the best answer."""
    spent: float = Field(ge=0, allow_inf_nan=False)
    """Seconds so far."""


@dataclass
class DeskMemory:
    """What a session's desk remembers between two submissions, so that nothing is done or read twice."""

    settled: dict[str, str] = field(default_factory=dict)
    """What came of the entries that are in the browser's outbox, by nonce."""
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Items as the browser has them, by slot: item and display order."""
    draft: tuple[str, dict[str, Any] | None] | None = None
    """Key and content of the half ranking as the store has it."""
    opened_at: tuple[str, str] | None = None
    """Rater and item of the address that were put first: once, so that a vote taken back comes before it."""


@cache
def _component() -> Any:
    """The component, registered once; its scripts are one module in the browser, in this order."""
    scripts = [
        (_FOLDER / name).read_text(encoding="utf-8")
        for name in ("dom.js", "keys.js", "outbox.js", "key_desk.js", "desk.js")
    ]
    return st.components.v2.component(
        "workbench_rank",
        html='<div class="rank"></div>',
        css=(_FOLDER / "rank.css").read_text(encoding="utf-8"),
        js="\n".join(scripts),
    )


@st.fragment
def show_desk(ws: Workspace, queue_id: str, fixed_rater: str, first: str = "") -> None:
    """The desk of a queue.

    Args:
        ws: the workspace.
        queue_id: the queue.
        fixed_rater: the name that the address gives, or empty where the browser knows or asks it.
        first: id of the item that the address asks for, or empty.
    """
    with shown_errors():
        key = f"rank.desk.{queue_id}"
        sent = dict(st.session_state.get(key) or {}).get("outbox") or {}
        memory = st.session_state.setdefault(f"{key}.memory", DeskMemory())
        data = serve_desk(ws, queue_id, sent, memory, fixed_rater=fixed_rater, first=first)
        _component()(key=key, data=data, on_outbox_change=_nothing)


def _nothing() -> None:
    """A state of the component is only kept where it has a callback."""


def serve_desk(
    ws: Workspace,
    queue_id: str,
    sent: Mapping[str, Any],
    memory: DeskMemory,
    *,
    fixed_rater: str = "",
    first: str = "",
) -> dict[str, Any]:
    """Do what the browser sent and give what it needs next.

    Args:
        ws: the workspace.
        queue_id: the queue.
        sent: `seq`, `rater` and `entries`, as `desk.js` sends them.
        memory: of this desk; changed in place.
        fixed_rater: the rater, where the address says so.
        first: id of the item to open at, where this rater may still rank it.

    Raises:
        NotFound: no such queue.
        Conflict: the queue was put away.
    """
    queue = rankings.get_queue(ws.store, queue_id)
    data: dict[str, Any] = {
        "queue": queue.id,
        "seq": int(sent.get("seq") or 0),
        "rater": None,
        "rater_fixed": bool(fixed_rater),
        "guidelines": queue.guidelines,
        "results": {},
        "items": [],
        "history": [],
        "held_by_others": False,
        "draft": None,
        "problem": "",
    }
    named = fixed_rater or str(sent.get("rater") or "")
    if not named.strip():
        return data
    try:
        rater = rankings.check_rater(named)
    except WorkbenchError as error:
        return data | {"problem": _sentence(error)}
    results = {}
    for entry in sent.get("entries") or ():
        nonce = str(entry.get("nonce"))
        known = memory.settled.get(nonce)
        results[nonce] = do_entry(ws, rater, entry) if known is None else known
    memory.settled = results
    draft = _keep_half(ws, f"rank.half.{queue.id}.{digest(rater)}", sent, memory)
    return data | {"rater": rater, "results": results, "draft": draft} | _window(ws, queue, rater, memory, first)


def _keep_half(ws: Workspace, key: str, sent: Mapping[str, Any], memory: DeskMemory) -> dict[str, Any] | None:
    """Keep what there is of a ranking that is not submitted, so that it is there in another browser, too.

    Returns:
        The half ranking as it was before, for a desk that has just been opened.
    """
    found = None
    if memory.draft is None or memory.draft[0] != key:
        found = load_draft(ws.store, key)
        memory.draft = key, found
    if "draft" not in sent:
        return found
    try:
        half = None if sent["draft"] is None else HalfRanking.model_validate(sent["draft"]).model_dump(mode="json")
    except ValidationError:
        return found  # only a convenience: what is no half ranking is not worth a word to the rater
    if half is None and memory.draft[1] is not None:
        drop_draft(ws.store, key)
    elif half is not None and half != memory.draft[1]:
        save_draft(ws.store, key, half)
    memory.draft = key, half
    return found


def do_entry(ws: Workspace, rater: str, entry: Mapping[str, Any]) -> str:
    """Do one entry of the outbox, once however often it comes.

    Returns:
        Why it was refused, or nothing.
    """
    nonce = str(entry.get("nonce"))
    try:
        if entry.get("kind") == "undo":
            rankings.undo_ranking(ws.store, rater, str(entry.get("target")))
        else:
            fields = {name: entry[name] for name in _VOTE_FIELDS if name in entry}
            rankings.submit_ranking(ws.store, str(entry.get("item")), rater, nonce=nonce, **fields)
    except WorkbenchError as error:
        return _sentence(error)
    except (TypeError, ValueError):
        return "This browser sent something that is no ranking. Reload the page."
    return ""


def _window(ws: Workspace, queue: RankQueue, rater: str, memory: DeskMemory, first: str) -> dict[str, Any]:
    asked = first if first and memory.opened_at != (rater, first) else None
    handed = rankings.next_items(ws.store, queue.id, rater, WINDOW, first=asked)
    memory.opened_at = (rater, first)
    votes = rankings.last_votes(ws.store, queue.id, rater, BACK)
    progress = rankings.queue_progress(ws.store, queue.id, rater)
    pairs = [(each.item, each.shown) for each in handed] + [(item, ranking.shown) for ranking, item in votes]
    memory.views = _views(ws, pairs, memory.views)
    return {
        "items": [memory.views[_slot(each.item, each.shown)] for each in handed],
        "history": [
            {"nonce": ranking.nonce, "item": memory.views[_slot(item, ranking.shown)]} for ranking, item in votes
        ],
        "progress": {"mine": progress.mine + progress.skipped, "left": progress.left},
        "needed": _needed(ws, str(ws.settings.home), queue.id, progress.votes // NEEDED_EVERY),
        "held_by_others": not handed and rankings.others_hold(ws.store, queue.id, rater),
    }


def _slot(item: RankItem, shown: Sequence[str]) -> str:
    """An item in one order of display: a hidden repeat is another slot, and the browser cannot tell which is which."""
    return f"{item.id}:{digest(list(shown))[:12]}"


def _views(
    ws: Workspace, pairs: Sequence[tuple[RankItem, Sequence[str]]], known: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Items as the browser gets them: what was asked and the answers' texts, and nothing about who wrote them."""
    wanted = {_slot(item, shown): (item, shown) for item, shown in pairs}
    views = {slot: known[slot] for slot in wanted if slot in known}
    fresh = {slot: pair for slot, pair in wanted.items() if slot not in views}
    for (slot, (item, shown)), blind in zip(fresh.items(), blind_items(ws.store, list(fresh.values())), strict=True):
        views[slot] = {
            "slot": slot,
            "id": item.id,
            "prompt": [{"role": turn.role, "content": turn.content} for turn in blind.prompt],
            "answers": [{"id": each, "text": answer.text} for each, answer in zip(shown, blind.answers, strict=True)],
            "leak": leak_sentence([answer.letter for answer in blind.answers if answer.names_itself]),
        }
    return views


@st.cache_data(max_entries=64, show_spinner=False)
def _needed(_ws: Workspace, home: str, queue_id: str, tens: int) -> str:
    return needed_sentence(rate_pairs(compare_variants(read_votes(_ws.store, [queue_id]))) if tens else [])


def needed_sentence(pairs: Sequence[PairRate]) -> str:
    """How many votes are still needed, without a word about who leads; empty where nothing can be said yet."""
    if not pairs:
        return ""
    missing = [pair.still_needed for pair in pairs if not pair.distinguishable and pair.still_needed is not None]
    if all(pair.distinguishable for pair in pairs):
        return "Enough votes to tell the variants apart"
    if not missing:
        return "Not distinguishable yet"
    return f"Not distinguishable yet: about {count(min(missing), 'more vote')} needed"


def _sentence(error: WorkbenchError) -> str:
    what = error.what[:1].upper() + error.what[1:].rstrip(".") + "."
    return f"{what} {error.remedy}" if error.remedy else what
