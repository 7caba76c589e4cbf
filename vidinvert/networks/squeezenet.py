"""SqueezeNet 1.0 (Iandola et al., 2016) as a perceptual distance. Weights are the user's file."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_FIRES = ((2, 96, 16, 64), (3, 128, 16, 64), (4, 128, 32, 128), (5, 256, 32, 128),
          (6, 256, 48, 192), (7, 384, 48, 192), (8, 384, 64, 256), (9, 512, 64, 256))  # fmt: skip
_POOL_BEFORE = {2, 5, 9}
_TAPS = {0, 4, 7, 9}  # after conv1, and after these fire modules


class _Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1(squeezed), self.expand3(squeezed)], dim=1))


class SqueezeFeatures(nn.Module):
    """Four feature maps of SqueezeNet, each normalised to unit length over its channels.

    Args:
        weights: arrays named as in `squeezenet_v1.0_decoded.npz` (`conv1.w`, `fire2/sq.w`, ...).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Mapping[str, NDArray[np.generic]]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        self.fires = nn.ModuleList(_Fire(i, s, e) for _, i, s, e in _FIRES)
        state: dict[str, Tensor] = {}
        for kind, ours in (("w", "weight"), ("b", "bias")):
            state[f"conv1.{ours}"] = torch.from_numpy(
                np.asarray(weights[f"conv1.{kind}"], np.float32)
            )
            for index, (number, *_rest) in enumerate(_FIRES):
                for theirs, name in (("sq", "squeeze"), ("e1", "expand1"), ("e3", "expand3")):
                    array = np.asarray(weights[f"fire{number}/{theirs}.{kind}"], np.float32)
                    state[f"fires.{index}.{name}.{ours}"] = torch.from_numpy(array)
        self.load_state_dict({**state, "mean": self.mean, "std": self.std})
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) RGB in [-1, 1] -> four maps, coarse last."""
        x = F.relu(self.conv1(((images + 1.0) / 2.0 - self.mean) / self.std))
        taps = [x]
        for (number, *_rest), fire in zip(_FIRES, self.fires, strict=True):
            if number in _POOL_BEFORE:
                x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
            x = fire(x)
            if number in _TAPS:
                taps.append(x)
        return [F.normalize(tap, dim=1, eps=1e-8) for tap in taps]

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Mean over taps of the summed squared difference of unit features: scalar, 0 = equal."""
        return feature_distance(self(first), self(second)).mean()


def feature_distance(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """(N,) distance of two pictures' features: each tap averaged over space, taps summed."""
    per_tap = [
        (a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(per_tap).sum(dim=0)


def gram_distance(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """(N,) style distance (Gatys et al., 2016): mean |difference| of Gram matrices, taps summed.

    A Gram matrix (N, C, C) holds the products of a map's channels, averaged over space.
    """
    per_tap = [
        (_gram(a) - _gram(b)).abs().mean(dim=(1, 2)) for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(per_tap).sum(dim=0)


def _gram(features: Tensor) -> Tensor:
    flat = features.flatten(2)  # (N, C, H * W)
    return flat @ flat.transpose(1, 2) / flat.shape[2]
