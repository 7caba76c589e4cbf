"""All figures of a pack that its recipe writes into `pack.toml`, from validation faces."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidinvert.appraisal.edits import Editor, appraise_edits
from vidinvert.appraisal.instruments import Instruments, load_instruments
from vidinvert.appraisal.pictures import appraise_blend, appraise_masks, appraise_round_trip
from vidinvert.errors import PlanError
from vidinvert.methods.eigen import EigenSamm
from vidinvert.training.data import FaceSet

MASKED = ("maicom",)  # sets of faces behind masks: they are for trying occlusion
FACES = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """What was measured: `figures` of the pack, and those of its `directions` by name."""

    figures: Mapping[str, float]
    directions: Mapping[str, Mapping[str, float | dict[str, float]]]


def choose_faces(faces: FaceSet, *, count: int = FACES) -> NDArray[np.uint8]:
    """Return at most `count` validation faces (N, R, R, 3), evenly from all sets without masks.

    Raises:
        PlanError: there is none.
    """
    rows = faces.rows("val")
    rows = rows[~np.isin(faces.source[rows], MASKED)]
    if not len(rows):
        raise PlanError(
            "None of the faces is of the split `val`, expected some to measure the pack on; "
            "give manifest.csv some"
        )
    return np.asarray(faces.images[rows[:: max(1, len(rows) // count)][:count]])


def appraise(
    editor: Editor,
    faces: FaceSet,
    data: Path,
    helpers: Path,
    *,
    count: int = FACES,
    names: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Appraisal:
    """Measure a pack on validation faces.

    Args:
        editor: of the pack.
        faces: the pictures of `data`, as large as the method's crops.
        data: the folder with `omi_ratings.csv`.
        helpers: the folder of helper networks; see `load_instruments`.
        count: faces at most.
        names: directions to measure, and nothing else (none: nothing is measured); None: all of
            them, and how the pack inverts.
        progress: called with the directions done and their number.

    Raises:
        PlanError: there are no validation faces, they have another size, or the pack lacks a
            direction of `names`.
    """
    unknown = sorted({*(names or ())} - {*editor.directions})
    if unknown:
        raise PlanError(
            f"The pack has no edits named {', '.join(unknown)}; it has "
            f"{', '.join(sorted(editor.directions))}"
        )
    if names is not None and not names:
        return Appraisal(figures={}, directions={})
    crops = choose_faces(faces, count=count)
    if crops.shape[1] != editor.method.crop_size:
        raise PlanError(
            f"The faces have {crops.shape[1]} pixels a side, expected "
            f"{editor.method.crop_size} as the pack's crops; load them in that size"
        )
    instruments = load_instruments(faces, data, helpers)
    if names is not None:
        measured = appraise_edits(crops, editor, instruments, names=tuple(names), progress=progress)
        return Appraisal(figures={}, directions=measured)
    return Appraisal(
        figures={
            "val_faces": float(len(crops)),
            **appraise_inversion(crops, editor, instruments),
            **{f"{n}_probe_correlation": c for n, c in instruments.ratings.correlation.items()},
        },
        directions=appraise_edits(crops, editor, instruments, progress=progress),
    )


def appraise_inversion(
    crops: NDArray[np.uint8], editor: Editor, instruments: Instruments
) -> dict[str, float]:
    """Measure a pack's pictures and masks of crops (N, R, R, 3)."""
    method = editor.method
    figures: dict[str, float] = {}
    if isinstance(method, EigenSamm):
        figures |= appraise_round_trip(
            crops,
            lambda pictures: method.encoder(pictures.to(method.dtype)).latents,
            lambda latents: method.decoder(latents).float(),
            instruments.perceptual,
        )
    figures |= appraise_blend(crops, method, instruments.perceptual, instruments.identity)
    return figures | appraise_masks(crops, method)
