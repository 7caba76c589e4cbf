"""Learned encoders for packs of kind eigen, and the discriminator of their codes.

The closed-form encoder projects a face's latents z on the frozen bases. A learned one corrects the
latents first, codes = gain * basis(z + f(z)), so the bases are its output layer and all that it
learns, and a pack has to store, is the small network f. ReStyle (Alaluf et al., ICCV 2021) also
sees the latents y of its current render, and adds gain * basis(z - y + f(z, y)) to its codes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks.autoencoder import LATENT_CHANNELS, ResidualBlock
from vidinvert.networks.eigen import LEVEL_CELLS, EigenBasis, EigenGenerator, upsample

FINE_WIDTH, COARSE_WIDTH = 48, 80  # channels at 32 and 16 cells
PROJECTIONS = 32  # that the discriminator takes of every level's style vector
MOMENTS = 2


class LatentEncoder(nn.Module):
    """Latent maps to a correction of the same size, and a gain for every code. 0.4 GFLOP.

    At the start the correction is 0 and every gain 1: the closed-form encoder.

    Args:
        maps: how many latent maps it sees: the source's, and for ReStyle the render's.
        style_width: D, columns of a style vector.
    """

    def __init__(self, *, maps: int = 1, style_width: int = 512) -> None:
        super().__init__()
        self.maps = maps
        self.gain = nn.Parameter(torch.ones(len(LEVEL_CELLS), style_width))
        self.stem = nn.Conv2d(maps * LATENT_CHANNELS, FINE_WIDTH, 3, padding=1)
        self.fine = ResidualBlock(FINE_WIDTH)
        self.down = nn.Conv2d(FINE_WIDTH, COARSE_WIDTH, 3, stride=2, padding=1)
        self.coarse = ResidualBlock(COARSE_WIDTH)
        self.up = nn.Conv2d(COARSE_WIDTH, FINE_WIDTH, 1)
        self.merge = ResidualBlock(FINE_WIDTH)
        self.last = nn.Conv2d(FINE_WIDTH, LATENT_CHANNELS, 3, padding=1)
        with torch.no_grad():
            self.last.weight.zero_()
            if self.last.bias is not None:
                self.last.bias.zero_()

    def forward(self, *latents: Tensor) -> Tensor:
        """Correct maps (N, 32, 32, 32), as many as `maps`: (N, 32, 32, 32) float32."""
        x = torch.cat(latents, dim=1).to(self.stem.weight.dtype)
        fine = self.fine(F.relu(self.stem(x)))  # (N, 48, 32, 32)
        coarse = self.coarse(F.relu(self.down(fine)))  # (N, 80, 16, 16)
        return self.last(self.merge(F.relu(fine + upsample(self.up(coarse))))).float()


def encode(encoder: LatentEncoder, basis: EigenBasis, latents: Tensor) -> Tensor:
    """Find codes (N, 4, D) float32 of latents (N, 32, 32, 32) in one pass."""
    latents = latents.float()
    return encoder.gain.float() * basis.codes(latents + encoder(latents))


def refine(
    encoder: LatentEncoder, basis: EigenBasis, latents: Tensor, rendered: Tensor, w_plus: Tensor
) -> Tensor:
    """Take one step of ReStyle.

    Args:
        encoder: one that sees two maps.
        basis: of the generator.
        latents: (N, 32, 32, 32) of the sources.
        rendered: (N, 32, 32, 32), what the generator makes of the codes so far.
        w_plus: (N, 4, D), these codes.

    Returns:
        (N, 4, D) float32, the next codes.
    """
    latents, rendered = latents.float(), rendered.float()
    missing = latents - rendered + encoder(latents, rendered)
    return w_plus + encoder.gain.float() * basis.changes(missing)


def refine_from_average(
    encoder: LatentEncoder, generator: EigenGenerator, latents: Tensor, *, steps: int
) -> Tensor:
    """Start at the average face's codes, 0, and take `steps` steps of ReStyle."""
    w_plus = latents.new_zeros(
        len(latents), len(LEVEL_CELLS), generator.basis.style_width, dtype=torch.float32
    )
    for _ in range(steps):
        rendered = generator(w_plus).latents
        w_plus = refine(encoder, generator.basis, latents, rendered, w_plus)
    return w_plus


class CodeDiscriminator(nn.Module):
    """Judges codes (N, 4, D): one logit a code, high where it looks drawn and not inverted.

    It sees a few learned projections of every level's style vector, and the level's second and
    fourth moments: a Gaussian's are known, and inverted codes first stray in how large they get.
    """

    def __init__(self, components: tuple[int, ...], *, style_width: int = 512) -> None:
        super().__init__()
        self.components = components
        self.projections = nn.ModuleList(nn.Linear(style_width, PROJECTIONS) for _ in components)
        inputs = len(components) * (PROJECTIONS + MOMENTS)
        self.body = nn.Sequential(
            nn.Linear(inputs, 128),
            nn.LeakyReLU(0.2),
            nn.Linear(128, 64),
            nn.LeakyReLU(0.2),
            nn.Linear(64, 1),
        )

    def forward(self, w_plus: Tensor) -> Tensor:
        """Judge codes (N, 4, D): logits (N,)."""
        seen: list[Tensor] = []
        w_plus = w_plus.float()
        for level, (count, projection) in enumerate(
            zip(self.components, self.projections, strict=True)
        ):
            row = w_plus[:, level, :count]
            square = row.square().mean(dim=1, keepdim=True)
            fourth = row.pow(4).mean(dim=1, keepdim=True)
            seen += [projection(w_plus[:, level]), square - 1.0, (fourth + 1e-8).sqrt() - 3.0**0.5]
        return self.body(torch.cat(seen, dim=1)).squeeze(1)


def draw_codes(
    basis: EigenBasis, count: int, *, random: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw codes (count, 4, D) from the generator's own distribution W: Gaussian, unit variance."""
    codes = torch.zeros(count, len(basis.components), basis.style_width)
    for level, components in enumerate(basis.components):
        codes[:, level, :components] = torch.randn(count, components, generator=random)
    return codes.to(device)


def mahalanobis(basis: EigenBasis, w_plus: Tensor) -> Tensor:
    """Return the distance of codes (N, 4, D) to W's mean, per component: (N,).

    The codes are whitened principal components, so W's covariance is the identity and the distance
    is the root mean square; what W draws lies at 1.
    """
    used = [w_plus[:, level, :count] for level, count in enumerate(basis.components)]
    return torch.cat(used, dim=1).float().square().mean(dim=1).sqrt()
