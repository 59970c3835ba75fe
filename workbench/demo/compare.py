"""Ask several variants the same question at once and follow their answers as they are written.

What each was told before is given with the question; remembering it is left to `conversation`. Each variant is asked
on a thread of its own through the one client; the demo's event loop looks at the panes a few times a second. How an
engine is found or started is the job's business: one that was killed is started again by the next question.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workbench.demo.configs import DemoConfig
from workbench.errors import GenerationProblem, WorkbenchError
from workbench.generation.client import TOO_LONG, ChatClient
from workbench.job import Job
from workbench.records import Completion, Message, Sampling, Variant
from workbench.store import models as model_store

if TYPE_CHECKING:
    from workbench.generation.client import StreamHandle

LOOK_S = 0.1
TOO_LONG_QUESTION = "The question is too long for this model. Shorten it."
TOO_LONG_CONVERSATION = "This conversation has become too long for this model. Start a new one."
BROKEN_OFF = "The answer broke off here. Ask again; the model is started anew where needed."
NO_ANSWER = "This model could not answer"


@dataclass
class Pane:
    """One variant's answer on its way; written by its thread, read by the event loop."""

    variant: Variant
    """Who answers."""
    before: tuple[Message, ...] = ()
    """What it was told before, its own answers with it."""
    text: str = ""
    """What is there."""
    completion: Completion | None = None
    """The whole answer, once it is over."""
    problem: str = ""
    """Why there is no whole answer, for the visitor."""
    detail: str = ""
    """The same for the log; may name the model."""
    done: bool = False
    """Whether nothing more comes."""
    handle: StreamHandle | None = field(default=None, repr=False)
    """What closes the answer."""

    @property
    def good(self) -> bool:
        """Whether the answer is whole."""
        return self.done and not self.problem and self.completion is not None

    def shown(self) -> str:
        """The text with what went wrong, where something did."""
        note = f"[{self.problem}]" if self.problem else ""
        return f"{self.text}\n\n{note}" if self.text and note else self.text or note


class Asker:
    """Puts a visitor's question to variants.

    Args:
        job: the demo's run.
        config: settings of the questions.
    """

    def __init__(self, job: Job, config: DemoConfig) -> None:
        self._job = job
        self._config = config
        self._room = asyncio.Semaphore(config.concurrency)
        self._pool = ThreadPoolExecutor(config.concurrency * 4, thread_name_prefix="answer")
        self._closed = threading.Event()
        self.waiting = 0

    def close(self) -> None:
        """Break off every answer and take no more."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def ask(
        self,
        variants: Sequence[Variant],
        prompt: str,
        sampling: Sampling,
        before: Sequence[Sequence[Message]] = (),
    ) -> AsyncGenerator[list[Pane]]:
        """The panes, a few times a second until all are done; leaving the iteration breaks the answers off.

        Args:
            variants: who answers.
            prompt: the question, checked.
            sampling: the same for all.
            before: what each was told before, in the order of the variants; empty where this is the first question.
        """
        told = before or [()] * len(variants)
        panes = [Pane(variant, before=tuple(turns)) for variant, turns in zip(variants, told, strict=True)]
        self.waiting += 1
        try:
            while self._room.locked():
                yield panes  # whoever waits is told so, and a visitor who leaves is noticed
                await asyncio.sleep(LOOK_S * 3)
            await self._room.acquire()
        finally:
            self.waiting -= 1
        gone = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            tasks = [loop.run_in_executor(self._pool, self._answer, pane, prompt, sampling, gone) for pane in panes]
            while not all(task.done() for task in tasks):
                await asyncio.wait(tasks, timeout=LOOK_S)
                yield panes
                if self._closed.is_set():
                    return
            for task in tasks:
                task.result()
        finally:
            gone.set()
            for pane in panes:
                if pane.handle is not None:
                    pane.handle.close()
            self._room.release()

    def _answer(self, pane: Pane, prompt: str, sampling: Sampling, gone: threading.Event) -> None:
        """Write one pane; runs on a thread of its own."""
        try:
            for _ in range(2):
                base_url = self._stream(pane, prompt, sampling, gone)
                # An engine that ended just before the question is started again, and the question put once more.
                if pane.text or not pane.problem or gone.is_set() or not self._moved(pane.variant, base_url):
                    return
                pane.problem = pane.detail = ""
        except WorkbenchError as error:
            pane.problem, pane.detail = f"{NO_ANSWER}: {error.what}. Ask again in a moment.", error.sentence()
        except Exception as error:
            pane.problem, pane.detail = f"{NO_ANSWER}. Ask again in a moment.", repr(error)
        finally:
            pane.done = True
            if pane.detail:
                self._job.log(f"{pane.variant.name}: {pane.detail}")

    def _moved(self, variant: Variant, base_url: str) -> bool:
        return variant.server_id is None and self._job.variant_endpoint(variant)[0] != base_url

    def _stream(self, pane: Pane, prompt: str, sampling: Sampling, gone: threading.Event) -> str:
        client = self._connect(pane.variant)
        system = [Message(role="system", content=self._config.system)] if self._config.system.strip() else []
        pane.handle = client.stream([*system, *pane.before, Message(role="user", content=prompt)], sampling)
        try:
            for piece in pane.handle:
                pane.text += piece
                if gone.is_set() or self._closed.is_set():
                    break
        except GenerationProblem as error:
            pane.problem, pane.detail = _in_words(error, pane), error.sentence()
        finally:
            pane.handle.close()
            client.close()
        pane.completion = pane.handle.completion
        if pane.completion is not None and pane.completion.error and not pane.problem:
            pane.problem, pane.detail = BROKEN_OFF, pane.completion.error
        return client.base_url

    def _connect(self, variant: Variant) -> ChatClient:
        base_url, key, model = self._job.variant_endpoint(variant)
        if variant.server_id is None:
            return ChatClient(base_url, key, model, variant, verified=True)
        server = model_store.get_server(self._job.store, variant.server_id)
        return ChatClient(base_url, key, model, variant, capabilities=server.capabilities)


def _in_words(error: GenerationProblem, pane: Pane) -> str:
    if error.what.startswith(TOO_LONG):
        return TOO_LONG_CONVERSATION if pane.before else TOO_LONG_QUESTION
    return f"{NO_ANSWER}: {error.what}"


def told_waiting(panes: Sequence[Pane], began: float) -> str:
    """What is going on before the first word, for the visitor; empty once there is one.

    Args:
        panes: the answers.
        began: when the question was put, by `time.monotonic`.
    """
    if any(pane.text or pane.done for pane in panes):
        return ""
    return "Waiting for the models…" if time.monotonic() - began < 3 else "Starting the models. This can take a while…"
