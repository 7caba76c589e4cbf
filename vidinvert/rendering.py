"""Edited codes to edited frames: synthesise, composite in the crop, paste into the frame."""

import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilizers import Interval
from vidinvert import images
from vidinvert.errors import EncodeError, PlanError
from vidinvert.faces import crop_batch
from vidinvert.geometry import (
    blur,
    compose,
    displace,
    invert_similarity,
    optical_flow,
    paste_window,
    quad_from_crop,
    resample,
    to_grey,
)
from vidinvert.methods import Method
from vidinvert.types import Alignment, FrameBatch, Inversion, Latents, MovedLatents, RenderPlan

FLOW_BLUR = 3 / 256  # of the crop's side: the flow's smoothing in space
TRUSTED_ERROR = 10.0  # grey levels between source and inversion that cost no trust
DOUBTED_ERROR = 7.0  # beyond it: at which trust falls to 1 / e
SMALL_CHANGE = 3.0  # grey levels; a remaining change much smaller than this is not shown
CHANGE_REACH = 2.5  # standard deviations after which a frame's change no longer counts
STILL = 1 / 64  # pixels: what moves less stays exactly where it is


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditedFace:
    """All that is needed to render one track.

    `strength` (T,): sum of the absolute edit strengths at each of the track's frames; frames where
    it is 0 are left alone unless the composite is `generated`. `presence` (T,) in [0, 1]: how far
    the generator's picture is shown where a face comes or goes; None = everywhere.
    `change_sigma_seconds`: over what time the warped composite averages what an edit changes, at
    the track's `seconds` (T,) and within its unbroken `intervals`; 0 = each frame by itself.
    """

    alignment: Alignment
    inversion: Inversion
    edited: Latents | MovedLatents
    strength: NDArray[np.float64]
    presence: NDArray[np.float64] | None = None
    seconds: NDArray[np.float64] | None = None
    intervals: tuple[Interval, ...] = ()
    change_sigma_seconds: float = 0.0


def render(
    frames: Iterable[FrameBatch],
    faces: list[EditedFace],
    method: Method,
    plan: RenderPlan,
    *,
    device: torch.device | str = "cpu",
) -> Iterator[FrameBatch]:
    """Yield the clip's frames with the faces edited; frames without a face pass through.

    Raises:
        PlanError: the plan asks for a seam that is not built in.
    """
    if plan.seam != "feather":
        raise PlanError(f"The seam {plan.seam!r} is not available, expected feather.")
    feather = feather_mask(method.crop_size, plan.feather).to(device)
    streams = [
        ChangeStream(face, method, batch_size=plan.batch_size, device=device) for face in faces
    ]
    for batch in frames:
        output = batch.frames
        for face, changes in zip(faces, streams, strict=True):
            output = _render_face(
                replace(batch, frames=output), face, changes, method, plan, feather, device
            )
        yield replace(batch, frames=output)


@torch.inference_mode()
def _render_face(
    batch: FrameBatch,
    face: EditedFace,
    changes: "ChangeStream",
    method: Method,
    plan: RenderPlan,
    feather: Tensor,
    device: torch.device | str,
) -> NDArray[np.uint8]:
    positions = np.flatnonzero(np.isin(face.alignment.indices, batch.indices))
    if plan.composite != "generated":
        positions = positions[face.strength[positions] > 0]
    if len(positions) == 0:
        return batch.frames
    ood = images.mask_to_float(face.inversion.mask.ood[positions].to(device))
    size = (method.crop_size, method.crop_size)
    visible = (1.0 - images.resize(ood, size)) * feather  # (K, 1, R, R)
    output = batch.frames.copy()
    offsets = np.searchsorted(batch.indices, face.alignment.indices[positions])
    matrices = face.alignment.crop_from_frame[positions]
    if plan.composite == "warped":
        shares = _channels_last(visible)
        for k, offset in enumerate(offsets):
            flow, rest = show_change(changes.at(int(positions[k])), shares[k])
            paste_warped(output[offset], flow, rest, matrices[k])
        return output
    before = face.inversion.latents.w_plus[positions].to(device)
    after = face.edited.at(positions).to(device)
    if plan.composite == "residual":
        change = method.generate(after) - method.generate(before)
        head = torch.from_numpy(head_window(size[0])).to(device)
        layers = head * visible * change * 127.5  # (K, 3, R, R) grey levels to add
    else:
        _, crops = crop_batch(batch, face.alignment)
        embedding = method.embed(crops.to(device))
        image = method.synthesise(embedding, after).image
        if face.presence is not None:
            visible = visible * visible.new_tensor(face.presence[positions])[:, None, None, None]
        layers = torch.cat([visible * (image + 1.0) * 127.5, visible], dim=1)  # (K, 4, R, R)
    painted = _channels_last(layers)
    for k, offset in enumerate(offsets):
        paste(output[offset], painted[k], matrices[k])
    return output


