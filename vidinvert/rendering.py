"""Edited codes to edited frames: synthesise, composite in the crop, paste into the frame."""

import math
import secrets
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidinvert import images
from vidinvert.changes import ChangeStream, EditedFace, head_window, show_change
from vidinvert.clock import Clock
from vidinvert.errors import EncodeError, PlanError
from vidinvert.faces import crop_batch
from vidinvert.geometry import (
    add_levels,
    box_of_change,
    compose,
    copy_where,
    displace_by,
    invert_similarity,
    paste_window,
    quad_of_box,
    resample,
    resized_crop,
    scale_of,
    turn_vectors,
    within,
)
from vidinvert.methods import EditPainter, Method
from vidinvert.types import CompositeMode, FrameBatch, RenderPlan

Sample = TypeVar("Sample", bound=np.unsignedinteger)

STILL = 1 / 64  # pixels: what moves less stays exactly where it is
REACH = 3  # pixels of a crop, or of a frame in which it is smaller, as far as interpolation reaches


def render(
    frames: Iterable[FrameBatch],
    faces: list[EditedFace],
    method: Method,
    plan: RenderPlan,
    *,
    device: torch.device | str = "cpu",
    workers: int = 1,
    clock: Clock | None = None,
) -> Generator[FrameBatch, None, None]:
    """Yield the clip's frames with the faces edited; frames without a face pass through.

    With `workers` above 1 the networks draw as many batches ahead, at once; the frames are the
    same.

    Raises:
        PlanError: the plan asks for a seam that is not built in.
    """
    if plan.seam != "feather":
        raise PlanError(f"The seam {plan.seam!r} is not available, expected feather.")
    with ThreadPoolExecutor(workers, thread_name_prefix="networks") as pool:
        streams = [
            ChangeStream(
                face,
                method,
                batch_size=plan.batch_size,
                device=device,
                pool=pool if workers > 1 else None,
                ahead=workers,
                clock=clock,
            )
            for face in faces
        ]
        try:
            for batch in frames:
                output = batch
                for face, changes in zip(faces, streams, strict=True):
                    painted = _render_face(output, face, changes, method, plan, device)
                    output = output.painted(painted)
                yield output
        finally:
            for stream in streams:
                stream.close()
            pool.shutdown(cancel_futures=True)


def choose_composite(plan: RenderPlan, method: Method) -> CompositeMode:
    """Return the composite that is asked for, or else the method's own."""
    if plan.composite is not None:
        return plan.composite
    return "generated" if isinstance(method, EditPainter) else "warped"


