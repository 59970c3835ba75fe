"""What the stages of InstructGPT's protocol brought, as the tour's page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from workbench.records import Run
from workbench.ui import charts
from workbench.ui.grid import interval_text, share_text, told_interval
from workbench.ui.links import PLAYGROUND, link_to, variants_query
from workbench.ui.text import duration, plain

TITLES = {"base": "Base", "sft": "Fine-tuned", "rloo": "RLOO", "dpo": "DPO"}


def stage_title(stage: str) -> str:
    """What a stage is called: `rloo_2` is RLOO of the second round."""
    name, _, number = stage.partition("_")
    title = TITLES.get(name, name)
    return f"{title}, round {number}" if number else title


def show_stages(tour: Run) -> None:
    """What each stage of InstructGPT's protocol brought, on held-out prompts, with intervals."""
    told: Any = tour.result
    stages = [stage for stage in told.get("stages", []) if isinstance(stage, dict)]
    rankings, reward = told.get("rankings") or {}, told.get("reward") or {}
    st.subheader("What each stage brought, on held-out prompts", anchor=False)
    rounds = len(told.get("rounds") or ())
    went = f"{rankings.get('rankings', 0)} rankings" + (f" in {rounds} rounds" if rounds > 1 else "")
    st.caption(
        f"{went} of {rankings.get('answers', 0)} answers, made by the scorer "
        f"“{plain(str(told.get('scorer')))}” and not by people, gave {rankings.get('pairs', 0)} pairs."
    )
    scores = {stage_title(str(stage["stage"])): found for stage in stages if (found := told_interval(stage["score"]))}
    if scores:
        charts.show(
            charts.interval_figure(scores, "mean score of the answers, 0 to 100"),
            key=f"tour.stages.{tour.id}",
            alt="; ".join(f"{name} {item.value:.1f}" for name, item in scores.items()),
        )
    lines = [
        {
            "Stage": stage_title(str(stage["stage"])),
            "Keep every rule": share_text(told_interval(stage["share"])),
            "Score": interval_text(told_interval(stage["score"])),
            "chrF": interval_text(told_interval(stage["chrf"])),
            "KL, nats an answer": _nats(stage["kl_sequence"]),
            "Training": duration(stage["seconds"]),
        }
        for stage in stages
    ]
    st.dataframe(pd.DataFrame(lines), hide_index=True, height="content", alt="Figures of each stage")
    st.caption("KL is from the base for the fine-tuned model, and from the fine-tuned model for the others.")
    if rounds > 1:
        st.caption(
            "Each round starts from the fine-tuned model again. From the second on, answers of the policy before are "
            "ranked, too, so that the new reward has seen where the last one led."
        )
    for stage, gain in (told.get("gains") or {}).items():
        if gain:
            st.markdown(
                f"**{stage_title(stage)}** against the fine-tuned model: {gain['value']:+.1f} points of score "
                f"({gain['low']:+.1f} to {gain['high']:+.1f}, n = {gain['n']})"
                + ("." if gain["low"] * gain["high"] > 0 else ": not distinguishable.")
            )
    accuracy = reward.get("accuracy")
    if accuracy:
        st.markdown(f"**Reward model**: {share_text(told_interval(accuracy))} of held-out pairs in the right order.")
    variants = told.get("variants") or {}
    if variants:
        query = variants_query(*map(str, variants.values()))
        link_to(PLAYGROUND, "Ask all of them something yourself", icon="compare_arrows", **query)


def _nats(told: Mapping[str, Any] | None) -> str:
    return f"{told['value']:.2f} ({told['low']:.2f}–{told['high']:.2f})" if told else ""
