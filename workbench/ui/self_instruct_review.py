"""Review by keyboard: the component in the browser, and what the server does with what it sends.

As at the Rank desk, the browser sends all that is not confirmed yet, each entry under a nonce; here every entry is done
once and confirmed, and the next few tasks go back. So a rerun that Streamlit drops or a closed page costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st
from pydantic import ValidationError

from workbench.api import Workspace
from workbench.errors import WorkbenchError
from workbench.self_instruct.review import Board, load_board, page_candidates, review_candidate, usable_instances
from workbench.store.candidates import (
    VERDICTS,
    Candidate,
    Instance,
    Review,
    check_reviewer,
    list_candidates,
    list_reviews,
    undo_review,
)
from workbench.ui.errors import shown_errors

WINDOW = 20
"""Tasks in the browser at once, enough for fast keys."""
BACK = 5
"""Reviews of before that Backspace reaches at once; further ones follow."""
REVIEWER = "self_instruct.reviewer"
"""The name that this session reviews under."""
NEAREST = {"seed": "a seed", "candidate": "an earlier task", "held_out": "something held out"}
_HERE = Path(__file__).parent


@dataclass
class ReviewMemory:
    """What a session's desk remembers between two submissions, so that nothing is done twice."""

    settled: dict[str, str] = field(default_factory=dict)
    """What came of the entries that are in the browser's outbox, by nonce."""


@cache
def _component() -> Any:
    """The component, registered once: pieces and look of the Rank desk, and its own on top."""
    rank, own = _HERE / "rank_component", _HERE / "review_component"
    scripts = (rank / "dom.js", rank / "outbox.js", rank / "key_desk.js", own / "review.js")
    styles = (rank / "rank.css", own / "review.css")
    return st.components.v2.component(
        "workbench_review",
        html='<div class="rank review"></div>',
        css="\n".join(path.read_text(encoding="utf-8") for path in styles),
        js="\n".join(path.read_text(encoding="utf-8") for path in scripts),
    )


@st.fragment
def show_review_desk(ws: Workspace, run_id: str, threshold: float | None) -> None:
    """The desk of a run.

    Args:
        ws: the workspace.
        run_id: the run.
        threshold: what decides which tasks are kept; the run's own when None.
    """
    with shown_errors():
        key = f"self_instruct.desk.{run_id}"
        sent = dict(st.session_state.get(key) or {}).get("outbox") or {}
        memory = st.session_state.setdefault(f"{key}.memory", ReviewMemory())
        data = serve_review(ws, run_id, sent, memory, threshold=threshold)
        if data["reviewer"]:
            st.session_state[REVIEWER] = data["reviewer"]
        _component()(key=key, data=data, on_outbox_change=_nothing)


def _nothing() -> None:
    """A state of the component is only kept where it has a callback."""


def serve_review(
    ws: Workspace, run_id: str, sent: Mapping[str, Any], memory: ReviewMemory, *, threshold: float | None = None
) -> dict[str, Any]:
    """Do what the browser sent and give what it needs next.

    Args:
        ws: the workspace.
        run_id: the run.
        sent: `seq`, `reviewer` and `entries`, as `review.js` sends them.
        memory: of this desk; changed in place.
        threshold: what decides which tasks are kept; the run's own when None.

    Raises:
        NotFound: no such run.
    """
    run = ws.run(run_id)
    data: dict[str, Any] = {
        "run": run.id,
        "seq": int(sent.get("seq") or 0),
        "reviewer": None,
        "results": {},
        "items": [],
        "history": [],
        "counts": None,
        "growing": run.state.active,
        "problem": "",
    }
    named = str(sent.get("reviewer") or "")
    if not named.strip():
        return data
    try:
        reviewer = check_reviewer(named)
    except WorkbenchError as error:
        return data | {"problem": _sentence(error)}
    results = {}
    for entry in sent.get("entries") or ():
        nonce = str(entry.get("nonce"))
        known = memory.settled.get(nonce)
        results[nonce] = do_entry(ws, run_id, reviewer, entry) if known is None else known
    memory.settled = results
    board = load_board(ws.store, run_id, threshold=threshold)
    return data | {"reviewer": reviewer, "results": results} | _window(ws, board, reviewer)


def do_entry(ws: Workspace, run_id: str, reviewer: str, entry: Mapping[str, Any]) -> str:
    """Do one entry of the outbox, once however often it comes.

    Returns:
        Why it was refused, or nothing.
    """
    nonce = str(entry.get("nonce"))
    try:
        if entry.get("kind") == "undo":
            undo_review(ws.store, run_id, reviewer, nonce=str(entry.get("target")))
            return ""
        verdict = entry.get("verdict")
        if verdict not in VERDICTS:
            return "This browser sent something that is no review. Reload the page."
        edit: dict[str, Any] = {}
        if verdict == "edit":
            edit["instruction"] = str(entry["instruction"])
            edit["instances"] = [Instance(input=each["input"], output=each["output"]) for each in entry["instances"]]
        review_candidate(ws.store, str(entry.get("candidate")), verdict, reviewer, nonce=nonce, **edit)
    except WorkbenchError as error:
        return _sentence(error)
    except (TypeError, ValueError, KeyError, ValidationError):
        return "This browser sent something that is no review. Reload the page."
    return ""


def _window(ws: Workspace, board: Board, reviewer: str) -> dict[str, Any]:
    page = page_candidates(board, review="open", limit=WINDOW)
    mine = [review for review in list_reviews(ws.store, board.run_id) if review.reviewer == reviewer][-BACK:]
    known = {each.id: each for each in list_candidates(ws.store, board.run_id, ids=[one.candidate_id for one in mine])}
    verdicts = [review.verdict for review in board.reviews.values()]
    rejected = verdicts.count("reject")
    return {
        "items": [_view(each) for each in page.candidates],
        "history": [_history(review, known[review.candidate_id]) for review in reversed(mine)],
        "counts": {"accepted": len(verdicts) - rejected, "rejected": rejected, "left": page.total},
    }


def _history(review: Review, candidate: Candidate) -> dict[str, Any]:
    told: dict[str, Any] = {"nonce": review.nonce, "verdict": review.verdict, "item": _view(candidate), "edit": None}
    if review.verdict == "edit":
        told["edit"] = {"instruction": review.instruction, "instances": _plain(review.instances or ())}
    return told


def _view(candidate: Candidate) -> dict[str, Any]:
    """A task as the browser gets it: texts and figures only."""
    usable = usable_instances(candidate)
    return {
        "id": candidate.id,
        "number": candidate.position + 1,
        "instruction": candidate.instruction,
        "instances": _plain(usable),
        "dropped": len(candidate.instances or ()) - len(usable),
        "classification": bool(candidate.is_classification),
        "score": candidate.score,
        "nearest": candidate.nearest_text if candidate.score is not None else None,
        "nearest_kind": NEAREST.get(candidate.nearest_kind or "", ""),
    }


def _plain(instances: tuple[Instance, ...]) -> list[dict[str, str]]:
    return [{"input": each.input, "output": each.output} for each in instances]


def _sentence(error: WorkbenchError) -> str:
    what = error.what[:1].upper() + error.what[1:].rstrip(".") + "."
    return f"{what} {error.remedy}" if error.remedy else what
