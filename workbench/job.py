"""What a job sees of the run it is: all that stands between the work (floors 2 to 4) and the machinery of runs (5).

A job is a function `work(config, job)` named as a string in `workbench.runs.kinds`. It reports through the job, asks it
whether to stop at natural boundaries, and returns its result as a JSON-ready dict. `workbench.runs.worker` gives the
real one; `RecordingJob` here serves tests and notebooks that call a job function directly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from workbench.errors import Stopped
from workbench.records import Progress, Variant
from workbench.settings import Settings
from workbench.store.database import Store


class Job(Protocol):
    """A run as seen by the work it does."""

    run_id: str
    """The run's id."""
    attempt: int
    """1 for the first start."""
    folder: Path
    """The run's own folder; everything the job writes lies below it."""
    settings: Settings
    """Settings of the process."""
    store: Store
    """The open store."""

    def progress(
        self,
        phase: str | None = None,
        done: float | None = None,
        total: float | None = None,
        unit: str | None = None,
        note: str | None = None,
    ) -> None:
        """Tell how far the work is; None keeps what was told. Cheap: written by a thread, at most twice a second."""

    def metric(self, step: int, **values: float) -> None:
        """Record points of series. Never blocks on the store: points are spooled to a file first."""

    def sample(self, step: int, slot: int, prompt: str, text: str) -> None:
        """Keep a sample answer drawn while learning."""

    def log(self, line: str) -> None:
        """Add a line to the run's log."""

    def result(self, **values: Any) -> None:
        """Merge into the run's result at once, so that it shows while the run is still at work."""

    def should_stop(self) -> bool:
        """Whether Stop was pressed."""

    def checkpoint_or_stop(self) -> None:
        """Raise `Stopped` when Stop was pressed; for jobs whose finished items are already safe."""

    def variant_endpoint(self, variant: Variant) -> tuple[str, str, str]:
        """Base URL, key and model name under which a variant answers; starts the local engine where needed."""


class RecordingJob:
    """A job that only remembers what it was told.

    Args:
        store: an open store.
        folder: where the work may write.
        stop_after: number of `should_stop` calls answered with no before the answer is yes.
    """

    def __init__(self, store: Store, folder: Path, *, run_id: str = "run_test", stop_after: int | None = None) -> None:
        self.run_id = run_id
        self.attempt = 1
        self.folder = folder
        self.settings = store.settings
        self.store = store
        self.told = Progress()
        self.points: list[tuple[int, str, float]] = []
        self.samples: list[tuple[int, int, str, str]] = []
        self.lines: list[str] = []
        self.results: dict[str, Any] = {}
        self.phases: list[str] = []
        self._left = stop_after
        folder.mkdir(parents=True, exist_ok=True)

    def progress(
        self,
        phase: str | None = None,
        done: float | None = None,
        total: float | None = None,
        unit: str | None = None,
        note: str | None = None,
    ) -> None:
        """Remember how far the work is."""
        told = {"phase": phase, "done": done, "total": total, "unit": unit, "note": note}
        self.told = self.told.model_copy(update={key: value for key, value in told.items() if value is not None})
        if phase and (not self.phases or self.phases[-1] != phase):
            self.phases.append(phase)

    def metric(self, step: int, **values: float) -> None:
        """Remember points."""
        self.points += [(step, name, value) for name, value in values.items()]

    def sample(self, step: int, slot: int, prompt: str, text: str) -> None:
        """Remember a sample."""
        self.samples.append((step, slot, prompt, text))

    def log(self, line: str) -> None:
        """Remember a line."""
        self.lines.append(line)

    def result(self, **values: Any) -> None:
        """Remember a result."""
        self.results |= values

    def should_stop(self) -> bool:
        """Count down, then yes."""
        if self._left is None:
            return False
        self._left -= 1
        return self._left < 0

    def checkpoint_or_stop(self) -> None:
        """Raise once the count is used up."""
        if self.should_stop():
            raise Stopped("stopped as asked")

    def variant_endpoint(self, variant: Variant) -> tuple[str, str, str]:
        """A recording job has no engine."""
        raise NotImplementedError("pass a client in tests")
