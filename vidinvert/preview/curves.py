"""Curves along time that tell where trouble is, and the frames worth looking at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stabilizers import Interval, intervals_from_indices
from vidinvert.types import Alignment, FaceTrack, Float64Array, Int64Array

MEDIAN_FRAMES = 200  # frames at most from which the usual mask is taken
NEAR_SECONDS = 0.3  # peaks nearer than this are one spot
PEAKS = 3  # spots a curve may name
STANDS_OUT = 1.2  # robust standard deviations above the usual from which a peak is named

# Added to a curve's spread, so that a nearly constant one has no peaks; in the curve's own unit.
_FLOORS = {"mask": 0.005, "change": 0.004, "flicker": 0.002, "jitter": 0.02, "score": 0.01}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceCurves:
    """One value per frame of a track; NaN where there is none.

    Attributes:
        indices: (T,) frame indices.
        values: by name, (T,) float64 each: `mask`, its mean in [0, 1] (1 = all of the crop is
            kept); `change`, the mean difference from the track's usual mask, in [0, 1]; `score` of
            the detection in [0, 1], 0 where the face was filled in; `flicker`, the mean difference
            from the previous frame's mask, in [0, 1]; `jitter`, how far the crop's corners lie off
            the straight way between the neighbouring frames, in percent of the crop's side.
        gaps: frames in which the face was not found.
    """

    indices: Int64Array
    values: Mapping[str, Float64Array]
    gaps: tuple[Interval, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A frame worth looking at: which curves say so, and by how many robust deviations."""

    frame: int
    reasons: tuple[str, ...]
    weight: float


def measure_curves(
    track: FaceTrack,
    alignment: Alignment,
    ood: Tensor,
    *,
    seconds: Float64Array,
    shots: Sequence[Interval],
    frames: range,
) -> FaceCurves:
    """Measure a face's curves from its masks (T, 1, h, w) uint8 as rendered and its crops.

    Args:
        track: what was detected.
        alignment: where the crops lie, steadied.
        ood: the masks, 255 = 1.0.
        seconds: (frames of the clip,) their times.
        shots: nothing is compared across their ends or across gaps.
        frames: the part of the clip that is shown.
    """
    masks = ood.numpy()[:, 0]  # (T, h, w)
    indices = alignment.indices
    intervals = intervals_from_indices(indices, cuts=shots)
    values = {
        "mask": masks.mean(axis=(1, 2), dtype=np.float64) / 255.0,
        "change": _change(masks),
        "score": track.score,
        "flicker": _flicker(masks, intervals),
        "jitter": _jitter(alignment, seconds[indices], intervals),
    }
    inside = np.flatnonzero((indices >= frames.start) & (indices < frames.stop))
    return FaceCurves(
        indices=indices[inside],
        values={name: series[inside] for name, series in values.items()},
        gaps=_gaps(indices[inside], frames),
    )


def _gaps(indices: Int64Array, frames: range) -> tuple[Interval, ...]:
    edges = [frames.start - 1, *indices.tolist(), frames.stop]
    return tuple(Interval(a + 1, b) for a, b in pairwise(edges) if b - a > 1)


def _change(masks: NDArray[np.uint8]) -> Float64Array:
    some = np.unique(np.linspace(0, len(masks) - 1, MEDIAN_FRAMES).round().astype(int))
    usual = np.median(masks[some], axis=0).astype(np.int16)  # (h, w)
    return np.array([np.abs(mask - usual).mean() / 255.0 for mask in masks])


def _flicker(masks: NDArray[np.uint8], intervals: Sequence[Interval]) -> Float64Array:
    flicker = np.full(len(masks), np.nan)
    for interval in intervals:
        for t in range(interval.start + 1, interval.stop):
            flicker[t] = np.abs(masks[t].astype(np.int16) - masks[t - 1]).mean() / 255.0
    return flicker


def _jitter(
    alignment: Alignment, seconds: Float64Array, intervals: Sequence[Interval]
) -> Float64Array:
    quads = alignment.quads_xy  # (T, 4, 2)
    side = np.linalg.norm(quads[:, 1] - quads[:, 0], axis=1)  # (T,)
    jitter = np.full(len(quads), np.nan)
    for interval in intervals:
        inner = np.arange(interval.start + 1, interval.stop - 1)
        if len(inner) == 0:
            continue
        before, after = seconds[inner - 1], seconds[inner + 1]
        share = ((seconds[inner] - before) / (after - before))[:, None, None]
        straight = (1.0 - share) * quads[inner - 1] + share * quads[inner + 1]
        off = np.sqrt(np.square(quads[inner] - straight).sum(axis=2).mean(axis=1))  # (K,)
        jitter[inner] = 100.0 * off / side[inner]
    return jitter


def find_spots(curves: FaceCurves, *, seconds: Float64Array) -> tuple[Spot, ...]:
    """Name the frames where a curve is most unlike its usual value, in the order of time.

    A curve's peaks are judged by its median and median absolute deviation; a score counts where it
    falls. Of the two frames between which a mask flickers, the one whose mask is less usual is
    named: there a hand that comes or goes is in the picture. Peaks of several curves within
    `NEAR_SECONDS` make one spot at the strongest of them.

    Args:
        curves: of one face.
        seconds: (frames of the clip,) their times.
    """
    times = seconds[curves.indices]
    peaks: list[tuple[float, int, str]] = []
    for name, values in curves.values.items():
        known = np.flatnonzero(np.isfinite(values))
        if len(known) == 0:
            continue
        signed = -values[known] if name == "score" else values[known]
        middle = np.median(signed)
        spread = 1.4826 * np.median(np.abs(signed - middle)) + _FLOORS[name]
        weights = (signed - middle) / spread
        taken: list[int] = []
        for k in np.argsort(-weights, kind="stable"):
            if weights[k] < STANDS_OUT or len(taken) == PEAKS:
                break
            position = int(known[k])
            if name == "flicker":
                position -= _is_less_usual(curves, position - 1, position)
            if all(abs(times[position] - times[other]) > NEAR_SECONDS for other in taken):
                taken.append(position)
                peaks.append((float(weights[k]), position, name))
    spots: list[Spot] = []
    for weight, position, name in sorted(peaks, key=lambda peak: -peak[0]):
        near = [
            number
            for number, spot in enumerate(spots)
            if abs(seconds[spot.frame] - times[position]) <= NEAR_SECONDS
        ]
        if not near:
            frame = int(curves.indices[position])
            spots.append(Spot(frame=frame, reasons=(name,), weight=weight))
        elif name not in spots[near[0]].reasons:
            spot = spots[near[0]]
            spots[near[0]] = Spot(
                frame=spot.frame, reasons=(*spot.reasons, name), weight=spot.weight
            )
    return tuple(sorted(spots, key=lambda spot: spot.frame))


def _is_less_usual(curves: FaceCurves, first: int, second: int) -> bool:
    return bool(curves.values["change"][first] > curves.values["change"][second])
