"""Fields carried along what moves: averaged over time where the picture shows the same thing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilizers.flow import FlowEstimator, flow_tensor, visible_in_both, warp_back
from stabilizers.signals import Float64Array

# A frame of no mass takes what comes to it, trusted or not; beside a mass it does not count.
_LEAST_TRUST = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Link:
    """What joins a picture to the next one, both (h, w).

    Attributes:
        later: (1, 2, h, w) flow from the earlier picture to the later one, in pixels.
        earlier: the flow back.
        trust_later: (1, 1, h, w) in [0, 1], in the later picture: how far it shows there what the
            earlier one shows where the flow back leads.
        trust_earlier: the same in the earlier picture.
    """

    later: Tensor
    earlier: Tensor
    trust_later: Tensor
    trust_earlier: Tensor


def link_pictures(
    first: NDArray[np.uint8], second: NDArray[np.uint8], flow: FlowEstimator, *, levels: float
) -> Link:
    """Estimate the flow between two pictures both ways, and where it can be trusted.

    Trust is 0 where going there and back does not lead home (`visible_in_both`), and falls as a
    Gaussian of `levels` grey levels where the two pixels differ.

    Args:
        first: (h, w) the earlier grey picture.
        second: (h, w) the later one.
        flow: the estimator.
        levels: standard deviation of the Gaussian.

    Example:
        >>> grey = np.full((8, 8), 90, np.uint8)
        >>> still = lambda a, b: np.zeros((*a.shape, 2), np.float32)
        >>> link_pictures(grey, grey, still, levels=12).trust_later.mean().item()
        1.0
    """
    later, earlier = flow_tensor(flow(first, second)), flow_tensor(flow(second, first))
    seen = [torch.as_tensor(picture)[None, None].float() for picture in (first, second)]
    trusts: list[Tensor] = []
    for there, back, own, other in (
        (later, earlier, seen[0], seen[1]),
        (earlier, later, seen[1], seen[0]),
    ):
        unlike = (warp_back(other, there) - own) / levels
        trusts.append(visible_in_both(there, back) * torch.exp(-0.5 * unlike.square()))
    return Link(later=later, earlier=earlier, trust_later=trusts[1], trust_earlier=trusts[0])


def smooth_fields(
    fields: Tensor,
    mass: Float64Array,
    seconds: Float64Array,
    links: Sequence[Link],
    *,
    time_seconds: float,
    displacements: int = 0,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Tensor:
    """Average fields over time along the flow of their pictures, per unit of mass.

    Two-sided exponential means: m and its weight n pass from frame to frame, m_t = field_t + k
    warp(m_{t-1}), n_t = mass_t + k warp(n_{t-1}), with k = trust exp(-dt / time). Both sides count
    the frame itself, so it is taken off once.

    Args:
        fields: (T, C, h, w) float32, one unbroken run.
        mass: (T,) 0 or more: by how much each frame counts; its field is in proportion to it.
        seconds: (T,) strictly increasing presentation times.
        links: T - 1, from each picture to the next.
        time_seconds: time constant of the kernel.
        displacements: that many first channels, 0 or 2, say where in the same picture a pixel's
            content comes from, in pixels (dx, dy). What is carried on keeps pointing at the same
            content: both ends of the arrow move along the flow.
        interpolation: as for `warp_back`.

    Returns:
        (T, C, h, w) float32: the mean field of one unit of mass; 0 where nothing has any.

    Raises:
        ValueError: the lengths do not fit, or `displacements` is neither 0 nor 2.

    Example:
        >>> grey = np.full((4, 4), 90, np.uint8)
        >>> still = lambda a, b: np.zeros((*a.shape, 2), np.float32)
        >>> link = link_pictures(grey, grey, still, levels=12)
        >>> flicker = torch.tensor([0.0, 1.0, 0.0]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)
        >>> mean = smooth_fields(flicker, np.ones(3), np.arange(3) / 25, [link] * 2,
        ...     time_seconds=1e6)
        >>> [round(value, 3) for value in mean[:, 0, 0, 0].tolist()]
        [0.333, 0.333, 0.333]
    """
    count = len(fields)
    if len(mass) != count or len(seconds) != count or len(links) != max(count - 1, 0):
        raise ValueError(
            f"there are {count} fields, {len(mass)} masses, {len(seconds)} times and {len(links)} "
            "links, expected one of each for a field and a link between neighbours"
        )
    if displacements not in (0, 2):
        raise ValueError(f"displacements is {displacements}, expected 0 or 2 channels (dx, dy)")
    weights = torch.as_tensor(mass, dtype=fields.dtype).reshape(-1, 1, 1, 1)
    own = torch.cat([fields, weights.expand(-1, 1, *fields.shape[2:])], dim=1)  # (T, C + 1, h, w)
    total = own.clone()
    for step in (1, -1):
        carried = own[:1] if step == 1 else own[-1:]
        for t in range(1, count) if step == 1 else range(count - 2, -1, -1):
            link = links[min(t, t - step)]
            back, there, trust = (
                (link.earlier, link.later, link.trust_later)
                if step == 1
                else (link.later, link.earlier, link.trust_earlier)
            )
            trust = trust.clamp_min(_LEAST_TRUST)
            if displacements:
                carried = _move_ends(carried, there)
            share = math.exp(-abs(float(seconds[t] - seconds[t - step])) / time_seconds)
            arrived = (share * trust) * warp_back(carried, back, interpolation=interpolation)
            total[t : t + 1] += arrived
            carried = own[t : t + 1] + arrived
    # Masses that are warped add up to 0 only to the last bit.
    return total[:, :-1] / total[:, -1:].clamp_min(torch.finfo(fields.dtype).tiny)


def _move_ends(carried: Tensor, flow: Tensor) -> Tensor:
    """Let arrows (1, 2 + ..., h, w), in units of the last channel, end where their ends move to."""
    mass = carried[:, -1:]
    arrows = carried[:, :2] / mass.clamp_min(torch.finfo(carried.dtype).tiny)
    apart = warp_back(flow, arrows) - flow  # the end's own movement less the beginning's
    return torch.cat([carried[:, :2] + mass * apart, carried[:, 2:]], dim=1)
