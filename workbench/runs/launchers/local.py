"""Start a claimed run on this machine: a detached supervisor in a session of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from workbench.records import Run
from workbench.settings import Settings

PROJECT = Path(__file__).resolve().parents[3]


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of supervisors and workers: the same home and store, bounded threads, nothing phoned home."""
    environment = dict(os.environ)
    environment["WORKBENCH_HOME"] = str(settings.home)
    if settings.db:
        environment["WORKBENCH_DB"] = settings.db
    environment["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *filter(None, [environment.get("PYTHONPATH")])])
    environment.setdefault("OMP_NUM_THREADS", str(settings.threads))
    # Threads that wait for each other by spinning take the core that the other one needs: on two busy cores the same
    # matrix products took 77 s with the default and 20 s with a short spin.
    environment.setdefault("GOMP_SPINCOUNT", "2000")
    environment["TOKENIZERS_PARALLELISM"] = "false"
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    environment["TRL_EXPERIMENTAL_SILENCE"] = "1"
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def start(settings: Settings, run: Run) -> int:
    """Start the supervisor of a claimed run and return its process id."""
    folder = settings.run_dir(run.id)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench.runs.supervise", run.id, str(run.attempt)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env=child_environment(settings),
        )
    # The page server outlives many runs: without a wait, every ended supervisor would stay behind as its zombie.
    _reap_in_background(process)
    return process.pid


def _reap_in_background(process: subprocess.Popen[bytes]) -> None:
    import threading

    threading.Thread(target=process.wait, name=f"wait-{process.pid}", daemon=True).start()
