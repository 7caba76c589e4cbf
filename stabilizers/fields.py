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

    Two-sided exponential means: a mean u and its mass n pass from frame to frame. What arrives
    weighs a = k warp(n_{t-1}) with k = trust exp(-dt / time); n_t = mass_t + a and
    u_t n_t = field_t + a warp(u_{t-1}). The frame itself counts once.

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
    tiny = torch.finfo(fields.dtype).tiny
    weights = torch.as_tensor(mass, dtype=fields.dtype).reshape(-1, 1, 1, 1)
    summed, weight = fields.clone(), weights.expand(-1, 1, *fields.shape[2:]).clone()
    for step in (1, -1):
        order = range(count) if step == 1 else range(count - 1, -1, -1)
        mean, arrived = torch.zeros_like(fields[:1]), torch.zeros_like(weight[:1])
        for t in order:
            if t != order[0]:
                link = links[min(t, t - step)]
                back, there, trust = (
                    (link.earlier, link.later, link.trust_later)
                    if step == 1
                    else (link.later, link.earlier, link.trust_earlier)
                )
                if displacements:
                    mean = _move_ends(mean, there)
                share = math.exp(-abs(float(seconds[t] - seconds[t - step])) / time_seconds)
                # Mean and mass apart: bicubic sampling overshoots, and a mass must not change sign.
                mean = warp_back(mean, back, interpolation=interpolation)
                arrived = share * trust.clamp_min(_LEAST_TRUST) * warp_back(arrived, back)
                summed[t : t + 1] += arrived * mean
                weight[t : t + 1] += arrived
            here = weights[t : t + 1] + arrived
            mean = (fields[t : t + 1] + arrived * mean) / here.clamp_min(tiny)
            arrived = here
    return summed.div_(weight.clamp_min_(tiny))


def _move_ends(arrows: Tensor, flow: Tensor) -> Tensor:
    """Let the arrows of a field (1, 2 + ..., h, w) end where their ends move to along the flow."""
    apart = warp_back(flow, arrows[:, :2]) - flow  # the end's own movement less the beginning's
    return torch.cat([arrows[:, :2] + apart, arrows[:, 2:]], dim=1)
