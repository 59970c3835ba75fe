"""Remote servers: addresses, probing, keys."""

from __future__ import annotations

import json

import pytest

from tests.generation.scripted import Exchange, ScriptedServer, chunk, says, streams, whole
from workbench.errors import Conflict, GenerationProblem, StoreProblem, UsageError
from workbench.generation.servers import (
    add_server,
    check_base_url,
    probe_server,
    remote_variant,
    save_server_key,
    server_key,
)
from workbench.store import models as model_store
from workbench.store.database import Store


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (" http://127.0.0.1:8000/v1/ ", "http://127.0.0.1:8000/v1"),
        ("https://api.example.com/v1/chat/completions", "https://api.example.com/v1"),
        ("https://api.example.com/v1/models/", "https://api.example.com/v1"),
        ("http://HOST:1/", "http://host:1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_is_brought_into_one_form(text: str, url: str) -> None:
    assert check_base_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "api.example.com",
        "ftp://x/v1",
        "http://",
        "http://u:p@x/v1",
        "http://x/v1?key=1",
        "http://x:99999",
        "http://a b",
    ],
)
def test_what_is_no_usable_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        check_base_url(text)


def test_probing_finds_what_a_server_can_do() -> None:
    models = [{"id": "big", "owned_by": "vllm"}]
    full = chunk("a", system_fingerprint="fp", usage={"completion_tokens": 1})
    full = full.replace('"delta"', '"logprobs": {"content": [{"top_logprobs": []}]}, "delta"')
    with ScriptedServer(streams(full, "data: [DONE]"), models=models) as server:
        found = probe_server(server.url, "k")
    assert found == {
        "models": ["big"],
        "answers": True,
        "stream": True,
        "usage": True,
        "seed": True,
        "logprobs": True,
        "top_k": True,
        "system_fingerprint": True,
        "max_completion_tokens": False,
    }


def test_probing_leaves_out_what_a_server_refuses() -> None:
    def picky(exchange: Exchange) -> None:
        for field in ("logprobs", "stream_options", "seed", "max_tokens"):
            if field in exchange.body:
                hint = "use max_completion_tokens" if field == "max_tokens" else f"unknown field {field}"
                return exchange.json(400, {"error": {"message": hint}})
        return exchange.json(200, whole("a"))

    with ScriptedServer(picky) as server:
        found = probe_server(server.url, "")
    assert found["answers"] and found["max_completion_tokens"]
    assert not (found["seed"] or found["logprobs"] or found["usage"] or found["top_k"] or found["stream"])


def test_a_server_without_a_model_that_answers_is_still_known() -> None:
    with ScriptedServer(says(500, {}), models=[]) as server:
        assert probe_server(server.url, "")["answers"] is False


def test_a_server_that_is_none_is_told_in_words() -> None:
    with ScriptedServer(says(200, {}), prefix="/api") as server:
        with pytest.raises(GenerationProblem, match="no OpenAI-compatible server"):
            probe_server(server.url.removesuffix("/api") + "/v1", "")
        url = server.url
    with pytest.raises(GenerationProblem, match="cannot be reached"):
        probe_server(url, "")


def test_a_server_is_entered_with_its_key_apart(store: Store) -> None:
    with ScriptedServer(streams(chunk("a", "stop"), "data: [DONE]")) as server:
        added = add_server(store, "far", server.url.removesuffix("/v1"), "sk-secret")
        assert added.base_url == server.url
        with pytest.raises(Conflict):
            add_server(store, "far", server.url, "sk-secret")
    assert server_key(store.settings, added.id) == "sk-secret"
    assert store.settings.keys_file.stat().st_mode & 0o777 == 0o600
    assert "sk-secret" not in repr(model_store.get_server(store, "far")) + json.dumps(added.model_dump(mode="json"))
    assert b"sk-secret" not in (store.settings.home / "workbench.db").read_bytes()
    variant = remote_variant(store, added, " m1 ")
    assert (variant.server_id, variant.remote_model, variant.name) == (added.id, "m1", "m1 on far")
    assert remote_variant(store, added, "m1") == variant
    with pytest.raises(UsageError):
        remote_variant(store, added, " ")


def test_keys_can_be_changed_and_forgotten_and_a_damaged_file_is_told(store: Store) -> None:
    settings = store.settings
    assert server_key(settings, "srv_a") == ""
    save_server_key(settings, "srv_a", "one")
    save_server_key(settings, "srv_b", "two")
    save_server_key(settings, "srv_a", " three ")
    assert (server_key(settings, "srv_a"), server_key(settings, "srv_b")) == ("three", "two")
    save_server_key(settings, "srv_a", "")
    assert json.loads(settings.keys_file.read_text()) == {"srv_b": "two"}
    settings.keys_file.write_text("{")
    with pytest.raises(StoreProblem, match="server keys"):
        server_key(settings, "srv_b")


def test_names_of_models_that_no_model_can_have_are_passed_over(store: Store) -> None:
    listed = [{"id": name} for name in ("good", "\ud800", "x\x00y", "a" * 501, "", ["a"], None)]
    with ScriptedServer(says(200, whole("x")), models=listed) as server:
        added = add_server(store, "odd", server.url)
    assert added.capabilities["models"] == ["good"]
    with pytest.raises(UsageError, match="cannot be a model's name"):
        remote_variant(store, added, "x\x00y")
