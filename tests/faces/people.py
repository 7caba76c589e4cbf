"""Synthetic people: detections of faces that move as told."""

from collections.abc import Callable

import numpy as np

from vidinvert.types import Detection

# Five points in a face whose box has its centre at (0, 0) and a side of 1.
FACE_XY = np.array([[-0.2, -0.15], [0.2, -0.15], [0.0, 0.05], [-0.15, 0.25], [0.15, 0.25]])


def face(
    index: int,
    centre_xy: tuple[float, float],
    *,
    size: float = 100.0,
    score: float = 0.8,
    identity: np.ndarray | None = None,
) -> Detection:
    centre = np.array(centre_xy, dtype=np.float64)
    return Detection(
        frame_index=index,
        box_xyxy=np.concatenate([centre - size / 2, centre + size / 2]),
        landmarks_xy=centre + size * FACE_XY,
        score=score,
        identity=identity,
    )


def person(number: int) -> np.ndarray:
    """An identity that is far from every other number's."""
    vector = np.zeros(512, dtype=np.float32)
    vector[number] = 1.0
    return vector


def clip(count: int, *paths: Callable[[int], Detection | None]) -> list[list[Detection]]:
    """Detections of `count` frames; each path says where its face is in a frame, or None."""
    frames = [[path(index) for path in paths] for index in range(count)]
    return [[seen for seen in faces if seen is not None] for faces in frames]


def seconds(count: int, rate: float = 25.0) -> np.ndarray:
    return np.arange(count) / rate
