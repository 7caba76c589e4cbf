"""Motions are read off landmarks, spread over pictures, and become directions."""

import numpy as np
import pytest
import torch

from vidinvert.faces.landmarks import MIRRORED
from vidinvert.training.motions import (
    OUTLINE,
    OUTLINE_SHARE,
    REACH,
    fit_readout,
    landmark_motions,
    motion_directions,
    series_motion,
    warp,
)


def random_landmarks(count=300, seed=0):
    """Landmarks that move with `smile`, and with `size`, which goes with it."""
    rng = np.random.default_rng(seed)
    smile = rng.standard_normal(count)
    size = 0.8 * smile + 0.6 * rng.standard_normal(count)
    moves = rng.standard_normal((2, 68, 2))
    mean = rng.uniform(60, 200, (68, 2))
    landmarks = mean + np.einsum("na,apc->npc", np.stack([smile, size], axis=1), moves)
    return landmarks, {"smile": 3 + 2 * smile, "size": size}, moves[0] * smile.std()


def test_a_motion_is_that_of_one_measure_alone():
    landmarks, measures, move = random_landmarks()
    found = landmark_motions(landmarks, measures, ["smile"])
    assert list(found) == ["smile"]
    np.testing.assert_allclose(found["smile"], move, atol=0.05)


def test_a_turn_of_the_head_leaves_most_of_its_outline_where_it_is():
    landmarks, measures, move = random_landmarks()
    found = landmark_motions(landmarks, {"yaw": measures["smile"], "size": measures["size"]})
    np.testing.assert_allclose(
        found["yaw"][OUTLINE], OUTLINE_SHARE["yaw"] * move[OUTLINE], atol=0.05
    )
    np.testing.assert_allclose(found["yaw"][17:], move[17:], atol=0.05)


def test_a_series_moves_landmarks_by_what_its_measures_do_not_explain():
    """Series along which a face widens and smiles less: the widening remains."""
    landmarks, measures, move = random_landmarks()
    widened = np.zeros((68, 2))
    widened[OUTLINE, 0] = np.linspace(-3.0, 3.0, 17)
    frown = -0.5  # standard deviations of the smile
    lasts = landmarks + widened + frown * move
    smile = measures["smile"]
    both = np.concatenate([landmarks, lasts])
    known = {
        "smile": np.concatenate([smile, smile + frown * smile.std()]),
        "size": np.tile(measures["size"], 2),
    }
    ends = np.stack([np.arange(300), 300 + np.arange(300)], axis=1)
    found = series_motion(both, known, ends)
    np.testing.assert_allclose(found, widened, atol=0.5)
    plain = (lasts - landmarks).mean(axis=0)
    assert np.abs(found - widened).mean() < 0.4 * np.abs(plain - widened).mean()


def grid_points(size):
    """68 points within a picture that the mirrored order takes to each other."""
    rng = np.random.default_rng(1)
    points = rng.uniform(0.25 * size, 0.75 * size, (68, 2))
    mirror = points[MIRRORED] * (-1, 1) + (size - 1, 0)
    return (points + mirror) / 2


def test_a_warp_moves_a_picture_the_way_of_its_motion():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[10, 12] = 200
    moved = warp(picture, np.full((32, 32, 2), (4.0, 1.0), np.float32))
    assert moved[11, 16, 0] == 200
    assert moved[10, 12, 0] == 0


def test_directions_are_the_mean_change_of_the_codes_and_say_how_sure():
    """With a picture whose brightness is its place, codes that read a pixel follow the motion."""
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 2, (64, 1))
    crops = np.repeat(np.repeat(ramp[None, ..., None], 3, axis=3), 3, axis=0)
    points = np.repeat(grid_points(64)[None], 3, axis=0)
    sizes = []

    def embed(pictures):
        sizes.append(len(pictures))
        return pictures[:, 32, 32, :2].astype(np.float64)[:, None]  # (n, 1, 2)

    motions = {"right": np.tile([[2.0, 0.0]], (68, 1)), "down": np.tile([[0.0, 2.0]], (68, 1))}
    found = motion_directions(crops, points, motions, embed, batch_size=2)
    assert sorted(set(sizes)) == [1, 2]
    mean, error = found["right"]
    # Brightness falls by 2 a pixel where the picture moves right; the mirrored crop rises instead.
    assert mean == pytest.approx(np.full((1, 2), -4.0 / 3), abs=0.7)
    assert error.max() == pytest.approx((4.0 * 8**0.5 / 3) / 3**0.5, abs=0.7)
    assert np.abs(found["down"][0]).max() <= 1.0 / REACH


def test_landmarks_are_read_out_of_codes_that_they_depend_on_linearly():
    rng = np.random.default_rng(3)
    codes = rng.standard_normal((600, 4, 6))
    weights = rng.standard_normal((68 * 2, 12))
    told = np.concatenate([codes[:, 0], codes[:, 2]], axis=1)  # the second and the last say nothing
    landmarks = (100 + 3 * told @ weights.T).reshape(-1, 68, 2)
    readout = fit_readout(codes, landmarks, size=256)
    assert readout.columns == (6, 6, 6, 0)
    found = 256 * readout(torch.from_numpy(codes[:5]).float())
    np.testing.assert_allclose(found, landmarks[:5], atol=6.0)  # the ridge pulls by a tenth
    assert np.corrcoef(found.ravel(), landmarks[:5].ravel())[0, 1] > 0.999
