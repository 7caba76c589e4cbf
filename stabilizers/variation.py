"""Total-variation smoothing: levels with steps between them, for signals that hold and jump."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabilizers.signals import Float64Array, check_seconds, durations
from stabilizers.windows import estimate_noise

_LONGEST_STEP = 1.5  # median steps of time that a sample stands for at most
_Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalVariationFilter:
    """Levels with steps between them: noise on a level is averaged, a step stays sharp.

    Attributes:
        time_seconds: a bump twice as high as the noise vanishes if it is shorter than this, one
            four times as high if it is half as long; 0 turns smoothing off.
    """

    time_seconds: float = 0.2

    def __post_init__(self) -> None:
        _check_time(self.time_seconds)

    def apply(self, values: NDArray[Any], seconds: Float64Array) -> Float64Array:
        """Filter one unbroken run, values (T, ...) at seconds (T,), into (T, ...) float64."""
        return total_variation(values, seconds, time_seconds=self.time_seconds)


def total_variation(
    values: NDArray[Any], seconds: Float64Array, *, time_seconds: float
) -> Float64Array:
    """Find the signal of least total variation near the samples, exactly.

    The minimum of 1/2 sum_t d_t (x_t - y_t)² + s n sum_t |x_{t+1} - x_t| (Rudin, Osher and Fatemi,
    Physica D 1992, along time), with d_t the time that a sample stands for, as in `gaussian`, s
    the time given and n the noise (`estimate_noise`), so nothing needs tuning to the size of the
    signal; a signal without noise is returned as it is. It is found as the taut string through a
    tube around the running sum (Davies and Kovac, Annals of Statistics 2001, section 2), whose
    slope it is. Each number is filtered by itself; those of the last axis share one level of noise.

    Args:
        values: (T,), or (T, ..., D) whose last axis is a vector.
        seconds: (T,) float64, strictly increasing presentation times.
        time_seconds: how long a bump of twice the noise's height may be and still vanish; 0 returns
            a copy.

    Returns:
        (T, ...) float64, same shape as `values`; never outside the range of `values`. Between two
        steps it is constant, and a short peak that is kept loses height.

    Raises:
        ValueError: `seconds` is not strictly increasing, its length is not T, or `time_seconds` is
            negative or not finite.

    Example:
        >>> step = np.array([0.0, 0.1, 0.0, 0.1, 9.0, 9.1, 9.0, 9.1])
        >>> smoothed = total_variation(step, np.arange(8) / 25, time_seconds=0.2)
        >>> bool(np.ptp(smoothed[:4]) < 1e-9 and np.ptp(smoothed[4:]) < 1e-9)
        True
        >>> round(float(smoothed[4] - smoothed[3]))
        9
    """
    _check_time(time_seconds)
    check_seconds(values, seconds)
    signal = np.array(values, dtype=np.float64)
    if time_seconds == 0 or len(signal) < 3:
        return signal
    width = int(signal.shape[-1]) if signal.ndim > 1 else 1
    vectors = signal.reshape(len(signal), -1, width)
    # A long pause between samples is not known to hold the level of either.
    longest = _LONGEST_STEP * float(np.median(np.diff(seconds)))
    weights = durations(seconds, longest=longest)
    radius = time_seconds * estimate_noise(vectors, seconds)  # (K,)
    columns = vectors.reshape(len(signal), -1)
    smoothed = np.stack(
        [
            _taut_string(column, weights, float(radius[place // width]))
            for place, column in enumerate(columns.T)
        ],
        axis=1,
    )
    # Slopes between sums must not leave the signal's range by their last bits.
    np.clip(smoothed, columns.min(axis=0), columns.max(axis=0), out=smoothed)
    return smoothed.reshape(signal.shape)


def _taut_string(samples: Float64Array, weights: Float64Array, radius: float) -> Float64Array:
    """Return the slopes (T,) of the shortest path through a tube around the running sum.

    The path begins and ends in the sum itself. Seen from `apex`, up to which it is known, two
    chains reach the gate at hand: `above` along the tube's upper wall, turning left at every
    point, and `below` along the lower one, turning right. Where they would cross, the path bends.
    """
    if radius == 0:
        return samples.copy()
    middle = float(weights @ samples / weights.sum())  # about 0 sums keep their precision
    across = np.concatenate([[0.0], np.cumsum(weights)]).tolist()
    height = np.concatenate([[0.0], np.cumsum(weights * (samples - middle))]).tolist()
    last = len(samples)
    apex: _Point = (0.0, 0.0)
    path = [apex]
    above: deque[_Point] = deque()
    below: deque[_Point] = deque()
    for place in range(1, last + 1):
        wall = radius if place < last else 0.0
        for side, own, other in ((1.0, above, below), (-1.0, below, above)):
            point = (across[place], height[place] + side * wall)
            while own and side * _slope(own[-2] if len(own) > 1 else apex, own[-1]) >= side * (
                _slope(own[-1], point)
            ):
                own.pop()
            while not own and other and side * _slope(apex, point) <= side * _slope(apex, other[0]):
                apex = other.popleft()
                path.append(apex)
            own.append(point)
    path.extend(point for point in above if point[0] > path[-1][0])
    slopes = np.empty(last)
    places = np.searchsorted(across, [point[0] for point in path])
    for k in range(len(path) - 1):
        slopes[places[k] : places[k + 1]] = _slope(path[k], path[k + 1])
    return slopes + middle


def _slope(a: _Point, b: _Point) -> float:
    return math.inf if b[0] == a[0] else (b[1] - a[1]) / (b[0] - a[0])


def _check_time(time_seconds: float) -> None:
    if not (math.isfinite(time_seconds) and time_seconds >= 0):
        raise ValueError(
            f"time_seconds is {time_seconds}, expected a number of seconds >= 0 "
            "(0 turns smoothing off)"
        )
