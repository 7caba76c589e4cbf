import numpy as np
import pytest
import torch

from stabilizers import GaussianFilter, Interval, smooth, smooth_masks

FILTER = GaussianFilter(sigma_seconds=0.08)


def masks(count: int = 14) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (count, 1, 5, 7), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("chunk_bytes", [1 << 25, 8 * 14 * 4])
def test_pixels_are_smoothed_by_themselves_and_rounded(monkeypatch, chunk_bytes):
    monkeypatch.setattr("stabilizers.masks._CHUNK_BYTES", chunk_bytes)
    ood, seconds, cut = masks(), np.arange(14) / 25, [Interval(0, 6), Interval(6, 14)]
    smoothed = smooth_masks(ood, seconds, FILTER, intervals=cut)
    expected = np.rint(smooth(ood.numpy(), seconds, FILTER, intervals=cut))
    assert smoothed.dtype == torch.uint8
    np.testing.assert_array_equal(smoothed.numpy(), expected.astype(np.uint8))


@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_a_constant_mask_stays(value):
    ood = torch.full((9, 1, 3, 3), value, dtype=torch.uint8)
    smoothed = smooth_masks(ood, np.arange(9) / 25, FILTER, intervals=[Interval(0, 9)])
    assert torch.equal(smoothed, ood)


def test_a_flicker_of_one_frame_is_damped():
    ood = torch.zeros(21, 1, 2, 2, dtype=torch.uint8)
    ood[10] = 255
    smoothed = smooth_masks(ood, np.arange(21) / 25, FILTER, intervals=[Interval(0, 21)])
    assert int(smoothed.max()) < 64


def test_no_mask_leaks_across_a_cut():
    ood = torch.cat([torch.zeros(8, 1, 2, 2), torch.full((8, 1, 2, 2), 255)]).to(torch.uint8)
    cut = [Interval(0, 8), Interval(8, 16)]
    assert torch.equal(smooth_masks(ood, np.arange(16) / 25, FILTER, intervals=cut), ood)


def test_an_empty_track_stays_empty():
    smoothed = smooth_masks(masks(0), np.zeros(0), FILTER, intervals=[])
    assert smoothed.shape == (0, 1, 5, 7)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(3, 1, 2, 2),
        torch.zeros(3, 2, 2, dtype=torch.uint8),
        torch.zeros(3, 2, 2, 2, dtype=torch.uint8),
    ],
)
def test_dtype_and_shape_are_checked(wrong):
    with pytest.raises(ValueError, match=r"expected torch.uint8 \(T, 1, h, w\)"):
        smooth_masks(wrong, np.arange(3.0), FILTER, intervals=[])
