"""Fit edit directions: least squares of the codes on standardised attributes, all of them at once.

Because the regression is joint, a direction holds the other attributes fixed, and light and colours
too, which are regressors without a direction of their own. 1.0 is one standard deviation over the
set.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vidinvert.faces.landmarks import MIRRORED, LandmarkNetwork, expression_measures
from vidinvert.training.data import FaceSet
from vidinvert.types import LatentDirection

Float64Array = NDArray[np.float64]

LANDMARK_ATTRIBUTES = ("smile", "mouth_open", "eyes_open", "yaw", "pitch")
PLACEMENT = ("eye_distance", "eye_x", "eye_y", "roll")  # see `_placement`
COLOUR_ATTRIBUTES = {"skin_warmth": "face_warmth"}  # direction -> what is measured for it
RATED_ATTRIBUTES = {  # direction -> column of the ratings, and whether more of it means less
    "age": ("age", False),
    "gender": ("gender", False),
    "weight": ("weight", False),
    "long_haired": ("long_haired", False),
    "hair_brightness": ("hair_color", True),
    "happy": ("happy", False),
}
# Read off faces as much by smile and open mouth as by itself: regressed without these two.
COMPOUND_ATTRIBUTES = {"happy": ("smile", "mouth_open")}
# Attributes of which there may be series (one person, younger and older), and how much of what
# these say is added: they are few, and some of their hair and skin goes into it. What ratings say
# too little of (`weight`) is taken from series alone.
SERIES_ATTRIBUTES = {"age": 0.5, "gender": 0.4, "weight": 1.0}
LEAST_SERIES = 8
RIDGE = 0.02  # of the samples' number: the ridge on codes when a rating is predicted from them


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedDirection:
    """A direction, and how well its attribute is read out of the codes linearly, on held-out faces.

    `correlation`: between the attribute and that read-out.
    """

    direction: LatentDirection
    correlation: float


def find_landmarks(
    faces: FaceSet, rows: NDArray[np.int64], network: LandmarkNetwork
) -> Float64Array:
    """Return (len(rows), 68, 2) landmarks of the pictures, in their pixels."""
    points = [
        network(np.asarray(faces.images[rows[start : start + 16]]))
        for start in range(0, len(rows), 16)
    ]
    return np.concatenate(points)


def measure_faces(
    faces: FaceSet, rows: NDArray[np.int64], landmarks: Float64Array
) -> dict[str, Float64Array]:
    """Measure `LANDMARK_ATTRIBUTES` and the nuisances (light, colours) of pictures and mirrors.

    Returns:
        (2 * len(rows),) values by name: all pictures, then all their mirror images.
    """
    both = with_mirrors(landmarks, side=faces.images.shape[1])
    values = {**expression_measures(both), **_placement(both)}
    chunks: list[dict[str, Float64Array]] = []
    for flip in (False, True):
        for start in range(0, len(rows), 64):
            images = np.asarray(faces.images[rows[start : start + 64]])
            chunks.append(measure_light(images[:, :, ::-1] if flip else images))
    light = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return {**values, **light}


def with_mirrors(landmarks: Float64Array, *, side: int) -> Float64Array:
    """Return landmarks (N, 68, 2), then those of the mirrored pictures: (2 * N, 68, 2)."""
    mirrored = landmarks[:, MIRRORED] * np.array([-1.0, 1.0]) + np.array([side - 1.0, 0.0])
    return np.concatenate([landmarks, mirrored])


def _placement(landmarks: Float64Array) -> dict[str, Float64Array]:
    """Where and how large the face lies in the crop.

    The crop is placed by eyes and mouth, so a smile, which lifts the mouth's corners, makes the
    whole face larger in it. Held fixed, the directions leave nose and head at their size.
    """
    left, right = landmarks[:, 36:42].mean(axis=1), landmarks[:, 42:48].mean(axis=1)
    middle = (left + right) / 2
    return {
        "eye_distance": np.linalg.norm(right - left, axis=1),
        "eye_x": middle[:, 0],
        "eye_y": middle[:, 1],
        "roll": np.arctan2(right[:, 1] - left[:, 1], right[:, 0] - left[:, 0]),
    }


def measure_light(images: NDArray[np.uint8]) -> dict[str, Float64Array]:
    """Brightness and warmth of the face and of the upper corners (the background)."""
    side = images.shape[1]
    face = images[:, side * 3 // 8 : side * 3 // 4, side * 3 // 8 : side * 5 // 8]
    corner = side // 5
    corners = np.concatenate([images[:, :corner, :corner], images[:, :corner, -corner:]], axis=2)
    values: dict[str, Float64Array] = {}
    for name, region in (("face", face), ("back", corners)):
        mean = region.reshape(len(images), -1, 3).mean(axis=1) / 255.0  # (N, 3)
        values[f"{name}_light"] = mean.mean(axis=1)
        values[f"{name}_warmth"] = mean[:, 0] - mean[:, 2]
        values[f"{name}_green"] = mean[:, 1] - mean.mean(axis=1)
    left = images[:, side // 3 : side * 2 // 3, side // 4 : side // 2].mean(axis=(1, 2, 3))
    right = images[:, side // 3 : side * 2 // 3, side // 2 : side * 3 // 4].mean(axis=(1, 2, 3))
    values["side_light"] = (right - left) / 255.0
    return values


def read_ratings(path: Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Read mean ratings in 0..100 by file name: of `names`, those whose column is there."""
    ratings: dict[str, dict[str, float]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            found: dict[str, float] = {}
            for name in names:
                column, reversed_scale = RATED_ATTRIBUTES[name]
                if column in row:
                    value = float(row[column])
                    found[name] = 100.0 - value if reversed_scale else value
            ratings[row["file"]] = found
    return ratings


def predict_ratings(
    codes: Float64Array,
    faces: FaceSet,
    rows: NDArray[np.int64],
    ratings: Mapping[str, Mapping[str, float]],
    name: str,
) -> tuple[Float64Array, float]:
    """Spread a rating from the rated set to all pictures by ridge regression on their codes.

    Args:
        codes: (V * len(rows), K): every version (original, mirrored, ...) of every row.
        faces: the set; ratings are found by its file names, those of the set `omi`.
        rows: the pictures that the codes are of.
        ratings: by file name within that set, then by attribute.
        name: of the attribute.

    Returns:
        One value a row of `codes`, and the correlation on a held-out fifth of the rated pictures.
    """
    files = [faces.files[row] for row in rows]
    rated = [i for i, file in enumerate(files) if file.startswith("omi/") and file[4:] in ratings]
    values = np.array([ratings[files[i][4:]][name] for i in rated])
    versions = len(codes) // len(rows)
    held = np.arange(len(rated)) % 5 == 0
    index = np.array(rated)

    def fit(chosen: NDArray[np.bool_]) -> tuple[Float64Array, float]:
        inputs = np.concatenate([codes[v * len(rows) + index[chosen]] for v in range(versions)])
        targets = np.tile(values[chosen] - values.mean(), versions)
        gram = inputs.T @ inputs + RIDGE * len(inputs) * np.eye(inputs.shape[1])
        return _solve(gram, inputs.T @ targets), float(values.mean())

    weights, mean = fit(~held)
    predicted = codes[index[held]] @ weights + mean
    correlation = float(np.corrcoef(predicted, values[held])[0, 1])
    weights, mean = fit(np.ones(len(rated), bool))
    return codes @ weights + mean, correlation


def fit_directions(
    codes: Float64Array,
    attributes: Mapping[str, Float64Array],
    names: Sequence[str],
    *,
    shape: tuple[int, int],
    source: str,
    groups: NDArray[np.int64],
) -> dict[str, FittedDirection]:
    """Regress codes (M, L * D) on all `attributes` at once and keep the directions in `names`.

    `groups`: which picture each sample is a version of; the correlation is measured on a fifth of
    the pictures, by projecting their codes on a read-out fitted on the others.
    """
    order = list(attributes)
    values = np.stack([attributes[name] for name in order], axis=1)
    standard = (values - values.mean(axis=0)) / values.std(axis=0)
    held = groups % 5 == 0
    coefficients = shrink(*_least_squares(standard, codes))
    fitted: dict[str, FittedDirection] = {}
    for name in names:
        column = order.index(name)
        vector = coefficients[column].reshape(shape).astype(np.float32)
        correlation = _read_out(codes, standard[:, column], held)
        fitted[name] = FittedDirection(
            direction=LatentDirection(
                name=name,
                vector=torch.from_numpy(vector),
                layers=tuple(range(shape[0])),
                unit="1.0 = one standard deviation over the training faces",
                source=source,
            ),
            correlation=correlation,
        )
    return fitted


def _least_squares(
    standard: Float64Array, codes: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return the coefficients (A, K) and their standard errors."""
    inputs = np.concatenate([standard, np.ones((len(standard), 1))], axis=1)
    gram = inputs.T @ inputs + 1e-3 * len(inputs) * np.eye(inputs.shape[1])
    found = _solve(gram, inputs.T @ codes)
    noise = np.square(codes - inputs @ found).mean(axis=0)  # (K,)
    spread = np.diag(np.linalg.inv(gram))  # (A + 1,)
    return found[:-1], np.sqrt(spread[:-1, None] * noise)


def follow_series(
    fitted: Mapping[str, FittedDirection],
    codes: Float64Array,
    faces: FaceSet,
    rows: NDArray[np.int64],
    values: Mapping[str, Float64Array],
    *,
    shape: tuple[int, int],
    correlations: Mapping[str, float],
) -> dict[str, FittedDirection]:
    """Return the directions of which there are series, with what these say added.

    Regression says how older people look, and series how one person ages. Where regression found
    no direction, series make one by themselves.

    Args:
        fitted: by regression.
        codes: (V * len(rows), K): every version of every row.
        faces: the set, whose `series` say which pictures belong together.
        rows: the pictures that the codes are of.
        values: (V * len(rows),) attributes by name.
        shape: (L, D) of a direction; K numbers.
        correlations: of the attributes' read-outs, where regression found no direction.
    """
    found: dict[str, FittedDirection] = {}
    for name, share in SERIES_ATTRIBUTES.items():
        if name not in values:
            continue
        standard = (values[name] - values[name].mean()) / values[name].std()
        change = series_direction(codes, faces, rows, name, standard)
        if change is None:
            continue
        added = share * torch.from_numpy(change.astype(np.float32)).reshape(shape)
        source = "series of one person with more and more of it"
        if name in fitted:
            known = fitted[name].direction
            direction = replace(
                known, vector=known.vector + added, source=f"{known.source}; and {source}"
            )
            found[name] = replace(fitted[name], direction=direction)
        elif name in correlations:
            direction = LatentDirection(
                name=name,
                vector=added,
                layers=tuple(range(shape[0])),
                unit="1.0 = one standard deviation over the training faces",
                source=source,
            )
            found[name] = FittedDirection(direction=direction, correlation=correlations[name])
    return found


def series_ends(faces: FaceSet, rows: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    """Return (P, 2) the positions in `rows` of the first and last picture of each series."""
    found: dict[str, dict[int, int]] = {}
    for position, row in enumerate(rows.tolist()):
        parts = faces.series[row].split(":") if faces.series else []
        if len(parts) == 3 and parts[1] == name:
            found.setdefault(parts[0], {})[int(parts[2])] = position
    ends = [(members[min(members)], members[max(members)]) for members in found.values()]
    return np.array([pair for pair in ends if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def series_length(
    faces: FaceSet, rows: NDArray[np.int64], name: str, standard: Float64Array
) -> float:
    """Return by how many standard deviations an attribute grows along its series, at least 0.1.

    0 where there are fewer than `LEAST_SERIES`; see `series_direction`.
    """
    ends = series_ends(faces, rows, name)
    if len(ends) < LEAST_SERIES:
        return 0.0
    versions = np.arange(len(standard) // len(rows)) * len(rows)
    first, last = (versions[:, None] + ends[:, k] for k in (0, 1))  # (V, P)
    return max(float((standard[last] - standard[first]).mean()), 0.1)


def series_direction(
    codes: Float64Array,
    faces: FaceSet,
    rows: NDArray[np.int64],
    name: str,
    standard: Float64Array,
) -> Float64Array | None:
    """Return how codes change within series of one person by one standard deviation of `name`.

    Args:
        codes: (V * len(rows), K): every version of every row.
        faces: the set, whose `series` say which pictures belong together.
        rows: the pictures that the codes are of.
        name: of the attribute.
        standard: (V * len(rows),) the attribute, standardised: by it a series' length is measured.

    Returns:
        (K,) the mean of last less first pictures, less what chance explains (`shrink`), or None
        where there are fewer than `LEAST_SERIES`.
    """
    length = series_length(faces, rows, name, standard)
    if length == 0.0:
        return None
    ends = series_ends(faces, rows, name)
    versions = np.arange(len(codes) // len(rows)) * len(rows)
    first, last = (versions[:, None] + ends[:, k] for k in (0, 1))  # (V, P)
    changes = (codes[last] - codes[first]).mean(axis=0)  # (P, K)
    error = changes.std(axis=0) / len(ends) ** 0.5
    return shrink(changes.mean(axis=0), error) / length


def shrink(coefficients: Float64Array, errors: Float64Array) -> Float64Array:
    """Pull coefficients towards 0 as far as chance explains them: c * max(0, 1 - (2 e / c)^2).

    The fine codes are many and each is nearly noise; without this a direction carries a grain that
    grows with the strength (positive-part James-Stein shrinkage, at two standard errors).
    """
    share = np.square(2.0 * errors / np.where(coefficients == 0.0, 1.0, coefficients))
    return coefficients * np.clip(1.0 - share, 0.0, None)


def _read_out(codes: Float64Array, target: Float64Array, held: NDArray[np.bool_]) -> float:
    inputs = codes[~held]
    gram = inputs.T @ inputs + RIDGE * len(inputs) * np.eye(inputs.shape[1])
    weights = _solve(gram, inputs.T @ target[~held])
    return float(np.corrcoef(codes[held] @ weights, target[held])[0, 1])


def _solve(gram: Float64Array, right: Float64Array) -> Float64Array:
    return np.asarray(np.linalg.solve(gram, right), np.float64)