@torch.inference_mode()
def _render_face(
    batch: FrameBatch,
    face: EditedFace,
    changes: "ChangeStream",
    method: Method,
    plan: RenderPlan,
    device: torch.device | str,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    positions = np.flatnonzero(np.isin(face.alignment.indices, batch.indices))
    composite, paints = choose_composite(plan, method), isinstance(method, EditPainter)
    if composite != "generated" or paints:
        positions = positions[face.strength[positions] > 0]
    if len(positions) == 0:
        return batch.canvas
    moves = composite == "warped" or (composite == "generated" and paints)
    side = changes.size if moves else method.crop_size
    visible = _visible(face, positions, plan, side, device)
    output = batch.canvas.copy()
    offsets = np.searchsorted(batch.indices, face.alignment.indices[positions])
    matrices = face.alignment.crop_from_frame[positions]
    if moves:
        shares = _channels_last(visible)
        for k, offset in enumerate(offsets):
            flow, rest = show_change(changes.at(int(positions[k])), shares[k])
            place = resized_crop(matrices[k], method.crop_size, side)
            paste_warped(output[offset], flow, rest, place)
            mouth = changes.mouth_at(int(positions[k]))
            if mouth is not None:
                paste(output[offset], mouth * shares[k], place)
        if composite == "warped" or not isinstance(method, EditPainter):
            return output
        visible = _visible(face, positions, plan, method.crop_size, device)
        edited = batch.painted(output)
        layers = visible * _find_lacking(batch, edited, face, positions, method, device)
    elif composite == "residual":
        before = face.inversion.latents.w_plus[positions].to(device)
        change = method.generate(face.edited.at(positions).to(device)) - method.generate(before)
        head = torch.from_numpy(head_window(side)).to(device)
        layers = head * visible * change * 127.5  # (K, 3, R, R) grey levels to add
    else:
        layers = _own_layers(batch, face, positions, method, visible, device)
    painted = _channels_last(layers)
    for k, offset in enumerate(offsets):
        paste(output[offset], painted[k], matrices[k])
    return output


def _visible(
    face: EditedFace,
    positions: NDArray[np.int64],
    plan: RenderPlan,
    side: int,
    device: torch.device | str,
) -> Tensor:
    """Return how far an edit shall show at some positions: (K, 1, side, side) in [0, 1]."""
    ood = images.mask_to_float(face.inversion.mask.ood[positions].to(device))
    return (1.0 - images.resize(ood, (side, side))) * feather_mask(side, plan.feather).to(device)


def _own_layers(
    batch: FrameBatch,
    face: EditedFace,
    positions: NDArray[np.int64],
    method: Method,
    visible: Tensor,
    device: torch.device | str,
) -> Tensor:
    """Return the method's own picture of the edited codes as layers for `paste`, (K, 4, R, R)."""
    found, crops = crop_batch(batch, face.alignment)
    crops = crops[torch.from_numpy(np.isin(found, positions))].to(device)
    steadied = face.inversion.latents.w_plus[positions].to(device)
    embedding = replace(method.embed(crops), w_plus=steadied)
    image = method.synthesise(embedding, face.edited.at(positions).to(device)).image
    if face.presence is not None:
        visible = visible * visible.new_tensor(face.presence[positions])[:, None, None, None]
    return torch.cat([visible * (image + 1.0) * 127.5, visible], dim=1)


def _find_lacking(
    batch: FrameBatch,
    edited: FrameBatch,
    face: EditedFace,
    positions: NDArray[np.int64],
    method: EditPainter,
    device: torch.device | str,
) -> Tensor:
    """Return what the crops of edited frames still lack, (K, 3, R, R) grey levels."""
    found, crops = crop_batch(batch, face.alignment)
    chosen = torch.from_numpy(np.isin(found, positions))
    painted = crop_batch(edited, face.alignment)[1]
    return method.clean(crops[chosen].to(device), painted[chosen].to(device)) * 127.5


def _channels_last(layers: Tensor) -> NDArray[np.float32]:
    """(K, C, R, R) -> float32 (K, R, R, C) on the CPU."""
    return layers.float().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def feather_mask(size: int, feather: float) -> Tensor:
    """Return (1, 1, size, size) in [0, 1]: 0 on the crop's border, 1 further in than `feather`."""
    steps = torch.arange(size, dtype=torch.float32)
    ramp = (torch.minimum(steps, steps.flip(0)) / (size * feather)).clamp(0.0, 1.0)
    ramp = ramp * ramp * (3.0 - 2.0 * ramp)
    return (ramp[:, None] * ramp[None, :])[None, None]


def paste(
    frame: NDArray[Sample],
    layers: NDArray[np.float32],
    crop_from_frame: NDArray[np.float64],
) -> None:
    """Paint a crop into a frame (H, W, 3), in place.

    Args:
        frame: changed within the crop's quad only; where the layers are 0 it stays bit for bit.
            Of 16 bits, a grey level is 257 steps.
        layers: (R, R, 3) grey levels to add; with a fourth channel, the share of the frame that
            they replace: frame * (1 - share) + levels.
        crop_from_frame: (2, 3) where the crop was taken from.
    """
    window = _find_window(frame, (layers,), crop_from_frame)
    if window is None:
        return
    region, _, window_from_crop = window
    placed = resample(layers, window_from_crop, (region.shape[0], region.shape[1]))
    levels = placed[..., :3] * _level(frame)
    _put(region, levels + (region if layers.shape[2] == 3 else region * (1 - placed[..., 3:])))


def paste_warped(
    frame: NDArray[Sample],
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
    window = _find_window(frame, (flow, rest), crop_from_frame)
    if window is None:
        return
    region, corner_xy, window_from_crop = window
    size_hw = (region.shape[0], region.shape[1])
    turned = turn_vectors(flow, window_from_crop[:, :2])  # in frame pixels
    # Plane by plane: OpenCV takes twice as long for two channels at once.
    planes = np.ascontiguousarray(turned.transpose(2, 0, 1))
    placed = [resample(p[..., None], window_from_crop, size_hw, growing="linear") for p in planes]
    flow_x, flow_y = (plane[..., 0] for plane in placed)
    moved = displace_by(frame, flow_x, flow_y, corner_xy=corner_xy, interpolation="cubic")
    copy_where(region, within((flow_x, flow_y), STILL), moved)
    levels = resample(rest, window_from_crop, size_hw)
    if frame.dtype != np.uint8:
        levels *= _level(frame)
    add_levels(moved, levels, region)


def _level(frame: NDArray[Sample]) -> np.float32:
    """Return the steps of a frame's samples that make one grey level of 255."""
    return np.float32(np.iinfo(frame.dtype).max / 255)


def _put(region: NDArray[Sample], painted: NDArray[np.floating]) -> None:
    largest = np.iinfo(region.dtype).max
    region[...] = np.clip(np.rint(painted), 0, largest).astype(region.dtype)


def _find_window(
    frame: NDArray[Sample],
    layers: Sequence[NDArray[np.float32]],
    crop_from_frame: NDArray[np.float64],
) -> tuple[NDArray[Sample], tuple[int, int], NDArray[np.float64]] | None:
    """Return the part of a frame that a crop's layers touch, its corner, and window_from_crop.

    None where they touch nothing: outside the frame, or 0 everywhere.
    """
    reach = math.ceil(REACH * max(scale_of(crop_from_frame), 1.0))
    box = box_of_change(*layers, reach=reach)
    if box is None:
        return None
    quad = quad_of_box(crop_from_frame, box)
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
    """Check that a folder for masks could be made, and leave nothing behind.

    Raises:
        EncodeError: it exists and is not an empty folder, or its parent is not there or takes no
            folder.
    """
    occupied = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    if occupied and not overwrite:
        raise EncodeError(
            f"{directory} exists and is not an empty folder, expected a new one for the masks; "
            "choose another, or allow its files to be replaced with --force"
        )
    if not directory.parent.is_dir() or (directory.exists() and not directory.is_dir()):
        raise EncodeError(f"{directory} cannot be made a folder for masks; choose another place")
    _stage_for(directory).rmdir()


def _stage_for(directory: Path) -> Path:
    """Make a folder beside one for masks, for files that are not complete yet."""
    staged = directory.parent / f".vidinvert-{secrets.token_hex(6)}.partial"
    try:
        staged.mkdir()
    except OSError as error:
        raise EncodeError(
            f"{directory} could not be made a folder for masks ({error.strerror}), expected room "
            "and permission beside it; choose another place"
        ) from error
    return staged


@contextmanager
def stage_masks(directory: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a new folder whose files get to `directory` when the block ends, and not if it fails.

    Raises:
        EncodeError: see `check_mask_directory`.
    """
    check_mask_directory(directory, overwrite=overwrite)
    staged = _stage_for(directory)
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
