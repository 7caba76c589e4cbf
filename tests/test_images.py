import cv2
import numpy as np
import pytest
import torch

from vidinvert.images import (
    changed_pixels,
    composite,
    grey_to_uint8,
    mask_to_float,
    mask_to_uint8,
    resize,
    to_float,
    to_uint8,
)

ALL_VALUES = np.arange(256, dtype=np.uint8)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_every_value_of_a_pixel_survives_the_way_into_a_network_and_back():
    frames = np.stack([ALL_VALUES, ALL_VALUES[::-1], np.roll(ALL_VALUES, 7)], -1)
    frames = frames.reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(to_uint8(to_float(frames)), frames)


def test_every_value_of_a_mask_survives_the_way_into_a_network_and_back():
    mask = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(mask_to_uint8(mask_to_float(mask)), mask)


def test_the_range_inside_networks_is_minus_one_to_one():
    images = to_float(ALL_VALUES.repeat(3).reshape(1, 16, 16, 3))
    assert images.dtype == torch.float32
    assert images.shape == (1, 3, 16, 16)
    assert images.min() == -1
    assert images.max() == 1


def test_masks_span_zero_to_one():
    mask = mask_to_float(torch.tensor([0, 255], dtype=torch.uint8))
    assert mask.tolist() == [0.0, 1.0]


def test_layout_changes_from_pixels_last_to_channels_first():
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    images = to_float(frames)
    assert float(images[1, 2, 3, 4]) == pytest.approx(frames[1, 3, 4, 2] / 127.5 - 1, abs=1e-6)
    assert to_uint8(images).shape == (2, 4, 5, 3)


def test_the_frames_are_not_changed():
    frames = np.full((1, 2, 2, 3), 9, np.uint8)
    to_float(frames)
    assert (frames == 9).all()


def test_flipped_views_of_frames_are_read_as_they_look():
    frames = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_float(frames[..., ::-1])), frames[..., ::-1])


def test_values_outside_the_range_are_clamped():
    images = torch.tensor([-7.0, -1.001, 1.001, 40.0]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert to_uint8(images)[0, :, :, 0].ravel().tolist() == [0, 0, 255, 255]
    assert mask_to_uint8(torch.tensor([-0.5, 1.5])).tolist() == [0, 255]


def test_half_precision_and_gradients_are_accepted():
    images = noise(1, 3, 4, 4)
    half = images.to(torch.bfloat16).requires_grad_()
    assert np.abs(to_uint8(half).astype(int) - to_uint8(images)).max() <= 1


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 4), np.uint8),
        np.zeros((1, 3, 4, 4), np.uint8),
    ],
)
def test_other_pictures_are_refused(frames):
    with pytest.raises(ValueError, match=r"expected uint8 \(N, H, W, 3\)"):
        to_float(frames)


def test_resizing_to_the_same_size_returns_the_picture():
    images = noise(1, 3, 6, 7)
    assert resize(images, (6, 7)) is images


@pytest.mark.parametrize("size_hw", [(3, 5), (12, 20), (6, 20), (12, 5)])
def test_resizing_keeps_constants_and_the_mean_of_a_ramp(size_hw):
    flat = torch.full((1, 3, 6, 10), 0.25)
    assert torch.allclose(resize(flat, size_hw), torch.full((1, 3, *size_hw), 0.25), atol=1e-6)
    ramp = torch.linspace(-1, 1, 10).expand(1, 1, 6, 10)
    assert float(resize(ramp, size_hw).mean()) == pytest.approx(0.0, abs=1e-6)


def test_shrinking_averages_what_it_cannot_show():
    stripes = torch.tensor([1.0, -1.0]).repeat(32).expand(1, 1, 64, 64)
    assert resize(stripes, (8, 8))[..., 1:-1].abs().max() < 0.05


def test_where_the_mask_is_one_the_source_stays_and_where_zero_the_picture_is_generated():
    source, generated = noise(2, 3, 4, 4), noise(2, 3, 4, 4) * 0.5
    ood = torch.zeros(2, 1, 4, 4)
    ood[..., :2] = 1
    blended = composite(source=source, generated=generated, ood=ood)
    assert torch.equal(blended[..., :2], source[..., :2])
    assert torch.equal(blended[..., 2:], generated[..., 2:])


def test_a_blend_stays_between_its_parts():
    source, generated = noise(1, 3, 8, 8), -noise(1, 3, 8, 8)
    ood = (noise(1, 1, 8, 8) + 1) / 2
    blended = composite(source=source, generated=generated, ood=ood)
    assert (blended <= torch.maximum(source, generated) + 1e-6).all()
    assert (blended >= torch.minimum(source, generated) - 1e-6).all()


def test_grey_is_the_luma_as_opencv_has_it():
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)
    expected = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    grey = grey_to_uint8(to_float(frames))
    assert grey.shape == (2, 1, 5, 6)
    assert np.abs(grey[:, 0].numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_changed_pixels_are_those_in_which_any_channel_differs(dtype):
    rng = np.random.default_rng(0)
    before = rng.integers(0, np.iinfo(dtype).max, (17, 23, 3)).astype(dtype)
    after = before.copy()
    after[rng.random(before.shape) > 0.9] ^= 1
    seen = changed_pixels(before, after)
    np.testing.assert_array_equal(seen, (before != after).any(axis=2))
    np.testing.assert_array_equal(changed_pixels(before[::-1], after[::-1]), seen[::-1])
