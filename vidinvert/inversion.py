"""Crops to codes and masks: what a clip's faces are made of, before anything is edited."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilizers import (
    FlowFilter,
    GaussianFilter,
    Interval,
    StabilizerPlan,
    intervals_from_indices,
    measured_positions,
    smooth,
    smooth_latents,
    smooth_masks,
    smooth_similarities,
)
from vidinvert import images
from vidinvert.faces import crop_batch
from vidinvert.geometry import quad_from_crop, quick_flow
from vidinvert.media import map_ahead
from vidinvert.methods import EditPainter, Follower, Method, Refiner
from vidinvert.types import (
    Alignment,
    Embedding,
    FrameBatch,
    Int64Array,
    Inversion,
    InvertibilityMask,
    Latents,
    MovedLatents,
    SteadiedMasks,
)

APART = 0.126  # seconds, three frames of film: codes and masks are found no farther apart
LANDMARK_FILTER = GaussianFilter(sigma_seconds=0.2)  # of where motions take hold
KEY_FILTER = GaussianFilter(sigma_seconds=0.1)  # of where the face is then
MOUTH_FILTER = GaussianFilter(sigma_seconds=0.03)  # of where lips part
LARGEST_MASK = 256  # side of the stored masks: half the crop's, and never more
Progress = Callable[[int], None]


def mask_size(crop_size: int) -> int:
    """Return the side of the stored masks for crops of `crop_size` pixels."""
    return min(LARGEST_MASK, crop_size // 2)


@torch.inference_mode()
def invert(
    frames: Iterable[FrameBatch],
    alignments: Sequence[Alignment],
    method: Method,
    *,
    pack_sha256: str,
    method_name: str,
    shots: Sequence[Interval] = (),
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    workers: int = 1,
    measured: Sequence[NDArray[np.bool_]] | None = None,
    progress: Progress | None = None,
) -> list[Inversion]:
    """Invert every track in one pass over the frames.

    What is not measured is filled in from both sides in time: codes and masks in place. Masks that
    are then smoothed along the flow are carried there instead (`stabilise_masks`).

    Args:
        frames: the clip's frames in order, as far as the tracks reach.
        alignments: one per track.
        method: what inverts.
        pack_sha256: of the face pack, recorded in the result.
        method_name: recorded in the result.
        shots: the clip's shots; a method that starts from the frame before does so within one.
        batch_size: crops per network pass.
        device: where the networks live.
        workers: batches that are inverted at once; the results are the same.
        measured: one (T,) per track: where the networks look at the crop, at the ends of every
            unbroken run at least; None = everywhere. See `choose_measured`.
        progress: called with the number of frames done since the last call.

    Returns:
        One inversion per alignment: codes, and masks of side `mask_size(crop_size)` as uint8.

    Raises:
        ValueError: the frames ended before a track did.
    """
    everywhere = [np.ones(len(a.indices), np.bool_) for a in alignments]
    tracks = [
        _Track.empty(alignment, wanted, method)
        for alignment, wanted in zip(alignments, measured or everywhere, strict=True)
    ]
    refines = isinstance(method, Refiner)

    @torch.inference_mode()
    def embed(cut: _Cut) -> tuple[_Cut, Tensor, Tensor]:
        return cut, *_invert_crops(cut, method, device, shots=shots)

    # Refining begins at the codes of the frame before: one batch after the other.
    cuts = _cut_crops(frames, tracks, batch_size, progress)
    inverted = map_ahead(embed, cuts, workers=1 if refines else workers)
    for cut, codes, masks in inverted:
        cut.track.codes[cut.positions], cut.track.masks[cut.positions] = codes, masks
    return [
        Inversion(
            latents=Latents(w_plus=track.codes, indices=track.alignment.indices),
            mask=InvertibilityMask(
                ood=track.masks,
                indices=track.alignment.indices,
                guide=track.guides,
                measured=track.wanted,
            ),
            pack_sha256=pack_sha256,
            method=method_name,
        )
        for track in map(_Track.filled, tracks)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Track:
    """What becomes of a track while its frames are read; T positions, on the CPU."""

    alignment: Alignment
    wanted: NDArray[np.bool_]  # (T,) where the networks look
    codes: Tensor  # (T, L, D) float32
    masks: Tensor  # (T, 1, h, w) uint8
    guides: Tensor  # (T, 1, h, w) uint8
    seen: NDArray[np.bool_]  # (T,) whose frames were read

    @classmethod
    def empty(cls, alignment: Alignment, wanted: NDArray[np.bool_], method: Method) -> "_Track":
        count, side = len(alignment.indices), mask_size(method.crop_size)
        return cls(
            alignment=alignment,
            wanted=wanted,
            codes=torch.empty(count, method.style_count, method.style_width),
            masks=torch.empty(count, 1, side, side, dtype=torch.uint8),
            guides=torch.empty(count, 1, side, side, dtype=torch.uint8),
            seen=np.zeros(count, np.bool_),
        )

    def filled(self) -> "_Track":
        """Fill in what was not wanted; see `invert` for what is raised."""
        if not self.seen.all():
            missing = int(self.alignment.indices[~self.seen][0])
            raise ValueError(f"frame {missing} of a track was not among the frames given")
        _fill_between(self.codes, self.wanted)
        _fill_between(self.masks, self.wanted)
        return self


class _Cut(NamedTuple):
    """Crops (N, 3, R, R) of a track to invert at once."""

    track: _Track
    positions: Int64Array
    crops: Tensor


def _cut_crops(
    frames: Iterable[FrameBatch],
    tracks: Sequence[_Track],
    batch_size: int,
    progress: Progress | None,
) -> Iterator[_Cut]:
    """Cut the crops that are wanted, a network's batch at a time; frames are let go at once."""
    waiting = [
        _Cut(track, np.zeros(0, np.int64), torch.empty(0, 3, size, size))
        for track, size in ((track, track.alignment.crop_size) for track in tracks)
    ]

    def take(number: int) -> _Cut:
        track, positions, crops = waiting[number]
        waiting[number] = _Cut(track, positions[batch_size:], crops[batch_size:])
        return _Cut(track, positions[:batch_size], crops[:batch_size])

    for batch in frames:
        for number, track in enumerate(tracks):
            positions, crops = crop_batch(batch, track.alignment)
            if len(positions) == 0:
                continue
            side = track.guides.shape[-1]
            track.guides[positions] = images.grey_to_uint8(images.resize(crops, (side, side)))
            track.seen[positions] = True
            wanted, before = track.wanted[positions], waiting[number]
            waiting[number] = _Cut(
                track,
                np.concatenate([before.positions, positions[wanted]]),
                torch.cat([before.crops, crops[torch.as_tensor(wanted)]]),
            )
            while len(waiting[number].positions) >= batch_size:
                yield take(number)
        if progress is not None:
            progress(len(batch.indices))
    for number, rest in enumerate(waiting):
        if len(rest.positions):
            yield take(number)


