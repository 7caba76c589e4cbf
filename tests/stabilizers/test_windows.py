import numpy as np
import pytest
from scipy import ndimage, signal

from stabilizers import (
    BilateralFilter,
    MedianFilter,
    SavitzkyGolayFilter,
    bilateral,
    median,
    savitzky_golay,
)
from stabilizers.windows import estimate_noise
from tests.stabilizers.signals_to_filter import noise, uneven_seconds


@pytest.mark.parametrize("rate", [24.0, 30000 / 1001, 60.0])
@pytest.mark.parametrize(("frames", "order"), [(5, 2), (7, 2), (9, 3), (11, 0)])
def test_even_samples_agree_with_scipys_savitzky_golay_up_to_the_ends(rate, frames, order):
    values, seconds = noise(40, 3), np.arange(40) / rate
    smoothed = savitzky_golay(values, seconds, window_seconds=(frames - 1) / rate, order=order)
    expected = signal.savgol_filter(values, frames, order, axis=0, mode="interp")
    np.testing.assert_allclose(smoothed, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_polynomial_of_its_order_passes_unchanged_at_uneven_times(order):
    seconds = uneven_seconds(30)
    polynomial = np.polynomial.polynomial.polyval(seconds, noise(order + 1))
    smoothed = savitzky_golay(polynomial, seconds, window_seconds=0.4, order=order)
    np.testing.assert_allclose(smoothed, polynomial, rtol=0, atol=1e-9)


def test_uneven_samples_agree_with_a_fit_by_hand():
    values, seconds = noise(25), uneven_seconds(25)
    smoothed = savitzky_golay(values, seconds, window_seconds=0.3, order=2)
    inside = np.abs(seconds - seconds[12]) <= 0.15
    fit = np.polynomial.Polynomial.fit(seconds[inside], values[inside], 2)
    assert smoothed[12] == pytest.approx(fit(seconds[12]), abs=1e-9)


def test_a_window_with_few_samples_lowers_the_order():
    values, seconds = noise(4), np.array([0.0, 0.04, 1.0, 1.04])
    smoothed = savitzky_golay(values, seconds, window_seconds=0.1, order=3)
    np.testing.assert_allclose(smoothed, values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("frames", [3, 5, 9])
def test_the_median_of_even_samples_is_scipys_in_the_interior(frames):
    values, seconds = noise(40, 2), np.arange(40) / 30
    smoothed = median(values, seconds, window_seconds=(frames - 1) / 30)
    expected = ndimage.median_filter(values, size=(frames, 1))
    half = frames // 2
    np.testing.assert_array_equal(smoothed[half:-half], expected[half:-half])


def test_the_median_counts_samples_by_their_time():
    values, seconds = noise(30), uneven_seconds(30)
    smoothed = median(values, seconds, window_seconds=0.2)
    for t in range(30):
        inside = np.abs(seconds - seconds[t]) <= 0.1
        assert smoothed[t] == np.median(values[inside])


def test_the_median_keeps_a_step_and_drops_a_spike():
    values = np.array([0.0] * 6 + [1.0] * 6)
    values[2] = 7.0
    smoothed = median(values, np.arange(12) / 25, window_seconds=0.16)
    np.testing.assert_array_equal(smoothed, [0.0] * 6 + [1.0] * 6)


def brute_force_bilateral(values, seconds, sigma, steps):
    """Weigh every pair by hand, (T, D) as one vector."""
    count = len(values)
    noise_level = estimate_noise(values[:, None, :], seconds)[0]
    longest = sigma * np.sqrt(2 * np.pi)
    result = np.zeros_like(values)
    for i in range(count):
        weights = np.zeros(count)
        for j in range(count):
            before = seconds[j] - seconds[j - 1] if j > 0 else seconds[1] - seconds[0]
            after = seconds[j + 1] - seconds[j] if j < count - 1 else seconds[-1] - seconds[-2]
            if abs(seconds[j] - seconds[i]) > 4 * sigma:
                continue
            apart = np.square(values[j] - values[i]).mean() / (2 * (steps * noise_level) ** 2)
            near = ((seconds[j] - seconds[i]) / sigma) ** 2
            width = (min(before, longest) + min(after, longest)) / 2
            weights[j] = width * np.exp(-0.5 * near) * np.exp(-0.5 * apart)
        result[i] = weights @ values / weights.sum()
    return result


def test_the_bilateral_filter_agrees_with_brute_force():
    values, seconds = noise(30, 4), uneven_seconds(30)
    np.testing.assert_allclose(
        bilateral(values, seconds, sigma_seconds=0.08, steps=1.5),
        brute_force_bilateral(values, seconds, 0.08, 1.5),
        rtol=0,
        atol=1e-12,
    )


def test_a_blink_survives_the_bilateral_filter_and_not_the_gaussian():
    seconds = np.arange(100) / 25
    calm = 0.05 * noise(100, 8)
    blink = calm.copy()
    blink[50:54] -= 2.0
    smoothed = bilateral(blink, seconds, sigma_seconds=0.12, steps=1.5)
    assert smoothed[50:54].max() < -1.9
    assert smoothed[:49].std() < 0.6 * calm[:49].std()


def test_vectors_take_a_step_as_a_whole():
    seconds, values = np.arange(60) / 25, noise(60, 64) * 0.3
    values[30:] += 1.5
    together = bilateral(values, seconds, sigma_seconds=0.12, steps=1.5)
    alone = bilateral(values[..., None], seconds, sigma_seconds=0.12, steps=1.5)[..., 0]

    def leak(smoothed):
        return abs(smoothed[29].mean() - values[:30].mean())

    assert leak(together) < 0.6 * leak(alone)


@pytest.mark.parametrize("size", [1, 2, 64])
def test_noise_is_measured_within_a_tenth_at_uneven_times(size):
    seconds = uneven_seconds(4000)
    signals = 0.3 * noise(4000, 1, size) + np.sin(seconds)[:, None, None]
    assert estimate_noise(signals, seconds)[0] == pytest.approx(0.3, rel=0.1)


def test_noise_of_a_signal_with_rare_steps_is_that_between_them():
    seconds = np.arange(1000) / 25
    steps = 10.0 * (np.arange(1000) // 50 % 2)
    signals = (0.1 * noise(1000) + steps)[:, None, None]
    assert estimate_noise(signals, seconds)[0] == pytest.approx(0.1, rel=0.15)


def test_too_few_samples_have_no_noise():
    assert estimate_noise(np.ones((2, 3, 1)), np.arange(2.0)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("window", [-0.1, np.nan, np.inf])
def test_a_window_must_be_a_length(window):
    for make in (SavitzkyGolayFilter, MedianFilter):
        with pytest.raises(ValueError, match=r"window_seconds is .* expected a number of seconds"):
            make(window_seconds=window)


def test_an_order_must_be_a_degree():
    with pytest.raises(ValueError, match="order is -1, expected the degree"):
        SavitzkyGolayFilter(order=-1)


@pytest.mark.parametrize("steps", [0.0, -1.0, np.nan])
def test_steps_must_be_positive(steps):
    with pytest.raises(ValueError, match=r"steps is .* expected a number > 0"):
        BilateralFilter(steps=steps)
