"""A small made-up analysis of a clip, for tests that need one without running networks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stabilizers import Interval, StabilizerPlan
from tests.mini import blank_clip
from vidinvert.analysis import Analysis
from vidinvert.editing import parse_edits
from vidinvert.geometry import crop_from_quad, quad_from_crop
from vidinvert.media import probe
from vidinvert.types import (
    Alignment,
    Embedding,
    FaceTrack,
    Inversion,
    InvertibilityMask,
    LatentDirection,
    Latents,
    Plans,
    RenderPlan,
    Synthesis,
)

CROP, MASK = 32, 16


def small_alignment(indices, *, side=40.0, corner=(30.0, 20.0)) -> Alignment:
    """Crops that stand still: a square of `side` pixels at `corner`."""
    x, y = corner
    quad = np.array([[x, y], [x, y + side], [x + side, y + side], [x + side, y]]) - 0.5
    matrix = crop_from_quad(quad, CROP)
    count = len(indices)
    return Alignment(
        crop_from_frame=np.repeat(matrix[None], count, axis=0),
        crop_size=CROP,
        indices=np.array(indices, np.int64),
        quads_xy=np.repeat(quad_from_crop(matrix, CROP)[None], count, axis=0),
    )


def small_analysis(path: Path, *, frames=8, faces=((0, 1, 2, 3, 6, 7),), shots=()) -> Analysis:
    """Write a grey clip of `frames` frames to `path` and make up what was measured in it."""
    blank_clip(path, frames=frames)
    rng = np.random.default_rng(3)
    tracks, alignments, inversions = [], [], []
    for number, indices in enumerate(faces):
        count = len(indices)
        placed = small_alignment(indices, corner=(30.0 + 6 * number, 20.0))
        points = rng.uniform(20, 60, (count, 5, 2))
        boxes = np.repeat(np.array([[35.0, 25.0, 65.0, 60.0]]), count, axis=0)
        tracks.append(
            FaceTrack(
                track_id=3 * number,
                indices=placed.indices,
                landmarks_xy=points,
                boxes_xyxy=boxes,
                score=rng.uniform(0.6, 0.9, count),
            )
        )
        masks = rng.integers(0, 256, (count, 1, MASK, MASK), dtype=np.uint8)
        alignments.append(placed)
        inversions.append(
            Inversion(
                latents=Latents(
                    w_plus=torch.from_numpy(rng.normal(size=(count, 2, 4)).astype(np.float32)),
                    indices=placed.indices,
                ),
                mask=InvertibilityMask(
                    ood=torch.from_numpy(masks),
                    indices=placed.indices,
                    guide=torch.from_numpy(255 - masks),
                ),
                pack_sha256="ab",
                method="samm",
            )
        )
    return Analysis(
        info=probe(path),
        frames=range(frames),
        shots=tuple(Interval(*shot) for shot in shots) or (Interval(0, frames),),
        tracks=tuple(tracks),
        alignments=tuple(alignments),
        inversions=tuple(inversions),
        unedited=(None,) * len(inversions),
    )


def with_masks(inversion: Inversion, ood) -> Inversion:
    """The inversion with other masks (T, 1, h, w)."""
    return replace(inversion, mask=replace(inversion.mask, ood=torch.as_tensor(ood)))


class ShadeMethod:
    """A method whose picture is one grey by its first code, whose flow points right by 2 pixels."""

    crop_size, style_count, style_width = CROP, 2, 4

    def embed(self, crops):
        return Embedding(w_plus=torch.zeros(len(crops), 2, 4))

    def synthesise(self, embedding, w_plus):
        flow = torch.zeros(len(w_plus), 2, 8, 8)
        flow[:, 0] = 2 / (CROP / 2)
        ood = torch.zeros(len(w_plus), 1, CROP, CROP)
        return Synthesis(image=self.generate(w_plus), ood=ood, flows=(flow,))

    def generate(self, w_plus):
        return w_plus[:, :1, :1, None].tanh().expand(-1, 3, CROP, CROP).clone()


BRIGHTER = LatentDirection(
    name="brighter",
    vector=torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]),
    layers=(0,),
    unit="grey",
    source="made up",
)


def plans_with(edits=(), **render) -> Plans:
    """Plans that steady nothing, so that what is rendered is what was made up."""
    return Plans(
        edit=parse_edits(list(edits), {"brighter": BRIGHTER}),
        stabilizer=StabilizerPlan(transforms=None, latents=None, mask=None),
        render=RenderPlan(**render),
    )
