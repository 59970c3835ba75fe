"""One prompt answered by several variants at once, each by its own client; one that fails takes no other along."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from workbench.errors import GenerationProblem, WorkbenchError
from workbench.records import Completion, Message, Record, Sampling, Variant
from workbench.runs.engines import client_for
from workbench.store.database import Store


class Pane(Record):
    """What one variant made of the prompt."""

    variant: Variant
    """Who was asked."""
    completion: Completion | None = None
    """The answer; None where there is none at all."""
    problem: str = ""
    """Why there is no whole answer, in a sentence; empty where there is one."""


class Comparison(Record):
    """Several variants' answers to one prompt, with the same settings and seed."""

    prompt: tuple[Message, ...]
    """What was asked."""
    sampling: Sampling
    """With which settings."""
    panes: tuple[Pane, ...]
    """In the order in which the variants were named."""

    @property
    def completions(self) -> tuple[Completion, ...]:
        """The whole answers."""
        return tuple(pane.completion for pane in self.panes if pane.completion is not None and not pane.problem)

    @property
    def failed(self) -> tuple[Pane, ...]:
        """Panes without a whole answer."""
        return tuple(pane for pane in self.panes if pane.problem)


def compare_answers(
    store: Store, variants: Sequence[Variant], messages: Sequence[Message], sampling: Sampling
) -> Comparison:
    """Ask several variants the same thing at the same time and wait for all of them.

    Args:
        store: the store.
        variants: who is asked, one pane each.
        messages: the conversation to answer.
        sampling: how, for all alike.
    """

    def ask(variant: Variant) -> Pane:
        try:
            with closing(client_for(store, variant)) as client:
                completion = client.complete(messages, sampling)
        except WorkbenchError as problem:
            return Pane(variant=variant, problem=problem.sentence())
        if completion.error is None:
            return Pane(variant=variant, completion=completion)
        told = GenerationProblem(completion.error, place=variant.name)
        return Pane(variant=variant, completion=completion, problem=told.sentence())

    with ThreadPoolExecutor(max(1, len(variants))) as pool:
        panes = tuple(pool.map(ask, variants))
    return Comparison(prompt=tuple(messages), sampling=sampling, panes=panes)
