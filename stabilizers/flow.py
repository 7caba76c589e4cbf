"""What moves along optical flow: warping, telling what is hidden, and snapping to edges.

The flow itself comes from an estimator that is passed in; `flow_ab` takes a pixel of picture a to
where it lies in picture b, in pixels, (dx, dy).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

# Two grey pictures uint8 (h, w) -> flow_ab float32 (h, w, 2).
FlowEstimator = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]

# ||f + b||^2 < 0.01 (||f||^2 + ||b||^2) + 0.5 (Sundaram, Brox and Keutzer, ECCV 2010, eq. 5).
_RELATIVE, _ABSOLUTE = 0.01, 0.5


def flow_tensor(flow: NDArray[Any]) -> Tensor:
    """Turn an estimator's flow (h, w, 2) into float32 (1, 2, h, w)."""
    return torch.as_tensor(np.ascontiguousarray(flow, np.float32)).permute(2, 0, 1)[None]


def warp_back(
    field_b: Tensor,
    flow_ab: Tensor,
    *,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Tensor:
    """Fetch what lies in b where the pixels of a have gone: out(p) = field_b(p + flow_ab(p)).

    Beyond the border its pixels repeat.

    Args:
        field_b: (N, C, h, w) float32.
        flow_ab: (N, 2, h, w) float32 in pixels.
        interpolation: `bicubic` keeps detail that is warped many times, and may overshoot.

    Returns:
        (N, C, h, w), in the geometry of a; where the flow is 0, `field_b` to the last bits.

    Convention: pixel centres at integers, corners of the sampling grid at the centres of the
    corner pixels (align_corners=True).

    Example:
        >>> ramp = torch.arange(4.0).repeat(1, 1, 3, 1)
        >>> right = torch.zeros(1, 2, 3, 4)
        >>> right[:, 0] = 1.0
        >>> warp_back(ramp, right)[0, 0, 0].tolist()
        [1.0, 2.0, 3.0, 3.0]
    """
    places, steps = _pixel_grid(field_b.shape[-2], field_b.shape[-1])
    to = torch.as_tensor(places).to(flow_ab) + flow_ab
    grid = (to * torch.as_tensor(steps).to(flow_ab) - 1.0).permute(0, 2, 3, 1)  # (N, h, w, 2)
    # Over channels last, bicubic sampling takes less than half the time.
    last = field_b.contiguous(memory_format=torch.channels_last)
    return F.grid_sample(last, grid, mode=interpolation, padding_mode="border", align_corners=True)


def visible_in_both(flow_ab: Tensor, flow_ba: Tensor) -> Tensor:
    """Return where a pixel of a is also seen in b: going there and back leads home.

    The check of Sundaram, Brox and Keutzer (ECCV 2010, equation 5); pixels that leave the picture
    are not seen.

    Args:
        flow_ab: (N, 2, h, w) float32.
        flow_ba: (N, 2, h, w) float32.

    Returns:
        (N, 1, h, w) float32, 1 = seen in both.

    Example:
        >>> there = torch.full((1, 2, 8, 8), 2.0)
        >>> visible_in_both(there, -there)[0, 0, 0].tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    """
    returned = warp_back(flow_ba, flow_ab)  # (N, 2, h, w)
    error = _squared_lengths(flow_ab + returned)
    size = _squared_lengths(flow_ab) + _squared_lengths(returned)
    places = torch.as_tensor(_pixel_grid(flow_ab.shape[-2], flow_ab.shape[-1])[0]).to(flow_ab)
    to = places + flow_ab
    inside = (to >= 0) & (to <= places[..., -1:, -1:])
    inside = inside[:, :1] & inside[:, 1:]
    return ((error < _RELATIVE * size + _ABSOLUTE) & inside).to(flow_ab.dtype)


def _squared_lengths(flow: Tensor) -> Tensor:
    """(N, 2, h, w) -> (N, 1, h, w)."""
    return flow[:, :1].square() + flow[:, 1:].square()


@lru_cache(maxsize=8)  # those of large frames are large
def _pixel_grid(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return where pixels lie, (1, 2, height, width) as (x, y), and the steps to [-1, 1]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    steps = [2.0 / max(width - 1, 1), 2.0 / max(height - 1, 1)]
    return np.stack([x, y])[None], np.array(steps, np.float32).reshape(1, 2, 1, 1)


def guided_filter(mask: Tensor, guide: Tensor, *, radius: int, edge: float) -> Tensor:
    """Smooth a mask in space along the edges of a picture (He, Sun and Tang, ECCV 2010).

    In every window the mask is written as a line of the guide, `mask = a guide + b`, so it changes
    where the guide does and is flat where the guide is flat.

    Args:
        mask: (N, 1, h, w) float32 in [0, 1].
        guide: (N, 1, h, w) float32 in [0, 1].
        radius: half the window's side in pixels; 0 returns the mask.
        edge: contrast of the guide, in [0, 1], above which it counts as an edge: the square root
            of the paper's epsilon.

    Returns:
        (N, 1, h, w) float32 in [0, 1].

    Raises:
        ValueError: the radius is negative or `edge` is not positive.

    Example:
        >>> flat = torch.full((1, 1, 9, 9), 0.25)
        >>> bool(torch.allclose(guided_filter(flat, torch.rand(1, 1, 9, 9), radius=2, edge=0.1),
        ...     flat))
        True
    """
    if radius < 0 or not edge > 0:
        raise ValueError(
            f"radius is {radius} and edge {edge}, expected a radius >= 0 in pixels and an edge > 0"
        )
    if radius == 0:
        return mask
    mean_guide, mean_mask = _box(guide, radius), _box(mask, radius)
    covariance = _box(guide * mask, radius) - mean_guide * mean_mask
    variance = _box(guide * guide, radius) - mean_guide * mean_guide
    slope = covariance / (variance.clamp_min(0.0) + edge * edge)
    offset = mean_mask - slope * mean_guide
    return (_box(slope, radius) * guide + _box(offset, radius)).clamp(0.0, 1.0)


def _box(field: Tensor, radius: int) -> Tensor:
    """Mean over a square window, cut off at the border."""
    return F.avg_pool2d(field, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