def _channels_last(layers: Tensor) -> NDArray[np.float32]:
    """(K, C, R, R) -> float32 (K, R, R, C) on the CPU."""
    return layers.float().permute(0, 2, 3, 1).contiguous().cpu().numpy()


class ChangeStream:
    """What an edit changes in a face's crop, steadied in time, frame by frame.

    An edit shall look the same from frame to frame, but the flow between two generated pictures and
    what remains after moving are estimated for every frame anew, and shake. So they are averaged
    in the crop, where the face stands still, over the frames around. Changes are in proportion to
    the strength of the edit: they are averaged per unit of strength and scaled by the frame's own,
    so a strength over time stays as it was written. Only the changes within the kernel are kept.
    """

    def __init__(
        self, face: EditedFace, method: Method, *, batch_size: int, device: torch.device | str
    ) -> None:
        self._face, self._method, self._device = face, method, device
        self._batch_size = batch_size
        self._kept: dict[int, Tensor] = {}

    def at(self, position: int) -> NDArray[np.float32]:
        """Return the change at one of the track's positions, as from `measure_change`."""
        weights = self._weights(position)
        first = min(weights)
        for gone in [p for p in self._kept if p < first]:
            del self._kept[gone]
        for place in weights:
            if place not in self._kept:
                self._generate(place)
        strength = self._face.strength
        total = sum(weight * strength[p] for p, weight in weights.items())
        steady = torch.zeros_like(self._kept[position], dtype=torch.float32)
        for place, weight in weights.items():
            share = weight * strength[position] / total
            steady.add_(self._kept[place].float(), alpha=float(share))
        return steady.numpy()

    def _weights(self, position: int) -> dict[int, float]:
        """Return the frames that count at a position, within its run, and their weights."""
        face = self._face
        if face.change_sigma_seconds == 0 or face.seconds is None:
            return {position: 1.0}
        run = next(run for run in face.intervals if position in run)
        apart = (face.seconds[run.start : run.stop] - face.seconds[position]) / (
            face.change_sigma_seconds
        )
        near = np.flatnonzero((np.abs(apart) <= CHANGE_REACH) & self._shown(run))
        return {int(run.start + k): float(np.exp(-0.5 * apart[k] ** 2)) for k in near}

    def _shown(self, run: Interval) -> NDArray[np.bool_]:
        return self._face.strength[run.start : run.stop] > 0

    def _generate(self, position: int) -> None:
        """Generate the batch that a position belongs to, the same one wherever rendering began."""
        face = self._face
        start = position - position % self._batch_size
        positions = start + np.flatnonzero(face.strength[start : start + self._batch_size] > 0)
        pair = [
            images.to_uint8(self._method.generate(codes.at(positions).to(self._device)))
            for codes in (face.inversion.latents, face.edited)
        ]
        guide = face.inversion.mask.guide
        for k, place in enumerate(positions.tolist()):
            source = None if guide is None else guide[place, 0].numpy()
            change = measure_change(pair[0][k], pair[1][k], source)
            self._kept[place] = torch.as_tensor(change).half()


