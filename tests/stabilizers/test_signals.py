import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stabilizers import GaussianFilter, Interval, TemporalFilter, gaussian, smooth
from tests.stabilizers.signals_to_filter import noise, uneven_seconds

ALL_FILTERS = [
    GaussianFilter(),
    GaussianFilter(sigma_seconds=0.3),
    GaussianFilter(sigma_seconds=0),
    None,
]


def brute_force_gaussian(values: np.ndarray, seconds: np.ndarray, sigma: float) -> np.ndarray:
    """Weigh every sample by hand: kernel times the time it stands for, normalised."""
    count, longest = len(seconds), sigma * np.sqrt(2 * np.pi)
    smoothed = np.zeros_like(values)
    for i in range(count):
        weights = np.zeros(count)
        for j in range(count):
            before = seconds[j] - seconds[j - 1] if j > 0 else seconds[1] - seconds[0]
            after = seconds[j + 1] - seconds[j] if j < count - 1 else seconds[-1] - seconds[-2]
            distance = abs(seconds[j] - seconds[i])
            if distance <= 4 * sigma:
                width = (min(before, longest) + min(after, longest)) / 2
                weights[j] = width * np.exp(-0.5 * (distance / sigma) ** 2)
        smoothed[i] = (weights[:, None] * values).sum(axis=0) / weights.sum()
    return smoothed


