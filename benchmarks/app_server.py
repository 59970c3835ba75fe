"""The real app on a free port, driven over HTTP through Streamlit's agent interface."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]


class AppServer:
    """A Streamlit server on a free loopback port, ended on exit.

    Args:
        script: the app's entry file.
        home: WORKBENCH_HOME of the server.
    """

    def __init__(self, script: Path, home: Path) -> None:
        self._script = script
        self._home = home
        self._session: str | None = None

    def __enter__(self) -> AppServer:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = {
            "server.port": self.port,
            "server.headless": "true",
            "server.address": "127.0.0.1",
            "server.enableAgentApi": "true",
            "browser.gatherUsageStats": "false",
        }
        command = [sys.executable, "-m", "streamlit", "run", str(self._script)]
        command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        environment = {**os.environ, "WORKBENCH_HOME": str(self._home)}
        self.process = subprocess.Popen(
            command, cwd=self._script.parent, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._wait_until_healthy()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait_until_healthy(self) -> None:
        address = f"http://127.0.0.1:{self.port}/_stcore/health"
        while self.process.poll() is None:
            try:
                with urllib.request.urlopen(address, timeout=5):
                    return
            except OSError:
                time.sleep(0.01)
        raise RuntimeError(f"the server ended with {self.process.returncode}")

    def interact(self, **request: Any) -> dict[str, Any]:
        """Run the script once in this server's session and return the finished page.

        Raises:
            RuntimeError: the page raised; its message is passed on.
        """
        if self._session is not None:
            request["session_id"] = self._session
        body = json.dumps(request).encode()
        address = f"http://127.0.0.1:{self.port}/_stcore/agent/interact"
        asked = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            snapshot: dict[str, Any] = json.load(answer)
        self._session = snapshot["session_id"]
        if snapshot["status"] != "ready":
            raise RuntimeError(f"{request}: {json.dumps(snapshot)[:2000]}")
        return snapshot
