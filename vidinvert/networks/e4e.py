"""e4e, "Designing an Encoder for StyleGAN Image Manipulation" (Tov et al., SIGGRAPH 2021), and pSp.

An IR-SE50 with a feature pyramid; one head for every style vector. In e4e head 0 gives a code for
all levels and the others what their level adds to it; in pSp ("Encoding in Style", Richardson et
al., CVPR 2021) each head gives its level's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks.backbones import IR50_WIDTHS, IRSE50
from vidinvert.networks.ops import EqualizedLinear

INPUT_SIZE = 256
HEAD_SLOPE = 0.01
# Heads before 3 read the 16 px map, those before 7 the 32 px map, the rest the 64 px map.
COARSE_HEADS, MIDDLE_HEADS = 3, 7

PyramidUpsampling = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, slots=True, eq=False)
class EncoderOutput:
    """What e4e finds in a picture.

    `offsets` (N, L, D) float32: the codes without the generator's mean, which the caller adds.
    `taps`: feature maps of the trunk from coarse to fine, at 1/8, 1/4, 1/2 and 1/1 of the input,
    of 256, 128, 64 and 64 channels.
    """

    offsets: Tensor
    taps: tuple[Tensor, Tensor, Tensor, Tensor]


class StyleHead(nn.Module):
    """Strided convolutions down to one pixel, then a linear layer: a style vector."""

    def __init__(self, width: int, *, side: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(int(math.log2(side)))
        )
        self.linear = EqualizedLinear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Turn a map (N, D, side, side) into a style vector (N, D)."""
        return self.finish(F.leaky_relu(self.convs[0](x), HEAD_SLOPE))

    @property
    def first(self) -> nn.Conv2d:
        """The convolution that reads the shared map."""
        conv = self.convs[0]
        assert isinstance(conv, nn.Conv2d)
        return conv

    def finish(self, x: Tensor) -> Tensor:
        """Go on from what the first convolution gave: (N, D, side/2, side/2) -> (N, D)."""
        for conv in list(self.convs)[1:]:
            x = F.leaky_relu(conv(x), HEAD_SLOPE)
        return self.linear(x.flatten(start_dim=1).float())


class StyleHeads(nn.Module):
    """The heads that read one feature map; prepared, their first convolutions run as one."""

    def __init__(self, count: int, width: int, *, side: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(StyleHead(width, side=side) for _ in range(count))
        self.fast: tuple[Tensor, Tensor] | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What maps must be converted to."""
        return self._list()[0].first.weight.dtype

    def forward(self, x: Tensor) -> Tensor:
        """Turn a map (N, D, side, side) into the float32 vectors of all heads (N, heads, D)."""
        if self.fast is None:
            return torch.stack([head(x) for head in self.heads], dim=1)
        weight, bias = self.fast
        first = F.leaky_relu(F.conv2d(x, weight, bias, stride=2, padding=1), HEAD_SLOPE)
        parts = first.chunk(len(self.heads), dim=1)
        return torch.stack(
            [head.finish(part) for head, part in zip(self._list(), parts, strict=True)], dim=1
        )

    def prepare(self) -> None:
        """Stack the first convolutions; the heads keep views of the stacked weights."""
        if len(self.heads) < 2:
            return
        first = [head.first for head in self._list()]
        weight = torch.cat([conv.weight.detach() for conv in first])
        weight = weight.contiguous(memory_format=torch.channels_last)
        bias = torch.cat([conv.bias.detach() for conv in first if conv.bias is not None])
        for conv, part in zip(first, weight.chunk(len(first)), strict=True):
            conv.weight = nn.Parameter(part, requires_grad=False)
        self.fast = weight, bias

    def _list(self) -> list[StyleHead]:
        return [head for head in self.heads if isinstance(head, StyleHead)]


class E4E(nn.Module):
    """Picture (N, 3, 256, 256) in [-1, 1] to codes and feature taps.

    Args:
        style_count: L, 18 for a generator of 1024 px, 14 for 256 px.
        trunk_widths: channels of the trunk's four groups; a style vector is as wide as the last.
        pyramid_upsampling: "bilinear" in e4e itself. SAMM's training code carries a copy with
            "bicubic", so weights trained there expect that (methods of SAMM, oddity 6).
        deltas: heads after the first add to its code, as in e4e; False is pSp.
    """

    def __init__(
        self,
        *,
        style_count: int,
        trunk_widths: Sequence[int] = IR50_WIDTHS,
        pyramid_upsampling: PyramidUpsampling = "bilinear",
        deltas: bool = True,
    ) -> None:
        super().__init__()
        if style_count <= MIDDLE_HEADS:
            raise ValueError(f"style_count is {style_count}, expected more than {MIDDLE_HEADS}")
        self.pyramid_upsampling: PyramidUpsampling = pyramid_upsampling
        self.deltas = deltas
        style_width = trunk_widths[3]
        self.trunk = IRSE50(widths=trunk_widths)
        self.lateral_middle = nn.Conv2d(trunk_widths[2], style_width, 1)
        self.lateral_fine = nn.Conv2d(trunk_widths[1], style_width, 1)
        self.coarse_heads = StyleHeads(COARSE_HEADS, style_width, side=16)
        self.middle_heads = StyleHeads(MIDDLE_HEADS - COARSE_HEADS, style_width, side=32)
        self.fine_heads = StyleHeads(style_count - MIDDLE_HEADS, style_width, side=64)

    @property
    def heads(self) -> tuple[StyleHeads, StyleHeads, StyleHeads]:
        """The heads of all style vectors.

        Their convolutions may be bfloat16: that moves codes by 0.3 % (0.1 % with float32 heads) and
        takes 0.4 s less of a frame's 2.3 CPU seconds at 1024 px. Their last layers stay float32.
        """
        return self.coarse_heads, self.middle_heads, self.fine_heads

    def forward(self, images: Tensor) -> EncoderOutput:
        """Encode pictures (N, 3, 256, 256); shrink larger crops first."""
        if tuple(images.shape[-2:]) != (INPUT_SIZE, INPUT_SIZE):
            raise ValueError(
                f"images are {tuple(images.shape)}, expected (N, 3, {INPUT_SIZE}, {INPUT_SIZE}); "
                "resize them first"
            )
        full, half, quarter, eighth, coarse = self.trunk(images)
        middle = self._enlarge(coarse, eighth) + self.lateral_middle(eighth)
        fine = self._enlarge(middle, quarter) + self.lateral_fine(quarter)
        maps = (coarse, middle, fine)
        read = [h(m.to(h.dtype)) for h, m in zip(self.heads, maps, strict=True)]
        codes = torch.cat(read, dim=1)
        if self.deltas:
            codes = torch.cat([codes[:, :1], codes[:, :1] + codes[:, 1:]], dim=1)
        return EncoderOutput(offsets=codes, taps=(eighth, quarter, half, full))

    def _enlarge(self, x: Tensor, like: Tensor) -> Tensor:
        size = like.shape[-2:]
        return F.interpolate(x, size=size, mode=self.pyramid_upsampling, align_corners=True)
