"""What a pack's edits do to faces that it was not trained on: effect, side effects, likeness."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vidinvert import images
from vidinvert.appraisal.instruments import Instruments, batches
from vidinvert.changes import EditedFace
from vidinvert.editing import apply_edit, apply_motion, colour_kept, parse_edits
from vidinvert.geometry import quad_from_crop
from vidinvert.inversion import mask_size
from vidinvert.methods import Method
from vidinvert.rendering import render
from vidinvert.training.directions import COMPOUND_ATTRIBUTES, LANDMARK_ATTRIBUTES
from vidinvert.types import (
    Alignment,
    FrameBatch,
    Inversion,
    InvertibilityMask,
    LandmarkReadout,
    LatentDirection,
    Latents,
    RenderPlan,
)

UInt8Array = NDArray[np.uint8]
Float64Array = NDArray[np.float64]

COURSE = (-3.0, -1.5, 0.0, 1.5, 3.0)  # the strengths along which a measure shall grow
JUDGED = 2.0  # the strength at which effect, side effects and likeness are taken
SIDE_EFFECTS = (*LANDMARK_ATTRIBUTES, "age")  # what an edit for something else shall leave alone


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Editor:
    """What edits of a pack are done with: all of it but the detector, since crops are given."""

    method: Method
    directions: Mapping[str, LatentDirection]
    landmarks: LandmarkReadout | None
    device: str = "cpu"


@torch.inference_mode()
def edit_crops(crops: UInt8Array, editor: Editor, name: str, strength: float) -> UInt8Array:
    """Edit aligned crops (N, R, R, 3) as `vidinvert edit` does by default, each a clip by itself.

    Args:
        crops: as large as the method's.
        editor: of the pack.
        name: of the direction.
        strength: of the edit.
    """
    method = editor.method
    plan = parse_edits([f"{name}={strength}"], editor.directions)
    side, as_it_is = mask_size(method.crop_size), np.eye(2, 3)
    out = []
    for part in batches(len(crops)):
        source = images.to_float(crops[part], device=editor.device)
        embedding = method.embed(source)
        ood = method.synthesise(embedding, embedding.w_plus).ood
        indices = np.arange(len(source), dtype=np.int64)
        seconds = np.zeros(len(source))
        codes = Latents(w_plus=embedding.w_plus.float().cpu(), indices=indices)
        motion = None
        if editor.landmarks is not None:
            motion = apply_motion(editor.landmarks(codes.w_plus), plan, face=0, seconds=seconds)
        face = EditedFace(
            alignment=Alignment(
                crop_from_frame=np.tile(as_it_is, (len(source), 1, 1)),
                crop_size=method.crop_size,
                indices=indices,
                quads_xy=np.tile(quad_from_crop(as_it_is, method.crop_size), (len(source), 1, 1)),
            ),
            inversion=Inversion(
                latents=codes,
                mask=InvertibilityMask(
                    ood=images.mask_to_uint8(images.resize(ood, (side, side))).cpu(),
                    indices=indices,
                    guide=images.grey_to_uint8(images.resize(source, (side, side))).cpu(),
                ),
                pack_sha256="",
                method="",
            ),
            edited=apply_edit(codes, plan, face=0, seconds=seconds),
            strength=np.full(len(source), abs(strength)),
            motion=motion,
            beside_motion=None
            if motion is None
            else apply_edit(codes, plan, face=0, seconds=seconds, beside_motion=True),
            colour_kept=colour_kept(plan, face=0, seconds=seconds),
        )
        batch = FrameBatch(frames=crops[part], indices=indices)
        (result,) = render([batch], [face], method, RenderPlan())
        out.append(result.frames)
    return np.concatenate(out)


def appraise_edits(
    crops: UInt8Array,
    editor: Editor,
    instruments: Instruments,
    *,
    names: tuple[str, ...] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, float | dict[str, float]]]:
    """Measure what each of a pack's edits does to faces (N, R, R, 3).

    Returns:
        By direction, unless nothing measures it: `effect_at_2`, the mean change of its own
        measure in standard deviations over these faces; `grows`, the share of faces on which that
        measure grows at every step of `COURSE`; `leak_at_2`, the largest mean change among
        `SIDE_EFFECTS` over `effect_at_2`; `side_effects_at_2`, these changes; and `identity_at_2`,
        the mean cosine of source and edit, with a network for it.
    """
    base = instruments.measure(crops)
    wanted = [name for name in names or sorted(editor.directions) if name in editor.directions]
    wanted = [name for name in wanted if name in base]
    found: dict[str, dict[str, float | dict[str, float]]] = {}
    for number, name in enumerate(wanted):
        if progress is not None:
            progress(number, len(wanted))
        found[name] = _appraise_edit(crops, base, editor, instruments, name)
    return found


def _appraise_edit(
    crops: UInt8Array,
    base: Mapping[str, Float64Array],
    editor: Editor,
    instruments: Instruments,
    name: str,
) -> dict[str, float | dict[str, float]]:
    course: list[Float64Array] = []
    for strength in COURSE:
        pictures = crops if strength == 0 else edit_crops(crops, editor, name, strength)
        course.append((base if strength == 0 else instruments.measure(pictures))[name])
    judged = edit_crops(crops, editor, name, JUDGED)
    after = instruments.measure(judged)
    moves = {
        other: float((after[other] - base[other]).mean() / max(float(base[other].std()), 1e-12))
        for other in base
    }
    own = moves[name]
    beside = {
        other: moves[other]
        for other in SIDE_EFFECTS
        if other in moves and other not in (name, *COMPOUND_ATTRIBUTES.get(name, ()))
    }
    figures: dict[str, float | dict[str, float]] = {
        "effect_at_2": own,
        "grows": float((np.diff(np.stack(course), axis=0) > 0).all(axis=0).mean()),
        "leak_at_2": max(map(abs, beside.values())) / max(abs(own), 1e-12),
        "side_effects_at_2": beside,
    }
    if instruments.identity is not None:
        same = (instruments.identity(judged) * instruments.identity(crops)).sum(axis=1)
        figures["identity_at_2"] = float(same.mean())
    return figures
