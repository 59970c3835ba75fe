"""Answers being written, one thread a pane, kept apart from any browser session.

A page only looks at snapshots: a refresh or a second tab finds the same stream again by its conversation. Each answer
is handed to `keep` exactly once: whether it ended by itself, was stopped or failed, and whether a page looks or not.
Nothing here knows Streamlit; where text comes from and where it is kept is told by the caller.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from workbench.errors import Conflict, WorkbenchError
from workbench.records import Completion, Message, Record, Sampling, new_id, utc_now

Phase = Literal["connecting", "reading", "writing", "done", "stopped", "failed"]
STOP_WAIT_S = 0.5
ENDED: tuple[Phase, ...] = ("done", "stopped", "failed")


class Handle(Protocol):
    """An answer on its way: iterate for more text, close to break it off."""

    def __iter__(self) -> Iterator[str]: ...

    def close(self) -> None:
        """Break the answer off."""

    @property
    def completion(self) -> Completion | None:
        """The answer with its figures, once iteration has ended."""


Open = Callable[[Sequence[Message], Sampling], Handle]
Keep = Callable[[Completion], None]


class Order(Record):
    """What one pane is asked: one question, or several in a row where a variant joined later."""

    conversation_id: str
    """The conversation."""
    pane: int
    """The pane's place."""
    variant_id: str
    """Who answers."""
    history: tuple[Message, ...] = ()
    """System prompt and this pane's own earlier turns."""
    questions: tuple[tuple[int, str], ...]
    """Turn number and text of each question, in order."""
    sampling: Sampling
    """With which settings."""


class View(Record):
    """What a pane shows at one moment."""

    conversation_id: str
    """The conversation."""
    pane: int
    """The pane's place."""
    variant_id: str
    """Who answers."""
    turn: int
    """The turn it is at."""
    phase: Phase
    """How far it is."""
    text: str = ""
    """The answer so far."""
    pieces: int = 0
    """Pieces received; about one a token."""
    seconds: float = 0.0
    """Since the request."""
    first_token_s: float | None = None
    """From request to first text."""
    completion: Completion | None = None
    """The kept answer, once it has ended."""
    unsaved: str = ""
    """Why the answer could not be kept."""

    @property
    def live(self) -> bool:
        """Whether more may come."""
        return self.phase not in ENDED


@dataclass
class _Turn:
    """The answer a thread is at; changed only under the stream's lock."""

    number: int
    prompt: tuple[Message, ...]
    began: float
    phase: Phase = "connecting"
    text: str = ""
    pieces: int = 0
    first_token_s: float | None = None
    handle: Handle | None = None
    ended_s: float | None = None
    completion: Completion | None = None
    unsaved: str = ""


