"""One pass over both clips: everything that is measured per frame, per face."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stabilizers import Interval, flow_tensor, intervals_from_indices, visible_in_both, warp_back
from stabilizers.metrics import mask_flicker, mask_iou, warping_error
from vidinvert import images
from vidinvert.evaluation.faces import CROP_SIZE, ComparedFace
from vidinvert.faces.landmarks import LandmarkNetwork
from vidinvert.faces.recognise import FaceRecogniser
from vidinvert.fidelity import SMALLEST_SIDE, SquaredError, ms_ssim, psnr, ssim
from vidinvert.geometry import (
    crop_frame,
    fill_quads,
    invert_similarity,
    optical_flow,
    paste_window,
    transform_points,
)
from vidinvert.media import decode, read_ahead
from vidinvert.networks.lpips import Lpips
from vidinvert.types import FrameBatch, VideoInfo

OUTSIDE_STRIDE = 10  # frames between those on which SSIM is measured outside the face
UInt8Array = NDArray[np.uint8]
Window = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instruments:
    """What measures; None = that is not measured."""

    landmarks: LandmarkNetwork | None = None
    recogniser: FaceRecogniser | None = None
    lpips: Lpips | None = None
    masks: Path | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class FaceSeries:
    """What was measured of one face, one value per frame of its track; NaN where not."""

    indices: NDArray[np.int64]
    intervals: tuple[Interval, ...]
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    points: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    identities: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    squared_error: SquaredError = field(default_factory=SquaredError)

    def put(self, name: str, position: int, value: float) -> None:
        """Record one value."""
        if name not in self.values:
            self.values[name] = np.full(len(self.indices), np.nan)
        self.values[name][position] = value


@dataclass(slots=True, kw_only=True, eq=False)
class Measured:
    """What was measured of the frames, and of each face."""

    faces: list[FaceSeries]
    squared_error_outside: SquaredError = field(default_factory=SquaredError)
    psnr_outside: list[float] = field(default_factory=list)
    ssim_outside: list[float] = field(default_factory=list)
    ms_ssim_outside: list[float] = field(default_factory=list)


def measure(
    source: VideoInfo,
    edited: VideoInfo,
    faces: Sequence[ComparedFace],
    shots: Sequence[Interval],
    instruments: Instruments,
    *,
    frames: range,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Go over both clips once.

    Args:
        source: the clip before.
        edited: the clip after; its frame 0 is the source's `frames.start`.
        faces: the faces to compare.
        shots: the source's shots; nothing is compared across a cut.
        instruments: what measures.
        frames: the source's frames that both clips have.
        progress: called with the frames done and in all, or None.
    """
    result = Measured(
        faces=[
            FaceSeries(
                indices=face.track.indices,
                intervals=intervals_from_indices(face.track.indices, cuts=shots),
            )
            for face in faces
        ]
    )
    before: tuple[int, UInt8Array, UInt8Array] | None = None
    for index, first, second in _pairs(source, edited, frames):
        quads = []
        for face, series in zip(faces, result.faces, strict=True):
            position = int(np.searchsorted(series.indices, index))
            if position == len(series.indices) or series.indices[position] != index:
                continue
            quads.append(face.alignment.quads_xy[position])
            _compare_crops(face, series, position, first, second, instruments)
            joined = position > 0 and any(
                position - 1 in run and position in run for run in series.intervals
            )
            if before is not None and joined:
                _compare_in_time(face, series, position - 1, before, first, second, instruments)
        _compare_outside(result, first, second, quads, index - frames.start)
        before = (index, first, second)
        if progress is not None:
            progress(index + 1 - frames.start, len(frames))
    return result


def _pairs(
    source: VideoInfo, edited: VideoInfo, frames: range
) -> Iterator[tuple[int, UInt8Array, UInt8Array]]:
    ours = read_ahead(decode(source, batch_size=4, start=frames.start, stop=frames.stop))
    theirs = read_ahead(decode(edited, batch_size=4, start=0, stop=len(frames)))
    for batch, other in zip(ours, theirs, strict=True):
        yield from _of_batches(batch, other)


def _of_batches(
    batch: FrameBatch, other: FrameBatch
) -> Iterator[tuple[int, UInt8Array, UInt8Array]]:
    yield from zip(batch.indices.tolist(), batch.frames, other.frames, strict=True)


