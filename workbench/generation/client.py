"""The one client for all text: any OpenAI-compatible server, the local engine among them.

Retries happen before the first byte of an answer only; whatever goes wrong is told in words. Which parameters a server
takes is in the `capabilities` that `workbench.generation.servers` found by probing; the local engine takes all.
Importing this is cheap: the `openai` library is imported with the first request.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import JsonValue

from workbench.errors import GenerationProblem
from workbench.records import Completion, Message, Sampling, Variant, new_id, utc_now

if TYPE_CHECKING:
    import httpx2
    from openai import OpenAI

CONNECT_S = 10.0
READ_S = 600.0
"""Longest silence of a remote server; the local engine may take longer, since requests wait their turn there."""
LOCAL_READ_S = 3600.0
RETRIES = 3
TOO_LONG = "the prompt is too long for this model"
"""How the problem begins where a model's context is full."""
MOST_BYTES = 64 * 2**20
"""Longest response that is read; the longest honest one is a few MB."""
MOST_LETTERS = 100
"""Characters per token asked for, beyond which a server is taken to ignore the length it was given."""


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine itself."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def http_client(
    base_url: str, read_s: float, *, most_bytes: int = MOST_BYTES, whole_s: float | None = None
) -> httpx2.Client:
    """An HTTP client for a server; the proxy that the environment names is passed by for this machine's own servers.

    Args:
        base_url: the server's address.
        read_s: longest silence, in seconds.
        most_bytes: longest response; one that goes on is broken off with a `GenerationProblem`.
        whole_s: longest time for a whole response, in seconds.
    """
    import httpx2

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def __iter__(self) -> Iterator[bytes]:
            left, began = most_bytes, time.monotonic()
            for piece in self._stream:
                left -= len(piece)
                if left < 0 or (whole_s is not None and time.monotonic() - began > whole_s):
                    what = "the server sends far more than was asked for, or without end"
                    raise GenerationProblem(what, place=base_url, remedy="Check that it speaks the OpenAI protocol.")
                yield piece

        def close(self) -> None:
            self._stream.close()

    def bound(response: httpx2.Response) -> None:
        response.stream = Bounded(response.stream)

    return httpx2.Client(
        trust_env=not is_loopback(base_url),
        timeout=httpx2.Timeout(read_s, connect=CONNECT_S),
        limits=httpx2.Limits(max_connections=256, max_keepalive_connections=32),
        event_hooks={"response": [bound]},
    )