class PaneStream:
    """One pane's thread and what it has received."""

    def __init__(self, order: Order, open_answer: Open, keep: Keep) -> None:
        self.order = order
        self._open, self._keep = open_answer, keep
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._history = list(order.history)
        self._turn = self._new_turn(*order.questions[0])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"pane {order.pane}", daemon=True)
        self._thread.start()

    def view(self) -> View:
        """What to show now."""
        with self._lock:
            turn = self._turn
            # Between two questions of one order nothing is written for a moment; that is not the end.
            phase = turn.phase if self._over.is_set() or turn.phase not in ENDED else "reading"
            return View(
                conversation_id=self.order.conversation_id,
                pane=self.order.pane,
                variant_id=self.order.variant_id,
                turn=turn.number,
                phase=phase,
                text=turn.text,
                pieces=turn.pieces,
                seconds=turn.ended_s if turn.ended_s is not None else time.monotonic() - turn.began,
                first_token_s=turn.first_token_s,
                completion=turn.completion,
                unsaved=turn.unsaved,
            )

    @property
    def live(self) -> bool:
        """Whether more may come."""
        return not self._over.is_set()

    def break_off(self) -> None:
        """Close the answer at once; `settle_stopped` keeps what is there."""
        self._stop.set()
        with self._lock:
            handle = self._turn.handle
        if handle is not None:
            handle.close()

    def settle_stopped(self) -> None:
        """Keep what is there as cancelled, by the thread that reads or else from here."""
        with self._lock:
            turn = self._turn
        # A moment for the thread to tell the figures; one that waits for an engine or a slow socket is not waited for.
        if turn.handle is not None:
            self._over.wait(STOP_WAIT_S)
        self._settle(turn, "stopped", None)
        self._over.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; whether it came."""
        return self._over.wait(timeout_s)

    def _new_turn(self, number: int, question: str) -> _Turn:
        prompt = (*self._history, Message(role="user", content=question))
        return _Turn(number=number, prompt=prompt, began=time.monotonic())

    def _run(self) -> None:
        try:
            for index, (number, question) in enumerate(self.order.questions):
                if self._stop.is_set():
                    return
                if index:
                    with self._lock:
                        self._turn = self._new_turn(number, question)
                if not self._answer(self._turn):
                    return
                self._history = [*self._turn.prompt, Message(role="assistant", content=self._turn.text)]
        finally:
            self._over.set()

    def _answer(self, turn: _Turn) -> bool:
        try:
            handle = self._open(turn.prompt, self.order.sampling)
            with self._lock:
                turn.handle, turn.phase = handle, "reading" if turn.phase == "connecting" else turn.phase
                turn.began = time.monotonic()  # speed counts from the request, as the kept answer's does
            for piece in () if self._stop.is_set() else handle:
                self._take(turn, piece)
                if self._stop.is_set():
                    handle.close()
            if self._stop.is_set():
                handle.close()
            given = handle.completion
            phase: Phase = "stopped"
            if given is not None and given.finish_reason != "cancelled":
                phase = "failed" if given.error else "done"
            self._settle(turn, phase, given)
            return phase == "done" and bool(turn.text.strip())
        except WorkbenchError as error:
            self._settle(turn, "failed", None, error.sentence())
        except Exception as error:  # a pane must end in words whatever happens; the others go on
            sentence = f"The answer broke off ({type(error).__name__}: {error}). Try again."
            self._settle(turn, "failed", None, sentence)
        return False

    def _take(self, turn: _Turn, piece: str) -> None:
        with self._lock:
            if turn.phase in ENDED or not piece:
                return
            if turn.first_token_s is None:
                turn.first_token_s = time.monotonic() - turn.began
            turn.phase = "writing"
            turn.text += piece
            turn.pieces += 1

    def _settle(self, turn: _Turn, phase: Phase, given: Completion | None, error: str | None = None) -> None:
        """End a turn and keep its answer; only the first who comes does so."""
        with self._lock:
            if turn.phase in ENDED:
                return
            turn.ended_s = time.monotonic() - turn.began
            turn.completion = self._completion(turn, phase, given, error)
            turn.text = turn.completion.text
            completion = turn.completion
            turn.phase = phase
        try:
            self._keep(completion)
        except WorkbenchError as problem:
            with self._lock:
                turn.unsaved = problem.sentence()

    def _completion(self, turn: _Turn, phase: Phase, given: Completion | None, error: str | None) -> Completion:
        place = {
            "variant_id": self.order.variant_id,
            "conversation_id": self.order.conversation_id,
            "pane": self.order.pane,
            "turn": turn.number,
        }
        if given is not None:
            return given.model_copy(update={**place, "prompt": turn.prompt, "sampling": self.order.sampling})
        return Completion(
            id=new_id("cmp"),
            prompt=turn.prompt,
            text=turn.text,
            sampling=self.order.sampling,
            fingerprint=getattr(turn.handle, "fingerprint", None),
            verified=bool(getattr(turn.handle, "verified", False)),
            finish_reason="error" if phase == "failed" else "cancelled",
            tokens=turn.pieces,
            seconds=turn.ended_s or 0.0,
            first_token_s=turn.first_token_s,
            error=error,
            created_at=utc_now(),
            **place,
        )


class Streams:
    """Every pane of every conversation that is being answered in this process.

    Args:
        most_live: panes that may be written at once.
        most_kept: ended ones that are remembered, for pages that have not looked yet.
    """

    def __init__(self, *, most_live: int = 48, most_kept: int = 96) -> None:
        self._most_live, self._most_kept = most_live, most_kept
        self._lock = threading.Lock()
        self._streams: dict[tuple[str, str], PaneStream] = {}

    def start(self, orders: Sequence[Order], open_answer: Callable[[Order], Open], keep: Keep) -> None:
        """Begin to answer, all panes at once.

        Args:
            orders: one a pane.
            open_answer: for an order, the function that opens the answer; it may block, it runs in the pane's thread.
            keep: stores an ended answer; called once for each, from the pane's thread or from `stop`.

        Raises:
            Conflict: a pane is still answering, or too many are.
        """
        with self._lock:
            live = sum(stream.live for stream in self._streams.values())
            if live + len(orders) > self._most_live:
                raise Conflict(
                    f"{live} answers are being written already", remedy="Stop some of them, or wait until they end."
                )
            for order in orders:
                known = self._streams.get((order.conversation_id, order.variant_id))
                if known is not None and known.live:
                    raise Conflict(
                        "this conversation is still being answered", remedy="Wait for the answers, or stop them."
                    )
            for order in orders:
                key = (order.conversation_id, order.variant_id)
                self._streams.pop(key, None)
                self._streams[key] = PaneStream(order, open_answer(order), keep)
            self._forget()

    def _forget(self) -> None:
        ended = [key for key, stream in self._streams.items() if not stream.live]
        for key in ended[: max(0, len(ended) - self._most_kept)]:
            del self._streams[key]

    def views(self, conversation_id: str) -> dict[str, View]:
        """What the panes of a conversation show, by variant id."""
        return {stream.order.variant_id: stream.view() for stream in self._of(conversation_id)}

    def live(self, conversation_id: str) -> bool:
        """Whether any pane of a conversation may still get more."""
        return any(stream.live for stream in self._of(conversation_id))

    def stop(self, conversation_id: str, variant_id: str | None = None) -> None:
        """Break off the answers of a conversation, or of one of its panes, at once."""
        chosen = [stream for stream in self._of(conversation_id) if variant_id in (None, stream.order.variant_id)]
        live = [stream for stream in chosen if stream.live]
        for stream in live:
            stream.break_off()
        for stream in live:
            stream.settle_stopped()

    def wait(self, conversation_id: str, timeout_s: float) -> bool:
        """Wait until every pane has ended; whether they did."""
        deadline = time.monotonic() + timeout_s
        return all(stream.join(max(0.0, deadline - time.monotonic())) for stream in self._of(conversation_id))

    def _of(self, conversation_id: str) -> list[PaneStream]:
        with self._lock:
            return [stream for key, stream in self._streams.items() if key[0] == conversation_id]


STREAMS = Streams()
"""The one registry of the app's process, shared by all its sessions."""
