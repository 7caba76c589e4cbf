"""Fit the eigen codes: encode faces, split the latents into bands, take principal components."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidinvert import images as pictures
from vidinvert.errors import PlanError
from vidinvert.networks.autoencoder import FaceEncoder
from vidinvert.networks.eigen import LEVEL_CELLS, EigenBasis, split_bands
from vidinvert.training.data import FaceSet, generator_at, jitter

COMPONENTS = (512, 1024, 1024, 768)  # principal components kept per band, coarse first
SIGMA_FLOOR = 0.02  # of the largest: whitening must not blow up the noise of the last components


@torch.inference_mode()
def encode_copies(
    encoder: FaceEncoder,
    faces: FaceSet,
    rows: NDArray[np.int64],
    *,
    copies: int,
    seed: int = 0,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float16]:
    """Encode the pictures, their mirror images, and `copies` jittered versions of each.

    Returns:
        float16 (len(rows) * (2 + copies), 32, 32, 32): originals, mirrored ones, then the copies.
    """
    device = next(encoder.parameters()).device
    side = faces.images.shape[1] // 8
    total = len(rows) * (2 + copies)
    latents = np.empty((total, 32, side, side), np.float16)
    for start in range(0, total, batch_size):
        stop = min(start + batch_size, total)
        batch = np.stack([_copy(faces, rows, n, seed) for n in range(start, stop)])
        found = encoder(pictures.to_float(batch, device=device)).latents
        latents[start:stop] = found.float().cpu().numpy()
        if progress is not None:
            progress(stop, total)
    return latents


def _copy(faces: FaceSet, rows: NDArray[np.int64], position: int, seed: int) -> NDArray[np.uint8]:
    version, index = divmod(position, len(rows))
    image = faces.images[rows[index]]
    if version == 0:
        return image
    if version == 1:
        return image[:, ::-1]
    return jitter(np.asarray(image), generator_at(seed, position))


@torch.inference_mode()
def fit_basis(
    latents: NDArray[np.float16], *, components: Sequence[int] = COMPONENTS, seed: int = 0
) -> EigenBasis:
    """Fit the principal components of every band on latents (M, 32, 32, 32).

    Raises:
        PlanError: there are fewer latents than components to fit.
    """
    if len(latents) < max(components):
        raise PlanError(
            f"the codes shall have {max(components)} components and there are {len(latents)} "
            "latents, expected at least as many; give more faces, or make more copies of each"
        )
    basis = EigenBasis(components, channels=latents.shape[1])
    bands: list[list[Tensor]] = [[] for _ in LEVEL_CELLS]
    for start in range(0, len(latents), 256):
        part = torch.from_numpy(latents[start : start + 256].astype(np.float32))
        for level, band in enumerate(split_bands(part)):
            bands[level].append(band.flatten(1))
    for level, count in enumerate(components):
        data = torch.cat(bands[level])  # (M, d)
        bands[level] = []
        mean = data.mean(dim=0)
        data -= mean
        directions, sigma = principal_components(data, count, seed=seed)
        basis.get_buffer(f"mean_{level}").copy_(mean)
        basis.get_buffer(f"basis_{level}").copy_(directions)
        basis.get_buffer(f"sigma_{level}").copy_(sigma.clamp_min(float(sigma[0]) * SIGMA_FLOOR))
    return basis


def principal_components(
    data: Tensor, count: int, *, seed: int = 0, rounds: int = 3
) -> tuple[Tensor, Tensor]:
    """Return the `count` leading directions (count, d) of centred data (M, d) and their deviations.

    Randomised subspace iteration (Halko, Martinsson and Tropp, 2011), exact where d is small.
    """
    samples, size = data.shape
    if size <= 2048:
        values, vectors = torch.linalg.eigh(data.T @ data / samples)
        order = torch.arange(size - 1, size - 1 - count, -1)
        return vectors[:, order].T.contiguous(), values[order].clamp_min(0).sqrt()
    generator = torch.Generator().manual_seed(seed)
    probe = torch.randn(size, min(size, count + 32), generator=generator)
    for _ in range(rounds):
        probe = torch.linalg.qr(data.T @ (data @ probe)).Q
    _, values, vectors = torch.linalg.svd(data @ probe, full_matrices=False)
    directions = vectors[:count] @ probe.T  # (count, d)
    return directions.contiguous(), values[:count] / samples**0.5
