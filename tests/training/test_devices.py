"""Every recipe takes a step in bf16, on the CPU and, where there is one, on a GPU."""

import cv2
import numpy as np
import pytest
import torch

from tests.training.tiny import changed, face_set, perceptual, random_basis, snapshot
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.training.autoencoder import AutoencoderRecipe, freeze, summarise_latents
from vidinvert.training.critic import AttributeCritic
from vidinvert.training.generator import GeneratorRecipe
from vidinvert.training.loop import Schedule, device_of, train
from vidinvert.training.samm import SammRecipe


def random_latents(count, cells=32):
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, 32, cells, cells)).astype(np.float16)


def autoencoder(device):
    teacher = summarise_latents(random_latents(6))
    return AutoencoderRecipe(face_set(train=4, val=2), teacher, perceptual(), device=device)


def generator(device):
    return GeneratorRecipe(
        random_latents(6),
        random_basis(),
        freeze(FaceDecoder()),
        perceptual(),
        {"smile": torch.randn(4, 8)},
        local=[True],
        critic=freeze(AttributeCritic(3)),
        validation=random_latents(1),
        device=device,
    )


def samm(device):
    network = EigenGenerator((4, 4, 4, 4), style_width=8)
    network.basis.load_state_dict(random_basis().state_dict())
    return SammRecipe(
        face_set(train=3, val=2),
        freeze(FaceEncoder()),
        freeze(FaceDecoder()),
        freeze(network),
        perceptual(),
        device=device,
    )


def take_a_step(build, device, folder):
    recipe = build(device)
    assert device_of(recipe).type == device
    before = {name: snapshot(module) for name, module in recipe.modules.items()}
    schedule = Schedule(images=2, batch_size=2, autocast=torch.bfloat16)
    assert train(recipe, schedule, folder) == 2
    name, module = next(iter(recipe.modules.items()))
    assert changed(module, before[name])
    for parameter in module.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.isfinite().all()
    assert next(folder.glob("sheet_*.png")).stat().st_size > 0
    rows = (folder / "metrics.csv").read_text().splitlines()[1:]
    assert len(rows) > 2
    plots = cv2.imread(str(folder / "metrics.png"))
    assert plots.shape == (360 * len(rows), 900, 3)  # one panel a metric


@pytest.mark.parametrize("build", [autoencoder, generator, samm])
def test_a_step_in_bf16_leaves_the_weights_in_float32(build, tmp_path):
    take_a_step(build, "cpu", tmp_path)


@pytest.mark.needs_cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize("build", [autoencoder, generator, samm])
def test_a_step_on_a_gpu(build, tmp_path):
    take_a_step(build, "cuda", tmp_path)
