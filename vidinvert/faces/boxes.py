"""Boxes (left, top, right, bottom) in pixels: area, overlap, size."""

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]


def area(box_xyxy: Float64Array) -> float:
    """Return a box's area in square pixels, 0 for one turned inside out."""
    width, height = box_xyxy[2] - box_xyxy[0], box_xyxy[3] - box_xyxy[1]
    return float(max(width, 0.0) * max(height, 0.0))


def overlap(a_xyxy: Float64Array, b_xyxy: Float64Array) -> float:
    """Return intersection over union of two boxes, in [0, 1].

    Example:
        >>> overlap(np.array([0.0, 0, 2, 2]), np.array([1.0, 0, 3, 2]))
        0.3333333333333333
    """
    low, high = np.maximum(a_xyxy[:2], b_xyxy[:2]), np.minimum(a_xyxy[2:], b_xyxy[2:])
    shared = float(np.prod(np.maximum(high - low, 0.0)))
    union = area(a_xyxy) + area(b_xyxy) - shared
    return shared / union if union > 0 else 0.0
