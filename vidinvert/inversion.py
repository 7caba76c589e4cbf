"""Crops to codes and masks: what a clip's faces are made of, before anything is edited."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
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
from vidinvert.changes import APART
from vidinvert.faces import crop_batch
from vidinvert.geometry import quad_from_crop, quick_flow
from vidinvert.media import map_ahead
from vidinvert.methods import EditPainter, Method, Refiner
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

LANDMARK_FILTER = GaussianFilter(sigma_seconds=0.1)  # of where motions take hold
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
    side = mask_size(method.crop_size)
    wanted = [np.ones(len(a.indices), np.bool_) for a in alignments]
    wanted = wanted if measured is None else list(measured)
    stores = [
        (
            torch.empty(len(a.indices), method.style_count, method.style_width),
            torch.empty(len(a.indices), 1, side, side, dtype=torch.uint8),
            torch.empty(len(a.indices), 1, side, side, dtype=torch.uint8),
            np.zeros(len(a.indices), bool),
        )
        for a in alignments
    ]
    refines = isinstance(method, Refiner)

    @torch.inference_mode()
    def measure(batch: FrameBatch) -> list[_Measured | None]:
        return [
            _measure_crops(batch, alignment, method, side, device, looked, codes=codes, shots=shots)
            for alignment, looked, (codes, _, _, _) in zip(alignments, wanted, stores, strict=True)
        ]

    # Refining begins at the codes of the frame before: one batch after the other.
    measured = map_ahead(
        lambda batch: (batch, measure(batch)), frames, workers=1 if refines else workers
    )
    for batch, found in measured:
        for one, (codes, masks, guides, done) in zip(found, stores, strict=True):
            if one is not None:
                if len(one.looked):
                    codes[one.looked], masks[one.looked] = one.codes, one.masks
                guides[one.positions] = one.guides
                done[one.positions] = True
        if progress is not None:
            progress(len(batch.indices))
    results = []
    for alignment, looked, (codes, masks, guides, done) in zip(
        alignments, wanted, stores, strict=True
    ):
        if not done.all():
            missing = int(alignment.indices[~done][0])
            raise ValueError(f"frame {missing} of a track was not among the frames given")
        _fill_between(codes, looked)
        _fill_between(masks, looked)
        results.append(
            Inversion(
                latents=Latents(w_plus=codes, indices=alignment.indices),
                mask=InvertibilityMask(
                    ood=masks, indices=alignment.indices, guide=guides, measured=looked
                ),
                pack_sha256=pack_sha256,
                method=method_name,
            )
        )
    return results


def choose_measured(
    alignment: Alignment,
    method: Method,
    seconds: NDArray[np.float64],
    plan: StabilizerPlan,
    *,
    shots: Sequence[Interval],
) -> NDArray[np.bool_]:
    """Choose the positions (T,) of a track at which its crops are inverted.

    Where codes, masks and changes are all averaged over time anyway, every other frame says what
    there is to say, up to `APART`: the frames whose change is drawn (`changes.drawn_positions`).

    Args:
        alignment: the track's crops.
        method: what inverts; one that goes on from the frame before sees every frame.
        seconds: (T,) times of all frames of the clip, by frame index.
        plan: the filters.
        shots: the clip's shots.
    """
    follow = (plan.mask, plan.change)
    carried = all(isinstance(one, FlowFilter) and one.time_seconds > 0 for one in follow)
    if not carried or plan.latents is None or isinstance(method, Refiner):
        return np.ones(len(alignment.indices), np.bool_)
    return measured_positions(
        seconds[alignment.indices],
        intervals_from_indices(alignment.indices, cuts=shots),
        apart_seconds=APART,
    )


def _fill_between(values: Tensor, measured: NDArray[np.bool_]) -> None:
    """Fill in (T, ...) where single positions were not measured: the mean of both neighbours.

    Raises:
        ValueError: a position to be filled has no measured one on both sides.
    """
    gaps = np.flatnonzero(~measured)
    framed = np.pad(measured, 1)
    if not (framed[gaps] & framed[gaps + 2]).all():
        raise ValueError("a position that is not measured lies beside another, or at an end")
    mean = (values[gaps - 1].float() + values[gaps + 1].float()) / 2.0
    values[gaps] = mean if values.is_floating_point() else mean.round().to(values.dtype)


def _refine(
    method: Refiner,
    crops: Tensor,
    embedding: Embedding,
    positions: NDArray[np.int64],
    starts: set[int],
    codes: Tensor,
) -> Embedding:
    """Refine a batch frame by frame, each from the frame before unless a run starts with it.

    `positions` (N,) in the track, whose codes (T, L, D) so far are in `codes`.
    """
    refined: list[Tensor] = []
    for k, position in enumerate(positions.tolist()):
        previous: Tensor | None = None
        if position not in starts:
            previous = refined[-1] if refined else codes[position - 1 : position].to(crops.device)
        one = Embedding(
            w_plus=embedding.w_plus[k : k + 1],
            features=tuple(maps[k : k + 1] for maps in embedding.features),
        )
        refined.append(method.refine(crops[k : k + 1], one, previous).w_plus)
    return replace(embedding, w_plus=torch.cat(refined))


class _Measured(NamedTuple):
    """What one batch says of a track, on the CPU: of K `positions`, M of which were `looked` at."""

    positions: Int64Array
    looked: Int64Array
    codes: torch.Tensor  # (M, L, D) float32
    masks: torch.Tensor  # (M, 1, h, w) uint8
    guides: torch.Tensor  # (K, 1, h, w) uint8


def _measure_crops(
    batch: FrameBatch,
    alignment: Alignment,
    method: Method,
    side: int,
    device: torch.device | str,
    wanted: NDArray[np.bool_],
    *,
    codes: Tensor,
    shots: Sequence[Interval],
) -> _Measured | None:
    positions, crops = crop_batch(batch, alignment)
    if len(positions) == 0:
        return None
    guides = images.grey_to_uint8(images.resize(crops, (side, side)))
    looked = positions[wanted[positions]]
    if len(looked) == 0:
        return _Measured(positions, looked, torch.empty(0), torch.empty(0), guides)
    crops = crops[torch.as_tensor(wanted[positions])]
    refines = isinstance(method, Refiner)  # then each starts from the frame before
    place = np.arange(len(crops)) if refines else _count_changes(crops)
    distinct = crops[np.unique(place, return_index=True)[1]]
    embedding = method.embed(images.to_device(distinct, device))
    if refines:
        runs = intervals_from_indices(alignment.indices, cuts=shots)
        starts = {run.start for run in runs}
        embedding = _refine(method, crops.to(device), embedding, positions, starts, codes)
    small = images.resize(method.find_mask(embedding), (side, side))
    return _Measured(
        positions=positions,
        looked=looked,
        codes=embedding.w_plus.float().cpu()[place],
        masks=images.mask_to_uint8(small).cpu()[place],
        guides=guides,
    )


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
    )


def keep_steadied(
    mask: InvertibilityMask,
    seconds: NDArray[np.float64],
    plan: StabilizerPlan,
    *,
    shots: Sequence[Interval],
) -> InvertibilityMask:
    """Return masks that bring along what the plan's filter makes of them."""
    ood = stabilise_masks(mask, seconds, plan, shots=shots)
    return replace(mask, steadied=SteadiedMasks(ood=ood, filter_text=repr(plan.mask)))


def stabilise_inversion(
    inversion: Inversion,
    seconds: NDArray[np.float64],
    plan: StabilizerPlan,
    *,
    shots: Sequence[Interval],
) -> Inversion:
    """Steady codes and masks over time; nothing crosses a cut or a gap of the track."""
    masks = stabilise_masks(inversion.mask, seconds, plan, shots=shots)
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
) -> NDArray[np.float64]:
    """Steady landmarks (T, P, 2) that were read out of codes, where changes are smoothed at all.

    They say where an edit's motion takes hold, not what the mouth says: that stays the source's.
    """
    if plan.change is None:
        return points
    flat = points.reshape(len(points), -1)
    return smooth(flat, seconds, LANDMARK_FILTER, intervals=intervals).reshape(points.shape)
