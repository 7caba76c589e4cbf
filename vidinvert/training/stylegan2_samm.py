"""Train SAMM for a StyleGAN2 with its e4e, both frozen; the losses are those of training/samm.py.

The corrected sampling grid is trained (`align_corners`): a flow of zero leaves features where they
are. Packs record it, since the published weights need the other one. The areas that may be masked
are the published code's, which has a level at 32, 64, 128 and 256 px each; a smaller generator has
the first of these. All levels are trained from the start.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert import images as pictures
from vidinvert.networks.e4e import E4E, INPUT_SIZE
from vidinvert.networks.samm import SAMM, combine_masks, synthesise_aligned, tapped_levels
from vidinvert.networks.squeezenet import SqueezeFeatures
from vidinvert.networks.stylegan2 import Generator
from vidinvert.training.autoencoder import freeze
from vidinvert.training.data import FaceSet, generator_at, sampling_weights
from vidinvert.training.loop import channels_last, tile
from vidinvert.training.samm import (
    SammSettings,
    draw_planted,
    face_prior,
    measure_masks,
    weigh_masks,
)
from vidinvert.training.stylegan2 import shrink_faces

LOOKED_AT = 128  # SqueezeNet's maps of smaller pictures have too few pixels
SETTINGS = SammSettings(area_limits=(0.3, 0.3, 0.2, 0.2, 0.2))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inverted:
    """A StyleGAN2 and its e4e: `channels` of the generator by resolution, `w_mean` (1, D)."""

    generator: Generator
    encoder: E4E
    w_mean: Tensor
    channels: Mapping[int, int]
    trunk_widths: tuple[int, ...]


class StyleGAN2SammRecipe:
    """See the module; implements `vidinvert.training.loop.Recipe`.

    Args:
        faces: real faces.
        networks: what inverts them; frozen.
        perceptual: SqueezeNet.
        settings: None = the module's.
        seed: of everything random.
        device: where it is trained.
    """

    def __init__(
        self,
        faces: FaceSet,
        networks: Inverted,
        perceptual: SqueezeFeatures,
        *,
        settings: SammSettings | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings or SETTINGS
        self._device, self._seed = torch.device(device), seed
        torch.manual_seed(seed)
        size = networks.generator.size
        levels = tapped_levels(networks.channels, networks.trunk_widths, size=size)
        samm = channels_last(SAMM(levels, align_corners=True).to(device))
        self.modules: dict[str, nn.Module] = {"samm": samm}
        self.averaged: dict[str, nn.Module] = {"samm": copy.deepcopy(samm)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "samm": torch.optim.Adam(samm.parameters(), self.settings.learning_rate, (0.5, 0.99))
        }
        self._faces = faces
        self._generator = cast(Generator, freeze(networks.generator.to(device)))
        self._encoder = cast(E4E, freeze(networks.encoder.to(device)))
        self._w_mean, self._perceptual = networks.w_mean.to(device), perceptual.to(device)
        self._rows = faces.rows("train")
        self._weights = sampling_weights(faces, self._rows)
        self._face = face_prior(size).to(device)

    def step(self, images_seen: int, batch_size: int, share: float) -> dict[str, float]:
        """One step on jittered faces, some with a planted thing before them."""
        rng = generator_at(self._seed, images_seen)
        rows = rng.choice(self._rows, batch_size, p=self._weights)
        crops, truth = self._draw(rows, rng.random(batch_size) < self.settings.planted_share, rng)
        samm = cast(SAMM, self.modules["samm"])
        image, masks = self._invert(samm, crops)
        loss, losses = weigh_masks(
            self.settings,
            self._perceptual,
            source=crops,
            image=image,
            masks=masks,
            planted=truth,
            face=self._face,
            looked_at=LOOKED_AT if crops.shape[-1] < LOOKED_AT else None,
        )
        optimizer = self.optimizers["samm"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(samm.parameters(), 2.0)
        optimizer.step()
        return losses

    def _draw(
        self, rows: NDArray[np.int64], planted: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return crops (N, 3, R, R) of the generator's size, and what was planted (N, 1, R, R)."""
        drawn, truth = draw_planted(self._faces, rows, planted, rng)
        size = self._generator.size
        small = [cv2.resize(t[0], (size, size), interpolation=cv2.INTER_AREA) for t in truth]
        return (
            pictures.to_float(shrink_faces(drawn, size), device=self._device),
            torch.from_numpy(np.stack(small)[:, None]).to(self._device),
        )

    def _invert(self, samm: SAMM, crops: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the aligned inversion, and the levels' masks with the combined one last."""
        size = (INPUT_SIZE, INPUT_SIZE)
        with torch.no_grad():
            large = F.interpolate(crops, size=size, mode="bilinear", align_corners=False)
            found = self._encoder(large)
        aligned = synthesise_aligned(
            self._generator,
            samm,
            self._w_mean + found.offsets,
            found.taps,
            noise=self._generator.noise,
        )
        combined = combine_masks(aligned.fields, size=crops.shape[-1])
        return aligned.image, [*(field.ood for field in aligned.fields), combined]

    @torch.inference_mode()
    def _validate(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return validation faces, every second one covered, by what, inversions and masks."""
        rows = self._faces.rows("val")
        rows = rows[:: max(1, len(rows) // count)][:count]
        rng = generator_at(self._seed, 1 << 40)
        crops, truth = self._draw(rows, np.arange(len(rows)) % 2 == 1, rng)
        samm = cast(SAMM, self.averaged["samm"])
        parts = [self._invert(samm, part) for part in crops.split(8)]
        image, ood = (torch.cat(list(p)) for p in zip(*((i, m[-1]) for i, m in parts), strict=True))
        return crops, truth, image, ood

    def sheet(self) -> NDArray[np.uint8]:
        """Eight validation faces, every second one covered: source, inversion, mask, blend."""
        crops, _, image, ood = self._validate(8)
        blend = pictures.composite(source=crops, generated=image, ood=ood)
        shown = ood.expand(-1, 3, -1, -1) * 2.0 - 1.0
        return tile([list(crops), list(image), list(shown), list(blend)])

    def evaluate(self, *, count: int = 48) -> dict[str, float]:
        """Mean mask, PSNR of the blend, and IoU at 0.5 with the planted truth inside the face."""
        crops, truth, image, ood = self._validate(count)
        blend = pictures.composite(source=crops, generated=image, ood=ood).clamp(-1, 1)
        return measure_masks(ood, blend, source=crops, planted=truth, face=self._face)
