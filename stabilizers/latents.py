"""Smoothing of codes along time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stabilizers.intervals import Interval
from stabilizers.signals import Float64Array, TemporalFilter, smooth

_CHUNK_BYTES = 32 << 20


def smooth_latents(
    w_plus: Tensor,
    seconds: Float64Array,
    filter_: TemporalFilter | None,
    *,
    intervals: Sequence[Interval],
) -> Tensor:
    """Smooth a track's codes in time, each number by itself.

    Args:
        w_plus: (T, L, D) float32, on any device.
        seconds: (T,) float64, strictly increasing presentation times.
        filter_: None returns a copy.
        intervals: disjoint positions along the T axis, in order; nothing crosses them.

    Returns:
        (T, L, D) float32 on the device of `w_plus`; the arithmetic is float64 on the CPU.

    Raises:
        ValueError: `w_plus` is not float32 with three axes.

    Example:
        >>> import numpy as np
        >>> codes = torch.ones(3, 2, 4)
        >>> torch.equal(smooth_latents(codes, np.arange(3) / 25, None, intervals=[]), codes)
        True
    """
    if w_plus.dtype != torch.float32 or w_plus.ndim != 3:
        raise ValueError(
            f"w_plus is {w_plus.dtype} {tuple(w_plus.shape)}, expected torch.float32 (T, L, D)"
        )
    columns = w_plus.detach().cpu().flatten(1).numpy()  # (T, L * D)
    smoothed = torch.empty(columns.shape)
    at_once = max(1, _CHUNK_BYTES // (8 * max(1, len(columns))))
    for start in range(0, columns.shape[1], at_once):
        chunk = smooth(columns[:, start : start + at_once], seconds, filter_, intervals=intervals)
        smoothed[:, start : start + at_once] = torch.as_tensor(chunk)
    return smoothed.reshape(w_plus.shape).to(w_plus.device)