def choose_measured(
    alignment: Alignment,
    method: Method,
    seconds: NDArray[np.float64],
    plan: StabilizerPlan,
    *,
    shots: Sequence[Interval],
) -> NDArray[np.bool_]:
    """Choose the positions (T,) of a track at which its crops are inverted.

    Where codes, masks and changes are all averaged over time anyway, frames up to `APART` apart say
    what there is to say.

    Args:
        alignment: the track's crops.
        method: what inverts; one that goes on from the frame before sees every frame.
        seconds: (T,) times of all frames of the clip, by frame index.
        plan: the filters.
        shots: the clip's shots.
    """
    follow = (plan.mask, plan.change)
    carried = all(isinstance(one, FlowFilter) and one.time_seconds > 0 for one in follow)
    walks = isinstance(method, Refiner) and not isinstance(method, Follower)
    if not carried or plan.latents is None or walks:
        return np.ones(len(alignment.indices), np.bool_)
    return measured_positions(
        seconds[alignment.indices],
        intervals_from_indices(alignment.indices, cuts=shots),
        apart_seconds=APART,
    )


def _fill_between(values: Tensor, measured: NDArray[np.bool_]) -> None:
    """Fill in (T, ...) what was not measured: on the line between the two beside it that were.

    Raises:
        ValueError: a position to be filled has no measured one on both sides.
    """
    known, gaps = np.flatnonzero(measured), np.flatnonzero(~measured)
    after = np.searchsorted(known, gaps)
    if np.any((after == 0) | (after == len(known))):
        raise ValueError("a position that is not measured lies before or after all that are")
    for gap, first, last in zip(gaps, known[after - 1], known[after], strict=True):
        share = float((gap - first) / (last - first))
        mean = torch.lerp(values[first].float(), values[last].float(), share)
        values[gap] = mean if values.is_floating_point() else mean.round().to(values.dtype)