def measure_change(
    before: NDArray[np.uint8], after: NDArray[np.uint8], source: NDArray[np.uint8] | None
) -> NDArray[np.float32]:
    """Split what an edit changes in a generated face into motion and what motion cannot explain.

    Moving the source's own pixels keeps their detail, and does not leave the old mouth or contour
    behind the new one, as adding the whole change would.

    Args:
        before: (R, R, 3) the generator's picture, unedited.
        after: (R, R, 3) the same, edited.
        source: the crop itself, (R, R, 3) or grey of any size; where the unedited picture is far
            from it, what remains after moving belongs to another mouth or brow and is faded out.
            None trusts the picture everywhere.

    Returns:
        (R, R, 5): the flow in crop pixels, edited(p) comes from unedited(p + flow(p)), and the rest
        in grey levels, to be added after moving.
    """
    size = before.shape[0]
    sigma = FLOW_BLUR * size
    flow = blur(optical_flow(after, before), sigma=sigma)
    rest = after - displace(before.astype(np.float32), flow)
    if source is not None:
        if source.ndim == 3:
            error = np.abs(before.astype(np.float32) - source).mean(axis=2)
        else:
            seen = images.resize_picture(to_grey(before), source.shape[0])
            error = np.abs(seen.astype(np.float32) - source)
        beyond = blur(error, sigma=2 * FLOW_BLUR * error.shape[0]) - np.float32(TRUSTED_ERROR)
        doubt = np.square(np.maximum(beyond, 0.0) / np.float32(DOUBTED_ERROR))
        trust = images.resize_picture(np.exp(-doubt), size)
        rest = rest * displace(trust, flow)[..., None]
    return np.concatenate([flow, rest], axis=2, dtype=np.float32)


