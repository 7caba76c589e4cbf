"""The domain-guided encoder of In-Domain inversion (Zhu, Shen, Zhao and Zhou, ECCV 2020).

Residual blocks halve the picture to 4 x 4, and one matrix makes codes of all layers of it.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks.backbones import BatchNorm2d
from vidinvert.networks.ops import SLOPE

LAST_SIDE = 4
# Channels after the input layer and after each halving, for 256 px.
PUBLISHED_WIDTHS = (64, 128, 256, 512, 1024, 1024, 1024)


class ResidualBlock(nn.Module):
    """Halve the picture, then two convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = min(in_channels, out_channels)
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.norm1 = BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, out_channels, 3, padding=1)
        self.norm2 = BatchNorm2d(out_channels)
        self.shortcut: nn.Sequential | None = None
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Turn (N, in, H, W) into (N, out, H/2, W/2)."""
        x = F.avg_pool2d(x, 2)
        base = x if self.shortcut is None else F.leaky_relu(self.shortcut(x), SLOPE)
        x = F.leaky_relu(self.norm1(self.conv1(x)), SLOPE)
        return base + F.leaky_relu(self.norm2(self.conv2(x)), SLOPE)


class DomainGuidedEncoder(nn.Module):
    """Pictures (N, 3, R, R) in [-1, 1] to codes (N, L, D) float32.

    Args:
        size: side R of the pictures.
        style_count: L of the generator.
        style_width: D of the generator.
        widths: channels after the input layer and after each halving down to 4 px.
    """

    def __init__(
        self,
        *,
        size: int,
        style_count: int,
        style_width: int = 512,
        widths: Sequence[int] = PUBLISHED_WIDTHS,
    ) -> None:
        super().__init__()
        if size != LAST_SIDE * 2 ** (len(widths) - 1):
            raise ValueError(
                f"size is {size}, expected {LAST_SIDE * 2 ** (len(widths) - 1)} for "
                f"{len(widths)} widths"
            )
        self.size = size
        self.style_width = style_width
        self.conv = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.norm = BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        flat = widths[-1] * LAST_SIDE**2
        self.linear = nn.Linear(flat, style_count * style_width, bias=False)
        self.norm_out = nn.BatchNorm1d(style_count * style_width)
        self.gain = 1.0 / math.sqrt(flat)

    def forward(self, images: Tensor) -> Tensor:
        """Find the codes of pictures."""
        if tuple(images.shape[-2:]) != (self.size, self.size):
            raise ValueError(
                f"images are {tuple(images.shape)}, expected (N, 3, {self.size}, {self.size}); "
                "resize them first"
            )
        x = F.leaky_relu(self.norm(self.conv(images)), SLOPE)
        for block in self.blocks:
            x = block(x)
        codes = self.norm_out(self.linear(x.float().flatten(start_dim=1)) * self.gain)
        return codes.view(len(images), -1, self.style_width)
