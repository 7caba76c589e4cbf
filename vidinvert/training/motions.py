"""Directions from motion: move faces' landmarks as an attribute does, and see where the codes go.

Regressed on an attribute, codes say what faces that have it look like on average: broad smiles come
with light teeth, dark corners and other people's cheeks, so such a direction paints more than it
moves. Here every face is warped instead, by as much as its landmarks move with the attribute alone,
and encoded again; the mean change of the codes is a direction that holds nothing but the motion.
"""

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

from vidinvert.faces.landmarks import MIRRORED

Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]

MOTIONS = ("smile", "mouth_open", "eyes_open", "yaw", "pitch")
OUTLINE = slice(0, 17)  # the jaw
# A turning head's outline changes little while its features slide over it; moving the outline with
# them would smear it into whatever is behind, whose colours differ from face to face.
OUTLINE_SHARE = {"yaw": 0.15}
REACH = 1.5  # standard deviations by which faces are warped, either way
CELLS = 32  # of the grid on which a warp is worked out
EDGE_POINTS = 7  # a side, where nothing moves
SMOOTHING = 5.0  # of the thin plate: landmarks are not exact
RIDGE = 1e-3  # of the samples' number


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
            flows.append(spread_motion(points, stacked, size=crop.shape[0]))
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


def spread_motion(points: Float64Array, moves: Float64Array, *, size: int) -> NDArray[np.float32]:
    """Spread moves of points over a square picture by a thin plate that is held at its edge.

    Args:
        points: (P, 2) pixels.
        moves: (P, C), any number of columns.
        size: R, side of the picture.

    Returns:
        float32 (R, R, C).
    """
    side = np.linspace(0.0, size - 1.0, EDGE_POINTS)
    edge = np.array([(x, y) for x in side for y in side if {x, y} & {side[0], side[-1]}])
    held = np.concatenate([moves, np.zeros((len(edge), moves.shape[1]))])
    plate = RBFInterpolator(
        np.concatenate([points, edge]), held, kernel="thin_plate_spline", smoothing=SMOOTHING
    )
    knots = np.linspace(0.0, size - 1.0, CELLS + 1)
    x, y = np.meshgrid(knots, knots)
    coarse = plate(np.stack([x.ravel(), y.ravel()], axis=1)).astype(np.float32)
    coarse = coarse.reshape(CELLS + 1, CELLS + 1, -1)
    place = np.tile(np.arange(size, dtype=np.float32) * (CELLS / (size - 1.0)), (size, 1))
    columns = [
        cv2.remap(np.ascontiguousarray(column), place, place.T.copy(), cv2.INTER_LINEAR)
        for column in np.moveaxis(coarse, 2, 0)
    ]
    return np.asarray(np.stack(columns, axis=2), np.float32)


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
