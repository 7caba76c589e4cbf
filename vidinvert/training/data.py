"""Face pictures for training: a folder with a manifest, read once, drawn without a memory.

Every draw is a function of (seed, images seen so far), so a run that is resumed sees exactly the
pictures that an undisturbed run would have seen.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidinvert.errors import MissingError

UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceSet:
    """Aligned faces in FFHQ framing.

    `images`: uint8 (M, 256, 256, 3) RGB; `split` and `source`: one name a picture; `files`: names
    relative to the folder; `yaw`: degrees / 90 as in the manifest, NaN where it is not given;
    `series`: `identity:attribute:level` of pictures of one person with more and more of something,
    '' elsewhere; empty where the manifest says nothing of it.
    """

    images: UInt8Array
    split: NDArray[np.str_]
    source: NDArray[np.str_]
    files: tuple[str, ...]
    yaw: NDArray[np.float64]
    series: tuple[str, ...] = ()

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the positions of the pictures of a split, in the manifest's order."""
        return np.flatnonzero(self.split == split)


def load_faces(directory: Path, *, size: int = 256) -> FaceSet:
    """Read `manifest.csv` (columns split, set, file, yaw) and the pictures it names.

    A column identity_attribute_level, if there is one, names series; see `FaceSet`.

    Raises:
        MissingError: there is no manifest, or a picture it names cannot be read.
    """
    manifest = directory / "manifest.csv"
    if not manifest.is_file():
        raise MissingError(
            f"{directory} has no manifest.csv, expected columns split, set, file and yaw; "
            "point --data at a folder of aligned faces"
        )
    with manifest.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    files = tuple(f"{row['set']}/{row['file']}" for row in rows)
    images = np.empty((len(rows), size, size, 3), np.uint8)
    for index, name in enumerate(files):
        picture = cv2.imread(str(directory / name), cv2.IMREAD_COLOR)
        if picture is None:
            raise MissingError(f"{directory / name} cannot be read as a picture; restore the file")
        if picture.shape[:2] != (size, size):
            picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
        images[index] = picture[..., ::-1]
    yaw = np.array([float(row["yaw"]) if row.get("yaw") else np.nan for row in rows])
    return FaceSet(
        images=images,
        split=np.array([row["split"] for row in rows]),
        source=np.array([row["set"] for row in rows]),
        files=files,
        yaw=yaw,
        series=tuple(row.get("identity_attribute_level") or "" for row in rows),
    )


def generator_at(seed: int, images_seen: int) -> np.random.Generator:
    """Return the random numbers of the batch that starts after `images_seen` pictures."""
    return np.random.default_rng([seed, images_seen])


def sampling_weights(faces: FaceSet, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weigh sets by the square root of their size, so that small varied sets are not drowned."""
    names, inverse, counts = np.unique(faces.source[rows], return_inverse=True, return_counts=True)
    del names
    weights = 1.0 / np.sqrt(counts[inverse])
    return weights / weights.sum()


def jitter(image: UInt8Array, rng: np.random.Generator, *, strength: float = 1.0) -> UInt8Array:
    """Turn, scale, shift, mirror and relight a picture a little, as imperfect alignment would."""
    size = image.shape[0]
    angle = rng.normal(0.0, 2.5 * strength)
    scale = float(np.exp(rng.normal(0.0, 0.03 * strength)))
    centre = (size - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), angle, scale)
    matrix[:, 2] += rng.normal(0.0, 0.012 * size * strength, 2)
    out = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    if rng.random() < 0.5:
        out = out[:, ::-1]
    gain = np.exp(rng.normal(0.0, 0.08 * strength, 3) * np.array([0.4, 0.4, 0.4]))
    gain = gain * np.exp(rng.normal(0.0, 0.10 * strength))
    lit = np.clip(out.astype(np.float32) * gain.astype(np.float32), 0, 255)
    return np.ascontiguousarray(lit.round().astype(np.uint8))
