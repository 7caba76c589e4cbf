"""The StyleGAN generator of 2019 (Karras, Laine and Aila, CVPR), as In-Domain inversion uses it.

Each layer's features get noise, a bias and an activation, are normalised, and are then scaled and
shifted by a style. In-Domain inversion ("In-Domain GAN Inversion for Real Image Editing", Zhu et
al., ECCV 2020) gives every layer a code of its own already in the mapping, and ends in a tanh.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks.ops import SLOPE, SQRT2, EqualizedLinear, pixel_norm

MAPPING_RATE = 0.01
NORM_EPSILON = 1e-8
FUSED_FROM = 128  # from this resolution on, up-sampling and convolution are one transposed one
TRUNCATION, TRUNCATED_LAYERS = 0.7, 8


def published_channels() -> dict[int, int]:
    """Return the channels per resolution of the published networks."""
    return {2**n: min(16384 // 2**n, 512) for n in range(2, 11)}


class Mapping1(nn.Module):
    """z to one w for every layer: normalise, then fully connected layers; the last is L times wide.

    The gain sqrt(2) that StyleGAN2 applies after the activation is in the weights here.
    """

    def __init__(self, *, style_width: int, style_count: int, layers: int) -> None:
        super().__init__()
        self.style_width = style_width
        widths = [style_width] * layers + [style_count * style_width]
        self.layers = nn.ModuleList(
            EqualizedLinear(a, b, rate_multiplier=MAPPING_RATE) for a, b in pairwise(widths)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map (N, D) -> (N, L, D)."""
        x = pixel_norm(z)
        for layer in self.layers:
            assert isinstance(layer, EqualizedLinear)
            weight = layer.weight * (layer.weight_gain * SQRT2)
            x = F.leaky_relu(F.linear(x, weight, layer.bias * layer.bias_gain), SLOPE)
        return x.view(len(z), -1, self.style_width)


