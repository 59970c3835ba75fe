"""A real HTTP server that speaks enough of the OpenAI protocol, and answers as its models' names say.

`echo` repeats the last prompt word by word, `slow` waits for `gate` after its first word, `refuse…` answers 400 with a
context-length error, `hostile` writes markup.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOSTILE = "<script>alert(1)</script> ![x](http://example.invalid/x.png) $x^2$ :smile:\n\n# two"


class ScriptedChat(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gate = threading.Event()
        self.asked: list[dict[str, Any]] = []
        self.models = ["echo", "slow", "refuse", "hostile"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that leaves is what the tests do


@contextmanager
def scripted_chat() -> Iterator[ScriptedChat]:
    server = ScriptedChat()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        thread.join(5)
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedChat

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.server.models]})

    def do_POST(self) -> None:
        ask = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        probe = ask["messages"][-1]["content"] == "Hi"
        if not probe:
            self.server.asked.append(ask)
        if ask["model"].startswith("refuse") and not probe:
            message = "This model's maximum context length is 8 tokens."
            self._send(400, {"error": {"message": message, "code": "context_length_exceeded", "type": "invalid"}})
            return
        text = HOSTILE if ask["model"] == "hostile" else "You said " + ask["messages"][-1]["content"]
        if not ask.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = {"id": "c", "object": "chat.completion", "created": 0, "model": ask["model"], "choices": [choice]}
            self._send(200, whole)
            return
        words = [word + " " for word in text.split(" ")]
        words[-1] = words[-1].rstrip(" ")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for index, word in enumerate(words):
            self._chunk(ask["model"], {"delta": {"content": word}, "finish_reason": None})
            if index == 0 and ask["model"] == "slow" and not probe:
                self.server.gate.wait(20)
        self._chunk(ask["model"], {"delta": {}, "finish_reason": "stop"})
        self.wfile.write(b"data: [DONE]\n\n")

    def _chunk(self, model: str, choice: dict[str, Any]) -> None:
        chunk = {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": model,
            "system_fingerprint": "fp_claimed",
            "choices": [{"index": 0, **choice}],
        }
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
