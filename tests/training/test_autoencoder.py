import math

import numpy as np
import pytest
import torch

from tests.training.tiny import changed, face_set, perceptual, snapshot, squeeze_weights
from vidinvert.networks.autoencoder import FaceEncoder
from vidinvert.networks.taef import taef_encoder
from vidinvert.training.autoencoder import (
    AutoencoderRecipe,
    AutoencoderSettings,
    encode_with_teacher,
    freeze,
    load_perceptual,
    reconstruction_loss,
    summarise_latents,
)

SETTINGS = AutoencoderSettings(crop=48)


@pytest.fixture(scope="module")
def recipe():
    faces = face_set(train=3, val=2, size=64)
    rng = np.random.default_rng(0)
    teacher = summarise_latents(rng.normal(1, 2, (5, 32, 8, 8)).astype(np.float16))
    return AutoencoderRecipe(faces, teacher, perceptual(), settings=SETTINGS)


def test_a_step_trains_both_networks(recipe):
    before = {name: snapshot(module) for name, module in recipe.modules.items()}
    losses = recipe.step(0, 2, 0.0)
    assert set(losses) == {"loss", "teacher", "l1", "squeeze", "gradient"}
    assert all(math.isfinite(value) for value in losses.values())
    for name, module in recipe.modules.items():
        assert changed(module, before[name])


def test_the_teacher_pulls_less_in_the_later_part_of_the_run(recipe):
    states = {name: snapshot(module) for name, module in recipe.modules.items()}
    losses = []
    for share in (0.0, 0.9):
        for name, module in recipe.modules.items():
            module.load_state_dict(states[name])
        losses.append(recipe.step(8, 2, share))
    early, late = losses
    assert early["teacher"] == pytest.approx(late["teacher"])
    assert early["loss"] - late["loss"] == pytest.approx(0.9 * early["teacher"], rel=1e-3)


def test_crops_and_their_latents_are_cut_at_the_same_cells(recipe):
    faces, teacher = recipe._faces, recipe._teacher
    for row in range(5):  # latents that say which cell of which picture they are
        teacher.latents[row] = (np.arange(64).reshape(8, 8) + 64 * row)[None]
    images, targets = recipe._draw(np.random.default_rng(3), 4)
    assert images.shape == (4, 3, 48, 48)
    assert targets.shape == (4, 32, 6, 6)
    values = targets[:, 0] * float(teacher.deviation[0]) + float(teacher.mean[0])
    for image, cells in zip(images, values.round().long(), strict=True):
        row, corner = divmod(int(cells[0, 0]), 64)
        y, x = divmod(corner, 8)
        expected = faces.images[row, 8 * y : 8 * y + 48, 8 * x : 8 * x + 48]
        np.testing.assert_allclose(
            (image.permute(1, 2, 0).numpy() + 1) * 127.5, expected, atol=1e-3
        )


def test_its_figures_and_its_contact_sheet(recipe):
    figures = recipe.evaluate(count=2)
    assert set(figures) == {"psnr", "squeeze"}
    assert 0.0 < figures["psnr"] < 60.0
    assert recipe.sheet().shape == (2 * 64, 2 * 64, 3)


def test_the_teachers_latents_are_summarised_per_channel():
    faces = face_set(train=2, val=1, size=16)
    torch.manual_seed(0)
    state = taef_encoder().state_dict()
    teacher = encode_with_teacher(faces, state, batch_size=2)
    assert teacher.latents.shape == (3, 32, 2, 2)
    assert teacher.latents.dtype == np.float16
    single = encode_with_teacher(faces, state, batch_size=1)
    np.testing.assert_allclose(single.latents, teacher.latents, atol=2e-3)
    full = teacher.latents.astype(np.float64)
    np.testing.assert_allclose(teacher.mean, full.mean(axis=(0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(teacher.deviation, full.std(axis=(0, 2, 3)), atol=1e-4)


def test_perceptual_weights_are_read_from_a_file_without_pickles(tmp_path):
    path = tmp_path / "squeezenet.npz"
    np.savez(path, **squeeze_weights())
    loaded, expected = load_perceptual(path), perceptual()
    assert not changed(loaded, snapshot(expected))
    assert not loaded.training


def test_a_frozen_network_neither_trains_nor_changes():
    network = FaceEncoder()
    before = snapshot(network)
    assert freeze(network) is network
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not changed(network, before)


def test_the_reconstruction_loss_is_zero_for_equals():
    x = torch.rand(2, 3, 4, 4)
    assert reconstruction_loss(x, x) == 0.0
    assert reconstruction_loss(x, x + 1.0) == pytest.approx(1.5)
