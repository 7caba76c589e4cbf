"""Fields that are carried along what moves."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from stabilizers import link_pictures, smooth_fields


def waves(shift: float) -> np.ndarray:
    """A textured picture, moved right by `shift` pixels."""
    y, x = np.mgrid[:32, :48].astype(np.float64)
    return (128 + 50 * np.sin((x - shift) / 2) + 40 * np.cos(y / 3)).astype(np.uint8)


def moving_right(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One pixel to the right from an earlier picture to a later one, told from their noise."""
    forwards = np.array_equal(b, waves(1)) or np.array_equal(a, waves(0))
    flow = np.zeros((*a.shape, 2), np.float32)
    flow[..., 0] = 1.0 if forwards else -1.0
    return flow


def links(count: int):
    link = link_pictures(waves(0), waves(1), moving_right, levels=12)
    return [link] * (count - 1)


def bumps(count: int) -> torch.Tensor:
    """A bump that moves right by one pixel a frame: (T, 1, 32, 48)."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    return torch.stack(
        [torch.exp(-((x - 16 - t) ** 2 + (y - 16) ** 2) / 18)[None] for t in range(count)]
    )


MIDDLE = np.s_[:, :, 8:24, 10:38]
SECONDS = np.cumsum([0.04, 0.03, 0.05, 0.04, 0.06, 0.03, 0.04, 0.05, 0.04])


def test_what_moves_with_the_picture_stays_as_it_is():
    fields = bumps(9)
    smoothed = smooth_fields(fields, np.ones(9), SECONDS, links(9), time_seconds=0.2)
    torch.testing.assert_close(smoothed[MIDDLE], fields[MIDDLE], rtol=0, atol=1e-4)


def test_flicker_is_averaged_along_the_motion_and_time_may_run_backwards():
    flicker = torch.tensor([0.0, 2.0] * 4 + [0.0]).reshape(-1, 1, 1, 1)
    fields = bumps(9) * flicker
    smoothed = smooth_fields(fields, np.ones(9), SECONDS, links(9), time_seconds=1.0)
    peaks = torch.stack([smoothed[t, 0, 16, 16 + t] for t in range(9)])
    assert float(peaks.max() - peaks.min()) < 0.25
    back = link_pictures(waves(1), waves(0), moving_right, levels=12)
    reversed_ = smooth_fields(
        fields.flip(0), np.ones(9), (SECONDS[-1] - SECONDS)[::-1], [back] * 8, time_seconds=1.0
    )
    torch.testing.assert_close(reversed_.flip(0)[MIDDLE], smoothed[MIDDLE], rtol=0, atol=1e-5)


def test_means_are_per_unit_of_mass():
    mass = np.array([1.0, 0.5, 0.0, 2.0, 1.0])
    still = link_pictures(waves(0), waves(0), lambda a, b: np.zeros((*a.shape, 2)), levels=12)
    fields = 3.0 * torch.as_tensor(mass).float().reshape(-1, 1, 1, 1).expand(-1, 2, 32, 48)
    smoothed = smooth_fields(fields, mass, SECONDS[:5], [still] * 4, time_seconds=0.1)
    torch.testing.assert_close(smoothed, torch.full_like(smoothed, 3.0))
    nothing = smooth_fields(0 * fields, np.zeros(5), SECONDS[:5], [still] * 4, time_seconds=0.1)
    assert not nothing.any()


def test_an_arrow_keeps_pointing_at_the_same_content():
    """The left half stands still, the right half moves; arrows on the left point into the right."""
    flow = np.zeros((32, 48, 2), np.float32)
    flow[:, 24:, 0] = 1.0

    def parting(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return flow if a[0, 0] == 0 else -flow

    first, second = np.zeros((32, 48), np.uint8), np.ones((32, 48), np.uint8)
    link = link_pictures(first, second, parting, levels=1e6)
    arrows = torch.zeros(2, 2, 32, 48)
    arrows[0, 0] = 20.0  # the second frame has no mass: it takes over the first one's arrows
    smoothed = smooth_fields(
        arrows,
        np.array([1.0, 0.0]),
        np.array([0.0, 0.04]),
        [link],
        time_seconds=0.2,
        displacements=2,
    )
    assert smoothed[1, 0, 16, 10].item() == pytest.approx(21.0, abs=1e-4)  # its end has moved on
    assert smoothed[1, 0, 16, 2].item() == pytest.approx(20.0, abs=1e-4)  # both ends stand still
    assert smoothed[0, 0, 16, 10].item() == pytest.approx(20.0, abs=1e-4)


def test_nothing_is_carried_where_the_pictures_do_not_agree():
    still = link_pictures(
        np.full((32, 48), 40, np.uint8),
        np.full((32, 48), 200, np.uint8),
        lambda a, b: np.zeros((*a.shape, 2), np.float32),
        levels=12,
    )
    fields = torch.stack([torch.zeros(1, 32, 48), torch.ones(1, 32, 48)])
    smoothed = smooth_fields(fields, np.ones(2), SECONDS[:2], [still], time_seconds=1.0)
    torch.testing.assert_close(smoothed, fields)


def test_lengths_and_channels_are_checked():
    with pytest.raises(ValueError, match="3 fields, 2 masses, 3 times and 2 links, expected one"):
        smooth_fields(bumps(3), np.ones(2), SECONDS[:3], links(3), time_seconds=0.1)
    with pytest.raises(ValueError, match="displacements is 1, expected 0 or 2"):
        smooth_fields(
            bumps(2), np.ones(2), SECONDS[:2], links(2), time_seconds=0.1, displacements=1
        )


def test_long_means_beside_what_is_not_trusted_stay_within_what_was_measured():
    """Bicubic sampling overshoots at the edge of what is trusted: no mean may run away."""
    count = 60
    grey = np.full((24, 32), 100, np.uint8)
    pictures = [grey.copy() for _ in range(count)]
    for t, picture in enumerate(pictures):
        picture[:, 12:20] = 255 if t % 2 else 0  # never trusted
    drift = np.zeros((24, 32, 2), np.float32)
    drift[..., 0] = 0.3
    links = [
        link_pictures(a, b, lambda _first, _second: drift, levels=12) for a, b in pairwise(pictures)
    ]
    mass = np.where(np.arange(count) % 2 == 0, 1.0, 0.0)
    fields = torch.as_tensor(mass).float().reshape(-1, 1, 1, 1) * torch.rand(
        count, 3, 24, 32, generator=torch.Generator().manual_seed(0)
    )
    mean = smooth_fields(
        fields,
        mass,
        np.arange(count) / 60,
        links,
        time_seconds=1.0,
        interpolation="bicubic",
    )
    assert mean.isfinite().all()
    assert mean.min() > -0.3
    assert mean.max() < 1.3
