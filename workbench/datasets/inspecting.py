"""A row of any kind as the tokens a model sees, for the eye."""

from __future__ import annotations

from pydantic import Field

from workbench.datasets.render import Chip, Renderer
from workbench.records import Example, Labelled, Payload, Preference, Record


class InspectedRow(Record):
    """One training row of a payload."""

    title: str
    """What it is, where a payload makes more than one: "Chosen", "Rejected", "Answer 2 of 3"."""
    chips: tuple[Chip, ...] = Field(repr=False)
    """The tokens in order."""
    note: str = ""
    """Why a conversation became several rows, or what is not learned."""

    @property
    def tokens(self) -> int:
        """All tokens."""
        return len(self.chips)

    @property
    def supervised(self) -> int:
        """Tokens the loss falls on."""
        return sum(chip.supervised for chip in self.chips)


def inspect_payload(payload: Payload, renderer: Renderer) -> list[InspectedRow]:
    """The training rows of a payload as chips: those of an example, a labelled answer, or both sides of a preference.

    A prompt has one row without a supervised token.

    Raises:
        TemplateProblem: the model's chat template does not accept the conversation.
    """
    if isinstance(payload, Preference):
        sides = (("Chosen", payload.chosen), ("Rejected", payload.rejected))
        rendered = [(title, renderer.render_prompt_completion(payload.prompt, side)) for title, side in sides]
    elif isinstance(payload, Labelled):
        title = "Good answer" if payload.label else "Bad answer"
        rendered = [(title, renderer.render_prompt_completion(payload.prompt, payload.completion))]
    else:
        tools = payload.tools if isinstance(payload, Example) else None
        rows = renderer.render(payload.messages, tools)
        titles = [f"Answer {n} of {len(rows)}" if len(rows) > 1 else "" for n in range(1, len(rows) + 1)]
        rendered = list(zip(titles, rows, strict=True))
    return [InspectedRow(title=title, chips=tuple(renderer.chips(row)), note=row.note) for title, row in rendered]
