"""Metrics on cases whose value is known by construction."""

import numpy as np
import pytest
import torch

from stabilizers import Interval
from stabilizers.metrics import (
    correlation,
    jitter,
    mask_flicker,
    mask_iou,
    temporal_identity,
    temporal_iou,
    warping_error,
)


def picture(seed: int = 0, height: int = 12, width: int = 20) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def shift(dx: float, height: int = 12, width: int = 20) -> torch.Tensor:
    flow = torch.zeros(1, 2, height, width)
    flow[:, 0] = dx
    return flow


def everywhere(height: int = 12, width: int = 20) -> torch.Tensor:
    return torch.ones(1, 1, height, width)


def test_a_known_acceleration_is_the_jitter():
    times = np.arange(10.0)
    points = np.stack([3 * times**2 / 2, 4 * times**2 / 2], axis=-1)[:, None]  # second difference 5
    shaking = jitter(points, np.full(10, 50.0), intervals=[Interval(0, 10)])
    np.testing.assert_allclose(shaking[1:-1], 0.1)
    assert np.isnan(shaking[[0, -1]]).all()


def test_jitter_does_not_see_a_jump_at_a_cut():
    points = np.zeros((10, 2, 2))
    points[5:] = 100.0
    runs = [Interval(0, 5), Interval(5, 10)]
    assert np.nanmax(jitter(points, np.ones(10), intervals=runs)) == 0.0
    assert np.nanmax(jitter(points, np.ones(10), intervals=[Interval(0, 10)])) > 100


def test_runs_of_two_frames_have_no_jitter():
    shaking = jitter(np.zeros((2, 1, 2)), np.ones(2), intervals=[Interval(0, 2)])
    assert np.isnan(shaking).all()


def test_a_known_shift_with_its_flow_has_no_warping_error():
    first = picture()
    second = torch.roll(first, 3, dims=3)
    seen = everywhere()
    seen[..., -3:] = 0
    assert warping_error(first, second, shift(3.0), seen) == pytest.approx(0.0, abs=1e-8)
    assert warping_error(first, second, shift(0.0), seen) > 0.05


@pytest.mark.parametrize("step", [0.1, 0.4])
def test_a_known_flicker_is_the_warping_error(step):
    error = warping_error(picture(), picture() + step, shift(0.0), everywhere())
    assert error == pytest.approx(step**2, rel=1e-4)


def test_only_what_is_seen_in_both_counts():
    second = picture()
    second[..., :5] += 1.0
    seen = everywhere()
    seen[..., :5] = 0
    assert warping_error(picture(), second, shift(0.0), seen) == pytest.approx(0.0, abs=1e-8)
    assert np.isnan(warping_error(picture(), second, shift(0.0), 0 * seen))


def test_a_known_flicker_of_a_mask_is_measured():
    mask = torch.full((1, 1, 12, 20), 0.5)
    assert mask_flicker(mask, mask + 0.25, shift(0.0), everywhere()) == pytest.approx(0.25)
    assert mask_flicker(mask, mask, shift(1.0), everywhere()) == pytest.approx(0.0, abs=1e-6)
    assert np.isnan(mask_flicker(mask, mask, shift(0.0), 0 * everywhere()))


def test_masks_half_over_each_other_have_an_iou_of_a_third():
    first, second = torch.zeros(4, 8), torch.zeros(4, 8)
    first[:, 0:4] = second[:, 2:6] = 1.0
    assert mask_iou(first, second) == pytest.approx(1 / 3)
    assert mask_iou(first, first) == 1.0
    assert mask_iou(0 * first, 0 * first) == 1.0
    assert mask_iou(0.6 * first, first, threshold=0.7) == 0.0


def test_a_mask_that_moves_with_the_flow_overlaps_itself():
    mask = torch.zeros(1, 1, 12, 20)
    mask[..., 4:9] = 1.0
    masks = torch.cat([mask, torch.roll(mask, 2, dims=3)])
    assert temporal_iou(masks, [shift(2.0)]) == [1.0]
    assert temporal_iou(masks, [shift(0.0)]) == [pytest.approx(3 / 7)]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_identity_over_time_is_the_published_formula(monkeypatch):
    rng = np.random.default_rng(1)
    source, edited = unit(rng.normal(2, 1, (9, 16))), unit(rng.normal(2, 1, (9, 16)))
    ratio = (edited @ edited.T) / (source @ source.T)
    local, whole = temporal_identity(edited, source)
    np.testing.assert_allclose(local, [ratio[t, t + 1] for t in range(8)])
    others = ~np.eye(9, dtype=bool)
    assert whole == pytest.approx(ratio[others].mean())
    monkeypatch.setattr("stabilizers.metrics._ROWS", 2)
    assert temporal_identity(edited, source)[1] == pytest.approx(whole)


def test_a_person_who_stays_the_same_scores_one_and_one_who_flickers_less():
    source = unit(np.ones((6, 4)))
    assert temporal_identity(source, source)[1] == pytest.approx(1.0)
    flickering = unit(np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]] * 3))
    local, whole = temporal_identity(flickering, source)
    np.testing.assert_allclose(local, 0.0, atol=1e-12)
    assert whole == pytest.approx(0.4)  # 12 of 30 pairs show the same person


def test_one_frame_has_no_identity_over_time():
    local, whole = temporal_identity(np.ones((1, 4)), np.ones((1, 4)))
    assert len(local) == 0
    assert np.isnan(whole)


def test_correlation_is_numpys_without_what_is_unknown():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=20), rng.normal(size=20)
    assert correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    gap = b.copy()
    gap[3] = np.nan
    known = np.arange(20) != 3
    assert correlation(a, gap) == pytest.approx(np.corrcoef(a[known], b[known])[0, 1])
    assert np.isnan(correlation(a, np.ones(20)))
