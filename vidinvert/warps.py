"""From moves of single points to a motion of the whole picture between them."""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

Float64Array = NDArray[np.float64]

PLATE_CELLS = 32  # of the grid on which the plate is evaluated, a side
PLATE_EDGE_POINTS = 7  # a side, where nothing moves
PLATE_SMOOTHING = 5.0  # of the thin plate: landmarks are not exact


def spread_moves(points_xy: Float64Array, moves: Float64Array, *, size: int) -> NDArray[np.float32]:
    """Spread moves of points over a square picture by a thin plate that is held at its edge.

    Args:
        points_xy: (P, 2) pixels.
        moves: (P, C), any number of columns.
        size: R, side of the picture.

    Returns:
        float32 (R, R, C).
    """
    side = np.linspace(0.0, size - 1.0, PLATE_EDGE_POINTS)
    edge = np.array([(x, y) for x in side for y in side if {x, y} & {side[0], side[-1]}])
    held = np.concatenate([moves, np.zeros((len(edge), moves.shape[1]))])
    plate = RBFInterpolator(
        np.concatenate([points_xy, edge]),
        held,
        kernel="thin_plate_spline",
        smoothing=PLATE_SMOOTHING,
    )
    knots = np.linspace(0.0, size - 1.0, PLATE_CELLS + 1)
    x, y = np.meshgrid(knots, knots)
    coarse = plate(np.stack([x.ravel(), y.ravel()], axis=1)).astype(np.float32)
    coarse = coarse.reshape(PLATE_CELLS + 1, PLATE_CELLS + 1, -1)
    place = np.tile(np.arange(size, dtype=np.float32) * (PLATE_CELLS / (size - 1.0)), (size, 1))
    columns = [
        cv2.remap(np.ascontiguousarray(column), place, place.T.copy(), cv2.INTER_LINEAR)
        for column in np.moveaxis(coarse, 2, 0)
    ]
    return np.asarray(np.stack(columns, axis=2), np.float32)
