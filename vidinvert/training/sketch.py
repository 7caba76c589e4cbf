"""The stage `sketch`: pictures of half the size, read off the decoder's features at 1/4.

What an edit changes is measured on small pictures (`vidinvert.changes`). The decoder's last stages
do little but draw finer, so what is left of them at half the size is close to linear in the
features that they start from: a 3x3 convolution, fitted by least squares in closed form.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidinvert import images as pictures
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder, half_readout
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.networks.eigen_encoder import draw_codes
from vidinvert.training.data import FaceSet
from vidinvert.training.encoder_stage import frozen_networks
from vidinvert.training.stages import write_figures, write_weights
from vidinvert.types import FacePack

PICTURES = 160  # training faces that are looked at, and as many codes of nobody
JUDGED = 48  # validation faces
BATCH = 16
RIDGE = 1e-6  # of the features' mean energy


@torch.no_grad()
def fit_sketch(
    work: Path,
    faces: FaceSet,
    *,
    start: FacePack | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None],
) -> dict[str, float]:
    """Fit what `FaceDecoder.sketch` reads pictures with, into `work/sketch`.

    Args:
        work: the stages' folder.
        faces: of which training faces are inverted; drawn codes are fitted beside them, for edits
            leave the data.
        start: a pack whose autoencoder and generator are taken, unless a generator was trained in
            `work`.
        seed: of the faces' choice and of the codes.
        progress: told the pictures done, and how many there are.

    Returns:
        `psnr`: between the pictures read and those drawn whole and shrunk, of validation faces.
    """
    encoder, decoder, generator = frozen_networks(work, start)
    random = np.random.default_rng(seed)
    rows = faces.rows("train")
    chosen = random.permutation(rows)[:PICTURES]
    total, done = len(chosen) + PICTURES, 0
    energy, products = torch.zeros(()), torch.zeros(())
    for codes in _codes_of(faces, np.sort(chosen), encoder, generator, seed=seed):
        features, wanted = _draw(codes, decoder, generator)
        columns = _windows(features)
        energy = energy + (columns.T @ columns).double()
        products = products + (columns.T @ wanted).double()
        done += len(codes)
        progress(done, total)
    energy += RIDGE * energy.diagonal().mean() * torch.eye(len(energy), dtype=energy.dtype)
    solved = torch.linalg.solve(energy, products).float()  # (9 C + 1, 12)
    readout = half_readout().requires_grad_(False)
    readout.weight.copy_(solved[:-1].T.reshape(readout.weight.shape))
    assert readout.bias is not None
    readout.bias.copy_(solved[-1])
    (work / "sketch").mkdir(parents=True, exist_ok=True)
    write_weights(readout.state_dict(), work / "sketch")
    decoder.readout = readout
    held = faces.rows("val")[:JUDGED]
    error = [
        (decoder.sketch(latents) - F.avg_pool2d(decoder(latents), 2)).square().flatten(1).mean(1)
        for latents in (
            generator(codes).latents for codes in _invert(faces, held, encoder, generator)
        )
    ]
    psnr = 10.0 * torch.log10(4.0 / torch.cat(error)).mean()
    return write_figures({"psnr": float(psnr)}, work / "sketch")


def _codes_of(
    faces: FaceSet,
    rows: np.ndarray,
    encoder: FaceEncoder,
    generator: EigenGenerator,
    *,
    seed: int,
) -> Iterator[Tensor]:
    """Yield codes (N, L, D) of some faces, then of as many drawn ones as `PICTURES`."""
    yield from _invert(faces, rows, encoder, generator)
    random, basis = torch.Generator().manual_seed(seed), generator.basis
    for first in range(0, PICTURES, BATCH):
        yield draw_codes(basis, min(BATCH, PICTURES - first), random=random)


def _invert(
    faces: FaceSet, rows: np.ndarray, encoder: FaceEncoder, generator: EigenGenerator
) -> Iterator[Tensor]:
    for first in range(0, len(rows), BATCH):
        crops = pictures.to_float(faces.images[rows[first : first + BATCH]])
        latents = encoder(crops.contiguous(memory_format=torch.channels_last)).latents
        yield generator.basis.codes(latents)


def _draw(codes: Tensor, decoder: FaceDecoder, generator: EigenGenerator) -> tuple[Tensor, Tensor]:
    """Return features (N, C, h, w) at 1/4, and what is to be read there, (N h w, 12)."""
    latents = generator(codes).latents.contiguous(memory_format=torch.channels_last)
    features = decoder.stage_quarter(decoder.stage_eighth(latents))
    picture = decoder.stage_image(decoder.stage_half(features))
    wanted = F.pixel_unshuffle(F.avg_pool2d(picture, 2), 2)  # (N, 12, h, w)
    return features, wanted.permute(0, 2, 3, 1).reshape(-1, wanted.shape[1])


def _windows(features: Tensor) -> Tensor:
    """Return what a 3x3 convolution sees of (N, C, h, w), and 1: (N h w, 9 C + 1)."""
    rows = F.unfold(features.contiguous(), 3, padding=1).transpose(1, 2)
    flat = rows.reshape(-1, rows.shape[2])
    return torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1)
