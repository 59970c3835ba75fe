"""Means with intervals, one value per prompt. Shares are those of `shares`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workbench.errors import UsageError
from workbench.records import Interval

_RESAMPLES = 1000
_CHUNK = 1_000_000


def bootstrap_mean(values: Sequence[float], confidence: float = 0.95, *, seed: int = 0) -> Interval:
    """A mean with its percentile bootstrap interval, one value per prompt (Efron & Tibshirani 1993, chapter 13).

    Args:
        values: one figure per prompt, at least one, none of them NaN.
        confidence: between 0 and 1, both excluded.
        seed: the same seed and values give the same interval.

    Raises:
        UsageError: there is no value, or one is not a finite number.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise UsageError("a mean needs at least one value, all of them finite", place="bootstrap_mean")
    tail = _tail(confidence)
    means = _resampled_means(array, seed)
    low, high = np.quantile(means, [tail, 1 - tail])
    mean = float(array.mean())
    return Interval(value=mean, low=min(float(low), mean), high=max(float(high), mean), n=int(array.size))


def _tail(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise UsageError("the confidence lies between 0 and 1", place="confidence", value=confidence)
    return (1 - confidence) / 2


def _resampled_means(array: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // array.size)
    parts = []
    for start in range(0, _RESAMPLES, step):
        count = min(step, _RESAMPLES - start)
        parts.append(array[generator.integers(0, array.size, size=(count, array.size))].mean(axis=1))
    return np.concatenate(parts)
