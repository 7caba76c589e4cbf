import math

import numpy as np
import pytest
import torch

from tests.training.test_diffcam import tiny_bank, tiny_directions
from tests.training.tiny import changed, face_set, perceptual, snapshot
from vidinvert.networks.diffcam import latent_diffcam
from vidinvert.training.autoencoder import freeze
from vidinvert.training.data import generator_at
from vidinvert.training.deghost import DeghostRecipe, DeghostSettings


def make_recipe(settings=None):
    bank = tiny_bank()
    torch.manual_seed(0)
    diffcam = freeze(latent_diffcam(2))
    return DeghostRecipe(
        face_set(train=3, val=2), bank, diffcam, tiny_directions(), perceptual(), settings=settings
    )


@pytest.fixture(scope="module")
def recipe():
    return make_recipe()


def test_a_step_trains_the_network_and_later_the_discriminator(recipe):
    frozen = [snapshot(n) for n in (*recipe._bank, recipe._diffcam)]
    network, judge = recipe.modules["deghost"], recipe.modules["discriminator"]
    before = snapshot(network), snapshot(judge)
    losses = recipe.step(0, 2, 0.0)
    assert set(losses) == {"pixel", "squeeze", "ghosts"}
    assert changed(network, before[0])
    assert not changed(judge, before[1])
    losses = recipe.step(2, 2, 0.9)
    assert set(losses) == {"pixel", "squeeze", "ghosts", "fooled", "discriminator"}
    assert all(math.isfinite(value) for value in losses.values())
    assert changed(judge, before[1])
    after = [snapshot(n) for n in (*recipe._bank, recipe._diffcam)]
    for one, other in zip(frozen, after, strict=True):
        assert all(value.equal(other[name]) for name, value in one.items())


def test_in_a_ghost_the_real_picture_is_the_stronger_one(recipe):
    real = recipe._validate(2)[0]
    ghosted, where = recipe._ghost(real, generator_at(0, 3))
    assert ghosted.shape == real.shape
    assert where.shape == (2, 1, 256, 256)
    assert (ghosted - real).abs().max() > 0.0
    torch.testing.assert_close(ghosted * (where == 0), real * (where == 0))
    edited, cam = recipe._edit(
        real, np.array([0, 1]), np.array([2.0, 2.0], np.float32), generated=np.array([0.0, 1.0])
    )
    assert 0.0 <= cam.min() <= cam.max() <= 1.0
    assert edited.abs().max() <= 1.0


def test_an_untrained_network_leaves_the_ghosts_as_they_are():
    figures = make_recipe(DeghostSettings(adversarial_weight=0.0)).evaluate(count=2)
    assert figures["psnr"] == pytest.approx(figures["psnr_ghosts"], abs=0.01)


def test_its_contact_sheet_shows_real_ghosted_where_and_cleaned(recipe):
    sheet = recipe.sheet()
    assert sheet.shape == (4 * 256, 2 * 256, 3)
    assert sheet.dtype == np.uint8
