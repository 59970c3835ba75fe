"""What a self-instruct run yields, as notebooks show it: the funnel, what tasks ask for, and a page of candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from workbench.evaluation.report_pieces import COLORS
from workbench.notebook.drawing import bar_chart
from workbench.notebook.pieces import card, noted, text_table, titled
from workbench.notebook.shown import Shown
from workbench.records import Record
from workbench.self_instruct.diversity import Diversity
from workbench.self_instruct.review import LOST, CandidatePage, Funnel

PAIRS = 15
"""Verb-noun pairs that are drawn."""


class ShownFunnel(Shown, Funnel):
    """What became of everything a generator wrote."""

    noun: ClassVar[type[Record]] = Funnel

    def _held(self, note: str) -> str:
        first = self.stages[0].count
        steps = [
            (stage.title, stage.count, f"{stage.count / first:.0%} of all" if first else "") for stage in self.stages
        ]
        lost: dict[str, int] = {}
        for stage in self.stages:
            lost |= {why: number for why, number in stage.lost.items() if why != "open"}  # those are only not read yet
        asked = f"{self.requests:,} requests, {self.failed:,} without a reply, {self.unread:,} without a task in it"
        held = f"threshold {self.threshold:g} · {asked} · {self.examples:,} usable examples"
        parts = [titled("Yield", noted(held)), bar_chart(steps, "tasks")]
        parts.append(text_table(["why tasks were lost", "tasks", ""], _reasons(lost)))
        parts.append(text_table(["why examples were thrown out", "examples", ""], _reasons(self.examples_lost)))
        return card(parts)


def _reasons(lost: Mapping[str, int]) -> list[list[str]]:
    return [[why, f"{number:,}", LOST[why]] for why, number in sorted(lost.items(), key=lambda item: -item[1])]


class ShownDiversity(Shown, Diversity):
    """What tasks ask for."""

    noun: ClassVar[type[Record]] = Diversity

    def _held(self, note: str) -> str:
        held = (
            f"{self.tasks:,} tasks · {len(self.verbs):,} verbs · {len(self.pairs):,} pairs of verb and noun · "
            f"{self.without_verb:,} without such a verb"
        )
        bars = [(f"{pair.verb} {pair.noun}", pair.count, "") for pair in self.pairs[:PAIRS]]
        return card([titled("What the tasks ask for", noted(held)),
                           bar_chart(bars, "tasks", color=COLORS[2])])  # fmt: skip


class ShownCandidates(Shown, CandidatePage):
    """Some of a run's candidates."""

    noun: ClassVar[type[Record]] = CandidatePage

    def _held(self, note: str) -> str:
        lines = []
        for each in self.candidates:
            review = self.reviews.get(each.id)
            usable = [one for one in each.instances or () if one.reason is None]
            lines.append(
                [
                    f"{each.position + 1:,}",
                    each.why or each.state,
                    review.verdict if review else "",
                    each.instruction,
                    usable[0].output if usable else "",
                    "" if each.score is None else f"{each.score:.2f}",
                    each.nearest_text or "",
                ]
            )
        heads = ["task", "decision", "review", "instruction", "first output", "score", "nearest"]
        told = f"{len(self.candidates):,} of {self.total:,}"
        return card([titled("Tasks", noted(told)), text_table(heads, lines)])