def _compare_crops(
    face: ComparedFace,
    series: FaceSeries,
    position: int,
    first: UInt8Array,
    second: UInt8Array,
    instruments: Instruments,
) -> None:
    matrix = face.alignment.crop_from_frame[position]
    crops = [crop_frame(frame, matrix, CROP_SIZE) for frame in (first, second)]
    series.squared_error.add(crops[0], crops[1])
    for name, compare in (("psnr_face", psnr), ("ssim_face", ssim), ("ms_ssim_face", ms_ssim)):
        series.put(name, position, compare(crops[0], crops[1]))
    if instruments.lpips is not None:
        pair = images.to_float(np.stack(crops))
        with torch.inference_mode():
            distance = instruments.lpips(pair[:1], pair[1:])
        series.put("lpips_face", position, float(distance[0]))
    if instruments.landmarks is not None:
        points = instruments.landmarks(np.stack(crops))  # (2, 68, 2)
        frame_from_crop = invert_similarity(matrix)
        for name, found in zip(("source", "edited"), points, strict=True):
            store = series.points.setdefault(
                name, np.full((len(series.indices), *found.shape), np.nan)
            )
            store[position] = transform_points(frame_from_crop, found)
    if instruments.recogniser is not None:
        found_xy = face.edited_xy[position]
        own_xy = face.track.landmarks_xy[position]
        for name, frame, points_xy in (
            ("source", first, own_xy),
            ("edited", second, found_xy if np.isfinite(found_xy).all() else own_xy),
        ):
            identity = instruments.recogniser.identify(frame, points_xy)
            store = series.identities.setdefault(
                name, np.zeros((len(series.indices), len(identity)))
            )
            store[position] = identity


def _compare_in_time(
    face: ComparedFace,
    series: FaceSeries,
    position: int,
    before: tuple[int, UInt8Array, UInt8Array],
    first: UInt8Array,
    second: UInt8Array,
    instruments: Instruments,
) -> None:
    """Compare frame `position` of a track with the next one, in the window of the face."""
    index, first_before, second_before = before
    window = paste_window(face.alignment.quads_xy[position], first.shape[:2])
    if window is None or min(window[2] - window[0], window[3] - window[1]) < 16:
        return
    source = _cut(first_before, window), _cut(first, window)
    edited = _cut(second_before, window), _cut(second, window)
    flow, seen = _follow(*source)
    for name, pair, (along, where) in (
        ("warping_error_source", source, (flow, seen)),
        ("warping_error_edited", edited, (flow, seen)),
        ("warping_error_own", edited, _follow(*edited)),
    ):
        a, b = (_unit_range(picture) for picture in pair)
        series.put(name, position, warping_error(a, b, along, where))
    if instruments.masks is None:
        return
    masks = [_read_mask(instruments.masks, number, window) for number in (index, index + 1)]
    series.put("mask_flicker", position, mask_flicker(masks[0], masks[1], flow, seen))
    kept = [1.0 - mask for mask in masks]  # the face that is shown, which is the smaller part
    series.put("mask_temporal_iou", position, mask_iou(kept[0], warp_back(kept[1], flow)))


def _follow(near: UInt8Array, nxt: UInt8Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the flow from one picture to the next (1, 2, H, W), and where it can be checked."""
    flow = flow_tensor(optical_flow(near, nxt))
    return flow, visible_in_both(flow, flow_tensor(optical_flow(nxt, near)))


def _compare_outside(
    result: Measured,
    first: UInt8Array,
    second: UInt8Array,
    quads: Sequence[NDArray[np.float64]],
    number: int,
) -> None:
    where = ~fill_quads(quads, first.shape[:2])
    result.squared_error_outside.add(first, second, where)
    result.psnr_outside.append(psnr(first, second, where))
    sampled = number % OUTSIDE_STRIDE == 0
    smallest = min(first.shape[:2])
    small, tiny = smallest < SMALLEST_SIDE, smallest < 11
    result.ssim_outside.append(np.nan if tiny or not sampled else ssim(first, second, where))
    result.ms_ssim_outside.append(np.nan if small or not sampled else ms_ssim(first, second, where))


def _cut(frame: UInt8Array, window: Window) -> UInt8Array:
    left, top, right, bottom = window
    return np.ascontiguousarray(frame[top:bottom, left:right])


def _unit_range(picture: UInt8Array) -> torch.Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) in [0, 1]."""
    return images.to_float(picture[None]).add(1.0).div(2.0)


def _read_mask(directory: Path, index: int, window: Window) -> torch.Tensor:
    """Read what was saved for one frame, white = the source is kept: (1, 1, h, w) in [0, 1]."""
    mask, _ = images.read_mask(directory / f"{index:06d}.png")
    return images.mask_to_float(torch.as_tensor(_cut(mask, window)))[None, None]
