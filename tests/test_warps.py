"""Moves of points, spread over a picture."""

import numpy as np

from vidinvert.warps import spread_moves


def test_a_spread_move_moves_the_points_and_holds_the_edge():
    points = np.random.default_rng(1).uniform(24, 72, (68, 2))
    motion = spread_moves(points, np.tile([[3.0, -2.0]], (68, 1)), size=96)
    assert motion.shape == (96, 96, 2)
    assert motion.dtype == np.float32
    np.testing.assert_allclose(motion[48, 48], (3.0, -2.0), atol=0.3)
    edge = np.concatenate([motion[0], motion[-1], motion[:, 0], motion[:, -1]])
    assert np.abs(edge).max() < 0.6


def test_points_that_do_not_move_move_nothing():
    points = np.random.default_rng(1).uniform(24, 72, (68, 2))
    assert np.abs(spread_moves(points, np.zeros((68, 2)), size=64)).max() < 1e-6
