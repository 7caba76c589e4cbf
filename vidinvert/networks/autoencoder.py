"""The small face autoencoder of our own packs: 256 px pictures to 32 channels at 1/8 and back.

The encoder is distilled from TAEF2's latents and then trained with the decoder on faces
(training/autoencoder.py). Every resolution's last feature map is returned, since SAMM aligns the
decoder's features to the encoder's.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks.ops import merge_doubling

LATENT_CHANNELS = 32
STRIDE = 8  # picture pixels per latent cell
ENCODER_WIDTHS = (64, 128)  # at 1/4, 1/8
DECODER_WIDTHS = (128, 64, 32)  # at 1/8, 1/4, 1/2


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))) followed by ReLU; the second convolution starts small."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(width, width, 3, padding=1)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.conv1.weight.mul_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> same."""
        return F.relu_(self.conv1(F.relu_(self.conv0(x))) + x)


class EncoderFeatures(NamedTuple):
    """`latents` (N, 32, H/8, W/8), about unit variance, and features from coarse to fine."""

    latents: Tensor
    features: tuple[Tensor, Tensor]  # (N, 128, H/8, W/8), (N, 64, H/4, W/4)


class FaceEncoder(nn.Module):
    """Pictures (N, 3, H, W) in [-1, 1], sides divisible by 8, to normalised latents.

    2.3 GFLOP at 256 px.
    """

    def __init__(self) -> None:
        super().__init__()
        quarter, eighth = ENCODER_WIDTHS
        self.stem = nn.Conv2d(48, quarter, 3, padding=1)
        self.block_quarter = nn.Sequential(ResidualBlock(quarter))
        self.to_eighth = nn.Conv2d(quarter, eighth, 3, stride=2, padding=1)
        self.block_eighth = nn.Sequential(*(ResidualBlock(eighth) for _ in range(2)))
        self.to_latents = nn.Conv2d(eighth, LATENT_CHANNELS, 3, padding=1)

    def forward(self, images: Tensor) -> EncoderFeatures:
        """Encode pictures (N, 3, H, W)."""
        stem = F.relu_(self.stem(F.pixel_unshuffle(images, 4)))  # (N, 64, H/4, W/4)
        quarter = self.block_quarter(stem)  # (N, 64, H/4, W/4)
        eighth = self.block_eighth(F.relu_(self.to_eighth(quarter)))  # (N, 128, H/8, W/8)
        return EncoderFeatures(self.to_latents(eighth), (eighth, quarter))


class FaceDecoder(nn.Module):
    """Latents (N, 32, h, w) to pictures (N, 3, 8h, 8w), about [-1, 1]. 3.8 GFLOP at 256 px.

    `forward` is the three stages in order; they are separate so that SAMM can look at, and warp,
    what lies between them.
    """

    def __init__(self) -> None:
        super().__init__()
        eighth, quarter, half = DECODER_WIDTHS
        self.from_latents = nn.Conv2d(LATENT_CHANNELS, eighth, 3, padding=1)
        self.block_eighth = nn.Sequential(*(ResidualBlock(eighth) for _ in range(2)))
        self.to_quarter = nn.Conv2d(eighth, quarter, 3, padding=1)
        self.block_quarter = nn.Sequential(ResidualBlock(quarter))
        self.to_half = nn.Conv2d(quarter, 4 * half, 3, padding=1)
        self.block_half = nn.Sequential(ResidualBlock(half))
        self.to_image = nn.Conv2d(half, 12, 3, padding=1)
        self.doubling: Tensor | None = None
        self.readout: nn.Conv2d | None = None

    def prepare(self) -> None:
        """Merge doubling into the convolution that follows, where that pays."""
        weight = self.to_quarter.weight
        if weight.dtype == torch.float32 and weight.device.type == "cpu":
            self.doubling = merge_doubling(weight.detach())

    def stage_eighth(self, latents: Tensor) -> Tensor:
        """(N, 32, h, w) -> features (N, 128, h, w). Latents beyond +-4 are bent back."""
        bent = torch.tanh(latents / 4.0) * 4.0
        return self.block_eighth(F.relu_(self.from_latents(bent)))

    def stage_quarter(self, features: Tensor) -> Tensor:
        """(N, 128, h, w) -> (N, 64, 2h, 2w)."""
        if self.doubling is None or features.requires_grad:
            up = F.interpolate(features, scale_factor=2, mode="nearest")
            quarter = self.to_quarter(up)
        else:
            bias = self.to_quarter.bias
            quarter = F.conv_transpose2d(features, self.doubling, bias, stride=2, padding=1)
        return self.block_quarter(F.relu_(quarter))

    def stage_half(self, features: Tensor) -> Tensor:
        """(N, 64, 2h, 2w) -> (N, 32, 4h, 4w)."""
        return self.block_half(F.pixel_shuffle(F.relu_(self.to_half(features)), 2))

    def stage_image(self, features: Tensor) -> Tensor:
        """(N, 32, 4h, 4w) -> picture (N, 3, 8h, 8w)."""
        return F.pixel_shuffle(self.to_image(features), 2)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode latents (N, 32, h, w)."""
        features = self.stage_half(self.stage_quarter(self.stage_eighth(latents)))
        return self.stage_image(features)

    def sketch(self, latents: Tensor) -> Tensor:
        """Decode latents (N, 32, h, w) to nearly the same pictures of half the size.

        The last stages do little but draw finer: what is left at half the size is read off the
        features at 1/4 by one convolution (`half_readout`, training/sketch.py), for two thirds of
        the products. Without that, whole pictures are drawn and shrunk by area.

        Returns:
            (N, 3, 4h, 4w), about [-1, 1].
        """
        if self.readout is None:
            return F.avg_pool2d(self(latents), 2)
        features = self.stage_quarter(self.stage_eighth(latents))
        return F.pixel_shuffle(self.readout(features), 2)


def half_readout() -> nn.Conv2d:
    """Build what reads a picture of half the size off a decoder's features at 1/4."""
    return nn.Conv2d(DECODER_WIDTHS[1], 12, 3, padding=1)
