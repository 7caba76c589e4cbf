import math

import numpy as np
import pytest
import torch

from tests.training.tiny import changed, perceptual, random_basis, snapshot
from vidinvert.networks.autoencoder import FaceDecoder
from vidinvert.training.autoencoder import freeze
from vidinvert.training.critic import AttributeCritic
from vidinvert.training.generator import GeneratorRecipe, head_prior


def small_recipe(seed=0):
    rng = np.random.default_rng(1)
    latents = rng.standard_normal((6, 32, 32, 32)).astype(np.float16)
    torch.manual_seed(5)
    return GeneratorRecipe(
        latents,
        random_basis(),
        freeze(FaceDecoder()),
        perceptual(),
        {"smile": torch.randn(4, 8), "gender": torch.randn(4, 8)},
        local=[True, False],
        critic=freeze(AttributeCritic(5)),
        validation=latents[:1],
        seed=seed,
    )


@pytest.fixture(scope="module")
def recipe():
    return small_recipe()


def test_an_early_step_trains_the_refiner_alone(recipe):
    before = {name: snapshot(module) for name, module in recipe.modules.items()}
    losses = recipe.step(0, 2, 0.0)
    assert set(losses) == {"l1", "mse", "pixel", "squeeze", "outside", "code", "missed", "leaked"}
    assert all(math.isfinite(value) for value in losses.values())
    moved = changed(recipe.modules["generator"], before["generator"])
    assert moved
    assert not any(name.startswith("basis.") for name in moved)
    assert not changed(recipe.modules["discriminator"], before["discriminator"])


def test_a_late_step_trains_both_and_says_how_well_each_is_fooled(recipe):
    before = {name: snapshot(module) for name, module in recipe.modules.items()}
    decoder = snapshot(recipe._decoder)
    for images_seen in (0, 2):  # with the gradient penalty, and without
        losses = recipe.step(images_seen, 2, 0.9)
        assert {"fooled", "d_loss", "d_real", "d_fake"} < set(losses)
        assert all(math.isfinite(value) for value in losses.values())
    for name, module in recipe.modules.items():
        assert changed(module, before[name])
    assert not changed(recipe._decoder, decoder)


def test_a_step_depends_on_the_seed_and_the_images_seen_alone():
    first, again = small_recipe(), small_recipe()
    first.step(4, 2, 0.2)
    again.step(4, 2, 0.2)
    assert not changed(first.modules["generator"], snapshot(again.modules["generator"]))


def test_its_figures_and_its_contact_sheet(recipe):
    figures = recipe.evaluate()
    assert set(figures) == {"psnr", "squeeze"}
    assert 0.0 < figures["psnr"] < 60.0
    sheet = recipe.sheet()
    assert sheet.shape == (256, (2 + 2 * 2) * 256, 3)  # a face; two directions at -2 and +2
    assert sheet.dtype == np.uint8


def test_the_outside_of_the_head_is_one_in_the_corners_and_zero_on_the_face():
    outside = head_prior()[0, 0]
    assert outside[0, 0] == outside[0, -1] == 1.0
    assert outside[12:24, 10:22].max() == 0.0
    torch.testing.assert_close(outside, outside.flip(1))
