"""A generator on loopback that speaks the OpenAI protocol and writes as models do: mostly well, partly malformed.

What it replies depends on the prompt alone, so that a run that was killed and resumed can be held against one that was
not. It is told to be slow, to limit the rate, to break connections, or to fail for good.
"""

from __future__ import annotations

import json
import random
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from workbench.job import RecordingJob
from workbench.records import Run, Variant
from workbench.store import models as model_store
from workbench.store import runs as run_store
from workbench.store.database import Store

VERBS = ["Describe", "Compare", "Invent", "Rewrite", "Explain", "Outline", "Judge", "Name"]
WORDS = (
    "harbour bakery glacier violin market lantern orchard tunnel kite library reef anvil barley candle dragonfly easel "
    "ferry granite hammock island jigsaw kettle lichen meadow nutmeg oar pebble quilt rooster saddle tide umbrella "
    "velvet willow xylophone yeast zither acorn blizzard compass driftwood ember fern gable heron ivy juniper kiln "
    "loom marble needle otter plough quarry ribbon sundial thistle urn vine walnut yarrow"
).split()


class ScriptedGenerator:
    """The server; use it in a `with` block."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.asks: list[dict[str, Any]] = []
        """Every request that was replied to, whole."""
        self.faults: list[str] = []
        """Taken in turn, one a request: `429`, `500`, `drop` or empty."""
        self.broken = False
        self.silly = False
        self.delay_s = 0.0
        self.under_way = 0
        self.most_under_way = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][-1]["content"]
                with outer.lock:
                    fault = outer.faults.pop(0) if outer.faults else ""
                    outer.under_way += 1
                    outer.most_under_way = max(outer.most_under_way, outer.under_way)
                time.sleep(outer.delay_s)
                with outer.lock:
                    outer.under_way -= 1
                if outer.broken:
                    self.reply(401, {"error": {"message": "no such key"}})
                elif fault == "drop":
                    self.close_connection = True
                elif fault:
                    self.reply(int(fault), {"error": {"message": "not now"}})
                else:
                    with outer.lock:
                        outer.prompts.append(prompt)
                        outer.asks.append(body)
                    text, finish = ("la la la", "stop") if outer.silly else write(prompt)
                    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
                    head = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"]}
                    usage = {"prompt_tokens": 1, "completion_tokens": len(text.split()), "total_tokens": 9}
                    self.reply(200, {**head, "system_fingerprint": "fp_1", "choices": [choice], "usage": usage})

            def reply(self, status: int, body: Any) -> None:
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.send_header("retry-after-ms", "5")
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients that leave are part of it."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> ScriptedGenerator:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def variant(self, store: Store) -> Variant:
        server = model_store.add_server(store, "scripted", self.url, {"seed": True})
        return model_store.add_variant(store, "writer", server_id=server.id, remote_model="m1")


def write(prompt: str) -> tuple[str, str]:
    """The reply to a prompt and why it ended."""
    dice = random.Random(zlib.crc32(prompt.encode()))
    task = prompt.rsplit("Task: ", 1)[-1].partition("\n")[0]
    if prompt.startswith("The list below"):
        return tasks(prompt, dice)
    if prompt.startswith("For each task, say whether"):
        return ("Yes, one of a few." if task.startswith("Judge") else dice.choice(["no", "No.", "hmm"])), "stop"
    if prompt.startswith("Write up to"):
        return inputs(task, dice)
    if prompt.startswith("For the last task, name its labels"):
        return "Labels: good, bad\nLabel: good\nInput: the old one\nLabel: bad\nInput: the new one", "stop"
    return whole_tasks(dice)


def new_task(dice: random.Random) -> str:
    one, two, three, four, five, six = dice.sample(WORDS, 6)
    joint = dice.choice(["beside", "without", "instead of", "like", "against"])
    return f"{dice.choice(VERBS)} {one} and {two} {joint} {three}, {four} {dice.choice(['or', 'before'])} {five} {six}."


def tasks(prompt: str, dice: random.Random) -> tuple[str, str]:
    shown = next(line for line in prompt.splitlines() if line.startswith("1. ")).removeprefix("1. ")
    odd = [
        "Describe what the picture shows in detail.", "Sing.", "Write a program that sorts names.", shown,
        "Übersetze diesen Satz ins Englische.", "!! Compare two cities of your choice.", "",
    ]  # fmt: skip
    items = [new_task(dice) for _ in range(5)] + dice.sample(odd, 3)
    dice.shuffle(items)
    marks = dice.choice([("{}. ", "\n"), ("{}) ", "\n\n"), ("**{}.** ", "\n")])
    text = marks[1].join(marks[0].format(number) + item for number, item in enumerate(items, 9))
    if dice.random() < 0.3:
        text = "Of course! Here are more tasks:\n\n" + text
    return (text[: -len(items[-1]) // 2 or None], "length") if dice.random() < 0.3 else (text, "stop")


def inputs(task: str, dice: random.Random) -> tuple[str, str]:
    good = f"Example 1\nInput: one {task[:12]}\nOutput: It stands there.\nExample 2\nInput: two\nOutput: It is gone."
    return dice.choice(
        [
            (good, "stop"),
            (good, "stop"),
            (good + "\nExample 3\nInput: three\nOutput: It was cut in the mid", "length"),
            ("Input: none\nOutput: A single answer.", "stop"),
            ("Plain words without headings.", "stop"),
            ("Input: same\nOutput: same", "stop"),
            ("Input: a\nOutput: b\nInput: a\nOutput: c", "stop"),
            ("Input: a\nOutput: as follows:", "stop"),
            ("", "stop"),
        ]
    )


def whole_tasks(dice: random.Random) -> tuple[str, str]:
    lines = []
    for number in range(4, 14):
        output = dice.choice(["An answer of some words.", "Another answer.", "", "here it is:"])
        lines.append(
            f"{number}. Instruction: {new_task(dice)}\nInput: {dice.choice(['none', 'a b c'])}\nOutput: {output}"
        )
    return "\n###\n".join(lines), dice.choice(["stop", "length"])


class ServedJob(RecordingJob):
    """A recording job whose variants answer at a scripted generator; its results reach the run as a worker's do."""

    def __init__(self, store: Store, folder: Path, url: str, run: Run, *, stop_after: int | None = None) -> None:
        super().__init__(store, folder, run_id=run.id, stop_after=stop_after)
        self._url = url

    def variant_endpoint(self, variant: Variant) -> tuple[str, str, str]:
        return self._url, "sk-secret", variant.remote_model or variant.id

    def result(self, **values: Any) -> None:
        super().result(**values)
        run = run_store.get_run(self.store, self.run_id)
        run_store.update_run(self.store, self.run_id, result={**run.result, **values})
