"""Smoothing of masks along time, in bounded memory: pixel by pixel, or along what moves."""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilizers.fields import Link, link_pictures, smooth_fields
from stabilizers.flow import FlowEstimator, guided_filter
from stabilizers.intervals import Interval
from stabilizers.signals import (
    Float64Array,
    GaussianFilter,
    TemporalFilter,
    check_intervals,
    check_seconds,
    smooth,
)

_CHUNK_BYTES = 32 << 20
_BLOCK = 128  # frames smoothed along flow at once
_LEAD = 6.0  # time constants after which a frame no longer counts (e^-6 is half a grey level)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowFilter:
    """Smooth masks along optical flow, then snap them to the picture's edges.

    Attributes:
        time_seconds: time constant of the two-sided exponential kernel along the flow; 0 = no
            smoothing in time.
        levels: grey levels by which a pixel may differ from what the flow says it is before it
            stops counting (standard deviation): across a moving edge nothing is mixed.
        radius: half the window of the guided filter, as a share of the mask's side; 0 = no
            snapping.
        edge: contrast, as a share of the grey range, that counts as an edge to snap to.
    """

    time_seconds: float = 0.08
    levels: float = 12.0
    radius: float = 0.0
    edge: float = 0.08

    def __post_init__(self) -> None:
        if not (math.isfinite(self.time_seconds) and self.time_seconds >= 0):
            raise ValueError(f"time_seconds is {self.time_seconds}, expected a number >= 0")
        if not self.levels > 0:
            raise ValueError(f"levels is {self.levels}, expected a number of grey levels > 0")
        if not 0 <= self.radius <= 0.5:
            raise ValueError(f"radius is {self.radius}, expected a share of the side in [0, 0.5]")
        if not self.edge > 0:
            raise ValueError(f"edge is {self.edge}, expected a share of the grey range > 0")

    def in_place(self) -> GaussianFilter:
        """Return the Gaussian as wide as the kernel along the flow, for what moves with the crop.

        Example:
            >>> FlowFilter(time_seconds=0.5).in_place().sigma_seconds == 0.5 * math.sqrt(2)
            True
        """
        return GaussianFilter(sigma_seconds=math.sqrt(2.0) * self.time_seconds)


