"""Packs of kind stylegan2 with each encoder: alone, under SAMM, and through the pipeline."""

from dataclasses import replace

import pytest
import torch

from tests.methods.filled_packs import check_edit, official_names, whole_pack
from vidinvert.errors import CheckpointError, PlanError
from vidinvert.methods import load_method
from vidinvert.networks import keymaps, keymaps_encoders
from vidinvert.networks.e4e import E4E
from vidinvert.networks.featurestyle import FeatureStyleEncoder
from vidinvert.networks.restyle import ReStyleEncoder
from vidinvert.networks.samm import SAMM, LevelSpec
from vidinvert.networks.stylegan2 import Generator

TRUNK, CHANNELS = (16, 20, 24, 32), (16, 16, 12, 12, 8)
SIZE, COUNT, WIDTH = 64, 10, 32
LEVELS = (
    LevelSpec(resolution=32, channels=12, feature_channels=24),
    LevelSpec(resolution=64, channels=8, feature_channels=20),
)
GENERATOR = {
    "kind": "stylegan2",
    "crop_size": SIZE,
    "style_count": COUNT,
    "style_width": WIDTH,
    "channels": list(CHANNELS),
    "trunk_widths": list(TRUNK),
}
KINDS = ("psp", "restyle_e4e", "restyle_psp", "featurestyle")
METHOD_OF = {
    "psp": "psp",
    "restyle_e4e": "restyle",
    "restyle_psp": "restyle",
    "featurestyle": "featurestyle",
}


def build_encoder(kind):
    """The encoder in our names, and the keymap of its official file."""
    if kind == "featurestyle":
        encoder = FeatureStyleEncoder(
            style_count=COUNT, style_width=WIDTH, trunk_widths=TRUNK, content_channels=12
        )
        return encoder, keymaps_encoders.featurestyle_file(style_count=COUNT)
    if kind == "psp":
        encoder = E4E(style_count=COUNT, trunk_widths=TRUNK, deltas=False)
        return encoder, keymaps.e4e_file(style_count=COUNT)
    encoder = ReStyleEncoder(style_count=COUNT, trunk_widths=TRUNK, deltas=kind == "restyle_e4e")
    return encoder, keymaps_encoders.restyle_file(style_count=COUNT)


def parts(kind):
    torch.manual_seed(0)
    generator = Generator(
        size=SIZE,
        style_width=WIDTH,
        channels={4 * 2**level: width for level, width in enumerate(CHANNELS)},
    )
    encoder, keymap = build_encoder(kind)
    codes = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    codes["w_mean"] = torch.randn(COUNT, WIDTH)
    bias = kind == "featurestyle"
    samm = SAMM(LEVELS, bias=bias)
    return {
        "generator": official_names(
            generator.state_dict(), keymaps.stylegan2_file(style_count=COUNT)
        ),
        "encoder": official_names(codes, keymap),
        "samm": official_names(samm.state_dict(), keymaps.samm_file(levels=2, bias=bias)),
    }


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    made = {}
    for kind in KINDS:
        torch.manual_seed(0)  # what random masks keep must not depend on the tests before
        states = parts(kind)
        settings = GENERATOR | {"encoder_kind": kind, "refine_cycles": 2}
        made[kind] = whole_pack(
            tmp_path_factory.mktemp(kind),
            settings,
            states,
            formats=dict.fromkeys(states, "official"),
        )
    return made


