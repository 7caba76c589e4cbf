"""SAMM, "Out-of-domain GAN inversion via invertibility decomposition" (Yang et al., ICCV 2023).

At some levels the generator's features are aligned to the source's by a small flow, and a mask
says where the generator cannot explain the source. Each level returns its flow and mask; they are
passed on from coarse to fine, and nothing is kept between calls.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks import winograd
from vidinvert.networks.ops import (
    Conv2d,
    InstanceAffine,
    add_to,
    blur,
    normalise,
)
from vidinvert.networks.stylegan2 import CONTENT_ENTERS, Generator, SynthesisBlock
from vidinvert.networks.warping import warp

WARP_SCALE = 0.08
CYCLES = 2
WIDE = 256  # channels from which a head's float32 maps are one matrix product


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelSpec:
    """Where SAMM acts: the resolution, the generator's channels, those of the source's map.

    `compared`: channels that both are reduced to before they are compared; None = the generator's,
    as published. The cost of a level grows with the square of this number.
    """

    resolution: int
    channels: int
    feature_channels: int
    compared: int | None = None


# Levels of SAMM on e4e and StyleGAN2 ("config f"), coarse to fine.
PUBLISHED_LEVELS = (
    LevelSpec(resolution=32, channels=512, feature_channels=256),
    LevelSpec(resolution=64, channels=512, feature_channels=128),
    LevelSpec(resolution=128, channels=256, feature_channels=64),
    LevelSpec(resolution=256, channels=128, feature_channels=64),
)
# Resolution of e4e's taps and the trunk's group that gives their channels, coarse to fine.
TAPS = ((32, 2), (64, 1), (128, 0), (256, 0))


def tapped_levels(
    channels: Mapping[int, int], trunk_widths: Sequence[int], *, size: int
) -> list[LevelSpec]:
    """Return the levels of a generator of `size` px on e4e's taps, coarse to fine.

    Args:
        channels: the generator's, by resolution.
        trunk_widths: channels of the encoder's groups.
        size: side of the generator's picture.
    """
    return [
        LevelSpec(resolution=r, channels=channels[r], feature_channels=trunk_widths[group])
        for r, group in TAPS
        if r <= size
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """What a level found, float32: `flow` (N, 2, r, r) and `ood` (N, 1, r, r) in [0, 1].

    The flow is (dx, dy) in units of half the width; `ood` 1 means that the source is kept.
    """

    flow: Tensor
    ood: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class AlignedSynthesis:
    """A picture (N, 3, R, R) float32 and the fields of the levels, coarse to fine."""

    image: Tensor
    fields: tuple[Field, ...]


class Head(nn.Module):
    """The last residual unit: 2C channels to the three maps of flow and mask."""

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.norm_in = InstanceAffine(channels)
        self.conv_in = nn.Conv2d(channels, 3, 3, padding=1, bias=bias)
        self.slope = nn.Parameter(torch.full((3,), 0.25))
        self.conv_out = nn.Conv2d(3, 3, 3, padding=1, bias=bias)
        self.norm_out = InstanceAffine(3)
        self.shortcut = nn.Conv2d(channels, 3, 1, bias=bias)
        self.shortcut_norm = InstanceAffine(3)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 3, H, W) float32.

        In float32 the normalisation, the 3x3 convolution and the shortcut read a wide `x`
        (N, C, H, W) once: as one matrix product with nine taps and the shortcut for columns. The
        taps are then shifted and summed; the shift of the normalisation is added before, so the
        border sees zeros. Of few channels, and in reduced precision, the convolutions are cheap,
        and step by step takes half the time; with gradients the taps would cost more in the
        backward pass.
        """
        if x.requires_grad or x.dtype != torch.float32 or x.shape[1] < WIDE:
            return self._forward_plainly(x)
        count, channels, height, width = x.shape
        scale, shift = self.norm_in.scale_and_shift(x)
        taps = self.conv_in.weight.float().permute(2, 3, 0, 1).reshape(27, channels)
        direct = self.shortcut.weight.float().reshape(1, 3, channels).expand(count, -1, -1)
        columns = torch.cat([taps * scale[:, None, :], direct], dim=1)  # (N, 30, C)
        rows = x.permute(0, 2, 3, 1).reshape(count, height * width, channels)
        maps = torch.bmm(rows, columns.to(x.dtype).transpose(1, 2)).float()  # (N, H * W, 30)
        tapped = maps[:, :, :27] + (shift @ taps.T)[:, None, :]
        residual = self._sum_taps(tapped.view(count, height, width, 3, 3, 3))
        if self.conv_in.bias is not None:
            residual = residual + self.conv_in.bias.float()[:, None, None]
        residual = F.prelu(residual, self.slope.float())
        residual = F.conv2d(residual, self.conv_out.weight.float(), padding=1)
        if self.conv_out.bias is not None:
            residual = residual + self.conv_out.bias.float()[:, None, None]
        base = maps[:, :, 27:].transpose(1, 2).reshape(count, 3, height, width)
        if self.shortcut.bias is not None:
            base = base + self.shortcut.bias.float()[:, None, None]
        return self.norm_out(residual) + self.shortcut_norm(base)

    def _forward_plainly(self, x: Tensor) -> Tensor:
        """Compute the same, step by step."""
        hidden = self.conv_in(self.norm_in(x))
        residual = self.conv_out(F.prelu(hidden, self.slope.to(hidden.dtype)))
        # Three maps are normalised faster plane by plane than channels-last.
        residual, base = residual.float().contiguous(), self.shortcut(x).float().contiguous()
        return self.norm_out(residual) + self.shortcut_norm(base)

    def _sum_taps(self, tapped: Tensor) -> Tensor:
        """Shift and sum (N, H, W, 3, 3, 3) over the kernel's rows and columns -> (N, 3, H, W)."""
        _, height, width = tapped.shape[:3]
        framed = F.pad(tapped, (0, 0, 0, 0, 0, 0, 1, 1, 1, 1))
        total = tapped[:, :, :, 1, 1]
        for row in range(3):
            for column in range(3):
                if (row, column) != (1, 1):
                    total = (
                        total + framed[:, row : row + height, column : column + width, row, column]
                    )
        return total.permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True, slots=True, eq=False)
