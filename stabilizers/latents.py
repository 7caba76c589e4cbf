"""Smoothing of codes along time, each group of layers in its own way."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stabilizers.intervals import Interval
from stabilizers.signals import Float64Array, TemporalFilter, smooth

_CHUNK_BYTES = 32 << 20
COARSE_SHARE = 0.25  # of the layers, from the coarsest: shape and pose, W+ 0..3 of 18
EXPRESSION_SHARE = 0.5  # up to here: mouth, eyes and brows, W+ 4..8 of 18; the rest is fine


@dataclass(frozen=True, slots=True, kw_only=True)
class LayeredFilter:
    """One filter for each group of a code's layers, coarse to fine.

    The groups are shares of the layers, so that codes of 4, 14 and 18 layers are treated alike;
    which layers of StyleGAN do what: Karras et al., CVPR 2019, section 3.1.

    Attributes:
        coarse: the first quarter, who it is and how the head is held: may be smoothed strongly.
        expression: the second quarter, mouth and eyes: lightly, or speech and blinks are lost.
        fine: the other half, colour and texture.
    """

    coarse: TemporalFilter | None
    expression: TemporalFilter | None
    fine: TemporalFilter | None

    def groups(self, layers: int) -> tuple[tuple[slice, TemporalFilter | None], ...]:
        """Return the layers of each group of a code with `layers` layers, and its filter.

        Example:
            >>> [group.indices(18)[:2] for group, _ in
            ...     LayeredFilter(coarse=None, expression=None, fine=None).groups(18)]
            [(0, 4), (4, 9), (9, 18)]
        """
        coarse, expression = round(COARSE_SHARE * layers), round(EXPRESSION_SHARE * layers)
        return (
            (slice(0, coarse), self.coarse),
            (slice(coarse, expression), self.expression),
            (slice(expression, layers), self.fine),
        )


def smooth_latents(
    w_plus: Tensor,
    seconds: Float64Array,
    filter_: TemporalFilter | LayeredFilter | None,
    *,
    intervals: Sequence[Interval],
) -> Tensor:
    """Smooth a track's codes in time, each style vector by itself.

    Args:
        w_plus: (T, L, D) float32, on any device; layers from coarse to fine.
        seconds: (T,) float64, strictly increasing presentation times.
        filter_: one filter for all layers, or one per group; None returns a copy.
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
    if not isinstance(filter_, LayeredFilter):
        filter_ = LayeredFilter(coarse=filter_, expression=filter_, fine=filter_)
    codes = w_plus.detach().cpu().numpy()  # (T, L, D)
    smoothed = torch.empty(codes.shape)
    at_once = max(1, _CHUNK_BYTES // (8 * max(1, len(codes) * codes.shape[2])))
    for group, chosen in filter_.groups(codes.shape[1]):
        for start in range(group.start, group.stop, at_once):
            layers = slice(start, min(start + at_once, group.stop))
            chunk = smooth(codes[:, layers], seconds, chosen, intervals=intervals)
            smoothed[:, layers] = torch.as_tensor(chunk)
    return smoothed.to(w_plus.device)
