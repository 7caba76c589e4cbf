"""SAMM on e4e and StyleGAN2 as the published code computes them: what ours is timed against.

Written from the papers and the description of that code: NCHW float32, one picture at a time;
weights scaled for every picture and run as grouped convolutions; the FIR as a depthwise 4x4
convolution over what was up-sampled; every head by itself; AlignNet concatenated and unshared.
It reads the parameters of our modules, which must not be prepared.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vidinvert.networks.e4e import E4E
from vidinvert.networks.ops import (
    DEMODULATION_EPSILON,
    FIR_TAPS,
    InstanceAffine,
    ModulatedConv2d,
    leaky_relu,
)
from vidinvert.networks.samm import SAMM, AlignNet, Field, Level, combine_masks, refine_mask
from vidinvert.networks.stylegan2 import Generator, SynthesisBlock, ToRGB
from vidinvert.networks.warping import sampling_grid


def frame(
    encoder: E4E, generator: Generator, samm: SAMM, picture: Tensor, w_mean: Tensor
) -> tuple[Tensor, Tensor]:
    """Invert and render one picture (1, 3, 256, 256): image (1, 3, R, R) and mask (1, 1, R, R)."""
    offsets, features = embed(encoder, picture)
    image, fields = synthesise(generator, samm, offsets + w_mean, features)
    return image, combine_masks(fields, size=generator.size)


def embed(encoder: E4E, picture: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run the trunk, then one head after the other."""
    found = encoder(picture)  # not prepared: batch norms and heads each run by themselves
    return found.offsets, found.taps


def synthesise(
    generator: Generator, samm: SAMM, w_plus: Tensor, features: Sequence[Tensor]
) -> tuple[Tensor, list[Field]]:
    """Render codes (1, L, D) aligned to the source's maps."""
    noise = generator.noise
    x = generator.constant.expand(len(w_plus), -1, -1, -1)
    x = _activate(_modulated(generator.conv.conv, x, w_plus[:, 0]), generator.conv, noise[0])
    image = _to_rgb(generator.to_rgb, x, w_plus[:, 1], None)
    fields: list[Field] = []
    for index, block in enumerate(generator.blocks):
        assert isinstance(block, SynthesisBlock)
        first = 1 + 2 * index
        x = _modulated(block.conv0.conv, x, w_plus[:, first])
        position = samm.at(block.resolution)
        if position is not None:
            level = samm.levels[position]
            assert isinstance(level, Level)
            x = _align(level, x, features[position], fields)
        x = _activate(x, block.conv0, noise[first])
        x = _modulated(block.conv1.conv, x, w_plus[:, first + 1])
        x = _activate(x, block.conv1, noise[first + 1])
        image = _to_rgb(block.to_rgb, x, w_plus[:, first + 2], image)
    return image, fields


def _modulated(conv: ModulatedConv2d, x: Tensor, w: Tensor) -> Tensor:
    """Scale the weights of every picture, then convolve in groups."""
    count, channels, height, width = x.shape
    kernel = conv.weight.shape[-1]
    styles = conv.modulation(w) * conv.gain
    scaled = conv.weight[None] * styles[:, None, :, None, None]  # (N, out, in, k, k)
    if conv.demodulate:
        energy = scaled.square().sum(dim=(2, 3, 4), keepdim=True)
        scaled = scaled * torch.rsqrt(energy + DEMODULATION_EPSILON)
    rows = x.reshape(1, count * channels, height, width)
    if not conv.upsample:
        stacked = scaled.reshape(-1, channels, kernel, kernel)
        out = F.conv2d(rows, stacked, padding=kernel // 2, groups=count)
        return out.reshape(count, -1, height, width)
    stacked = scaled.transpose(1, 2).reshape(count * channels, -1, kernel, kernel)
    out = F.conv_transpose2d(rows, stacked, stride=2, groups=count)
    return _fir(out.reshape(count, -1, *out.shape[-2:]), (1, 1, 1, 1), gain=4.0)


def _fir(x: Tensor, padding: tuple[int, int, int, int], *, gain: float = 1.0) -> Tensor:
    """Pad, then convolve every channel with the 4x4 kernel."""
    taps = x.new_tensor(FIR_TAPS)
    kernel = (torch.outer(taps, taps) / 64.0 * gain).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, padding), kernel, groups=x.shape[1])


def _activate(x: Tensor, layer: torch.nn.Module, noise: Tensor) -> Tensor:
    strength, bias = layer.get_parameter("noise_strength"), layer.get_parameter("bias")
    return leaky_relu(x + strength * noise + bias[:, None, None])


def _to_rgb(layer: ToRGB, x: Tensor, w: Tensor, below: Tensor | None) -> Tensor:
    image = _modulated(layer.conv, x, w) + layer.bias[:, None, None]
    if below is None:
        return image
    count, channels, height, width = below.shape
    spread = below.new_zeros(count, channels, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = below
    return image + _fir(spread, (2, 1, 2, 1), gain=4.0)


def _align(level: Level, x: Tensor, features: Tensor, fields: list[Field]) -> Tensor:
    """Align in cycles; every cycle compares anew with the whole source."""
    aligned = x
    field: Field | None = None
    for cycle in range(level.cycles):
        step = _find_field(level.align, aligned, level.features(features))
        if field is not None:
            flow = (field.flow + step.flow).clamp(-level.warp_scale, level.warp_scale)
            step = Field(flow=flow, ood=refine_mask(field.ood, step.ood))
        field = step
        if cycle == level.cycles - 1 and fields:
            field = Field(flow=field.flow, ood=refine_mask(fields[-1].ood, field.ood))
        grid = sampling_grid(field.flow)
        warped = F.grid_sample(
            x, grid, mode="bilinear", padding_mode="zeros", align_corners=level.align_corners
        )
        aligned = x * (1.0 - field.ood) + warped * field.ood
    assert field is not None
    fields.append(field)
    return aligned


def _find_field(net: AlignNet, x: Tensor, features: Tensor) -> Field:
    ours, theirs = F.instance_norm(x, eps=1e-5), F.instance_norm(features, eps=1e-5)
    pair = torch.cat([ours - theirs, theirs], dim=1)
    residual = net.conv_in(_norm(pair, net.norm_in))
    residual = F.conv2d(F.prelu(residual, net.slope), net.conv_out.weight, padding=1)
    hidden = _norm(residual, net.norm_out) + pair
    head = net.head
    residual = head.conv_in(_norm(hidden, head.norm_in))
    residual = _norm(head.conv_out(F.prelu(residual, head.slope)), head.norm_out)
    maps = residual + _norm(head.shortcut(hidden), head.shortcut_norm)
    maps = torch.cat([net.warp_scale * torch.tanh(maps[:, :2]), torch.sigmoid(maps[:, 2:])], dim=1)
    maps = _fir(maps, (2, 1, 2, 1))
    return Field(flow=maps[:, :2], ood=maps[:, 2:])


def _norm(x: Tensor, affine: InstanceAffine) -> Tensor:
    return F.instance_norm(x, weight=affine.weight, bias=affine.bias, eps=1e-5)
