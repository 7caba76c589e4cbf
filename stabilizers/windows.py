"""Filters that look at a window of time: Savitzky-Golay, median and bilateral.

Windows are in seconds, so the number of samples in one follows the frame rate, and unevenly timed
samples count by when they were taken.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # pyright: ignore[reportMissingTypeStubs]

from stabilizers.signals import (
    TRUNCATE_SIGMAS,
    Float64Array,
    check_seconds,
    check_sigma,
    durations,
)

_ROUNDING = 1e-9  # of the window: samples that lie on its edge belong to it


@dataclass(frozen=True, slots=True, kw_only=True)
class SavitzkyGolayFilter:
    """Local polynomials: keeps peaks and slopes that a Gaussian of the same strength rounds off.

    Attributes:
        window_seconds: length of the window, from the first sample in it to the last.
        order: degree of the polynomial; what is such a polynomial passes unchanged.
    """

    window_seconds: float = 0.24
    order: int = 2

    def __post_init__(self) -> None:
        _check_window(self.window_seconds)
        _check_order(self.order)

    def apply(self, values: NDArray[Any], seconds: Float64Array) -> Float64Array:
        """Filter one unbroken run, values (T, ...) at seconds (T,), into (T, ...) float64."""
        return savitzky_golay(values, seconds, window_seconds=self.window_seconds, order=self.order)


@dataclass(frozen=True, slots=True, kw_only=True)
class MedianFilter:
    """Median of a window: single wild samples vanish, steps stay where they are.

    Attributes:
        window_seconds: length of the window, from the first sample in it to the last.
    """

    window_seconds: float = 0.16

    def __post_init__(self) -> None:
        _check_window(self.window_seconds)

    def apply(self, values: NDArray[Any], seconds: Float64Array) -> Float64Array:
        """Filter one unbroken run, values (T, ...) at seconds (T,), into (T, ...) float64."""
        return median(values, seconds, window_seconds=self.window_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class BilateralFilter:
    """A Gaussian that stops at steps: samples that differ by more than the noise do not count.

    Attributes:
        sigma_seconds: standard deviation of the kernel in time; 0 turns smoothing off.
        steps: how large a difference must be to count as a step, in standard deviations of the
            difference that noise alone makes; the noise is estimated from the data.
    """

    sigma_seconds: float = 0.12
    steps: float = 1.5

    def __post_init__(self) -> None:
        _check_bilateral(self.sigma_seconds, self.steps)

    def apply(self, values: NDArray[Any], seconds: Float64Array) -> Float64Array:
        """Filter one unbroken run, values (T, ...) at seconds (T,), into (T, ...) float64."""
        return bilateral(values, seconds, sigma_seconds=self.sigma_seconds, steps=self.steps)


def savitzky_golay(
    values: NDArray[Any], seconds: Float64Array, *, window_seconds: float, order: int = 2
) -> Float64Array:
    """Fit a polynomial to the samples around each one, and take its value there.

    Savitzky and Golay, Analytical Chemistry 36 (1964), by least squares at the samples' own times.
    Near an end the window is moved inwards, as `scipy.signal.savgol_filter(mode="interp")` does;
    for even times both agree. Where a window holds too few samples the degree is lowered.

    Args:
        values: (T, ...), one sample per frame.
        seconds: (T,) float64, strictly increasing presentation times.
        window_seconds: length of the window; less than two steps of time returns a copy.
        order: degree of the polynomial, 0 or more.

    Returns:
        (T, ...) float64, same shape as `values`; peaks may overshoot slightly.

    Raises:
        ValueError: `seconds` is not strictly increasing, its length is not T, the window is
            negative or not finite, or the order is negative.

    Example:
        >>> seconds = np.arange(9) / 25
        >>> parabola = seconds**2
        >>> bool(np.allclose(savitzky_golay(parabola, seconds, window_seconds=0.2), parabola))
        True
    """
    _check_window(window_seconds)
    _check_order(order)
    check_seconds(values, seconds)
    signal = np.array(values, dtype=np.float64)
    if len(signal) < 3:
        return signal
    half = window_seconds / 2
    slack = window_seconds * _ROUNDING
    centre = np.clip(seconds, seconds[0] + half, max(seconds[-1] - half, seconds[0] + half))
    first = np.searchsorted(seconds, centre - half - slack, side="left")
    last = np.searchsorted(seconds, centre + half + slack, side="right")
    counts = last - first
    weights: list[Float64Array] = []
    for row in range(len(signal)):
        taps = slice(int(first[row]), int(last[row]))
        degree = min(order, taps.stop - taps.start - 1)
        apart = (seconds[taps] - seconds[row]) / max(half, float(np.finfo(np.float64).tiny))
        basis = np.vander(apart, degree + 1, increasing=True)  # (taps, degree + 1)
        weights.append(np.linalg.pinv(basis)[0])
    offsets: NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)])
    places: NDArray[np.int64] = np.arange(int(offsets[-1]), dtype=np.int64) - np.repeat(
        offsets[:-1] - first, counts
    )
    kernel = sparse.csr_array(
        (np.concatenate(weights), places, offsets), shape=(len(signal), len(signal))
    )
    smoothed = np.empty(signal.shape)
    smoothed.reshape(len(signal), -1)[:] = kernel @ signal.reshape(len(signal), -1)
    return smoothed


def median(values: NDArray[Any], seconds: Float64Array, *, window_seconds: float) -> Float64Array:
    """Replace each sample by the median of those within half a window of it.

    At the ends the window is cut off. Each number is taken by itself.

    Args:
        values: (T, ...), one sample per frame.
        seconds: (T,) float64, strictly increasing presentation times.
        window_seconds: length of the window; less than two steps of time returns a copy.

    Returns:
        (T, ...) float64, same shape as `values`; never outside the range of `values`.

    Raises:
        ValueError: `seconds` is not strictly increasing, its length is not T, or the window is
            negative or not finite.

    Example:
        >>> spike = np.array([1.0, 1.0, 9.0, 1.0, 1.0])
        >>> median(spike, np.arange(5) / 25, window_seconds=0.08).tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    _check_window(window_seconds)
    check_seconds(values, seconds)
    signal = np.array(values, dtype=np.float64)
    half = window_seconds / 2 * (1 + _ROUNDING)
    first = np.searchsorted(seconds, seconds - half, side="left")
    last = np.searchsorted(seconds, seconds + half, side="right")
    smoothed = signal.copy()
    for row, (start, stop) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        if stop - start > 1:
            smoothed[row] = np.median(signal[start:stop], axis=0)
    return smoothed