def _refine(
    method: Refiner,
    crops: Tensor,
    embedding: Embedding,
    positions: NDArray[np.int64],
    starts: set[int],
    codes: Tensor,
) -> Embedding:
    """Refine a batch frame by frame, each from the frame before unless a run starts with it.

    Those that start from their run's first frame are refined together. `positions` (N,) in the
    track, whose codes (T, L, D) so far are in `codes`.
    """
    if isinstance(method, Follower):
        return _follow(method, crops, embedding, positions, starts, codes)
    refined: list[Tensor] = []
    for k, position in enumerate(positions.tolist()):
        previous: Tensor | None = None
        if position not in starts:
            previous = refined[-1] if refined else codes[position - 1 : position].to(crops.device)
        one = slice(k, k + 1)
        refined.append(method.refine(crops[one], _part(embedding, one), previous).w_plus)
    return replace(embedding, w_plus=torch.cat(refined))


def _follow(
    method: Follower,
    crops: Tensor,
    embedding: Embedding,
    positions: NDArray[np.int64],
    starts: set[int],
    codes: Tensor,
) -> Embedding:
    """Refine the first frame of each run in a batch, and all others of the run from its codes."""
    refined: list[Tensor] = []
    starting = [k for k, position in enumerate(positions.tolist()) if position in starts]
    borders = sorted({0, *starting, len(positions)})
    for begin, end in pairwise(borders):
        if begin in starting:
            one = slice(begin, begin + 1)
            first = method.refine(crops[one], _part(embedding, one), None).w_plus
            refined.append(first)
            begin += 1
        else:
            start = max(start for start in starts if start <= positions[begin])
            first = codes[start : start + 1].to(crops.device)
        if begin < end:
            rest = slice(begin, end)
            refined.append(method.follow(crops[rest], _part(embedding, rest), first).w_plus)
    return replace(embedding, w_plus=torch.cat(refined))


def _part(embedding: Embedding, frames: slice) -> Embedding:
    return Embedding(
        w_plus=embedding.w_plus[frames],
        features=tuple(maps[frames] for maps in embedding.features),
    )


def _invert_crops(
    cut: _Cut, method: Method, device: torch.device | str, *, shots: Sequence[Interval]
) -> tuple[Tensor, Tensor]:
    """Return codes (N, L, D) float32 and masks (N, 1, h, w) uint8 of crops, on the CPU."""
    track, crops, side = cut.track, cut.crops, cut.track.masks.shape[-1]
    refines = isinstance(method, Refiner)  # then each starts from the frame before
    place = np.arange(len(crops)) if refines else _count_changes(crops)
    distinct = crops[np.unique(place, return_index=True)[1]]
    embedding = method.embed(images.to_device(distinct, device))
    if refines:
        runs = intervals_from_indices(track.alignment.indices, cuts=shots)
        starts = {run.start for run in runs}
        embedding = _refine(method, crops.to(device), embedding, cut.positions, starts, track.codes)
    small = images.resize(method.find_mask(embedding), (side, side))
    codes = embedding.w_plus.float().cpu()[place]
    return codes, images.mask_to_uint8(small).cpu()[place]


def _count_changes(crops: Tensor) -> Int64Array:
    """Return (N,) of crops (N, 3, R, R) in order: how often they changed up to each.

    A picture that stands still is inverted once.
    """
    changed = [not images.same_picture(*pair) for pair in pairwise(crops.numpy())]
    return np.cumsum([0, *changed])


