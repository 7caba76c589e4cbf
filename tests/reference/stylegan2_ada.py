"""StyleGAN2-ADA's synthesis, step by step from its state under its own names: slow and obvious.

Written from the paper (Karras et al., CVPR 2020, section 2 and figure 2) and the layout of the
release: zeros are put in between, the padded picture is correlated with the flipped kernel, and
every sample has weights of its own.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


def synthesise(state: Mapping[str, Tensor], w_plus: Tensor) -> Tensor:
    """Render codes (N, L, D) with the noise that the state holds."""
    pictures = [_synthesise_one(state, codes) for codes in w_plus]
    return torch.stack(pictures)


def map_codes(state: Mapping[str, Tensor], z: Tensor) -> Tensor:
    """Map z (N, D) to w (N, D)."""
    x = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    layer = 0
    while f"mapping.fc{layer}.weight" in state:
        weight = state[f"mapping.fc{layer}.weight"] * 0.01 / math.sqrt(x.shape[1])
        x = x @ weight.T + state[f"mapping.fc{layer}.bias"] * 0.01
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
        layer += 1
    return x


def _synthesise_one(state: Mapping[str, Tensor], codes: Tensor) -> Tensor:
    x, image = state["synthesis.b4.const"], None
    index, resolution = 0, 4
    while f"synthesis.b{resolution}.conv1.weight" in state:
        block = f"synthesis.b{resolution}"
        if resolution > 4:
            x = _layer(state, f"{block}.conv0", x, codes[index], up=True)
            index += 1
        x = _layer(state, f"{block}.conv1", x, codes[index], up=False)
        index += 1
        styles = _styles(state, f"{block}.torgb", codes[index])
        weight = state[f"{block}.torgb.weight"] * styles[None, :, None, None]
        weight = weight / math.sqrt(weight.shape[1])
        picture = F.conv2d(x[None], weight)[0] + state[f"{block}.torgb.bias"][:, None, None]
        image = picture if image is None else picture + _enlarge(image)
        resolution *= 2
    assert image is not None
    return image


def _styles(state: Mapping[str, Tensor], layer: str, w: Tensor) -> Tensor:
    weight = state[f"{layer}.affine.weight"] / math.sqrt(len(w))
    return weight @ w + state[f"{layer}.affine.bias"]


def _layer(state: Mapping[str, Tensor], layer: str, x: Tensor, w: Tensor, *, up: bool) -> Tensor:
    weight = state[f"{layer}.weight"] * _styles(state, layer, w)[None, :, None, None]
    weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if up:
        spread = _put_zeros_between(x)[:, :-1, :-1]  # (C, 2H - 1, 2W - 1)
        spread = F.pad(spread, (2, 2, 2, 2))
        x = F.conv2d(spread[None], weight.flip(2, 3))[0]  # (C, 2H + 1, 2W + 1)
        x = _filter(F.pad(x, (1, 1, 1, 1)))
    else:
        x = F.conv2d(F.pad(x, (1, 1, 1, 1))[None], weight)[0]
    x = x + state[f"{layer}.noise_const"] * state[f"{layer}.noise_strength"]
    x = x + state[f"{layer}.bias"][:, None, None]
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def _put_zeros_between(x: Tensor) -> Tensor:
    channels, height, width = x.shape
    spread = torch.zeros(channels, 2 * height, 2 * width, dtype=x.dtype)
    spread[:, ::2, ::2] = x
    return spread


def _enlarge(image: Tensor) -> Tensor:
    return _filter(F.pad(_put_zeros_between(image), (2, 1, 2, 1)))


def _filter(x: Tensor) -> Tensor:
    """Correlate every channel with outer([1, 3, 3, 1]) / 64, times 4 for the zeros."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype)
    kernel = torch.outer(taps, taps) / 16
    return F.conv2d(x[:, None], kernel[None, None])[:, 0]
