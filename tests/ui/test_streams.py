"""The registry of answers being written: all at once, kept exactly once, stopped at once, errors in words."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from workbench.errors import Conflict, GenerationProblem, StoreProblem
from workbench.records import Completion, Message, Sampling, new_id, utc_now
from workbench.ui.streams import Order, Streams


class Script:
    """An answer whose pieces come when the test says so."""

    fingerprint, verified = "fp_script", True

    def __init__(self, pieces: list[str], gate: threading.Event | None = None) -> None:
        self.pieces, self.gate, self.closed, self.text = pieces, gate, threading.Event(), ""

    def __iter__(self) -> Iterator[str]:
        for index, piece in enumerate(self.pieces):
            if index and self.gate is not None:
                while not self.gate.wait(0.005):
                    if self.closed.is_set():
                        return
            self.text += piece
            yield piece

    def close(self) -> None:
        self.closed.set()

    @property
    def completion(self) -> Completion | None:
        if self.closed.is_set():
            return None
        return Completion(
            id=new_id("cmp"),
            variant_id="?",
            prompt=(Message(role="user", content="?"),),
            text=self.text,
            sampling=Sampling(),
            finish_reason="stop",
            tokens=len(self.pieces),
            created_at=utc_now(),
        )


def order(variant: str = "a", *questions: str, conversation: str = "cnv") -> Order:
    asked = questions or ("hello",)
    return Order(
        conversation_id=conversation,
        pane=0,
        variant_id=variant,
        questions=tuple(enumerate(asked)),
        sampling=Sampling(seed=7),
    )


def until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        time.sleep(0.005)
    raise AssertionError("it did not come to pass")


def test_all_panes_write_at_once_and_each_answer_is_kept_once() -> None:
    gate, kept, streams = threading.Event(), [], Streams()
    streams.start([order("a"), order("b")], lambda one: lambda *_: Script([one.variant_id, "!"], gate), kept.append)
    until(lambda: {view.text for view in streams.views("cnv").values()} == {"a", "b"})
    assert streams.live("cnv") and not kept
    gate.set()
    assert streams.wait("cnv", 10)
    assert sorted((item.variant_id, item.text, item.turn, item.sampling.seed) for item in kept) == [
        ("a", "a!", 0, 7),
        ("b", "b!", 0, 7),
    ]
    assert {item.conversation_id for item in kept} == {"cnv"}


def test_stop_keeps_the_partial_text_as_cancelled_and_closes_the_answer() -> None:
    script, kept, streams = Script(["half ", "rest"], threading.Event()), [], Streams()
    streams.start([order()], lambda _: lambda *_: script, kept.append)
    until(lambda: streams.views("cnv")["a"].text == "half ")
    streams.stop("cnv")
    assert not streams.live("cnv") and script.closed.is_set()
    assert [(item.text, item.finish_reason, item.fingerprint) for item in kept] == [("half ", "cancelled", "fp_script")]
    time.sleep(0.05)
    assert len(kept) == 1


def test_stop_does_not_wait_for_an_engine_that_is_still_starting() -> None:
    started, kept, streams = threading.Event(), [], Streams()
    late = Script(["too late"])

    def open_answer(*_: object) -> Script:
        started.wait(10)
        return late

    streams.start([order()], lambda _: open_answer, kept.append)
    assert streams.views("cnv")["a"].phase == "connecting"
    streams.stop("cnv")
    assert not streams.live("cnv") and kept[0].finish_reason == "cancelled"
    started.set()
    until(late.closed.is_set)
    assert len(kept) == 1 and streams.views("cnv")["a"].text == ""


def test_one_pane_fails_in_words_and_the_other_goes_on() -> None:
    kept, streams = [], Streams()

    def opened(one: Order):
        def open_answer(*_: object) -> Script:
            if one.variant_id == "a":
                raise GenerationProblem("the server cannot be reached", place="lab", remedy="Check the address.")
            return Script(["fine"])

        return open_answer

    streams.start([order("a"), order("b")], opened, kept.append)
    assert streams.wait("cnv", 10)
    errors = {item.variant_id: item.error for item in kept}
    assert errors == {"a": "lab: the server cannot be reached. Check the address.", "b": None}


def test_a_fault_in_the_stream_keeps_what_had_come() -> None:
    class Broken(Script):
        def __iter__(self) -> Iterator[str]:
            yield "some"
            raise OSError("reset")

    kept, streams = [], Streams()
    streams.start([order()], lambda _: lambda *_: Broken([]), kept.append)
    assert streams.wait("cnv", 10)
    assert kept[0].text == "some" and "reset" in kept[0].error and kept[0].finish_reason == "error"


def test_a_variant_that_joins_answers_the_earlier_prompts_in_turn_with_its_own_history() -> None:
    asked, kept, streams = [], [], Streams()

    def open_answer(messages: list[Message], _: Sampling) -> Script:
        asked.append([message.content for message in messages])
        return Script([f"answer {len(asked)}"])

    streams.start([order("a", "one", "two")], lambda _: open_answer, kept.append)
    assert streams.wait("cnv", 10)
    assert asked == [["one"], ["one", "answer 1", "two"]]
    assert [(item.turn, item.text) for item in kept] == [(0, "answer 1"), (1, "answer 2")]


def test_a_conversation_that_is_being_answered_takes_no_second_question() -> None:
    streams = Streams()
    streams.start([order()], lambda _: lambda *_: Script(["a", "b"], threading.Event()), lambda _: None)
    with pytest.raises(Conflict, match="still being answered"):
        streams.start([order()], lambda _: lambda *_: Script(["a"]), lambda _: None)
    streams.stop("cnv")


def test_the_registry_is_bounded() -> None:
    streams = Streams(most_live=1, most_kept=2)
    for number in range(5):
        streams.start([order(conversation=f"c{number}")], lambda _: lambda *_: Script(["x"]), lambda _: None)
        assert streams.wait(f"c{number}", 10)
    assert sum(bool(streams.views(f"c{number}")) for number in range(5)) <= 3
    streams.start([order()], lambda _: lambda *_: Script(["a", "b"], threading.Event()), lambda _: None)
    with pytest.raises(Conflict, match="being written already"):
        streams.start([order(conversation="other")], lambda _: lambda *_: Script(["x"]), lambda _: None)
    streams.stop("cnv")


def test_an_answer_the_store_refuses_stays_on_the_page_and_says_so() -> None:
    def refuse(_: Completion) -> None:
        raise StoreProblem("the disk is full", remedy="Make room.")

    streams = Streams()
    streams.start([order()], lambda _: lambda *_: Script(["text"]), refuse)
    assert streams.wait("cnv", 10)
    view = streams.views("cnv")["a"]
    assert (view.text, view.unsaved) == ("text", "the disk is full. Make room.")
