import math
from typing import cast

import numpy as np
import pytest
import torch

from tests.training.tiny import changed, face_set, perceptual, random_basis, snapshot
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.networks.samm import SAMM
from vidinvert.networks.squeezenet import gram_distance
from vidinvert.training.autoencoder import freeze
from vidinvert.training.samm import SammRecipe, SammSettings, face_prior


@pytest.fixture(scope="module")
def recipe():
    return make_recipe()


def make_recipe(settings=None):
    torch.manual_seed(0)
    generator = EigenGenerator((4, 4, 4, 4), style_width=8)
    generator.basis.load_state_dict(random_basis().state_dict())
    return SammRecipe(
        face_set(train=3, val=2),
        freeze(FaceEncoder()),
        freeze(FaceDecoder()),
        freeze(generator),
        perceptual(),
        settings=settings,
    )


def test_a_step_trains_samm_and_nothing_else(recipe):
    before = snapshot(recipe.modules["samm"])
    frozen = {n: snapshot(getattr(recipe, n)) for n in ("_encoder", "_decoder", "_generator")}
    losses = recipe.step(0, 2, 0.0)
    expected = {"loss", "pixel", "squeeze", "style", "binary", "mean_ood", "planted", "face"}
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


def test_levels_join_coarse_first_and_an_absent_one_is_not_trained():
    recipe = make_recipe(SammSettings(levels_from=(0.0, 0.3, 0.6), style_weight=1.0))
    levels = cast(SAMM, recipe.modules["samm"]).levels
    assert [recipe.settings.levels_at(share) for share in (0.0, 0.3, 0.59, 0.6)] == [1, 2, 2, 3]
    before = [snapshot(level) for level in levels]
    losses = recipe.step(0, 2, 0.0)
    assert losses["style"] > 0.0
    moved = [bool(changed(level, state)) for level, state in zip(levels, before, strict=True)]
    assert moved == [True, False, False]


@pytest.mark.parametrize("starts", [(0.1, 0.2, 0.3), (0.0, 0.6, 0.3)])
def test_levels_that_do_not_start_coarse_first_are_refused(starts):
    with pytest.raises(ValueError, match="expected shares that start at 0 and never fall"):
        SammSettings(levels_from=starts)


def test_style_is_blind_to_where_things_are_and_sees_what_they_are():
    maps = [torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))]
    moved = [maps[0].flip(2, 3)]
    torch.testing.assert_close(gram_distance(maps, moved), torch.zeros(2), atol=1e-6, rtol=0)
    doubled = gram_distance(maps, [2.0 * maps[0]])
    torch.testing.assert_close(doubled, 3.0 * gram_distance(maps, [0.0 * maps[0]]))
