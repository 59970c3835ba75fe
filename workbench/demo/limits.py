"""How much visitors may ask: questions a minute, of one address and of all, and how many are answered at once.

Pure bookkeeping over a clock that can be given; used from the demo's one event loop only, so it takes no locks.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

WINDOW_S = 60.0
MOST_CLIENTS = 10_000
"""Addresses remembered at once; the one that was quiet longest is forgotten first."""


class Refused(Exception):
    """A question that is not taken now; the message is for the visitor."""


class Rate:
    """At most so many events in any minute.

    Args:
        most: events in one window.
        window_s: length of the window, in seconds.
        clock: seconds that only grow.
    """

    def __init__(self, most: int, *, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._window = window_s
        self._clock = clock
        self._times: deque[float] = deque()

    def wait_s(self) -> float:
        """Seconds until there is room for one more; 0 where there is room now."""
        now = self._clock()
        while self._times and now - self._times[0] >= self._window:
            self._times.popleft()
        return 0.0 if len(self._times) < self.most else self._window - (now - self._times[0])

    def count(self) -> None:
        """Count one event."""
        self._times.append(self._clock())


class Rates:
    """A `Rate` for each of many clients, forgetting the quiet ones.

    Args:
        most: events of one client in a minute.
        clock: seconds that only grow.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._clients: OrderedDict[str, Rate] = OrderedDict()

    def of(self, client: str) -> Rate:
        """The rate of one client."""
        rate = self._clients.setdefault(client, Rate(self._most, clock=self._clock))
        self._clients.move_to_end(client)
        while len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)
        return rate


class Limits:
    """Admits questions, or refuses them in words.

    Args:
        per_client: questions of one address in a minute.
        total: questions of all in a minute.
        at_once: questions of one address that may be under way or waiting.
        waiting: questions of all that may be under way or waiting.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        per_client: int,
        total: int,
        *,
        at_once: int = 3,
        waiting: int = 32,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rates = Rates(per_client, clock=clock)
        self._per_client = per_client
        self._total = Rate(total, clock=clock)
        self._at_once = at_once
        self._waiting = waiting
        self._open: dict[str, int] = {}
        self.refused = 0

    def enter(self, client: str) -> None:
        """Take a question of this client; `leave` must follow.

        Raises:
            Refused: it is one too many; the message says when to try again.
        """
        rate = self._rates.of(client)
        if self._open.get(client, 0) >= self._at_once:
            raise self._refusal("Your last questions are still being answered. Wait for them, then ask again.")
        if (left := rate.wait_s()) > 0:
            words = f"You may ask {self._per_client} questions a minute. Ask again in {math.ceil(left)} seconds."
            raise self._refusal(words)
        if sum(self._open.values()) >= self._waiting:
            raise self._refusal("Many people are asking right now. Ask again in a moment.")
        if (left := self._total.wait_s()) > 0:
            raise self._refusal(f"Many people are asking right now. Ask again in {math.ceil(left)} seconds.")
        rate.count()
        self._total.count()
        self._open[client] = self._open.get(client, 0) + 1

    def leave(self, client: str) -> None:
        """A question of this client is over."""
        left = self._open.get(client, 0) - 1
        if left > 0:
            self._open[client] = left
        else:
            self._open.pop(client, None)

    def _refusal(self, words: str) -> Refused:
        self.refused += 1
        return Refused(words)


def check_prompt(prompt: str | None, longest: int) -> str:
    """The question without surrounding blanks.

    Raises:
        Refused: it is empty or too long.
    """
    text = (prompt or "").strip()
    if not text:
        raise Refused("Write a question first.")
    if len(text) > longest:
        raise Refused(f"The question has {len(text):,} characters; {longest:,} are the most. Shorten it.")
    return text
