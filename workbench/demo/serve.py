"""The run of kind `demo`: serves the page until Stop is pressed.

The server listens on a socket of its own before anything is told, so a port in use is a clear failure. Beyond this
machine the demo asks for a password; it is in a 0600 file of the run's folder and nowhere else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workbench.demo.configs import DemoConfig, make_password, read_password, write_password
from workbench.errors import RunProblem
from workbench.job import Job
from workbench.store import models as model_store

if TYPE_CHECKING:
    from workbench.demo.desk import Desk

LOOK_S = 0.25
GRACE_S = 2
POSTS_A_QUESTION = 6
"""Requests that one question of the page takes at most, votes and its start included."""
_ADDRESS_NOT_HERE, _PORT_IN_USE, _NO_RIGHT = (99, 49), (98, 48), (13,)


def serve_demo(config: DemoConfig, job: Job) -> dict[str, Any]:
    """Serve the demo until Stop is pressed.

    Args:
        config: what is shown, to whom, within which limits.
        job: the run; its result gets `address`, `addresses` and the counts of use.

    Raises:
        NotFound: a variant is not there.
        RunProblem: the address cannot be listened on.
        Stopped: Stop was pressed.
    """
    variants = [model_store.get_variant(job.store, name) for name in config.variants]
    listener = open_listener(config.bind, config.port)
    try:
        password = read_password(job.settings, job.run_id)
        if password is None and config.beyond_loopback:
            password = make_password()
            write_password(job.settings, job.run_id, password)
        job.progress("starting the page")
        # Read when Gradio is imported. Nothing of a demo may leave the machine or land in a folder others can read.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        os.environ["GRADIO_TEMP_DIR"] = str(job.folder / "gradio")
        from workbench.demo.arena import Arena
        from workbench.demo.compare import Asker
        from workbench.demo.desk import Desk
        from workbench.demo.limits import Limits

        arena = Arena(job.store, config, job.run_id)
        limits = Limits(config.per_visitor, config.per_minute)
        asker = Asker(job, config)
        desk = Desk(config, variants, asker, arena, limits)
        try:
            counts = asyncio.run(_serve_until_stopped(desk, job, listener, password))
        finally:
            asker.close()
    finally:
        listener.close()
    job.result(**counts)
    job.checkpoint_or_stop()
    return counts


def open_listener(bind: str, port: int) -> socket.socket:
    """A socket that listens for the demo.

    Args:
        bind: an IP address.
        port: 0 takes a free one.

    Raises:
        RunProblem: it is in use, needs more rights, or is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((bind, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        what, remedy = f"the address cannot be used: {error.strerror or error}", "Choose another address or port."
        if error.errno in _PORT_IN_USE:
            what, remedy = "the port is in use", "Choose another, or 0 for a free one."
        elif error.errno in _ADDRESS_NOT_HERE:
            what, remedy = "this machine does not have the address", "Take 127.0.0.1, or 0.0.0.0 for every network."
        elif error.errno in _NO_RIGHT:
            what, remedy = "this port needs more rights", "Choose one above 1023."
        raise RunProblem(what, place=f"{bind}:{port}", remedy=remedy) from error
    return listener


def addresses_of(bind: str, port: int) -> list[str]:
    """Where a demo can be reached, the address to send first.

    Args:
        bind: the IP address it listens on.
        port: the port.
    """
    address = ipaddress.ip_address(bind)
    if not address.is_unspecified:
        return [_url(str(address), port)]
    import psutil

    found: list[tuple[str, str]] = []
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if name not in up or entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            own = ipaddress.ip_address(entry.address.partition("%")[0])
            if own.is_loopback or own.is_link_local or (own.version == 6 and address.version == 4):
                continue
            found.append((str(own), name))
    # Bridges of containers come last: their addresses reach nobody outside.
    inner = ("docker", "br-", "veth", "virbr", "cni", "podman")
    found.sort(key=lambda pair: (pair[1].startswith(inner), ":" in pair[0]))
    return [_url(own, port) for own, _ in found] or [_url("127.0.0.1" if address.version == 4 else "::1", port)]


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_app(desk: Desk, port: int, password: str | None) -> Any:
    """The whole ASGI application: Gradio's page behind the gate.

    Args:
        desk: what the page's handlers share.
        port: where it will listen.
        password: what visitors have to know; None asks for none.
    """
    import gradio as gr
    from fastapi import FastAPI
    from starlette.routing import Mount

    from workbench.demo.app import CSS, HEAD, build, make_theme
    from workbench.demo.gate import Gate

    config = desk.config
    expected = None if password is None else password.encode()

    def knows(name: str, given: str) -> bool:
        return expected is not None and secrets.compare_digest(given.encode(), expected)

    outer = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    gr.mount_gradio_app(
        outer,
        build(desk),
        path="/",
        server_name=config.bind,
        server_port=port,
        footer_links=[],
        run_history=False,
        auth=None if expected is None else knows,
        show_error=True,
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=make_theme(),
        css=CSS,
        head=HEAD,
    )
    hosts = None if config.beyond_loopback else {f"{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]")}
    # The page sends its question alone; a program may send the conversation with it.
    longest = config.max_prompt_chars + len(config.variants) * config.max_conversation_chars
    largest = 16_384 + 8 * longest
    inner: Any = next(route.app for route in outer.routes if isinstance(route, Mount))

    def signed_in(cookies: Mapping[str, str]) -> bool:
        names = (f"access-token-{inner.cookie_id}", f"access-token-unsecure-{inner.cookie_id}")
        return any(cookies.get(name) in inner.tokens for name in names if name in cookies)

    return Gate(
        outer,
        hosts=hosts,
        largest=largest,
        posts=max(60, POSTS_A_QUESTION * config.per_visitor),
        signed_in=None if expected is None else signed_in,
    )


async def _serve_until_stopped(desk: Desk, job: Job, listener: socket.socket, password: str | None) -> dict[str, int]:
    import uvicorn

    class Server(uvicorn.Server):
        """Leaves signals to the run's worker, which turns them into `should_stop`."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    port = int(listener.getsockname()[1])
    gate = make_app(desk, port, password)
    server = Server(
        uvicorn.Config(
            gate,
            log_level="error",
            access_log=False,
            lifespan="on",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        addresses = addresses_of(desk.config.bind, port)
        job.result(address=addresses[0], addresses=addresses, port=port, password=password is not None)
        job.progress("serving")
        job.log(f"serving at {addresses[0]}")
    told: dict[str, int] = {}
    while not serving.done() and not job.should_stop():
        counts = _counts(desk, gate.refused)
        if counts != told:
            told = counts
            job.result(**counts)
            note = f"{counts['visitors']} visitors, {counts['votes']} votes, {counts['refused']} refused"
            job.progress(done=counts["questions"], unit="questions", note=note)
        await asyncio.sleep(LOOK_S)
    desk.asker.close()
    server.should_exit = True
    await serving
    return _counts(desk, gate.refused)


def _counts(desk: Desk, refused: int) -> dict[str, int]:
    return {
        "visitors": desk.visitors,
        "questions": desk.questions,
        "votes": desk.arena.votes,
        "refused": desk.limits.refused + refused,
    }
