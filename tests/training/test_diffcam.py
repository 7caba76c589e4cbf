import math

import numpy as np
import pytest
import torch

from tests.training.tiny import changed, face_set, random_basis, snapshot
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.diffcam import latent_diffcam
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.networks.eigen_deghost import Bank
from vidinvert.training.autoencoder import freeze
from vidinvert.training.diffcam import DiffCamRecipe, DiffCamSettings, draw_edits


def tiny_bank() -> Bank:
    torch.manual_seed(0)
    generator = EigenGenerator((4, 4, 4, 4), style_width=8)
    generator.basis.load_state_dict(random_basis().state_dict())
    return Bank(freeze(FaceEncoder()), freeze(generator), freeze(FaceDecoder()))


def tiny_directions():
    """Two directions that differ in their levels: one coarse, one fine."""
    coarse, fine = torch.zeros(4, 8), torch.zeros(4, 8)
    coarse[0, :4], fine[2, :4] = 2.0, 2.0
    return {"coarse": coarse, "fine": fine}


@pytest.fixture(scope="module")
def recipe():
    return DiffCamRecipe(face_set(train=3, val=2), tiny_bank(), tiny_directions())


def test_a_step_trains_the_classifier_and_nothing_else(recipe):
    before, frozen = snapshot(recipe.modules["diffcam"]), [snapshot(n) for n in recipe._bank]
    losses = recipe.step(0, 2, 0.0)
    assert set(losses) == {"cross_entropy", "accuracy"}
    assert all(math.isfinite(value) for value in losses.values())
    assert changed(recipe.modules["diffcam"], before)
    assert not any(changed(n, state) for n, state in zip(recipe._bank, frozen, strict=True))


def test_it_learns_to_name_the_direction():
    settings = DiffCamSettings(hidden_share=0.2)
    recipe = DiffCamRecipe(
        face_set(train=2, val=2), tiny_bank(), tiny_directions(), settings=settings
    )
    losses = [recipe.step(4 * n, 4, 0.0)["cross_entropy"] for n in range(12)]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_it_goes_on_from_a_classifier_of_other_classes():
    known = latent_diffcam(2)
    again = DiffCamRecipe(
        face_set(train=2, val=2),
        tiny_bank(),
        tiny_directions(),
        start=(known, ["fine", "gone"]),
    ).modules["diffcam"]
    latents = torch.randn(2, 3, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        named, before = again(*latents), known(*latents)
    torch.testing.assert_close(named[:, 1], before[:, 0], rtol=1e-4, atol=1e-5)  # fine
    assert not torch.allclose(named[:, 0], before[:, 1])  # coarse was not among them


def test_its_figures_are_shares(recipe):
    figures = recipe.evaluate(count=2)
    assert set(figures) == {"accuracy_at_1", "accuracy_at_2", "covered", "area"}
    assert all(0.0 <= value <= 1.0 for value in figures.values())


def test_its_contact_sheet_shows_each_direction_above_its_map(recipe):
    sheet = recipe.sheet()
    assert sheet.shape == (2 * 2 * 256, 2 * 256, 3)
    np.testing.assert_array_equal(sheet[256:512, :, 0], sheet[256:512, :, 2])


def test_edits_are_of_both_signs_and_within_their_limits():
    chosen, sizes = draw_edits(400, 3, np.random.default_rng(0), weakest=1.0, strongest=2.0)
    assert set(chosen.tolist()) == {0, 1, 2}
    assert 1.0 <= np.abs(sizes).min() <= np.abs(sizes).max() <= 2.0
    assert 150 < (sizes > 0).sum() < 250
    assert sizes.dtype == np.float32
