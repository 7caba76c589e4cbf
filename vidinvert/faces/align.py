"""Turns a track's key points into crops: FFHQ's framing, frame by frame."""

import numpy as np
from numpy.typing import NDArray

from vidinvert.geometry import (
    crop_from_quad,
    ffhq_quads,
    fit_similarity,
    five_of_68,
    transform_points,
)
from vidinvert.reach import CORNERS, MOUTH
from vidinvert.types import Alignment, FaceTrack


def align(track: FaceTrack, *, crop_size: int) -> Alignment:
    """Place a crop of `crop_size` pixels on the track's face in each of its frames.

    The result is as unsteady as the key points; `stabilizers.smooth_similarities` steadies it.

    Raises:
        ValueError: `crop_size` is not positive.
    """
    if crop_size < 1:
        raise ValueError(f"crop_size is {crop_size}, expected a number of pixels >= 1")
    quads_xy = ffhq_quads(track.landmarks_xy)  # (T, 4, 2)
    transforms = [crop_from_quad(quad_xy, crop_size) for quad_xy in quads_xy]
    return Alignment(
        crop_from_frame=np.array(transforms, dtype=np.float64).reshape(-1, 2, 3),
        crop_size=crop_size,
        indices=track.indices,
        quads_xy=quads_xy,
    )


def find_key_points(track: FaceTrack, alignment: Alignment) -> NDArray[np.float64]:
    """Return a track's five key points, (T, 5, 2), in shares of its crops' side."""
    pairs = zip(alignment.crop_from_frame, track.landmarks_xy, strict=True)
    placed = np.array([transform_points(matrix, points) for matrix, points in pairs])
    return (placed.reshape(-1, 5, 2) + 0.5) / alignment.crop_size


def place_landmarks(
    points: NDArray[np.float64], key_points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Move 68 landmarks to where a face was detected: they keep their shape, and the mouth its own.

    Landmarks that are read out of codes, which were averaged over time, lag behind a head that
    moves, and have the width of a usual mouth.

    Args:
        points: (T, 68, 2) in Multi-PIE order.
        key_points: (T, 5, 2) in the same unit: eyes, nose, corners of the mouth.

    Returns:
        (T, 68, 2): moved, turned and scaled as five of them fit the key points best; those of the
        mouth so that its corners are the detected ones.
    """
    placed = points.copy()
    for frame, (own, found) in enumerate(zip(five_of_68(points), key_points, strict=True)):
        placed[frame] = transform_points(fit_similarity(own, found), points[frame])
        corners = placed[frame, CORNERS]
        if np.ptp(corners, axis=0).any() and np.ptp(found[3:], axis=0).any():
            moved = fit_similarity(corners, found[3:])
            placed[frame, MOUTH] = transform_points(moved, placed[frame, MOUTH])
    return placed
