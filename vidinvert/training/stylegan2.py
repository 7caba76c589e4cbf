"""Train a StyleGAN2 (Karras et al., CVPR 2020) on faces, with little data and any device.

Non-saturating loss; R1 and path length penalties every few steps (sections 3.1 and 3.2 there);
style mixing; a moving average of the generator. The discriminator sees pictures changed at random,
as much as it takes to keep it from knowing the training set by heart (Karras et al., "Training
generative adversarial networks with limited data", NeurIPS 2020; here geometry and colour alone).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert import images
from vidinvert.networks.discriminators import Discriminator
from vidinvert.networks.squeezenet import SqueezeFeatures
from vidinvert.networks.stylegan2 import Generator, sample_w_mean
from vidinvert.training.data import FaceSet, generator_at, sampling_weights
from vidinvert.training.loop import channels_last, tile

SIZES = (64, 128, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleGAN2Settings:
    """Shape of the networks and weights of the losses.

    Attributes:
        size: side of the pictures, one of `SIZES`.
        style_width: D.
        widest: channels of a resolution at most.
        capacity: channels times the side of the fine resolutions; the published network's is 32768.
        mapping_layers: depth of the mapping network.
        learning_rate: of both networks.
        r1: weight of the gradient penalty; None takes 0.0002 R^2 / batch, as its authors' automatic
            settings of 2020 do.
        r1_every: steps between two gradient penalties, whose weight makes up for it.
        path: weight of the path length penalty.
        path_every: steps between two of these.
        mixing: share of the pictures whose codes change at a random level.
        wanted_sign: mean sign of the logits of real pictures that the augmentation aims at.
        augment_images: pictures after which its probability may have gone from 0 to 1.
    """

    size: int = 64
    style_width: int = 256
    widest: int = 128
    capacity: int = 2048
    mapping_layers: int = 8
    learning_rate: float = 2.5e-3
    r1: float | None = None
    r1_every: int = 16
    path: float = 2.0
    path_every: int = 8
    mixing: float = 0.9
    wanted_sign: float = 0.6
    augment_images: int = 100_000

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"size is {self.size}, expected one of {SIZES}")

    @property
    def channels(self) -> dict[int, int]:
        """Channels of every resolution up to `size`."""
        sides = (2**n for n in range(2, int(math.log2(self.size)) + 1))
        return {side: min(self.widest, self.capacity // side) for side in sides}


def settings_for(size: int) -> StyleGAN2Settings:
    """Return networks that suit a size: at 256 px the published one, for a big GPU."""
    if size == 256:
        return StyleGAN2Settings(size=size, style_width=512, widest=512, capacity=32_768)
    return StyleGAN2Settings(size=size, widest=2 * size, capacity=32 * size)


class TrainingState(nn.Module):
    """What the losses remember between steps, in buffers, so that a checkpoint holds it."""

    path_length: Tensor
    augmentation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("path_length", torch.zeros(()))
        self.register_buffer("augmentation", torch.zeros(()))


def make_generator(settings: StyleGAN2Settings) -> Generator:
    """Return an untrained generator of these settings."""
    return Generator(
        size=settings.size,
        style_width=settings.style_width,
        channels=settings.channels,
        mapping_layers=settings.mapping_layers,
    )


class StyleGAN2Recipe:
    """See the module; implements `vidinvert.training.loop.Recipe`."""

    def __init__(
        self,
        faces: FaceSet,
        perceptual: SqueezeFeatures,
        *,
        settings: StyleGAN2Settings | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings or StyleGAN2Settings()
        self._device, self._seed = torch.device(device), seed
        torch.manual_seed(seed)
        self._generator = channels_last(make_generator(self.settings).to(device))
        judge = Discriminator(size=self.settings.size, channels=self.settings.channels)
        self._discriminator = channels_last(judge.to(device))
        self._state = TrainingState().to(device)
        self.modules: dict[str, nn.Module] = {
            "generator": self._generator,
            "discriminator": self._discriminator,
            "state": self._state,
        }
        self.averaged: dict[str, nn.Module] = {"generator": copy.deepcopy(self._generator)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(
                self.modules[name].parameters(),
                lr=self.settings.learning_rate,
                betas=(0.0, 0.99),
                eps=1e-8,
            )
            for name in ("generator", "discriminator")
        }
        self._perceptual = perceptual.to(device)
        rows = faces.rows("train")
        self._real = shrink_faces(faces.images[rows], self.settings.size)
        self._validation = shrink_faces(faces.images[faces.rows("val")], self.settings.size)
        self._weights = sampling_weights(faces, rows)

    def step(self, images_seen: int, batch_size: int, share: float) -> dict[str, float]:
        """One step of the generator and one of the discriminator."""
        del share
        rng = generator_at(self._seed, images_seen)
        random = torch.Generator().manual_seed(int(rng.integers(2**62)))
        number = images_seen // batch_size
        losses: dict[str, float] = {}
        self._teach_generator(batch_size, number, random, losses)
        self._teach_discriminator(batch_size, number, rng, random, losses)
        self._state.augmentation += (
            math.copysign(1.0, losses["sign"] - self.settings.wanted_sign)
            * batch_size
            / self.settings.augment_images
        )
        self._state.augmentation.clamp_(0.0, 0.8)
        losses["augmentation"] = float(self._state.augmentation)
        return losses

    def _teach_generator(
        self, batch_size: int, number: int, random: torch.Generator, losses: dict[str, float]
    ) -> None:
        self._discriminator.requires_grad_(False)
        fakes = self._draw(self._codes(batch_size, random), random)
        loss = F.softplus(-self._discriminator(self._augment(fakes, random))).mean()
        losses["fooled"] = loss.item()
        if number % self.settings.path_every == 0:
            penalty, length = self._path_penalty(max(2, batch_size // 2), random)
            loss = loss + self.settings.path * self.settings.path_every * penalty
            losses.update(path=penalty.item(), path_length=length)
        self._step("generator", loss)
        self._discriminator.requires_grad_(True)

    def _teach_discriminator(
        self,
        batch_size: int,
        number: int,
        rng: np.random.Generator,
        random: torch.Generator,
        losses: dict[str, float],
    ) -> None:
        chosen = rng.choice(len(self._real), batch_size, p=self._weights)
        real = images.to_float(self._real[chosen]).to(self._device)
        real = torch.where(
            torch.rand(batch_size, 1, 1, 1, generator=random).to(real) < 0.5, real.flip(3), real
        )
        with torch.no_grad():
            fakes = self._draw(self._codes(batch_size, random), random)
            seen = self._augment(real, random)
            fakes = self._augment(fakes, random)
        judged, made = self._discriminator(seen), self._discriminator(fakes)
        loss = F.softplus(-judged).mean() + F.softplus(made).mean()
        losses.update(
            d_loss=loss.item(),
            d_real=judged.mean().item(),
            d_fake=made.mean().item(),
            sign=judged.sign().mean().item(),
        )
        if number % self.settings.r1_every == 0:
            r1 = self.settings.r1
            weight = 0.0002 * self.settings.size**2 / batch_size if r1 is None else r1
            slope = self._slope(seen)
            loss = loss + 0.5 * weight * self.settings.r1_every * slope
            losses["r1"] = slope.item()
        self._step("discriminator", loss)

    def _slope(self, seen: Tensor) -> Tensor:
        """Mean squared gradient of the logits at real pictures (Mescheder et al., 2018)."""
        with torch.autocast(self._device.type, enabled=False):
            pictures = seen.detach().requires_grad_(True)
            logits = self._discriminator(pictures)
            (gradient,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
            return gradient.square().sum(dim=(1, 2, 3)).mean()

    def _path_penalty(self, count: int, random: torch.Generator) -> tuple[Tensor, float]:
        """StyleGAN2, equation 4: a step in W should change the picture equally everywhere."""
        with torch.autocast(self._device.type, enabled=False):
            w_plus = self._codes(count, random)
            pictures = self._draw(w_plus, random)
            direction = (
                torch.randn(pictures.shape, generator=random).to(pictures) / pictures.shape[-1]
            )
            (slope,) = torch.autograd.grad((pictures * direction).sum(), w_plus, create_graph=True)
            lengths = slope.square().sum(dim=2).mean(dim=1).sqrt()  # (N,)
        mean = self._state.path_length.lerp(lengths.detach().mean(), 0.01)
        self._state.path_length.copy_(mean)
        return (lengths - mean).square().mean(), float(mean)

    def _step(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def _codes(self, count: int, random: torch.Generator) -> Tensor:
        """Map random z to codes (N, L, D), most of them of two persons."""
        width, levels = self.settings.style_width, self._generator.style_count
        z = torch.randn(2 * count, width, generator=random).to(self._device)
        first, second = self._generator.mapping(z).chunk(2)
        border = torch.randint(1, levels, (count, 1), generator=random)
        border[torch.rand(count, 1, generator=random) >= self.settings.mixing] = levels
        own = (torch.arange(levels) < border).to(self._device)[..., None]  # (N, L, 1)
        return torch.where(own, first[:, None], second[:, None])

    def _draw(self, w_plus: Tensor, random: torch.Generator) -> Tensor:
        count = len(w_plus)
        noise = [
            torch.randn(count, 1, *fixed.shape[2:], generator=random).to(self._device)
            for fixed in self._generator.noise
        ]
        return self._generator(w_plus, noise=noise)

    def _augment(self, pictures: Tensor, random: torch.Generator) -> Tensor:
        return augment(pictures, probability=float(self._state.augmentation), random=random)

    @torch.inference_mode()
    def sheet(self) -> NDArray[np.uint8]:
        """Faces of nobody by the moving average: five rows as drawn, three nearer the mean."""
        drawn = self._samples(40)
        calm = self._samples(24, closeness=0.6)
        cells = [*drawn, *calm]
        return tile([cells[start : start + 8] for start in range(0, 64, 8)])

    def _samples(self, count: int, *, closeness: float = 1.0) -> Tensor:
        """Draw pictures (count, 3, R, R) with fixed z and noise; `closeness` is the truncation."""
        generator = cast(Generator, self.averaged["generator"])
        random = torch.Generator().manual_seed(self._seed + 1)
        z = torch.randn(count, self.settings.style_width, generator=random).to(self._device)
        mean = sample_w_mean(generator)
        w = mean + closeness * (generator.mapping(z) - mean)
        parts = [
            generator(part[:, None].expand(-1, generator.style_count, -1), noise=generator.noise)
            for part in w.split(16)
        ]
        return torch.cat(parts).clamp(-1, 1)

    @torch.inference_mode()
    def evaluate(self, *, count: int = 256) -> dict[str, float]:
        """Fréchet distance of SqueezeNet features to validation faces, and among these two halves.

        The second figure is what equal distributions reach with as few pictures.
        """
        real = images.to_float(self._validation[: 2 * count]).to(self._device)
        half = len(real) // 2
        known = self._features(real)
        drawn = self._features(self._samples(half))
        return {
            "frechet": frechet_distance(known[:half], drawn),
            "frechet_of_real": frechet_distance(known[:half], known[half : 2 * half]),
            "augmentation": float(self._state.augmentation),
        }

    def _features(self, pictures: Tensor) -> NDArray[np.float64]:
        side = (128, 128)  # SqueezeNet's maps of smaller pictures have too few pixels
        parts = []
        for part in pictures.split(32):
            large = F.interpolate(part, size=side, mode="bilinear", align_corners=False)
            parts.append(
                torch.cat([tap.mean(dim=(2, 3)) for tap in self._perceptual(large)[1:3]], 1)
            )
        return torch.cat(parts).double().cpu().numpy()


def shrink_faces(faces: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Shrink pictures (M, S, S, 3) to `size` by averaging areas."""
    if faces.shape[1] == size:
        return faces
    small = [cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA) for face in faces]
    return np.stack(small) if small else np.empty((0, size, size, 3), np.uint8)


