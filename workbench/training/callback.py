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
        weight_name: name of the series that counts what was learned from.
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
        weight_name: str = "supervised_tokens",
    ) -> None:
        self.job = job
        self.plan = plan
        self.evaluate = evaluate
        self.sample = sample
        self.weight_name = weight_name
        self._eval_at = marks(eval_every, plan.steps) if eval_every is not None else set()
        self._sample_at = marks(sample_every, plan.steps) if sample_every is not None else set()
        self._save_at = marks(save_every, plan.steps)
        self._began = 0.0
        self._took = 0.0
        self.stopped = False
        self.seconds = 0.0
        """Seconds spent in steps by all attempts."""
        self.loss_sum = 0.0
        """Sum over steps of loss × weight."""
        self.weight = 0.0
        """What was learned from in all steps: supervised tokens, or the weights of pairs."""

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"seconds": self.seconds, "loss_sum": self.loss_sum, "weight": self.weight}

    def restore(self, state: dict[str, float]) -> None:
        """Take up what a checkpoint kept."""
        self.seconds = state["seconds"]
        self.loss_sum, self.weight = state["loss_sum"], state["weight"]

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

    @property
    def mean_loss(self) -> float:
        """Loss over all that was learned from."""
        return self.loss_sum / max(1e-12, self.weight)

    def report(
        self, step: int, *, loss: float, learning_rate: float, grad_norm: float, weight: float,
        tokens: int | None = None, **more: float,
    ) -> None:  # fmt: skip
        """Record the points of one step.

        Args:
            step: optimizer steps done.
            loss: mean over the step.
            learning_rate: of the step.
            grad_norm: before clipping.
            weight: what the step learned from: supervised tokens, or the weights of pairs.
            tokens: read in the step; those of the plan where None.
            more: further series.
        """
        if tokens is None:
            tokens = self.plan.tokens_after[step - 1] - (self.plan.tokens_after[step - 2] if step > 1 else 0)
        self.loss_sum += loss * weight
        self.weight += weight
        self.job.metric(
            step,
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens_per_s=tokens / max(self._took, 1e-9),
            epoch=self.plan.epoch_at(step),
            memory_mb=process_memory_mb(),
            **{self.weight_name: self.weight},
            **more,
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
