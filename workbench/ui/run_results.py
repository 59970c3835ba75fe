"""What a run found, on its page, for kinds whose result is neither a chart nor a page of its own.

Training runs have charts, the tour its findings; a kind that is missing here shows settings and log only.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.errors import NotFound
from workbench.records import Run, Variant
from workbench.store.models import get_variant
from workbench.training.divergence import ROWS
from workbench.ui.grid import told_interval
from workbench.ui.links import LEADERBOARD, MODELS, RANK, link_to, queue_query
from workbench.ui.reward_scores import show_scores
from workbench.ui.share import show_exported
from workbench.ui.text import count, figure, plain


def show_result(ws: Workspace, run: Run) -> None:
    """What a finished run of one of the kinds of `RESULTS` found."""
    RESULTS[run.kind](ws, run)


def _kl(ws: Workspace, run: Run) -> None:
    found = told_interval(run.result.get("kl_sequence"))
    if found is None:
        st.caption("This run told no KL.")
        return
    answering, other = _name(ws, run.result.get("variant")), _name(ws, run.result.get("reference"))
    with st.grid(4, min_column_width=150):
        st.metric("KL of an answer", figure(found.value, 3), help="Nats, mean over the prompts.")
        st.metric("95 % interval", f"{figure(found.low, 3)} to {figure(found.high, 3)}", help="Bootstrap over prompts.")
        st.metric("KL of a token", figure(_number(run.result.get("kl_token")), 3), help="Nats.")
        st.metric("Tokens of an answer", figure(_number(run.result.get("mean_tokens")), 3), help="Mean.")
    st.caption(
        f"How much likelier **{plain(answering)}** holds its own answers than **{plain(other)}** does, on "
        f"{count(found.n, 'prompt')}. 0 says that nothing moved; where raters like the answers no better, a large KL "
        "was paid for nothing."
    )
    path = ws.settings.run_dir(run.id) / ROWS
    if not path.exists():
        return
    with path.open(encoding="utf-8") as stream:
        entries = [json.loads(line) for line in stream]
    st.dataframe(
        pd.DataFrame(entries, columns=["kl", "tokens", "prompt", "answer", "row_id"]),
        hide_index=True,
        alt="Prompts with the KL of their answer, the largest first",
        column_config={
            "kl": st.column_config.NumberColumn("KL", format="%.2f", help="Nats, of the whole answer."),
            "tokens": st.column_config.NumberColumn("Answer tokens"),
            "prompt": st.column_config.TextColumn("Prompt", width="large"),
            "answer": st.column_config.TextColumn("Answer", width="large"),
            "row_id": st.column_config.TextColumn("Row id"),
        },
    )


def _score(ws: Workspace, run: Run) -> None:
    try:
        told = ws.scores(run.id)
    except NotFound:
        st.caption("Its file of scores is gone.")
        return
    st.caption(f"Scored by {plain(told.reward)}.")
    if told.means:
        names = {key: "the given answers" if key == "given" else _name(ws, key) for key in told.means}
        st.markdown(
            "; ".join(
                f"**{plain(names[key])}** {mean.value:+.3f} ({mean.low:+.3f} to {mean.high:+.3f})"
                for key, mean in told.means.items()
            )
        )
    show_scores(told)


def _export(ws: Workspace, run: Run) -> None:
    show_exported(run)


def _sample(ws: Workspace, run: Run) -> None:
    queue = str(run.result.get("queue_id") or "")
    left = run.result.get("left_out")
    out = {str(reason): int(str(number)) for reason, number in left.items()} if isinstance(left, dict) else {}
    with st.grid(4, min_column_width=150):
        st.metric("To rank", _count(run.result.get("items")), help="Prompts with at least two different answers.")
        st.metric("Answers drawn", _count(run.result.get("sampled")))
        st.metric("Identical", _count(out.get("identical")), help="Prompts whose answers were all the same.")
        st.metric("Failed", _count(run.result.get("failed")), help="Answers that could not be drawn.")
    if queue:
        link_to(RANK, "Rank them", icon="social_leaderboard", **queue_query(queue))
        link_to(LEADERBOARD, "What the rankings say", icon="leaderboard", **queue_query(queue))


def _add_model(ws: Workspace, run: Run) -> None:
    name, parameters = str(run.result.get("name") or run.name), _number(run.result.get("parameters"))
    size = f", {parameters / 1e6:,.0f} million parameters" if parameters else ""
    st.markdown(f"**{plain(name)}**{size}")
    if run.result.get("path"):
        st.code(str(run.result["path"]), language=None)
    link_to(MODELS, "Models", icon="deployed_code")


RESULTS: dict[str, Callable[[Workspace, Run], None]] = {
    "kl": _kl,
    "score": _score,
    "export": _export,
    "sample": _sample,
    "add_model": _add_model,
}
"""What shows the result of a kind."""


def _number(found: object) -> float | None:
    return float(found) if isinstance(found, int | float) else None


def _count(found: object) -> str:
    number = _number(found)
    return "–" if number is None else f"{number:,.0f}"


def _name(ws: Workspace, variant_id: object) -> str:
    found = find_variant(ws, variant_id)
    return found.name if found is not None else f"{variant_id} (deleted)"


def find_variant(ws: Workspace, variant_id: object) -> Variant | None:
    """The variant that a result or a setting names; None where none is named, or it was deleted."""
    try:
        return get_variant(ws.store, str(variant_id)) if variant_id else None
    except NotFound:
        return None
