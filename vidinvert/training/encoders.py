"""Train the learned encoders of a pack of kind eigen: e4e, ReStyle, In-Domain, Force-in-domain.

All four share one network (networks/eigen_encoder.py) and one recipe; what sets them apart is in
`ENCODERS`. Generator and autoencoder are frozen. Pictures stand for themselves as latents of the
frozen autoencoder wherever a method only has to compare or to judge them: that takes a tenth of the
time, and its round trip (34.4 dB) is what no inversion can exceed anyway.

* e4e (Tov et al., 2021) keeps codes close to W. In StyleGAN all layers are fed the same w in W, and
  e4e predicts one w and keeps the layers' offsets from it small. An eigen code has no such
  diagonal: each level's style vector belongs to its own band. The coarsest level (pose, outline,
  light) plays the part of w, and the finer levels are offsets from the average face's detail, which
  is 0 in whitened codes: they join one after the other, coarse first, and their norms are
  regularised. A discriminator holds the codes to W as theirs does.
* ReStyle (Alaluf et al., 2021) starts at the average face and takes five steps, each trained by
  itself on what the steps before it left.
* In-Domain (Zhu et al., 2020) adds a discriminator of the rendered picture. It is trained from
  nothing on latents; theirs goes on from their generator's, which packs do not carry.
* Force-in-domain (Leng, Zhu and Xu, 2021) is known by its abstract alone, and this is a
  reconstruction of it: In-Domain, a discriminator on codes, and the cycle W -> X -> W.

e4e's identity loss and its pool of 50 earlier codes for the discriminator are left out: there is no
recognition network that gradients pass through, and what a step draws shall not depend on earlier
steps (training/loop.py).
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
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenGenerator, LatentDiscriminator
from vidinvert.networks.eigen_encoder import (
    CodeDiscriminator,
    LatentEncoder,
    draw_codes,
    encode,
    mahalanobis,
    refine,
    refine_from_average,
)
from vidinvert.networks.squeezenet import SqueezeFeatures
from vidinvert.training.data import FaceSet, generator_at, jitter, sampling_weights
from vidinvert.training.loop import channels_last, tile

WINDOW_CELLS = 16  # side of the decoded windows, in latent cells
R1_EVERY = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings:
    """How an encoder is trained; a weight of 0 leaves a loss out.

    Attributes:
        learning_rate: Adam's, of the encoder; the discriminators' is `discriminator_rate`.
        steps: 0 = one pass; from 1 on, steps of ReStyle from the average face.
        latent_weight: of the mean squared error of the latents.
        pixel_weight: of the mean squared error of decoded windows.
        perceptual_weight: of the SqueezeNet distance of these windows.
        pixel_share: share of a batch that is decoded.
        offset_weight: of the sum of the finer levels' norms (e4e's 2e-4).
        levels_from: share of the run from which each level's codes are used, coarse first.
        code_weight: of softplus(-D_w(codes)) (e4e's 0.1).
        image_weight: of softplus(-D_x(rendered)) (idinvert's 0.08).
        cycle_weight: of the mean squared error of w -> G(w) -> E(G(w)), w drawn.
        r1: weight of the gradient penalty, every eighth step.
    """

    learning_rate: float = 2e-3
    discriminator_rate: float = 1e-3
    steps: int = 0
    latent_weight: float = 1.0
    pixel_weight: float = 4.0
    perceptual_weight: float = 0.1
    pixel_share: float = 0.25
    offset_weight: float = 0.0
    levels_from: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    code_weight: float = 0.0
    image_weight: float = 0.0
    cycle_weight: float = 0.0
    r1: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}, expected 0 (one pass) or more")
        if self.levels_from[0] != 0.0 or list(self.levels_from) != sorted(self.levels_from):
            raise ValueError(
                f"levels_from is {self.levels_from}, expected shares that start at 0 and never "
                "fall; give the coarsest level first"
            )


ENCODERS: Mapping[str, EncoderSettings] = {
    "e4e": EncoderSettings(
        offset_weight=2e-3, levels_from=(0.0, 0.05, 0.1, 0.15), code_weight=0.05
    ),
    "restyle": EncoderSettings(steps=5),
    "indomain": EncoderSettings(image_weight=0.03),
    "force-indomain": EncoderSettings(image_weight=0.03, code_weight=0.05, cycle_weight=0.2),
}


class EncoderRecipe:
    """See the module; implements `vidinvert.training.loop.Recipe`."""

    def __init__(
        self,
        faces: FaceSet,
        encoder: FaceEncoder,
        decoder: FaceDecoder,
        generator: EigenGenerator,
        perceptual: SqueezeFeatures,
        *,
        settings: EncoderSettings,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings
        self._device = torch.device(device)
        torch.manual_seed(seed)
        basis = generator.basis
        learned = channels_last(
            LatentEncoder(maps=2 if settings.steps else 1, style_width=basis.style_width)
        ).to(device)
        self.modules: dict[str, nn.Module] = {"encoder": learned}
        self.averaged: dict[str, nn.Module] = {"encoder": copy.deepcopy(learned)}
        if settings.code_weight > 0:
            judge = CodeDiscriminator(basis.components, style_width=basis.style_width)
            self.modules["codes"] = judge.to(device)
        if settings.image_weight > 0:
            self.modules["images"] = channels_last(LatentDiscriminator().to(device))
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(
                module.parameters(),
                settings.learning_rate if name == "encoder" else settings.discriminator_rate,
                (0.5, 0.99) if name == "encoder" else (0.0, 0.99),
            )
            for name, module in self.modules.items()
        }
        self._faces, self._seed = faces, seed
        self._encoder, self._decoder = encoder.to(device), decoder.to(device)
        self._generator, self._perceptual = generator.to(device), perceptual.to(device)
        self._rows = faces.rows("train")
        self._weights = sampling_weights(faces, self._rows)
        self._validation = faces.rows("val")

    def step(self, images_seen: int, batch_size: int, share: float) -> dict[str, float]:
        """One step of the encoder on jittered faces, then one of its discriminators."""
        rng = generator_at(self._seed, images_seen)
        chosen = rng.choice(self._rows, batch_size, p=self._weights)
        faces = [jitter(np.asarray(self._faces.images[n]), rng, strength=0.7) for n in chosen]
        crops = pictures.to_float(np.stack(faces), device=self._device)
        with torch.no_grad():
            latents = self._encoder(crops).latents.float()
        random = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        drawn = draw_codes(self._generator.basis, batch_size, random=random, device=self._device)
        losses: dict[str, float] = {}
        self.optimizers["encoder"].zero_grad(set_to_none=True)
        if self.settings.steps:
            codes, rendered = self._refined(latents, rng, losses)
        else:
            codes, rendered = self._encoded(latents, drawn, share, rng, losses)
        encoder = self.modules["encoder"]
        losses["gradient"] = float(nn.utils.clip_grad_norm_(encoder.parameters(), 1.0))
        self.optimizers["encoder"].step()
        losses["mahalanobis"] = float(mahalanobis(self._generator.basis, codes).mean())
        penalised = (images_seen // batch_size) % R1_EVERY == 0
        for name, real, fake in (("codes", drawn, codes), ("images", latents, rendered)):
            if name in self.modules:
                self._discriminate(name, real, fake, penalised, losses)
        return losses

    def _encoded(
        self,
        latents: Tensor,
        drawn: Tensor,
        share: float,
        rng: np.random.Generator,
        losses: dict[str, float],
    ) -> tuple[Tensor, Tensor]:
        """Backpropagate through one pass; return its codes and what they render, detached."""
        settings, encoder = self.settings, cast(LatentEncoder, self.modules["encoder"])
        basis = self._generator.basis
        joined = [float(share >= start) for start in settings.levels_from]
        codes = encode(encoder, basis, latents) * latents.new_tensor(joined)[:, None]
        rendered = self._generator(codes).latents
        loss = self._reconstruction(rendered, latents, rng, losses)
        if settings.offset_weight > 0:
            offsets = (codes[:, 1:].square().sum(dim=2) + 1e-8).sqrt().sum(dim=1).mean()
            losses["offsets"] = offsets.item()
            loss = loss + settings.offset_weight * offsets
        if settings.code_weight > 0:
            fooled = F.softplus(-self.modules["codes"](codes)).mean()
            losses["codes_fooled"] = fooled.item()
            loss = loss + settings.code_weight * fooled
        if settings.image_weight > 0:
            logits, patches = self.modules["images"](rendered)
            fooled = F.softplus(-logits).mean() + 0.5 * F.softplus(-patches).mean()
            losses["images_fooled"] = fooled.item()
            loss = loss + settings.image_weight * fooled
        if settings.cycle_weight > 0:
            with torch.no_grad():
                made = self._generator(drawn).latents
            missed = F.mse_loss(encode(encoder, basis, made), drawn)
            losses["cycle"] = missed.item()
            loss = loss + settings.cycle_weight * missed
        loss.backward()
        return codes.detach(), rendered.detach()

    def _refined(
        self, latents: Tensor, rng: np.random.Generator, losses: dict[str, float]
    ) -> tuple[Tensor, Tensor]:
        """Backpropagate through each of ReStyle's steps by itself, on what the last one left."""
        encoder = cast(LatentEncoder, self.modules["encoder"])
        with torch.no_grad():
            codes = latents.new_zeros(
                len(latents), len(self._generator.basis.components), encoder.gain.shape[1]
            )
            rendered = self._generator(codes).latents
        for _ in range(self.settings.steps):
            codes = refine(encoder, self._generator.basis, latents, rendered, codes)
            rendered = self._generator(codes).latents
            self._reconstruction(rendered, latents, rng, losses).backward()
            codes, rendered = codes.detach(), rendered.detach()
        return codes, rendered

    def _reconstruction(
        self, rendered: Tensor, latents: Tensor, rng: np.random.Generator, losses: dict[str, float]
    ) -> Tensor:
        """Compare latents, and pictures of them in a window; logs the last call of a step."""
        settings = self.settings
        squared = F.mse_loss(rendered, latents)
        count = max(1, int(len(latents) * settings.pixel_share))
        side = latents.shape[-1] - WINDOW_CELLS + 1
        y, x = (int(v) for v in rng.integers(0, side, 2))
        window = (slice(count), slice(None), slice(y, y + WINDOW_CELLS), slice(x, x + WINDOW_CELLS))
        output = self._decoder(rendered[window]).float()
        with torch.no_grad():
            target = self._decoder(latents[window]).float()
        pixel = F.mse_loss(output, target)
        distance = self._perceptual.distance(output, target)
        losses.update(latent=squared.item(), pixel=pixel.item(), squeeze=distance.item())
        return (
            settings.latent_weight * squared
            + settings.pixel_weight * pixel
            + settings.perceptual_weight * distance
        )

    def _discriminate(
        self, name: str, real: Tensor, fake: Tensor, penalised: bool, losses: dict[str, float]
    ) -> None:
        """One step of a discriminator: logistic loss, and R1 (Mescheder et al., 2018)."""
        optimizer, judge = self.optimizers[name], self.modules[name]
        optimizer.zero_grad(set_to_none=True)
        genuine = real.detach().clone().requires_grad_(penalised)
        found, made = _logits(judge(genuine)), _logits(judge(fake))
        loss = sum(F.softplus(-logits).mean() for logits in found)
        loss = loss + sum(F.softplus(logits).mean() for logits in made)
        if penalised:
            judged = sum(logits.flatten(1).mean(dim=1).sum() for logits in found)
            assert isinstance(judged, Tensor)
            (slope,) = torch.autograd.grad(judged, genuine, create_graph=True)
            energy = slope.square().flatten(1).sum(dim=1).mean()
            loss = loss + R1_EVERY * self.settings.r1 / 2 * energy
        assert isinstance(loss, Tensor)
        loss.backward()
        optimizer.step()
        losses[f"{name}_real"] = found[0].mean().item()
        losses[f"{name}_fake"] = made[0].mean().item()

    def _invert(self, encoder: LatentEncoder, latents: Tensor) -> Tensor:
        if self.settings.steps:
            return refine_from_average(encoder, self._generator, latents, steps=self.settings.steps)
        return encode(encoder, self._generator.basis, latents)

    @torch.inference_mode()
    def sheet(self) -> NDArray[np.uint8]:
        """Eight validation faces: source, the closed-form encoder's inversion, and this one's."""
        crops = self._crops(8)
        latents = self._encoder(crops).latents.float()
        closed = self._generator.basis.codes(latents)
        learned = self._invert(cast(LatentEncoder, self.averaged["encoder"]), latents)
        rows = [list(self._decoder(self._generator(w).latents)) for w in (closed, learned)]
        return tile([list(crops), *rows])

    def _crops(self, count: int) -> Tensor:
        rows = self._validation[:: max(1, len(self._validation) // count)][:count]
        return pictures.to_float(np.asarray(self._faces.images[rows]), device=self._device)

    @torch.inference_mode()
    def evaluate(self, *, count: int = 48) -> dict[str, float]:
        """PSNR to the source, SqueezeNet distance, distance to W, and the judge's mean logits."""
        encoder, basis = cast(LatentEncoder, self.averaged["encoder"]), self._generator.basis
        parts: dict[str, list[float]] = {"psnr": [], "squeeze": [], "mahalanobis": [], "logit": []}
        for crops in self._crops(count).split(8):
            codes = self._invert(encoder, self._encoder(crops).latents.float())
            output = self._decoder(self._generator(codes).latents).clamp(-1, 1)
            errors = (output - crops).square().mean(dim=(1, 2, 3))
            parts["psnr"].extend((-10.0 * torch.log10(errors / 4.0)).tolist())
            parts["squeeze"].append(float(self._perceptual.distance(output, crops)))
            parts["mahalanobis"].extend(mahalanobis(basis, codes).tolist())
            if "codes" in self.modules:
                parts["logit"].extend(self.modules["codes"](codes).tolist())
        return {name: float(np.mean(values)) for name, values in parts.items() if values}


def _logits(judged: Tensor | tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return a discriminator's logits, each with at least two axes."""
    both = [judged] if isinstance(judged, Tensor) else list(judged)
    return [logits.reshape(len(logits), -1) for logits in both]
