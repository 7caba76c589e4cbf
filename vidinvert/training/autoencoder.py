"""Train our own face autoencoder: distilled from TAEF2's latents first, then on the pictures alone.

The encoder learns the teacher's latents (normalised per channel) while the decoder learns to turn
the *student's* latents, a little noisy, back into the picture. The pull towards the teacher fades
after a third of the run: it gives the latent space its even, decodable geometry and then gets out
of the way.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert import images as pictures
from vidinvert.networks.autoencoder import STRIDE, FaceDecoder, FaceEncoder
from vidinvert.networks.squeezenet import SqueezeFeatures
from vidinvert.networks.taef import taef_encoder
from vidinvert.training.data import FaceSet, generator_at, sampling_weights
from vidinvert.training.loop import Network, channels_last, tile


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderSettings:
    """Weights of the losses and sizes of the crops.

    Attributes:
        crop: side of the training crops in pixels, a multiple of 8.
        learning_rate: Adam's.
        teacher_weight: of the squared distance to the teacher's normalised latents.
        teacher_until: share of the run after which the teacher's pull is a tenth.
        perceptual_weight: of the SqueezeNet distance.
        latent_noise: largest standard deviation of the noise on the latents.
    """

    crop: int = 128
    learning_rate: float = 1.2e-3
    teacher_weight: float = 1.0
    teacher_until: float = 0.35
    perceptual_weight: float = 0.15
    latent_noise: float = 0.15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TeacherLatents:
    """`latents` float16 (M, 32, 32, 32), one a picture; their mean and deviation per channel."""

    latents: NDArray[np.float16]
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]


@torch.inference_mode()
def encode_with_teacher(
    faces: FaceSet,
    state: Mapping[str, Tensor],
    *,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
) -> TeacherLatents:
    """Run the teacher's encoder over every picture; 31 GFLOP a picture."""
    encoder = taef_encoder()
    encoder.load_state_dict({name: value.float() for name, value in state.items()})
    channels_last(encoder.to(device).eval())
    side = faces.images.shape[1] // STRIDE
    latents = np.empty((len(faces.images), 32, side, side), np.float16)
    for start in range(0, len(latents), batch_size):
        batch = pictures.to_float(faces.images[start : start + batch_size], device=device)
        latents[start : start + batch_size] = encoder((batch + 1.0) / 2.0).cpu().numpy()
    return summarise_latents(latents)


@torch.inference_mode()
def encode_with_own(
    encoder: FaceEncoder, faces: FaceSet, *, batch_size: int = 16
) -> TeacherLatents:
    """Make a trained encoder its own teacher, so that going on keeps the meaning of its latents."""
    device = next(encoder.parameters()).device
    side = faces.images.shape[1] // STRIDE
    latents = np.empty((len(faces.images), 32, side, side), np.float16)
    for start in range(0, len(latents), batch_size):
        batch = pictures.to_float(faces.images[start : start + batch_size], device=device)
        latents[start : start + batch_size] = encoder(batch).latents.cpu().numpy()
    return TeacherLatents(
        latents=latents, mean=np.zeros(32, np.float32), deviation=np.ones(32, np.float32)
    )