class SourceFeatures:
    """A source's map at one level, as AlignNet reads it: computed once, used in every cycle.

    `normalised` (N, C, r, r), and the first convolution's share of it `convolved` (N, 2C, r, r).
    """

    normalised: Tensor
    convolved: Tensor


class AlignNet(nn.Module):
    """Estimate flow and mask between the generator's features and the source's.

    Its input is the pair (generator - source, source), each normalised. The source's half of the
    first convolution does not change from cycle to cycle and is computed once.
    """

    def __init__(self, channels: int, *, warp_scale: float, bias: bool) -> None:
        super().__init__()
        self.channels = channels
        self.warp_scale = warp_scale
        self.norm_in = InstanceAffine(2 * channels)
        self.conv_in = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, bias=bias)
        self.slope = nn.Parameter(torch.full((2 * channels,), 0.25))
        self.conv_out = Conv2d(2 * channels, 2 * channels, 3, bias=bias)
        self.norm_out = InstanceAffine(2 * channels)
        self.head = Head(2 * channels, bias=bias)
        self.fast: tuple[winograd.TransformedWeight, winograd.TransformedWeight] | None = None

    def read_source(self, features: Tensor) -> SourceFeatures:
        """Prepare the source's features (N, C, r, r) for `forward`."""
        normalised = normalise(features)
        return SourceFeatures(normalised, self._convolve_half(normalised, 1))

    def forward(self, x: Tensor, source: SourceFeatures) -> Field:
        """Compare the generator's features (N, C, r, r) with the source's."""
        difference = add_to(normalise(x), source.normalised, alpha=-1)
        hidden = add_to(self._convolve_half(difference, 0), source.convolved)
        hidden = self.norm_out(self.conv_out(F.prelu(hidden, self.slope)))
        maps = self.head(add_to(hidden, torch.cat([difference, source.normalised], dim=1)))
        with torch.autocast(maps.device.type, enabled=False):
            flow, ood = maps.float().split((2, 1), dim=1)
            # Contiguous, for tanh over strides is computed number by number.
            flow = self.warp_scale * torch.tanh(flow.contiguous())
            maps = torch.cat([flow, torch.sigmoid(ood.contiguous())], dim=1)
            maps = blur(maps, padding=(2, 1, 2, 1))  # the zero frame dims the mask at the border
        return Field(flow=maps[:, :2], ood=maps[:, 2:])

    def prepare(self) -> None:
        """Transform both halves of the first convolution once, where that pays."""
        halves = self.conv_in.weight.chunk(2, dim=1)
        if winograd.suits(halves[0]):
            difference, source = (winograd.transform_weight(half) for half in halves)
            self.fast = difference, source

    def _convolve_half(self, x: Tensor, half: int) -> Tensor:
        """Normalise and convolve one half of the input: 0 the difference, 1 the source."""
        channels = slice(half * self.channels, (half + 1) * self.channels)
        x = normalise(x, self.norm_in.weight[channels], self.norm_in.bias[channels])
        bias = self.conv_in.bias if half == 0 else None
        if self.fast is None or x.requires_grad:
            return F.conv2d(x, self.conv_in.weight[:, channels], bias, padding=1)
        out = winograd.convolve(x, self.fast[half])
        return out if bias is None else out + bias[:, None, None]


