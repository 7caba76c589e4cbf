"""Total variation along time: against a solver of its own, and what it does to steps and bumps."""

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from stabilizers import TotalVariationFilter, total_variation
from stabilizers.signals import durations
from stabilizers.windows import estimate_noise
from tests.stabilizers.signals_to_filter import noise, uneven_seconds


def solved(values, seconds, *, time_seconds):
    """The minimum by its dual, a least-squares problem in a box that scipy solves."""
    weights = durations(seconds, longest=1.5 * float(np.median(np.diff(seconds))))
    radius = time_seconds * estimate_noise(values[:, None, None], seconds)[0]
    difference = np.diff(np.eye(len(values)), axis=0)
    root = np.sqrt(weights)
    dual = lsq_linear(
        difference.T / root[:, None], root * values, bounds=(-radius, radius), method="bvls"
    )
    return values - (difference.T @ dual.x) / weights


@pytest.mark.parametrize("time_seconds", [0.02, 0.1, 0.5, 20.0])
@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_minimum_that_scipy_finds(time_seconds, seed):
    count = 3 + 4 * seed
    seconds = uneven_seconds(count, seed=seed)
    values = noise(count, seed=seed) + 4.0 * (np.arange(count) > count // 2)
    smoothed = total_variation(values, seconds, time_seconds=time_seconds)
    expected = solved(values, seconds, time_seconds=time_seconds)
    np.testing.assert_allclose(smoothed, expected, rtol=0, atol=1e-9)


def test_without_end_it_is_the_mean_over_time():
    values, seconds = noise(30), uneven_seconds(30)
    weights = durations(seconds, longest=1.5 * float(np.median(np.diff(seconds))))
    smoothed = total_variation(values, seconds, time_seconds=1e4)
    np.testing.assert_allclose(smoothed, np.average(values, weights=weights), rtol=0, atol=1e-9)


def test_a_step_between_noisy_levels_stays_where_it_is_and_nearly_as_high():
    seconds = uneven_seconds(80)
    step = np.where(np.arange(80) < 37, 0.0, 10.0)
    smoothed = total_variation(step + 0.2 * noise(80), seconds, time_seconds=0.2)
    assert int(np.argmax(np.diff(smoothed))) == 36
    assert np.diff(smoothed).max() > 9.0
    assert np.abs(np.delete(np.diff(smoothed), 36)).max() < 0.3


def test_a_bump_of_twice_the_noise_vanishes_if_it_is_short():
    seconds = np.arange(200) / 50
    flat = 0.1 * noise(200)
    height = 2 * estimate_noise(flat[:, None, None], seconds)[0]
    for frames, kept in ((4, False), (60, True)):  # 0.08 s and 1.2 s
        bump = np.zeros(200)
        bump[90 : 90 + frames] = height
        found = TotalVariationFilter(time_seconds=0.2).apply(flat + bump, seconds)
        rise = found[90 : 90 + frames].mean() - np.delete(found, np.s_[80:160]).mean()
        assert (rise > 0.5 * height) == kept


def test_a_signal_without_noise_is_returned_as_it_is():
    step = np.repeat([1.0, 5.0, 2.0], 10)
    np.testing.assert_array_equal(total_variation(step, uneven_seconds(30), time_seconds=1), step)


def test_a_long_pause_does_not_hold_the_sample_before_it():
    seconds = np.array([0.0, 0.04, 0.08, 5.0, 5.04, 5.08])
    values = np.array([0.0, 0.3, -0.3, 0.2, 0.4, 0.1])
    smoothed = total_variation(values, seconds, time_seconds=100.0)
    assert smoothed[0] == pytest.approx(np.average(values, weights=[4, 4, 5, 5, 4, 4]), abs=0.01)


@pytest.mark.parametrize("time_seconds", [-0.1, np.inf, np.nan])
def test_a_time_must_be_a_number_of_seconds(time_seconds):
    with pytest.raises(ValueError, match="expected a number of seconds >= 0"):
        TotalVariationFilter(time_seconds=time_seconds)


def test_no_time_changes_nothing():
    values = noise(12, 2)
    np.testing.assert_array_equal(
        total_variation(values, uneven_seconds(12), time_seconds=0), values
    )
