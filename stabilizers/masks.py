"""Smoothing of masks along time, pixel by pixel, in bounded memory."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stabilizers.intervals import Interval
from stabilizers.signals import Float64Array, TemporalFilter, smooth

_CHUNK_BYTES = 32 << 20


def smooth_masks(
    ood: Tensor,
    seconds: Float64Array,
    filter_: TemporalFilter | None,
    *,
    intervals: Sequence[Interval],
) -> Tensor:
    """Smooth masks in time, each pixel by itself.

    Masks lie in the crop, whose face stands still after alignment, so no motion is followed.
    A few pixels are widened to float64 at a time: besides the result, memory does not grow with
    the size of the picture.

    Args:
        ood: (T, 1, h, w) uint8, 255 = 1.0, on any device.
        seconds: (T,) float64, strictly increasing presentation times.
        filter_: None returns a copy.
        intervals: disjoint positions along the T axis, in order; nothing crosses them.

    Returns:
        (T, 1, h, w) uint8 on the device of `ood`, rounded to the nearest.

    Raises:
        ValueError: `ood` is not uint8 of shape (T, 1, h, w).

    Example:
        >>> masks = torch.full((3, 1, 2, 2), 200, dtype=torch.uint8)
        >>> torch.equal(smooth_masks(masks, np.arange(3) / 25, None, intervals=[]), masks)
        True
    """
    if ood.dtype != torch.uint8 or ood.ndim != 4 or ood.shape[1] != 1:
        raise ValueError(
            f"ood is {ood.dtype} {tuple(ood.shape)}, expected torch.uint8 (T, 1, h, w)"
        )
    pixels = ood.detach().cpu().flatten(1).numpy()  # (T, h * w)
    smoothed = np.empty_like(pixels)
    at_once = max(1, _CHUNK_BYTES // (8 * max(1, len(pixels))))
    for start in range(0, pixels.shape[1], at_once):
        chunk = smooth(pixels[:, start : start + at_once], seconds, filter_, intervals=intervals)
        smoothed[:, start : start + at_once] = np.rint(chunk)
    return torch.as_tensor(smoothed).reshape(ood.shape).to(ood.device)
