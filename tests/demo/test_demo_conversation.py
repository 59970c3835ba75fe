"""Conversations side by side: each model sees its own answers, no session another's, and limits are told in words."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running_demo import RunningDemo, running_demo

from tests.pages.scripted_chat import HOSTILE, ScriptedChat
from workbench.demo.configs import DemoConfig
from workbench.demo.conversation import (
    MOST_CONVERSATIONS,
    Conversations,
    Turn,
    check_length,
    read_history,
    told_before,
)
from workbench.demo.limits import Limits, Refused
from workbench.store import answers as answer_store
from workbench.store import models as model_store
from workbench.store.database import Store

# Gradio's own statistics of a queue call pandas in ways that pandas 4 will drop.
pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")


def config(**changes: Any) -> DemoConfig:
    return DemoConfig.model_validate({"variants": ["a", "b"], **changes})


def told(turns: list[Turn], number: int) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in told_before(turns, number)]


# The record ---------------------------------------------------------------------------------------------------------


def test_each_model_is_told_its_own_answers_and_no_turn_that_it_did_not_answer() -> None:
    turns = [
        Turn("one?", ("left one", "right one")),
        Turn("two?", ("left two", "")),
        Turn("three?", ("left th", "right three"), ("it broke off", "")),
    ]
    assert told(turns, 0) == [
        ("user", "one?"), ("assistant", "left one"), ("user", "two?"), ("assistant", "left two")
    ]  # fmt: skip
    assert told(turns, 1) == [
        ("user", "one?"), ("assistant", "right one"), ("user", "three?"), ("assistant", "right three")
    ]  # fmt: skip
    assert turns[2].shown(0) == "left th\n\n[it broke off]" and turns[1].shown(1) == "[no words]"


def test_a_conversation_ends_after_its_turns_and_at_its_length() -> None:
    turns = [Turn("12345", ("a" * 10, "b" * 20))]
    check_length(turns, "x" * 5, config(max_conversation_chars=30))
    with pytest.raises(Refused, match=r"has 31 characters; 30 are the most. Start a new conversation"):
        check_length(turns, "x" * 6, config(max_conversation_chars=30))
    with pytest.raises(Refused, match=r"has its 2 questions. Start a new conversation"):
        check_length(turns * 2, "x", config(max_turns=2))
    check_length([], "x" * 500, config(max_conversation_chars=1))  # a first question has its own limit


def test_only_one_question_of_a_conversation_is_answered_at_a_time() -> None:
    known = Conversations(config())
    mine = known.enter("me", "one?")
    with pytest.raises(Refused, match="still being answered"):
        known.enter("me", "two?")
    other = known.enter("you", "one?")
    known.leave(mine, Turn("one?", ("", "")))
    assert known.enter("me", "two?").turns == [] and other is not mine, "a question nobody answered is no turn"


def test_a_question_that_is_answered_after_a_new_conversation_began_does_not_come_into_it() -> None:
    known = Conversations(config())
    before = known.enter("me", "one?")
    known.forget("me")
    after = known.enter("me", "new?")
    known.leave(before, Turn("one?", ("late", "late")))
    assert after.turns == [] and known.is_open("me", after) and not known.is_open("me", before)


def test_the_quietest_conversation_is_forgotten_before_the_memory_grows() -> None:
    known = Conversations(config())
    for number in range(MOST_CONVERSATIONS + 5):
        known.leave(known.enter(f"visitor {number}", "one?"), Turn("one?", ("a", "b")))
        known.leave(known.enter("visitor 0", "again?"), None)
    assert len(known) == MOST_CONVERSATIONS
    assert known.enter("visitor 0", "two?").turns and not known.enter("visitor 1", "two?").turns


def test_whoever_is_refused_for_asking_too_much_displaces_nobodys_conversation() -> None:
    from workbench.demo.desk import Desk

    nobody: Any = None  # a refused question reaches neither models nor votes
    desk = Desk(config(), (), nobody, nobody, Limits(per_client=1, total=1_000))
    desk.conversations.leave(desk.conversations.enter("me", "one?"), Turn("one?", ("a", "b")))
    desk.limits.enter("flooder")
    desk.limits.leave("flooder")  # its one question of this minute

    async def flood() -> None:
        for number in range(MOST_CONVERSATIONS + 5):
            request: Any = SimpleNamespace(client=SimpleNamespace(host="flooder"), session_hash=f"page {number}")
            with pytest.raises(Exception, match="questions a minute"):
                await anext(desk.converse("again?", request))

    asyncio.run(flood())
    assert len(desk.conversations) == 1 and desk.conversations.enter("me", "two?").turns


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


@given(ANYTHING)
def test_whatever_a_program_gives_as_history_is_read_or_refused_in_words(history: object) -> None:
    try:
        turns = read_history(history, config(), 2)
    except Refused as refusal:
        assert str(refusal)
    else:
        assert all(len(turn.answers) == 2 and turn.question for turn in turns)


def test_a_history_is_turns_of_a_question_and_the_answers() -> None:
    assert read_history(None, config(), 2) == [] == read_history([], config(), 2)
    assert read_history([["q", ["a", "b"]]], config(), 2) == [Turn("q", ("a", "b"))]
    for wrong in ([["q", ["a"]]], [["q", "ab"]], [{"role": "user", "content": "q"}], "q", [["q", ["a", 1]]]):
        with pytest.raises(Refused, match="one answer of each model"):
            read_history(wrong, config(), 2)
    with pytest.raises(Refused, match="3 are the most"):
        read_history([["long", ["a", "b"]]], config(max_prompt_chars=3), 2)


# Served -------------------------------------------------------------------------------------------------------------


class Visitor:
    """A browser session that asks as the page does."""

    def __init__(self, demo: RunningDemo) -> None:
        self.http = httpx.Client(base_url=demo.address, trust_env=False, timeout=20)
        self.session = secrets.token_hex(5)
        wiring = self.http.get("/config").json()
        chats = [each["id"] for each in wiring["components"] if each["type"] == "chatbot"]
        talks = [each for each in wiring["dependencies"] if set(chats) <= set(each["outputs"])]
        (self.ask_index,) = (each["id"] for each in talks if each["inputs"])
        (self.anew_index,) = (each["id"] for each in talks if not each["inputs"])

    def join(self, index: int, *data: Any) -> str:
        body = {"data": list(data), "fn_index": index, "session_hash": self.session}
        answer = self.http.post("/gradio_api/queue/join", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["event_id"])

    def lines(self) -> Iterator[str]:
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            yield from stream.iter_lines()

    def ask(self, question: str) -> str:
        """The last message of a question: the whole output, or the refusal."""
        self.join(self.ask_index, question)
        return next(line for line in self.lines() if "process_completed" in line)

    def start_anew(self) -> None:
        self.join(self.anew_index)
        next(line for line in self.lines() if "process_completed" in line)


@pytest.fixture
def demo(store: Store, chat: ScriptedChat) -> Iterator[RunningDemo]:
    with running_demo(
        store, chat, "echo", "hostile", system="Be brief.", max_turns=3, per_visitor=500, per_minute=500
    ) as served:
        yield served


def asked(chat: ScriptedChat, model: str) -> list[list[tuple[str, str]]]:
    return [
        [(each["role"], each["content"]) for each in ask["messages"]] for ask in chat.asked if ask["model"] == model
    ]


def test_a_follow_up_is_told_to_each_model_with_its_own_answers_and_to_no_other_visitor(
    demo: RunningDemo, chat: ScriptedChat, store: Store
) -> None:
    me, you = Visitor(demo), Visitor(demo)
    assert "Question 1 of 3" in me.ask("My name is Ada.")
    you.ask("Who am I?")
    assert "Question 2 of 3" in me.ask("And who am I?")
    start = [("system", "Be brief."), ("user", "My name is Ada.")]
    assert asked(chat, "echo") == [
        start,
        [("system", "Be brief."), ("user", "Who am I?")],
        [*start, ("assistant", "You said My name is Ada."), ("user", "And who am I?")],
    ]
    assert asked(chat, "hostile")[-1] == [*start, ("assistant", HOSTILE), ("user", "And who am I?")]
    assert answer_store.list_completions(store, variant_id=model_store.list_variants(store)[0].id) == []


def test_a_conversation_that_is_full_says_so_and_a_new_one_knows_nothing_of_it(
    demo: RunningDemo, chat: ScriptedChat
) -> None:
    me = Visitor(demo)
    for number in range(2):
        me.ask(f"Question number {number}")
    assert "the last question of this conversation" in me.ask("The third")
    full = me.ask("One more")
    assert "has its 3 questions. Start a new conversation" in full and '"success":false' in full.replace(" ", "")
    me.start_anew()
    assert "Question 1 of 3" in me.ask("Again")
    assert asked(chat, "echo")[-1] == [("system", "Be brief."), ("user", "Again")]


def test_a_full_context_is_a_sentence_and_the_other_model_goes_on(store: Store, chat: ScriptedChat) -> None:
    with running_demo(store, chat, "echo", "refuse") as demo:
        me = Visitor(demo)
        assert "The question is too long for this model. Shorten it." in me.ask("one?")
        assert "two?" in me.ask("two?")
        assert asked(chat, "echo")[-1][:2] == [("user", "one?"), ("assistant", "You said one?")]
        assert asked(chat, "refuse")[-1] == [("user", "two?")], "what a model did not answer it is not told again"
        client = demo.client()
        history = [["one?", ["left", "right"]]]
        _, second, _ = client.predict("two?", history, api_name="/compare")
        assert second == "[This conversation has become too long for this model. Start a new one.]"


def test_nobody_answering_gives_the_question_back(store: Store, chat: ScriptedChat) -> None:
    with running_demo(store, chat, "refuse", "refuse-too") as demo:
        me = Visitor(demo)
        last = me.ask("Where is it?")
        assert "No whole answer" in last and '"data":["Where is it?"' in last.replace(", ", ",").replace('": ', '":')
        me.ask("Anyone?")
        assert asked(chat, "refuse")[-1] == [("user", "Anyone?")]


def test_what_is_there_when_a_visitor_stops_is_what_the_model_is_told(store: Store, chat: ScriptedChat) -> None:
    with running_demo(store, chat, "echo", "slow") as demo:
        me = Visitor(demo)
        event = me.join(me.ask_index, "one two three")
        for line in me.lines():
            if "You said one two three" in line or "three" in line and "process_generating" in line:
                break
        again = me.ask("too early")
        assert "still being answered" in again
        body = {"session_hash": me.session, "event_id": event, "fn_index": me.ask_index}
        assert me.http.post("/gradio_api/cancel", json=body).status_code == 200
        threading.Timer(1.0, chat.gate.set).start()
        deadline = time.monotonic() + 20
        while "still being answered" in me.ask("and now?") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert asked(chat, "echo")[-1] == [
            ("user", "one two three"), ("assistant", "You said one two three"), ("user", "and now?")
        ]  # fmt: skip
        assert asked(chat, "slow")[-1] == [("user", "one two three"), ("assistant", "You "), ("user", "and now?")]


def test_a_program_may_give_a_history_and_is_remembered_by_nobody(demo: RunningDemo, chat: ScriptedChat) -> None:
    client = demo.client()
    first = client.predict("Hello", api_name="/compare")
    assert first[:2] == ("You said Hello", HOSTILE)
    client.predict("And you?", api_name="/compare")
    assert asked(chat, "echo")[-1] == [("system", "Be brief."), ("user", "And you?")]
    history = [["Hello", list(first[:2])]]
    third = client.predict("And you?", history, api_name="/compare")
    assert third[0] == "You said And you?" and "Tokens" in third[2]
    assert asked(chat, "hostile")[-1][1:] == [("user", "Hello"), ("assistant", HOSTILE), ("user", "And you?")]
    for wrong, words in (([["Hello", ["one"]]], "one answer of each model"), (history * 3, "has its 3 questions")):
        with pytest.raises(Exception, match=words):
            client.predict("And you?", wrong, api_name="/compare")


def test_a_history_beyond_the_length_is_refused_and_one_beyond_the_request_is_not_read(
    store: Store, chat: ScriptedChat
) -> None:
    with running_demo(store, chat, "echo", "hostile", max_conversation_chars=1000) as demo:
        client = demo.client()
        with pytest.raises(Exception, match="1,000 are the most"):
            client.predict("And?", [["Hello", ["x" * 995, ""]]], api_name="/compare")
        with pytest.raises(Exception, match=r"too large|413"):
            client.predict("And?", [["Hello", ["x" * 500_000, ""]]], api_name="/compare")
        assert not chat.asked


def test_a_page_that_is_closed_leaves_nothing_behind(demo: RunningDemo, chat: ScriptedChat) -> None:
    me = Visitor(demo)
    with (
        httpx.Client(base_url=demo.address, trust_env=False, timeout=60) as page,
        page.stream("GET", f"/gradio_api/heartbeat/{me.session}") as beat,
    ):
        beats = beat.iter_lines()  # held: once it is let go of, the connection is closed
        assert "ALIVE" in next(beats)
        assert "Question 1 of 3" in me.ask("Remember this.")
        assert "Question 2 of 3" in me.ask("And this.")
    deadline = time.monotonic() + 20
    while "Question 1 of 3" not in me.ask("What do you remember?"):  # the server notices a moment later
        assert time.monotonic() < deadline, "the conversation outlived its page"
        time.sleep(0.1)
    assert asked(chat, "echo")[-1] == [("system", "Be brief."), ("user", "What do you remember?")]
