"""Train the deghosting network on a frozen pack: from two pictures in one, the stronger one.

As in Song et al. (ECCV 2022): a real picture is edited, and both versions are blended so that they
show through each other, M' * edited + (1 - M') * real with M' = M where Diff-CAM's map M is at most
a half, and 1 - M elsewhere. The real picture is then always the stronger one, and the target. What
is learnt is to keep the stronger of two pictures; where the map is above a half that is the edit.

The losses are theirs, pixel, perceptual and adversarial, with these differences. The pixel loss is
the mean absolute error where a ghost can be: squared, faint ghosts would not count. SqueezeNet
stands in for VGG16. The discriminator judges the pack's own latents of the pictures.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert import images as pictures
from vidinvert.networks.autoencoder import STRIDE
from vidinvert.networks.diffcam import DiffCam, normalise_map
from vidinvert.networks.eigen import LatentDiscriminator
from vidinvert.networks.eigen_deghost import Bank, Deghoster, correctable, fuse, recall, redraw
from vidinvert.networks.squeezenet import SqueezeFeatures
from vidinvert.training.data import FaceSet, generator_at, sampling_weights
from vidinvert.training.diffcam import draw_crops, draw_edits
from vidinvert.training.loop import channels_last, tile


@dataclass(frozen=True, slots=True, kw_only=True)
class DeghostSettings:
    """Weights of the losses, and what ghosts are made of.

    Attributes:
        learning_rate: Adam's, of the network; the discriminator's is a third of it.
        weakest: smallest strength of an edit: half of a faint one is a face as good as any, and
            tells nothing. Theirs is about 4 of our units.
        strongest: largest.
        generated_share: share of the ghosts whose edited picture is the generator's own, as
            published; the others are the source redrawn, as it is shown.
        even_share: share of the ghosts whose M' is the same everywhere, between 0.1 and 0.5.
        pixel_weight: of the mean absolute error where a ghost can be.
        perceptual_weight: of the SqueezeNet distance, on a quarter of the batch.
        adversarial_weight: of the discriminator's judgement; 0 leaves it out.
        adversarial_from: share of the run from which the discriminator learns and is listened to.
        cells: side of the window, in latent cells, on which the network is trained: about the
            picture's middle, where the face is; the bank sees the whole picture.
    """

    learning_rate: float = 1.5e-3
    weakest: float = 2.0
    strongest: float = 5.0
    generated_share: float = 0.5
    even_share: float = 0.5
    pixel_weight: float = 4.0
    perceptual_weight: float = 0.15
    adversarial_weight: float = 1e-2
    adversarial_from: float = 0.5
    cells: int = 20


class DeghostRecipe:
    """See the module; implements `vidinvert.training.loop.Recipe`.

    Args:
        faces: real faces.
        bank: the pack's networks; frozen.
        diffcam: the trained Diff-CAM; frozen.
        directions: vectors (L, D) by name, in the order of Diff-CAM's classes.
        perceptual: SqueezeNet.
        settings: None = the defaults.
        seed: of everything random.
        device: where it is trained.
    """

    def __init__(
        self,
        faces: FaceSet,
        bank: Bank,
        diffcam: DiffCam,
        directions: Mapping[str, Tensor],
        perceptual: SqueezeFeatures,
        *,
        settings: DeghostSettings | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings or DeghostSettings()
        self._device = torch.device(device)
        torch.manual_seed(seed)
        network = channels_last(Deghoster().to(device))
        judge = channels_last(LatentDiscriminator().to(device))
        rate = self.settings.learning_rate
        self.modules: dict[str, nn.Module] = {"deghost": network, "discriminator": judge}
        self.averaged: dict[str, nn.Module] = {"deghost": copy.deepcopy(network)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "deghost": torch.optim.Adam(network.parameters(), rate, (0.9, 0.99)),
            "discriminator": torch.optim.Adam(judge.parameters(), rate / 3, (0.0, 0.99)),
        }
        self._faces, self._seed = faces, seed
        self._bank = bank.to(device)
        self._diffcam, self._perceptual = diffcam.to(device), perceptual.to(device)
        self._directions = torch.stack(list(directions.values())).to(device)  # (K, L, D)
        self._rows = faces.rows("train")
        self._weights = sampling_weights(faces, self._rows)
        self._validation = faces.rows("val")

    def step(self, images_seen: int, batch_size: int, share: float) -> dict[str, float]:
        """One step of the network and, once it has started, one of the discriminator."""
        settings = self.settings
        rng = generator_at(self._seed, images_seen)
        rows = rng.choice(self._rows, batch_size, p=self._weights)
        real = draw_crops(self._faces, rows, rng).to(self._device)
        real = real.contiguous(memory_format=torch.channels_last)
        ghosted, where = self._ghost(real, rng)
        with torch.no_grad():
            recalled = recall(ghosted, self._bank)
        network = cast(Deghoster, self.modules["deghost"])
        room = real.shape[-1] // STRIDE - settings.cells
        top, left = (int(v) for v in rng.integers(room // 3, room + 1, 2))
        part = recalled.window(top, left, settings.cells)
        inside = np.s_[
            :,
            :,
            STRIDE * top : STRIDE * (top + settings.cells),
            STRIDE * left : STRIDE * (left + settings.cells),
        ]
        weight, target = where[inside], real[inside]
        correction = network.correct(part, self._bank.decoder).float()
        output = ghosted[inside] + weight * correction
        pixel = _mean_where(weight, (output - target).abs())
        quarter = max(1, batch_size // 4)
        perceptual = self._perceptual.distance(output[:quarter], target[:quarter])
        loss = settings.pixel_weight * pixel + settings.perceptual_weight * perceptual
        losses = {"pixel": pixel.item(), "squeeze": perceptual.item()}
        losses["ghosts"] = _mean_where(weight, (ghosted[inside] - target).abs()).item()
        heard = settings.adversarial_weight > 0 and share >= settings.adversarial_from
        whole = real[:quarter].clone()
        if heard:
            whole[inside] = output[:quarter]
            logits, patches = self._judge(whole)
            fooled = F.softplus(-logits).mean() + 0.5 * F.softplus(-patches).mean()
            loss = loss + settings.adversarial_weight * fooled
            losses["fooled"] = fooled.item()
        optimizer = self.optimizers["deghost"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if heard:
            losses["discriminator"] = self._discriminate(real[:quarter], whole.detach())
        return losses

    @torch.no_grad()
    def _ghost(self, real: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return real pictures with an edit showing through, and where that can be."""
        settings, count = self.settings, len(real)
        chosen, sizes = draw_edits(
            count,
            len(self._directions),
            rng,
            weakest=settings.weakest,
            strongest=settings.strongest,
        )
        edited, cam = self._edit(real, chosen, sizes, generated=rng.random(count))
        folded = torch.where(cam <= 0.5, cam, 1.0 - cam)
        even = rng.random(count) < settings.even_share
        level = rng.uniform(0.1, 0.5, count).astype(np.float32)
        flat = torch.from_numpy(level).to(self._device)[:, None, None, None]
        is_even = torch.from_numpy(even).to(self._device)[:, None, None, None]
        folded = torch.where(is_even, flat.expand_as(folded), folded)
        return fuse(real, edited, folded), correctable(real, edited)

    def _edit(
        self,
        real: Tensor,
        chosen: NDArray[np.int64],
        sizes: NDArray[np.float32],
        *,
        generated: NDArray[np.float64],
    ) -> tuple[Tensor, Tensor]:
        """Return edited pictures and Diff-CAM's maps (N, 1, R, R) of the edits."""
        encoder, generator, decoder = self._bank
        own = encoder(real).latents
        codes = generator.basis.codes(own)
        which = torch.from_numpy(chosen).to(self._device)
        moves = torch.from_numpy(sizes).to(self._device)[:, None, None]
        moved = codes + moves * self._directions[which]
        before, after = generator(torch.cat([codes, moved])).latents.chunk(2)
        plain = torch.from_numpy(generated < self.settings.generated_share).to(self._device)
        edited = real.clone()
        if plain.any():
            edited[plain] = decoder(after[plain]).float().clamp(-1.0, 1.0)
        if not plain.all():
            change = (after - before)[~plain]
            edited[~plain] = redraw(real[~plain], own[~plain], change, decoder)
        maps = normalise_map(self._diffcam.maps(self._diffcam.activations(before, after)))
        cam = maps[torch.arange(len(real), device=self._device), which][:, None]
        size = (real.shape[2], real.shape[3])
        return edited, F.interpolate(cam, size=size, mode="bilinear", align_corners=False)

    def _judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        latents = self._bank.encoder(images).latents
        return cast(LatentDiscriminator, self.modules["discriminator"])(latents)

    def _discriminate(self, real: Tensor, output: Tensor) -> float:
        """Teach the discriminator real latents from those of cleaned pictures."""
        optimizer = self.optimizers["discriminator"]
        optimizer.zero_grad(set_to_none=True)
        true_logits, true_patches = self._judge(real)
        made_logits, made_patches = self._judge(output)
        loss = F.softplus(-true_logits).mean() + F.softplus(made_logits).mean()
        loss = loss + 0.5 * (F.softplus(-true_patches).mean() + F.softplus(made_patches).mean())
        loss.backward()
        optimizer.step()
        return loss.item()

    @torch.inference_mode()
    def _validate(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return validation faces, their ghosts, where those can be, and what is made of them."""
        rows = self._validation[:: max(1, len(self._validation) // count)][:count]
        network = cast(Deghoster, self.averaged["deghost"])
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for start in range(0, len(rows), 8):
            real = pictures.to_float(self._faces.images[rows[start : start + 8]])
            real = real.to(self._device)
            ghosted, where = self._ghost(real, generator_at(self._seed, (1 << 40) + start))
            output = ghosted + where * network(ghosted, self._bank).float()
            parts.append((real, ghosted, where, output.clamp(-1.0, 1.0)))
        real, ghosted, where, output = (torch.cat(column) for column in zip(*parts, strict=True))
        return real, ghosted, where, output

    def sheet(self) -> NDArray[np.uint8]:
        """Eight validation faces: real, with a ghost, where a ghost can be, cleaned."""
        real, ghosted, where, output = self._validate(8)
        shown = where.expand(-1, 3, -1, -1) * 2.0 - 1.0
        return tile([list(real), list(ghosted), list(shown), list(output)])

    def evaluate(self, *, count: int = 24) -> dict[str, float]:
        """PSNR in dB of ghosts and of what is made of them, where a ghost can be."""
        real, ghosted, where, output = self._validate(count)

        def ratio(images: Tensor) -> float:
            error = (images - real).square().mean(dim=1, keepdim=True) * where
            mean = error.sum(dim=(1, 2, 3)) / where.sum(dim=(1, 2, 3)).clamp_min(1.0)
            return float((-10.0 * torch.log10(mean.clamp_min(1e-9) / 4.0)).mean())

        return {"psnr_ghosts": ratio(ghosted), "psnr": ratio(output)}


def _mean_where(weight: Tensor, error: Tensor) -> Tensor:
    """Average an error (N, 3, H, W) with a weight (N, 1, H, W); 0 where that is nowhere."""
    return (weight * error).sum() / (3.0 * weight.sum()).clamp_min(1.0)