def smooth_masks(
    ood: Tensor,
    seconds: Float64Array,
    filter_: TemporalFilter | FlowFilter | None,
    *,
    intervals: Sequence[Interval],
    guide: Tensor | None = None,
    flow: FlowEstimator | None = None,
    measured: NDArray[np.bool_] | None = None,
    workers: int = 1,
) -> Tensor:
    """Smooth masks in time.

    With a filter along time every pixel is smoothed by itself: right for a crop in which the face
    stands still. With a `FlowFilter` each pixel is followed through the pictures of `guide`, so a
    hand's mask moves with the hand. A bounded number of frames is widened to float at a time.

    Args:
        ood: (T, 1, h, w) uint8, 255 = 1.0, on any device.
        seconds: (T,) float64, strictly increasing presentation times.
        filter_: None returns a copy.
        intervals: disjoint positions along the T axis, in order; nothing crosses them.
        guide: (T, 1, h, w) uint8, the grey pictures the masks belong to; for a `FlowFilter`.
        flow: estimates the flow between two of them; for a `FlowFilter`.
        measured: (T,) False where a mask was not measured: a `FlowFilter` carries there what lies
            beside it, and does not look at the mask itself; a filter along time takes it as it is.
            None = all were.
        workers: threads that estimate flow for a `FlowFilter`; the result is the same.

    Returns:
        (T, 1, h, w) uint8 on the device of `ood`, rounded to the nearest.

    Raises:
        ValueError: `ood` or `guide` is not uint8 of shape (T, 1, h, w), `measured` is not of shape
            (T,), or a `FlowFilter` is without guide or estimator.

    Example:
        >>> masks = torch.full((3, 1, 2, 2), 200, dtype=torch.uint8)
        >>> torch.equal(smooth_masks(masks, np.arange(3) / 25, None, intervals=[]), masks)
        True
    """
    if ood.dtype != torch.uint8 or ood.ndim != 4 or ood.shape[1] != 1:
        raise ValueError(
            f"ood is {ood.dtype} {tuple(ood.shape)}, expected torch.uint8 (T, 1, h, w)"
        )
    if measured is not None and measured.shape != (len(ood),):
        raise ValueError(f"measured has shape {measured.shape}, expected ({len(ood)},), as masks")
    if isinstance(filter_, FlowFilter):
        if guide is None or flow is None:
            raise ValueError(
                "a FlowFilter needs the pictures and an estimator of their flow, expected guide "
                "and flow; pass both or take a filter along time"
            )
        if guide.dtype != torch.uint8 or guide.shape != ood.shape:
            raise ValueError(
                f"guide is {guide.dtype} {tuple(guide.shape)}, expected torch.uint8 "
                f"{tuple(ood.shape)}, as the masks"
            )
        check_seconds(seconds, seconds)
        check_intervals(intervals, len(ood))
        mass = np.ones(len(ood)) if measured is None else measured.astype(np.float64)
        with ThreadPoolExecutor(workers, thread_name_prefix="flow") as pool:
            link = partial(_link_run, filter_=filter_, flow=flow, at_once=pool.map)
            return _smooth_along_flow(ood, guide, mass, seconds, filter_, intervals, link)
    pixels = ood.detach().cpu().flatten(1).numpy()  # (T, h * w)
    smoothed = np.empty_like(pixels)
    at_once = max(1, _CHUNK_BYTES // (8 * max(1, len(pixels))))
    for start in range(0, pixels.shape[1], at_once):
        # Each pixel is a vector of one number: filters that look at vectors take it by itself.
        chunk = pixels[:, start : start + at_once, None]
        steady = smooth(chunk, seconds, filter_, intervals=intervals)[..., 0]
        smoothed[:, start : start + at_once] = np.rint(steady).clip(0, 255)
    return torch.as_tensor(smoothed).reshape(ood.shape).to(ood.device)


def _smooth_along_flow(
    ood: Tensor,
    guide: Tensor,
    mass: Float64Array,
    seconds: Float64Array,
    filter_: FlowFilter,
    intervals: Sequence[Interval],
    link: Callable[[Tensor], list[Link]],
) -> Tensor:
    masks, pictures = ood.detach().cpu(), guide.detach().cpu()
    smoothed = masks.clone()
    lead = _LEAD * filter_.time_seconds
    for interval in intervals:
        for start in range(interval.start, interval.stop, _BLOCK):
            stop = min(start + _BLOCK, interval.stop)
            # A block is smoothed together with as many frames around it as count.
            reach = seconds[[start, stop - 1]] + np.array([-lead, lead])
            first, last = np.searchsorted(seconds, reach).tolist()
            run = slice(max(first, interval.start), min(last + 1, interval.stop))
            block = _smooth_run(masks[run], pictures[run], mass[run], seconds[run], filter_, link)
            smoothed[start:stop] = block[start - run.start : stop - run.start]
    return smoothed.to(ood.device)


def _link_run(
    pictures: Tensor,
    *,
    filter_: FlowFilter,
    flow: FlowEstimator,
    at_once: Callable[..., Iterable[Link]],
) -> list[Link]:
    """Join the pictures (T, 1, h, w) of an unbroken run, each to the next: T - 1 links."""
    seen = pictures[:, 0].numpy()
    join = partial(link_pictures, flow=flow, levels=filter_.levels)
    return list(at_once(join, seen[:-1], seen[1:]))


def _smooth_run(
    masks: Tensor,
    pictures: Tensor,
    mass: Float64Array,
    seconds: Float64Array,
    filter_: FlowFilter,
    link: Callable[[Tensor], list[Link]],
) -> Tensor:
    """Smooth one unbroken run (T, 1, h, w), and snap it to edges."""
    steady, guides = masks.float() / 255.0, pictures.float() / 255.0
    if filter_.time_seconds > 0 and len(masks) > 1:
        counted = steady * torch.as_tensor(mass, dtype=steady.dtype)[:, None, None, None]
        steady = smooth_fields(
            counted, mass, seconds, link(pictures), time_seconds=filter_.time_seconds
        )
    radius = round(filter_.radius * masks.shape[-1])
    if radius > 0:
        steady = guided_filter(steady, guides, radius=radius, edge=filter_.edge)
    return (steady * 255.0).round().clamp(0, 255).to(torch.uint8)
