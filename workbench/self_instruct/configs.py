"""Settings of a self-instruct run: what it grows from, who writes, how far it goes, and what is thrown out."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from workbench.records import RunConfig, Sampling
from workbench.self_instruct.filters import POINTING_WORDS, InstructionRules

SAMPLING: dict[str, Any] = {"group": "Sampling"}
FILTERS: dict[str, Any] = {"group": "Filters"}
AUTO = "auto"


class SelfInstructConfig(RunConfig):
    """Grows a dataset from seed tasks by asking a model for more of them (Wang et al. 2022)."""

    variant: str = Field(min_length=1)
    """Who writes: a variant by name or id; the bundled model, an adapter of yours, or a model on a server."""
    seeds: str | None = None
    """Tasks by people: dataset name, `name@version` or id. The seeds that come with the workbench when left out."""
    style: Literal["self_instruct", "alpaca"] = "self_instruct"
    """`self_instruct` asks for instructions, then sorts them, then asks for examples; `alpaca` asks for all at once."""
    target: int = Field(default=100, ge=1, le=100_000)
    """Tasks to keep: the run ends with the round in which there are so many."""
    max_rounds: int = Field(default=50, ge=1, le=100_000)
    """Rounds after which the run ends, however much was kept."""
    max_requests: int = Field(default=400, ge=1, le=1_000_000)
    """Requests after which the run ends, failed ones counted; what the generator costs is bounded by this."""
    requests_per_round: int = Field(default=2, ge=1, le=256)
    """Requests for new tasks in a round. What a round brings is shown to the generator from the next round on."""
    tasks_per_request: int | None = Field(default=None, ge=1, le=50)
    """New tasks asked for at once; 8 when left out, 20 in the `alpaca` style."""
    instances: int = Field(default=5, ge=1, le=5)
    """At most so many examples of a task."""
    held_out: tuple[str, ...] = (AUTO,)
    """Datasets that nothing may leak from, besides; `auto` means every prompt set and all that a training run held
    out, a dataset of its own or a share of what it trained on."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Draws the examples that are shown, and seeds the generator where it takes a seed."""
    threshold: float = Field(default=0.7, ge=0, le=1, json_schema_extra=FILTERS)
    """ROUGE-L F1 to any seed or earlier task above which a task is not new. Can be changed afterwards."""
    examples_up_to: float | None = Field(default=None, ge=0, le=1, json_schema_extra=FILTERS)
    """Ask for examples of tasks up to this similar, too, so that the threshold can be raised later without asking
    again."""
    leak_threshold: float = Field(default=0.7, gt=0, le=1, json_schema_extra=FILTERS)
    """ROUGE-L F1 to a held-out text from which a task is refused."""
    min_words: int = Field(default=4, ge=1, le=1000, json_schema_extra=FILTERS)
    """Fewest words of an instruction."""
    max_words: int = Field(default=150, ge=1, le=10_000, json_schema_extra=FILTERS)
    """Most words of an instruction."""
    words: tuple[str, ...] = Field(default=POINTING_WORDS, json_schema_extra=FILTERS)
    """Words that point outside text: an instruction with one of them is thrown out."""
    programs: bool = Field(default=True, json_schema_extra=FILTERS)
    """Throw out what starts with "Write a program"."""
    temperature: float = Field(default=0.7, ge=0, le=2, json_schema_extra=SAMPLING)
    """Of the step that asks for new tasks."""
    top_p: float = Field(default=0.5, gt=0, le=1, json_schema_extra=SAMPLING)
    """Nucleus share kept, in the step that asks for new tasks."""
    presence_penalty: float = Field(default=2.0, ge=-2, le=2, json_schema_extra=SAMPLING)
    """Subtracted once from the logit of each token already written, in the step that asks for new tasks."""
    instance_temperature: float = Field(default=0.0, ge=0, le=2, json_schema_extra=SAMPLING)
    """Of the step that asks for examples; sorting is always greedy."""
    max_tokens: int = Field(default=1024, ge=16, le=8192, json_schema_extra=SAMPLING)
    """Longest reply, in tokens; the task that a reply ends in the middle of is lost."""
    concurrency: int = Field(default=8, ge=1, le=256, json_schema_extra={"advanced": True})
    """Requests under way at once."""
    timeout_s: float = Field(default=300.0, ge=1, le=3600, json_schema_extra={"advanced": True})
    """Seconds of silence after which a request to a server elsewhere counts as failed and is tried again. The local
    engine has an hour, since requests wait their turn there."""
    retries: int = Field(default=6, ge=0, le=20, json_schema_extra={"advanced": True})
    """Further tries after a refusal that may pass (too many requests, a server error, a broken connection), each after
    a longer wait."""

    @field_validator("held_out", "words")
    @classmethod
    def _tidy(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(word.strip() for word in value if word.strip()))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError("an instruction cannot have at least more words than at most: lower min_words")
        if self.examples_up_to is not None and self.examples_up_to < self.threshold:
            raise ValueError("examples_up_to lies below the threshold: raise it, or leave it out")
        return self

    @property
    def rules(self) -> InstructionRules:
        """Settings of the instruction filters."""
        return InstructionRules(
            min_words=self.min_words, max_words=self.max_words, words=self.words, programs=self.programs
        )

    @property
    def count(self) -> int:
        """New tasks asked for at once."""
        return self.tasks_per_request or (20 if self.style == "alpaca" else 8)

    def sampling(self, step: str, seed: int) -> Sampling:
        """Sampling settings of a step.

        Args:
            step: tasks, sort, inputs or labels.
            seed: of this request.
        """
        if step == "tasks":
            return Sampling(
                temperature=self.temperature,
                top_p=self.top_p,
                presence_penalty=self.presence_penalty,
                max_tokens=self.max_tokens,
                seed=seed,
            )
        temperature = 0.0 if step == "sort" else self.instance_temperature
        longest = 8 if step == "sort" else self.max_tokens
        return Sampling(temperature=temperature, top_p=1.0, max_tokens=longest, seed=seed)
