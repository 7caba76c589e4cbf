"""Filters along time: pure functions of samples and the seconds they were taken at.

Parameters are in seconds, never in frames, so 24, 29.97 and 60 frames a second agree. Nothing is
smoothed across the boundary of an interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # pyright: ignore[reportMissingTypeStubs]

from stabilizers.intervals import Interval

Float64Array = NDArray[np.float64]

TRUNCATE_SIGMAS = 4.0  # where the kernel is cut off, as in scipy.ndimage.gaussian_filter1d
_MAX_WEIGHTS = 1 << 21  # kernel weights held at once: 32 MB


@runtime_checkable
class TemporalFilter(Protocol):
    """A filter along time; its parameters are in seconds or Hz.

    Values with more than one axis are vectors along the last: filters that compare samples compare
    vectors, the others take each number by itself.
    """

    def apply(self, values: NDArray[Any], seconds: Float64Array) -> Float64Array:
        """Filter one unbroken run, values (T, ...) at seconds (T,), into (T, ...) float64."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianFilter:
    """Non-causal Gaussian smoothing in time.

    Attributes:
        sigma_seconds: standard deviation of the kernel; 0 turns smoothing off.
    """

    sigma_seconds: float = 0.08

    def __post_init__(self) -> None:
        check_sigma(self.sigma_seconds)

    def apply(self, values: NDArray[Any], seconds: Float64Array) -> Float64Array:
        """Filter one unbroken run, values (T, ...) at seconds (T,), into (T, ...) float64."""
        return gaussian(values, seconds, sigma_seconds=self.sigma_seconds)


def gaussian(values: NDArray[Any], seconds: Float64Array, *, sigma_seconds: float) -> Float64Array:
    """Smooth a signal in time with a Gaussian, normalised at the ends.

    Unevenly spaced samples count by their distance in time and by the time they stand for (half
    way to either neighbour, at most the kernel's own width), so that a dropped frame neither
    shifts nor sharpens the result.

    Args:
        values: (T, ...), one sample per frame.
        seconds: (T,) float64, strictly increasing presentation times.
        sigma_seconds: standard deviation of the kernel; 0 returns a copy.

    Returns:
        (T, ...) float64, same shape as `values`; never outside the range of `values`.

    Raises:
        ValueError: `seconds` is not strictly increasing, its length is not T, or `sigma_seconds`
            is negative or not finite.

    Example:
        >>> gaussian(np.ones((3, 2)), np.array([0.0, 0.04, 0.08]), sigma_seconds=0.1).tolist()
        [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    check_sigma(sigma_seconds)
    check_seconds(values, seconds)
    signal = np.array(values, dtype=np.float64)
    if sigma_seconds == 0 or len(signal) < 2:
        return signal
    columns = signal.reshape(len(signal), -1)  # (T, K)
    smoothed = np.empty_like(columns)
    duration = durations(seconds, longest=sigma_seconds * math.sqrt(2 * math.pi))
    reach = TRUNCATE_SIGMAS * sigma_seconds * (1 + 1e-9)
    first = np.searchsorted(seconds, seconds - reach, side="left")
    last = np.searchsorted(seconds, seconds + reach, side="right")
    rows_at_once = max(1, _MAX_WEIGHTS // int((last - first).max()))
    for start in range(0, len(signal), rows_at_once):
        rows = slice(start, min(start + rows_at_once, len(signal)))
        counts = last[rows] - first[rows]
        offsets: NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)])
        taps: NDArray[np.int64] = np.arange(int(offsets[-1]), dtype=np.int64) - np.repeat(
            offsets[:-1] - first[rows], counts
        )
        distance = (seconds[taps] - np.repeat(seconds[rows], counts)) / sigma_seconds
        weights: Float64Array = np.exp(-0.5 * distance**2) * duration[taps]
        weights /= np.repeat(np.add.reduceat(weights, offsets[:-1]), counts)
        kernel = sparse.csr_array((weights, taps, offsets), shape=(len(counts), len(signal)))
        smoothed[rows] = kernel @ columns
    # Sums of weights that add up to 1 only to the last bit must not leave the signal's range.
    np.clip(smoothed, columns.min(axis=0), columns.max(axis=0), out=smoothed)
    return smoothed.reshape(signal.shape)


def smooth(
    values: NDArray[Any],
    seconds: Float64Array,
    filter_: TemporalFilter | None,
    *,
    intervals: Sequence[Interval],
) -> Float64Array:
    """Filter each interval of a signal by itself; samples in no interval stay as they are.

    Args:
        values: (T, ...), one sample per frame.
        seconds: (T,) float64, strictly increasing presentation times.
        filter_: None returns a copy.
        intervals: disjoint positions along the T axis, in order.

    Returns:
        (T, ...) float64, same shape as `values`.

    Raises:
        ValueError: `seconds` is not strictly increasing or not of length T; `intervals` overlap,
            are not in order, or reach beyond T.

    Example:
        >>> step, seconds = np.array([0.0, 0.0, 1.0, 1.0]), np.arange(4) / 25
        >>> shots = [Interval(0, 2), Interval(2, 4)]
        >>> smooth(step, seconds, GaussianFilter(), intervals=shots).tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    check_seconds(values, seconds)
    check_intervals(intervals, len(values))
    smoothed = np.array(values, dtype=np.float64)
    if filter_ is None:
        return smoothed
    for interval in intervals:
        run = slice(interval.start, interval.stop)
        smoothed[run] = filter_.apply(smoothed[run], seconds[run])
    return smoothed


def check_intervals(intervals: Sequence[Interval], count: int) -> None:
    """Raise ValueError unless the intervals are in order, disjoint, and end by `count`."""
    reached = 0
    for interval in intervals:
        if interval.start < reached or interval.stop > count:
            raise ValueError(
                f"interval [{interval.start}, {interval.stop}) overlaps its predecessor or reaches "
                f"beyond the {count} samples, expected disjoint intervals in order"
            )
        reached = interval.stop


def check_sigma(sigma_seconds: float) -> None:
    """Raise ValueError unless a width in seconds is finite and not negative."""
    if not (math.isfinite(sigma_seconds) and sigma_seconds >= 0):
        raise ValueError(
            f"sigma_seconds is {sigma_seconds}, expected a value >= 0 (0 turns smoothing off)"
        )


def check_seconds(values: NDArray[Any], seconds: Float64Array) -> None:
    """Raise ValueError unless there is one time per sample, and times increase."""
    if values.ndim == 0 or seconds.shape != (len(values),):
        raise ValueError(
            f"seconds have shape {seconds.shape} and values {values.shape}, "
            "expected one time for each sample: (T,) and (T, ...)"
        )
    if not np.all(np.diff(seconds) > 0):
        raise ValueError("seconds are not strictly increasing, expected one later time per sample")


def durations(seconds: Float64Array, *, longest: float) -> Float64Array:
    """Return the time each sample stands for: half way to both neighbours, mirrored at the ends."""
    steps = np.diff(seconds)
    before = np.concatenate([steps[:1], steps])
    after = np.concatenate([steps, steps[-1:]])
    return (np.minimum(before, longest) + np.minimum(after, longest)) / 2
