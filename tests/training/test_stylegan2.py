import numpy as np
import pytest
import torch

from tests.training.tiny import changed, face_set, perceptual, snapshot
from vidinvert import load_pack
from vidinvert.checkpoints import find_pack
from vidinvert.images import to_float
from vidinvert.networks.e4e import E4E
from vidinvert.training import stylegan2_stages as stages
from vidinvert.training.data import FaceSet
from vidinvert.training.loop import Schedule, train
from vidinvert.training.stages import Helpers
from vidinvert.training.stylegan2 import (
    StyleGAN2Recipe,
    StyleGAN2Settings,
    augment,
    frechet_distance,
    make_generator,
    settings_for,
)
from vidinvert.training.stylegan2_encoder import (
    StyleGAN2EncoderRecipe,
    StyleGAN2EncoderSettings,
    trunk_widths_for,
)
from vidinvert.training.stylegan2_samm import Inverted, StyleGAN2SammRecipe

TINY = StyleGAN2Settings(style_width=16, widest=8, capacity=256, mapping_layers=2, path_every=2)


def recipe(faces=None, settings=TINY):
    return StyleGAN2Recipe(faces or face_set(val=8), perceptual(), settings=settings)


def flat_faces(count=64):
    """Pictures of one colour each, orange to brown: what a generator can learn at once."""
    rng = np.random.default_rng(0)
    colours = np.array([200, 120, 60]) * rng.uniform(0.6, 1.2, (count, 1))
    pictures = np.broadcast_to(colours[:, None, None], (count, 64, 64, 3))
    return FaceSet(
        images=pictures.clip(0, 255).astype(np.uint8),
        split=np.array(["train"] * (count - 8) + ["val"] * 8),
        source=np.array(["flat"] * count),
        files=tuple(f"flat/{n}.png" for n in range(count)),
        yaw=np.full(count, np.nan),
    )


def test_sizes_have_networks_and_others_are_refused():
    assert settings_for(256).channels == {
        4: 512,
        8: 512,
        16: 512,
        32: 512,
        64: 512,
        128: 256,
        256: 128,
    }
    assert settings_for(64).channels == {4: 128, 8: 128, 16: 128, 32: 64, 64: 32}
    assert make_generator(settings_for(128)).size == 128
    with pytest.raises(ValueError, match="size is 96, expected one of"):
        StyleGAN2Settings(size=96)


def test_a_step_moves_both_networks_and_counts_what_it_augments():
    trained = recipe()
    before = {name: snapshot(module) for name, module in trained.modules.items()}
    losses = trained.step(0, 4, 0.0)
    assert {"fooled", "path", "d_loss", "r1", "sign", "augmentation"} <= set(losses)
    assert {"path", "r1"} & set(trained.step(4, 4, 0.0)) == set()  # lazy
    for name in ("generator", "discriminator"):
        moved = changed(trained.modules[name], before[name])
        assert any(key.endswith("weight") for key in moved)
        assert all(p.requires_grad for p in trained.modules[name].parameters())
    assert losses["path_length"] > 0
    sheet = trained.sheet()
    assert sheet.shape == (512, 512, 3)
    np.testing.assert_array_equal(sheet, trained.sheet())
    assert all(np.isfinite(value) for value in trained.evaluate(count=2).values())


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path):
    whole, first, second = recipe(), recipe(), recipe()
    train(whole, Schedule(images=32, batch_size=4), tmp_path / "whole")
    train(first, Schedule(images=16, batch_size=4, decay_from=0.99), tmp_path / "parts")
    state = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert state["images"] == 16
    assert state["modules"]["state"]["path_length"] > 0
    # The rate depends on the length of the run: both have the long one's up to its half.
    train(second, Schedule(images=32, batch_size=4), tmp_path / "parts")
    for name, module in whole.modules.items():
        assert changed(second.modules[name], snapshot(module)) == set()


