"""The OpenAI protocol as the local server speaks it: what a request may hold and what answers look like.

Fields follow the public API reference, with `top_k` beside them. What would change an answer and is not supported is
refused; what would not is ignored. Nothing here knows the engine or HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from workbench.generation.configs import MAX_CHOICES, MAX_TOP_LOGPROBS, TokenLogprob
from workbench.records import Message, Sampling

LONGEST = 8192
"""Most tokens of one answer, as `Sampling` bounds them."""


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: bool = False


class Ask(BaseModel):
    """What both endpoints take."""

    model_config = ConfigDict(extra="ignore")

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=1, ge=1, le=MAX_CHOICES)
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: float | None = Field(default=1.0, ge=0, le=2)
    top_p: float | None = Field(default=1.0, ge=0, le=1)
    top_k: int | None = Field(default=0, ge=-1)
    presence_penalty: float | None = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=0.0, ge=-2, le=2)
    max_tokens: int | None = Field(default=None, ge=1)
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, JsonValue] | None = None

    @field_validator("logit_bias")
    @classmethod
    def _no_bias(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value:
            raise ValueError("this server has no logit_bias; leave it out")
        return value

    @field_validator("response_format")
    @classmethod
    def _plain_text(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        if value and value.get("type", "text") != "text":
            raise ValueError("this server answers in plain text only; leave response_format out")
        return value

    @property
    def longest(self) -> int | None:
        """Most tokens asked for, None where nothing was said."""
        return self.max_tokens

    def sampling(self, unsaid: int) -> Sampling:
        """The settings; `unsaid` is the length where none was asked for."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            # 0 means "the best token only" to servers that accept it.
            top_p=1.0 if self.top_p is None else max(self.top_p, 1e-9),
            top_k=max(self.top_k or 0, 0),
            max_tokens=max(1, min(self.longest or unsaid, LONGEST)),
            seed=None if self.seed is None else self.seed % 2**63,
            stop=tuple([self.stop] if isinstance(self.stop, str) else self.stop or ()),
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
        )


class AskedMessage(BaseModel):
    """A message as clients send it."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, JsonValue]] | None = None
    name: str | None = None
    tool_calls: list[JsonValue] | None = None
    tool_call_id: str | None = None

    @field_validator("content")
    @classmethod
    def _only_text(cls, value: Any) -> Any:
        if isinstance(value, list) and any(part.get("type") != "text" for part in value):
            raise ValueError("only text can be read, not images, sound or files")
        return value

    def message(self) -> Message:
        """The message as the workbench knows it."""
        text = self.content
        if isinstance(text, list):
            text = "".join(str(part.get("text", "")) for part in text)
        return Message(
            role="system" if self.role == "developer" else self.role,
            content=text or "",
            name=self.name,
            tool_calls=self.tool_calls,
            tool_call_id=self.tool_call_id,
        )


class ChatAsk(Ask):
    """`/v1/chat/completions`."""

    messages: list[AskedMessage] = Field(min_length=1)
    tools: list[JsonValue] | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)

    @property
    def longest(self) -> int | None:
        """Most tokens asked for, by the newer name first."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def tops(self) -> int | None:
        """Alternatives to give log probabilities for; None gives none at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TextAsk(Ask):
    """`/v1/completions`."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(default=16, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool | None = False
    suffix: str | None = None
    best_of: int | None = None

    @field_validator("echo", "suffix")
    @classmethod
    def _absent(cls, value: Any) -> Any:
        if value:
            raise ValueError("this server has neither echo nor suffix; leave it out")
        return value

    @property
    def tops(self) -> int | None:
        """Alternatives to give log probabilities for; None gives none at all."""
        return self.logprobs

    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [part for part in self.prompt if not isinstance(part, int)]


class Shape:
    """Writes the JSON of one answer, whole or in chunks.

    Args:
        kind: `chat` or `text`.
        answer_id: the answer's id.
        model: the model's name as asked.
        fingerprint: what really produces it.
        token_text: text of a token, for log probabilities.
    """

    def __init__(
        self,
        kind: Literal["chat", "text"],
        answer_id: str,
        model: str,
        fingerprint: str,
        token_text: Callable[[int], str],
    ) -> None:
        self.chat = kind == "chat"
        self._base = {"id": answer_id, "created": int(time.time()), "model": model, "system_fingerprint": fingerprint}
        self._token_text = token_text

    def chunk(self, choice: int, text: str | None, finish: str | None, logprobs: Sequence[TokenLogprob] = ()) -> Any:
        """One streamed piece; text None only opens or closes the answer."""
        shown = self.logprobs(logprobs)
        part: dict[str, Any] = {"index": choice, "finish_reason": finish, "logprobs": shown}
        if self.chat:
            part["delta"] = {} if text is None else {"content": text}
        else:
            part["text"] = text or ""
        return {**self._base, "object": self._name(".chunk"), "choices": [part]}

    def opening(self, choice: int) -> Any:
        """The piece that opens a chat answer."""
        chunk = self.chunk(choice, "", None)
        chunk["choices"][0]["delta"]["role"] = "assistant"
        return chunk

    def usage_chunk(self, prompt: int, completion: int) -> Any:
        """The last piece, where usage was asked for."""
        return {**self._base, "object": self._name(".chunk"), "choices": [], "usage": usage(prompt, completion)}

    def whole(
        self, texts: Sequence[str], finish: Sequence[str], logprobs: Sequence[Sequence[TokenLogprob]], used: Any
    ) -> Any:
        """An answer in one piece."""
        choices = []
        for index, (text, reason) in enumerate(zip(texts, finish, strict=True)):
            part: dict[str, Any] = {"index": index, "finish_reason": reason, "logprobs": self.logprobs(logprobs[index])}
            if self.chat:
                part["message"] = {"role": "assistant", "content": text}
            else:
                part["text"] = text
            choices.append(part)
        return {**self._base, "object": self._name(""), "choices": choices, "usage": used}

    def logprobs(self, items: Sequence[TokenLogprob]) -> Any:
        """Log probabilities in the endpoint's own form; None where there are none."""
        if not items:
            return None
        if self.chat:
            return {"content": [self._entry(item) for item in items]}
        return {
            "tokens": [self._token_text(item.token_id) for item in items],
            "token_logprobs": [item.logprob for item in items],
            "top_logprobs": [{self._token_text(token): value for token, value in item.top} for item in items],
        }

    def _entry(self, item: TokenLogprob) -> dict[str, Any]:
        entry = self._token(item.token_id, item.logprob)
        entry["top_logprobs"] = [self._token(token, value) for token, value in item.top]
        return entry

    def _token(self, token: int, value: float) -> dict[str, Any]:
        text = self._token_text(token)
        return {"token": text, "logprob": value, "bytes": list(text.encode())}

    def _name(self, ending: str) -> str:
        return f"chat.completion{ending}" if self.chat else "text_completion"


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Token counts as the protocol names them."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def error_body(message: str, kind: str, code: str | None = None, remedy: str = "") -> dict[str, Any]:
    """An error as the protocol has it; our own client also reads the remedy, with which the message ends."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return {"error": {**error, "remedy": remedy} if remedy else error}