@pytest.mark.parametrize("sigma_frames", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("rate", [24.0, 30000 / 1001, 60.0])
def test_even_samples_agree_with_scipy_in_the_interior(sigma_frames, rate):
    values, seconds = noise(80, 3), np.arange(80) / rate
    smoothed = gaussian(values, seconds, sigma_seconds=sigma_frames / rate)
    expected = ndimage.gaussian_filter1d(values, sigma_frames, axis=0, truncate=4.0)
    edge = int(4 * sigma_frames) + 1
    np.testing.assert_allclose(smoothed[edge:-edge], expected[edge:-edge], rtol=0, atol=1e-9)


def test_uneven_samples_agree_with_brute_force():
    values, seconds = noise(40, 2), uneven_seconds(40)
    np.testing.assert_allclose(
        gaussian(values, seconds, sigma_seconds=0.07),
        brute_force_gaussian(values, seconds, 0.07),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("filter_", ALL_FILTERS)
def test_a_constant_stays_constant(filter_):
    values = np.full((30, 2), 7.25)
    smoothed = smooth(values, uneven_seconds(30), filter_, intervals=[Interval(0, 30)])
    np.testing.assert_array_equal(smoothed, values)


@pytest.mark.parametrize("filter_", ALL_FILTERS)
def test_shifting_the_signal_shifts_the_result(filter_):
    values, seconds, whole = noise(30, 2), uneven_seconds(30), [Interval(0, 30)]
    shifted = smooth(values + 100.0, seconds, filter_, intervals=whole)
    np.testing.assert_allclose(
        shifted, smooth(values, seconds, filter_, intervals=whole) + 100.0, rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("filter_", ALL_FILTERS)
def test_reversing_time_reverses_the_result(filter_):
    values, seconds, whole = noise(30, 2), uneven_seconds(30), [Interval(0, 30)]
    backwards = smooth(values[::-1], seconds[-1] - seconds[::-1], filter_, intervals=whole)
    np.testing.assert_allclose(
        backwards[::-1], smooth(values, seconds, filter_, intervals=whole), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("filter_", ALL_FILTERS)
def test_smoothing_never_crosses_a_cut(filter_):
    values, seconds = np.repeat([0.0, 1.0], 10), np.arange(20) / 25
    smoothed = smooth(values, seconds, filter_, intervals=[Interval(0, 10), Interval(10, 20)])
    np.testing.assert_array_equal(smoothed, values)


def test_each_interval_is_what_it_would_be_alone():
    values, seconds, filter_ = noise(20, 2), uneven_seconds(20), GaussianFilter()
    smoothed = smooth(values, seconds, filter_, intervals=[Interval(0, 7), Interval(7, 20)])
    np.testing.assert_array_equal(
        smoothed[7:], smooth(values[7:], seconds[7:], filter_, intervals=[Interval(0, 13)])
    )


def test_samples_in_no_interval_stay():
    values, seconds = noise(12), np.arange(12) / 25
    smoothed = smooth(values, seconds, GaussianFilter(), intervals=[Interval(3, 8)])
    np.testing.assert_array_equal(
        smoothed[[0, 1, 2, 8, 9, 10, 11]], values[[0, 1, 2, *range(8, 12)]]
    )
    assert not np.allclose(smoothed[3:8], values[3:8])


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.floats(1e-6, 5.0), st.integers(0, 99))
def test_the_range_is_never_left(count, sigma, seed):
    values = noise(count, seed=seed)
    smoothed = gaussian(values, uneven_seconds(count, seed), sigma_seconds=sigma)
    assert values.min() <= smoothed.min()
    assert smoothed.max() <= values.max()


def test_a_dropped_frame_shifts_a_ramp_by_less_than_a_tenth_of_a_frame():
    seconds = np.delete(np.arange(60) / 25, 30)
    smoothed = gaussian(seconds, seconds, sigma_seconds=0.08)
    assert np.abs(smoothed[12:-12] - seconds[12:-12]).max() < 0.1 / 25


def test_the_frame_rate_does_not_matter():
    def smoothed_at_one_second(rate: float) -> float:
        seconds = np.arange(round(2 * rate) + 1) / rate
        values = np.sin(9 * seconds)
        return float(np.interp(1.0, seconds, gaussian(values, seconds, sigma_seconds=0.1)))

    assert smoothed_at_one_second(24) == pytest.approx(smoothed_at_one_second(60), abs=1e-3)


def test_half_the_rate_in_one_half_of_the_signal_pulls_nothing_over():
    dense, sparse = np.arange(0, 1, 1 / 60), np.arange(1, 2, 1 / 15)
    seconds = np.concatenate([dense, sparse])
    smoothed = gaussian(seconds, seconds, sigma_seconds=0.15)
    inside = (seconds > 0.7) & (seconds < 1.4)
    assert np.abs(smoothed - seconds)[inside].max() < 0.005


def test_jitter_of_a_still_head_falls_to_less_than_half():
    values, seconds = noise(300, 2), np.arange(300) / 30
    smoothed = gaussian(values, seconds, sigma_seconds=0.08)
    assert smoothed.std() < 0.5 * values.std()


def test_long_signals_are_smoothed_in_pieces_with_the_same_result(monkeypatch):
    values, seconds = noise(200, 2), uneven_seconds(200)
    whole = gaussian(values, seconds, sigma_seconds=0.2)
    monkeypatch.setattr("stabilizers.signals._MAX_WEIGHTS", 64)
    np.testing.assert_array_equal(gaussian(values, seconds, sigma_seconds=0.2), whole)


def test_no_sigma_no_neighbour_and_no_filter_return_copies():
    values, seconds = noise(5), np.arange(5) / 25
    for copy in (
        gaussian(values, seconds, sigma_seconds=0),
        smooth(values, seconds, None, intervals=[Interval(0, 5)]),
        gaussian(values[:1], seconds[:1], sigma_seconds=1.0),
        gaussian(values[:0], seconds[:0], sigma_seconds=1.0),
    ):
        np.testing.assert_array_equal(copy, values[: len(copy)])
        assert not np.shares_memory(copy, values)


@pytest.mark.parametrize("seconds", [[0.0, 0.1, 0.1], [0.0, 0.2, 0.1], [0.0, np.nan, 0.1]])
def test_times_must_increase(seconds):
    with pytest.raises(ValueError, match="not strictly increasing"):
        gaussian(np.zeros(3), np.array(seconds), sigma_seconds=0.1)


@pytest.mark.parametrize("values", [np.zeros(4), np.array(1.0)])
def test_every_sample_needs_its_time(values):
    with pytest.raises(ValueError, match="one time for each sample"):
        smooth(values, np.zeros(3), GaussianFilter(), intervals=[])


@pytest.mark.parametrize(
    "intervals",
    [[Interval(0, 3), Interval(2, 5)], [Interval(3, 5), Interval(0, 2)], [Interval(4, 7)]],
)
def test_intervals_must_be_disjoint_ordered_and_inside(intervals):
    with pytest.raises(ValueError, match="expected disjoint intervals in order"):
        smooth(np.zeros(6), np.arange(6.0), GaussianFilter(), intervals=intervals)


@pytest.mark.parametrize("sigma", [-0.1, np.nan, np.inf])
def test_sigma_must_be_a_width(sigma):
    with pytest.raises(ValueError, match="expected a value >= 0"):
        GaussianFilter(sigma_seconds=sigma)
    with pytest.raises(ValueError, match="expected a value >= 0"):
        gaussian(np.zeros(3), np.arange(3.0), sigma_seconds=sigma)


def test_a_gaussian_filter_is_a_temporal_filter():
    assert isinstance(GaussianFilter(), TemporalFilter)
