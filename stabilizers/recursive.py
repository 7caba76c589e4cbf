"""Filters that carry a state from sample to sample: One-Euro, and Kalman with RTS smoothing."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabilizers.signals import Float64Array, check_seconds

SLOWEST_SECONDS = 4.0  # the longest time constant that is tried
_CANDIDATES = 24  # time constants tried, evenly spaced on a log scale
_DIFFUSE = 1e7  # variance of what is not known at the start, in units of the noise


@dataclass(frozen=True, slots=True, kw_only=True)
class OneEuroFilter:
    """Causal low-pass whose cut-off rises with speed: still things are calm, fast ones follow.

    Attributes:
        cutoff_hz: cut-off at rest; lower is calmer.
        beta: by how many Hz the cut-off rises per unit of speed (values per second); depends on the
            signal's unit.
        derivative_hz: cut-off of the speed's own low-pass.
    """

    cutoff_hz: float = 1.0
    beta: float = 0.0
    derivative_hz: float = 1.0

    def __post_init__(self) -> None:
        _check_one_euro(self.cutoff_hz, self.beta, self.derivative_hz)

    def apply(self, values: NDArray[Any], seconds: Float64Array) -> Float64Array:
        """Filter one unbroken run, values (T, ...) at seconds (T,), into (T, ...) float64."""
        return one_euro(
            values,
            seconds,
            cutoff_hz=self.cutoff_hz,
            beta=self.beta,
            derivative_hz=self.derivative_hz,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KalmanFilter:
    """Constant-velocity Kalman filter with Rauch-Tung-Striebel smoothing.

    Attributes:
        time_seconds: how quickly the velocity may change: roughly the time below which movement
            counts as noise. None estimates it from the data.
    """

    time_seconds: float | None = None

    def __post_init__(self) -> None:
        _check_time(self.time_seconds)

    def apply(self, values: NDArray[Any], seconds: Float64Array) -> Float64Array:
        """Filter one unbroken run, values (T, ...) at seconds (T,), into (T, ...) float64."""
        return kalman_rts(values, seconds, time_seconds=self.time_seconds)


def one_euro(
    values: NDArray[Any],
    seconds: Float64Array,
    *,
    cutoff_hz: float = 1.0,
    beta: float = 0.0,
    derivative_hz: float = 1.0,
) -> Float64Array:
    """Filter with the 1 Euro filter (Casiez, Roussel and Vogel, CHI 2012, algorithm 1).

    Causal: it uses no later sample, and lags. Use it for live signals; where the future is known
    the other filters do better.

    Args:
        values: (T, ...), one sample per frame; each number is filtered by itself.
        seconds: (T,) float64, strictly increasing presentation times.
        cutoff_hz: cut-off at rest.
        beta: Hz of cut-off per unit of speed.
        derivative_hz: cut-off of the speed's low-pass.

    Returns:
        (T, ...) float64, same shape as `values`; never outside the range of `values`.

    Raises:
        ValueError: `seconds` is not strictly increasing, its length is not T, or a parameter is
            out of range.

    Example:
        >>> one_euro(np.ones(4), np.arange(4) / 25).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    _check_one_euro(cutoff_hz, beta, derivative_hz)
    check_seconds(values, seconds)
    smoothed = np.array(values, dtype=np.float64)
    speed = np.zeros_like(smoothed[:1])
    for t in range(1, len(smoothed)):
        dt = float(seconds[t] - seconds[t - 1])
        step = (smoothed[t] - smoothed[t - 1]) / dt  # smoothed[t] still holds the sample
        speed = speed + _low_pass_weight(derivative_hz, dt) * (step - speed)
        weight = _low_pass_weight(cutoff_hz + beta * np.abs(speed), dt)
        smoothed[t] = smoothed[t - 1] + (weight * (smoothed[t] - smoothed[t - 1]))[0]
    return smoothed


def kalman_rts(
    values: NDArray[Any], seconds: Float64Array, *, time_seconds: float | None = None
) -> Float64Array:
    """Smooth with a constant-velocity model: Kalman forwards, Rauch-Tung-Striebel backwards.

    The velocity is a random walk of spectral density q, the samples carry white noise of variance
    r (Bar-Shalom et al. 2001, section 6.2.2; Rauch, Tung and Striebel, AIAA Journal 1965). Nothing
    is assumed of the start. The result is the cubic smoothing spline of penalty r / q (Wahba 1978),
    which is how it is tested. Only r / q matters; it is given as the time constant
    `(r dt / q) ** 0.25` (dt: the median step of time), or chosen by maximum likelihood, one for all
    numbers of `values` together while each has its own noise.

    Args:
        values: (T, ...), one sample per frame.
        seconds: (T,) float64, strictly increasing presentation times.
        time_seconds: the time constant; None estimates it, up to `SLOWEST_SECONDS`.

    Returns:
        (T, ...) float64, same shape as `values`. A constant and a ramp pass unchanged.

    Raises:
        ValueError: `seconds` is not strictly increasing, its length is not T, or `time_seconds` is
            not a positive number.

    Example:
        >>> ramp = np.arange(6.0)
        >>> bool(np.allclose(kalman_rts(ramp, np.arange(6) / 25, time_seconds=0.2), ramp))
        True
    """
    _check_time(time_seconds)
    check_seconds(values, seconds)
    signal = np.array(values, dtype=np.float64)
    if len(signal) < 3:
        return signal
    # About the straight line of least squares, which the model passes unchanged: what is left is
    # near 0, so that offset, slope and the finite start cost no precision.
    times = seconds - seconds.mean()
    columns = signal.reshape(len(signal), -1)
    slope = times @ columns / np.square(times).sum()
    line = columns.mean(axis=0) + times[:, None] * slope
    columns = columns - line
    if time_seconds is None:
        time_seconds = estimate_time_constant(columns, seconds)
    dt = float(np.median(np.diff(seconds)))
    smoothed = _smooth_backwards(columns, seconds, density=dt / time_seconds**4)
    return (smoothed + line).reshape(signal.shape)