class ChatClient:
    """Asks one variant.

    Args:
        base_url: ends before `/chat/completions`.
        key: bearer token; never shown, logged or stored.
        model: the model's name on that server.
        variant: who answers; completions carry its id.
        verified: whether fingerprints are the local engine's own.
        capabilities: what the server takes, as probing found; ignored for the local engine.
        retries: further tries after a refusal that may pass, before the first byte of an answer.
        read_s: longest silence, in seconds.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        model: str,
        variant: Variant | None = None,
        *,
        verified: bool = False,
        capabilities: Mapping[str, JsonValue] | None = None,
        retries: int = RETRIES,
        read_s: float | None = None,
    ) -> None:
        self.base_url = base_url
        self.model = model
        self.variant = variant
        self.verified = verified
        self.capabilities = dict(capabilities or {})
        self._key = key
        self._retries = retries
        self._read_s = read_s or (LOCAL_READ_S if verified else READ_S)
        self._lock = threading.Lock()
        self._made: OpenAI | None = None

    def __repr__(self) -> str:
        return f"ChatClient({self.model!r} at {self.base_url!r})"

    def complete(
        self, messages: Sequence[Message], sampling: Sampling, *, tools: Sequence[JsonValue] | None = None
    ) -> Completion:
        """Ask and wait for the whole answer. Safe to call from several threads.

        Args:
            messages: the conversation to answer.
            sampling: how.
            tools: tool definitions in the OpenAI form.

        Raises:
            GenerationProblem: there is no answer; says why.
        """
        began = time.monotonic()
        try:
            answer = self._client().chat.completions.create(**self._ask(messages, sampling, tools))
            choice = answer.choices[0]
            text = whole_letters(choice.message.content or "")
        except Exception as error:
            raise self._problem(error) from error
        return self._completion(
            messages,
            sampling,
            text=text,
            fingerprint=answer.system_fingerprint,
            finish_reason=choice.finish_reason,
            tokens=getattr(answer.usage, "completion_tokens", 0),
            seconds=time.monotonic() - began,
        )

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, *, tools: Sequence[JsonValue] | None = None
    ) -> StreamHandle:
        """Ask, and iterate the answer's text as it is written; the request is sent by the first step of iteration.

        Args:
            messages: the conversation to answer.
            sampling: how.
            tools: tool definitions in the OpenAI form.
        """
        return StreamHandle(self, tuple(messages), sampling, tools)

    def close(self) -> None:
        """Give connections back."""
        with self._lock:
            if self._made is not None:
                self._made.close()
                self._made = None

    def _client(self) -> OpenAI:
        with self._lock:
            if self._made is None:
                from openai import OpenAI, omit

                http = http_client(self.base_url, self._read_s)
                # Clients are made for one answer and dropped; their connections must not wait for the process to end.
                weakref.finalize(self, http.close)
                # Without these two the library would send the organisation of an OpenAI account to any server.
                strangers: Any = {"OpenAI-Organization": omit, "OpenAI-Project": omit}
                self._made = OpenAI(
                    api_key=self._key or "none",
                    base_url=self.base_url,
                    max_retries=self._retries,
                    default_headers=strangers,
                    http_client=http,
                )
            return self._made

    def takes(self, name: str, unsaid: bool) -> bool:
        """Whether the server takes a parameter; `unsaid` where probing did not tell."""
        return self.verified or bool(self.capabilities.get(name, unsaid))

    def _ask(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[JsonValue] | None
    ) -> dict[str, Any]:
        field = "max_completion_tokens" if self.capabilities.get("max_completion_tokens") else "max_tokens"
        ask: dict[str, Any] = {
            "model": self.model,
            "messages": [message.as_dict() for message in messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            field: sampling.max_tokens,
        }
        if sampling.stop:
            ask["stop"] = list(sampling.stop)
        if sampling.seed is not None and self.takes("seed", False):
            ask["seed"] = sampling.seed
        if sampling.presence_penalty:
            ask["presence_penalty"] = sampling.presence_penalty
        if sampling.frequency_penalty:
            ask["frequency_penalty"] = sampling.frequency_penalty
        if sampling.top_k and self.takes("top_k", False):
            ask["extra_body"] = {"top_k": sampling.top_k}
        if tools:
            ask["tools"] = list(tools)
        return ask

    def _completion(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        fingerprint: object,
        finish_reason: object,
        tokens: object,
        **answer: Any,
    ) -> Completion:
        # What a server says beside its text may be of any type; the `openai` library does not look.
        named = fingerprint if isinstance(fingerprint, str) else None
        return Completion(
            id=new_id("cmp"),
            variant_id=self.variant.id if self.variant else self.model,
            prompt=tuple(messages),
            sampling=sampling,
            fingerprint=named,
            verified=self.verified and named is not None,
            finish_reason=finish_reason if isinstance(finish_reason, str) else None,
            tokens=tokens if isinstance(tokens, int) and tokens > 0 else 0,
            created_at=utc_now(),
            **answer,
        )

    def _problem(self, error: Exception) -> GenerationProblem:
        return problem_in_words(error, place=self.variant.name if self.variant else self.model, key=self._key)


class StreamHandle:
    """An answer on its way: iterate its text; `completion` holds the record afterwards.

    An error before any text is raised from the iteration. Where the connection breaks later, iteration ends, the text
    so far is kept, and the record's `finish_reason` is `error` with the reason beside it.
    """

    def __init__(
        self, client: ChatClient, messages: Sequence[Message], sampling: Sampling, tools: Sequence[JsonValue] | None
    ) -> None:
        self._client = client
        self._messages = messages
        self._sampling = sampling
        self._tools = tools
        self._closed = threading.Event()
        self._response: Any = None
        self._texts = self._read()
        self.completion: Completion | None = None

    def __iter__(self) -> Iterator[str]:
        """The handle itself."""
        return self

    def __next__(self) -> str:
        """The next piece of text."""
        return next(self._texts)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed.is_set()

    def close(self) -> None:
        """Stop at once, from any thread; the server stops writing. The record says `cancelled`."""
        self._closed.set()
        response = self._response
        if response is None:
            return
        # Closing alone would leave a thread that waits for the next piece waiting; shutting the socket down wakes it.
        with suppress(Exception):
            stream = response.extensions["network_stream"]
            stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> StreamHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> Iterator[str]:
        client, began = self._client, time.monotonic()
        text, half, fingerprint, reason = "", "", None, None
        tokens, pieces = 0, 0
        longest = MOST_LETTERS * self._sampling.max_tokens
        first: float | None = None
        last = began
        problem: GenerationProblem | None = None
        try:
            for chunk in self._chunks():
                if self.closed:
                    break
                fingerprint = chunk.system_fingerprint or fingerprint
                tokens = getattr(chunk.usage, "completion_tokens", tokens)
                for choice in chunk.choices[:1]:
                    reason = choice.finish_reason or reason
                    piece, half = _split_half(half + ((choice.delta.content if choice.delta else None) or ""))
                    if piece:
                        last = time.monotonic()
                        first = first if first is not None else last - began
                        text += piece
                        pieces += 1
                        yield piece
                if len(text) > longest:
                    reason = "length"
                    break
            if reason is None and not self.closed:
                problem = GenerationProblem(
                    "the server ended the answer before it was finished", place=client.model, remedy="Ask again."
                )
        except GeneratorExit:
            self._closed.set()
        except Exception as error:
            if not self.closed:
                problem = client._problem(error)
        finally:
            if self._response is not None:
                with suppress(Exception):
                    self._response.close()
            self.completion = client._completion(
                self._messages,
                self._sampling,
                text=text,
                fingerprint=fingerprint,
                finish_reason="error" if problem else "cancelled" if self.closed and reason is None else reason,
                tokens=tokens or pieces,
                seconds=(last if text else time.monotonic()) - began,
                first_token_s=first,
                error=problem.sentence() if problem else None,
            )
        if problem is not None and not text:
            raise problem

    def _chunks(self) -> Iterator[Any]:
        if self.closed:
            return
        client = self._client
        ask = client._ask(self._messages, self._sampling, self._tools)
        if not client.takes("stream", True):
            yield _as_chunk(client._client().chat.completions.create(**ask))
            return
        if client.takes("usage", False):
            ask["stream_options"] = {"include_usage": True}
        stream = client._client().chat.completions.create(stream=True, **ask)
        self._response = stream.response
        # close() may have come from another thread before there was a response to close
        if not self._closed.is_set():
            yield from stream


def whole_letters(text: str) -> str:
    """Text whose halves of characters are joined where both are there, and replaced by � where one is alone."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _split_half(text: str) -> tuple[str, str]:
    """Text that can be shown, and the first half of a character whose second half comes with the next piece."""
    half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
    return whole_letters(text.removesuffix(half)), half


