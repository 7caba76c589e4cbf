import math

import numpy as np
import pytest
import torch

from tests.training.tiny import changed, face_set, perceptual, random_basis, snapshot
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.training.autoencoder import freeze
from vidinvert.training.samm import SammRecipe, face_prior


@pytest.fixture(scope="module")
def recipe():
    torch.manual_seed(0)
    generator = EigenGenerator((4, 4, 4, 4), style_width=8)
    generator.basis.load_state_dict(random_basis().state_dict())
    return SammRecipe(
        face_set(train=3, val=2),
        freeze(FaceEncoder()),
        freeze(FaceDecoder()),
        freeze(generator),
        perceptual(),
    )


def test_a_step_trains_samm_and_nothing_else(recipe):
    before = snapshot(recipe.modules["samm"])
    frozen = {n: snapshot(getattr(recipe, n)) for n in ("_encoder", "_decoder", "_generator")}
    losses = recipe.step(0, 2, 0.0)
    expected = {"loss", "pixel", "squeeze", "binary", "mean_ood", "planted", "face"}
    assert set(losses) == expected
    assert all(math.isfinite(value) for value in losses.values())
    assert 0.0 <= losses["mean_ood"] <= 1.0
    assert changed(recipe.modules["samm"], before)
    for name, state in frozen.items():
        assert not changed(getattr(recipe, name), state)


def test_its_figures_are_about_masks_and_the_blend(recipe):
    figures = recipe.evaluate(count=2)
    assert set(figures) == {"mean_ood", "mean_ood_face", "psnr", "planted_iou"}
    for name in ("mean_ood", "mean_ood_face", "planted_iou"):
        assert 0.0 <= figures[name] <= 1.0
    assert recipe.evaluate(count=2) == figures


def test_its_contact_sheet_shows_source_inversion_mask_and_blend(recipe):
    sheet = recipe.sheet()
    assert sheet.shape == (4 * 256, 2 * 256, 3)
    assert sheet.dtype == np.uint8
    mask = sheet[512:768]
    np.testing.assert_array_equal(mask[..., 0], mask[..., 2])


def test_the_face_is_one_from_brows_to_chin_and_zero_at_the_border():
    face = face_prior(64)[0, 0]
    assert face[28:48, 24:40].min() == 1.0
    assert max(face[0].max(), face[:, 0].max(), face[:, -1].max()) == 0.0
    torch.testing.assert_close(face, face.flip(1))
