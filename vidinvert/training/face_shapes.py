"""Give a labelled face another shape: mouths narrower, lifted, askew, noses and eyes shifted.

Portraits smile at the camera, so a network can guess a mouth's corners from the eyes alone. Here
the five points are moved at random, the picture's neighbourhoods with them, and only who looks at
the mouth itself can tell where its corners went. A nose moved sideways stands in for a turned head.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from vidinvert.training.face_labels import FaceLabels

Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]

# Deviations of (right, down), and the width of the bump, over the distance between the eyes.
EYE, EYE_WIDTH = (0.02, 0.03), 0.22
NOSE, NOSE_WIDTH = (0.07, 0.05), 0.30
MOUTH, MOUTH_WIDTH = (0.05, 0.06), 0.55
CORNER, CORNER_WIDTH = (0.03, 0.03), 0.24
CORNERS_APART, CORNERS_LIFTED = 0.09, 0.06  # both corners together: outwards, down
MOST = 2.0  # deviations; more would fold the picture
ROUNDS = 12  # of the fixed point that says where a point went


def vary_shape(
    rng: np.random.Generator, crop: UInt8Array, labels: FaceLabels
) -> tuple[UInt8Array, FaceLabels]:
    """Return the crop (H, W, 3) with its first face in another shape, and its labels moved along.

    Boxes stay; points of all faces follow the picture to within a hundredth of a pixel.
    """
    centres, widths, moves = _draw_bumps(rng, labels.points_xy[0].astype(np.float64))
    height, width = crop.shape[:2]
    x, y = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    across = np.exp(-0.5 * np.square((x[None] - centres[:, :1]) / widths[:, None]))  # (B, W)
    along = np.exp(-0.5 * np.square((y[None] - centres[:, 1:]) / widths[:, None]))  # (B, H)
    shown_x = x[None] - (along * moves[:, :1]).T @ across  # (H, W)
    shown_y = y[:, None] - (along * moves[:, 1:]).T @ across
    moved = cv2.remap(
        np.ascontiguousarray(crop),
        shown_x.astype(np.float32),
        shown_y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    points = labels.points_xy.reshape(-1, 2).astype(np.float64)  # (K * 5, 2)
    found = points.copy()
    for _ in range(ROUNDS):
        away = np.square(found[:, None] - centres[None]).sum(axis=2)  # (K * 5, B)
        found = points + np.exp(-0.5 * away / np.square(widths)) @ moves
    return np.asarray(moved, np.uint8), FaceLabels(
        boxes_xyxy=labels.boxes_xyxy,
        points_xy=found.reshape(labels.points_xy.shape).astype(np.float32),
    )


def _draw_bumps(
    rng: np.random.Generator, five: Float64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Draw Gaussian bumps: centres (B, 2), widths (B,) and moves (B, 2), all in pixels."""
    across = five[1] - five[0]
    down = np.array([-across[1], across[0]])
    size = float(np.linalg.norm(across))

    def draw(deviation: tuple[float, float]) -> Float64Array:
        right, below = np.clip(rng.standard_normal(2), -MOST, MOST) * deviation
        return right * across + below * down

    apart, lifted = np.clip(rng.standard_normal(2), -MOST, MOST) * (CORNERS_APART, CORNERS_LIFTED)
    bumps = [
        (five[0], EYE_WIDTH, draw(EYE)),
        (five[1], EYE_WIDTH, draw(EYE)),
        (five[2], NOSE_WIDTH, draw(NOSE)),
        (five[3:].mean(axis=0), MOUTH_WIDTH, draw(MOUTH)),
        (five[3], CORNER_WIDTH, draw(CORNER) - apart * across + lifted * down),
        (five[4], CORNER_WIDTH, draw(CORNER) + apart * across + lifted * down),
    ]
    centres, widths, moves = (np.array(values) for values in zip(*bumps, strict=True))
    return centres, widths * max(size, 1.0), moves