def test_the_path_penalty_is_the_deviation_of_the_slope():
    trained = recipe()
    random = torch.Generator().manual_seed(1)
    _, first = trained._path_penalty(4, random)
    assert first > 0
    penalty, mean = trained._path_penalty(4, torch.Generator().manual_seed(1))
    w_plus = trained._codes(4, (random := torch.Generator().manual_seed(1)))
    pictures = trained._draw(w_plus, random)
    noise = torch.randn(pictures.shape, generator=random) / 64
    lengths = []
    for number in range(4):  # picture by picture, as the equation has it
        product = (pictures[number] * noise[number]).sum()
        (slope,) = torch.autograd.grad(product, w_plus, retain_graph=True)
        lengths.append(slope[number].square().sum(dim=1).mean().sqrt())
    expected = (torch.stack(lengths) - mean).square().mean()
    torch.testing.assert_close(penalty, expected, rtol=1e-3, atol=1e-8)


def test_augmentation_changes_as_many_pictures_as_it_says_and_passes_gradients():
    pictures = torch.rand(200, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    random = torch.Generator().manual_seed(0)
    assert augment(pictures, probability=0.0, random=random) is pictures
    changed_some = augment(pictures, probability=0.1, random=random)
    same = (changed_some - pictures).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert pytest.approx(float(same.float().mean()), abs=0.12) == 0.9**7
    wanted = pictures[:4].clone().requires_grad_(True)
    augment(wanted, probability=1.0, random=random).square().sum().backward()
    assert wanted.grad is not None
    assert wanted.grad.abs().sum() > 0


def test_the_distance_of_clouds_is_that_of_gaussians():
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(4000, 3))
    assert frechet_distance(cloud, cloud) == pytest.approx(0.0, abs=1e-6)
    moved = frechet_distance(cloud, 2.0 * cloud + [3.0, 0.0, 0.0])
    assert moved == pytest.approx(1000 * (9.0 + 3.0), rel=0.06)  # shift^2, and (2 - 1)^2 an axis


@pytest.mark.slow
def test_the_generator_learns_the_colours_of_a_toy_set(tmp_path):
    faces = flat_faces()
    settings = StyleGAN2Settings(
        style_width=16, widest=16, capacity=512, mapping_layers=2, learning_rate=5e-3
    )
    trained = recipe(faces, settings)

    def miss():
        with torch.inference_mode():
            made = trained._samples(16).mean(dim=(0, 2, 3))
        return float((made - to_float(faces.images).mean(dim=(0, 2, 3))).abs().mean())

    before = miss(), trained.evaluate(count=4)["frechet"]
    train(trained, Schedule(images=1_200, batch_size=8, ema_images=80), tmp_path)
    after = miss(), trained.evaluate(count=4)["frechet"]
    assert after[0] < 0.6 * before[0], (before, after)
    assert after[1] < 0.8 * before[1], (before, after)


def encoder_recipe(**options):
    torch.manual_seed(3)
    settings = StyleGAN2Settings(style_width=128, widest=8, capacity=256, mapping_layers=2)
    given = StyleGAN2EncoderSettings(**options)
    return StyleGAN2EncoderRecipe(
        face_set(), make_generator(settings), perceptual(), settings=given
    )


@pytest.mark.slow
def test_the_encoder_learns_level_after_level(tmp_path):
    trained = encoder_recipe(learning_rate=3e-4)  # at ten times that, rounding decides
    frozen = snapshot(trained._generator)
    target = to_float(trained._validation)
    encoder = trained.modules["encoder"]
    assert isinstance(encoder, E4E)
    with torch.no_grad():
        alone, added = trained._codes(encoder, target, 0.0)
        assert added.abs().max() == 0
        assert (alone - alone[:, :1]).abs().max() == 0  # one vector serves all levels
        assert (trained._codes(encoder, target, 0.2)[1].abs().amax(dim=(0, 2)) > 0).sum() == 4
    steps = [trained.step(4 * number, 4, 0.5 if number else 0.0) for number in range(9)]
    errors = [step["pixel"] + step["squeeze"] for step in steps]
    assert np.mean(errors[-3:]) < 0.85 * errors[0], errors
    assert changed(trained._generator, frozen) == set()
    assert trained.sheet().shape == (128, 2 * 64, 3)
    assert set(trained.evaluate()) == {"psnr", "squeeze"}


