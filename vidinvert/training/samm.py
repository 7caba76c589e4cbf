"""Train SAMM on a frozen pack: masks of what the generator cannot explain, and small flows.

The losses are those of the code of Yang, Xu, Chen (ICCV 2023) on the blend
A * source + (1 - A) * G: pixel, perceptual, style, and per mask its distance from 0 and 1 and its
area above the level's limit; levels may join one after the other, coarse first. Since most of the
faces carry something planted by us, two more are known exactly: the planted thing must be masked,
and the face, where nothing covers it, must not be.

Two of theirs are not here. Their GAN loss is dead: the blend is detached before the discriminator,
so nothing reaches SAMM. Their identity loss needs a recognition network that gradients pass
through, which this recipe has none of.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert import images as pictures
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.networks.eigen_samm import align_decoder, eigen_samm, source_features
from vidinvert.networks.samm import SAMM, combine_masks
from vidinvert.networks.squeezenet import SqueezeFeatures, gram_distance
from vidinvert.training.data import FaceSet, generator_at, jitter, sampling_weights
from vidinvert.training.loop import channels_last, tile
from vidinvert.training.occluders import plant


@dataclass(frozen=True, slots=True, kw_only=True)
class SammSettings:
    """Weights of the losses.

    Attributes:
        learning_rate: Adam's.
        planted_share: share of the pictures that carry a planted thing.
        pixel_weight: of the mean squared error of the blend.
        perceptual_weight: of the SqueezeNet distance of the blend, on a quarter of the batch.
        binary_weight: of mean(min(m, 1 - m)) of every mask.
        style_weight: of the distance of Gram matrices (theirs is 50 times the perceptual weight);
            `mini` was trained without.
        area_weight: of max(0, mean(m) - limit) of every mask.
        area_limits: share of the picture that may be masked for nothing: the levels' masks, coarse
            to fine, then the combined one. Theirs are 0.3, 0.3, 0.2, 0.2 and 0.2.
        levels_from: share of the run from which each level is trained, coarse to fine, the first
            at 0; `mini` was trained with all from the start.
        planted_weight: of the cross entropy on the planted thing.
        face_weight: of the cross entropy on the uncovered face.
    """

    learning_rate: float = 1e-3
    planted_share: float = 0.6
    pixel_weight: float = 2.0
    perceptual_weight: float = 0.15
    binary_weight: float = 0.1
    area_weight: float = 1.0
    area_limits: tuple[float, ...] = (0.30, 0.30, 0.30, 0.30)
    style_weight: float = 0.0
    levels_from: tuple[float, ...] = (0.0, 0.0, 0.0)
    planted_weight: float = 1.0
    face_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.levels_from[0] != 0.0 or list(self.levels_from) != sorted(self.levels_from):
            raise ValueError(
                f"levels_from is {self.levels_from}, expected shares that start at 0 and never "
                "fall; give the coarsest level first"
            )

    def levels_at(self, share: float) -> int:
        """Return how many levels, coarse first, are trained when `share` of the run is done."""
        return sum(share >= start for start in self.levels_from)


def face_prior(size: int) -> Tensor:
    """(1, 1, size, size) in [0, 1]: 1 on the inner face of an FFHQ crop: brows to chin."""
    axis = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius = torch.sqrt(((x - 0.5) / 0.25) ** 2 + ((y - 0.58) / 0.31) ** 2)
    return ((1.15 - radius) / 0.3).clamp(0, 1)[None, None]


class SammRecipe:
    """See the module; implements `vidinvert.training.loop.Recipe`."""

    def __init__(
        self,
        faces: FaceSet,
        encoder: FaceEncoder,
        decoder: FaceDecoder,
        generator: EigenGenerator,
        perceptual: SqueezeFeatures,
        *,
        start: Mapping[str, Tensor] | None = None,
        settings: SammSettings | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings or SammSettings()
        self._device = torch.device(device)
        torch.manual_seed(seed)
        size = faces.images.shape[1]
        samm = channels_last(eigen_samm(crop_size=size).to(device))
        if start is not None:  # the weights of another run, to go on with
            samm.load_state_dict(start)
        self.modules: dict[str, nn.Module] = {"samm": samm}
        self.averaged: dict[str, nn.Module] = {"samm": copy.deepcopy(samm)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "samm": torch.optim.Adam(samm.parameters(), self.settings.learning_rate, (0.5, 0.99))
        }
        self._faces, self._seed = faces, seed
        self._encoder, self._decoder = encoder.to(device), decoder.to(device)
        self._generator, self._perceptual = generator.to(device), perceptual.to(device)
        self._rows = faces.rows("train")
        self._weights = sampling_weights(faces, self._rows)
        self._validation = faces.rows("val")
        self._face = face_prior(size).to(device)

    def step(self, images_seen: int, batch_size: int, share: float) -> dict[str, float]:
        """One step on jittered faces, some with a planted thing before them."""
        settings = self.settings
        rng = generator_at(self._seed, images_seen)
        chosen = rng.choice(self._rows, batch_size, p=self._weights)
        planted = rng.random(batch_size) < settings.planted_share
        crops, truth = self._draw(chosen, planted, rng)
        samm = cast(SAMM, self.modules["samm"])
        image, masks = self._forward(samm, crops, levels=settings.levels_at(share))
        loss, losses = weigh_masks(
            settings,
            self._perceptual,
            source=crops,
            image=image,
            masks=masks,
            planted=truth,
            face=self._face,
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
        images, truth = draw_planted(self._faces, rows, planted, rng)
        return (
            pictures.to_float(images, device=self._device),
            torch.from_numpy(truth).to(self._device),
        )

    def _forward(
        self, samm: SAMM, crops: Tensor, *, levels: int | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the aligned inversion, and the levels' masks with the combined one last."""
        with torch.no_grad():
            encoded = self._encoder(crops)
            inverted = self._generator(self._generator.basis.codes(encoded.latents)).latents
        features = source_features(encoded, crops)
        aligned = align_decoder(self._decoder, samm, inverted, features, levels=levels)
        image = self._decoder.stage_image(aligned.features)
        combined = combine_masks(aligned.fields, size=crops.shape[-1])
        return image, [*(field.ood for field in aligned.fields), combined]

    @torch.inference_mode()
    def _planted_validation(self, count: int) -> tuple[Tensor, Tensor]:
        rows = self._validation[:: max(1, len(self._validation) // count)][:count]
        return self._draw(rows, np.arange(len(rows)) % 2 == 1, generator_at(self._seed, 1 << 40))

    @torch.inference_mode()
    def sheet(self) -> NDArray[np.uint8]:
        """Eight validation faces, every second one covered: source, inversion, mask, blend."""
        crops, _ = self._planted_validation(8)
        image, masks = self._forward(cast(SAMM, self.averaged["samm"]), crops)
        shown = masks[-1].expand(-1, 3, -1, -1) * 2.0 - 1.0
        blend = pictures.composite(source=crops, generated=image, ood=masks[-1])
        return tile([list(crops), list(image), list(shown), list(blend)])

    @torch.inference_mode()
    def evaluate(self, *, count: int = 48) -> dict[str, float]:
        """Mean mask, PSNR of the blend, and IoU at 0.5 with the planted truth inside the face."""
        crops, truth = self._planted_validation(count)
        masks, blends = [], []
        for start in range(0, len(crops), 8):
            part = crops[start : start + 8]
            image, levels = self._forward(cast(SAMM, self.averaged["samm"]), part)
            masks.append(levels[-1])
            blends.append(pictures.composite(source=part, generated=image, ood=levels[-1]))
        ood, blend = torch.cat(masks), torch.cat(blends).clamp(-1, 1)
        return measure_masks(ood, blend, source=crops, planted=truth, face=self._face)


def draw_planted(
    faces: FaceSet, rows: NDArray[np.int64], planted: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw jittered faces, some with a thing planted before them.

    Returns:
        Pictures uint8 (N, R, R, 3), and where things were planted, (N, 1, R, R) in [0, 1].
    """
    size = faces.images.shape[1]
    images = np.empty((len(rows), size, size, 3), np.uint8)
    truth = np.zeros((len(rows), 1, size, size), np.float32)
    for n, row in enumerate(rows):
        images[n] = jitter(np.asarray(faces.images[row]), rng, strength=0.7)
        if planted[n]:
            images[n], truth[n, 0] = plant(images[n], rng)
    return images, truth


def weigh_masks(
    settings: SammSettings,
    perceptual: SqueezeFeatures,
    *,
    source: Tensor,
    image: Tensor,
    masks: Sequence[Tensor],
    planted: Tensor,
    face: Tensor,
    looked_at: int | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch, and its parts by name.

    Args:
        settings: the weights.
        perceptual: SqueezeNet.
        source: (N, 3, R, R) in [-1, 1].
        image: the aligned inversion of it.
        masks: the levels' (N, 1, r, r), coarse to fine, and last the combined one of R pixels.
        planted: (N, 1, R, R), where something was planted.
        face: (1, 1, R, R), the inner face.
        looked_at: side to which SqueezeNet's pictures are enlarged; None = as they are.
    """
    ood = masks[-1]
    blend = ood * source + (1.0 - ood) * image
    pixel = F.mse_loss(blend, source)
    quarter = max(1, len(source) // 4)
    seen = torch.stack([blend[:quarter], source[:quarter]])
    if looked_at is not None:
        size = (looked_at, looked_at)
        seen = F.interpolate(seen.flatten(0, 1), size, mode="bilinear", align_corners=False)
        seen = seen.unflatten(0, (2, quarter))
    distance = perceptual.distance(seen[0], seen[1])
    style = source.new_zeros(())
    if settings.style_weight > 0.0:
        style = gram_distance(perceptual(seen[0]), perceptual(seen[1])).mean()
    zero = source.new_zeros(())
    binary = sum((torch.minimum(m, 1.0 - m).mean() for m in masks), zero)
    limits = [*settings.area_limits[: len(masks) - 1], settings.area_limits[-1]]
    over = (F.relu(m.mean() - limit) for m, limit in zip(masks, limits, strict=True))
    logits = torch.logit(ood.clamp(1e-4, 1.0 - 1e-4))
    hit = _weighted_entropy(logits, torch.ones_like(ood), planted)
    spared = _weighted_entropy(logits, torch.zeros_like(ood), face * (1.0 - planted))
    loss = (
        settings.pixel_weight * pixel
        + settings.perceptual_weight * distance
        + settings.style_weight * style
        + settings.binary_weight * binary
        + settings.area_weight * sum(over, zero)
        + settings.planted_weight * hit
        + settings.face_weight * spared
    )
    return loss, {
        "loss": loss.item(),
        "pixel": pixel.item(),
        "squeeze": distance.item(),
        "style": style.item(),
        "binary": float(binary.detach()),
        "mean_ood": ood.mean().item(),
        "planted": hit.item(),
        "face": spared.item(),
    }


def measure_masks(
    ood: Tensor, blend: Tensor, *, source: Tensor, planted: Tensor, face: Tensor
) -> dict[str, float]:
    """Return the mean mask, the blend's PSNR in dB, and the IoU at 0.5 with what was planted.

    Args:
        ood: masks (N, 1, R, R).
        blend: pictures (N, 3, R, R) in [-1, 1].
        source: what they are to be.
        planted: the truth, (N, 1, R, R).
        face: (1, 1, R, R): the mask and what was planted are compared inside.
    """
    errors = (blend - source).square().mean(dim=(1, 2, 3))
    inside = face > 0.5
    found, there = (ood > 0.5) & inside, (planted > 0.5) & inside
    covered = there.flatten(1).any(dim=1)
    union = (found | there)[covered].sum()
    overlap = (found & there)[covered].sum()
    kept = (ood * inside)[~covered]
    return {
        "mean_ood": float(ood.mean()),
        "mean_ood_face": float(kept.sum() / inside.sum() / max(1, len(kept))),
        "psnr": float((-10.0 * torch.log10(errors / 4.0)).mean()),
        "planted_iou": float(overlap / union.clamp_min(1)),
    }


def _weighted_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy averaged over where the weight is; 0 where it is nowhere."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (entropy * weight).sum() / weight.sum().clamp_min(1.0)
