from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vidinvert.checkpoints import write_pack
from vidinvert.errors import CheckpointError, PlanError
from vidinvert.methods import load_method
from vidinvert.networks import keymaps
from vidinvert.networks.e4e import E4E
from vidinvert.networks.samm import SAMM, LevelSpec
from vidinvert.networks.stylegan2 import Generator
from vidinvert.types import FacePack

TRUNK = (16, 32, 48, 64)
CHANNELS = (16, 16, 12, 12, 8)
SIZE, STYLE_COUNT, STYLE_WIDTH = 64, 10, 64
LEVELS = (
    LevelSpec(resolution=32, channels=12, feature_channels=48),
    LevelSpec(resolution=64, channels=8, feature_channels=32),
)
GENERATOR = {
    "kind": "stylegan2",
    "crop_size": SIZE,
    "style_count": STYLE_COUNT,
    "style_width": STYLE_WIDTH,
    "channels": list(CHANNELS),
    "trunk_widths": list(TRUNK),
}


def parts() -> dict[str, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    channels = {4 * 2**level: width for level, width in enumerate(CHANNELS)}
    generator = Generator(size=SIZE, style_width=STYLE_WIDTH, channels=channels)
    encoder = E4E(style_count=STYLE_COUNT, trunk_widths=TRUNK)
    samm = SAMM(LEVELS)
    codes = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    codes["w_mean"] = torch.randn(1, STYLE_WIDTH)
    return {"generator": generator.state_dict(), "encoder": codes, "samm": samm.state_dict()}


def describe(directory: Path, suffix: str = "safetensors", **changes) -> FacePack:
    arguments = {
        "name": "tiny",
        "version": "1",
        "license": "CC0-1.0",
        "summary": "Random weights.",
        "generator": GENERATOR,
        "files": {part: f"{part}.{suffix}" for part in ("generator", "encoder", "samm")},
    }
    return write_pack(directory, **(arguments | changes))


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> FacePack:
    directory = tmp_path_factory.mktemp("tiny")
    for part, state in parts().items():
        save_file({k: v.contiguous() for k, v in state.items()}, directory / f"{part}.safetensors")
    return describe(directory)


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_samm_inverts_and_renders(pack, crops):
    method = load_method(pack, method="samm")
    assert (method.crop_size, method.style_count, method.style_width) == (64, 10, 64)
    embedding = method.embed(crops)
    assert embedding.w_plus.shape == (2, STYLE_COUNT, STYLE_WIDTH)
    synthesis = method.synthesise(embedding, embedding.w_plus)
    assert synthesis.image.shape == (2, 3, SIZE, SIZE)
    assert synthesis.ood.shape == (2, 1, SIZE, SIZE)
    assert [f.shape[-1] for f in synthesis.flows] == [32, 64]
    torch.testing.assert_close(method.find_mask(embedding), synthesis.ood)
    again = method.synthesise(method.embed(crops), embedding.w_plus)
    assert torch.equal(again.image, synthesis.image)
    plain = method.generate(embedding.w_plus)
    assert plain.shape == synthesis.image.shape
    assert not torch.equal(plain, synthesis.image)  # the generator alone is not aligned


def test_a_batch_equals_its_parts(pack, crops):
    method = load_method(pack, method="samm")
    whole = method.embed(crops)
    one = method.embed(crops[1:])
    torch.testing.assert_close(one.w_plus, whole.w_plus[1:], rtol=1e-4, atol=1e-4)
    pair = method.synthesise(whole, whole.w_plus)
    single = method.synthesise(one, one.w_plus)
    torch.testing.assert_close(single.image, pair.image[1:], rtol=1e-3, atol=1e-3)


def test_e4e_by_itself_keeps_nothing_of_the_source(pack, crops):
    method = load_method(pack, method="e4e")
    embedding = method.embed(crops)
    synthesis = method.synthesise(embedding, embedding.w_plus)
    assert synthesis.image.shape == (2, 3, SIZE, SIZE)
    assert synthesis.ood.abs().max() == 0
    assert torch.equal(method.find_mask(embedding), synthesis.ood)
    assert torch.equal(method.generate(embedding.w_plus), synthesis.image)


def test_bfloat16_keeps_codes_and_pictures_in_float32(pack, crops):
    exact = load_method(pack, method="samm")
    rough = load_method(pack, method="samm", dtype=torch.bfloat16)
    codes, rough_codes = exact.embed(crops).w_plus, rough.embed(crops).w_plus
    assert rough_codes.dtype == torch.float32
    assert (codes - rough_codes).norm() < 0.05 * codes.norm()
    synthesis = rough.synthesise(rough.embed(crops), codes)
    assert synthesis.image.dtype == torch.float32
    wanted = exact.synthesise(exact.embed(crops), codes).image
    assert (synthesis.image - wanted).norm() < 0.1 * wanted.norm()


def test_official_files_give_the_same_method(pack, crops, tmp_path):
    states = parts()
    maps = {
        "generator": keymaps.stylegan2_file(style_count=STYLE_COUNT),
        "encoder": keymaps.e4e_file(style_count=STYLE_COUNT),
        "samm": keymaps.samm_file(levels=2),
    }
    for part, keymap in maps.items():
        official = {theirs: states[part][ours] for theirs, ours in keymap.renames.items()}
        if part == "generator":
            official["latent_avg"] = torch.zeros(STYLE_WIDTH)
            official["g_ema.convs.0.conv.blur.kernel"] = torch.zeros(4, 4)
            official["d.convs.0.weight"] = torch.zeros(3)
        torch.save(official, tmp_path / f"{part}.pt")
    theirs = describe(tmp_path, "pt", formats={part: "official" for part in maps})
    expected = load_method(pack, method="samm")
    seen = load_method(theirs, method="samm")
    embedding = expected.embed(crops)
    torch.testing.assert_close(seen.embed(crops).w_plus, embedding.w_plus)
    torch.testing.assert_close(
        seen.synthesise(embedding, embedding.w_plus).image,
        expected.synthesise(embedding, embedding.w_plus).image,
    )


def test_methods_that_a_pack_does_not_run_are_refused(pack):
    with pytest.raises(PlanError, match=r"does not run the method 'other'.*one of: samm, e4e"):
        load_method(pack, method="other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"style_count": 14}, "has style_count 14, expected 10 for crop_size 64"),
        ({"trunk_widths": [16, 16, 16, 48]}, "the last as wide as a style vector"),
        ({"pyramid_upsampling": "cubic"}, "expected one of bilinear, bicubic"),
        ({"align_corners": "no"}, "expected one of False, True"),
    ],
)
def test_descriptions_that_do_not_fit_the_networks_are_refused(pack, change, message):
    wrong = describe(pack.directory, generator=GENERATOR | change)
    try:
        with pytest.raises(CheckpointError, match=message):
            load_method(wrong, method="samm")
    finally:
        describe(pack.directory)
