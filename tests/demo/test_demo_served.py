"""A served demo, asked over HTTP and by `gradio_client`: limits hold, others are served, nothing else answers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from running_demo import RunningDemo, make_variants, running_demo

from tests.pages.scripted_chat import HOSTILE, ScriptedChat
from workbench.demo.gate import POLICY
from workbench.errors import RunProblem
from workbench.store import answers as answer_store
from workbench.store import rankings as ranking_store
from workbench.store.database import Store


@pytest.fixture
def demo(store: Store, chat: ScriptedChat) -> Iterator[RunningDemo]:
    with running_demo(store, chat, "echo", "hostile", max_prompt_chars=500, per_visitor=500, per_minute=500) as served:
        yield served


def http(demo: RunningDemo) -> httpx.Client:
    return httpx.Client(base_url=demo.address, trust_env=False, timeout=20)


def test_both_ways_are_callable_by_a_program(store: Store, demo: RunningDemo) -> None:
    client = demo.client()
    first, second, status = client.predict("Hello", api_name="/compare")
    assert (first, second) == ("You said Hello", HOSTILE) and "Tokens" in status
    left, right, status = client.predict("What is the sea?", api_name="/arena")
    assert {left, right} == {"You said What is the sea?", HOSTILE} and status == "Which answer is better?"
    assert ranking_store.list_queues(store) == []
    told = client.predict("A is better", api_name="/vote")
    assert "echo on lab" in told and "hostile on lab" in told
    assert client.predict("A is better", api_name="/vote") == told
    (ranking,) = ranking_store.list_rankings(store)
    assert answer_store.get_completion(store, ranking.tiers[0][0]).text == left
    demo.close()
    assert (demo.job.results["votes"], demo.job.results["questions"], demo.job.results["visitors"]) == (1, 2, 1)


def test_answers_stream_side_by_side(store: Store, chat: ScriptedChat) -> None:
    with running_demo(store, chat, "echo", "slow") as demo:
        job = demo.client().submit("one two three", api_name="/compare")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            seen = [step for step in job.outputs() if step[0] == "You said one two three" and step[1] == "You "]
            if seen:
                break
            time.sleep(0.05)
        assert seen and not job.done(), "one answer is whole while the other is being written"
        chat.gate.set()
        assert job.result()[1] == "You said one two three"


@pytest.mark.parametrize(("question", "words"), [("", "Write a question"), (" \n ", "Write a"), ("x" * 501, "500 are")])
def test_an_empty_or_huge_question_is_refused_in_words(
    demo: RunningDemo, chat: ScriptedChat, question: str, words: str
) -> None:
    for name in ("/compare", "/arena"):
        with pytest.raises(Exception, match=words):
            demo.client().predict(question, api_name=name)
    assert not chat.asked


def test_a_request_of_megabytes_is_refused_before_it_is_read(demo: RunningDemo) -> None:
    body = {"data": ["x" * 5_000_000], "fn_index": 0, "session_hash": "s"}
    with http(demo) as client:
        assert client.post("/gradio_api/queue/join", json=body).status_code == 413

        def pieces() -> Iterator[bytes]:
            yield b'{"data": ["'
            for _ in range(200):
                yield b"x" * 10_000

        try:
            assert client.post("/gradio_api/queue/join", content=pieces()).status_code >= 400
        except httpx.HTTPError:
            pass  # the connection is closed on whoever goes on sending
    assert demo.client().predict("Still there?", api_name="/compare")[0] == "You said Still there?"


def test_the_limit_of_one_visitor_is_told_and_ends(store: Store, chat: ScriptedChat) -> None:
    with running_demo(store, chat, "echo", "hostile", per_visitor=2) as demo:
        client = demo.client()
        for _ in range(2):
            client.predict("Hello", api_name="/compare")
        with pytest.raises(Exception, match="2 questions a minute"):
            client.predict("Hello", api_name="/compare")
    assert demo.job.results["refused"] == 1 and demo.job.results["questions"] == 2


def test_a_flood_is_held_back_while_somebody_else_is_served(store: Store, chat: ScriptedChat) -> None:
    with running_demo(store, chat, "echo", "hostile", bind="0.0.0.0", per_visitor=5, password="correct horse") as demo:
        addresses = [address for address in demo.job.results["addresses"] if "127.0.0.1" not in address]
        port = demo.job.results["port"]
        flooder = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=flooder, trust_env=False, timeout=30) as client:
            assert client.post("/login", data={"username": "x", "password": "correct horse"}).status_code == 200

            def flood(number: int) -> int:
                body = {"data": ["spam"], "fn_index": 0, "session_hash": f"s{number}"}
                return client.post("/gradio_api/queue/join", json=body).status_code

            with ThreadPoolExecutor(16) as pool:
                codes = list(pool.map(flood, range(300)))
            assert codes.count(429) >= 200 and set(codes) <= {200, 429}
            refusal = client.post("/gradio_api/queue/join", json={}).json()["detail"]
            assert "Too many requests. Try again in" in refusal
        if not addresses:
            pytest.skip("this machine has no second address to ask from")
        from gradio_client import Client

        other = Client(addresses[0], verbose=False, auth=("x", "correct horse"))
        assert other.predict("Hello", api_name="/compare")[0] == "You said Hello"
    assert len([ask for ask in chat.asked if ask["messages"][-1]["content"] == "spam"]) <= 2 * 5


@pytest.mark.parametrize(
    "path",
    ["/monitoring", "/logout", "/docs", "/openapi.json", "/gradio_api/file=/etc/hostname",
     "/gradio_api/upload_progress", "/gradio_api/proxy=http://127.0.0.1:1/x", "/gradio_api/deep_link",
     "/gradio_api/vibe-code", "/gradio_api/runs",
     "/static/../../../../etc/hostname", "/gradio_api/openapi.json"],
)  # fmt: skip
def test_what_a_demo_has_no_use_for_is_not_there(demo: RunningDemo, path: str) -> None:
    with http(demo) as client:
        assert client.get(path).status_code in (404, 403)
        assert client.post(path, content=b"{}").status_code in (404, 405)


def test_other_sites_and_other_names_are_turned_away(demo: RunningDemo) -> None:
    with http(demo) as client:
        assert client.get("/", headers={"Host": "rebound.example"}).status_code == 421
        body = {"data": ["x"], "fn_index": 0, "session_hash": "s"}
        evil = client.post("/gradio_api/queue/join", json=body, headers={"Origin": "http://evil.example"})
        assert evil.status_code == 403
        page = client.get("/")
    assert page.headers["content-security-policy"] == POLICY
    assert "fonts.googleapis" not in page.text and "cdn" not in page.text.lower()


def test_without_the_password_nothing_is_told(store: Store, chat: ScriptedChat) -> None:
    with running_demo(store, chat, "echo", "hostile", title="Secret title", password="correct horse") as demo:
        with http(demo) as client:
            page = client.get("/")
            assert "password" in page.text and "Secret title" not in page.text and "echo" not in page.text
            for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=s", "/theme.css"):
                assert client.get(path).status_code == 401
            assert client.post("/gradio_api/cancel", json={}).status_code == 401
            client.cookies.set("access-token-x", "guess")
            assert client.get("/config").status_code == 401
            assert client.post("/login", data={"username": "x", "password": "wrong horse"}).status_code == 400
        with pytest.raises(Exception, match="credentials"):
            demo.client()
        with pytest.raises(ValueError, match="login"):
            demo.client(auth=("x", "wrong horse"))
        assert demo.client(auth=("any name", "correct horse")).predict("Hi!", api_name="/compare")[0] == "You said Hi!"
        with http(demo) as client:
            codes = [
                client.post("/login", data={"username": "x", "password": f"guess {n}"}).status_code for n in range(12)
            ]
        assert codes[-1] == 429


def test_beyond_this_machine_a_password_is_made_and_kept_out_of_the_store(store: Store, chat: ScriptedChat) -> None:
    with running_demo(store, chat, "echo", "hostile", bind="0.0.0.0") as demo:
        password = (demo.job.folder / "password").read_text()
        assert len(password) == 19 and demo.job.results["password"] is True
        assert password not in str(demo.job.results) + str(demo.job.lines)
        with httpx.Client(base_url=f"http://127.0.0.1:{demo.job.results['port']}", trust_env=False) as client:
            assert client.get("/config").status_code == 401


def test_a_model_that_cannot_answer_is_told_in_its_own_pane(store: Store, chat: ScriptedChat) -> None:
    with running_demo(store, chat, "echo", "refuse") as demo:
        first, second, _ = demo.client().predict("Hello", api_name="/compare")
        assert first == "You said Hello" and "too long for this model" in second
        left, right, status = demo.client().predict("Hello", api_name="/arena")
        assert "could not answer" in status and "refuse" not in left + right + status
        with pytest.raises(Exception, match="Ask a question first"):
            demo.client().predict("Tie", api_name="/vote")


def test_stop_closes_within_seconds_although_an_answer_is_being_written(store: Store, chat: ScriptedChat) -> None:
    with running_demo(store, chat, "echo", "slow") as demo:
        demo.client().submit("one two", api_name="/compare")
        deadline = time.monotonic() + 20
        while len(chat.asked) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        began = time.monotonic()
        demo.close()
        assert time.monotonic() - began < 10 and not chat.gate.is_set()


def test_a_port_in_use_ends_the_run_with_words(store: Store, chat: ScriptedChat) -> None:
    variants = make_variants(store, chat, "echo", "hostile")
    with running_demo(store, chat, variants=variants) as demo:
        port = demo.job.results["port"]
        with running_demo(store, chat, variants=variants, run_id="run_second", port=port) as second:
            assert isinstance(second.job.error, RunProblem) and "port is in use" in second.job.error.sentence()


def ask_and_go(demo: RunningDemo, client: httpx.Client, *, stop: bool) -> bool:
    """Ask as the page does and go once there is some text, the slow model still writing; False where refused."""
    config, session = client.get("/config").json(), secrets.token_hex(5)
    fn_index = next(each["id"] for each in config["dependencies"] if each["api_name"] == "compare")
    body = {"data": ["one two three", None], "fn_index": fn_index, "session_hash": session}
    event = client.post("/gradio_api/queue/join", json=body).json()["event_id"]
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            if "You said" in line:
                break
            if "process_completed" in line:
                return False
    if stop:
        body = {"session_hash": session, "event_id": event, "fn_index": fn_index}
        assert client.post("/gradio_api/cancel", json=body).status_code == 200
    return True


@pytest.mark.parametrize("stop", [False, True], ids=["leaves", "presses stop"])
def test_the_place_of_a_visitor_who_goes_is_free_again(store: Store, chat: ScriptedChat, stop: bool) -> None:
    with running_demo(store, chat, "echo", "slow", per_visitor=100, concurrency=2) as demo, http(demo) as client:
        for _ in range(6):  # more than may be under way at once, of one address and of all
            deadline = time.monotonic() + 30
            while not ask_and_go(demo, client, stop=stop):
                assert time.monotonic() < deadline, "the places are not given back"
                time.sleep(0.1)
        assert not chat.gate.is_set()
