"""Domain-regularised optimisation of codes (In-Domain inversion, Zhu et al., ECCV 2020, eq. 4).

Codes that an encoder found are moved by Adam so that the generator's picture gets nearer to the
crop, in pixels and in features, while the picture's own codes stay near: that keeps them where the
generator's codes lie, and so editable. Any generator and encoder will do; they are given as
functions. Along a clip a further term holds codes near those of the frame before.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LOSSES = ("pixel", "feature", "code", "temporal", "total")

Generate = Callable[[Tensor], Tensor]
FindCodes = Callable[[Tensor], Tensor]
FindFeatures = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimisationPlan:
    """How codes are optimised; the defaults are those published for single pictures.

    Attributes:
        steps: of Adam; 0 leaves the codes alone.
        rate: Adam's learning rate, in units of the codes.
        last_rate: share of it that is left at the last step, to which it falls along a half cosine.
        pixel_weight: on the mean squared difference of crop and picture, both in [-1, 1].
        feature_weight: on the mean squared difference of their features.
        code_weight: on the mean squared difference of the codes and those that the encoder finds
            in their picture.
        temporal_weight: on the mean squared difference of the codes and the frame before's.
    """

    steps: int = 100
    rate: float = 0.01
    last_rate: float = 1.0
    pixel_weight: float = 1.0
    feature_weight: float = 5e-5
    code_weight: float = 2.0
    temporal_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}, expected 0 or more")
        if not self.rate > 0:
            raise ValueError(f"rate is {self.rate}, expected a number above 0")
        if not 0 <= self.last_rate <= 1:
            raise ValueError(f"last_rate is {self.last_rate}, expected a share from 0 to 1")
        for name in ("pixel_weight", "feature_weight", "code_weight", "temporal_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number >= 0")

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        fallen = (1 - math.cos(math.pi * step / max(self.steps - 1, 1))) / 2
        return self.rate * (1 - (1 - self.last_rate) * fallen)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OptimisedCodes:
    """`w_plus` (N, L, D) after the last step, and the `losses` before each.

    `losses` (steps, N, 5) float32, in the order of `LOSSES`; all but the total are unweighted.
    """

    w_plus: Tensor
    losses: Tensor


def optimise_codes(
    crops: Tensor,
    w_plus: Tensor,
    *,
    generate: Generate,
    find_codes: FindCodes | None = None,
    find_features: FindFeatures | None = None,
    plan: OptimisationPlan | None = None,
    previous: Tensor | None = None,
    region: Tensor | None = None,
) -> OptimisedCodes:
    """Move codes toward crops by gradient descent, in or out of `torch.inference_mode`.

    Crops do not influence each other: a batch of N gives what N batches of one give.

    Args:
        crops: (N, 3, R, R) in [-1, 1].
        w_plus: (N, L, D) float32, where to start.
        generate: codes (N, L, D) to pictures (N, 3, R, R), differentiable.
        find_codes: pictures to codes, differentiable: the encoder; None leaves that term out.
        find_features: pictures to feature maps (each (N, C, h, w)), differentiable; their terms
            are summed. None leaves them out.
        plan: None = the published one.
        previous: (N or 1, L, D) codes of the frame before, which the temporal term holds to; None
            leaves it out.
        region: (N or 1, 1, R, R) in [0, 1]: where pixels and features count; None = everywhere.

    Raises:
        ValueError: crops and codes are not of the same number.
    """
    if len(crops) != len(w_plus):
        raise ValueError(f"there are {len(crops)} crops and {len(w_plus)} codes, expected as many")
    plan = plan or OptimisationPlan()
    with torch.inference_mode(False), torch.enable_grad():
        # Clones: tensors made in inference mode take no part in gradients.
        problem = _Problem(
            target=crops.detach().clone().float(),
            generate=generate,
            find_codes=find_codes,
            find_features=find_features,
            previous=None if previous is None else previous.detach().clone().float(),
            region=None if region is None else region.detach().clone().float(),
        )
        weights = crops.new_tensor(
            [plan.pixel_weight, plan.feature_weight, plan.code_weight, plan.temporal_weight],
            dtype=torch.float32,
        )
        wanted = problem.wanted_features()
        codes = w_plus.detach().clone().float().requires_grad_(True)
        optimiser = torch.optim.Adam([codes], lr=plan.rate)
        rows: list[Tensor] = []
        for step in range(plan.steps):
            optimiser.param_groups[0]["lr"] = plan.rate_at(step)
            terms = problem.measure(codes, wanted)  # (N, 4)
            total = (terms * weights).sum(dim=1)
            (codes.grad,) = torch.autograd.grad(total.sum(), codes)
            optimiser.step()
            rows.append(torch.cat([terms, total[:, None]], dim=1).detach())
        losses = torch.stack(rows) if rows else codes.new_zeros(0, len(codes), len(LOSSES))
    return OptimisedCodes(w_plus=codes.detach(), losses=losses)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Problem:
    """What codes are measured against; see `optimise_codes`."""

    target: Tensor
    generate: Generate
    find_codes: FindCodes | None
    find_features: FindFeatures | None
    previous: Tensor | None
    region: Tensor | None

    def wanted_features(self) -> list[Tensor]:
        """Return the crops' features."""
        if self.find_features is None:
            return []
        with torch.no_grad():
            return [maps.float() for maps in self.find_features(self._show(self.target))]

    def measure(self, codes: Tensor, wanted: Sequence[Tensor]) -> Tensor:
        """Return the unweighted losses (N, 4): pixel, feature, code, temporal."""
        image = self.generate(codes)
        shown = self._show(image)
        nothing = codes.new_zeros(len(codes))
        pixel = _distance(shown, self._show(self.target))
        if self.region is not None:
            pixel = pixel / self.region.flatten(1).mean(dim=1).clamp_min(1e-6)
        feature = nothing
        if self.find_features is not None:
            for ours, theirs in zip(self.find_features(shown), wanted, strict=True):
                feature = feature + _distance(ours, theirs)
        code = nothing if self.find_codes is None else _distance(codes, self.find_codes(image))
        temporal = nothing if self.previous is None else _distance(codes, self.previous)
        return torch.stack([pixel, feature, code, temporal], dim=1)

    def _show(self, images: Tensor) -> Tensor:
        return images if self.region is None else images * self.region


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared difference of each sample: (N, ...) -> (N,) float32."""
    return (first.float() - second.float()).square().flatten(1).mean(dim=1)