@pytest.fixture(scope="module")
def crops():
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_samm", [False, True])
def test_each_encoder_inverts_and_renders_alone_and_under_samm(packs, crops, kind, with_samm):
    method = load_method(packs[kind], method="samm" if with_samm else METHOD_OF[kind])
    embedding = method.embed(crops)
    assert embedding.w_plus.shape == (2, COUNT, WIDTH)
    assert len(embedding.features) == (5 if kind == "featurestyle" else 4)
    synthesis = method.synthesise(embedding, embedding.w_plus)
    assert synthesis.image.shape == (2, 3, SIZE, SIZE)
    torch.testing.assert_close(method.find_mask(embedding), synthesis.ood)
    assert (synthesis.ood.max() > 0) == with_samm
    assert len(synthesis.flows) == (2 if with_samm else 0)
    one = method.embed(crops[1:])
    torch.testing.assert_close(one.w_plus, embedding.w_plus[1:], rtol=1e-3, atol=1e-3)
    edited = method.synthesise(embedding, embedding.w_plus + 0.5).image
    assert (edited - synthesis.image).abs().max() > 1e-3
    rough = load_method(packs[kind], method=METHOD_OF[kind], dtype=torch.bfloat16)
    near = rough.embed(crops)
    assert near.w_plus.dtype == torch.float32
    assert (near.w_plus - embedding.w_plus).norm() < 0.1 * embedding.w_plus.norm()
    assert rough.synthesise(near, near.w_plus).image.isfinite().all()


def test_featurestyle_renders_its_content_and_the_generator_alone_does_not(packs, crops):
    method = load_method(packs["featurestyle"], method="featurestyle")
    embedding = method.embed(crops)
    rendered = method.synthesise(embedding, embedding.w_plus).image
    content = embedding.features[0]
    wanted = method.generator(embedding.w_plus, noise=method.generator.noise, content=content)
    assert torch.equal(rendered, wanted)
    assert not torch.equal(rendered, method.generate(embedding.w_plus))
    coarse = embedding.w_plus.clone()
    coarse[:, 0] += 1  # reaches the picture's features through the content that moves
    lost = method.generator(coarse, noise=method.generator.noise, content=content)
    kept = method.synthesise(embedding, coarse).image
    assert (kept - lost).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["restyle_e4e", "featurestyle"])
def test_an_edit_through_the_pipeline(packs, tmp_path, kind):
    check_edit(packs[kind], tmp_path, method=METHOD_OF[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["restyle_psp", "featurestyle"])
def test_an_edit_through_the_pipeline_under_samm(packs, tmp_path, kind):
    report = check_edit(packs[kind], tmp_path, method="samm:cycles=1")
    assert report["tracks"][0]["mean_ood"] > 0


def test_fewer_cycles_are_chosen_with_the_method(packs):
    chosen = load_method(packs["psp"], method="samm:cycles=3")
    assert {level.cycles for level in chosen.samm.levels} == {3}
    assert {level.cycles for level in load_method(packs["psp"], method="samm").samm.levels} == {2}
    with pytest.raises(PlanError, match=r"'steps', expected of a pack .*: cycles"):
        load_method(packs["psp"], method="samm:steps=3")


def test_the_corrected_grid_is_the_packs_choice(packs):
    for chosen in (False, True):
        settings = {**packs["psp"].settings, "align_corners": chosen}
        method = load_method(replace(packs["psp"], settings=settings), method="samm")
        assert {level.align_corners for level in method.samm.levels} == {chosen}


def test_steps_of_restyle_are_the_packs_choice(packs, crops):
    pack = packs["restyle_e4e"]
    default = {key: value for key, value in pack.settings.items() if key != "refine_cycles"}
    assert load_method(pack, method="restyle").encoder.steps == 2
    assert load_method(replace(pack, settings=default), method="restyle").encoder.steps == 5


def test_a_mean_that_a_file_does_not_hold_is_sampled(packs):
    assert "w_mean" not in torch.load(
        packs["featurestyle"].files["encoder"].path, weights_only=True
    )
    encoder = load_method(packs["featurestyle"], method="featurestyle").encoder
    assert encoder.w_mean.shape == (1, WIDTH)
    assert encoder.w_mean.isfinite().all()


def test_the_method_of_another_encoder_is_refused(packs):
    with pytest.raises(PlanError, match="an encoder of kind 'psp', but the method 'restyle' needs"):
        load_method(packs["psp"], method="restyle")
    with pytest.raises(PlanError, match="kind 'featurestyle', but the method 'e4e' needs e4e"):
        load_method(packs["featurestyle"], method="e4e")
    settings = {**packs["psp"].settings, "encoder_kind": "hfgi"}
    with pytest.raises(CheckpointError, match="has encoder_kind 'hfgi', expected one of e4e, psp"):
        load_method(replace(packs["psp"], settings=settings), method="psp")
