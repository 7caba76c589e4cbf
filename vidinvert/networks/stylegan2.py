"""The StyleGAN2 generator (Karras et al., CVPR 2020) of any power-of-two size and width."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks.ops import (
    SLOPE,
    SQRT2,
    EqualizedLinear,
    ModulatedConv2d,
    leaky_relu,
    pixel_norm,
    upsample_image,
)

MAPPING_RATE = 0.01
CONTENT_ENTERS = 32  # the block whose input FeatureStyle's content map replaces


def published_channels(*, multiplier: int = 2) -> dict[int, int]:
    """Return the channels per resolution of the published networks ("config f" is multiplier 2)."""
    wide = {resolution: 512 for resolution in (4, 8, 16, 32)}
    return wide | {r: 256 * 64 * multiplier // r for r in (64, 128, 256, 512, 1024)}


class MappingNetwork(nn.Module):
    """z to w: normalise, then fully connected layers with a hundredth of the learning rate."""

    def __init__(self, *, style_width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EqualizedLinear(style_width, style_width, rate_multiplier=MAPPING_RATE)
            for _ in range(layers)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map (N, D) -> (N, D)."""
        w = pixel_norm(z)
        for layer in self.layers:
            w = leaky_relu(layer(w))
        return w


class StyledConv(nn.Module):
    """A modulated convolution, then noise, bias and activation, as two steps."""

    def __init__(
        self, in_channels: int, out_channels: int, *, style_width: int, upsample: bool = False
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(
            in_channels, out_channels, 3, style_width=style_width, upsample=upsample
        )
        self.noise_strength = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """Convolve (N, in, H, W) under the codes `w` (N, D), then activate."""
        return self.activate(self.conv(x, w), noise)

    def activate(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """Add the noise (1 or N, 1, H, W) and the bias, and apply the leaky ReLU.

        The gain sqrt(2) is applied before the leaky ReLU, which commutes with it: a pass less.
        Without gradients `x` is changed in place: fresh memory costs more than the sums.
        """
        bias = self.bias[:, None, None] * SQRT2
        if x.requires_grad or bias.requires_grad:
            if noise is not None:
                x = x + self.noise_strength * noise.to(x.dtype)
            return F.leaky_relu_(torch.add(bias, x, alpha=SQRT2), SLOPE)
        if noise is not None:
            x = x.add_(self.noise_strength * noise.to(x.dtype))
        return F.leaky_relu_(torch.add(bias, x, alpha=SQRT2, out=x), SLOPE)


class ToRGB(nn.Module):
    """A picture from features, added to the picture of the level below."""

    def __init__(self, in_channels: int, *, style_width: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, 3, 1, style_width=style_width, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor, below: Tensor | None) -> Tensor:
        """Return (N, 3, H, W) float32; `below` is (N, 3, H/2, W/2)."""
        image = (self.conv(x, w) + self.bias[:, None, None]).float()
        return image if below is None else image + upsample_image(below)


class SynthesisBlock(nn.Module):
    """One doubling of the resolution: an up-sampling convolution, a second one, and a picture."""

    def __init__(
        self, in_channels: int, out_channels: int, *, resolution: int, style_width: int
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.conv0 = StyledConv(in_channels, out_channels, style_width=style_width, upsample=True)
        self.conv1 = StyledConv(out_channels, out_channels, style_width=style_width)
        self.to_rgb = ToRGB(out_channels, style_width=style_width)


class Generator(nn.Module):
    """The style-based generator with skip connections.

    Convention: style vector 0 drives the first convolution and 1 its picture; block b takes 1 + 2b
    and 2 + 2b for its convolutions and 3 + 2b, which is the next block's first, for its picture.

    Args:
        size: side R of the picture, a power of two from 8 on.
        style_width: D, the length of a style vector.
        channels: channels of every resolution from 4 to R; None = those published.
        mapping_layers: depth of the mapping network; 0 leaves it out.
    """

    def __init__(
        self,
        *,
        size: int,
        style_width: int = 512,
        channels: Mapping[int, int] | None = None,
        mapping_layers: int = 8,
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
        self.style_width = style_width
        self.style_count = 2 * levels - 2
        self.mapping = MappingNetwork(style_width=style_width, layers=mapping_layers)
        self.constant = nn.Parameter(torch.randn(1, widths[4], 4, 4))
        self.conv = StyledConv(widths[4], widths[4], style_width=style_width)
        self.to_rgb = ToRGB(widths[4], style_width=style_width)
        self.blocks = nn.ModuleList(
            SynthesisBlock(
                widths[2 ** (n - 1)], widths[2**n], resolution=2**n, style_width=style_width
            )
            for n in range(3, levels + 1)
        )
        for index in range(self.style_count - 1):
            side = 4 if index == 0 else 2 ** (3 + (index - 1) // 2)
            self.register_buffer(f"noise_{index}", torch.randn(1, 1, side, side))

    @property
    def noise(self) -> tuple[Tensor, ...]:
        """The fixed noise maps in the order of the convolutions: pass them to `forward`."""
        return tuple(self.get_buffer(f"noise_{i}") for i in range(self.style_count - 1))

    def start(self, w_plus: Tensor, noise: Sequence[Tensor] | None) -> tuple[Tensor, Tensor]:
        """Return the features (N, C, 4, 4) and picture (N, 3, 4, 4) of the lowest level."""
        x = self.constant.expand(len(w_plus), -1, -1, -1)
        x = self.conv(x, w_plus[:, 0], None if noise is None else noise[0])
        return x, self.to_rgb(x, w_plus[:, 1], None)

    def coarse_features(self, w_plus: Tensor, *, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Return the features of 16 px (N, C, 16, 16), whose place a content map may take."""
        x, _ = self.start(w_plus, noise)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, SynthesisBlock)
            if block.resolution == CONTENT_ENTERS:
                break
            first = 1 + 2 * index
            maps = (None, None) if noise is None else (noise[first], noise[first + 1])
            x = block.conv0(x, w_plus[:, first], maps[0])
            x = block.conv1(x, w_plus[:, first + 1], maps[1])
        return x

    def forward(
        self,
        w_plus: Tensor,
        *,
        noise: Sequence[Tensor] | None = None,
        content: Tensor | None = None,
    ) -> Tensor:
        """Render codes.

        Args:
            w_plus: (N, L, D) float32.
            noise: one map for every convolution, as `noise` gives them; None adds none.
            content: (N, C, 16, 16) that takes the place of the features of 16 px, as FeatureStyle
                has it; the picture of the levels below stays. None = the generator's own.

        Returns:
            (N, 3, R, R) float32, about [-1, 1].
        """
        x, image = self.start(w_plus, noise)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, SynthesisBlock)
            if content is not None and block.resolution == CONTENT_ENTERS:
                x = content
            first = 1 + 2 * index
            maps = (None, None) if noise is None else (noise[first], noise[first + 1])
            x = block.conv0(x, w_plus[:, first], maps[0])
            x = block.conv1(x, w_plus[:, first + 1], maps[1])
            image = block.to_rgb(x, w_plus[:, first + 2], image)
        return image


def sample_w_mean(generator: Generator, *, samples: int = 4096, seed: int = 0) -> Tensor:
    """Return the mean of mapped random z, (D,): for checkpoints that do not carry it."""
    source = torch.Generator().manual_seed(seed)
    z = torch.randn(samples, generator.style_width, generator=source)
    with torch.no_grad():
        return generator.mapping(z.to(generator.constant.device)).mean(dim=0)
