"""Remote OpenAI-compatible servers: checking an address, probing what a server can do, and keeping its key.

Keys live in one 0600 file by server id, and nowhere else: not in the store, not in logs, not in exports.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import JsonValue

from workbench.errors import GenerationProblem, StoreProblem, UsageError
from workbench.generation.client import http_client
from workbench.records import Server, Variant
from workbench.settings import Settings
from workbench.store import models as model_store
from workbench.store.database import Store
from workbench.store.datasets import check_name

if TYPE_CHECKING:
    import httpx2

PROBE_S = 60.0
PROBE_BYTES = 8 * 2**20
MOST_MODELS = 5_000
LONGEST_MODEL_NAME = 500
PROBED_MODELS = 3
_ENDINGS = ("/chat/completions", "/completions", "/models")
_TOP_K_OWNERS = {"vllm", "llamacpp", "sglang", "workbench"}


def check_base_url(text: str) -> str:
    """The address a server goes by: without a slash or an endpoint at its end.

    Raises:
        UsageError: it is no http or https address, or it holds a password, a query or a fragment.
    """
    url = text.strip()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError("this is not an address", place="base_url", value=text) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() for c in url):
        raise UsageError(
            "a server's address begins with http:// or https://",
            place="base_url",
            value=text,
            remedy="Give it up to /v1, as in http://127.0.0.1:8000/v1.",
        )
    if parts.username or parts.password:
        raise UsageError("the address must not hold a password", place="base_url", remedy="Give the key as the key.")
    if parts.query or parts.fragment:
        raise UsageError("the address must not hold a query", place="base_url", remedy="Give it up to /v1.")
    path = parts.path.rstrip("/")
    for ending in _ENDINGS:
        path = path.removesuffix(ending).rstrip("/")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return urlunsplit((parts.scheme, host if port is None else f"{host}:{port}", path, "", ""))


def probe_server(base_url: str, key: str) -> dict[str, JsonValue]:
    """What a server can do, found by listing its models and asking one of them for one token.

    Args:
        base_url: ends before `/chat/completions`.
        key: bearer token; may be empty.

    Returns:
        `models` (names), `answers` (whether a model answered), `stream`, `usage`, `seed`, `logprobs`, `top_k`,
        `system_fingerprint`, `max_completion_tokens` (whether that name is asked for instead of `max_tokens`).

    Raises:
        GenerationProblem: the server cannot be reached, refuses the key, or does not speak the protocol.
    """
    found: dict[str, JsonValue] = {
        "models": [],
        "answers": False,
        "stream": True,
        "usage": False,
        "seed": False,
        "logprobs": False,
        "top_k": False,
        "system_fingerprint": False,
        "max_completion_tokens": False,
    }
    with _probing(base_url) as http:
        http.headers["Authorization"] = f"Bearer {key or 'none'}"
        entries = _list_models(http, base_url)
        names = [str(entry["id"]) for entry in entries]
        found["models"] = list(names)
        found["top_k"] = any(str(entry.get("owned_by", "")).lower() in _TOP_K_OWNERS for entry in entries)
        for name in names[:PROBED_MODELS]:
            told = _ask_one_token(http, base_url, name)
            if told is not None:
                found |= told
                break
    return found


def add_server(store: Store, name: str, base_url: str, key: str = "") -> Server:
    """Check, probe and enter a remote server, and keep its key.

    Args:
        store: the store.
        name: what to call it.
        base_url: its address, up to `/v1`; tried with `/v1` where it has no path.
        key: bearer token; may be empty.

    Raises:
        UsageError: the address cannot be used.
        GenerationProblem: nothing there answers as it should.
        Conflict: the name is taken.
    """
    check_name(name, "server")  # before anybody is asked anything
    url = check_base_url(base_url)
    try:
        capabilities = probe_server(url, key)
    except GenerationProblem:
        if urlsplit(url).path:
            raise
        url += "/v1"
        capabilities = probe_server(url, key)
    server = model_store.add_server(store, name, url, capabilities)
    save_server_key(store.settings, server.id, key)
    return server


def remote_variant(store: Store, server: Server, model_name: str) -> Variant:
    """The variant for a model on a server; entered with the first call.

    Raises:
        UsageError: the name is empty.
    """
    wanted = model_name.strip()
    if not _is_name(wanted):
        what = "the model's name is empty" if not wanted else "this cannot be a model's name"
        remedy = "Choose one of the server's models."
        raise UsageError(what, place="model", value=wanted or None, remedy=remedy)
    variants = model_store.list_variants(store, archived=True)
    for variant in variants:
        if variant.server_id == server.id and variant.remote_model == wanted:
            return variant
    name = model_store.unused_name({variant.name for variant in variants}, f"{wanted} on {server.name}")
    return model_store.add_variant(store, name, server_id=server.id, remote_model=wanted)


def server_key(settings: Settings, server_id: str) -> str:
    """The key of a server; empty where it has none.

    Raises:
        StoreProblem: the keys file cannot be read.
    """
    return _read_keys(settings).get(server_id, "")


def save_server_key(settings: Settings, server_id: str, key: str) -> None:
    """Keep, change or (where it is empty) forget a server's key.

    Raises:
        StoreProblem: the keys file cannot be read or written.
    """
    path = settings.keys_file
    try:
        with _locked(settings):
            keys = _read_keys(settings)
            if keys.get(server_id, "") == key.strip():
                return
            keys.pop(server_id, None)
            if key.strip():
                keys[server_id] = key.strip()
            aside = path.with_name(f".{path.name}.{os.getpid()}")
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
                os.fchmod(handle.fileno(), 0o600)
                json.dump(keys, handle)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(aside, path)
    except OSError as error:
        raise StoreProblem(f"the key cannot be kept: {error.strerror or error}", place=str(path)) from error


@contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    # Two pages that save keys at once must not lose one.
    descriptor = os.open(settings.keys_file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_keys(settings: Settings) -> dict[str, str]:
    try:
        keys = json.loads(settings.keys_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StoreProblem(
            "the file of server keys cannot be read",
            place=str(settings.keys_file),
            remedy="Remove it and set the keys of your servers again.",
        ) from error
    return {str(name): str(value) for name, value in keys.items()} if isinstance(keys, dict) else {}


@contextmanager
def _probing(base_url: str) -> Iterator[httpx2.Client]:
    """An HTTP client whose failures are told in words."""
    import httpx2

    with http_client(base_url, PROBE_S, most_bytes=PROBE_BYTES, whole_s=PROBE_S) as client:
        try:
            yield client
        except httpx2.TimeoutException as error:
            raise GenerationProblem(
                "the server did not answer in time", place=base_url, remedy="Check the address, or try again."
            ) from error
        except httpx2.HTTPError as error:
            raise GenerationProblem(
                "the server cannot be reached",
                place=base_url,
                remedy="Check that it is running and that its address is right.",
            ) from error


def _list_models(http: httpx2.Client, base_url: str) -> list[dict[str, Any]]:
    answer = http.get(f"{base_url}/models")
    if answer.status_code in (401, 403):
        raise GenerationProblem("the server refuses the key", place=base_url, remedy="Check the key.")
    try:
        data = answer.json()["data"] if answer.status_code == 200 else None
        if isinstance(data, list):
            return [entry for entry in data if isinstance(entry, dict) and _is_name(entry.get("id"))][:MOST_MODELS]
    except (ValueError, KeyError, TypeError):
        pass
    raise GenerationProblem(
        f"there is no OpenAI-compatible server: its list of models was answered with status {answer.status_code}",
        place=base_url,
        remedy="Give the address up to /v1.",
    )


def _is_name(told: object) -> bool:
    return isinstance(told, str) and 0 < len(told) <= LONGEST_MODEL_NAME and told.isprintable()


def _ask_one_token(http: httpx2.Client, base_url: str, model: str) -> dict[str, JsonValue] | None:
    """What a model takes: everything is tried first, then what a server may refuse is left out piece by piece."""
    length = "max_tokens"
    extras: dict[str, dict[str, Any]] = {
        "logprobs": {"logprobs": True},
        "usage": {"stream_options": {"include_usage": True}},
        "seed": {"seed": 1},
        "stream": {"stream": True},
    }
    for _ in range(len(extras) + 2):
        ask: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Hi"}], length: 1}
        for more in extras.values():
            ask |= more
        answer = http.post(f"{base_url}/chat/completions", json=ask)
        if answer.status_code == 200:
            shown = answer.text
            return {
                "answers": True,
                "stream": "stream" in extras and "data:" in shown,
                "usage": "usage" in extras and '"usage"' in shown,
                "seed": "seed" in extras,
                "logprobs": "logprobs" in extras and '"top_logprobs"' in shown,
                "system_fingerprint": '"system_fingerprint":"' in shown.replace(" ", ""),
                "max_completion_tokens": length == "max_completion_tokens",
            }
        if answer.status_code in (401, 403):
            raise GenerationProblem("the server refuses the key", place=base_url, remedy="Check the key.")
        if answer.status_code not in (400, 422, 501):
            return None
        if length == "max_tokens" and "max_completion_tokens" in answer.text:
            length = "max_completion_tokens"
        elif extras:
            extras.pop(next(iter(extras)))
            if "stream" not in extras:
                extras.pop("usage", None)
        else:
            return None
    return None
