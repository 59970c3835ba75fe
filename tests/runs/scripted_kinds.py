"""Run kinds for tests of the machinery: jobs that wait, fail, stop, spawn children, or resist."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from pydantic import Field

from workbench.errors import DataProblem, Stopped
from workbench.records import RunConfig
from workbench.runs.kinds import Kind


class ScriptConfig(RunConfig):
    """What the scripted job does."""

    steps: int = Field(default=1, ge=0)
    """Steps of 50 ms."""
    end: str = "finish"
    """finish, raise, problem, oom, exit, nan."""
    ignore_stop: bool = False
    """Whether Stop is ignored."""
    children: int = 0
    """Child processes that sleep for a minute."""


def work(config: ScriptConfig, job):
    if config.ignore_stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    done_before = int((job.folder / "steps.txt").read_text()) if (job.folder / "steps.txt").exists() else 0
    children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(config.children)]
    (job.folder / "children.txt").write_text(" ".join(str(child.pid) for child in children))
    job.progress("stepping", done=done_before, total=config.steps, unit="steps")
    for step in range(done_before + 1, config.steps + 1):
        time.sleep(0.05)
        job.metric(step, loss=1 / step)
        job.progress(done=step)
        (job.folder / "steps.txt").write_text(str(step))
        if job.should_stop():
            raise Stopped("stopped as asked")
    if config.end == "raise":
        raise ValueError("the sky fell")
    if config.end == "problem":
        raise DataProblem("empty", place="row 18, column 'output'", remedy="Fill it or drop the row.")
    if config.end == "oom":
        raise MemoryError
    if config.end == "exit":
        os._exit(3)
    if config.end == "nan":
        job.metric(99, loss=float("nan"))
    return {"answer": 42}


TABLE = (
    Kind("script", "Script", "scripted_kinds:ScriptConfig", "scripted_kinds:work", "train"),
    Kind("script_io", "Script", "scripted_kinds:ScriptConfig", "scripted_kinds:work", "io"),
    Kind("script_service", "Script", "scripted_kinds:ScriptConfig", "scripted_kinds:work", "service"),
)