def _as_chunk(answer: Any) -> Any:
    """A whole answer in the form of a chunk."""
    from openai.types.chat import ChatCompletionChunk

    choice = answer.choices[0]
    return ChatCompletionChunk.model_validate(
        {
            "id": answer.id,
            "created": answer.created,
            "model": answer.model,
            "object": "chat.completion.chunk",
            "system_fingerprint": answer.system_fingerprint,
            "usage": answer.usage.model_dump() if answer.usage else None,
            "choices": [
                {"index": 0, "finish_reason": choice.finish_reason, "delta": {"content": choice.message.content}}
            ],
        }
    )


def problem_in_words(error: Exception, *, place: str, key: str = "") -> GenerationProblem:
    """What went wrong with a server, and what to do about it.

    Args:
        error: what the `openai` library or the HTTP library raised.
        place: who was asked.
        key: cut out of whatever the server said, should it repeat it.
    """
    import openai

    if isinstance(error, GenerationProblem):
        return error
    if isinstance(error.__cause__, GenerationProblem):
        return GenerationProblem(error.__cause__.what, place=place, remedy=error.__cause__.remedy)
    what, remedy = "the answer could not be read: " + (str(error) or type(error).__name__), "Ask again."
    said, own_remedy = _said(error)
    if isinstance(error, openai.APITimeoutError):
        what, remedy = "the server did not answer in time", "It may be overloaded; try again or ask for less."
    elif isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        if type(cause).__name__ in ("RemoteProtocolError", "ReadError"):
            what, remedy = "the connection broke off", "Ask again; if it stays so, look at the server's log."
        else:
            what, remedy = "the server cannot be reached", "Check that it is running and that its address is right."
    elif isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        what, remedy = "the server refuses the key", "Set the server's key again on the Models page."
    elif isinstance(error, openai.NotFoundError):
        what, remedy = f"the server does not know this model{said}", "Check the model's name and the server's address."
    elif isinstance(error, openai.RateLimitError):
        what, remedy = f"the server takes no more requests for now{said}", "Wait a while, or ask for fewer at once."
    elif isinstance(error, openai.InternalServerError):
        what, remedy = f"the server failed with status {error.status_code}{said}", "Try again; its log says more."
    elif isinstance(error, openai.APIStatusError):
        if error.code == "context_length_exceeded" or "context length" in said.lower() or error.status_code == 413:
            what, remedy = f"{TOO_LONG}{said}", "Shorten the prompt or the conversation."
        elif error.code == "model_problem":
            what, remedy = f"the model cannot be used{said}", "Put its files back, or add it again."
        else:
            what, remedy = f"the server refused the request{said}", "Change the settings that it names."
    elif isinstance(error, json.JSONDecodeError | openai.APIResponseValidationError):
        what, remedy = "the server sent something that is not an answer", "Check that it speaks the OpenAI protocol."
    elif isinstance(error, openai.APIError):
        what, remedy = f"the server broke off with an error{said}", "Try again; its log says more."
    elif isinstance(error, AttributeError | IndexError | TypeError | KeyError):
        what, remedy = "the server sent something that is not an answer", "Check that it speaks the OpenAI protocol."
    remedy = own_remedy or remedy
    if key:
        what, remedy = what.replace(key, "…"), remedy.replace(key, "…")
    return GenerationProblem(what, place=place, remedy=remedy)


def _said(error: Exception) -> tuple[str, str]:
    """The server's own words, shortened, after a colon, and the local engine's remedy; empty where there is none."""
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, Mapping) else None
    if not isinstance(body, Mapping) or not isinstance(message, str) or not message.strip():
        return "", ""
    remedy = body.get("remedy")
    remedy = remedy if isinstance(remedy, str) and message.endswith(remedy) else ""
    words = " ".join(message.removesuffix(remedy).split())
    return ": " + (words if len(words) <= 300 else words[:299] + "…"), remedy
