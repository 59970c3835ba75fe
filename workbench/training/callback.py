"""What a trainer tells its run after each optimizer step, and what the run may ask of it.

`StepReporter` holds the bookkeeping and knows neither torch nor transformers; `trainer_callback` makes it listen to a
transformers trainer. The losses themselves, sampling and evaluation are the method's own file's business.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from workbench.job import Job
from workbench.training.batching import RunPlan, marks


class StepReporter:
    """Metrics, progress, the rhythm of evaluation, samples and checkpoints, and Stop.

    Args:
        job: the run.
        plan: its batches and steps.
        eval_every: as `batching.marks` reads it; None where nothing is held out.
        save_every: likewise.
        sample_every: likewise; None where there are no prompts.
        evaluate: measures the held-out loss at a step and reports it.
        sample: draws the sample answers at a step and reports them.
    """

    def __init__(
        self,
        job: Job,
        plan: RunPlan,
        *,
        eval_every: float | None,
        save_every: float,
        sample_every: float | None,
        evaluate: Callable[[int], None],
        sample: Callable[[int], None],
    ) -> None:
        self.job = job
        self.plan = plan
        self.evaluate = evaluate
        self.sample = sample
        self._eval_at = marks(eval_every, plan.steps) if eval_every is not None else set()
        self._sample_at = marks(sample_every, plan.steps) if sample_every is not None else set()
        self._save_at = marks(save_every, plan.steps)
        self._began = 0.0
        self._took = 0.0
        self.stopped = False
        self.seconds = 0.0
        """Seconds spent in steps by all attempts."""
        self.loss_sum = 0.0
        """Sum over steps of loss × supervised tokens."""
        self.loss_tokens = 0
        """Supervised tokens trained."""

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"seconds": self.seconds, "loss_sum": self.loss_sum, "loss_tokens": self.loss_tokens}

    def restore(self, state: dict[str, float]) -> None:
        """Take up what a checkpoint kept."""
        self.seconds = state["seconds"]
        self.loss_sum, self.loss_tokens = state["loss_sum"], int(state["loss_tokens"])

    def begin(self, step: int) -> None:
        """Training begins or goes on at a step; the curve starts with the untrained model."""
        if step == 0:
            if self._eval_at:
                self.evaluate(0)
            if self._sample_at:
                self.sample(0)
        self.job.progress(phase="training", done=step, total=self.plan.steps, unit="steps")

    def begin_step(self) -> None:
        """Start the clock of one step."""
        self._began = time.perf_counter()

    def end_step(self, step: int) -> tuple[bool, bool]:
        """Do what is due after a step.

        Returns:
            Whether to write a checkpoint and whether to stop.
        """
        self._took = time.perf_counter() - self._began
        self.seconds += self._took
        self.job.progress(done=step, total=self.plan.steps, unit="steps")
        if step in self._eval_at:
            self.evaluate(step)
        if step in self._sample_at:
            self.sample(step)
        if step in self._eval_at or step in self._sample_at:
            self.job.progress(phase="training", done=step, total=self.plan.steps, unit="steps")
        self.stopped = step < self.plan.steps and self.job.should_stop()
        return self.stopped or step in self._save_at, self.stopped

    def report(self, step: int, *, loss: float, learning_rate: float, grad_norm: float, supervised: int) -> None:
        """Record the points of one step."""
        tokens = self.plan.tokens_after[step - 1] - (self.plan.tokens_after[step - 2] if step > 1 else 0)
        self.loss_sum += loss * supervised
        self.loss_tokens += supervised
        self.job.metric(
            step,
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens_per_s=tokens / max(self._took, 1e-9),
            supervised_tokens=float(self.loss_tokens),
            epoch=self.plan.epoch_at(step),
            memory_mb=process_memory_mb(),
        )


def process_memory_mb() -> float:
    """Memory this process holds, in MB."""
    import psutil

    return float(psutil.Process(os.getpid()).memory_info().rss) / 1e6


def trainer_callback(reporter: StepReporter) -> Any:
    """The reporter as a transformers callback."""
    from transformers import TrainerCallback

    class Listener(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            reporter.begin(state.global_step)

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            reporter.begin_step()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            save, stop = reporter.end_step(state.global_step)
            control.should_save = control.should_save or save
            control.should_training_stop = control.should_training_stop or stop

    return Listener()
