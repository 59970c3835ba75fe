"""Asking a reward model: score an answer that is typed here, and see what keeping the best of n would bring.

Both launch a `score` run and follow it; the page itself never loads a model.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from workbench.api import Workspace
from workbench.errors import WorkbenchError
from workbench.records import Run, RunState, Variant
from workbench.training.reward_models import RewardModel
from workbench.training.score import ScoredAnswer, ScoreReport
from workbench.ui import charts
from workbench.ui.errors import show_problem, shown_errors
from workbench.ui.links import MODELS, link_to
from workbench.ui.reward_charts import best_of_figure
from workbench.ui.runs import progress_bar, run_link, show_queue, state_badge
from workbench.ui.text import ago, exact, plain

LOOK_EVERY_S = 1.0
SHOWN_PROMPTS = 10
NO_DATASET = ""


def show_scoring(ws: Workspace, made: RewardModel) -> None:
    """A prompt, answers to it, and their rewards."""
    st.caption("Rewards compare answers to one prompt; those of different prompts are not on one scale.")
    prompt = st.text_area("Prompt", key="reward.prompt", height=80, placeholder="What was asked")
    first, second = st.columns(2)
    texts = [
        column.text_area(label, key=key, height=140, placeholder=hint)
        for column, label, key, hint in (
            (first, "Answer", "reward.answer", "The answer to score"),
            (second, "Another answer", "reward.other", "Optional, to compare"),
        )
    ]
    answers = [text for text in texts if text.strip()]
    ready = bool(prompt.strip() and answers)
    help_text = None if ready else "Needs a prompt and an answer."
    if st.button(
        "Score", type="primary", icon=":material/speed:", key="reward.score", disabled=not ready, help=help_text
    ):
        with shown_errors():
            _launched(made, "texts", ws.score(made.run_id, prompt=prompt, answers=answers))
    _follow(ws, made, "texts")


def show_best_of(ws: Workspace, made: RewardModel) -> None:
    """A variant, prompts, n, and the reward of the best of n."""
    variants = _answering(ws)
    if not variants:
        st.markdown("There is no variant that can answer yet.")
        link_to(MODELS, "Make a base model ready", icon="deployed_code")
        return
    st.caption("Draws n answers to each prompt and keeps the best: what a perfect search would gain with this reward.")
    names = {variant.id: variant.name for variant in variants}
    sets = {dataset.name: f"{dataset.name} ({dataset.kind})" for dataset in ws.datasets()}
    left, middle, right = st.columns([2, 2, 1])
    variant = left.selectbox("Variant", list(names), format_func=lambda key: names.get(key, key), key="reward.variant")
    prompts = middle.selectbox(
        "Prompts of",
        [NO_DATASET, *sets],
        format_func=lambda name: sets.get(name, "one prompt, written below"),
        key="reward.prompts",
    )
    n = right.number_input("n", min_value=2, max_value=64, value=8, key="reward.n", help="Answers to each prompt.")
    asked: dict[str, Any]
    if prompts:
        asked = {"prompts": prompts, "limit": st.slider("Prompts", 1, 32, 4, key="reward.limit")}
    else:
        asked = {"prompt": st.text_area("Prompt", key="reward.best_prompt", height=80, placeholder="What to ask")}
    ready = bool(prompts or str(asked["prompt"]).strip())
    if st.button("Draw and score", type="primary", icon=":material/casino:", key="reward.best_of", disabled=not ready):
        with shown_errors():
            _launched(made, "best_of", ws.score(made.run_id, variant=variant, n=int(n), **asked))
    _follow(ws, made, "best_of")


def _answering(ws: Workspace) -> list[Variant]:
    ready = {model.id for model in ws.models(archived=True) if model.path is not None}
    return [item for item in reversed(ws.variants()) if item.model_id in ready or item.server_id is not None]


def _key(made: RewardModel, mode: str) -> str:
    return f"reward.run.{made.run_id}.{mode}"


def _launched(made: RewardModel, mode: str, run: Run) -> None:
    st.session_state[_key(made, mode)] = run.id


def _follow(ws: Workspace, made: RewardModel, mode: str) -> None:
    """The run that this session launched, else the newest of this reward model and mode."""
    run_id = st.session_state.get(_key(made, mode)) or _newest(ws, made, mode)
    if run_id is None:
        return
    run = ws.run(run_id)
    st.fragment(run_every=LOOK_EVERY_S if run.state.active else None)(_look)(ws, run.id, run.state)


def _newest(ws: Workspace, made: RewardModel, mode: str) -> str | None:
    for run in ws.runs(kinds=["score"], limit=50):
        if run.spec.get("reward") == made.run_id and bool(run.spec.get("variant")) == (mode == "best_of"):
            if mode == "best_of" or run.spec.get("answers"):
                return run.id
    return None


def _look(ws: Workspace, run_id: str, known: RunState) -> None:
    with shown_errors():
        run = ws.run(run_id)
        if run.state is not known:
            st.rerun()  # the timer depends on the state
        with st.container(border=True):
            with st.container(horizontal=True, vertical_alignment="center"):
                state_badge(run)
                run_link(run)
                st.caption(ago(run.created_at), help=plain(exact(run.created_at)), width="content")
            if run.state.active:
                progress_bar(run)
                show_queue(ws, run)
            elif run.failure is not None:
                st.error(plain(f"{run.failure.message.rstrip('.')}. {run.failure.remedy}"), icon=":material/error:")
            elif run.state is RunState.FINISHED:
                try:
                    show_scores(ws.scores(run.id))
                except WorkbenchError as error:
                    show_problem(error)


def show_scores(told: ScoreReport) -> None:
    """What a score run found: rewards of answers, or what the best of n would bring."""
    if told.mode == "texts":
        st.text(told.prompts[0].prompt)
        best = told.prompts[0].best
        for answer in told.prompts[0].answers:
            with st.container(border=True):
                _show_answer(answer, best=answer is best and len(told.prompts[0].answers) > 1)
        return
    if told.curve:
        charts.show(
            best_of_figure(told.curve, told.kl), key=f"reward.curve.{told.run_id}", alt="Expected reward of best of n"
        )
        first, last = told.curve[0], told.curve[-1]
        st.caption(
            f"One answer: {first.value:+.3f} ({first.low:+.3f} to {first.high:+.3f}); best of {len(told.curve)}: "
            f"{last.value:+.3f} ({last.low:+.3f} to {last.high:+.3f}), n = {last.n} prompts, at most "
            f"{told.kl[-1]:.2f} nats from the variant."
        )
    for prompt in told.prompts[:SHOWN_PROMPTS]:
        with st.expander(plain(prompt.prompt, limit=120) or "(an empty prompt)", icon=":material/chat:"):
            if prompt.best is not None:
                _show_answer(prompt.best, best=True)
            st.dataframe(
                answer_table(prompt.answers), hide_index=True, height="content", alt="Answers with their rewards",
                column_config={
                    "reward": st.column_config.NumberColumn("Reward", format="%.3f"),
                    "tokens": st.column_config.NumberColumn("Tokens"),
                    "answer": st.column_config.TextColumn("Answer", width="large"),
                    "note": st.column_config.TextColumn("Note"),
                },
            )  # fmt: skip
    if len(told.prompts) > SHOWN_PROMPTS:
        st.caption(f"The first {SHOWN_PROMPTS} of {len(told.prompts)} prompts.")


def _show_answer(answer: ScoredAnswer, *, best: bool) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.metric("Reward", "–" if answer.reward is None else f"{answer.reward:+.3f}", width="content")
        if best:
            st.badge("best", icon=":material/star:", color="green")
        st.caption(f"{answer.tokens} tokens" + (f"; {plain(answer.note)}" if answer.note else ""), width="content")
    st.text(answer.text or "(an empty answer)")


def answer_table(answers: tuple[ScoredAnswer, ...]) -> pd.DataFrame:
    """One line an answer, the best first."""
    ordered = sorted(answers, key=lambda each: float("inf") if each.reward is None else -each.reward)
    return pd.DataFrame(
        {
            "reward": [each.reward for each in ordered],
            "tokens": [each.tokens for each in ordered],
            "answer": [each.text for each in ordered],
            "note": [each.note for each in ordered],
        }
    )