def frechet_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return 1000 x the distance of two clouds (N, F) as Gaussians (Dowson and Landau, 1982)."""
    shift = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    one, two = np.cov(first.T), np.cov(second.T)
    roots = np.sqrt(np.clip(np.linalg.eigvals(one @ two).real, 0.0, None))
    return float(1000.0 * (shift + np.trace(one) + np.trace(two) - 2.0 * roots.sum()))


def augment(pictures: Tensor, *, probability: float, random: torch.Generator) -> Tensor:
    """Change pictures (N, 3, R, R) at random, each kind of change with this probability.

    Kinds: shift by up to an eighth, turn and scale, brightness, contrast, saturation.
    Gradients pass.
    """
    if probability <= 0.0:
        return pictures
    count = len(pictures)

    def chosen(values: Tensor) -> Tensor:
        return values * (torch.rand(count, generator=random) < probability)

    def normal(deviation: float) -> Tensor:
        return torch.randn(count, generator=random) * deviation

    shifts = chosen(torch.rand(count, generator=random) - 0.5) / 2.0  # of half a side: -1/4 to 1/4
    rises = chosen(torch.rand(count, generator=random) - 0.5) / 2.0
    angles, zooms = chosen(normal(0.25)), torch.exp(chosen(normal(0.15)))
    brightness, contrast = chosen(normal(0.2)), torch.exp(chosen(normal(0.35)))
    saturation = torch.exp(chosen(normal(0.5)))
    rows = [
        torch.stack([zooms * angles.cos(), -zooms * angles.sin(), shifts], dim=1),
        torch.stack([zooms * angles.sin(), zooms * angles.cos(), rises], dim=1),
    ]
    matrices = torch.stack(rows, dim=1).to(pictures)  # (N, 2, 3)
    grid = F.affine_grid(matrices, list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    return _relight(moved, (brightness, contrast, saturation))


def _relight(pictures: Tensor, factors: Sequence[Tensor]) -> Tensor:
    brightness, contrast, saturation = (f.to(pictures)[:, None, None, None] for f in factors)
    lit = (pictures + brightness) * contrast
    grey = lit.mean(dim=1, keepdim=True)
    return grey + (lit - grey) * saturation
