"""Train e4e (Tov et al., SIGGRAPH 2021) for a StyleGAN2: faces to codes that can be edited.

Progressive: at first one style vector serves all levels, then level after level gets what it adds
(section 4.1); these additions are kept small, and a discriminator of style vectors keeps the codes
near W (section 4.2). SqueezeNet's distance stands in for LPIPS, and no identity network is used.
"""

import copy
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert import images
from vidinvert.networks.discriminators import StyleDiscriminator
from vidinvert.networks.e4e import E4E, INPUT_SIZE
from vidinvert.networks.squeezenet import SqueezeFeatures, feature_distance
from vidinvert.networks.stylegan2 import Generator, sample_w_mean
from vidinvert.training.autoencoder import freeze
from vidinvert.training.data import FaceSet, generator_at, jitter, sampling_weights
from vidinvert.training.loop import channels_last, tile
from vidinvert.training.stylegan2 import shrink_faces

PERCEIVED = (128, 128)  # SqueezeNet's maps of smaller pictures have too few pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleGAN2EncoderSettings:
    """Weights of the losses, as e4e's for faces where it has them.

    Attributes:
        learning_rate: of the encoder; the discriminator's is `discriminator_rate`.
        pixel_weight: of the mean squared error of pixels.
        perceptual_weight: of the SqueezeNet distance.
        offset_weight: of the sum of the norms of what the levels add.
        code_weight: of softplus(-D(style vectors)).
        levels_by: share of the run after which every level adds its own.
        r1: weight of the discriminator's gradient penalty.
    """

    learning_rate: float = 1e-3
    discriminator_rate: float = 2e-4
    pixel_weight: float = 1.0
    perceptual_weight: float = 0.8
    offset_weight: float = 2e-4
    code_weight: float = 0.1
    levels_by: float = 0.4
    r1: float = 10.0


def trunk_widths_for(style_width: int) -> tuple[int, int, int, int]:
    """Return the channels of an encoder as wide as the codes; those published for 512."""
    return style_width // 8, style_width // 4, style_width // 2, style_width


