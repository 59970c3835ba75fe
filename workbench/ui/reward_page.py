"""The Reward page: the list of reward models, what is known of one, and its mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.errors import NotFound
from workbench.records import Interval
from workbench.training.reward_diagnostics import Correlation, RewardReport, WrongPair
from workbench.training.reward_models import RewardModel
from workbench.ui import charts
from workbench.ui.errors import show_problem
from workbench.ui.links import LINEAGE, NEW_RUN, RANK, go_to, link_to
from workbench.ui.paging import times
from workbench.ui.reward_charts import calibration_figure, distribution_figure
from workbench.ui.reward_scores import show_best_of, show_scoring
from workbench.ui.runs import run_link
from workbench.ui.state import KIND_PARAM, OF_PARAM, REWARD_PARAM, RUN_PARAM
from workbench.ui.text import ago, count, exact, plain

PICKED = "reward.model"
TABS = "reward.tabs"
LEFT_OUT = {
    "equal_sides": "with two equal sides",
    "no_weight": "with weight 0",
    "unrenderable": "that the template refuses",
    "cut_off": "whose answer is cut off whole",
}


def show_no_reward_model(ws: Workspace) -> None:
    """What to do where there is none yet: one action."""
    with st.container(border=True):
        st.subheader("No reward model yet", anchor=False)
        training = [run for run in ws.runs(kinds=["reward"], limit=20) if run.state.active]
        if training:
            st.markdown("One is being trained; it appears here when its run has finished.")
            run_link(training[0])
        elif ws.datasets(kind="preferences"):
            st.markdown(
                "There are preferences to learn from. A reward model reads an answer and says with one number how much "
                "raters would like it; that number then steers RLOO or GRPO."
            )
            if st.button("Train a reward model", type="primary", icon=":material/add_circle:", key="reward.train"):
                go_to(NEW_RUN, **{KIND_PARAM: "reward"})
        else:
            st.markdown(
                "A reward model learns from rankings. Rank some answers blind, make a preference dataset of them on "
                "the Leaderboard page, and train it on that."
            )
            if st.button("Go to Rank", type="primary", icon=":material/social_leaderboard:", key="reward.rank"):
                go_to(RANK)


def pick_reward_model(models: Sequence[RewardModel]) -> RewardModel:
    """The choice of a reward model: the one of the address, or the newest; with several, a table of all."""
    by_id = {made.run_id: made for made in models}
    named = st.query_params.get(RUN_PARAM, "")
    if named and st.session_state.get(f"{PICKED}.named") != named:
        st.session_state[f"{PICKED}.named"] = named
        wanted = next((made.run_id for made in models if named in (made.run_id, made.name)), None)
        if wanted is None:
            show_problem(NotFound("no such reward model", value=named, remedy="Choose one of those below."))
        else:
            st.session_state[PICKED] = wanted
    if st.session_state.get(PICKED) not in by_id:
        st.session_state.pop(PICKED, None)
    if len(models) > 1:
        with st.expander(f"All {count(len(models), 'reward model')}", icon=":material/table_rows:"):
            _show_all(models)
    picked = st.selectbox(
        "Reward model",
        list(by_id),
        format_func=lambda key: f"{by_id[key].name}, {ago(by_id[key].created_at)}" if key in by_id else key,
        key=PICKED,
    )
    return by_id[picked]


def _show_all(models: Sequence[RewardModel]) -> None:
    st.dataframe(
        pd.DataFrame(
            {
                "name": [made.name for made in models],
                "accuracy": [100 * made.accuracy.value if made.accuracy else None for made in models],
                "interval": [percent(made.accuracy) for made in models],
                "held_out": [made.accuracy.n if made.accuracy else None for made in models],
                "pairs": [made.pairs for made in models],
                "created": times([made.created_at for made in models]),
            }
        ),
        hide_index=True,
        height="content",
        key="reward.table",
        alt="Reward models, newest first",
        column_config={
            "name": st.column_config.TextColumn("Name", width=240),
            "accuracy": st.column_config.NumberColumn("Held-out accuracy", format="%.0f %%"),
            "interval": st.column_config.TextColumn("95 % interval", help="Bootstrap over prompts."),
            "held_out": st.column_config.NumberColumn("Pairs held out", format="localized"),
            "pairs": st.column_config.NumberColumn("Pairs learned", format="localized"),
            "created": st.column_config.DatetimeColumn("Launched", format="distance"),
        },
    )


def show_reward_model(ws: Workspace, made: RewardModel) -> None:
    """Everything about one reward model."""
    report = ws.reward_report(made.run_id)
    with st.container(horizontal=True, vertical_alignment="center"):
        run_link(ws.run(made.run_id), label="Its run")
        link_to(LINEAGE, "Lineage", icon="account_tree", **{OF_PARAM: made.run_id})
        link_to(
            NEW_RUN, "Reinforce with it", icon="exercise", help="Opens New run for RLOO with this reward model.",
            **{KIND_PARAM: "rloo", REWARD_PARAM: made.run_id},
        )  # fmt: skip
        st.caption(
            f"Learned from {count(report.training_pairs, 'pair')} on {count(report.training_prompts, 'prompt')}, "
            f"launched {ago(made.created_at)}",
            help=plain(exact(made.created_at)),
        )
    _show_figures(report)
    for warning in report.warnings:
        st.warning(plain(warning), icon=":material/warning:")
    for note in report.notes:
        st.markdown(f":material/info: {plain(note)}")
    bodies: dict[str, Callable[[], None]] = {
        "How far to trust it": lambda: _show_trust(report),
        "Most wrong pairs": lambda: _show_wrong(report),
        "Score an answer": lambda: show_scoring(ws, made),
        "Best of n": lambda: show_best_of(ws, made),
    }
    tabs = st.tabs(list(bodies), key=TABS, on_change="rerun")
    for tab, body in zip(tabs, bodies.values(), strict=True):
        if tab.open:
            with tab:
                body()


def _show_figures(report: RewardReport) -> None:
    told, agreement = report.demonstrations, report.agreement
    with st.grid(4, min_column_width=180):
        _figure(
            "Held-out accuracy",
            "–" if report.accuracy is None else f"{report.accuracy.value:.0%}",
            f"{percent(report.accuracy)}, n = {report.accuracy.n} pairs on {count(report.prompts, 'prompt')}"
            if report.accuracy
            else "nothing was held out",
            "Share of held-out pairs in which the better answer gets the higher reward. Interval by bootstrap over "
            "prompts.",
        )
        _figure(
            "Raters agree",
            "–" if agreement is None else f"{agreement.same.value:.0%}",
            f"{percent(agreement.same)}, n = {agreement.same.n} pairs, {count(agreement.raters, 'rater')}"
            if agreement
            else "no item was ranked by two people",
            "Share of pairs that two raters order alike: what the accuracy is to be read against. In InstructGPT "
            "labelers agreed 73 to 77 % of the time, and the reward model reached about 70 % with new ones.",
        )
        _figure(
            "Calibration error",
            "–" if report.calibration_error is None else f"{report.calibration_error:.1%}",
            "mean distance between how sure it is and how often it is right",
            "0 is perfect; see the curve below.",
        )
        _figure(
            "Demonstrations",
            "–" if not told else f"{told['before']:+.2f} → {told['after']:+.2f}",
            f"mean score before and after the bias, n = {told['n']:.0f}" if told else "",
            "A bias is taken off every score, so that demonstrations get reward 0 on average.",
        )


def _figure(label: str, value: str, below: str, help_text: str) -> None:
    with st.container(border=True, gap="xsmall", height="stretch"):
        st.metric(label, value, help=help_text)
        st.caption(below)


def _show_trust(report: RewardReport) -> None:
    if report.left_out:
        left = ", ".join(f"{number} {LEFT_OUT.get(why, why)}" for why, number in report.left_out.items())
        st.caption(f"Rows left out of training: {left}.")
    if report.accuracy is not None:
        st.subheader("Accuracy on held-out pairs", anchor=False)
        charts.show(
            charts.interval_figure(accuracies(report), "share of pairs", share=True),
            key="reward.accuracy",
            alt="Held-out accuracy beside the agreement of raters, by confidence and by number of answers",
        )
    if report.calibration:
        st.subheader("Calibration", anchor=False)
        st.caption("Where the model is sure of 80 %, raters should agree with it in 80 % of pairs.")
        charts.show(calibration_figure(report.calibration), key="reward.calibration", alt="Calibration curve")
    if report.distributions:
        st.subheader("Rewards of answers", anchor=False)
        st.caption("Demonstrations lie around 0; what raters like should lie to the right of what they do not.")
        charts.show(
            distribution_figure(report.distributions), key="reward.distributions", alt="Rewards by group of answers"
        )
    if report.length is not None:
        st.subheader("Reward and length", anchor=False)
        st.caption("Correlation of reward and length in tokens over held-out answers; far from 0 it may reward length.")
        found = {"rank correlation": report.length.spearman, "linear correlation": report.length.pearson}
        if report.length.within_prompts is not None:
            found["rank correlation within prompts"] = report.length.within_prompts
        charts.show(
            charts.interval_figure({name: _as_interval(each) for name, each in found.items()}, "correlation"),
            key="reward.length",
            alt="Correlations of reward and length with their intervals",
        )


def accuracies(report: RewardReport) -> dict[str, Interval]:
    """Everything that is a share of held-out pairs, by shown name."""
    found: dict[str, Interval] = {}
    if report.accuracy is not None:
        found["this model"] = report.accuracy
    if report.agreement is not None:
        found["raters with each other"] = report.agreement.same
    if report.length is not None and report.length.longer_wins is not None:
        found["the longer answer"] = report.length.longer_wins
    found |= {f"confidence {value}": share for value, share in report.by_confidence.items()}
    if len(report.by_k) > 1:
        found |= {f"{value} answers": share for value, share in report.by_k.items()}
    return found


def _as_interval(found: Correlation) -> Interval:
    return Interval(value=found.value, low=found.low, high=found.high, n=found.n)


def _show_wrong(report: RewardReport) -> None:
    if not report.wrong:
        st.caption("No held-out pair is in the wrong order." if report.pairs else "Nothing was held out.")
        return
    st.caption("Held-out pairs in which the answer raters prefer gets the lower reward, the worst first.")
    event = st.dataframe(
        wrong_table(report.wrong),
        hide_index=True,
        height="content",
        key="reward.wrong",
        on_select="rerun",
        selection_mode="single-row",
        alt="Pairs that the model gets most wrong",
        column_config={
            "margin": st.column_config.NumberColumn("Margin", format="%.2f", help="Preferred less other."),
            "prompt": st.column_config.TextColumn("Prompt", width="medium"),
            "chosen": st.column_config.TextColumn("Preferred by raters", width="large"),
            "rejected": st.column_config.TextColumn("The other", width="large"),
            "confidence": st.column_config.NumberColumn("Confidence", help="1 to 5, as the rater gave it."),
            "raters": st.column_config.TextColumn("Raters"),
            "rows": st.column_config.TextColumn("Rows"),
        },
    )
    chosen = [row for row in event.selection.rows if row < len(report.wrong)]
    if not chosen:
        st.caption("Choose a row to read it whole.")
        return
    pair = report.wrong[chosen[0]]
    st.text(pair.prompt)
    for column, label, text, reward in zip(
        st.columns(2),
        ("Preferred by raters", "The other"),
        (pair.chosen, pair.rejected),
        (pair.chosen_reward, pair.rejected_reward),
        strict=True,
    ):
        with column, st.container(border=True):
            st.caption(f"{label}, reward {reward:+.2f}")
            st.text(text or "(an empty answer)")


def wrong_table(pairs: Sequence[WrongPair]) -> pd.DataFrame:
    """One line a pair."""
    return pd.DataFrame(
        [
            {
                "margin": pair.margin,
                "prompt": pair.prompt,
                "chosen": pair.chosen,
                "rejected": pair.rejected,
                "confidence": pair.confidence,
                "raters": ", ".join(pair.raters),
                "rows": ", ".join(pair.row_ids),
            }
            for pair in pairs
        ]
    )


def percent(share: Interval | None) -> str:
    """The interval of a share; empty where there is none."""
    return "" if share is None else f"{share.low:.0%} to {share.high:.0%}"
