import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.tiny import (
    changed,
    face_set,
    perceptual,
    random_basis,
    snapshot,
    squeeze_weights,
)
from vidinvert.networks.autoencoder import FaceDecoder, FaceEncoder
from vidinvert.networks.eigen import EigenGenerator
from vidinvert.training import encoder_stage
from vidinvert.training.autoencoder import freeze
from vidinvert.training.encoders import ENCODERS, EncoderRecipe, EncoderSettings
from vidinvert.training.loop import Schedule
from vidinvert.training.stages import Helpers

FROZEN = ("_encoder", "_decoder", "_generator")


def networks():
    torch.manual_seed(0)
    generator = EigenGenerator((4, 4, 4, 4), style_width=8)
    generator.basis.load_state_dict(random_basis().state_dict())
    return freeze(FaceEncoder()), freeze(FaceDecoder()), freeze(generator)


def make_recipe(settings):
    return EncoderRecipe(face_set(train=3, val=2), *networks(), perceptual(), settings=settings)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_step_trains_the_encoder_and_its_judges_and_nothing_else(name):
    recipe = make_recipe(ENCODERS[name])
    before = {n: snapshot(module) for n, module in recipe.modules.items()}
    frozen = {n: snapshot(getattr(recipe, n)) for n in FROZEN}
    losses = recipe.step(0, 2, 0.0 if name == "e4e" else 1.0)  # e4e: its finer levels are 0 yet
    assert all(math.isfinite(value) for value in losses.values())
    expected = {
        "e4e": {"encoder", "codes"},
        "restyle": {"encoder"},
        "indomain": {"encoder", "images"},
        "force-indomain": {"encoder", "codes", "images"},
    }
    assert set(recipe.modules) == expected[name]
    own = {
        "e4e": {"offsets", "codes_fooled"},
        "restyle": set(),
        "indomain": {"images_fooled"},
        "force-indomain": {"images_fooled", "codes_fooled", "cycle"},
    }
    assert set(losses) & set().union(*own.values()) == own[name]
    for module, state in before.items():
        assert changed(recipe.modules[module], state)
    for network, state in frozen.items():
        assert not changed(getattr(recipe, network), state)


def test_the_same_pictures_give_the_same_step():
    first, second = (make_recipe(ENCODERS["force-indomain"]) for _ in range(2))
    assert first.step(8, 2, 0.5) == second.step(8, 2, 0.5)
    assert not changed(second.modules["encoder"], snapshot(first.modules["encoder"]))


def test_finer_levels_join_later_and_are_the_average_until_then():
    recipe = make_recipe(EncoderSettings(levels_from=(0.0, 0.3, 0.6, 0.9)))
    seen = []
    generator = recipe._generator
    recipe._generator = lambda codes: seen.append(codes.detach()) or generator(codes)
    recipe._generator.basis = generator.basis
    for share in (0.0, 0.3, 0.95):
        recipe.step(0, 2, share)
    zero = [[bool((codes[:, level] == 0).all()) for level in range(4)] for codes in seen]
    assert zero == [[False, True, True, True], [False, False, True, True], [False] * 4]


def test_training_brings_the_reconstruction_nearer():
    recipe = make_recipe(EncoderSettings(perceptual_weight=0.0, pixel_weight=0.0))
    first = [recipe.step(0, 3, 1.0)["latent"] for _ in range(8)]
    assert first[-1] < first[0]


def test_figures_and_the_sheet_are_of_the_validation_faces():
    recipe = make_recipe(ENCODERS["force-indomain"])
    figures = recipe.evaluate(count=2)
    assert set(figures) == {"psnr", "squeeze", "mahalanobis", "logit"}
    assert recipe.evaluate(count=2) == figures
    sheet = recipe.sheet()
    assert sheet.shape == (3 * 256, 2 * 256, 3)
    np.testing.assert_array_equal(sheet[256:512], sheet[512:])  # untrained: the closed form


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps is -1, expected 0"),
        ({"levels_from": (0.1, 0.2, 0.3, 0.4)}, "expected shares that start at 0 and never fall"),
        ({"levels_from": (0.0, 0.6, 0.3, 0.9)}, "expected shares that start at 0 and never fall"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EncoderSettings(**options)


def test_the_stage_writes_the_average_its_figures_and_the_judge_of_codes(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_stage, "frozen_networks", lambda work, start: networks())
    np.savez(tmp_path / "squeeze.npz", **squeeze_weights())
    absent = tmp_path / "absent"
    helpers = Helpers(
        perceptual=tmp_path / "squeeze.npz", teacher=absent, landmarks=absent, labeller=absent
    )
    for name, prefixes in (
        ("indomain", {"encoder"}),
        ("force-indomain", {"encoder", "discriminator"}),
    ):
        figures = encoder_stage.train_encoder(
            name,
            tmp_path,
            face_set(train=3, val=2),
            helpers,
            Schedule(images=4, batch_size=2),
            progress=lambda *_: None,
        )
        stored = json.loads((tmp_path / name / "figures.json").read_text())
        assert stored == {key: round(value, 4) for key, value in figures.items()}
        weights = load_file(tmp_path / name / "weights.safetensors")
        assert {key.partition(".")[0] for key in weights} == prefixes
        assert weights["encoder.gain"].shape == (4, 8)
        assert (tmp_path / name / "checkpoint.pt").is_file()
        assert (tmp_path / name / "metrics.csv").is_file()
