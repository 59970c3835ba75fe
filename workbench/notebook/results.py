"""Tokens, comparisons, answered prompt sets, leaderboards and reward reports as notebooks show them.

They hold all that is shown.
"""

from __future__ import annotations

from typing import ClassVar

from workbench.datasets.inspecting import InspectedRow
from workbench.evaluation.aggregate import AnswerGrid
from workbench.notebook import cards
from workbench.notebook.shown import Shown
from workbench.preferences.leaderboard import Leaderboard
from workbench.records import Record
from workbench.runs.comparing import Comparison
from workbench.training.reward_diagnostics import RewardReport


class ShownComparison(Shown, Comparison):
    """Answers to one prompt, side by side."""

    noun: ClassVar[type[Record]] = Comparison

    def _held(self, note: str) -> str:
        return cards.comparison_card(self)


class ShownGrid(Shown, AnswerGrid):
    """A prompt set's answers."""

    noun: ClassVar[type[Record]] = AnswerGrid

    def _held(self, note: str) -> str:
        return cards.grid_card(self)


class ShownBoard(Shown, Leaderboard):
    """A leaderboard."""

    noun: ClassVar[type[Record]] = Leaderboard

    def _held(self, note: str) -> str:
        return cards.board_card(self)


class ShownTokens(Shown, InspectedRow):
    """A training row as the tokens a model sees."""

    noun: ClassVar[type[Record]] = InspectedRow

    def _held(self, note: str) -> str:
        return cards.tokens_card(self)


class ShownReward(Shown, RewardReport):
    """What is known of a reward model."""

    noun: ClassVar[type[Record]] = RewardReport

    def _held(self, note: str) -> str:
        return cards.reward_card(self)