class Epilogue(nn.Module):
    """What follows a convolution: noise, bias, leaky ReLU, instance normalisation, style."""

    def __init__(self, channels: int, *, resolution: int, style_width: int) -> None:
        super().__init__()
        self.noise_strength = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.style = EqualizedLinear(style_width, 2 * channels)
        self.register_buffer("noise", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Finish features (N, C, H, W) under the codes `w` (N, D).

        The steps are kept in the published order: five steps of Adam on codes amplify the last bit.
        """
        x = x + self.get_buffer("noise") * self.noise_strength[:, None, None]
        x = F.leaky_relu(x + self.bias[:, None, None], SLOPE)
        x = x - x.mean(dim=(2, 3), keepdim=True)
        x = x / torch.sqrt(x.square().mean(dim=(2, 3), keepdim=True) + NORM_EPSILON)
        scale, shift = self.find_style(w)[:, :, None, None].chunk(2, dim=1)  # (N, C, 1, 1)
        return x * (scale + 1.0) + shift

    def find_style(self, w: Tensor) -> Tensor:
        """Return scales and shifts of all channels, (N, 2C)."""
        return F.linear(w, self.style.weight) * self.style.weight_gain + self.style.bias


class Layer(nn.Module):
    """A convolution, up-sampling where a resolution begins, and its epilogue."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        resolution: int,
        style_width: int,
        upsample: bool,
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.fused = upsample and resolution >= FUSED_FROM
        shape = (
            (3, 3, in_channels, out_channels) if self.fused else (out_channels, in_channels, 3, 3)
        )
        self.weight = nn.Parameter(torch.randn(shape))
        self.gain = SQRT2 / math.sqrt(in_channels * 9)
        self.epilogue = Epilogue(out_channels, resolution=resolution, style_width=style_width)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Turn (N, in, H, W) into (N, out, H, W), or twice the size, under codes `w` (N, D)."""
        return self.epilogue(self.convolve(x), w)

    def convolve(self, x: Tensor) -> Tensor:
        """Convolve in the dtype of the weights, and blur what was enlarged."""
        x = x.to(self.weight.dtype)
        if self.fused:
            kernel = enlarging_kernel(self.weight * self.gain)
            x = F.conv_transpose2d(x, kernel, stride=2, padding=1)
        else:
            if self.upsample:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = F.conv2d(x, self.weight, padding=1) * self.gain
        return blur3(x) if self.upsample else x


def enlarging_kernel(weight: Tensor) -> Tensor:
    """Return the kernel that enlarges twofold while convolving: (3, 3, I, O) -> (I, O, 4, 4).

    Convolving a picture enlarged by repetition equals a transposed convolution with the sum of the
    kernel's four shifts.
    """
    framed = F.pad(weight.permute(2, 3, 0, 1), (1, 1, 1, 1))  # (I, O, 5, 5)
    return framed[..., 1:, 1:] + framed[..., :-1, 1:] + framed[..., 1:, :-1] + framed[..., :-1, :-1]


def blur3(x: Tensor) -> Tensor:
    """Blur (N, C, H, W) with outer([1, 2, 1]) / 16, zeros beyond the border."""
    taps = x.new_tensor([1.0, 2.0, 1.0])
    kernel = (torch.outer(taps, taps) / 16.0).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


class Generator1(nn.Module):
    """The generator of In-Domain inversion; codes are (N, L, D), two style vectors a resolution.

    Args:
        size: side R of the picture, a power of two from 8 on.
        style_width: D, the length of a style vector.
        channels: channels of every resolution from 4 to R; None = those published.
        mapping_layers: depth of the mapping network.
        final_tanh: end in a tanh, as the published In-Domain generators do.
    """

    def __init__(
        self,
        *,
        size: int,
        style_width: int = 512,
        channels: Mapping[int, int] | None = None,
        mapping_layers: int = 8,
        final_tanh: bool = True,
    ) -> None:
        super().__init__()
        levels = int(math.log2(size))
        if size < 8 or 2**levels != size:
            raise ValueError(f"size is {size}, expected a power of two from 8 on")
        widths = published_channels() if channels is None else channels
        missing = [2**n for n in range(2, levels + 1) if 2**n not in widths]
        if missing:
            raise ValueError(f"channels has nothing for {missing}, expected every level to {size}")
        self.size = size
        self.final_tanh = final_tanh
        self.style_width = style_width
        self.style_count = 2 * levels - 2
        self.mapping = Mapping1(
            style_width=style_width, style_count=self.style_count, layers=mapping_layers
        )
        self.register_buffer("w_mean", torch.zeros(style_width))
        truncation = torch.ones(self.style_count)
        truncation[:TRUNCATED_LAYERS] = TRUNCATION
        self.register_buffer("truncation", truncation)
        self.constant = nn.Parameter(torch.ones(1, widths[4], 4, 4))
        self.first = Epilogue(widths[4], resolution=4, style_width=style_width)
        self.layers = nn.ModuleList()
        previous = widths[4]
        for index in range(1, self.style_count):
            resolution = 4 * 2 ** (index // 2)
            self.layers.append(
                Layer(
                    previous,
                    widths[resolution],
                    resolution=resolution,
                    style_width=style_width,
                    upsample=index % 2 == 0,
                )
            )
            previous = widths[resolution]
        self.to_rgb = nn.Conv2d(previous, 3, 1)

    def forward(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) float32 with the fixed noise -> (N, 3, R, R) float32."""
        x = self.constant.expand(len(w_plus), -1, -1, -1)
        x = self.first(x, w_plus[:, 0])
        for index, layer in enumerate(self.layers):
            x = layer(x, w_plus[:, index + 1])
        gain = 1.0 / math.sqrt(x.shape[1])
        assert self.to_rgb.bias is not None
        x = x.to(self.to_rgb.weight.dtype)
        image = F.conv2d(x, self.to_rgb.weight * gain, self.to_rgb.bias).float()
        return torch.tanh(image) if self.final_tanh else image

    def sample_codes(self, z: Tensor) -> Tensor:
        """Map z (N, D) to codes (N, L, D), drawn toward the mean as published."""
        mean, share = self.get_buffer("w_mean"), self.get_buffer("truncation")[:, None]
        return mean + (self.mapping(z) - mean) * share
