"""Deghosting on the eigen generator: a bank of the pack's own priors, a small network around it.

As in Song et al. (ECCV 2022), and GLEAN (Chan et al., CVPR 2021) before it, a frozen generator is
given codes of the ghosted picture and the features of an encoder, and a decoder makes a clean
picture of its features. Here the codes are the pack's own, in closed form; the bank is the eigen
generator and the pack's decoder, whose features at 1/8, 1/4 and 1/2 of the size are fused with the
encoder's before they go on, as published; and since the frames' detail must survive, the network
puts out a correction of its input instead of a new picture.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert import images
from vidinvert.geometry import displace, split_motion
from vidinvert.networks.autoencoder import (
    DECODER_WIDTHS,
    ENCODER_WIDTHS,
    FaceDecoder,
    FaceEncoder,
)
from vidinvert.networks.eigen import EigenGenerator

GIVEN_WIDTHS = (96, 48, 32)  # of the encoder's maps at 1/8, 1/4 and 1/2
MADE_WIDTHS = (96, 64, 48)  # of the decoder's
LIFTED = 40  # channels that come up from 1/4 to 1/2
MOTION_BLUR = 3 / 256  # of the picture's side: the flow's smoothing in space
FULL_DIFFERENCE = 12 / 127.5  # from this difference of the two pictures on a correction is whole


class Bank(NamedTuple):
    """A pack's own networks, frozen: what a face looks like, whatever the ghosts."""

    encoder: FaceEncoder
    generator: EigenGenerator
    decoder: FaceDecoder

    def to(self, device: torch.device | str) -> "Bank":
        """Return the networks on a device."""
        return Bank(self.encoder.to(device), self.generator.to(device), self.decoder.to(device))


class Deghoster(nn.Module):
    """Pictures (N, 3, H, W) with ghosts -> corrections of them; 5.4 GFLOP beside the bank's 7.

    The bank is passed in: it is not part of this module's weights.
    """

    def __init__(self) -> None:
        super().__init__()
        quarter, eighth = ENCODER_WIDTHS
        self.given = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, padding=1)
            for inputs, outputs in zip((eighth, quarter, 12), GIVEN_WIDTHS, strict=True)
        )
        self.fusion = nn.ModuleList(
            nn.Conv2d(own + given, own, 3, padding=1)
            for own, given in zip(DECODER_WIDTHS, GIVEN_WIDTHS, strict=True)
        )
        for layer in self.fusion:  # at the start the bank is the generator as it is
            _zero(layer)
        at_eighth, at_quarter, at_half = MADE_WIDTHS
        self.make_eighth = nn.Conv2d(DECODER_WIDTHS[0] + GIVEN_WIDTHS[0], at_eighth, 3, padding=1)
        self.to_quarter = nn.Conv2d(at_eighth, 4 * at_quarter, 1)
        self.make_quarter = nn.Conv2d(DECODER_WIDTHS[1] + at_quarter, at_quarter, 3, padding=1)
        self.to_half = nn.Conv2d(at_quarter, 4 * LIFTED, 1)
        inputs = DECODER_WIDTHS[2] + GIVEN_WIDTHS[2] + LIFTED
        self.make_half = nn.Conv2d(inputs, at_half, 3, padding=1)
        self.refine_half = nn.Conv2d(at_half, at_half, 3, padding=1)
        self.to_correction = nn.Conv2d(at_half, 12, 3, padding=1)
        _zero(self.to_correction)

    def forward(self, ghosted: Tensor, bank: Bank) -> Tensor:
        """Return what pictures (N, 3, H, W) in [-1, 1] lack, to be added where ghosts can be."""
        return self.correct(recall(ghosted, bank), bank.decoder)

    def correct(self, recalled: "Recalled", decoder: FaceDecoder) -> Tensor:
        """Return the correction (N, 3, 8h, 8w) of what was recalled of h by w cells."""
        given = [F.relu(layer(x)) for layer, x in zip(self.given, recalled.sources, strict=True)]
        stages = (decoder.stage_eighth, decoder.stage_quarter, decoder.stage_half)
        known: list[Tensor] = []
        x = recalled.latents
        for stage, fusion, own in zip(stages, self.fusion, given, strict=True):
            x = stage(x)
            x = x + fusion(torch.cat([x, own], dim=1))
            known.append(x)
        made = F.relu(self.make_eighth(torch.cat([known[0], given[0]], dim=1)))
        made = F.pixel_shuffle(self.to_quarter(made), 2)
        made = F.relu(self.make_quarter(torch.cat([known[1], made], dim=1)))
        made = F.pixel_shuffle(self.to_half(made), 2)
        made = F.relu(self.make_half(torch.cat([known[2], given[2], made], dim=1)))
        made = F.relu(made + self.refine_half(made))
        return F.pixel_shuffle(self.to_correction(made), 2)


