"""SAMM on the eigen generator: the decoder's features are aligned to the source's.

The decoder renders the *inverted* latents; at 1/8, 1/4 and 1/2 of the picture's size its features
are compared with those of the source (the encoder's, and at 1/2 the pixels themselves), warped by a
small flow, and masked where the generator cannot explain the picture. The grid is the corrected one
(align_corners=True), with one cycle a level.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from vidinvert.networks.autoencoder import (
    DECODER_WIDTHS,
    ENCODER_WIDTHS,
    EncoderFeatures,
    FaceDecoder,
)
from vidinvert.networks.samm import SAMM, Field, Level, LevelSpec

WARP_SCALE = 0.08
COMPARED = (64, 40, 16)  # channels in which each level compares, coarse to fine
SOURCE_WIDTHS = (ENCODER_WIDTHS[1], ENCODER_WIDTHS[0], 12)  # 12: 2 x 2 pixels of three colours


def eigen_samm(*, crop_size: int = 256, compared: Sequence[int | None] = COMPARED) -> SAMM:
    """Build the aligning levels for crops of `crop_size` pixels, coarse to fine.

    `compared`: for each level the channels in which it compares; None = the decoder's own width,
    which takes three to four times the time.
    """
    levels = [
        LevelSpec(
            resolution=crop_size // (8 >> level),
            channels=DECODER_WIDTHS[level],
            feature_channels=SOURCE_WIDTHS[level],
            compared=width,
        )
        for level, width in enumerate(compared)
    ]
    return SAMM(levels, warp_scale=WARP_SCALE, cycles=1, align_corners=True)


def source_features(encoded: EncoderFeatures, crops: Tensor) -> tuple[Tensor, ...]:
    """Return what the levels compare with: (N, 128, R/8), (N, 64, R/4) and (N, 12, R/2) maps."""
    return (*encoded.features, F.pixel_unshuffle(crops, 2))


class AlignedFeatures(NamedTuple):
    """The decoder's aligned features at 1/2 of the size, and the fields of the levels."""

    features: Tensor
    fields: tuple[Field, ...]


def align_decoder(
    decoder: FaceDecoder,
    samm: SAMM,
    latents: Tensor,
    features: Sequence[Tensor],
    *,
    levels: int | None = None,
) -> AlignedFeatures:
    """Decode inverted latents as far as 1/2 of the size, aligned to the source's features.

    Args:
        decoder: the pack's decoder.
        samm: from `eigen_samm`.
        latents: (N, 32, h, w) from the generator.
        features: from `source_features`.
        levels: align this many levels alone, coarse first; None = all.
    """
    x = latents
    fields: list[Field] = []
    aligned = len(samm.levels) if levels is None else levels
    stages = (decoder.stage_eighth, decoder.stage_quarter, decoder.stage_half)
    for index, stage in enumerate(stages):
        x = stage(x)
        if index < aligned:
            x, field = samm.levels[index](x, features[index], fields[-1] if fields else None)
            fields.append(field)
    return AlignedFeatures(x, tuple(fields))


def find_fields(
    decoder: FaceDecoder, samm: SAMM, latents: Tensor, features: Sequence[Tensor]
) -> tuple[Field, ...]:
    """Return the fields of `align_decoder`; what the last one would align is left as it is."""
    *coarse, finest = (decoder.stage_eighth, decoder.stage_quarter, decoder.stage_half)[
        : len(samm.levels)
    ]
    x = latents
    fields: list[Field] = []
    for index, stage in enumerate(coarse):
        x, field = samm.levels[index](stage(x), features[index], fields[-1] if fields else None)
        fields.append(field)
    last = samm.levels[-1]
    assert isinstance(last, Level)
    previous = fields[-1] if fields else None
    fields.append(last.find_field(finest(x), features[len(coarse)], previous))
    return tuple(fields)
