"""The goals, in one table: figure → words, and the comparison that decides whether it is met.

`limit` and `peers` come from the same run of the benchmark, so a goal that speaks of them compares like with like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Peers = Mapping[str, float]


@dataclass(frozen=True)
class Goal:
    """What a figure is held to."""

    words: str
    """The goal as a reader sees it."""
    met: Callable[[float, Peers, float | None], bool]
    """value, peers, limit → whether it holds."""


GOALS: dict[str, Goal] = {
    "start.first_page": Goal("≤ 3 s", lambda value, peers, limit: value <= 3.0),
    "pages.p95": Goal("≤ 150 ms for each page", lambda value, peers, limit: value <= 150.0),
    "leaderboard.load": Goal("< 1 s", lambda value, peers, limit: value < 1.0),
    "launch.first_step": Goal(
        "≤ 1.2 × the bare TRL script", lambda value, peers, limit: value <= 1.2 * peers["bare TRL script"]
    ),
    "sft.epoch": Goal(
        "≥ 3 × as fast as stock TRL, and ≥ 75 % of the GEMM limit",
        lambda value, peers, limit: (
            3 * value <= peers["stock TRL SFTTrainer"] and limit is not None and limit >= 0.75 * value
        ),
    ),
    "sft.loss_difference": Goal("≤ 1e-5 on the same batch", lambda value, peers, limit: value <= 1e-5),
    "side_by_side.base_and_one": Goal(
        "≤ 0.6 × of generate twice", lambda value, peers, limit: value <= 0.6 * peers["generate twice"]
    ),
    "side_by_side.base_and_three": Goal(
        "≤ 1.25 × of base and one", lambda value, peers, limit: value <= 1.25 * peers["base and one, ours"]
    ),
    "side_by_side.same_text": Goal("greedy text identical to plain PEFT", lambda value, peers, limit: value == 1.0),
    "sampling.throughput": Goal("≥ 120 tok/s", lambda value, peers, limit: value >= 120.0),
    "reward.loss_difference": Goal("≤ 1e-5 over the same 36 pairs", lambda value, peers, limit: value <= 1e-5),
    "reward.rows_read": Goal("9: each answer once", lambda value, peers, limit: value == 9),
    "reward.prompt": Goal(
        "≥ 5 × as fast as TRL's RewardTrainer", lambda value, peers, limit: 5 * value <= peers["TRL RewardTrainer"]
    ),
    "instructgpt.score": Goal("not below the base", lambda value, peers, limit: value >= peers["base"]),
    "instructgpt.gain": Goal(
        "above the fine-tuned model, prompt by prompt, with its interval", lambda value, peers, limit: peers["low"] > 0
    ),
    "instructgpt.kl": Goal("≤ 25 nats an answer", lambda value, peers, limit: value <= 25.0),
    "instructgpt.time": Goal("≤ 1 hour", lambda value, peers, limit: value <= 3600.0),
    "instructgpt.reward_accuracy": Goal(
        "above chance, with its interval", lambda value, peers, limit: peers["low"] > 0.5
    ),
    "novelty.same_decisions": Goal(
        "scores and decisions of rouge_score, every one", lambda value, peers, limit: value == 1.0
    ),
    "novelty.pair": Goal("≤ 0.35 µs a pair", lambda value, peers, limit: value <= 0.35),
    "novelty.whole_pool": Goal("within minutes (≤ 10) on one core", lambda value, peers, limit: value <= 10.0),
}