def summarise_latents(latents: NDArray[np.float16]) -> TeacherLatents:
    """Measure mean and deviation per channel on up to 512 pictures spread over the set."""
    some = latents[:: max(1, len(latents) // 512)].astype(np.float32)
    return TeacherLatents(
        latents=latents, mean=some.mean(axis=(0, 2, 3)), deviation=some.std(axis=(0, 2, 3))
    )


class AutoencoderRecipe:
    """See the module; implements `vidinvert.training.loop.Recipe`.

    Args:
        faces: pictures, of which the train split is drawn from.
        teacher: the latents to imitate, one a picture.
        perceptual: frozen features for the perceptual distance.
        start: networks to go on from, instead of new ones.
        device: where it is trained.
    """

    def __init__(
        self,
        faces: FaceSet,
        teacher: TeacherLatents,
        perceptual: SqueezeFeatures,
        *,
        start: tuple[FaceEncoder, FaceDecoder] | None = None,
        settings: AutoencoderSettings | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings or AutoencoderSettings()
        self._device = torch.device(device)
        torch.manual_seed(seed)
        encoder, decoder = start or (FaceEncoder(), FaceDecoder())
        self.encoder = channels_last(encoder.to(device).train().requires_grad_(True))
        self.decoder = channels_last(decoder.to(device).train().requires_grad_(True))
        self.modules: dict[str, nn.Module] = {"encoder": self.encoder, "decoder": self.decoder}
        self.averaged: dict[str, nn.Module] = copy.deepcopy(self.modules)
        parameters = [p for module in self.modules.values() for p in module.parameters()]
        self._parameters = parameters
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "both": torch.optim.Adam(parameters, lr=self.settings.learning_rate, betas=(0.9, 0.99))
        }
        self._faces, self._teacher, self._seed = faces, teacher, seed
        self._perceptual = perceptual.to(device)
        self._rows = faces.rows("train")
        self._weights = sampling_weights(faces, self._rows)
        self._validation = faces.rows("val")

    def step(self, images_seen: int, batch_size: int, share: float) -> dict[str, float]:
        """One step on random crops; the metrics are means over the batch."""
        settings = self.settings
        rng = generator_at(self._seed, images_seen)
        images, targets = self._draw(rng, batch_size)
        latents = self.encoder(images).latents  # (N, 32, c/8, c/8)
        inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
        distance = (latents - targets)[inner].square().mean()
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        level = rng.uniform(0.0, settings.latent_noise, batch_size).astype(np.float32)
        scaled = noise * torch.from_numpy(level).view(-1, 1, 1, 1)
        noisy = latents + scaled.to(self._device)
        output = self.decoder(noisy)
        absolute = (output - images).abs().mean()
        half = batch_size // 2  # the perceptual distance costs as much as the networks
        perceptual = self._perceptual.distance(output[:half], images[:half])
        pull = settings.teacher_weight * (1.0 if share < settings.teacher_until else 0.1)
        loss = pull * distance + 4.0 * absolute + settings.perceptual_weight * perceptual
        optimizer = self.optimizers["both"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, 2.0)
        optimizer.step()
        return {
            "loss": loss.item(),
            "teacher": distance.item(),
            "l1": absolute.item(),
            "squeeze": perceptual.item(),
            "gradient": float(norm),
        }

    def _draw(self, rng: np.random.Generator, batch_size: int) -> tuple[Tensor, Tensor]:
        """Random crops at whole latent cells, and the teacher's normalised latents of them."""
        crop, cells = self.settings.crop, self.settings.crop // STRIDE
        side = self._faces.images.shape[1] // STRIDE
        chosen = rng.choice(self._rows, batch_size, p=self._weights)
        corners = rng.integers(0, side - cells + 1, (batch_size, 2))
        images = np.empty((batch_size, crop, crop, 3), np.uint8)
        targets = np.empty((batch_size, 32, cells, cells), np.float32)
        for n, (row, (y, x)) in enumerate(zip(chosen, corners, strict=True)):
            images[n] = self._faces.images[row, y * 8 : y * 8 + crop, x * 8 : x * 8 + crop]
            targets[n] = self._teacher.latents[row, :, y : y + cells, x : x + cells]
        targets -= self._teacher.mean[:, None, None]
        targets /= self._teacher.deviation[:, None, None]
        return (
            pictures.to_float(images, device=self._device),
            torch.from_numpy(targets).to(self._device),
        )

    @torch.inference_mode()
    def reconstruct(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return the pictures of `rows` and their round trips by the averaged networks."""
        source = pictures.to_float(self._faces.images[rows], device=self._device)
        latents = self.averaged["encoder"](source).latents
        return source, self.averaged["decoder"](latents).clamp(-1, 1)

    def sheet(self) -> NDArray[np.uint8]:
        """Eight validation faces above their round trips."""
        source, output = self.reconstruct(self._validation[:8])
        return tile([list(source), list(output)])

    @torch.inference_mode()
    def evaluate(self, *, count: int = 48) -> dict[str, float]:
        """PSNR in dB and SqueezeNet distance of the round trip on validation faces."""
        rows = self._validation[:: max(1, len(self._validation) // count)][:count]
        ratios, distances = [], []
        for start in range(0, len(rows), 8):
            source, output = self.reconstruct(rows[start : start + 8])
            errors = (output - source).square().mean(dim=(1, 2, 3))
            ratios.extend((-10.0 * torch.log10(errors / 4.0)).tolist())
            distances.append(float(self._perceptual.distance(output, source)))
        return {"psnr": float(np.mean(ratios)), "squeeze": float(np.mean(distances))}


def load_perceptual(path: Path) -> SqueezeFeatures:
    """Load SqueezeNet's weights from an `.npz` without pickles."""
    with np.load(path, allow_pickle=False) as archive:
        return SqueezeFeatures({name: archive[name] for name in archive.files}).eval()


def freeze(module: Network) -> Network:
    """Return the module in evaluation mode with no gradients, channels last."""
    return channels_last(module.eval().requires_grad_(False))


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute plus half the mean squared difference."""
    return (output - target).abs().mean() + 0.5 * F.mse_loss(output, target)