class StyleGAN2EncoderRecipe:
    """See the module; implements `vidinvert.training.loop.Recipe`. The generator is frozen."""

    def __init__(
        self,
        faces: FaceSet,
        generator: Generator,
        perceptual: SqueezeFeatures,
        *,
        settings: StyleGAN2EncoderSettings | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings or StyleGAN2EncoderSettings()
        self._device, self._seed = torch.device(device), seed
        torch.manual_seed(seed)
        width = generator.style_width
        encoder = E4E(style_count=generator.style_count, trunk_widths=trunk_widths_for(width))
        encoder = channels_last(encoder.to(device))
        self.modules: dict[str, nn.Module] = {
            "encoder": encoder,
            "codes": StyleDiscriminator(width).to(device),
        }
        self.averaged: dict[str, nn.Module] = {"encoder": copy.deepcopy(encoder).eval()}
        rates = {"encoder": self.settings.learning_rate, "codes": self.settings.discriminator_rate}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(module.parameters(), lr=rates[name], betas=(0.5, 0.99))
            for name, module in self.modules.items()
        }
        self._generator = freeze(generator.to(device))
        self._perceptual = perceptual.to(device)
        self.w_mean = sample_w_mean(self._generator)[None]  # (1, D)
        self._rows = faces.rows("train")
        self._weights = sampling_weights(faces, self._rows)
        self._faces = faces
        validation = faces.images[faces.rows("val")[:48]]
        self._validation = shrink_faces(validation, generator.size)

    def step(self, images_seen: int, batch_size: int, share: float) -> dict[str, float]:
        """One step of the encoder on jittered faces, and one of the judge of its codes."""
        rng = generator_at(self._seed, images_seen)
        chosen = rng.choice(self._rows, batch_size, p=self._weights)
        drawn = [jitter(np.asarray(self._faces.images[n]), rng, strength=0.7) for n in chosen]
        crops = shrink_faces(np.stack(drawn), self._generator.size)
        target = images.to_float(crops).to(self._device)
        random = torch.Generator().manual_seed(int(rng.integers(2**62)))
        z = torch.randn(batch_size, self._generator.style_width, generator=random)
        with torch.no_grad():
            known = self._generator.mapping(z.to(self._device))
        encoder, judge = cast(E4E, self.modules["encoder"]), self.modules["codes"]
        codes, added = self._codes(encoder, target, share)
        picture = self._generator(codes, noise=self._generator.noise)
        judge.requires_grad_(False)
        parts = {
            "pixel": F.mse_loss(picture, target),
            "squeeze": self._distance(picture, target),
            "offsets": added.norm(dim=2).sum(dim=1).mean(),
            "fooled": F.softplus(-judge(codes)).mean(),
        }
        judge.requires_grad_(True)
        weights = self.settings
        loss = weights.pixel_weight * parts["pixel"] + weights.perceptual_weight * parts["squeeze"]
        loss = loss + weights.offset_weight * parts["offsets"]
        self._step("encoder", loss + weights.code_weight * parts["fooled"])
        losses = {name: part.item() for name, part in parts.items()}
        return losses | self._judge(known, codes.detach())

    def _codes(self, encoder: E4E, target: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Return codes (N, L, D) and what the levels in use add to the first one."""
        size = (INPUT_SIZE, INPUT_SIZE)
        offsets = encoder(
            F.interpolate(target, size=size, mode="bilinear", align_corners=False)
        ).offsets
        levels = offsets.shape[1]
        used = 1 + round((levels - 1) * min(1.0, share / self.settings.levels_by))
        in_use = (torch.arange(levels, device=offsets.device) < used)[:, None]
        added = (offsets - offsets[:, :1]) * in_use
        return self.w_mean + offsets[:, :1] + added, added

    def _distance(self, picture: Tensor, target: Tensor) -> Tensor:
        both = (picture, target)
        large = [F.interpolate(p, PERCEIVED, mode="bilinear", align_corners=False) for p in both]
        return self._perceptual.distance(*large)

    def _judge(self, known: Tensor, codes: Tensor) -> dict[str, float]:
        """One step of the discriminator: style vectors of W against those of the encoder."""
        judge = self.modules["codes"]
        known = known.requires_grad_(True)
        real, fake = judge(known), judge(codes)
        (slope,) = torch.autograd.grad(real.sum(), known, create_graph=True)
        penalty = slope.square().sum(dim=1).mean()
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        self._step("codes", loss + 0.5 * self.settings.r1 * penalty)
        return {"d_loss": loss.item(), "d_r1": penalty.item()}

    def _step(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def _inverted(self, count: int) -> tuple[Tensor, Tensor]:
        target = images.to_float(self._validation[:count]).to(self._device)
        encoder = cast(E4E, self.averaged["encoder"])
        parts = [
            self._generator(self._codes(encoder, part, 1.0)[0], noise=self._generator.noise)
            for part in target.split(8)
        ]
        return target, torch.cat(parts).clamp(-1, 1)

    def sheet(self) -> NDArray[np.uint8]:
        """Eight validation faces, and below them the generator's pictures of their codes."""
        target, picture = self._inverted(8)
        return tile([list(target), list(picture)])

    def evaluate(self) -> dict[str, float]:
        """PSNR in dB and SqueezeNet distance of inverted validation faces."""
        target, picture = self._inverted(len(self._validation))
        errors = (picture - target).square().mean(dim=(1, 2, 3))
        with torch.no_grad():
            maps = [
                self._perceptual(F.interpolate(p, PERCEIVED, mode="bilinear", align_corners=False))
                for p in (picture, target)
            ]
        return {
            "psnr": float((-10.0 * torch.log10(errors / 4.0)).mean()),
            "squeeze": float(feature_distance(*maps).mean()),
        }
