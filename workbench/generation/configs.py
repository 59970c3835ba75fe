"""What the engine is asked and what it answers, and the config of a `serve` run. Plain records; nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from workbench.records import Record, RunConfig, Sampling

FinishReason = Literal["stop", "length", "cancelled", "error"]
MAX_TOP_LOGPROBS = 20
MAX_CHOICES = 16


class ServeConfig(RunConfig):
    """Serve one base model and every adapter made for it."""

    model: str
    """Id or name of the base model."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights. `auto` takes float32 on a CPU and the model's own on a GPU."""
    idle_s: float | None = Field(default=None, gt=0, json_schema_extra={"unit": "seconds"})
    """Seconds without a request after which the engine ends; the workbench's setting when left out."""
    max_rows: int = Field(default=64, ge=1, le=1024)
    """Answers written at once; further requests wait their turn."""
    cache_mb: int = Field(default=2048, ge=1, json_schema_extra={"unit": "MB"})
    """Memory for attention keys and values; requests that would go beyond it wait their turn."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; the workbench's setting when left out."""


class GenerationRequest(Record):
    """One prompt to continue, as the engine takes it."""

    prompt_ids: tuple[int, ...]
    """The prompt, as tokens."""
    sampling: Sampling = Sampling()
    """How to choose tokens."""
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end an answer."""
    adapter: str | None = None
    """Key under which an adapter was loaded; None for the base."""
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    """Number of answers."""
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    """Give log probabilities, with so many alternatives; None gives none."""


@dataclass(frozen=True)
class TokenLogprob:
    """Log probability of a chosen token under the model itself, before penalties, temperature and cut-offs."""

    token_id: int
    """The token."""
    logprob: float
    """Natural logarithm of its probability."""
    top: tuple[tuple[int, float], ...] = ()
    """Most likely tokens with theirs, best first."""


@dataclass(frozen=True)
class Delta:
    """More of an answer."""

    choice: int
    """Which of the `n` answers."""
    text: str
    """What is added; never half a character and never part of a stop text."""
    token_ids: tuple[int, ...] = ()
    """Tokens chosen since the last delta."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token, where asked for."""


@dataclass(frozen=True)
class Done:
    """The end of an answer."""

    choice: int
    """Which of the `n` answers."""
    finish_reason: FinishReason
    """Why it ended."""
    tokens: int
    """Tokens chosen, the end token left out."""


@dataclass(frozen=True)
class Failed:
    """The end of a request that could not be answered."""

    error: Exception
    """Why, in words."""


Event = Delta | Done | Failed


@dataclass(frozen=True)
class EngineLoad:
    """How busy the engine is."""

    running: int
    """Answers being written."""
    waiting: int
    """Answers that wait for a place."""
    adapters: tuple[str, ...] = field(default=())
    """Keys of loaded adapters."""
