"""A demo served on a thread, its variants answered by a scripted HTTP server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.pages.scripted_chat import ScriptedChat
from workbench.demo.configs import DemoConfig, write_password
from workbench.errors import Stopped, WorkbenchError
from workbench.generation.servers import add_server, remote_variant
from workbench.job import RecordingJob
from workbench.records import Variant
from workbench.store.database import Store


class DemoJob(RecordingJob):
    """Variants answer at the scripted server; `stop` is set from outside."""

    def __init__(self, store: Store, chat: ScriptedChat, run_id: str) -> None:
        super().__init__(store, store.settings.run_dir(run_id), run_id=run_id)
        self.chat = chat
        self.stop = threading.Event()
        self.error: BaseException | None = None

    def variant_endpoint(self, variant: Variant) -> tuple[str, str, str]:
        return self.chat.url, "", variant.remote_model or ""

    def should_stop(self) -> bool:
        return self.stop.is_set()


class RunningDemo:
    def __init__(self, config: DemoConfig, job: DemoJob) -> None:
        from workbench.demo.serve import serve_demo

        self.config, self.job = config, job

        def work() -> None:
            try:
                with suppress(Stopped):
                    serve_demo(config, job)
            except WorkbenchError as error:
                job.error = error

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 60
        while job.told.phase != "serving" and self.thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)

    @property
    def address(self) -> str:
        return str(self.job.results["address"])

    def client(self, **options: Any) -> Any:
        from gradio_client import Client

        return Client(self.address, verbose=False, **options)

    def close(self) -> None:
        self.job.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive(), "the demo does not close"


def make_variants(store: Store, chat: ScriptedChat, *models: str) -> list[Variant]:
    server = add_server(store, "lab", chat.url, "")
    return [remote_variant(store, server, model) for model in models]


@contextmanager
def running_demo(
    store: Store,
    chat: ScriptedChat,
    *models: str,
    password: str = "",
    run_id: str = "run_demo",
    variants: list[Variant] | None = None,
    **options: Any,
) -> Iterator[RunningDemo]:
    """A demo of these models of the scripted server."""
    found = variants or make_variants(store, chat, *models)
    config = DemoConfig.model_validate({"variants": [item.id for item in found], **options})
    if password:
        write_password(store.settings, run_id, password)
    demo = RunningDemo(config, DemoJob(store, chat, run_id))
    try:
        yield demo
    finally:
        chat.gate.set()
        demo.close()
