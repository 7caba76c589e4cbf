"""The discriminator of StyleGAN2 (Karras et al., CVPR 2020, section 4.1) and one of codes."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks.ops import SLOPE, SQRT2, EqualizedLinear, blur, leaky_relu

DEVIATION_GROUP = 4  # pictures whose deviation is told to the last layers together


class EqualizedConv2d(nn.Module):
    """A convolution whose weights have unit variance and are scaled when used.

    With `downsample` it blurs first and strides, so that nothing aliases.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        downsample: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.gain = 1.0 / math.sqrt(in_channels * kernel * kernel)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, in, H, W) -> (N, out, H, W), or half of that when down-sampling."""
        kernel = self.weight.shape[-1]
        if not self.downsample:
            return F.conv2d(x, self.weight * self.gain, self.bias, padding=kernel // 2)
        before = kernel // 2 + 1  # the blur takes three pixels away, the kernel `kernel - 1`
        x = blur(x, padding=(before, before, before, before))
        return F.conv2d(x, self.weight * self.gain, self.bias, stride=2)


class DiscriminatorBlock(nn.Module):
    """A residual block that halves the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv0 = EqualizedConv2d(in_channels, in_channels, 3)
        self.conv1 = EqualizedConv2d(in_channels, out_channels, 3, downsample=True)
        self.skip = EqualizedConv2d(in_channels, out_channels, 1, downsample=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn (N, in, H, W) into (N, out, H/2, W/2)."""
        deep = leaky_relu(self.conv1(leaky_relu(self.conv0(x))))
        return (deep + self.skip(x)) / SQRT2


class Discriminator(nn.Module):
    """Residual discriminator with the batch's deviation as a last feature.

    Args:
        size: side R of the pictures, a power of two from 8 on.
        channels: channels of every resolution from 4 to R, as the generator's.
    """

    def __init__(self, *, size: int, channels: Mapping[int, int]) -> None:
        super().__init__()
        sides = [2**n for n in range(int(math.log2(size)), 2, -1)]
        if size < 8 or sides[0] != size:
            raise ValueError(f"size is {size}, expected a power of two from 8 on")
        self.size = size
        self.from_rgb = EqualizedConv2d(3, channels[size], 1)
        self.blocks = nn.Sequential(
            *(DiscriminatorBlock(channels[side], channels[side // 2]) for side in sides)
        )
        width = channels[4]
        self.last = EqualizedConv2d(width + 1, width, 3)
        self.hidden = EqualizedLinear(16 * width, width)
        self.logit = EqualizedLinear(width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Judge pictures (N, 3, R, R) in [-1, 1]: one logit each, (N,), high for real."""
        x = self.blocks(leaky_relu(self.from_rgb(images))).float()
        x = leaky_relu(self.last(torch.cat([x, batch_deviation(x)], dim=1)))
        return self.logit(leaky_relu(self.hidden(x.flatten(1)))).squeeze(1)


def batch_deviation(x: Tensor) -> Tensor:
    """Return (N, 1, H, W): how much features differ within a group of pictures, on average.

    Karras et al., "Progressive growing of GANs", ICLR 2018, section 3; groups as in StyleGAN2.
    """
    count, _, height, width = x.shape
    group = math.gcd(count, DEVIATION_GROUP)
    grouped = x.reshape(group, count // group, *x.shape[1:])
    deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return deviation.repeat(group)[:, None, None, None].expand(count, 1, height, width)


class StyleDiscriminator(nn.Module):
    """Judges style vectors one by one, as e4e does (Tov et al., 2021, section 4.2): is it of W?"""

    def __init__(self, style_width: int, *, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EqualizedLinear(style_width, style_width) for _ in range(layers - 1)
        )
        self.logit = EqualizedLinear(style_width, 1)

    def forward(self, w: Tensor) -> Tensor:
        """Judge (..., D): logits (...)."""
        for layer in self.layers:
            w = F.leaky_relu(layer(w), SLOPE)
        return self.logit(w).squeeze(-1)
