"""Train the eigen generator's refiner: reconstruct latents, and stay believable under edits.

The decisive use of the generator is the residual edit, z + G(w + d) - G(w). So that is what the
discriminator sees: latents of real faces changed by random edits must look like latents of faces.
Reconstruction and realism are mixed by the norms of their gradients at the latents, so that neither
weight needs tuning as the losses change scale.
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

from vidinvert.networks.autoencoder import FaceDecoder
from vidinvert.networks.eigen import EigenBasis, EigenGenerator, LatentDiscriminator
from vidinvert.networks.squeezenet import SqueezeFeatures
from vidinvert.training.critic import AttributeCritic, wanted_change
from vidinvert.training.data import generator_at
from vidinvert.training.loop import channels_last, tile


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSettings:
    """Weights of the losses.

    Attributes:
        learning_rate: of the generator; the discriminator's is `discriminator_rate`.
        pixel_share: share of a batch that is decoded (a 16 x 16 cell window) for pixel losses.
        pixel_weight: of L1 plus SqueezeNet distance on those windows.
        code_weight: of the distance of an edited picture's own codes to the codes it was made from.
        local_weight: of what an edit changes outside the head.
        adversarial: norm of the adversarial gradient, as a share of the reconstruction's.
        discriminate_from: share of the run from which the discriminator learns.
        adversarial_from: share of the run from which the generator listens to it.
        edit_deviation: of the random strengths of training edits.
        judged: norm of the attribute judge's gradient, as a share of the reconstruction's, while
            edits miss by half a standard deviation or more; less as they come closer.
        r1: weight of the gradient penalty (Mescheder et al., 2018), every eighth step.
    """

    learning_rate: float = 3e-3
    discriminator_rate: float = 1e-3
    pixel_share: float = 0.25
    pixel_weight: float = 0.35
    code_weight: float = 0.05
    local_weight: float = 0.6
    adversarial: float = 0.5
    discriminate_from: float = 0.15
    adversarial_from: float = 0.25
    edit_deviation: float = 1.5
    judged: float = 0.6
    r1: float = 4.0


def head_prior(cells: int = 32) -> Tensor:
    """(1, 1, cells, cells) in [0, 1]: 1 well outside any head in FFHQ framing, 0 on the face."""
    axis = (torch.arange(cells) + 0.5) / cells
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius = torch.sqrt(((x - 0.5) / 0.37) ** 2 + ((y - 0.54) / 0.46) ** 2)
    return ((radius - 0.9) / 0.35).clamp(0, 1)[None, None]


class GeneratorRecipe:
    """See the module; implements `vidinvert.training.loop.Recipe`.

    Args:
        latents: float16 (M, 32, 32, 32) of real faces and their copies.
        basis: the fitted code basis; frozen.
        decoder: the trained decoder; frozen.
        directions: vectors (L, D) whose random mixtures are the training edits.
        local: for each direction, whether it must leave the outside of the head alone.
        critic: the frozen judge of attributes; its first outputs are those of `directions`, the
            others are what no edit may change.
        validation: float16 latents for the contact sheet and `evaluate`.
        device: where it is trained.
    """

    def __init__(
        self,
        latents: NDArray[np.float16],
        basis: EigenBasis,
        decoder: FaceDecoder,
        perceptual: SqueezeFeatures,
        directions: Mapping[str, Tensor],
        *,
        local: Sequence[bool],
        critic: AttributeCritic,
        validation: NDArray[np.float16],
        settings: GeneratorSettings | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings or GeneratorSettings()
        self._device = torch.device(device)
        torch.manual_seed(seed)
        generator = EigenGenerator(basis.components, style_width=basis.style_width)
        generator.basis.load_state_dict(basis.state_dict())
        generator.to(device)
        self.modules: dict[str, nn.Module] = {
            "generator": channels_last(generator),
            "discriminator": channels_last(LatentDiscriminator().to(device)),
        }
        self.averaged: dict[str, nn.Module] = {"generator": copy.deepcopy(generator)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "generator": torch.optim.Adam(
                generator.parameters(), lr=self.settings.learning_rate, betas=(0.5, 0.99)
            ),
            "discriminator": torch.optim.Adam(
                self.modules["discriminator"].parameters(),
                lr=self.settings.discriminator_rate,
                betas=(0.0, 0.99),
            ),
        }
        self._generator = generator
        self._discriminator = cast(LatentDiscriminator, self.modules["discriminator"])
        self._latents, self._decoder = latents, decoder.to(device)
        self._perceptual = perceptual.to(device)
        self._names = tuple(directions)
        stacked = torch.stack([directions[name] for name in self._names])
        self._directions = stacked.to(device)  # (A, L, D)
        self._local = torch.tensor(list(local), dtype=torch.float32, device=device)
        self._critic = critic.to(device)
        self._outside = head_prior(latents.shape[-1]).to(device)
        self._validation, self._seed = validation, seed

    def step(self, images_seen: int, batch_size: int, share: float) -> dict[str, float]:
        """One step of the generator and, once it has started, one of the discriminator."""
        settings = self.settings
        rng = generator_at(self._seed, images_seen)
        chosen = np.sort(rng.choice(len(self._latents), batch_size, replace=False))
        real = self._to_tensor(self._latents[chosen])  # (N, 32, 32, 32)
        real = real.contiguous(memory_format=torch.channels_last)
        half = batch_size // 2
        with torch.no_grad():
            codes = self._generator.basis.codes(real)  # (N, L, D)
            edited_codes, local, strengths = self._edit(codes[:half], rng)
        both = self._generator(torch.cat([codes, edited_codes])).latents
        leaf = both.detach().requires_grad_(True)
        plain, edited = leaf[:batch_size], leaf[batch_size:]
        losses: dict[str, float] = {}
        reconstruction = self._reconstruction(plain, real, rng, losses)
        change = edited - plain[:half].detach()
        outside = ((change * self._outside).abs().mean(dim=(1, 2, 3)) * local).mean()
        own_codes = self._generator.basis.codes(edited)[:, :3, :128]
        code = (own_codes - edited_codes[:, :3, :128]).square().mean()
        losses.update(outside=outside.item(), code=code.item())
        total = reconstruction + settings.local_weight * outside + settings.code_weight * code
        (gradient,) = torch.autograd.grad(total, leaf)
        gradient = gradient + self._judged_gradient(leaf, real, strengths, gradient, losses)
        if share >= settings.adversarial_from:
            gradient = gradient + self._adversarial_gradient(leaf, real, half, gradient, losses)
        optimizer = self.optimizers["generator"]
        optimizer.zero_grad(set_to_none=True)
        both.backward(gradient)
        nn.utils.clip_grad_norm_(self._generator.parameters(), 1.0)
        optimizer.step()
        if share >= settings.discriminate_from:
            fakes = (real[:half] + (edited - plain[:half])).detach()
            self._discriminate(real, fakes, images_seen, batch_size, losses)
        return losses

    def _to_tensor(self, latents: NDArray[np.float16]) -> Tensor:
        return torch.from_numpy(latents.astype(np.float32)).to(self._device)

    def _edit(self, codes: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Add two random directions to codes (N, L, D).

        Returns:
            The codes, how local each edit must be (N,), and the strengths (N, A).
        """
        count = len(codes)
        strengths = torch.zeros(count, len(self._names))
        for _ in range(2):
            which = torch.from_numpy(rng.integers(0, len(self._names), count))
            amount = rng.normal(0.0, self.settings.edit_deviation, count).astype(np.float32)
            strengths[torch.arange(count), which] += torch.from_numpy(amount)
        strengths = strengths.to(self._device)
        edited = codes + torch.einsum("na,ald->nld", strengths, self._directions)
        weight = strengths.abs()
        local = (weight * self._local).sum(dim=1) / weight.sum(dim=1).clamp_min(1e-6)
        return edited, local, strengths

    def _reconstruction(
        self, plain: Tensor, real: Tensor, rng: np.random.Generator, losses: dict[str, float]
    ) -> Tensor:
        absolute = (plain - real).abs().mean()
        squared = F.mse_loss(plain, real)
        count = max(1, int(len(plain) * self.settings.pixel_share))
        y, x = (int(v) for v in rng.integers(0, 17, 2))
        window = (slice(0, count), slice(None), slice(y, y + 16), slice(x, x + 16))
        output = self._decoder(plain[window])
        with torch.no_grad():
            target = self._decoder(real[window])
        pixels = (output - target).abs().mean()
        perceptual = self._perceptual.distance(output, target)
        losses.update(
            l1=absolute.item(), mse=squared.item(), pixel=pixels.item(), squeeze=perceptual.item()
        )
        weight = self.settings.pixel_weight
        return absolute + 0.5 * squared + weight * (pixels + perceptual)

    def _judged_gradient(
        self,
        leaf: Tensor,
        real: Tensor,
        strengths: Tensor,
        gradient: Tensor,
        losses: dict[str, float],
    ) -> Tensor:
        """Gradient at the latents that makes residual edits go as far as they say, and no further.

        It is scaled to the reconstruction's, and fades as the edits come close to what they say.
        """
        half = len(strengths)
        plain, edited = leaf[: len(real)], leaf[len(real) :]
        with torch.no_grad():
            before = self._critic(real[:half]).float()
            aim = F.pad(strengths, (0, before.shape[1] - strengths.shape[1]))
            wanted = wanted_change(before, aim)
        moved = self._critic(real[:half] + edited - plain[:half].detach()).float() - before
        miss = F.smooth_l1_loss(moved, wanted, reduction="none", beta=0.5)
        asked = strengths != 0
        named = strengths.shape[1]
        loss = miss.mean() + miss[:, :named][asked].mean()
        (judged,) = torch.autograd.grad(loss, leaf)
        losses["missed"] = float((moved - wanted)[:, :named][asked].abs().mean().detach())
        losses["leaked"] = float((moved.detach()[:, :named] * ~asked).abs().mean())
        scale = gradient.norm() / judged.norm().clamp_min(1e-12)
        return judged * scale * self.settings.judged * min(1.0, losses["missed"] / 0.5)

    def _adversarial_gradient(
        self, leaf: Tensor, real: Tensor, half: int, gradient: Tensor, losses: dict[str, float]
    ) -> Tensor:
        """Gradient at the latents that makes residual edits look real, scaled to the other one."""
        plain, edited = leaf[: len(real)], leaf[len(real) :]
        logits, patches = self._discriminator(real[:half] + edited - plain[:half])
        loss = F.softplus(-logits).mean() + 0.5 * F.softplus(-patches).mean()
        (adversarial,) = torch.autograd.grad(loss, leaf)
        scale = gradient.norm() / adversarial.norm().clamp_min(1e-12)
        losses["fooled"] = loss.item()
        return adversarial * scale * self.settings.adversarial

    def _discriminate(
        self,
        real: Tensor,
        fakes: Tensor,
        images_seen: int,
        batch_size: int,
        losses: dict[str, float],
    ) -> None:
        optimizer = self.optimizers["discriminator"]
        optimizer.zero_grad(set_to_none=True)
        penalised = (images_seen // batch_size) % 8 == 0
        genuine = real[len(real) - len(fakes) :].detach().requires_grad_(penalised)
        real_logits, real_patches = self._discriminator(genuine)
        fake_logits, fake_patches = self._discriminator(fakes)
        loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        loss = loss + 0.5 * (F.softplus(-real_patches).mean() + F.softplus(fake_patches).mean())
        if penalised:
            judged = real_logits.sum() + 0.5 * real_patches.mean(dim=(1, 2, 3)).sum()
            (slope,) = torch.autograd.grad(judged, genuine, create_graph=True)
            loss = loss + 8 * self.settings.r1 / 2 * slope.square().sum(dim=(1, 2, 3)).mean()
        loss.backward()
        optimizer.step()
        losses.update(
            d_loss=loss.item(), d_real=real_logits.mean().item(), d_fake=fake_logits.mean().item()
        )

    @torch.inference_mode()
    def sheet(self) -> NDArray[np.uint8]:
        """Six validation faces: round trip, inversion, residual edits at -2 and +2."""
        generator = cast(EigenGenerator, self.averaged["generator"])
        real = self._to_tensor(self._validation[:6])
        codes = generator.basis.codes(real)
        plain = generator(codes).latents
        columns = [self._decoder(real), self._decoder(plain)]
        for index in range(min(5, len(self._names))):
            for strength in (-2.0, 2.0):
                edited = generator(codes + strength * self._directions[index]).latents
                columns.append(self._decoder(real + edited - plain))
        return tile([[column[row] for column in columns] for row in range(len(real))])

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """PSNR in dB and SqueezeNet distance of the inversion to the autoencoder's round trip."""
        generator = cast(EigenGenerator, self.averaged["generator"])
        ratios: list[float] = []
        distances: list[float] = []
        for start in range(0, len(self._validation), 8):
            real = self._to_tensor(self._validation[start : start + 8])
            target = self._decoder(real).clamp(-1, 1)
            output = self._decoder(generator(generator.basis.codes(real)).latents).clamp(-1, 1)
            errors = (output - target).square().mean(dim=(1, 2, 3))
            ratios.extend((-10.0 * torch.log10(errors / 4.0)).tolist())
            distances.append(float(self._perceptual.distance(output, target)))
        return {"psnr": float(np.mean(ratios)), "squeeze": float(np.mean(distances))}
