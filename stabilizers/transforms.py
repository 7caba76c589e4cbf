"""Smoothing of crops along time: centre, size and angle, each as what it is.

The entries of a matrix are not what moves: averaging rotations entry by entry shrinks the crop. So
a similarity is taken apart into the crop's centre in the frame, the logarithm of its scale and its
unwrapped angle, each is filtered, and the matrix is put together again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stabilizers.intervals import Interval
from stabilizers.signals import Float64Array, TemporalFilter, check_intervals, smooth


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityFilter:
    """Separate filters for a crop's centre and for its size and angle ("axes"), as in STIT.

    Heads move faster than they turn or come nearer, so the axes bear the longer kernel.
    """

    centre: TemporalFilter | None
    axes: TemporalFilter | None


def smooth_similarities(
    crop_from_frame: Float64Array,
    seconds: Float64Array,
    filter_: TemporalFilter | SimilarityFilter | None,
    *,
    intervals: Sequence[Interval],
    crop_size: int,
) -> Float64Array:
    """Smooth similarity transforms in time.

    Args:
        crop_from_frame: (T, 2, 3) float64, frame pixels to crop pixels; no reflections.
        seconds: (T,) float64, strictly increasing presentation times.
        filter_: one filter for all, or one for the centre and one for the axes; None returns a
            copy.
        intervals: disjoint positions along the T axis, in order; nothing crosses them.
        crop_size: side R of the crop in pixels.

    Returns:
        (T, 2, 3) float64.

    Raises:
        ValueError: the shape is wrong, or a transform is not a similarity (it collapses the plane,
            shears or mirrors it).

    Convention: pixel centres at integers, so a crop of R pixels covers [-0.5, R - 0.5] and its
    centre is at (R - 1) / 2.

    Example:
        >>> still = np.tile(np.array([[0.5, 0.0, 3.0], [0.0, 0.5, 1.0]]), (4, 1, 1))
        >>> smoothed = smooth_similarities(
        ...     still, np.arange(4) / 25, None, intervals=[Interval(0, 4)], crop_size=64
        ... )
        >>> bool(np.allclose(smoothed, still))
        True
    """
    _check_similarities(crop_from_frame)
    check_intervals(intervals, len(crop_from_frame))
    if not isinstance(filter_, SimilarityFilter):
        filter_ = SimilarityFilter(centre=filter_, axes=filter_)
    if filter_.centre is None and filter_.axes is None:
        return crop_from_frame.copy()
    centre_xy, log_scale, angle = _take_apart(crop_from_frame, crop_size)
    for interval in intervals:
        run = slice(interval.start, interval.stop)
        angle[run] = np.unwrap(angle[run])
    axes = np.stack([log_scale, angle], axis=-1)  # (T, 2)
    # The last axis is one vector to filters that look at vectors; size and angle are two things.
    axes = smooth(axes[..., None], seconds, filter_.axes, intervals=intervals)[..., 0]
    centre_xy = smooth(centre_xy, seconds, filter_.centre, intervals=intervals)
    return _put_together(centre_xy, axes[:, 0], axes[:, 1], crop_size)


def _take_apart(
    crop_from_frame: Float64Array, crop_size: int
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return the crop's centre in the frame (T, 2), log-scale (T,) and angle (T,)."""
    cosine, sine = crop_from_frame[:, 0, 0], crop_from_frame[:, 1, 0]
    middle = np.full((len(crop_from_frame), 2, 1), (crop_size - 1) / 2)
    centre = np.linalg.solve(crop_from_frame[:, :, :2], middle - crop_from_frame[:, :, 2:])
    centre_xy = np.asarray(centre[:, :, 0], dtype=np.float64)
    return centre_xy, np.log(np.hypot(cosine, sine)), np.arctan2(sine, cosine)


def _put_together(
    centre_xy: Float64Array, log_scale: Float64Array, angle: Float64Array, crop_size: int
) -> Float64Array:
    scale = np.exp(log_scale)
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([cosine, -sine, sine, cosine], axis=-1).reshape(-1, 2, 2)
    shift = (crop_size - 1) / 2 - linear @ centre_xy[:, :, None]  # (T, 2, 1)
    return np.concatenate([linear, shift], axis=-1)


def _check_similarities(crop_from_frame: Float64Array) -> None:
    if crop_from_frame.ndim != 3 or crop_from_frame.shape[1:] != (2, 3):
        raise ValueError(f"transforms have shape {crop_from_frame.shape}, expected (T, 2, 3)")
    a, b = crop_from_frame[:, 0, 0], crop_from_frame[:, 0, 1]
    c, d = crop_from_frame[:, 1, 0], crop_from_frame[:, 1, 1]
    scale = np.hypot(a, c)
    skew = np.maximum(np.abs(a - d), np.abs(b + c))
    wrong = np.flatnonzero(~(scale > 0) | ~(skew <= 1e-6 * scale))
    if len(wrong):
        raise ValueError(
            f"transform {wrong[0]} is not a similarity: {crop_from_frame[wrong[0]].tolist()}, "
            "expected a rotation and one scale without mirroring"
        )
