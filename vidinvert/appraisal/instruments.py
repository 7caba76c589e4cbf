"""What faces are measured with: landmarks, ratings read off a perceptual network, likeness.

None of it looks at a pack's codes: what a pack's edits do is judged from pictures alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from vidinvert import images
from vidinvert.faces.landmarks import LandmarkNetwork, expression_measures
from vidinvert.faces.likeness import IdentityNetwork
from vidinvert.networks.squeezenet import SqueezeFeatures
from vidinvert.training.autoencoder import load_perceptual
from vidinvert.training.data import FaceSet
from vidinvert.training.directions import (
    COLOUR_ATTRIBUTES,
    RATED_ATTRIBUTES,
    measure_light,
    read_ratings,
)

Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]

INNER_ROWS, INNER_COLUMNS = slice(48, 240), slice(40, 216)  # of 256: the face with brows and chin
POOLED = 6  # cells a side of the features that ratings are read from
RIDGE = 0.3  # of the features' number


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instruments:
    """What faces are measured with; `identity` is None where no such network was given."""

    perceptual: SqueezeFeatures
    landmarks: LandmarkNetwork
    ratings: "RatingProbe"
    identity: IdentityNetwork | None

    def measure(self, crops: UInt8Array) -> dict[str, Float64Array]:
        """Measure crops (N, 256, 256, 3): a value (N,) by the name of the direction it is for."""
        light = measure_light(crops)
        return {
            **expression_measures(self.landmarks(crops)),
            **{name: light[measured] for name, measured in COLOUR_ATTRIBUTES.items()},
            **self.ratings(crops),
        }


def load_instruments(faces: FaceSet, data: Path, helpers: Path) -> Instruments:
    """Load the helper networks of a folder and fit the ratings.

    Args:
        faces: the pictures of `data`; those of the split `train` that were rated are fitted on.
        data: the folder with `omi_ratings.csv`.
        helpers: the folder with `perceptual/`, `landmarks/` and, if identity shall be measured,
            `identity/`.
    """
    perceptual = load_perceptual(next(iter(sorted(helpers.glob("perceptual/squeezenet*.npz")))))
    identity = sorted(helpers.glob("identity/*.onnx"))
    return Instruments(
        perceptual=perceptual,
        landmarks=LandmarkNetwork(next(iter(sorted(helpers.glob("landmarks/*68*.onnx"))))),
        ratings=RatingProbe(faces, data / "omi_ratings.csv", perceptual),
        identity=IdentityNetwork(identity[0]) if identity else None,
    )


def batches(count: int, size: int = 8) -> Iterator[slice]:
    """Yield slices that cover `count` items."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


class RatingProbe:
    """Ridge regression of mean human ratings on SqueezeNet's features.

    Attributes:
        correlation: by rating, between its guess and the ratings of a fifth of the rated faces
            that was held out.
    """

    def __init__(self, faces: FaceSet, ratings: Path, perceptual: SqueezeFeatures) -> None:
        """Fit on the training faces of the set `omi` that were rated."""
        self._perceptual = perceptual
        rated = read_ratings(ratings, tuple(RATED_ATTRIBUTES))
        rows = [
            row
            for row in faces.rows("train").tolist()
            if faces.files[row].startswith("omi/") and faces.files[row][4:] in rated
        ]
        found = [rated[faces.files[row][4:]] for row in rows]
        self.names = tuple(n for n in RATED_ATTRIBUTES if found and all(n in f for f in found))
        values = np.array([[f[name] for name in self.names] for f in found])  # (M, A)
        inputs = self._describe(np.asarray(faces.images[rows]))
        self._mean, self._spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
        self._offset = values.mean(axis=0)
        inputs = (inputs - self._mean) / self._spread
        held = np.arange(len(rows)) % 5 == 0
        guess = inputs[held] @ self._fit(inputs[~held], values[~held])
        self.correlation = {
            name: float(np.corrcoef(guess[:, k], values[held, k])[0, 1])
            for k, name in enumerate(self.names)
        }
        self._weights = self._fit(inputs, values)  # (features, A)

    def _fit(self, inputs: Float64Array, values: Float64Array) -> Float64Array:
        gram = inputs @ inputs.T + RIDGE * inputs.shape[1] * np.eye(len(inputs))
        return inputs.T @ np.linalg.solve(gram, values - self._offset)

    @torch.inference_mode()
    def _describe(self, crops: UInt8Array) -> Float64Array:
        rows = []
        for part in batches(len(crops), 16):
            face = images.to_float(crops[part])[:, :, INNER_ROWS, INNER_COLUMNS]
            taps = self._perceptual(face)
            pooled = [F.adaptive_avg_pool2d(tap, POOLED).flatten(1) for tap in taps[1:]]
            rows.append(torch.cat(pooled, dim=1).double().numpy())
        return np.concatenate(rows)

    def __call__(self, crops: UInt8Array) -> dict[str, Float64Array]:
        """Guess the ratings of crops (N, 256, 256, 3), in rating points: (N,) by name."""
        inputs = (self._describe(crops) - self._mean) / self._spread
        guess = inputs @ self._weights + self._offset
        return {name: guess[:, k] for k, name in enumerate(self.names)}
