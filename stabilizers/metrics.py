"""How steady something is: numbers over time for points, masks, pictures and identities.

Every function gives one value per frame or pair of frames, so that a plot shows where it was bad;
the figure of a clip is the mean over them. Nothing compares frames across an `Interval`.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from stabilizers.flow import warp_back
from stabilizers.intervals import Interval
from stabilizers.signals import Float64Array, check_intervals

_ROWS = 512


def jitter(
    points_xy: Float64Array, scale: Float64Array, *, intervals: Sequence[Interval]
) -> Float64Array:
    """Measure how points shake: the length of their second difference over a size.

    mean_k ||p_{t+1} - 2 p_t + p_{t-1}|| / scale_t. A constant velocity costs nothing. Range 0 and
    up; lower is steadier. Only comparable at one frame rate: report edited against source.

    Args:
        points_xy: (T, K, 2) positions.
        scale: (T,) sizes, as the distance of the eyes; the result has no unit.
        intervals: disjoint positions along the T axis, in order; nothing crosses them.

    Returns:
        (T,), NaN on the first and last sample of every interval and outside them.

    Raises:
        ValueError: the intervals overlap or reach beyond T.

    Example:
        >>> moving = np.arange(4.0)[:, None, None] * np.ones((4, 1, 2))
        >>> jitter(moving, np.ones(4), intervals=[Interval(0, 4)]).tolist()
        [nan, 0.0, 0.0, nan]
    """
    check_intervals(intervals, len(points_xy))
    result = np.full(len(points_xy), np.nan)
    for interval in intervals:
        run = points_xy[interval.start : interval.stop]
        if len(run) < 3:
            continue
        shake = np.linalg.norm(run[2:] - 2 * run[1:-1] + run[:-2], axis=-1).mean(axis=-1)
        inside = slice(interval.start + 1, interval.stop - 1)
        result[inside] = shake / scale[inside]
    return result


def warping_error(first: Tensor, second: Tensor, flow: Tensor, seen: Tensor) -> float:
    """Measure what motion does not explain between two frames (Lai et al., ECCV 2018, section 4).

    sum_p m(p) mean_c (Y_t(p) - Y_{t+1}(p + flow(p)))² / sum_p m(p): the mean square difference, in
    squares of the pictures' unit, where `seen` is 1. Range 0 and up; lower is steadier. It depends
    on the content: divide the edit's by the source's, taken with the source's flow for both; more
    than 1 is flicker that the edit added.

    Args:
        first: (1, C, h, w) float32, frame t.
        second: (1, C, h, w) float32, frame t + 1.
        flow: (1, 2, h, w) float32 from t to t + 1, in pixels.
        seen: (1, 1, h, w) float32 weights: where both frames show the same thing.

    Returns:
        The error; NaN where nothing is seen in both.

    Example:
        >>> import torch
        >>> still = torch.rand(1, 3, 4, 4)
        >>> warping_error(still, still + 0.5, torch.zeros(1, 2, 4, 4), torch.ones(1, 1, 4, 4))
        0.25
    """
    weight = float(seen.sum())
    if weight == 0:
        return float("nan")
    difference = (first - warp_back(second, flow)).square().mean(dim=1, keepdim=True)
    return round(float((difference * seen).sum()) / weight, 9)


def mask_flicker(first: Tensor, second: Tensor, flow: Tensor, seen: Tensor) -> float:
    """Measure how much a soft mask changes beyond what moves: mean |m_t - warp(m_{t+1})|.

    Range 0 to 1; lower is steadier.

    Args:
        first: (1, 1, h, w) float32 in [0, 1], frame t.
        second: (1, 1, h, w) float32, frame t + 1.
        flow: (1, 2, h, w) float32 from t to t + 1, in pixels.
        seen: (1, 1, h, w) float32 weights.

    Returns:
        The mean over what is seen in both; NaN where that is nothing.

    Example:
        >>> import torch
        >>> off, on = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
        >>> mask_flicker(off, on, torch.zeros(1, 2, 4, 4), on)
        1.0
    """
    weight = float(seen.sum())
    if weight == 0:
        return float("nan")
    return float(((first - warp_back(second, flow)).abs() * seen).sum()) / weight


def mask_iou(first: Tensor, second: Tensor, *, threshold: float = 0.5) -> float:
    """Intersection over union of two masks, cut at a threshold.

    Range 0 to 1; higher is better; 1 where both are empty. Between a mask and the warped next one
    it is the temporal IoU.

    Args:
        first: any shape, float, in [0, 1].
        second: the same shape.
        threshold: values from here up belong to the mask.

    Example:
        >>> import torch
        >>> mask_iou(torch.tensor([0.0, 0.6, 1.0]), torch.tensor([0.0, 0.4, 1.0]))
        0.5
    """
    a, b = first >= threshold, second >= threshold
    union = int((a | b).sum())
    return 1.0 if union == 0 else int((a & b).sum()) / union


def temporal_identity(edited: Float64Array, source: Float64Array) -> tuple[Float64Array, float]:
    """Compare how much a person resembles themself over time, in an edit and in its source.

    R = (E_y E_y^T) / (E_x E_x^T), element by element, with unit identity vectors as rows (STIT,
    Tzaban et al. 2022; the authors' snippet). TL-ID is the mean of R[t, t+1], TG-ID that of all
    off-diagonal R[i, j]. About 1 is good; more than 1 is possible and says that the edit varies
    less than the source; a flickering identity falls below.

    Args:
        edited: (T, D) unit vectors.
        source: (T, D) unit vectors of the same frames.

    Returns:
        R[t, t+1] as (T - 1,), whose mean is TL-ID, and TG-ID; empty and NaN below two frames.

    Example:
        >>> rows = np.eye(3)[[0, 0, 0]]
        >>> local, whole = temporal_identity(rows, rows)
        >>> local.tolist(), whole
        ([1.0, 1.0], 1.0)
    """
    count = len(edited)
    if count < 2:
        return np.zeros(0), float("nan")
    total = 0.0
    for start in range(0, count, _ROWS):  # not all T x T at once
        rows = slice(start, start + _ROWS)
        ratio: Float64Array = (edited[rows] @ edited.T) / (source[rows] @ source.T)
        total += float(ratio.sum() - np.diagonal(ratio, offset=start).sum())
    steps = (edited[:-1] * edited[1:]).sum(axis=1) / (source[:-1] * source[1:]).sum(axis=1)
    return np.asarray(steps, dtype=np.float64), total / (count * (count - 1))


def correlation(a: Float64Array, b: Float64Array) -> float:
    """Pearson's correlation of two signals, NaN values left out; NaN where one is constant.

    Example:
        >>> correlation(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
        1.0
    """
    known = np.isfinite(a) & np.isfinite(b)
    x, y = a[known] - a[known].mean(), b[known] - b[known].mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return round(float(x @ y) / size, 12) if size > 0 else float("nan")


def temporal_iou(masks: Tensor, flows: Sequence[Tensor]) -> list[float]:
    """IoU of each mask with the next one, moved back along the flow.

    Args:
        masks: (T, 1, h, w) float32 in [0, 1].
        flows: T - 1 flows (1, 2, h, w) from t to t + 1.

    Example:
        >>> import torch
        >>> temporal_iou(torch.ones(2, 1, 4, 4), [torch.zeros(1, 2, 4, 4)])
        [1.0]
    """
    return [
        mask_iou(masks[t : t + 1], warp_back(masks[t + 1 : t + 2], flow))
        for t, flow in enumerate(flows)
    ]
