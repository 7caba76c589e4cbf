"""SAMM on the eigen generator: the decoder's features are aligned to the encoder's.

The decoder renders the *inverted* latents; at 1/8 and 1/4 of the picture's size its features are
compared with those the encoder saw, warped by a small flow, and masked where the generator cannot
explain the picture. The grid is the corrected one (align_corners=True), with one cycle a level.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from vidinvert.networks.autoencoder import DECODER_WIDTHS, ENCODER_WIDTHS, FaceDecoder
from vidinvert.networks.samm import SAMM, Field, LevelSpec

WARP_SCALE = 0.08
COMPARED = (64, 40)  # channels of the coarse and the fine level


def eigen_samm(*, crop_size: int = 256, compared: Sequence[int] | None = COMPARED) -> SAMM:
    """Build the aligning levels for crops of `crop_size` pixels, coarse to fine.

    `compared`: the channels in which each level compares; None = the decoder's own widths, which
    take three to four times the time.
    """
    widths = (None, None) if compared is None else compared
    levels = (
        LevelSpec(
            resolution=crop_size // 8,
            channels=DECODER_WIDTHS[0],
            feature_channels=ENCODER_WIDTHS[1],
            compared=widths[0],
        ),
        LevelSpec(
            resolution=crop_size // 4,
            channels=DECODER_WIDTHS[1],
            feature_channels=ENCODER_WIDTHS[0],
            compared=widths[1],
        ),
    )
    return SAMM(levels, warp_scale=WARP_SCALE, cycles=1, align_corners=True)


class AlignedFeatures(NamedTuple):
    """The decoder's features at 1/4 of the size, aligned, and the fields of both levels."""

    features: Tensor
    fields: tuple[Field, Field]


def align_decoder(
    decoder: FaceDecoder, samm: SAMM, latents: Tensor, features: tuple[Tensor, ...]
) -> AlignedFeatures:
    """Decode inverted latents as far as 1/4 of the size, aligned to the encoder's features.

    Args:
        decoder: the pack's decoder.
        samm: from `eigen_samm`.
        latents: (N, 32, h, w) from the generator.
        features: the encoder's, (N, 128, h, w) and (N, 64, 2h, 2w).
    """
    coarse, fine = samm.levels
    eighth, first = coarse(decoder.stage_eighth(latents), features[0], None)
    quarter, second = fine(decoder.stage_quarter(eighth), features[1], first)
    return AlignedFeatures(quarter, (first, second))
