"""What stands before Gradio: the few addresses a demo needs, small requests only, few of them, and a content policy.

Gradio serves much that a demo has no use for: uploads, files, a proxy, monitoring, log-out of everybody. The gate lets
through what the page and `gradio_client` call and nothing else, so none of that has to be trusted. Which questions are
taken is left to `workbench.demo.limits`; the gate's own limits only stop floods.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from workbench.demo.limits import Rates

Scope = dict[str, Any]
_GET = re.compile(
    r"/(|config/?|theme\.css|favicon\.ico|manifest\.json|robots\.txt|pwa_icon|(static|assets|svelte)/.*"
    r"|gradio_api/(info/?|app_id/?|user/?|token/?|login_check/?|startup-events|theme\.css|heartbeat/[\w-]+"
    r"|queue/data|call/(v2/)?\w+/\w+))"
)
_POST = re.compile(r"/(login/?|gradio_api/(queue/join|run/\w+/?|call/(v2/)?\w+/?|cancel|reset/?))")
LOGINS_A_MINUTE = 10
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; manifest-src 'self'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""Nothing on the page may ask any other machine for anything."""
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Gate:
    """Lets requests through to Gradio, or answers them itself.

    Args:
        app: Gradio's ASGI application.
        hosts: values of the Host header that are served; None serves all.
        largest: most bytes of a request's body.
        posts: most requests of one address in a minute that start something.
    """

    def __init__(self, app: Any, *, hosts: set[str] | None, largest: int, posts: int) -> None:
        self._app = app
        self._hosts = hosts
        self._largest = largest
        self._posts = Rates(posts)
        self._logins = Rates(LOGINS_A_MINUTE)
        self.refused = 0

    async def __call__(self, scope: Scope, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        """Pass a request on, or refuse it in words."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            self.refused += refusal[0] in (413, 429)
            await _answer(send, *refusal)
            return
        await self._app(scope, self._bounded(receive), _with_policy(send))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "").lower()
        if self._hosts is not None and host not in self._hosts:
            return 421, "This address is not served here."
        origin = headers.get(b"origin", "").lower()
        if origin and origin.partition("://")[2] != host:
            return 403, "Pages of other sites cannot use this demo."
        allowed = {"GET": _GET, "HEAD": _GET, "POST": _POST}.get(scope["method"])
        if allowed is None or not allowed.fullmatch(scope["path"]):
            return 404, "There is nothing here."
        if scope["method"] != "POST":
            return None
        length = headers.get(b"content-length", "0")
        if not length.isdigit() or int(length) > self._largest:
            return 413, "The request is too large. Shorten the question."
        client = scope["client"][0] if scope.get("client") else "unknown"
        rate = (self._logins if scope["path"].startswith("/login") else self._posts).of(client)
        if (left := rate.wait_s()) > 0:
            return 429, f"Too many requests. Try again in {math.ceil(left)} seconds."
        rate.count()
        return None

    def _bounded(self, receive: Callable[[], Any]) -> Callable[[], Any]:
        taken = 0

        async def bounded() -> Any:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self._largest:
                    # A body sent in pieces tells no length beforehand; whoever sends more is treated as gone.
                    return {"type": "http.disconnect"}
            return message

        return bounded


def _with_policy(send: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def sender(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *HEADERS]
        await send(message)

    return sender


async def _answer(send: Callable[[Any], Any], status: int, words: str) -> None:
    body = json.dumps({"detail": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *HEADERS]
    if status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
