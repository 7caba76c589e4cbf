"""FeatureStyle, "A style-based GAN encoder for high fidelity reconstruction" (Yao et al., 2022).

Beside codes, the encoder finds a content map that takes the place of the generator's features of
16 px; an edit adds to it what the edit changes in those features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks.backbones import IR50_UNITS, IR50_WIDTHS, BatchNorm2d
from vidinvert.networks.e4e import INPUT_SIZE
from vidinvert.networks.ops import Conv2d
from vidinvert.networks.stylegan2 import Generator

POOLED_SIDE = 3
CONTENT_CHANNELS = 512


class ArcFaceUnit(nn.Module):
    """The residual unit of ArcFace's iResNet: three normalisations, no weighing of channels."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.norm_in = BatchNorm2d(in_channels)
        self.conv_in = Conv2d(in_channels, out_channels, 3, bias=False)
        self.norm_middle = BatchNorm2d(out_channels)
        self.slope = nn.Parameter(torch.full((out_channels,), 0.25))
        self.conv_out = Conv2d(out_channels, out_channels, 3, stride=stride, bias=False)
        self.norm_out = BatchNorm2d(out_channels)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Transform (N, in, H, W) -> (N, out, H / stride, W / stride)."""
        residual = self.norm_middle(self.conv_in(self.norm_in(x)))
        residual = self.norm_out(self.conv_out(F.prelu(residual, self.slope)))
        return residual + (x if self.shortcut is None else self.shortcut(x))


@dataclass(frozen=True, slots=True, eq=False)
class ContentOutput:
    """What FeatureStyle finds in a picture.

    `offsets` (N, L, D) float32: codes without the generator's mean. `content` (N, 512, 16, 16).
    `taps`: maps of 32, 64, 128 and 256 px, coarse to fine.
    """

    offsets: Tensor
    content: Tensor
    taps: tuple[Tensor, Tensor, Tensor, Tensor]


class FeatureStyleEncoder(nn.Module):
    """Picture (N, 3, 256, 256) in [-1, 1] to codes, content and taps.

    Args:
        style_count: L of the generator.
        style_width: D of the generator.
        trunk_widths: channels of the trunk's four groups.
        content_channels: the generator's channels at 16 px.
        content_bias: whether the convolutions of the content layer have biases.
    """

    def __init__(
        self,
        *,
        style_count: int,
        style_width: int = 512,
        trunk_widths: Sequence[int] = IR50_WIDTHS,
        content_channels: int = CONTENT_CHANNELS,
        content_bias: bool = False,
    ) -> None:
        super().__init__()
        width = trunk_widths[0]
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = BatchNorm2d(width)
        self.slope = nn.Parameter(torch.full((width,), 0.25))
        self.groups = nn.ModuleList()
        for channels, count in zip(trunk_widths, IR50_UNITS, strict=True):
            units = [ArcFaceUnit(width, channels, stride=2)]
            units += [ArcFaceUnit(channels, channels, stride=1) for _ in range(count - 1)]
            self.groups.append(nn.Sequential(*units))
            width = channels
        content, bias = content_channels, content_bias
        self.content_norm_in = BatchNorm2d(trunk_widths[2])
        self.content_conv_in = Conv2d(trunk_widths[2], content, 3, bias=bias)
        self.content_norm_middle = BatchNorm2d(content)
        self.content_slope = nn.Parameter(torch.full((content,), 0.25))
        self.content_conv_out = Conv2d(content, content, 3, stride=2, bias=bias)
        self.content_norm_out = BatchNorm2d(content)
        flat = sum(trunk_widths) * POOLED_SIDE**2
        self.heads = nn.ModuleList(nn.Linear(flat, style_width) for _ in range(style_count))

    def forward(self, images: Tensor) -> ContentOutput:
        """Encode pictures; shrink larger crops first."""
        if tuple(images.shape[-2:]) != (INPUT_SIZE, INPUT_SIZE):
            raise ValueError(
                f"images are {tuple(images.shape)}, expected (N, 3, {INPUT_SIZE}, {INPUT_SIZE}); "
                "resize them first"
            )
        x = F.prelu(self.norm(self.conv(images)), self.slope)
        maps = [x]
        for group in self.groups:
            x = group(x)
            maps.append(x)
        full, half, quarter, eighth, coarse = maps
        pooled = [
            F.adaptive_avg_pool2d(level.float(), POOLED_SIDE)
            for level in (half, quarter, eighth, coarse)
        ]
        flat = torch.cat(pooled, dim=1).flatten(start_dim=1)
        offsets = torch.stack([head(flat) for head in self.heads], dim=1)
        taps = (eighth, quarter, half, full)
        return ContentOutput(offsets=offsets, content=self._find_content(eighth), taps=taps)

    def _find_content(self, x: Tensor) -> Tensor:
        x = self.content_norm_middle(self.content_conv_in(self.content_norm_in(x)))
        x = self.content_conv_out(F.prelu(x, self.content_slope))
        return self.content_norm_out(x)


def move_content(generator: Generator, content: Tensor, w_plus: Tensor, edited: Tensor) -> Tensor:
    """Add to a content map what an edit changes in the generator's features: F + G(w') - G(w).

    Where the codes are the same the content comes back bit for bit.

    Args:
        generator: with its fixed noise.
        content: F (N, C, 16, 16), from the encoder.
        w_plus: (N, L, D) the codes found with it.
        edited: (N, L, D) the codes to render.
    """
    before = generator.coarse_features(w_plus, noise=generator.noise)
    after = generator.coarse_features(edited, noise=generator.noise)
    return content + (after - before).to(content.dtype)
