"""Pictures of masks: the heat map, and what the networks show of a face."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidinvert import images
from vidinvert.changes import EditedFace
from vidinvert.faces import crop_batch
from vidinvert.geometry import dilate
from vidinvert.methods import EditPainter, Method
from vidinvert.rendering import choose_composite, paste
from vidinvert.types import FrameBatch, RenderPlan, UInt8Array

HEAT_OPACITY = 0.65  # of the heat map over the frame, where the mask is 1
FLOW_SIDE = 16  # arrows of SAMM's flow across and down the crop
FLOW_STEP = 0.25  # crop pixels of the smallest flow that is shown
OUTLINE_AT = 0.5  # mask where its outline is drawn

# Viridis at five places (matplotlib, CC0): even steps of the mask look even, also without colour.
_HEAT = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def heat_table() -> UInt8Array:
    """Return (256, 4): colour and opacity of the heat map by mask; 0 is transparent."""
    at = np.linspace(0, 255, len(_HEAT))
    levels = np.arange(256)
    colours = [np.interp(levels, at, [stop[c] for stop in _HEAT]) for c in range(3)]
    opacity = np.minimum(255, 1.5 * levels)
    return np.rint(np.stack([*colours, opacity], axis=1)).astype(np.uint8)


def paint_heat(frame: UInt8Array, index: int, faces: Sequence[EditedFace]) -> UInt8Array:
    """Return a frame (H, W, 3) with the heat map of its masks, their outline and the crops' edges.

    Args:
        frame: not changed.
        index: its frame index.
        faces: those without this frame are left out.
    """
    painted = frame.copy()
    for face in faces:
        position = position_of(face, index)
        if position is not None:
            layer = _heat_layer(face.inversion.mask.ood[position], face.alignment.crop_size)
            paste(painted, layer, face.alignment.crop_from_frame[position])
    return painted


def position_of(face: EditedFace, index: int) -> int | None:
    """Return where along a track's T axis a frame is, None where the face is not in it."""
    position = int(np.searchsorted(face.alignment.indices, index))
    known = position < len(face.alignment.indices)
    return position if known and face.alignment.indices[position] == index else None


def _heat_layer(ood: Tensor, size: int) -> NDArray[np.float32]:
    """Draw a mask (1, h, w) uint8 as (R, R, 4): grey levels times opacity, and opacity."""
    large = images.resize(images.mask_to_float(ood)[None], (size, size))
    mask = images.mask_to_uint8(large)[0, 0].numpy()  # (R, R)
    table = heat_table().astype(np.float32)[mask]  # (R, R, 4)
    opacity = HEAT_OPACITY * table[..., 3:] / 255.0
    layer = np.concatenate([opacity * table[..., :3], opacity], axis=2)
    inside = (mask >= round(255 * OUTLINE_AT)).astype(np.uint8)
    width = size / 170
    lines = (dilate(inside, radius=width) - inside).astype(bool)
    edge = max(1, round(width))
    lines[:edge] = lines[-edge:] = lines[:, :edge] = lines[:, -edge:] = True
    layer[lines] = (235.0, 235.0, 235.0, 0.94)
    return layer.astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FacePictures:
    """What the networks make of the K frames of a batch that show a face.

    `positions` (K,) along the track's T axis; `inverted` (K, R, R, 3) the generator's picture of
    the codes, the one that the composite starts from; `edited` the same of the edited codes, None
    without an edit; `flow` (K, FLOW_SIDE, FLOW_SIDE, 2) int8 SAMM's finest displacement (dx, dy)
    in steps of `FLOW_STEP` crop pixels, None for methods without one.
    """

    positions: NDArray[np.int64]
    inverted: UInt8Array
    edited: UInt8Array | None
    flow: NDArray[np.int8] | None


@torch.inference_mode()
def picture_face(
    batch: FrameBatch,
    face: EditedFace,
    method: Method,
    plan: RenderPlan,
    *,
    edited: bool,
    device: torch.device | str = "cpu",
) -> FacePictures:
    """Run the networks on the crops of a batch, as rendering does.

    Args:
        batch: frames of the clip, not necessarily neighbours.
        face: the track.
        method: what inverted it.
        plan: `generated` shows the picture aligned to the crop; the others the generator's alone.
        edited: whether the edited codes are shown too.
        device: where the networks live.
    """
    positions, crops = crop_batch(batch, face.alignment)
    size = face.alignment.crop_size
    if len(positions) == 0:
        empty = np.zeros((0, size, size, 3), np.uint8)
        none = np.zeros((0, FLOW_SIDE, FLOW_SIDE, 2), np.int8)
        return FacePictures(
            positions=positions, inverted=empty, edited=empty if edited else None, flow=none
        )
    before = face.inversion.latents.w_plus[positions].to(device)
    after = face.edited.at(positions).to(device)
    embedding = replace(method.embed(crops.to(device)), w_plus=before)
    synthesis = method.synthesise(embedding, before)
    paints = isinstance(method, EditPainter)  # it paints on the crop: that is no inversion
    aligned = choose_composite(plan, method) == "generated" and not paints
    inverted = images.to_uint8(synthesis.image if aligned else method.generate(before))
    later = None
    if edited:
        later = method.synthesise(embedding, after).image if aligned else method.generate(after)
    return FacePictures(
        positions=positions,
        inverted=inverted,
        edited=None if later is None else images.to_uint8(later),
        flow=_flow_steps(synthesis.flows[-1], size) if synthesis.flows else None,
    )


def _flow_steps(flow: Tensor, crop_size: int) -> NDArray[np.int8]:
    """Turn (K, 2, r, r) in half widths into (K, FLOW_SIDE, FLOW_SIDE, 2) steps of crop pixels."""
    small = images.resize(flow.float(), (FLOW_SIDE, FLOW_SIDE)).permute(0, 2, 3, 1)
    steps = small * (crop_size / 2 / FLOW_STEP)
    return steps.round().clamp(-127, 127).to(torch.int8).cpu().numpy()