@torch.inference_mode()
def mask_edit(
    inversion: Inversion,
    edited: MovedLatents,
    strength: NDArray[np.float64],
    method: EditPainter,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> InvertibilityMask:
    """Return the masks of an edit, in place of those of a track's crops.

    Args:
        inversion: its codes steadied, as they are rendered.
        edited: the same codes, moved.
        strength: (T,) of the edits; frames where it is 0 are kept whole.
        method: what finds the masks.
        batch_size: codes per network pass.
        device: where the networks live.
    """
    masks = torch.full_like(inversion.mask.ood, 255)
    size = (masks.shape[2], masks.shape[3])
    shown = np.flatnonzero(strength > 0)
    for start in range(0, len(shown), batch_size):
        batch = shown[start : start + batch_size]
        before, after = inversion.latents.at(batch).to(device), edited.at(batch).to(device)
        found = method.find_edit_mask(before, after)
        masks[batch] = images.mask_to_uint8(images.resize(found, size)).cpu()
    return replace(inversion.mask, ood=masks, measured=None, steadied=None, of_edit=True)


def stabilise_alignment(
    alignment: Alignment,
    seconds: NDArray[np.float64],
    plan: StabilizerPlan,
    *,
    shots: Sequence[Interval],
) -> Alignment:
    """Steady where the crop lies; nothing crosses a cut or a gap of the track.

    Args:
        alignment: as measured.
        seconds: (T,) times of all frames of the clip, by frame index.
        plan: the filter.
        shots: the clip's shots.
    """
    steady = smooth_similarities(
        alignment.crop_from_frame,
        seconds[alignment.indices],
        plan.transforms,
        intervals=intervals_from_indices(alignment.indices, cuts=shots),
        crop_size=alignment.crop_size,
    )
    quads = np.stack([quad_from_crop(matrix, alignment.crop_size) for matrix in steady])
    return replace(alignment, crop_from_frame=steady, quads_xy=quads)


def stabilise_latents(
    latents: Latents,
    seconds: NDArray[np.float64],
    plan: StabilizerPlan,
    *,
    shots: Sequence[Interval],
) -> Latents:
    """Steady codes over time; nothing crosses a cut or a gap of the track."""
    intervals = intervals_from_indices(latents.indices, cuts=shots)
    times = seconds[latents.indices]
    codes = smooth_latents(latents.w_plus, times, plan.latents, intervals=intervals)
    return replace(latents, w_plus=codes)


def stabilise_masks(
    mask: InvertibilityMask,
    seconds: NDArray[np.float64],
    plan: StabilizerPlan,
    *,
    shots: Sequence[Interval],
    workers: int = 1,
) -> Tensor:
    """Steady masks over time (T, 1, h, w) uint8, or take them as the plan's filter left them.

    Those of an edit are steadied where they lie in the crop, and not snapped to the edges of what
    it shows: along the flow they would be drawn away from the part of the face that is edited.
    """
    if mask.steadied is not None and mask.steadied.filter_text == repr(plan.mask):
        return mask.steadied.ood
    filter_ = plan.mask
    if mask.of_edit and isinstance(filter_, FlowFilter):
        filter_ = filter_.in_place()
    return smooth_masks(
        mask.ood,
        seconds[mask.indices],
        filter_,
        intervals=intervals_from_indices(mask.indices, cuts=shots),
        guide=mask.guide,
        flow=quick_flow,
        measured=mask.measured,
        workers=workers,
    )


def keep_steadied(
    mask: InvertibilityMask,
    seconds: NDArray[np.float64],
    plan: StabilizerPlan,
    *,
    shots: Sequence[Interval],
    workers: int = 1,
) -> InvertibilityMask:
    """Return masks that bring along what the plan's filter makes of them."""
    ood = stabilise_masks(mask, seconds, plan, shots=shots, workers=workers)
    return replace(mask, steadied=SteadiedMasks(ood=ood, filter_text=repr(plan.mask)))


def stabilise_inversion(
    inversion: Inversion,
    seconds: NDArray[np.float64],
    plan: StabilizerPlan,
    *,
    shots: Sequence[Interval],
    workers: int = 1,
) -> Inversion:
    """Steady codes and masks over time; nothing crosses a cut or a gap of the track."""
    masks = stabilise_masks(inversion.mask, seconds, plan, shots=shots, workers=workers)
    return replace(
        inversion,
        latents=stabilise_latents(inversion.latents, seconds, plan, shots=shots),
        mask=replace(inversion.mask, ood=masks, measured=None, steadied=None),
    )


def stabilise_landmarks(
    points: NDArray[np.float64],
    seconds: NDArray[np.float64],
    plan: StabilizerPlan,
    *,
    intervals: Sequence[Interval],
    filter_: GaussianFilter,
) -> NDArray[np.float64]:
    """Steady landmarks (T, P, 2), where changes are smoothed at all.

    They say where an edit's motion takes hold, not what the mouth says: that stays the source's.

    Args:
        points: read out of codes, or detected in each frame.
        seconds: (T,) times of the frames.
        plan: the filters.
        intervals: the track's unbroken runs.
        filter_: `LANDMARK_FILTER` of those that are read out of codes; `KEY_FILTER` of those that
            were detected, and follow a head that moves; `MOUTH_FILTER` of where lips part.
    """
    if plan.change is None:
        return points
    flat = points.reshape(len(points), -1)
    return smooth(flat, seconds, filter_, intervals=intervals).reshape(points.shape)
