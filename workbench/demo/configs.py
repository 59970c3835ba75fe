"""What a demo shows and to whom, and the password beside it. Plain records; Gradio is imported by the worker alone."""

from __future__ import annotations

import ipaddress
import os
import secrets
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from workbench.errors import StoreProblem, UsageError
from workbench.records import RunConfig, Sampling
from workbench.settings import Settings

Mode = Literal["compare", "arena"]
PASSWORD_FILE = "password"  # noqa: S105 - a file's name
SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 200


class DemoConfig(RunConfig):
    """A page where visitors ask several variants the same thing, side by side or without knowing who is who."""

    variants: tuple[str, ...] = Field(min_length=2, max_length=4)
    """Variants that answer, by name or id; two to four. The arena draws two of them for each question."""
    modes: tuple[Mode, ...] = Field(default=("compare", "arena"), min_length=1)
    """compare: a conversation with each, side by side. arena: two unnamed answers and a vote, names after it."""
    title: str = Field(default="Which answer is better?", min_length=1, max_length=120)
    """Heading of the page, and name of the queue that votes go to."""
    intro: str = Field(default="", max_length=2000)
    """A few words below the heading."""
    examples: tuple[str, ...] = Field(default=(), max_length=12)
    """Prompts to start from."""
    system: str = Field(default="", max_length=20_000)
    """System prompt that each question is asked with."""
    bind: str = Field(default="127.0.0.1", json_schema_extra={"group": "Where"})
    """Address to listen on. 127.0.0.1 is this machine only; 0.0.0.0 is every network it is in, with a password."""
    port: int = Field(default=0, ge=0, le=65535, json_schema_extra={"group": "Where"})
    """Port to listen on; 0 takes a free one."""
    temperature: float = Field(default=0.7, ge=0, le=2, json_schema_extra={"group": "Sampling"})
    """0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1, json_schema_extra={"group": "Sampling"})
    """Nucleus share kept."""
    top_k: int = Field(default=0, ge=0, json_schema_extra={"group": "Sampling", "advanced": True})
    """Most likely tokens kept; 0 keeps all."""
    max_tokens: int = Field(default=256, ge=1, le=8192, json_schema_extra={"group": "Sampling"})
    """Longest answer, in tokens."""
    seed: int | None = Field(default=None, ge=0, lt=2**63, json_schema_extra={"group": "Sampling", "advanced": True})
    """Same seed and question give the same answers; without one each question draws its own."""
    max_prompt_chars: int = Field(default=2000, ge=1, le=100_000, json_schema_extra={"group": "Limits"})
    """Longest question, in characters."""
    max_turns: int = Field(default=10, ge=1, le=1000, json_schema_extra={"group": "Limits"})
    """Questions of one conversation side by side; then a new one is started. 1 makes each question stand alone."""
    max_conversation_chars: int = Field(default=24_000, ge=1, le=1_000_000, json_schema_extra={"group": "Limits"})
    """Longest conversation as one model reads it, in characters: questions and its own answers."""
    per_visitor: int = Field(default=12, ge=1, le=100_000, json_schema_extra={"group": "Limits"})
    """Questions that one address may ask in a minute."""
    per_minute: int = Field(default=60, ge=1, le=100_000, json_schema_extra={"group": "Limits"})
    """Questions that all visitors together may ask in a minute."""
    concurrency: int = Field(default=4, ge=1, le=64, json_schema_extra={"group": "Limits"})
    """Questions answered at once; further ones wait their turn."""

    @field_validator("variants", "modes", "examples")
    @classmethod
    def _drop_repeats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part for part in value if part.strip()))

    @field_validator("bind")
    @classmethod
    def _known_address(cls, value: str) -> str:
        value = value.strip().removeprefix("[").removesuffix("]")
        if value == "localhost":
            return "127.0.0.1"
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            raise ValueError("write an address such as 127.0.0.1 or 0.0.0.0") from None

    @model_validator(mode="after")
    def _fits(self) -> DemoConfig:
        if not self.title.strip():
            raise ValueError("a demo needs a title")
        if len(self.variants) < 2:
            raise ValueError("choose at least two different variants")
        if not self.modes:
            raise ValueError("choose compare, arena or both")
        for example in self.examples:
            if len(example) > self.max_prompt_chars:
                raise ValueError("an example prompt is longer than a question may be")
        return self

    @property
    def beyond_loopback(self) -> bool:
        """Whether other machines can reach the demo; then it needs a password."""
        return not ipaddress.ip_address(self.bind).is_loopback

    def sampling(self) -> Sampling:
        """Settings of one question; without a seed of the config's own, a new one that is kept with the answers."""
        seed = secrets.randbelow(2**31) if self.seed is None else self.seed
        return Sampling(
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, max_tokens=self.max_tokens, seed=seed
        )


def check_password(password: str) -> str:
    """A password that will do, as it was given.

    Raises:
        UsageError: it is too short or too long.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD or not password.strip():
        raise UsageError(
            f"the password has {len(password)} characters",
            place="password",
            remedy=f"Take {SHORTEST_PASSWORD} to {LONGEST_PASSWORD}, or leave it out to have one made.",
        )
    return password


def make_password() -> str:
    """A password that can be read out: four groups of four letters and digits, about 80 bits."""
    alphabet = "23456789abcdefghjkmnpqrstuvwxyz"
    return "-".join("".join(secrets.choice(alphabet) for _ in range(4)) for _ in range(4))


def write_password(settings: Settings, run_id: str, password: str) -> Path:
    """Keep a demo's password in its run's folder, readable by its owner alone.

    Raises:
        StoreProblem: the file cannot be written.
    """
    path = settings.run_dir(run_id) / PASSWORD_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(password)
    except OSError as error:
        raise StoreProblem(f"the password cannot be kept: {error.strerror or error}", place=str(path)) from error
    return path


def read_password(settings: Settings, run_id: str) -> str | None:
    """A demo's password; None where it has none."""
    try:
        return (settings.run_dir(run_id) / PASSWORD_FILE).read_text("utf-8") or None
    except OSError:
        return None
