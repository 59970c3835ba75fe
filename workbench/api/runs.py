"""Runs of every kind: launch, watch, stop, resume, put away."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workbench.api.home import Home
from workbench.errors import RunProblem
from workbench.notebook.shown import ShownRun
from workbench.records import Metric, Run, RunConfig
from workbench.store import datasets as dataset_store
from workbench.store import runs as run_store


class RunMethods(Home):
    """Runs of every kind: launch, watch, stop, resume, put away."""

    def launch(self, kind: str, config: RunConfig | Mapping[str, Any], *, name: str | None = None) -> Run:
        """Start a run of a kind, or queue it when its slot is taken.

        Args:
            kind: a key of `workbench.runs.kinds.KINDS`.
            config: the kind's config, or its fields.
            name: shown name; made from the config when None, and from method and dataset where it has none.

        Raises:
            UsageError: the kind is unknown or the config does not hold.
            NotFound: it names a dataset, model, variant, run or reward model that is not there.
            WorkbenchError: what it names does not go together.
        """
        from workbench.runs.kinds import get_kind, parse_config
        from workbench.runs.launch import launch_run
        from workbench.training.configs import TrainingConfig

        config = parse_config(kind, config)
        if name is None and isinstance(config, TrainingConfig) and not config.name:
            learned, _ = dataset_store.find_version(self.store, config.dataset)
            name = f"{get_kind(kind).title}: {learned.name}"  # several runs without a name are told apart
        return ShownRun.of(launch_run(self.store, kind, config, name=name), self.store)

    def runs(self, **filters: Any) -> list[Run]:
        """Runs, newest first; what vanished is told as interrupted. Filters as in `workbench.store.runs.list_runs`."""
        from workbench.runs.liveness import reap

        reap(self.store)
        return [ShownRun.of(run, self.store) for run in run_store.list_runs(self.store, **filters)]

    def run(self, run_id: str) -> Run:
        """The run of this id, its state made truthful first."""
        from workbench.runs.liveness import reap

        reap(self.store)
        return ShownRun.of(run_store.get_run(self.store, run_id), self.store)

    def metrics(self, run_id: str, names: Sequence[str] | None = None, *, most: int | None = None) -> list[Metric]:
        """Metric points of a run; with `most`, about so many of each series."""
        return run_store.list_metrics(self.store, run_id, names, most=most)

    def samples(self, run_id: str) -> list[dict[str, Any]]:
        """Sample answers drawn while the model learned."""
        return run_store.list_samples(self.store, run_id)

    def log(self, run_id: str, *, tail_bytes: int = 65_536) -> str:
        """The end of a run's log."""
        path = self.settings.run_dir(run_store.get_run(self.store, run_id).id) / "worker.log"
        if not path.exists():
            return ""
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - tail_bytes))
            return stream.read().decode("utf-8", "replace")

    def stop(self, run_id: str) -> Run:
        """Ask a run to write its checkpoint and stop; a queued one is stopped at once."""
        from workbench.runs.launch import stop_run

        return ShownRun.of(stop_run(self.store, run_id), self.store)

    def resume(self, run_id: str) -> Run:
        """Continue a stopped, failed or interrupted run from its last checkpoint."""
        from workbench.runs.launch import resume_run

        return ShownRun.of(resume_run(self.store, run_id), self.store)

    def clone(self, run_id: str, *, name: str | None = None, **changes: Any) -> Run:
        """Launch a run with another run's config, some fields changed."""
        run = run_store.get_run(self.store, run_id)
        return self.launch(run.kind, {**run.spec, **changes}, name=name or f"{run.name} copy")

    def edit_run(
        self,
        run_id: str,
        *,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
        archived: bool | None = None,
    ) -> Run:
        """Change a run's name, tags, notes, or put it away."""
        from workbench.runs.launch import archive_run

        if name is not None:
            run_store.rename_run(self.store, run_id, name)
        if tags is not None:
            run_store.tag_run(self.store, run_id, tags)
        if notes is not None:
            run_store.update_run(self.store, run_id, notes=notes)
        if archived is not None:
            archive_run(self.store, run_id, archived)
        return ShownRun.of(run_store.get_run(self.store, run_id), self.store)

    def wait(self, run_id: str, *, timeout_s: float | None = None, poll_s: float = 0.3) -> Run:
        """Block until a run has ended.

        Raises:
            RunProblem: it is still at work after `timeout_s`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (run := self.run(run_id)).state.active:
            if deadline is not None and time.monotonic() > deadline:
                raise RunProblem("the run is still at work", place=run.name, value=run.state.value)
            time.sleep(poll_s)
        return run

    def iter_progress(self, run_id: str, *, poll_s: float = 0.3) -> Iterator[Run]:
        """Yield the run each time something about it changed, until it has ended; the last one has ended."""
        last: Run | None = None
        while True:
            run = self.run(run_id)
            if last is None or run.model_copy(update={"heartbeat_at": last.heartbeat_at}) != last:
                yield run
                last = run
            if not run.state.active:
                return
            time.sleep(poll_s)

    def watch(self, run_id: str) -> Run:
        """Wait for a run and show it in the notebook meanwhile, redrawn as it goes; elsewhere only wait.

        Interrupting the cell leaves the run at work.
        """
        from workbench.notebook.watching import CellOutput

        output = CellOutput()
        for run in self.iter_progress(run_id):
            output.show(run)
        return run

    def delete_run(self, run_id: str) -> None:
        """Delete a run whose results nothing refers to, with its folder, for good."""
        from workbench.store.deletion import delete_run

        delete_run(self.store, self.run(run_id).id)
