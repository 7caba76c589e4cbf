import math

import numpy as np
import pytest
from scipy.interpolate import make_smoothing_spline

from stabilizers import KalmanFilter, OneEuroFilter, kalman_rts, one_euro
from stabilizers.recursive import SLOWEST_SECONDS, estimate_time_constant
from tests.stabilizers.signals_to_filter import noise, uneven_seconds


def one_euro_by_the_paper(values, seconds, cutoff, beta, derivative):
    """Algorithm 1 of the paper, one number at a time."""

    def alpha(hertz, dt):
        return 1 / (1 + (1 / (2 * math.pi * hertz)) / dt)

    result, speed = [values[0]], 0.0
    for t in range(1, len(values)):
        dt = seconds[t] - seconds[t - 1]
        dx = (values[t] - result[-1]) / dt
        a = alpha(derivative, dt)
        speed = a * dx + (1 - a) * speed
        a = alpha(cutoff + beta * abs(speed), dt)
        result.append(a * values[t] + (1 - a) * result[-1])
    return np.array(result)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_one_euro_is_the_papers_algorithm(beta):
    values, seconds = noise(40, 2), uneven_seconds(40)
    filtered = one_euro(values, seconds, cutoff_hz=1.2, beta=beta, derivative_hz=0.8)
    for column in range(2):
        expected = one_euro_by_the_paper(values[:, column], seconds, 1.2, beta, 0.8)
        np.testing.assert_allclose(filtered[:, column], expected, rtol=0, atol=1e-12)


def test_one_euro_uses_no_later_sample():
    values, seconds = noise(30), uneven_seconds(30)
    changed = values.copy()
    changed[20:] += 5.0
    before = one_euro(values, seconds)[:20]
    np.testing.assert_array_equal(one_euro(changed, seconds)[:20], before)


def test_one_euro_lags_less_when_beta_grows():
    seconds = np.arange(50) / 25
    ramp = 3.0 * seconds
    lag = [abs(one_euro(ramp, seconds, beta=beta)[-1] - ramp[-1]) for beta in (0.0, 1.0)]
    assert lag[1] < 0.5 * lag[0]


@pytest.mark.parametrize("time_seconds", [0.05, 0.2, 0.8])
def test_the_smoother_is_scipys_smoothing_spline_at_uneven_times(time_seconds):
    values, seconds = noise(50) + 40.0, uneven_seconds(50)
    smoothed = kalman_rts(values, seconds, time_seconds=time_seconds)
    penalty = time_seconds**4 / np.median(np.diff(seconds))  # r / q
    expected = make_smoothing_spline(seconds, values, lam=penalty)(seconds)
    np.testing.assert_allclose(smoothed, expected, rtol=0, atol=1e-5)


def test_the_smoother_takes_each_number_by_itself_once_the_time_is_given():
    values, seconds = noise(30, 2, 3), uneven_seconds(30)
    smoothed = kalman_rts(values, seconds, time_seconds=0.2)
    alone = kalman_rts(values[:, 1, 2], seconds, time_seconds=0.2)
    np.testing.assert_allclose(smoothed[:, 1, 2], alone, rtol=0, atol=1e-9)


def test_the_time_constant_is_estimated_from_the_noise():
    seconds = np.arange(400) / 30
    truth = np.sin(2 * seconds)
    noisy = truth + 0.2 * noise(400)
    smoothed = kalman_rts(noisy, seconds)
    assert np.std(smoothed - truth) < 0.35 * np.std(noisy - truth)
    clean = kalman_rts(truth, seconds)
    np.testing.assert_allclose(clean, truth, rtol=0, atol=1e-3)


def test_a_still_signal_with_noise_gets_a_long_time_constant():
    seconds = np.arange(300) / 30
    assert estimate_time_constant(noise(300, 2), seconds) > SLOWEST_SECONDS / 4


def test_short_runs_are_copied():
    values = noise(2, 3)
    np.testing.assert_array_equal(kalman_rts(values, np.array([0.0, 0.1])), values)


@pytest.mark.parametrize("time_seconds", [0.0, -1.0, np.nan])
def test_a_time_constant_must_be_positive(time_seconds):
    with pytest.raises(ValueError, match=r"time_seconds is .* expected a number of seconds > 0"):
        KalmanFilter(time_seconds=time_seconds)


@pytest.mark.parametrize("field", ["cutoff_hz", "derivative_hz"])
def test_frequencies_must_be_positive(field):
    with pytest.raises(ValueError, match=f"{field} is 0.0, expected a frequency > 0"):
        OneEuroFilter(**{field: 0.0})


def test_beta_must_not_be_negative():
    with pytest.raises(ValueError, match=r"beta is -1.0, expected a number >= 0"):
        OneEuroFilter(beta=-1.0)
