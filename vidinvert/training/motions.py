"""Directions from motion: move faces' landmarks as an attribute does, and see where the codes go.

Regressed on an attribute, codes say what faces that have it look like on average: broad smiles come
with light teeth, dark corners and other people's cheeks, so such a direction paints more than it
moves. Here every face is warped instead, by as much as its landmarks move with the attribute alone,
and encoded again; the mean change of the codes is a direction that holds nothing but the motion.
"""

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidinvert.faces.landmarks import MIRRORED
from vidinvert.types import LandmarkReadout
from vidinvert.warps import spread_moves

Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]

MOTIONS = ("smile", "mouth_open", "eyes_open", "yaw", "pitch")
OUTLINE = slice(0, 17)  # the jaw
# A turning head's outline changes little while its features slide over it; moving the outline with
# them would smear it into whatever is behind, whose colours differ from face to face.
OUTLINE_SHARE = {"yaw": 0.15}
# Attributes that move landmarks as their series say (see `series_motion`).
SERIES_MOTIONS = ("gender", "weight")
REACH = 1.5  # standard deviations by which faces are warped, either way
RIDGE = 1e-3  # of the samples' number
READ_COLUMNS = (512, 1024, 512, 0)  # components of each code that landmarks are read from
READ_RIDGE = 0.1  # of the samples' number


def landmark_motions(
    landmarks: Float64Array, measures: Mapping[str, Float64Array], names: Sequence[str] = MOTIONS
) -> dict[str, Float64Array]:
    """Return how landmarks move with one standard deviation of a measure, the others held fixed.

    Args:
        landmarks: (M, 68, 2) in pixels.
        measures: (M,) by name: of the attributes, and of all else that shall be held fixed.
        names: attributes whose motion is wanted.

    Returns:
        (68, 2) pixels by name, less of the outline where `OUTLINE_SHARE` says so.
    """
    values = np.stack(list(measures.values()), axis=1)
    inputs = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-12)
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)  # (M, A + 1)
    gram = inputs.T @ inputs + RIDGE * len(inputs) * np.eye(inputs.shape[1])
    found = np.linalg.solve(gram, inputs.T @ landmarks.reshape(len(landmarks), -1))
    motions: dict[str, Float64Array] = {}
    for row, name in enumerate(measures):
        if name in names:
            motions[name] = found[row].reshape(-1, 2).copy()
            motions[name][OUTLINE] *= OUTLINE_SHARE.get(name, 1.0)
    return motions


def series_motion(
    landmarks: Float64Array,
    measures: Mapping[str, Float64Array],
    ends: NDArray[np.int64],
) -> Float64Array:
    """Return how landmarks move from the first to the last pictures of series, measures held fixed.

    What the series change of the measures beside is taken out again, by `landmark_motions`: people
    who are shown heavier smile less, and lie elsewhere in the crop.

    Args:
        landmarks: (M, 68, 2) in pixels.
        measures: (M,) by name, which shall not change.
        ends: (P, 2) positions in `landmarks` of first and last pictures.

    Returns:
        (68, 2) in pixels.
    """
    first, last = ends.T
    motion = (landmarks[last] - landmarks[first]).mean(axis=0)
    beside = landmark_motions(landmarks, measures, tuple(measures))
    for name, values in measures.items():
        change = (values[last] - values[first]).mean() / max(float(values.std()), 1e-12)
        motion -= change * beside[name]
    return motion


def motion_directions(
    crops: UInt8Array,
    landmarks: Float64Array,
    motions: Mapping[str, Float64Array],
    embed: Callable[[UInt8Array], Float64Array],
    *,
    batch_size: int = 8,
) -> dict[str, tuple[Float64Array, Float64Array]]:
    """Return the mean change of the codes as each motion is done by one, and its standard error.

    Args:
        crops: (N, R, R, 3) RGB; every second one is mirrored, so that no side is favoured.
        landmarks: (N, 68, 2) of the crops, in pixels.
        motions: (68, 2) pixels by name, as from `landmark_motions`.
        embed: codes (n, L, D) of pictures (n, R, R, 3).
        batch_size: n at most.

    Returns:
        Two arrays (L, D) a name.
    """
    changes: dict[str, list[Float64Array]] = {name: [] for name in motions}
    stacked = np.concatenate(list(motions.values()), axis=1)  # (68, 2 * A)
    for start in range(0, len(crops), batch_size):
        pictures, flows = [], []
        for index in range(start, min(start + batch_size, len(crops))):
            crop, points = np.asarray(crops[index]), landmarks[index]
            if index % 2:
                crop, points = _mirror(crop, points)
            pictures.append(np.ascontiguousarray(crop))
            flows.append(spread_moves(points, stacked, size=crop.shape[0]))
        for number, name in enumerate(motions):
            moved = [flow[..., 2 * number : 2 * number + 2] for flow in flows]
            ends = [
                embed(np.stack([warp(p, s * f) for p, f in zip(pictures, moved, strict=True)]))
                for s in (REACH, -REACH)
            ]
            changes[name].append((ends[0] - ends[1]) / (2 * REACH))
    found: dict[str, tuple[Float64Array, Float64Array]] = {}
    for name, parts in changes.items():
        change = np.concatenate(parts)  # (N, L, D)
        found[name] = change.mean(axis=0), change.std(axis=0) / len(change) ** 0.5
    return found


def _mirror(crop: UInt8Array, points: Float64Array) -> tuple[UInt8Array, Float64Array]:
    side = crop.shape[1] - 1.0
    return crop[:, ::-1], points[MIRRORED] * np.array([-1.0, 1.0]) + np.array([side, 0.0])


def warp(picture: UInt8Array, motion: NDArray[np.float32]) -> UInt8Array:
    """Move the pixels of a picture (R, R, 3) by a motion (R, R, 2), small against its own scale."""
    size = picture.shape[0]
    x, y = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    moved = cv2.remap(
        picture,
        x - motion[..., 0].astype(np.float32),
        y - motion[..., 1].astype(np.float32),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(moved, dtype=np.uint8)


def fit_readout(codes: Float64Array, landmarks: Float64Array, *, size: int) -> LandmarkReadout:
    """Regress landmarks (M, P, 2), in pixels of pictures of side `size`, on codes (M, L, D)."""
    columns = tuple(min(n, codes.shape[2]) for n in READ_COLUMNS)
    inputs = np.concatenate([codes[:, k, :n] for k, n in enumerate(columns)], axis=1)
    targets = landmarks.reshape(len(landmarks), -1) / size
    mean = targets.mean(axis=0)
    gram = inputs.T @ inputs + READ_RIDGE * len(inputs) * np.eye(inputs.shape[1])
    weight = np.linalg.solve(gram, inputs.T @ (targets - mean)).T  # (2 P, C)
    return LandmarkReadout(
        weight=torch.from_numpy(weight.astype(np.float32)),
        mean=torch.from_numpy(mean.astype(np.float32)),
        columns=columns,
    )
