"""The tiny autoencoder TAEF2, used only as a teacher while our own autoencoder is trained.

A plain stack of residual blocks of 64 channels: 3 stride-2 stages down to 32 latent channels at
1/8 of the image's size, and nearest-neighbour up-sampling back. Weights are the user's file (MIT,
O. Boer Bohan); nothing of them is shipped.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 64
LATENT_CHANNELS = 32


class _Block(nn.Module):
    """Three convolutions with a skip; `pooled` blocks first mix global statistics (group norm)."""

    def __init__(self, *, pooled: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        )
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False),
                nn.GroupNorm(4, 4 * WIDTH),
                nn.ReLU(),
                nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False),
            )
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:  # (N, 64, H, W) -> (N, 64, H, W)
        if self.pooled:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


class _Limit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def taef_encoder() -> nn.Sequential:
    """Build the teacher's encoder: (N, 3, H, W) RGB in [0, 1] -> (N, 32, H/8, W/8)."""
    layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, padding=1), _Block(pooled=False)]
    for stage in range(3):
        layers.append(nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False))
        layers.extend(_Block(pooled=stage == 2) for _ in range(3))
    layers.append(nn.Conv2d(WIDTH, LATENT_CHANNELS, 3, padding=1))
    return nn.Sequential(*layers)


def taef_decoder() -> nn.Sequential:
    """Build the teacher's decoder: (N, 32, h, w) -> (N, 3, 8h, 8w) RGB, about [0, 1]."""
    layers: list[nn.Module] = [_Limit(), nn.Conv2d(LATENT_CHANNELS, WIDTH, 3, padding=1), nn.ReLU()]
    for stage in range(3):
        layers.extend(_Block(pooled=stage == 0) for _ in range(3))
        layers.append(nn.Upsample(scale_factor=2))
        layers.append(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False))
    layers.extend([_Block(pooled=False), nn.Conv2d(WIDTH, 3, 3, padding=1)])
    return nn.Sequential(*layers)