@pytest.mark.slow
def test_the_stages_make_a_pack_that_inverts(tmp_path, monkeypatch):
    faces = face_set(train=12, val=8)
    monkeypatch.setattr(stages, "settings_for", lambda size: TINY_64)
    monkeypatch.setattr(stages, "load_perceptual", lambda path: perceptual())
    points = np.random.default_rng(0).uniform(60, 200, (len(faces.images), 68, 2))
    monkeypatch.setattr(stages, "find_landmarks", lambda *given: points)
    schedule = Schedule(images=8, batch_size=4)
    helpers = Helpers(perceptual=tmp_path, teacher=tmp_path, landmarks=tmp_path, labeller=tmp_path)
    silent = lambda seen, total, values: None  # noqa: E731
    stages.train_stylegan2(tmp_path, faces, helpers, schedule, size=64, progress=silent)
    stages.train_stylegan2_encoder(tmp_path, faces, helpers, schedule, progress=silent)
    made = stages.write_stylegan2_pack(tmp_path, faces, helpers, start=find_pack("mini"))
    assert "samm" not in made.files
    loaded = load_pack(str(tmp_path / "stylegan2-pack"), method="e4e")
    assert (loaded.method.crop_size, loaded.method.style_count) == (64, 10)
    crops = to_float(faces.images[:2, ::4, ::4])
    embedding = loaded.method.embed(crops)
    assert embedding.w_plus.shape == (2, 10, 128)
    assert loaded.method.generate(embedding.w_plus).shape == (2, 3, 64, 64)
    stages.train_stylegan2_samm(tmp_path, faces, helpers, schedule, progress=silent)
    stages.write_stylegan2_pack(tmp_path, faces, helpers, start=find_pack("mini"))
    loaded = load_pack(str(tmp_path / "stylegan2-pack"), method="samm")
    assert loaded.pack.settings["align_corners"] is True
    synthesis = loaded.method.synthesise(embedding, embedding.w_plus)
    assert synthesis.image.shape == (2, 3, 64, 64)
    assert 0.0 < synthesis.ood.mean() < 1.0
    assert [flow.shape[-1] for flow in synthesis.flows] == [32, 64]


def test_samm_is_trained_on_a_stylegan2_and_nothing_else_is():
    torch.manual_seed(3)
    shape = StyleGAN2Settings(style_width=128, widest=8, capacity=256, mapping_layers=2)
    generator = make_generator(shape)
    widths = trunk_widths_for(128)
    networks = Inverted(
        generator=generator,
        encoder=E4E(style_count=generator.style_count, trunk_widths=widths),
        w_mean=torch.zeros(1, 128),
        channels=shape.channels,
        trunk_widths=widths,
    )
    recipe = StyleGAN2SammRecipe(face_set(train=3, val=2), networks, perceptual())
    frozen = [snapshot(recipe._generator), snapshot(recipe._encoder)]
    before = snapshot(recipe.modules["samm"])
    losses = recipe.step(0, 2, 0.0)
    assert 0.0 <= losses["mean_ood"] <= 1.0
    assert losses["planted"] > 0.0 or losses["face"] > 0.0
    assert changed(recipe.modules["samm"], before)
    assert changed(recipe._generator, frozen[0]) == set()
    assert changed(recipe._encoder, frozen[1]) == set()
    assert recipe.sheet().shape == (4 * 64, 2 * 64, 3)
    assert set(recipe.evaluate(count=2)) == {"mean_ood", "mean_ood_face", "psnr", "planted_iou"}


TINY_64 = StyleGAN2Settings(style_width=128, widest=8, capacity=256)
