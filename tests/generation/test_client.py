"""The client against a server that misbehaves on purpose: words, retries, partial text, and no key anywhere."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from tests.generation.scripted import Exchange, ScriptedServer, chunk, says, streams, whole
from workbench.errors import GenerationProblem
from workbench.generation.client import ChatClient, http_client, is_loopback
from workbench.records import Message, Sampling

ASK = (Message(role="user", content="Hi"),)
KEY = "sk-very-secret"


def client(server: ScriptedServer, **more: Any) -> ChatClient:
    return ChatClient(server.url, KEY, "m1", **more)


def test_a_whole_answer_becomes_a_completion() -> None:
    with ScriptedServer(says(200, whole("Hello.", system_fingerprint="fp_1"))) as server:
        made = client(server).complete(ASK, Sampling(seed=3, top_k=5, stop=("x",)))
        assert (made.text, made.tokens, made.finish_reason, made.fingerprint) == ("Hello.", 2, "stop", "fp_1")
        assert made.prompt == ASK and not made.verified
        body = server.seen[0]["body"]
        assert "seed" not in body and "top_k" not in body and body["stop"] == ["x"]
        assert server.seen[0]["headers"]["authorization"] == f"Bearer {KEY}"


def test_parameters_follow_what_the_server_takes() -> None:
    takes = {"seed": True, "top_k": True, "max_completion_tokens": True}
    with ScriptedServer(says(200, whole("x"))) as server:
        client(server, capabilities=takes).complete(ASK, Sampling(seed=3, top_k=5, max_tokens=7, presence_penalty=1))
        body = server.seen[0]["body"]
        assert (body["seed"], body["top_k"], body["max_completion_tokens"]) == (3, 5, 7)
        assert "max_tokens" not in body and body["presence_penalty"] == 1


def test_a_stream_gives_text_as_it_comes_and_a_record_at_the_end() -> None:
    lines = (chunk(""), chunk("Hel"), chunk("lo."), chunk(None, "stop"), "data: [DONE]")
    with ScriptedServer(streams(*lines)) as server:
        handle = client(server).stream(ASK, Sampling())
        assert list(handle) == ["Hel", "lo."]
        made = handle.completion
        assert made is not None and (made.text, made.finish_reason, made.tokens) == ("Hello.", "stop", 2)
        assert made.first_token_s is not None and made.first_token_s <= made.seconds


def test_a_server_that_cannot_stream_is_asked_for_the_whole_answer() -> None:
    with ScriptedServer(says(200, whole("Hello."))) as server:
        handle = client(server, capabilities={"stream": False}).stream(ASK, Sampling())
        assert list(handle) == ["Hello."]
        assert handle.completion is not None and handle.completion.tokens == 2


def test_a_busy_or_failing_server_is_asked_again_before_the_first_byte() -> None:
    with ScriptedServer(
        says(429, {"error": {"message": "slow down"}}, {"retry-after-ms": "1"}),
        says(503, {"error": {"message": "later"}}, {"retry-after-ms": "1"}),
        says(200, whole("At last.")),
    ) as server:
        assert client(server).complete(ASK, Sampling()).text == "At last."
        assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("status", "message", "words", "remedy"),
    [
        (429, "slow down", "takes no more requests for now: slow down", "Wait"),
        (500, "boom", "failed with status 500: boom", "log"),
        (401, f"Incorrect API key provided: {KEY}", "refuses the key", "key again"),
        (403, "no", "refuses the key", "key again"),
        (404, "model m1 does not exist", "does not know this model: model m1", "name"),
        (400, "maximum context length is 10", "too long for this model", "Shorten"),
        (400, f"bad thing {KEY}", "refused the request: bad thing …", "settings"),
    ],
)
def test_refusals_are_told_in_words_without_the_key(status: int, message: str, words: str, remedy: str) -> None:
    with ScriptedServer(says(status, {"error": {"message": message}}, {"retry-after-ms": "1"})) as server:
        asked = client(server, retries=1)
        for ask in (
            lambda: asked.complete(ASK, Sampling()),
            lambda: list(asked.stream(ASK, Sampling())),
        ):
            with pytest.raises(GenerationProblem, match=words) as problem:
                ask()
            assert remedy in problem.value.remedy
            assert KEY not in str(problem.value) and KEY not in repr(asked)


def test_the_local_engines_own_remedy_is_told_once_and_without_the_key() -> None:
    body = {"message": f"it is bad. Mend it {KEY}.", "code": "invalid_prompt", "remedy": f"Mend it {KEY}."}
    with ScriptedServer(says(400, {"error": body})) as server, pytest.raises(GenerationProblem) as problem:
        client(server).complete(ASK, Sampling())
    assert problem.value.what == "the server refused the request: it is bad."
    assert problem.value.remedy == "Mend it …."


def test_a_server_that_is_not_there_and_one_that_is_slow_are_told_apart() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(GenerationProblem, match="cannot be reached"):
        ChatClient(url, KEY, "m1", retries=0).complete(ASK, Sampling())
    over = threading.Event()

    def slow(exchange: Exchange) -> None:
        over.wait(20)

    with ScriptedServer(slow) as server:
        with pytest.raises(GenerationProblem, match="did not answer in time"):
            client(server, retries=0, read_s=0.2).complete(ASK, Sampling())
        over.set()


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"{}", b'{"choices": []}', b"[1]", b"{"])
def test_something_that_is_no_answer_is_told_so(body: bytes) -> None:
    with ScriptedServer(says(200, body)) as server:
        with pytest.raises(GenerationProblem, match="not an answer"):
            client(server, retries=0).complete(ASK, Sampling())


def test_a_connection_that_breaks_in_the_middle_keeps_the_text_and_says_why() -> None:
    with ScriptedServer(streams(chunk("Hel"), chunk("lo"), end=False)) as server:
        handle = client(server).stream(ASK, Sampling())
        assert "".join(handle) == "Hello"
        made = handle.completion
        assert made is not None and made.finish_reason == "error" and "broke off" in (made.error or "")
        assert len(server.seen) == 1


def test_a_stream_that_ends_too_early_or_holds_nonsense_keeps_the_text_and_says_why() -> None:
    error = 'data: {"error": {"message": "out of memory"}}'
    for lines, words in (
        ((chunk("Hel"),), "before it was finished"),
        ((chunk("Hel"), "data: {nonsense"), "not an answer"),
        ((chunk("Hel"), error), "out of memory"),
    ):
        with ScriptedServer(streams(*lines)) as server:
            handle = client(server).stream(ASK, Sampling())
            assert list(handle) == ["Hel"]
            assert handle.completion is not None and handle.completion.finish_reason == "error"
            assert words in (handle.completion.error or "")
    with ScriptedServer(streams("data: {nonsense")) as server:
        handle = client(server).stream(ASK, Sampling())
        with pytest.raises(GenerationProblem, match="not an answer"):
            list(handle)
        assert handle.completion is not None and handle.completion.error


def test_close_from_another_thread_ends_a_stream_that_is_waiting() -> None:
    over, gone = threading.Event(), threading.Event()

    def stalls(exchange: Exchange) -> None:
        exchange.open_stream()
        exchange.send_line(chunk("Hel"))
        exchange.connection.settimeout(20)
        if exchange.rfile.read(1) == b"":
            gone.set()
        over.wait(20)

    with ScriptedServer(stalls) as server:
        handle = client(server).stream(ASK, Sampling())
        assert next(handle) == "Hel"
        rest: list[str] = []
        reader = threading.Thread(target=lambda: rest.extend(handle))
        reader.start()
        time.sleep(0.1)
        handle.close()
        reader.join(10)
        assert not reader.is_alive() and rest == []
        assert gone.wait(10)
        over.set()
        assert handle.completion is not None and handle.completion.finish_reason == "cancelled"
        assert handle.completion.text == "Hel" and handle.completion.error is None


def test_a_handle_closed_before_it_is_read_asks_nothing() -> None:
    with ScriptedServer(says(200, whole("x"))) as server:
        handle = client(server).stream(ASK, Sampling())
        handle.close()
        assert list(handle) == [] and server.seen == []
        assert handle.completion is not None and handle.completion.finish_reason == "cancelled"


def test_a_proxy_of_the_environment_is_passed_by_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-private")
    with ScriptedServer(says(200, whole("x"))) as server:
        assert client(server).complete(ASK, Sampling()).text == "x"
        assert "org-private" not in str(server.seen[0]["headers"])
    assert is_loopback("http://[::1]:80/v1") and is_loopback("http://localhost") and is_loopback("http://127.9.9.9/")
    assert not is_loopback("https://api.example.com/v1") and not is_loopback("http://127.example.com")


def test_importing_the_client_and_the_servers_imports_neither_torch_nor_openai() -> None:
    code = (
        "import sys, workbench.generation.client, workbench.generation.servers, workbench.generation.configs;"
        "print([name for name in ('torch', 'transformers', 'openai', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def endless(exchange: Exchange) -> None:
    exchange.open_stream()
    with suppress(OSError):
        while True:
            exchange.send_line(chunk("la " * 50))


def test_a_stream_without_end_is_broken_off_at_the_length_asked_for() -> None:
    with ScriptedServer(endless) as server:
        handle = client(server).stream(ASK, Sampling(max_tokens=8))
        text = "".join(handle)
    assert handle.completion is not None and handle.completion.finish_reason == "length"
    assert handle.completion.text == text and 800 < len(text) < 2000


def test_a_response_without_end_is_broken_off_before_it_fills_the_memory() -> None:
    with ScriptedServer(endless) as server:
        with http_client(server.url, 5, most_bytes=20_000) as http:
            with pytest.raises(GenerationProblem, match="far more than was asked for"):
                http.post(f"{server.url}/chat/completions", json={})
        with http_client(server.url, 5, whole_s=0.05) as http:
            with pytest.raises(GenerationProblem, match="without end"):
                http.post(f"{server.url}/chat/completions", json={})


def test_halves_of_a_character_are_joined_and_a_lone_one_is_replaced() -> None:
    lines = (chunk("a\ud83d"), chunk("\ude00b\udc00"), chunk("c\ud83d"), chunk(None, "stop"), "data: [DONE]")
    with ScriptedServer(streams(*lines)) as server:
        assert "".join(client(server).stream(ASK, Sampling())) == "a😀b�c"
    with ScriptedServer(says(200, whole("x\ud83d\ude00\ud800"))) as server:
        assert client(server).complete(ASK, Sampling()).text == "x😀�"


def test_figures_of_a_wrong_type_are_left_out() -> None:
    odd = {"system_fingerprint": {"a": 1}, "usage": {"completion_tokens": "many"}}
    with ScriptedServer(says(200, whole("Hello.", **odd))) as server:
        made = client(server).complete(ASK, Sampling())
        assert (made.text, made.fingerprint, made.tokens) == ("Hello.", None, 0)
    with ScriptedServer(streams(chunk("Hel", **odd), chunk(None, "stop", **odd), "data: [DONE]")) as server:
        handle = client(server).stream(ASK, Sampling())
        assert "".join(handle) == "Hel" and handle.completion is not None and handle.completion.fingerprint is None
    broken = whole("x")
    broken["choices"][0]["message"]["content"] = {"a": 1}
    with ScriptedServer(says(200, broken)) as server, pytest.raises(GenerationProblem, match="not an answer"):
        client(server).complete(ASK, Sampling())
