"""Text from variants: one answer, several side by side, a whole prompt set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from workbench.api.data import DataMethods
from workbench.api.models import find_variant
from workbench.errors import UsageError
from workbench.notebook.shown import ShownAnswer
from workbench.records import Completion, Message, Run, Sampling
from workbench.store import answers as answer_store
from workbench.store import runs as run_store

if TYPE_CHECKING:
    from workbench.evaluation.aggregate import AnswerGrid
    from workbench.generation.client import ChatClient, StreamHandle
    from workbench.runs.comparing import Comparison
    from workbench.runs.engines import Endpoint


class TextMethods(DataMethods):
    """Text from variants: one answer, several side by side, a whole prompt set."""

    def client(self, variant: str) -> ChatClient:
        """The client for a variant; finds or starts the local engine of its base."""
        from workbench.runs.engines import client_for

        return client_for(self.store, self.variant(variant))

    def engine(self, model: str) -> Endpoint:
        """Where a base model's local engine listens; starts it where needed."""
        from workbench.runs.engines import ensure_engine

        return ensure_engine(self.store, self.model(model).id)

    def generate(
        self, variant: str, prompt: str | Sequence[Message], *, system: str = "", **sampling: Any
    ) -> Completion:
        """Answer a prompt with a variant and wait for the whole text.

        Args:
            variant: name or id.
            prompt: a user turn, or a conversation that ends with one.
            system: system prompt, for a plain-text prompt.
            sampling: fields of `Sampling`.
        """
        asked = as_messages(prompt, system), as_sampling(sampling)  # told before an engine is started for it
        with closing(self.client(variant)) as client:
            return ShownAnswer.of(client.complete(*asked), self.store)

    def compare(
        self, variants: Sequence[str], prompt: str | Sequence[Message], *, system: str = "", **sampling: Any
    ) -> Comparison:
        """Answer a prompt with several variants at once; one that fails says so in its pane.

        Args:
            variants: names or ids; `base` is the bundled model.
            prompt: a user turn, or a conversation that ends with one.
            system: system prompt, for a plain-text prompt.
            sampling: fields of `Sampling`, for all alike.
        """
        from workbench.notebook.results import ShownComparison
        from workbench.runs.comparing import compare_answers

        asked = as_messages(prompt, system), as_sampling(sampling)
        chosen = [find_variant(self, name) for name in dict.fromkeys(variants)]
        if not chosen:
            raise UsageError("no variant was chosen", place="variants", remedy="Choose at least one.")
        return ShownComparison.of(compare_answers(self.store, chosen, *asked), self.store)

    def stream(
        self, variant: str, prompt: str | Sequence[Message], *, system: str = "", **sampling: Any
    ) -> StreamHandle:
        """Answer a prompt piece by piece."""
        asked = as_messages(prompt, system), as_sampling(sampling)
        return self.client(variant).stream(*asked)

    def answer_prompts(self, prompts: str, variants: Sequence[str], **options: Any) -> Run:
        """Answer a prompt set with several variants, in the background; see `AnswerConfig` for the options."""
        ids = [self.variant(name).id for name in variants]
        if not ids:
            raise UsageError("no variant was chosen", place="variants", remedy="Choose at least one.")
        name = f"Answers to {self._called(prompts)}"
        return self.launch("answer", {"prompts": prompts, "variants": ids, **options}, name=name)

    def answers(self, run_id: str) -> AnswerGrid:
        """A prompt set's answers as a grid, with scores and intervals where there is a scorer."""
        from workbench.evaluation.aggregate import load_grid
        from workbench.notebook.results import ShownGrid

        return ShownGrid.of(load_grid(self.store, run_store.get_run(self.store, run_id)), self.store)

    def conversations(self, **filters: Any) -> list[Any]:
        """Playground conversations, newest first."""
        return list(answer_store.list_conversations(self.store, **filters))


def as_messages(prompt: str | Sequence[Message], system: str = "") -> list[Message]:
    """A plain text as a conversation; a conversation as it is.

    Raises:
        UsageError: the prompt is empty, is no text, or does not end with a turn that can be answered.
    """
    try:
        for text in (system, *([prompt] if isinstance(prompt, str) else (turn.content for turn in prompt))):
            text.encode()
    except UnicodeEncodeError as error:
        what = "the prompt holds half of a character, which no model can read"
        raise UsageError(what, place="prompt", remedy="Write it anew, in UTF-8.") from error
    if isinstance(prompt, str):
        if not prompt.strip():
            raise UsageError("the prompt is empty", place="prompt", remedy="Write something to answer.")
        turns = [Message(role="user", content=prompt)]
        return [Message(role="system", content=system), *turns] if system.strip() else turns
    if not prompt or prompt[-1].role not in ("user", "tool"):
        raise UsageError("the conversation must end with a user turn", place="prompt")
    return list(prompt)


def as_sampling(settings: Mapping[str, Any]) -> Sampling:
    """Fields of `Sampling`, checked.

    Raises:
        UsageError: a field is unknown or out of bounds.
    """
    from pydantic import ValidationError

    from workbench.runs.kinds import config_problem

    try:
        return Sampling(**settings)
    except ValidationError as error:
        raise config_problem(error) from error