def bilateral(
    values: NDArray[Any], seconds: Float64Array, *, sigma_seconds: float, steps: float
) -> Float64Array:
    """Average over time, but only samples that resemble the one at hand.

    Tomasi and Manduchi, ICCV 1998, along time: weights are a Gaussian of the distance in time and
    one of the distance between the samples. The last axis is one vector, as a colour is there: a
    style vector or a point takes its step as a whole. Distances are measured in units of what noise
    alone makes of the difference of two samples (`estimate_noise`), so nothing needs tuning to the
    size of the signal; a signal without noise is returned as it is.

    Args:
        values: (T,), or (T, ..., D) whose last axis is a vector.
        seconds: (T,) float64, strictly increasing presentation times.
        sigma_seconds: standard deviation of the kernel in time; 0 returns a copy.
        steps: standard deviation of the kernel over differences, in units of noise.

    Returns:
        (T, ...) float64, same shape as `values`; never outside the range of `values`.

    Raises:
        ValueError: `seconds` is not strictly increasing, its length is not T, or a parameter is
            negative or not finite.

    Example:
        >>> step = np.array([0.0, 0.1, 0.0, 0.1, 9.0, 9.1, 9.0, 9.1])
        >>> smoothed = bilateral(step, np.arange(8) / 25, sigma_seconds=0.08, steps=2.0)
        >>> bool(smoothed[:4].max() < 0.1 and smoothed[4:].min() > 9.0)
        True
    """
    _check_bilateral(sigma_seconds, steps)
    check_seconds(values, seconds)
    signal = np.array(values, dtype=np.float64)
    if sigma_seconds == 0 or len(signal) < 3:
        return signal
    width = int(signal.shape[-1]) if signal.ndim > 1 else 1
    vectors = signal.reshape(len(signal), -1, width)
    scale = 2.0 * np.square(steps * estimate_noise(vectors, seconds))  # (K,) mean square difference
    scale = np.maximum(scale, np.finfo(np.float64).tiny)
    duration = durations(seconds, longest=sigma_seconds * math.sqrt(2 * math.pi))
    reach = TRUNCATE_SIGMAS * sigma_seconds * (1 + _ROUNDING)
    total = vectors * duration[:, None, None]
    weight = np.repeat(duration[:, None], vectors.shape[1], axis=1)  # (T, K)
    for lag in range(1, len(signal)):
        apart = seconds[lag:] - seconds[:-lag]
        near = apart <= reach
        if not near.any():
            break
        difference = np.square(vectors[lag:] - vectors[:-lag]).mean(axis=2)  # (T - lag, K)
        in_time = np.where(near, np.exp(-0.5 * np.square(apart / sigma_seconds)), 0.0)
        alike = in_time[:, None] * np.exp(-0.5 * difference / scale)
        for here, there in (
            (slice(None, -lag), slice(lag, None)),
            (slice(lag, None), slice(None, -lag)),
        ):
            share = alike * duration[there, None]
            total[here] += share[..., None] * vectors[there]
            weight[here] += share
    limited: Float64Array = total / weight[..., None]
    # Sums of weights that add up to 1 only to the last bit must not leave the signal's range.
    np.clip(limited, vectors.min(axis=0), vectors.max(axis=0), out=limited)
    return limited.reshape(signal.shape)


