"""What stands before Gradio: the few addresses a demo needs, small requests only, few of them, and a content policy.

Gradio serves much that a demo has no use for: uploads, files, a proxy, monitoring, log-out of everybody. The gate lets
through what the page and `gradio_client` call and nothing else, so none of that has to be trusted. Where there is a
password, whoever has not given it gets a page that asks for it and nothing more: Gradio's own would tell the names of
the models. Which questions are taken is left to `workbench.demo.limits`; the gate's own limits only stop floods.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
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


LOGIN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Password</title><style>
:root { color-scheme: light dark; }
body { font: 17px/1.5 ui-sans-serif, system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh;
  margin: 0; padding: 0 20px; }
form { display: grid; gap: 12px; width: min(340px, 100%); }
input, button { font: inherit; padding: 12px; border-radius: 8px; border: 1px solid #7a8a88; min-width: 0; }
button { background: #0F766E; color: #fff; border: 0; font-weight: 600; cursor: pointer; }
[role=alert] { min-height: 1.5em; margin: 0; }
</style></head><body><form method="post" action="login">
<label for="password">This demo asks for the password that came with its address.</label>
<input type="hidden" name="username" value="visitor">
<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
<button>Enter</button><p role="alert"></p></form><script>
const form = document.querySelector('form'), note = document.querySelector('[role=alert]');
form.addEventListener('submit', async (event) => {
  event.preventDefault();
  note.textContent = '';
  try {
    const answer = await fetch('login', {method: 'POST', body: new URLSearchParams(new FormData(form))});
    if (answer.ok) { location.reload(); return; }
    note.textContent = answer.status === 429 ? (await answer.json()).detail : 'That is not the password.';
  } catch { note.textContent = 'The demo does not answer. It may have ended.'; }
});
</script></body></html>
"""


class Gate:
    """Lets requests through to Gradio, or answers them itself.

    Args:
        app: Gradio's ASGI application.
        hosts: values of the Host header that are served; None serves all.
        largest: most bytes of a request's body.
        posts: most requests of one address in a minute that start something.
        signed_in: whether cookies are those of somebody who gave the password; None where there is none.
    """

    def __init__(
        self,
        app: Any,
        *,
        hosts: set[str] | None,
        largest: int,
        posts: int,
        signed_in: Callable[[Mapping[str, str]], bool] | None = None,
    ) -> None:
        self._app = app
        self._signed_in = signed_in
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
            body = json.dumps({"detail": refusal[1]}).encode()
            await _answer(send, refusal[0], body, b"application/json")
            return
        if not self._may_pass(scope):
            if scope["path"] == "/":
                await _answer(send, 200, LOGIN.encode(), b"text/html; charset=utf-8")
            else:
                await _answer(send, 401, b'{"detail": "Not authenticated"}', b"application/json")
            return
        await self._app(scope, self._bounded(receive), _with_policy(send))

    def _may_pass(self, scope: Scope) -> bool:
        if self._signed_in is None or scope["path"].rstrip("/") == "/login":
            return True
        given = SimpleCookie()
        for name, value in scope["headers"]:
            if name == b"cookie":
                try:
                    given.load(value.decode("latin-1"))
                except CookieError:
                    continue
        return self._signed_in({name: morsel.value for name, morsel in given.items()})

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


async def _answer(send: Callable[[Any], Any], status: int, body: bytes, kind: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *HEADERS]
    headers.append((b"cache-control", b"no-store"))
    if status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
