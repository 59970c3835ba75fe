"""The real app in a process of its own, a real Chromium, and a home where the quick tour has been taken."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "WORKBENCH_HOME": str(home), "PYTHONPATH": str(ROOT), **more}


def workbench(home: Path, *arguments: str, timeout: float = 900, **more: str) -> subprocess.CompletedProcess[str]:
    """One command line, as a person would type it."""
    return subprocess.run(
        [sys.executable, "-m", "workbench", *arguments],
        env=environment(home, **more),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


class RunningApp:
    """`workbench app` on a free port."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workbench", "app", "--port", "0"],
            env=environment(home),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if found := re.search(r"http://[\w.:\[\]]+", line):
                self.address = found.group().rstrip("/")
                break
        else:
            raise AssertionError("the app ended: " + "".join(lines))
        self._wait()

    def _wait(self) -> None:
        import httpx

        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.address}/_stcore/health", trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise AssertionError("the app does not answer")

    def end(self, how: int = signal.SIGTERM) -> None:
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        for process in family:
            try:
                process.send_signal(how)
            except psutil.NoSuchProcess:
                continue
        self.process.wait(timeout=20)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def start_app() -> Iterator[Callable[[Path], RunningApp]]:
    started: list[RunningApp] = []

    def start(home: Path) -> RunningApp:
        started.append(RunningApp(home))
        return started[-1]

    yield start
    for app in started:
        if app.process.poll() is None:
            app.end()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page in a browser profile of its own: `new_page(width=…, dark=…)`."""
    contexts = []

    def make(*, width: int = 1280, height: int = 900, dark: bool = False) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        return page

    yield make
    for context in contexts:
        context.close()


def end_runs(home: Path) -> None:
    """End whatever runs a home still has, engines too."""
    from workbench.settings import Settings
    from workbench.store import runs as run_store
    from workbench.store.database import open_store

    store = open_store(Settings(home=home))
    for run in run_store.list_runs(store, archived=True, limit=10_000):
        for attempt in run_store.list_attempts(store, run.id):
            for pid, began in (
                (attempt.supervisor_pid, attempt.supervisor_start),
                (attempt.worker_pid, attempt.worker_start),
            ):
                try:
                    if pid and began and abs(psutil.Process(pid).create_time() - began) < 1 and pid != os.getpid():
                        os.kill(pid, signal.SIGKILL)
                except (psutil.NoSuchProcess, ProcessLookupError):
                    continue
    store.close()


def take_tour(kept: str | None, *options: str, timeout: float = 900) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A home in which a tour was taken by the command line, and the document it printed.

    Args:
        kept: a home to look at afterwards, and to start from the next time; a passing one where None.
        options: of `workbench tour`.
        timeout: seconds.
    """
    folder = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="workbench-toured-"))
    document = folder / "tour.json"
    if not document.exists():
        done = workbench(folder, "tour", *options, "--json", timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        document.write_text(done.stdout)
    yield folder, json.loads(document.read_text())
    end_runs(folder)
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def toured() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A home in which the quick tour was taken, and the document it printed."""
    yield from take_tour(os.environ.get("WORKBENCH_TEST_TOURED"), "--quick")


@pytest.fixture(scope="session")
def looped() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A home in which InstructGPT's protocol was followed, and the document it printed."""
    if not (kept := os.environ.get("WORKBENCH_TEST_LOOPED")) and not os.environ.get("WORKBENCH_SCREENSHOTS"):
        pytest.skip("takes a quarter of an hour; test_reward_loop looks at the same pages")
    yield from take_tour(kept, "--protocol", "instructgpt", timeout=3600)
