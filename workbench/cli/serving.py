"""`workbench app` and `workbench serve`: the app in the browser, and a model's engine for other programs."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from workbench.cli import output
from workbench.cli.options import with_config
from workbench.cli.output import Json, facts, show
from workbench.errors import RunProblem, UsageError
from workbench.generation.configs import ServeConfig

if TYPE_CHECKING:
    from workbench.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
PORTS_TRIED = 50
_PR_SET_PDEATHSIG = 1


def app_command(
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="First port to try; default WORKBENCH_PORT or 8501.")
    ] = None,
    bind: Annotated[
        str | None, typer.Option("--bind", help="Address to listen on; default WORKBENCH_BIND or 127.0.0.1.")
    ] = None,
    json: Json = False,
) -> None:
    """Start the app and print its address. Ctrl-C ends it; runs go on."""
    if not (PROJECT / "app.py").is_file():
        raise RunProblem(
            "app.py is not there", place=str(PROJECT), remedy="Start the app from a checkout of the project."
        )
    settings = output.load_settings().prepare()
    wanted = settings.port if port is None else port
    address = bind or settings.bind
    process, taken = _start(settings, address, wanted)
    if taken != wanted and wanted != 0:
        output.note(f"Port {wanted} is in use; taking {taken}.")
    shown = "127.0.0.1" if address in ("0.0.0.0", "") else "[::1]" if address == "::" else address  # noqa: S104
    url = f"http://{shown}:{taken}"

    def human(out: Console) -> None:
        out.print(f"The workbench is at {url}  (home {settings.home}; Ctrl-C ends the app, runs go on)")

    show({"address": url, "port": taken, "pid": process.pid, "home": str(settings.home)}, human)
    sys.stdout.flush()
    code = _wait(process)
    if code not in (0, -signal.SIGTERM, -signal.SIGINT):
        raise typer.Exit(output.FAILED)


def _start(settings: Settings, address: str, wanted: int) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server on the first free port; one that is lost to somebody else in between is left for the next."""
    first = wanted
    for _ in range(3):
        port = free_port(address, first)
        process = _spawn(settings, address, port)
        if _answers(process, address, port):
            return process, port
        if process.poll() is None:
            _end(process)
            break
        first = port if wanted == 0 else port + 1
    raise RunProblem(
        "the app did not start", place=f"{address}:{wanted}", remedy="What Streamlit printed above says why."
    )


def free_port(address: str, first: int) -> int:
    """The first free port from `first` on; any free one when it is 0.

    Raises:
        UsageError: the address is not one of this machine, or no port is free.
    """
    for port in [0] if first == 0 else range(first, min(first + PORTS_TRIED, 65536)):
        try:
            family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
                return int(probe.getsockname()[1])
        except (socket.gaierror, UnicodeError) as error:
            raise UsageError("no such address", place="--bind", value=address) from error
        except OSError as error:
            if error.errno == 99:  # EADDRNOTAVAIL
                raise UsageError("this machine does not have the address", place="--bind", value=address) from error
            if error.errno == 13:  # EACCES
                raise UsageError(
                    "this port needs more rights", place="--port", value=port, remedy="Choose one above 1023."
                ) from error
    raise UsageError(f"no free port in {PORTS_TRIED} tries", place="--port", value=first, remedy="Choose another.")


def _spawn(settings: Settings, address: str, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "workbench.ui.serve", "run", str(PROJECT / "app.py")]
    options = {
        "server.address": address,
        "server.port": port,
        "server.headless": "true",
        "browser.gatherUsageStats": "false",
    }
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = {**os.environ, "WORKBENCH_HOME": str(settings.home), "PYTHONUNBUFFERED": "1"}
    # Streamlit's own greeting would repeat the address; faults go to standard error.
    return subprocess.Popen(
        command,
        cwd=PROJECT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=_end_with_parent(),
    )


def _end_with_parent() -> Callable[[], None] | None:
    """On Linux the server ends when this process is killed without a chance to end it."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask


def _answers(process: subprocess.Popen[bytes], address: str, port: int) -> bool:
    import httpx

    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/_stcore/health"
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=2.0, trust_env=False).status_code == 200:
                return True
        except httpx.HTTPError:
            time.sleep(0.05)
    return False


def _wait(process: subprocess.Popen[bytes]) -> int:
    def ask_to_end(signum: int, frame: FrameType | None) -> None:
        process.terminate()

    signal.signal(signal.SIGTERM, ask_to_end)
    try:
        return process.wait()
    except KeyboardInterrupt:
        _end(process)
        return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@with_config(ServeConfig, arguments=("model",))
def serve(options: dict[str, Any], json: Json = False) -> None:
    """Start a model's engine, or find it, and tell where it listens. Every adapter of the model answers there too.

    The engine ends when nobody asks for a while; `workbench runs stop` ends it at once.
    """
    workspace = output.open_workspace()
    wanted = workspace.model(options.pop("model", "bundled")).id
    if options:
        # Other than the usual settings: an engine of its own, which is then the newest and found first.
        workspace.launch("serve", {"model": wanted, **options}, name="Engine")
    endpoint = workspace.engine(wanted)
    key_file = workspace.settings.run_dir(endpoint.run_id) / "endpoint.json"
    names = {variant.id: variant.name for variant in workspace.variants() if variant.model_id == wanted}

    def human(out: Console) -> None:
        out.print(facts([("base URL", endpoint.base_url), ("key file", key_file), ("run", endpoint.run_id)]))
        out.print(output.table(("model", "variant"), list(names.items()), empty="No variants."))

    document = {"base_url": endpoint.base_url, "key_file": str(key_file), "run_id": endpoint.run_id, "models": names}
    show(document, human)
