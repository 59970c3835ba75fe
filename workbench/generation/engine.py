"""The local engine: one thread that steps all answers of one base model, whatever adapter each uses.

Requests are submitted from any thread and wait first in, first out until there is a place; rows join and leave at step
boundaries, so a one-token request sent during a long answer is done first. An exception inside a step fails the
requests it struck and the engine goes on. Decoding itself is in `workbench.generation.lane`; the HTTP side is in
`workbench.generation.server`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from workbench.errors import GenerationProblem, UsageError
from workbench.generation.configs import Done, EngineLoad, Event, Failed, GenerationRequest
from workbench.generation.lane import Lane, Row
from workbench.generation.lora import read_adapter


class Handle:
    """A request on its way: iterate it for its events.

    Args:
        request: what was asked.
        sink: called with each event on the engine's thread instead of queueing it here; must not block.
    """

    def __init__(self, request: GenerationRequest, sink: Callable[[Event], None] | None = None) -> None:
        self.request = request
        self.cancelled = False
        self.over = False
        self._left = request.n
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._sink = sink

    def __iter__(self) -> Iterator[Event]:
        """Events until the last answer is over."""
        while (event := self._events.get()) is not None:
            yield event

    def emit(self, event: Event) -> None:
        """Pass an event on; the engine calls this."""
        if self.over:
            return
        if isinstance(event, Done):
            self._left -= 1
        self.over = isinstance(event, Failed) or self._left == 0
        if self._sink is not None:
            self._sink(event)
            return
        self._events.put(event)
        if self.over:
            self._events.put(None)

    def fail(self, error: Exception) -> None:
        """End the whole request with an error; the engine calls this."""
        self.emit(Failed(error))


class ThreadPace:
    """Takes no more CPU threads than other processes leave free.

    A product split over threads waits for the slowest; where another process holds that thread's core, every one of a
    step's two hundred products waits for the scheduler, and a step takes ten to a hundred times as long (seen beside
    training runs).

    Args:
        most: threads to use where the machine is free.
    """

    def __init__(self, most: int) -> None:
        import psutil

        self._psutil = psutil
        self._process = psutil.Process()
        self._cores = sorted(self._process.cpu_affinity()) if hasattr(self._process, "cpu_affinity") else None
        self._most = most
        self._now = 0
        self._at = 0.0
        self._own = 0.0
        self._set(most)
        self._look()

    def keep(self) -> None:
        """Look at the machine once a second, and change the number of threads where it has changed."""
        if self._most > 1 and time.monotonic() - self._at >= 1.0:
            self._set(self._look())

    def _set(self, threads: int) -> None:
        if threads != self._now:
            torch.set_num_threads(threads)
            self._now = threads

    def _look(self) -> int:
        shares = self._psutil.cpu_percent(percpu=True)
        shares = shares if self._cores is None else [shares[core] for core in self._cores if core < len(shares)]
        times = self._process.cpu_times()
        own, at = times.user + times.system, time.monotonic()
        others = sum(shares) / 100 - (own - self._own) / max(at - self._at, 1e-3)
        self._own, self._at = own, at
        return max(1, min(self._most, round(len(shares) - others)))


class Engine:
    """A base model, its adapters and everything being written with them.

    Args:
        model: a causal language model of transformers in evaluation mode; owned by the engine from now on.
        decoder: the model's tokenizer, of the `tokenizers` library.
        context: longest text in tokens, prompt and answer together; the model's own limit when None.
        max_rows: answers written at once.
        cache_mb: memory for keys and values above which further rows wait, in MB.
        threads: CPU threads; left as they are when None.

    Raises:
        ModelProblem: the architecture cannot be served.
    """

    def __init__(
        self,
        model: Any,
        decoder: Any,
        *,
        context: int | None = None,
        max_rows: int = 64,
        cache_mb: int = 2048,
        threads: int | None = None,
    ) -> None:
        config = model.config.get_text_config()
        self.context = int(context or getattr(config, "max_position_embeddings", None) or 2048)
        self._decoder = decoder
        self._max_rows = max_rows
        self._threads = threads
        heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", 1)
        size = getattr(config, "head_dim", None) or config.hidden_size // getattr(config, "num_attention_heads", 1)
        width = next(model.parameters()).element_size()
        self._max_columns = max(1, cache_mb * 2**20 // (2 * config.num_hidden_layers * heads * size * width))
        self._base = Lane(model, stacked=True)
        self._lanes: dict[str, Lane] = {}
        self._adapters: dict[str, Lane] = {}
        self._retiring: set[str] = set()
        self._waiting: deque[Row] = deque()
        self._commands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, sink: Callable[[Event], None] | None = None) -> Handle:
        """Ask for text; returns at once.

        Args:
            request: what to continue, and how.
            sink: called with each event on the engine's thread; must not block. None queues events in the handle.

        Raises:
            UsageError: the prompt is empty.
            GenerationProblem: it does not fit, the adapter is unknown, or the engine is closed.
        """
        length = len(request.prompt_ids)
        if not length:
            raise UsageError("it is empty", place="prompt", remedy="Write something to answer.")
        if length >= self.context:
            raise GenerationProblem(
                f"it is {length:,} tokens long and this model reads at most {self.context:,}, answer included",
                place="prompt",
                remedy="Shorten the prompt or the conversation, or use a model with a longer context.",
            )
        handle = Handle(request, sink)
        limit = min(request.sampling.max_tokens, self.context - length)
        rows = [Row(handle, choice, limit, self._decoder) for choice in range(request.n)]
        with self._wake:
            if self._closing:
                raise GenerationProblem("the engine is closing", remedy="Ask again; it will be started anew.")
            if request.adapter is not None and request.adapter not in self._adapters:
                raise GenerationProblem("this adapter is not loaded", value=request.adapter)
            self._waiting.extend(rows)
            self._wake.notify()
        return handle

    def cancel(self, handle: Handle) -> None:
        """Stop a request at the next step; its answers end as `cancelled`."""
        with self._wake:
            handle.cancelled = True
            self._wake.notify()

    def load_adapter(self, key: str, folder: Path, load_copy: Callable[[], Any]) -> bool:
        """Make an adapter available under a key; blocks until it is.

        Args:
            key: what requests call it; loading a known key does nothing.
            folder: a PEFT folder.
            load_copy: loads another copy of the base with this adapter laid over by PEFT; called only where the
                adapter cannot share the batch.

        Returns:
            Whether it shares the batch with the base.

        Raises:
            ModelProblem: the adapter is damaged or does not fit.
            GenerationProblem: the engine is closing.
        """
        with self._wake:
            self._retiring.discard(key)
            if key in self._adapters:
                return self._adapters[key] is self._base
        pairs = read_adapter(folder, self._base.model)
        if isinstance(pairs, str):
            lane = Lane(load_copy(), stacked=False)
            self._call(lambda: self._enter(key, lane))
            return False

        def install() -> None:
            assert self._base.bank is not None
            self._base.bank.add(key, pairs)
            self._enter(key, self._base)

        self._call(install)
        return True

    def unload_adapter(self, key: str) -> None:
        """Forget an adapter once no answer uses it any more."""
        with self._wake:
            if key in self._adapters:
                self._retiring.add(key)
                self._wake.notify()

    def load(self) -> EngineLoad:
        """How busy the engine is."""
        with self._wake:
            # The engine's thread moves rows meanwhile: one may stand in two lists for a moment, and one whose
            # end has been told is swept out only after the step.
            rows = [row for lane in (self._base, *self._lanes.values()) for row in lane.all_rows if not row.over]
            return EngineLoad(len(set(map(id, rows))), len(self._waiting), tuple(sorted(self._adapters)))

    @property
    def closing(self) -> bool:
        """Whether it takes no more requests."""
        return self._closing

    def close(self) -> None:
        """End all answers as cancelled and stop the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _call(self, work: Callable[[], None]) -> None:
        """Run something on the engine's thread between two steps, and wait for it."""
        future: Future[None] = Future()
        with self._wake:
            if self._closing:
                raise GenerationProblem("the engine is closing", remedy="Ask again; it will be started anew.")
            self._commands.append((work, future))
            self._wake.notify()
        future.result()

    def _enter(self, key: str, lane: Lane) -> None:
        self._adapters[key] = lane
        if lane is not self._base:
            self._lanes[key] = lane

    def _run(self) -> None:
        pace = ThreadPace(self._threads) if self._threads is not None else None
        with torch.inference_mode():
            while True:
                with self._wake:
                    while not (self._closing or self._commands or self._waiting or self._busy() or self._retiring):
                        self._wake.wait()
                    if self._closing:
                        break
                if pace is not None:
                    pace.keep()
                self._turn()
        self._end()

    def _turn(self) -> None:
        """Everything between two steps, then one step of every lane."""
        with self._wake:
            commands, self._commands = self._commands, deque()
        for work, future in commands:
            try:
                work()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(None)
        lanes = (self._base, *self._lanes.values())
        for lane in lanes:
            lane.drop(lambda row: row.handle.cancelled, "cancelled")
        self._admit()
        self._retire()
        for lane in lanes:
            if lane.rows or lane.joining:
                lane.step()

    def _busy(self) -> bool:
        return any(lane.rows or lane.joining for lane in (self._base, *self._lanes.values()))

    def _admit(self) -> None:
        with self._wake:
            for row in [row for row in self._waiting if row.handle.cancelled or row.handle.over]:
                self._waiting.remove(row)
                row.end("cancelled")
            while self._waiting:
                row = self._waiting[0]
                lane = self._base if row.request.adapter is None else self._adapters[row.request.adapter]
                rows = [other for each in (self._base, *self._lanes.values()) for other in each.all_rows]
                columns = max([row.columns, *(other.columns for other in rows)]) * (len(rows) + 1)
                if rows and (len(rows) >= self._max_rows or columns > self._max_columns):
                    return
                lane.admit(self._waiting.popleft())

    def _retire(self) -> None:
        with self._wake:
            used = {row.request.adapter for lane in (self._base, *self._lanes.values()) for row in lane.all_rows}
            used |= {row.request.adapter for row in self._waiting}
            for key in self._retiring - used:
                self._retiring.discard(key)
                lane = self._adapters.pop(key, None)
                self._lanes.pop(key, None)
                if lane is self._base and lane.bank is not None:
                    lane.bank.remove(key)

    def _end(self) -> None:
        with self._wake:
            rows = list(self._waiting)
            self._waiting.clear()
            commands, self._commands = self._commands, deque()
        for lane in (self._base, *self._lanes.values()):
            rows += lane.all_rows
        for row in rows:
            row.end("cancelled")
        for _, future in commands:
            future.set_exception(GenerationProblem("the engine is closing"))