def estimate_noise(vectors: Float64Array, seconds: Float64Array) -> Float64Array:
    """Estimate the standard deviation of white noise on signals that move smoothly.

    Each sample is compared with the straight line between its neighbours; for noise of standard
    deviation s the difference has variance s² (1 + a² + b²), with a and b the line's weights. The
    median over time ignores steps, blinks and syllables that are rarer than every second frame.

    Args:
        vectors: (T, K, D) K signals, whose D numbers share one level of noise.
        seconds: (T,) float64, strictly increasing.

    Returns:
        (K,) float64, in units of the values; 0 with fewer than three samples.

    Example:
        >>> ramp = np.arange(20.0).reshape(20, 1, 1)
        >>> estimate_noise(ramp, np.arange(20) / 25).round(6).tolist()
        [0.0]
    """
    if len(vectors) < 3:
        return np.zeros(int(vectors.shape[1]))
    steps = np.diff(seconds)
    after = (steps[:-1] / (steps[:-1] + steps[1:]))[:, None, None]  # weight of the later neighbour
    line = (1 - after) * vectors[:-2] + after * vectors[2:]
    spread = 1 + np.square(after) + np.square(1 - after)
    squares = (np.square(vectors[1:-1] - line) / spread).mean(axis=2)  # (T - 2, K)
    size = vectors.shape[2]
    # The median of a chi-squared variable over its mean (Wilson and Hilferty, PNAS 1931).
    middle = np.asarray(np.median(squares, axis=0), dtype=np.float64)
    return np.sqrt(middle / (1 - 2 / (9 * size)) ** 3)


def _check_window(window_seconds: float) -> None:
    if not (math.isfinite(window_seconds) and window_seconds >= 0):
        raise ValueError(
            f"window_seconds is {window_seconds}, expected a number of seconds >= 0 "
            "(0 turns smoothing off)"
        )


def _check_order(order: int) -> None:
    if order < 0:
        raise ValueError(f"order is {order}, expected the degree of a polynomial, 0 or more")


def _check_bilateral(sigma_seconds: float, steps: float) -> None:
    check_sigma(sigma_seconds)
    if not (math.isfinite(steps) and steps > 0):
        raise ValueError(f"steps is {steps}, expected a number > 0, as 1.5")