class Level(nn.Module):
    """SAMM at one resolution: align the generator's features to the source's in a few cycles.

    Args:
        spec: resolution and channels.
        warp_scale: largest displacement, in units of half the width.
        cycles: estimates of the flow; every one starts from what the last one warped.
        align_corners: see `sampling_grid`.
        bias: convolutions with biases, as in SAMM's FeatureStyle variant.
    """

    def __init__(
        self, spec: LevelSpec, *, warp_scale: float, cycles: int, align_corners: bool, bias: bool
    ) -> None:
        super().__init__()
        self.spec = spec
        self.warp_scale = warp_scale
        self.cycles = cycles
        self.align_corners = align_corners
        compared = spec.compared or spec.channels
        self.features = nn.Conv2d(spec.feature_channels, compared, 1)
        self.reduce = None if spec.compared is None else nn.Conv2d(spec.channels, compared, 1)
        self.align = AlignNet(compared, warp_scale=warp_scale, bias=bias)

    def forward(self, x: Tensor, features: Tensor, previous: Field | None) -> tuple[Tensor, Field]:
        """Align `x` (N, C, r, r) to the source's `features` (N, F, r, r).

        Args:
            x: the generator's features before noise, bias and activation.
            features: the encoder's map at this resolution.
            previous: the field of the next coarser level; only its mask is used.

        Returns:
            The aligned features, and the field that aligned them.
        """
        field = self.find_field(x, features, previous)
        return self._align(x, field), field

    def find_field(self, x: Tensor, features: Tensor, previous: Field | None) -> Field:
        """Return the field of `forward` without the last alignment."""
        source = self.align.read_source(self.features(features.to(x.dtype)))
        field: Field | None = None
        for cycle in range(self.cycles):
            aligned = x if field is None else self._align(x, field)
            seen = aligned if self.reduce is None else self.reduce(aligned)
            field = self._accumulate(field, self.align(seen, source))
            if cycle == self.cycles - 1 and previous is not None:
                field = Field(flow=field.flow, ood=refine_mask(previous.ood, field.ood))
        assert field is not None
        return field

    def _align(self, x: Tensor, field: Field) -> Tensor:
        warped = warp(x, field.flow, align_corners=self.align_corners)
        return torch.lerp(x, warped.to(x.dtype), field.ood.to(x.dtype))

    def _accumulate(self, field: Field | None, step: Field) -> Field:
        if field is None:
            return step
        flow = (field.flow + step.flow).clamp(-self.warp_scale, self.warp_scale)
        return Field(flow=flow, ood=refine_mask(field.ood, step.ood))


