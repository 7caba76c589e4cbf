import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vidinvert.fidelity import SMALLEST_SIDE, SquaredError, ms_ssim, psnr, psnr_of, ssim
from vidinvert.geometry import to_grey


def pair(height=180, width=200, noise=12.0):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    base = 120 + 60 * np.sin(x / 9) * np.cos(y / 13) + rng.normal(0, 10, (height, width))
    first = np.clip(np.stack([base, base + 10, base - 20], -1), 0, 255).astype(np.uint8)
    second = np.clip(first + rng.normal(0, noise, first.shape), 0, 255).astype(np.uint8)
    return first, second


def test_psnr_is_scikit_images():
    first, second = pair()
    expected = peak_signal_noise_ratio(first, second, data_range=255)
    assert psnr(first, second) == pytest.approx(expected, abs=1e-4)


def test_a_known_step_has_a_known_psnr():
    grey = np.full((20, 20, 3), 100, np.uint8)
    assert psnr(grey, grey + np.uint8(5)) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(grey, grey) == math.inf


def test_only_the_chosen_pixels_count():
    first = np.full((20, 20, 3), 100, np.uint8)
    second = first.copy()
    second[:, :10] += 50
    left = np.zeros((20, 20), bool)
    left[:, :10] = True
    assert psnr(first, second, ~left) == math.inf
    assert psnr(first, second, left) == pytest.approx(20 * math.log10(255 / 50))
    assert math.isnan(psnr(first, second, left & ~left))


def test_squared_error_adds_over_frames():
    grey = np.full((4, 4, 3), 100, np.uint8)
    error = SquaredError()
    assert math.isnan(error.psnr)
    error.add(grey, grey)
    error.add(grey, grey + np.uint8(10))
    assert error.psnr == pytest.approx(psnr_of(50.0))


def test_ssim_is_scikit_images_on_the_luma():
    first, second = pair()
    expected = structural_similarity(
        to_grey(first),
        to_grey(second),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert ssim(first, second) == pytest.approx(expected, abs=2e-5)


def test_identical_pictures_score_one():
    first, _ = pair()
    assert ssim(first, first) == pytest.approx(1.0)
    assert ms_ssim(first, first) == pytest.approx(1.0)


def test_ms_ssim_forgives_fine_noise_and_not_coarse_change():
    first, fine = pair()
    coarse = first.copy()
    coarse[40:140, 40:140] = np.clip(coarse[40:140, 40:140] * 0.4 + 90, 0, 255).astype(np.uint8)
    assert ms_ssim(first, fine) > ssim(first, fine)
    assert ms_ssim(first, coarse) < ms_ssim(first, fine)


def test_similarity_can_be_asked_of_a_part():
    first, second = pair(200, 400, noise=30.0)
    second[:, 200:] = first[:, 200:]
    right = np.zeros((200, 400), bool)
    right[:, 210:] = True
    assert ssim(first, second, right) == pytest.approx(1.0)
    assert ssim(first, second, ~right) < 0.9
    assert math.isnan(ssim(first, second, right & ~right))
    whole = np.ones((200, 400), bool)
    assert ms_ssim(first, second, whole) == pytest.approx(ms_ssim(first, second))
    assert math.isnan(ms_ssim(first, second, right & ~right))


def test_pictures_must_hold_a_window():
    small = np.zeros((10, 10, 3), np.uint8)
    with pytest.raises(ValueError, match="expected 11 pixels or more a side"):
        ssim(small, small)
    with pytest.raises(ValueError, match=f"expected {SMALLEST_SIDE} pixels or more"):
        ms_ssim(np.zeros((90, 90, 3), np.uint8), np.zeros((90, 90, 3), np.uint8))