def estimate_time_constant(columns: Float64Array, seconds: Float64Array) -> float:
    """Choose the time constant of `kalman_rts` by maximum likelihood.

    Args:
        columns: (T, K) signals with one time constant and a noise of their own each.
        seconds: (T,) float64, strictly increasing.

    Returns:
        Seconds, between a quarter of the median step (follow every sample) and `SLOWEST_SECONDS`.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(200, 1))
        >>> seconds = np.arange(200) / 25
        >>> slow = np.sin(seconds)[:, None]
        >>> calm = estimate_time_constant(slow + noise, seconds)
        >>> calm > 4 * estimate_time_constant(slow + 0.01 * noise, seconds)
        True
    """
    dt = float(np.median(np.diff(seconds)))
    times = np.geomspace(dt / 4, max(SLOWEST_SECONDS, dt), _CANDIDATES)
    scores = [_log_likelihood(columns, seconds, density=dt / time**4) for time in times]
    return float(times[int(np.argmax(scores))])


def _log_likelihood(columns: Float64Array, seconds: Float64Array, *, density: float) -> float:
    """Likelihood of the innovations, with each column's noise level concentrated out."""
    _, variances, innovations = _filter_forwards(columns, seconds, density=density)[:3]
    # Two samples determine place and velocity; what is new begins with the third.
    squares = np.square(innovations[2:]) / variances[2:, None]
    noise = np.maximum(squares.mean(axis=0), np.finfo(np.float64).tiny)
    count = len(columns) - 2
    return float(-0.5 * (count * np.log(noise) + np.log(variances[2:]).sum()).sum())


def _filter_forwards(
    columns: Float64Array, seconds: Float64Array, *, density: float
) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array, Float64Array]:
    """Run the Kalman filter with noise of variance 1.

    Returns the states (T, 2, K), the innovations' variances (T,), the innovations (T, K), and the
    covariances (T, 2, 2) before and after each sample.
    """
    count = len(columns)
    states = np.zeros((count, 2, columns.shape[1]))
    innovations = np.zeros(columns.shape)
    variances = np.ones(count)
    before, after = np.zeros((count, 2, 2)), np.zeros((count, 2, 2))
    step = float(np.median(np.diff(seconds)))
    state = np.zeros((2, columns.shape[1]))
    covariance = np.diag([_DIFFUSE, _DIFFUSE / step**2])
    for t in range(count):
        if t > 0:
            transition, process = _motion(float(seconds[t] - seconds[t - 1]), density)
            state = transition @ state
            covariance = transition @ covariance @ transition.T + process
        before[t] = covariance
        variances[t] = covariance[0, 0] + 1.0
        innovations[t] = columns[t] - state[0]
        gain = covariance[:, 0] / variances[t]
        state = state + gain[:, None] * innovations[t]
        # Joseph's form keeps the covariance positive when it starts out very large.
        keep = np.eye(2)
        keep[:, 0] -= gain
        covariance = keep @ covariance @ keep.T + np.outer(gain, gain)
        states[t], after[t] = state, covariance
    return states, variances, innovations, before, after


def _smooth_backwards(
    columns: Float64Array, seconds: Float64Array, *, density: float
) -> Float64Array:
    states, _, _, before, after = _filter_forwards(columns, seconds, density=density)
    smoothed = states[-1]
    result = np.empty_like(columns)
    result[-1] = smoothed[0]
    for t in range(len(columns) - 2, -1, -1):
        transition, _ = _motion(float(seconds[t + 1] - seconds[t]), density)
        predicted: Float64Array = before[t + 1]
        shared: Float64Array = transition @ after[t]
        gain = np.linalg.solve(predicted, shared).T
        smoothed = states[t] + gain @ (smoothed - transition @ states[t])
        result[t] = smoothed[0]
    return result


def _motion(dt: float, density: float) -> tuple[Float64Array, Float64Array]:
    """Transition and process noise of a velocity that is a random walk."""
    transition = np.array([[1.0, dt], [0.0, 1.0]])
    process = density * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
    return transition, process


def _low_pass_weight(cutoff_hz: Any, dt: float) -> Any:
    """Weight of a new sample in a first-order low-pass: 1 / (1 + tau / dt)."""
    return 1.0 / (1.0 + 1.0 / (2 * math.pi * cutoff_hz * dt))


def _check_one_euro(cutoff_hz: float, beta: float, derivative_hz: float) -> None:
    for name, value in (("cutoff_hz", cutoff_hz), ("derivative_hz", derivative_hz)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}, expected a frequency > 0 in Hz")
    if not (math.isfinite(beta) and beta >= 0):
        raise ValueError(f"beta is {beta}, expected a number >= 0 (0 = a plain low-pass)")


def _check_time(time_seconds: float | None) -> None:
    if time_seconds is not None and not (math.isfinite(time_seconds) and time_seconds > 0):
        raise ValueError(
            f"time_seconds is {time_seconds}, expected a number of seconds > 0, or None to "
            "estimate it"
        )
