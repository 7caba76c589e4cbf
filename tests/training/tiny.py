"""Drawn faces and networks with random weights, for tests of the recipes: nothing is downloaded."""

import cv2
import numpy as np
import torch

from tests.training.faces import drawn_crop
from vidinvert.networks.eigen import LEVEL_CELLS, EigenBasis
from vidinvert.networks.squeezenet import SqueezeFeatures
from vidinvert.training.data import FaceSet

FIRES = {2: (96, 16, 64), 3: (128, 16, 64), 4: (128, 32, 128), 5: (256, 32, 128),
         6: (256, 48, 192), 7: (384, 48, 192), 8: (384, 64, 256), 9: (512, 64, 256)}  # fmt: skip


def squeeze_weights(seed=0):
    """Random arrays named and shaped as SqueezeNet 1.0's."""
    rng = np.random.default_rng(seed)

    def layer(name, outputs, inputs, kernel):
        deviation = (2.0 / (inputs * kernel * kernel)) ** 0.5
        weight = rng.normal(0, deviation, (outputs, inputs, kernel, kernel)).astype(np.float32)
        return {f"{name}.w": weight, f"{name}.b": np.full(outputs, 0.01, np.float32)}

    weights = layer("conv1", 96, 3, 7)
    for number, (inputs, squeeze, expand) in FIRES.items():
        weights |= layer(f"fire{number}/sq", squeeze, inputs, 1)
        weights |= layer(f"fire{number}/e1", expand, squeeze, 1)
        weights |= layer(f"fire{number}/e3", expand, squeeze, 3)
    return weights


def perceptual():
    return SqueezeFeatures(squeeze_weights()).eval()


def face_set(train=4, val=2, size=256):
    """Cartoons of faces: the first `train` in the set `omi`, the others held out."""
    count = train + val
    crops = [cv2.resize(drawn_crop(seed), (size, size)) for seed in range(count)]
    return FaceSet(
        images=np.stack(crops),
        split=np.array(["train"] * train + ["val"] * val),
        source=np.array(["omi"] * count),
        files=tuple(f"omi/{index}.png" for index in range(count)),
        yaw=np.full(count, np.nan),
    )


def random_basis(components=(4, 4, 4, 4), *, style_width=8, channels=32, seed=0):
    """A basis with orthonormal rows, means and deviations that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    basis = EigenBasis(components, channels=channels, style_width=style_width)
    for level, (cells, count) in enumerate(zip(LEVEL_CELLS, components, strict=True)):
        size = channels * cells * cells
        rows = torch.linalg.qr(torch.randn(size, count, generator=generator)).Q.T
        basis.get_buffer(f"basis_{level}").copy_(rows)
        basis.get_buffer(f"mean_{level}").copy_(0.1 * torch.randn(size, generator=generator))
        basis.get_buffer(f"sigma_{level}").copy_(1.0 + torch.rand(count, generator=generator))
    return basis


def snapshot(module):
    """A copy of all numbers of a network."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(module, before):
    """The names of the numbers that are no longer what they were."""
    return {name for name, value in module.state_dict().items() if not value.equal(before[name])}
