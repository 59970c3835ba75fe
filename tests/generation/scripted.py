"""An OpenAI-compatible server on loopback that answers as a script says; for tests of the client."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    """One request, with ways to answer it."""

    protocol_version = "HTTP/1.1"
    server: ScriptedServer  # type: ignore[assignment]

    def do_GET(self) -> None:
        self.server.seen.append(
            {"path": self.path, "headers": {name.lower(): value for name, value in self.headers.items()}}
        )
        if self.path.endswith("/models") and self.path.startswith(self.server.prefix):
            self.json(200, {"object": "list", "data": self.server.models})
        else:
            self.json(404, {"error": {"message": "no such page"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(
            {"path": self.path, "headers": {name.lower(): value for name, value in self.headers.items()}, "body": body}
        )
        self.body: dict[str, Any] = body
        with self.server.lock:
            answer = self.server.script.pop(0) if len(self.server.script) > 1 else self.server.script[0]
        answer(self)

    def json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def open_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_line(self, line: str) -> None:
        raw = (line + "\n\n").encode()
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()

    def end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class ScriptedServer(ThreadingHTTPServer):
    """Answers each POST with the next entry of its script; the last one repeats."""

    daemon_threads = True

    def __init__(self, *script: Answer, models: list[dict[str, Any]] | None = None, prefix: str = "/v1") -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.script = list(script)
        self.models = [{"id": "m1", "owned_by": "someone"}] if models is None else models
        self.prefix = prefix
        self.seen: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{self.prefix}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave are part of the script."""

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(10)


def whole(text: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    } | more


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> str:
    delta = {} if text is None else {"content": text}
    body = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m1",
        "choices": [{"index": 0, "finish_reason": finish, "delta": delta}],
    } | more
    return "data: " + json.dumps(body)


def streams(*lines: str, end: bool = True) -> Answer:
    """Send these lines; without `end` the connection breaks after them."""

    def answer(exchange: Exchange) -> None:
        exchange.open_stream()
        for line in lines:
            exchange.send_line(line)
        if end:
            exchange.end_stream()
        else:
            exchange.close_connection = True

    return answer


def says(status: int, body: Any, headers: dict[str, str] | None = None) -> Answer:
    return lambda exchange: exchange.json(status, body, headers)