class Recalled(NamedTuple):
    """What a bank makes of pictures: the generator's `latents` (N, 32, h, w) of their codes.

    `sources`: the encoder's maps at 1/8 and 1/4 of the pictures' size, and at 1/2 their pixels.
    """

    latents: Tensor
    sources: tuple[Tensor, Tensor, Tensor]

    def window(self, top: int, left: int, cells: int) -> "Recalled":
        """Return the part of `cells` by `cells` latent cells from a corner on."""
        first, second, third = (
            source[:, :, size * top :, size * left :][:, :, : size * cells, : size * cells]
            for source, size in zip(self.sources, (1, 2, 4), strict=True)
        )
        latents = self.latents[:, :, top : top + cells, left : left + cells]
        return Recalled(latents, (first, second, third))


def recall(ghosted: Tensor, bank: Bank) -> Recalled:
    """Embed pictures (N, 3, H, W) in [-1, 1] and generate latents of their codes."""
    encoded = bank.encoder(ghosted)
    codes = bank.generator.basis.codes(encoded.latents)
    latents = bank.generator(codes).latents.to(ghosted.dtype)
    return Recalled(latents, (*encoded.features, F.pixel_unshuffle(ghosted, 2)))


def redraw(source: Tensor, own: Tensor, change: Tensor, decoder: FaceDecoder) -> Tensor:
    """Paint an edit on source pictures (N, 3, H, W): their pixels are moved as the edit moves them.

    Their latents are decoded with the change and without. Optical flow between the two moves the
    source's own pixels, which keeps their detail; what flow cannot explain is added. The flow is
    estimated on the CPU, wherever the networks are, and carries no gradients.

    Args:
        source: in [-1, 1].
        own: their latents (N, 32, h, w).
        change: what the edit changes in the generator's latents.
        decoder: the pack's.

    Returns:
        The edited pictures (N, 3, H, W) in [-1, 1], float32, on the device of `source`.
    """
    drawn = decoder(torch.cat([own + change.to(own.dtype), own]))
    after, before = np.split(images.to_uint8(drawn), 2)
    sources = source.detach().float().permute(0, 2, 3, 1).cpu().numpy()  # (N, H, W, 3)
    painted = np.empty_like(sources)
    for n, picture in enumerate(sources):
        flow, rest = split_motion(before[n], after[n], sigma=MOTION_BLUR * picture.shape[0])
        moved = displace(np.ascontiguousarray(picture), flow, interpolation="cubic")
        painted[n] = np.clip(moved + rest / np.float32(127.5), -1.0, 1.0)
    return torch.from_numpy(painted).permute(0, 3, 1, 2).to(source.device)


def fuse(source: Tensor, edited: Tensor, cam: Tensor) -> Tensor:
    """Show an edited picture through the map: `cam` * edited + (1 - `cam`) * source."""
    return source + cam * (edited - source)


def correctable(source: Tensor, edited: Tensor) -> Tensor:
    """Return where a ghost of two pictures (N, 3, H, W) can be: (N, 1, H, W) in [0, 1].

    Where they are the same there is none, so an edit of strength 0 changes nothing at all.
    """
    apart = (edited - source).abs().amax(dim=1, keepdim=True)
    spread = F.avg_pool2d(apart, 9, stride=1, padding=4, count_include_pad=False)
    return (spread / FULL_DIFFERENCE).clamp(0.0, 1.0)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