class SAMM(nn.Module):
    """The aligning levels, coarse to fine; any resolutions and channels of a generator.

    Args:
        levels: where it acts; those of e4e and StyleGAN2 by default.
        warp_scale: largest displacement in units of half the width.
        cycles: estimates per level; 2 with e4e.
        align_corners: False is the published convention, see `sampling_grid`.
        bias: convolutions with biases, as in the FeatureStyle variant.
    """

    def __init__(
        self,
        levels: Sequence[LevelSpec] = PUBLISHED_LEVELS,
        *,
        warp_scale: float = WARP_SCALE,
        cycles: int = CYCLES,
        align_corners: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        resolutions = [spec.resolution for spec in levels]
        if not levels or any(b <= a for a, b in pairwise(resolutions)):
            raise ValueError(f"levels are of {resolutions} px, expected one or more, growing")
        if cycles < 1:
            raise ValueError(f"cycles is {cycles}, expected 1 or more")
        self.levels = nn.ModuleList(
            Level(
                spec, warp_scale=warp_scale, cycles=cycles, align_corners=align_corners, bias=bias
            )
            for spec in levels
        )

    @property
    def specs(self) -> tuple[LevelSpec, ...]:
        """Where the levels act, coarse to fine."""
        return tuple(level.spec for level in self.levels if isinstance(level, Level))

    def at(self, resolution: int) -> int | None:
        """Return the index of the level that acts at a resolution, or None."""
        for index, spec in enumerate(self.specs):
            if spec.resolution == resolution:
                return index
        return None


def synthesise_aligned(
    generator: Generator,
    samm: SAMM,
    w_plus: Tensor,
    features: Sequence[Tensor],
    *,
    noise: Sequence[Tensor] | None = None,
    content: Tensor | None = None,
) -> AlignedSynthesis:
    """Render codes with the generator's features aligned to a source's.

    Deviation: the published code divides the aligned features by the noise strength and lets the
    noise injection multiply it back; here the alignment is a step of its own, the same in exact
    arithmetic and defined for a strength of zero.

    Args:
        generator: the network that renders.
        samm: the aligning levels.
        w_plus: (N, L, D) float32.
        features: the source's maps, one for every level, coarse to fine.
        noise: fixed noise maps, or None for none.
        content: FeatureStyle's content map, see `Generator.forward`.
    """
    (done,) = deque(_align(generator, samm, w_plus, features, noise, content), maxlen=1)
    return done


def find_fields(
    generator: Generator,
    samm: SAMM,
    w_plus: Tensor,
    features: Sequence[Tensor],
    *,
    noise: Sequence[Tensor] | None = None,
    content: Tensor | None = None,
) -> tuple[Field, ...]:
    """Return the fields of `synthesise_aligned` without rendering beyond the last level."""
    for done in _align(generator, samm, w_plus, features, noise, content):
        if len(done.fields) == len(samm.levels):
            return done.fields
    raise ValueError(
        f"SAMM acts at {[spec.resolution for spec in samm.specs]} px, expected resolutions that "
        f"the generator of {generator.size} px has"
    )


def _align(
    generator: Generator,
    samm: SAMM,
    w_plus: Tensor,
    features: Sequence[Tensor],
    noise: Sequence[Tensor] | None,
    content: Tensor | None,
) -> Iterator[AlignedSynthesis]:
    """Yield what is there after each block: the picture so far, and the fields found so far."""
    x, image = generator.start(w_plus, noise)
    fields: list[Field] = []
    for index, block in enumerate(generator.blocks):
        assert isinstance(block, SynthesisBlock)
        if content is not None and block.resolution == CONTENT_ENTERS:
            x = content
        first = 1 + 2 * index
        maps = (None, None) if noise is None else (noise[first], noise[first + 1])
        x = block.conv0.conv(x, w_plus[:, first])
        position = samm.at(block.resolution)
        if position is not None:
            previous = fields[-1] if fields else None
            x, field = samm.levels[position](x, features[position], previous)
            fields.append(field)
        x = block.conv0.activate(x, maps[0])
        x = block.conv1(x, w_plus[:, first + 1], maps[1])
        image = block.to_rgb(x, w_plus[:, first + 2], image)
        yield AlignedSynthesis(image=image, fields=tuple(fields))


def combine_masks(fields: Sequence[Field], *, size: int) -> Tensor:
    """Multiply the levels' masks into one (N, 1, size, size) in [0, 1], coarse to fine."""
    total: Tensor | None = None
    for field in fields:
        ood = F.interpolate(field.ood, size=(size, size), mode="bilinear", align_corners=False)
        total = ood if total is None else ood * total + total * (1.0 - total)
    if total is None:
        raise ValueError("fields is empty, expected the field of at least one level")
    return total.clamp(0.0, 1.0)


def refine_mask(coarse: Tensor, fine: Tensor) -> Tensor:
    """Refine a mask by a finer estimate: a * b + a * (1 - a), in [0, 1] ("PRM").

    Where the coarse mask a is 0 the result is 0, where it is 1 the result is the fine mask b; it
    grows with both. `coarse` (N, 1, h, w) is enlarged bicubically to the size of `fine`.
    """
    if coarse.shape[-2:] != fine.shape[-2:]:
        size = fine.shape[-2:]
        coarse = F.interpolate(coarse, size=size, mode="bicubic", align_corners=True)
    return (fine * coarse + coarse * (1.0 - coarse)).clamp(0.0, 1.0)
