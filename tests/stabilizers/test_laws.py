"""What every filter along time keeps."""

import numpy as np
import pytest

from stabilizers import (
    BilateralFilter,
    GaussianFilter,
    Interval,
    KalmanFilter,
    MedianFilter,
    OneEuroFilter,
    SavitzkyGolayFilter,
    TemporalFilter,
    TotalVariationFilter,
    smooth,
)
from tests.stabilizers.signals_to_filter import noise, uneven_seconds

CAUSAL = [OneEuroFilter(), OneEuroFilter(beta=0.5)]
SYMMETRIC = [
    GaussianFilter(),
    SavitzkyGolayFilter(),
    MedianFilter(),
    BilateralFilter(),
    KalmanFilter(time_seconds=0.15),
    KalmanFilter(),
    TotalVariationFilter(),
]
LINEAR = [
    GaussianFilter(),
    SavitzkyGolayFilter(),
    KalmanFilter(time_seconds=0.15),
    OneEuroFilter(),
]
BOUNDED = [
    GaussianFilter(),
    MedianFilter(),
    BilateralFilter(),
    TotalVariationFilter(),
    OneEuroFilter(beta=0.5),
]
ALL = [*SYMMETRIC, *CAUSAL]


def name(filter_) -> str:
    return repr(filter_)


@pytest.mark.parametrize("filter_", ALL, ids=name)
def test_it_is_a_temporal_filter_and_leaves_its_input_alone(filter_):
    values, seconds = noise(30, 2), uneven_seconds(30)
    kept = values.copy()
    smoothed = filter_.apply(values, seconds)
    assert isinstance(filter_, TemporalFilter)
    assert smoothed.dtype == np.float64
    assert smoothed.shape == values.shape
    np.testing.assert_array_equal(values, kept)
    assert not np.shares_memory(smoothed, values)


@pytest.mark.parametrize("filter_", ALL, ids=name)
@pytest.mark.parametrize("shape", [(30,), (30, 3), (30, 2, 2)])
def test_a_constant_stays(filter_, shape):
    constant = np.full(shape, 3.7)
    smoothed = filter_.apply(constant, uneven_seconds(30))
    np.testing.assert_allclose(smoothed, constant, rtol=0, atol=1e-9)


@pytest.mark.parametrize("filter_", SYMMETRIC, ids=name)
def test_a_ramp_stays_a_ramp_away_from_the_ends(filter_):
    seconds = np.arange(80) / 25
    smoothed = filter_.apply(5.0 * seconds, seconds)
    np.testing.assert_allclose(smoothed[20:-20], 5.0 * seconds[20:-20], rtol=0, atol=1e-9)


@pytest.mark.parametrize("filter_", ALL, ids=name)
def test_adding_a_constant_adds_it_to_the_result(filter_):
    values, seconds = noise(40, 2), uneven_seconds(40)
    shifted = filter_.apply(values + 100.0, seconds)
    np.testing.assert_allclose(shifted, filter_.apply(values, seconds) + 100.0, rtol=0, atol=1e-7)


@pytest.mark.parametrize("filter_", [f for f in ALL if f != OneEuroFilter(beta=0.5)], ids=name)
def test_the_size_of_the_signal_does_not_matter(filter_):
    values, seconds = noise(40, 2), uneven_seconds(40)
    smaller = filter_.apply(values / 1000, seconds)
    np.testing.assert_allclose(1000 * smaller, filter_.apply(values, seconds), rtol=0, atol=1e-9)


@pytest.mark.parametrize("filter_", LINEAR, ids=name)
def test_linear_filters_add(filter_):
    a, b, seconds = noise(40), noise(40, seed=9), uneven_seconds(40)
    both = filter_.apply(a, seconds) + filter_.apply(b, seconds)
    np.testing.assert_allclose(filter_.apply(a + b, seconds), both, rtol=0, atol=1e-9)


@pytest.mark.parametrize("filter_", SYMMETRIC, ids=name)
def test_time_may_run_backwards(filter_):
    values, seconds = noise(40, 2), uneven_seconds(40)
    reversed_ = filter_.apply(values[::-1], (seconds[-1] - seconds)[::-1])[::-1]
    np.testing.assert_allclose(reversed_, filter_.apply(values, seconds), rtol=0, atol=1e-6)


@pytest.mark.parametrize("filter_", ALL, ids=name)
def test_when_the_clip_began_does_not_matter(filter_):
    values, seconds = noise(40, 2), uneven_seconds(40)
    later = filter_.apply(values, seconds + 3600.0)
    np.testing.assert_allclose(later, filter_.apply(values, seconds), rtol=0, atol=1e-6)


@pytest.mark.parametrize("filter_", BOUNDED, ids=name)
def test_the_range_is_never_left(filter_):
    values, seconds = noise(60, 2), uneven_seconds(60)
    smoothed = filter_.apply(values, seconds)
    assert (smoothed >= values.min(axis=0)).all()
    assert (smoothed <= values.max(axis=0)).all()


@pytest.mark.parametrize("filter_", ALL, ids=name)
def test_jitter_falls(filter_):
    seconds = np.arange(200) / 30
    values = np.sin(seconds) + 0.1 * noise(200)

    def jitter(signal):
        return np.abs(np.diff(signal, 2)).mean()

    assert jitter(filter_.apply(values, seconds)) < 0.75 * jitter(values)


@pytest.mark.promise(6)
@pytest.mark.parametrize("filter_", ALL, ids=name)
def test_nothing_crosses_an_interval(filter_):
    values, seconds = noise(40, 2), uneven_seconds(40)
    values[15:] += 50.0
    runs = [Interval(0, 15), Interval(15, 40)]
    smoothed = smooth(values, seconds, filter_, intervals=runs)
    for run in runs:
        part = slice(run.start, run.stop)
        expected = filter_.apply(values[part], seconds[part])
        np.testing.assert_array_equal(smoothed[part], expected)


@pytest.mark.parametrize("filter_", ALL, ids=name)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_runs_too_short_to_smooth_stay_finite(filter_, count):
    values, seconds = noise(count, 2), np.arange(count) / 25
    smoothed = filter_.apply(values, seconds)
    assert smoothed.shape == values.shape
    assert np.isfinite(smoothed).all()


@pytest.mark.parametrize("filter_", ALL, ids=name)
def test_times_must_increase(filter_):
    with pytest.raises(ValueError, match="not strictly increasing"):
        filter_.apply(np.zeros(3), np.array([0.0, 0.1, 0.1]))


@pytest.mark.parametrize("filter_", [*SYMMETRIC[:3], KalmanFilter(time_seconds=0.15)], ids=name)
def test_24_and_60_frames_a_second_agree(filter_):
    def at_one_second(rate: float) -> float:
        seconds = np.arange(round(2 * rate) + 1) / rate
        return float(np.interp(1.0, seconds, filter_.apply(np.sin(6 * seconds), seconds)))

    assert at_one_second(24) == pytest.approx(at_one_second(60), abs=0.02)
