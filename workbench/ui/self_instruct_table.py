"""All candidates of a run: filtered and paged, each with what became of it and why; one is read whole and reviewed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.records import Run, new_id
from workbench.self_instruct.filters import REASONS
from workbench.self_instruct.review import Board, load_board, page_candidates, review_candidate, usable_instances
from workbench.store.candidates import Candidate, Instance, Review, Verdict
from workbench.ui.errors import shown_errors
from workbench.ui.paging import current_page, page_switch
from workbench.ui.self_instruct_review import NEAREST, REVIEWER
from workbench.ui.self_instruct_threshold import kept_threshold
from workbench.ui.self_instruct_words import reason_label
from workbench.ui.text import ago, count, exact, plain

PAGE_ROWS = 25
PAGE = "self_instruct.candidates.page"
MOST_EXAMPLES = 5
Show = Literal["all", "kept", "waiting", "rejected", "open", "reviewed"]
SHOWN: dict[Show, str] = {
    "all": "All",
    "kept": "Kept",
    "rejected": "Rejected",
    "waiting": "No examples",
    "open": "To review",
    "reviewed": "Reviewed",
}
STATES = {"kept": ("Kept", "green"), "rejected": ("Rejected", "red"), "waiting": ("No examples", "gray")}
VERDICTS = {"accept": ("Accepted", "green"), "edit": ("Edited", "blue"), "reject": ("Rejected", "red")}


@st.fragment
def show_candidates(ws: Workspace, run: Run) -> None:
    """Filters, one page of candidates, and the chosen one whole."""
    with shown_errors():
        board = load_board(ws.store, run.id, threshold=kept_threshold(ws, run))
        if not board.candidates:
            st.caption("No task has been read yet.")
            return
        filters = _filters(board)
        page, pages = current_page(PAGE, page_candidates(board, **filters, limit=1).total, PAGE_ROWS)
        found = page_candidates(board, **filters, offset=(page - 1) * PAGE_ROWS, limit=PAGE_ROWS)
        if not found.total:
            st.caption("No task fits these filters.")
            return
        event = st.dataframe(
            candidate_table(found.candidates, found.reviews),
            hide_index=True,
            height="content",
            key="self_instruct.candidates",
            on_select="rerun",
            selection_mode="single-row",
            placeholder="",
            alt="Tasks in the order in which they were written",
            column_config=_columns(),
        )
        page_switch(pages, PAGE, count(found.total, "task"))
        chosen = [row for row in event.selection.rows if row < len(found.candidates)]
        if chosen:
            candidate = found.candidates[chosen[0]]
            show_one(ws, candidate, found.reviews.get(candidate.id))
        else:
            st.caption("Choose a row to read it whole, with the reason and the nearest text, and to review it.")


def _filters(board: Board) -> dict[str, Any]:
    present = {each.why for each in board.candidates}
    show: Show = st.segmented_control(
        "Show", list(SHOWN), format_func=lambda item: SHOWN[item], default="all", required=True,
        key="self_instruct.show", label_visibility="collapsed", persist_state="session", on_change=_first_page,
    )  # fmt: skip
    with st.grid(2, min_column_width=220):
        search = st.text_input(
            "Search", key="self_instruct.search", type="search", placeholder="Words of a task", persist_state="session",
            label_visibility="collapsed", on_change=_first_page,
        )  # fmt: skip
        reason = st.selectbox(
            "Reason", [why for why in REASONS if why in present], format_func=reason_label, index=None,
            placeholder="Any reason", key="self_instruct.reason", label_visibility="collapsed", on_change=_first_page,
        )  # fmt: skip
    filters: dict[str, Any] = {"reason": reason, "search": search or ""}
    if show in ("kept", "waiting", "rejected"):
        filters["state"] = show
    elif show != "all":
        filters["review"] = show
    return filters


def _first_page() -> None:
    st.session_state.pop(PAGE, None)


def candidate_table(candidates: Sequence[Candidate], reviews: Mapping[str, Review]) -> pd.DataFrame:
    """One line a candidate, as the table shows it."""
    said = [reviews.get(each.id) for each in candidates]
    return pd.DataFrame(
        {
            "number": [each.position + 1 for each in candidates],
            "decision": [[reason_label(each.why) if each.why else STATES[each.state][0]] for each in candidates],
            "review": [[] if review is None else [VERDICTS[review.verdict][0]] for review in said],
            "instruction": [
                review.instruction if review is not None and review.instruction else each.instruction
                for each, review in zip(candidates, said, strict=True)
            ],
            "score": [each.score for each in candidates],
            "nearest": [each.nearest_text or "" for each in candidates],
            "examples": [len(usable_instances(each)) for each in candidates],
        }
    )


def _columns() -> dict[str, Any]:
    column = st.column_config
    decisions = [*((name, color) for name, color in STATES.values()), *((reason_label(why), "red") for why in REASONS)]
    return {
        "number": column.NumberColumn("No.", width=55, format="localized"),
        "decision": column.MultiselectColumn(
            "Decision",
            options=[name for name, _ in decisions],
            color=[color for _, color in decisions],
            width=130,
            help="Of the filters, under the threshold that holds: kept, or the reason why not.",
        ),
        "review": column.MultiselectColumn(
            "Review",
            options=[name for name, _ in VERDICTS.values()],
            color=[color for _, color in VERDICTS.values()],
            width=85,
        ),
        "instruction": column.TextColumn("Instruction", width=330),
        "score": column.NumberColumn("Score", width=60, format="%.2f", help="ROUGE-L F1 to the nearest text."),
        "nearest": column.TextColumn("Nearest", width=230),
        "examples": column.NumberColumn("Examples", width=80, help="Usable ones."),
    }


# ---- one candidate ----


def show_one(ws: Workspace, candidate: Candidate, review: Review | None) -> None:
    """One candidate whole: what became of it and why, its examples, what people say, and the buttons to say it.

    Args:
        ws: the workspace.
        candidate: as decided under the threshold that holds.
        review: the one that counts.
    """
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            label, color = STATES[candidate.state]
            st.badge(label, color=color)  # type: ignore[arg-type]
            if review is not None:
                label, color = VERDICTS[review.verdict]
                st.badge(f"{label} by {plain(review.reviewer, limit=40)}", color=color,  # type: ignore[arg-type]
                         icon=":material/person:", help=plain(exact(review.created_at)))  # fmt: skip
            told = f"Task {candidate.position + 1:,}, round {candidate.round:,}, written {ago(candidate.created_at)}"
            st.caption(told, help=plain(exact(candidate.created_at)))
        st.text(candidate.instruction)
        if candidate.why is not None:
            st.markdown(f":material/filter_alt: {plain(REASONS[candidate.why])}")
        if candidate.score is not None:
            nearest = NEAREST.get(candidate.nearest_kind or "", "nothing")
            st.caption(f"ROUGE-L F1 {candidate.score:.3f} to {nearest}:")
            st.text(candidate.nearest_text or "(it shares no word with any)")
        _show_examples(candidate.instances)
        if review is not None and review.verdict == "edit":
            st.caption(f"As {plain(review.reviewer, limit=40)} put it")
            st.text(review.instruction or candidate.instruction)
            _show_examples(review.instances)
        _actions(ws, candidate, review)


def _show_examples(instances: Sequence[Instance] | None) -> None:
    if instances is None:
        st.caption("It has no examples: none were asked for, or it was thrown out before.")
        return
    for number, each in enumerate(instances, 1):
        with st.container(border=True, gap="xsmall"):
            head = f"Example {number}"
            if each.reason is not None:
                head += f" · :orange[:material/block: thrown out: {plain(REASONS[each.reason])}]"
            st.caption(head)
            if each.input:
                st.text(each.input)
            st.text(f"→ {each.output}" if each.output else "→ (an empty output)")


def _actions(ws: Workspace, candidate: Candidate, review: Review | None) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input(
            "Your name", st.session_state.get(REVIEWER, ""), key="self_instruct.name", max_chars=200, width=220
        )
        named = bool((name or "").strip())
        acceptable = candidate.reason != "leaks" and bool(usable_instances(candidate))
        why_not = "It leaks from what is held out." if candidate.reason == "leaks" else "It has no usable example."
        if st.button(
            "Accept", icon=":material/check:", disabled=not (named and acceptable), key="self_instruct.accept",
            help=None if acceptable else f"{why_not} Edit it instead.",
        ):  # fmt: skip
            _say(ws, candidate, "accept", name or "")
        if st.button("Edit", icon=":material/edit:", disabled=not named, key="self_instruct.edit"):
            st.session_state[REVIEWER] = (name or "").strip()
            edit_candidate(ws, candidate, review, (name or "").strip())
        if st.button("Reject", icon=":material/close:", disabled=not named, key="self_instruct.reject"):
            _say(ws, candidate, "reject", name or "")
    if not named:
        st.caption("Write your name to review it: it stands beside what you say.")


def _say(ws: Workspace, candidate: Candidate, verdict: Verdict, name: str, **edit: Any) -> None:
    review_candidate(ws.store, candidate.id, verdict, name, nonce=new_id("n"), **edit)
    st.session_state[REVIEWER] = name.strip()
    st.rerun()


@st.dialog("Edit the task", width="large")
def edit_candidate(ws: Workspace, candidate: Candidate, review: Review | None, name: str) -> None:
    """The form in which a candidate is changed and accepted.

    Args:
        ws: the workspace.
        candidate: what is changed.
        review: the one that counts; an edit is gone on with.
        name: who edits.
    """
    with shown_errors():
        words, given = candidate.instruction, usable_instances(candidate)
        if review is not None and review.verdict == "edit":
            words, given = review.instruction or words, review.instances or given
        given = given or (candidate.instances or ())[:1]  # a broken example is something to begin from
        with st.form(f"self_instruct.edit.{candidate.id}", border=False):
            instruction = st.text_area("Instruction", words, max_chars=20_000)
            rows = pd.DataFrame({"input": [each.input for each in given], "output": [each.output for each in given]})
            edited = st.data_editor(
                rows.astype("str"),
                num_rows="dynamic",
                hide_index=True,
                key=f"self_instruct.examples.{candidate.id}",
                column_config={
                    "input": st.column_config.TextColumn("Input", width="medium", help="Empty where none is needed."),
                    "output": st.column_config.TextColumn("Output", width="large", required=True),
                },
            )
            st.caption(f"Up to {MOST_EXAMPLES} examples; each becomes a row.")
            saved = st.form_submit_button("Save and accept", type="primary", icon=":material/check:")
        if saved:
            pairs = [
                (_text(line["input"]), _text(line["output"])) for line in edited.to_dict("records")
            ]  # fmt: skip
            instances = [Instance(input=given, output=output) for given, output in pairs if given or output]
            _say(ws, candidate, "edit", name, instruction=instruction or "", instances=instances[:MOST_EXAMPLES])


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
