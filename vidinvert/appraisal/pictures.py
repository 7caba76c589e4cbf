"""How well a pack inverts pictures of faces, and what its masks cover."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidinvert import images
from vidinvert.appraisal.instruments import batches
from vidinvert.faces.likeness import IdentityNetwork
from vidinvert.methods import Method
from vidinvert.networks.squeezenet import SqueezeFeatures
from vidinvert.training.data import generator_at
from vidinvert.training.occluders import plant
from vidinvert.training.samm import face_prior

UInt8Array = NDArray[np.uint8]

PLANTED_SEED = 7  # of what is put in front of the faces


def psnr(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    """PSNR in dB of every picture (N, 3, R, R) in [-1, 1]: (N,)."""
    errors = (first.clamp(-1, 1) - second).square().mean(dim=(1, 2, 3))
    return (-10.0 * torch.log10(errors / 4.0)).double().numpy()


def _mean(parts: list[NDArray[np.float64]]) -> float:
    return float(np.concatenate(parts).mean())


@torch.inference_mode()
def appraise_blend(
    crops: UInt8Array,
    method: Method,
    perceptual: SqueezeFeatures,
    identity: IdentityNetwork | None,
) -> dict[str, float]:
    """Compare inverted crops (N, R, R, 3) with themselves: the generator's picture, and the blend.

    Returns:
        `reconstruction_psnr`, `reconstruction_sq` and, with a network for it,
        `reconstruction_identity` of the generator's picture alone; `composite_psnr` of what the
        mask blends, and `composite_mean_mask`.
    """
    alone, distance, same, blended, masks = [], [], [], [], []
    for part in batches(len(crops)):
        source = images.to_float(crops[part])
        embedding = method.embed(source)
        inverted = method.generate(embedding.w_plus).clamp(-1, 1)
        alone.append(psnr(inverted, source))
        distance.append(float(perceptual.distance(inverted, source)))
        if identity is not None:
            found, known = identity(images.to_uint8(inverted)), identity(crops[part])
            same.append((found * known).sum(axis=1))
        synthesis = method.synthesise(embedding, embedding.w_plus)
        blend = images.composite(source=source, generated=synthesis.image, ood=synthesis.ood)
        blended.append(psnr(blend, source))
        masks.append(synthesis.ood.mean(dim=(1, 2, 3)).double().numpy())
    return {
        "reconstruction_psnr": _mean(alone),
        "reconstruction_sq": float(np.mean(distance)),
        **({"reconstruction_identity": _mean(same)} if same else {}),
        "composite_psnr": _mean(blended),
        "composite_mean_mask": _mean(masks),
    }


@torch.inference_mode()
def appraise_round_trip(
    crops: UInt8Array,
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    perceptual: SqueezeFeatures,
) -> dict[str, float]:
    """Encode and decode crops: what a generator over these latents cannot exceed."""
    values, distance = [], []
    for part in batches(len(crops)):
        source = images.to_float(crops[part])
        output = decode(encode(source)).clamp(-1, 1)
        values.append(psnr(output, source))
        distance.append(float(perceptual.distance(output, source)))
    return {"round_trip_psnr": _mean(values), "round_trip_sq": float(np.mean(distance))}


@torch.inference_mode()
def appraise_masks(crops: UInt8Array, method: Method) -> dict[str, float]:
    """Plant something in front of every face and see what the masks cover.

    Returns:
        `planted_iou`: of mask and truth at 0.5, inside the inner face, all faces together;
        `mask_on_bare_faces`: the mean mask there when nothing was planted.
    """
    rng = generator_at(PLANTED_SEED, 0)
    inside = (face_prior(crops.shape[1]) > 0.5)[0, 0].numpy()
    overlap = union = 0
    bare = []
    for part in batches(len(crops)):
        pairs = [plant(crop, rng) for crop in crops[part]]
        source = images.to_float(np.stack([picture for picture, _ in pairs]))
        embedding = method.embed(source)
        ood = method.synthesise(embedding, embedding.w_plus).ood[:, 0].numpy() > 0.5
        truth = np.stack([opacity for _, opacity in pairs]) > 0.5
        overlap += int((ood & truth & inside).sum())
        union += int(((ood | truth) & inside).sum())
        plain = method.embed(images.to_float(crops[part]))
        mask = method.synthesise(plain, plain.w_plus).ood[:, 0].double().numpy()
        bare.append((mask * inside).sum(axis=(1, 2)) / inside.sum())
    return {"planted_iou": overlap / max(union, 1), "mask_on_bare_faces": _mean(bare)}