def drop_small(change: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fade what hardly changes (R, R, 3), in grey levels: faint patterns on a plain wall.

    A change as large as `SMALL_CHANGE` around a pixel is halved, three times as large is kept by
    nine tenths.
    """
    size = blur(np.abs(change).max(axis=2), sigma=FLOW_BLUR * change.shape[0])
    power = np.square(size)
    share = power / (power + SMALL_CHANGE**2)
    return np.multiply(change, share[..., None], dtype=np.float32)


@cache
def head_window(size: int) -> NDArray[np.float32]:
    """Return (size, size) in [0, 1]: 1 on a head in FFHQ framing with its hair, 0 well outside."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    radius = np.hypot((axis[None, :] - 0.5) / 0.36, (axis[:, None] - 0.52) / 0.47)
    return np.clip((1.2 - radius) / 0.3, 0.0, 1.0).astype(np.float32)


def show_change(
    change: NDArray[np.float32], share: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Hold a change back in the mask, off the head, and where it is faint.

    Args:
        change: (R, R, 5) as from `measure_change`.
        share: (R, R, 1) in [0, 1], how far the edit shall be visible.

    Returns:
        The flow (R, R, 2) and the rest (R, R, 3), both 0 where the share is 0.
    """
    share = share * head_window(share.shape[0])[..., None]
    soft = blur(share[..., 0], sigma=FLOW_BLUR * share.shape[0])[..., None]
    # Nothing moves on the crop's border or inside what is kept.
    flow = np.multiply(change[..., :2] * soft, share, dtype=np.float32)
    return flow, np.multiply(drop_small(change[..., 2:]), share, dtype=np.float32)


def feather_mask(size: int, feather: float) -> Tensor:
    """Return (1, 1, size, size) in [0, 1]: 0 on the crop's border, 1 further in than `feather`."""
    steps = torch.arange(size, dtype=torch.float32)
    ramp = (torch.minimum(steps, steps.flip(0)) / (size * feather)).clamp(0.0, 1.0)
    ramp = ramp * ramp * (3.0 - 2.0 * ramp)
    return (ramp[:, None] * ramp[None, :])[None, None]


def paste(
    frame: NDArray[np.uint8], layers: NDArray[np.float32], crop_from_frame: NDArray[np.float64]
) -> None:
    """Paint a crop into a frame (H, W, 3), in place.

    Args:
        frame: changed within the crop's quad only; where the layers are 0 it stays bit for bit.
        layers: (R, R, 3) grey levels to add; with a fourth channel, the share of the frame that
            they replace: frame * (1 - share) + levels.
        crop_from_frame: (2, 3) where the crop was taken from.
    """
    window = _find_window(frame, layers.shape[0], crop_from_frame)
    if window is None:
        return
    region, _, window_from_crop = window
    placed = resample(layers, window_from_crop, (region.shape[0], region.shape[1]))
    painted = placed[..., :3] + (region if layers.shape[2] == 3 else region * (1 - placed[..., 3:]))
    region[...] = np.clip(np.rint(painted), 0, 255).astype(np.uint8)


def paste_warped(
    frame: NDArray[np.uint8],
    flow: NDArray[np.float32],
    rest: NDArray[np.float32],
    crop_from_frame: NDArray[np.float64],
) -> None:
    """Move a frame's pixels (H, W, 3) along a crop's flow and add the rest, in place.

    Args:
        frame: changed within the crop's quad only; where nothing moves or is added it stays.
        flow: (R, R, 2) in crop pixels, as from `show_change`.
        rest: (R, R, 3) grey levels to add after moving.
        crop_from_frame: (2, 3) where the crop was taken from.
    """
    window = _find_window(frame, flow.shape[0], crop_from_frame)
    if window is None:
        return
    region, corner_xy, window_from_crop = window
    size_hw = (region.shape[0], region.shape[1])
    turned = flow @ window_from_crop[:, :2].T.astype(np.float32)  # in frame pixels
    placed_flow = resample(turned, window_from_crop, size_hw)
    moves = np.abs(placed_flow).max(axis=2, keepdims=True) >= STILL
    moved = displace(frame, placed_flow, corner_xy=corner_xy, interpolation="cubic")
    painted = np.where(moves, moved, region) + resample(rest, window_from_crop, size_hw)
    region[...] = np.clip(np.rint(painted), 0, 255).astype(np.uint8)


def _find_window(
    frame: NDArray[np.uint8], size: int, crop_from_frame: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], tuple[int, int], NDArray[np.float64]] | None:
    """Return the part of a frame that a crop touches, its corner, and window_from_crop; or None."""
    quad = quad_from_crop(crop_from_frame, size)
    window = paste_window(quad, (frame.shape[0], frame.shape[1]))
    if window is None:
        return None
    left, top, right, bottom = window
    window_from_frame = np.array([[1.0, 0.0, -left], [0.0, 1.0, -top]])
    window_from_crop = compose(window_from_frame, invert_similarity(crop_from_frame))
    return frame[top:bottom, left:right], (left, top), window_from_crop


def mask_in_frame(faces: Sequence[EditedFace], index: int, size_hw: tuple[int, int]) -> Tensor:
    """Return the mask of one frame in frame geometry: float (H, W) in [0, 1], 1 = kept.

    Everything outside the faces' crops is kept.
    """
    kept = torch.ones(size_hw)
    for face in faces:
        position = int(np.searchsorted(face.alignment.indices, index))
        if position == len(face.alignment.indices) or face.alignment.indices[position] != index:
            continue
        size = face.alignment.crop_size
        ood = images.mask_to_float(face.inversion.mask.ood[position : position + 1])
        shown = 1.0 - images.resize(ood, (size, size))[0, 0].numpy()  # (R, R)
        frame_from_crop = invert_similarity(face.alignment.crop_from_frame[position])
        placed = resample(shown[..., None].astype(np.float32), frame_from_crop, size_hw)[..., 0]
        kept = torch.minimum(kept, 1.0 - torch.from_numpy(placed).clamp(0.0, 1.0))
    return kept


def make_mask_directory(directory: Path, *, overwrite: bool) -> None:
    """Make the folder for masks.

    Raises:
        EncodeError: see `check_mask_directory`.
    """
    check_mask_directory(directory, overwrite=overwrite)
    directory.mkdir(exist_ok=True)


def check_mask_directory(directory: Path, *, overwrite: bool) -> None:
    """Check that a folder for masks could be made, and make nothing.

    Raises:
        EncodeError: it exists and is not an empty folder, or its parent is not there.
    """
    occupied = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    if occupied and not overwrite:
        raise EncodeError(
            f"{directory} exists and is not an empty folder, expected a new one for the masks; "
            "choose another, or allow its files to be replaced with --force"
        )
    if not directory.parent.is_dir() or (directory.exists() and not directory.is_dir()):
        raise EncodeError(f"{directory} cannot be made a folder for masks; choose another place")


@contextmanager
def stage_masks(directory: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a new folder whose files get to `directory` when the block ends, and not if it fails.

    Raises:
        EncodeError: see `check_mask_directory`.
    """
    check_mask_directory(directory, overwrite=overwrite)
    staged = directory.parent / f".vidinvert-{secrets.token_hex(6)}.partial"
    staged.mkdir()
    try:
        yield staged
        directory.mkdir(exist_ok=True)
        for file in sorted(staged.iterdir()):
            file.replace(directory / file.name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def write_masks(directory: Path, batch: FrameBatch, faces: Sequence[EditedFace]) -> None:
    """Write a batch's masks as 8-bit PNG named by frame number; white = the source is kept."""
    for index, frame in zip(batch.indices.tolist(), batch.frames, strict=True):
        kept = mask_in_frame(faces, index, (frame.shape[0], frame.shape[1]))
        images.write_png(directory / f"{index:06d}.png", images.mask_to_uint8(kept).numpy())
