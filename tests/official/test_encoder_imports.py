"""pSp, ReStyle and FeatureStyle into packs, alone and under SAMM."""

import argparse
from pathlib import Path

import pytest
import torch

from tests import official_files as made
from vidinvert.checkpoints import load_part, verify_pack
from vidinvert.errors import KeyMismatchError, MissingError
from vidinvert.methods import load_method
from vidinvert.networks import keymaps, keymaps_encoders
from vidinvert.networks.e4e import E4E
from vidinvert.networks.featurestyle import FeatureStyleEncoder
from vidinvert.networks.restyle import ReStyleEncoder
from vidinvert.networks.samm import SAMM
from vidinvert.official import ImportPlan, import_files
from vidinvert.official.encoder_parts import ENCODER_TYPES

L = made.STYLE_COUNT
TYPES = {kind: name for name, kind in ENCODER_TYPES.items()}


def plan(kind: str, **changes) -> ImportPlan:
    return ImportPlan(**({"kind": kind, "detector": None} | changes))


def network(kind: str) -> torch.nn.Module:
    torch.manual_seed(5)
    if kind.startswith("restyle"):
        return ReStyleEncoder(style_count=L, trunk_widths=made.TRUNK, deltas=kind == "restyle_e4e")
    return E4E(style_count=L, trunk_widths=made.TRUNK, deltas=False)


def write(path: Path, kind: str, *, named: bool = True) -> Path:
    """Like `psp_ffhq_encode.pt` and `restyle_*_encode.pt`."""
    state = {f"encoder.{name}": t for name, t in network(kind).state_dict().items()}
    keymap = keymaps_encoders.restyle if kind.startswith("restyle") else keymaps.e4e
    flat = made.theirs(state, keymap(style_count=L, ours="encoder."))
    inner = keymaps.stylegan2(style_count=L, theirs="state_dict.decoder.")
    flat |= made.theirs(made.generator_state(), inner)
    content = made.nest(flat, "state_dict") | {"latent_avg": made.w_mean()}
    if named:
        content["opts"] = argparse.Namespace(encoder_type=TYPES[kind])
    torch.save(content, path)
    return path


def write_featurestyle(path: Path, *, content_bias: bool = False) -> Path:
    """Like `143_enc.pth`."""
    torch.manual_seed(6)
    encoder = FeatureStyleEncoder(
        style_count=L,
        style_width=made.STYLE_WIDTH,
        trunk_widths=made.TRUNK,
        content_channels=made.CHANNELS[2],
        content_bias=content_bias,
    )
    keymap = keymaps_encoders.featurestyle(style_count=L, content_bias=content_bias)
    torch.save(made.theirs(encoder.state_dict(), keymap), path)
    return path


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("psp", True),
        ("restyle_e4e", True),
        ("restyle_psp", False),
        pytest.param("psp", False, marks=pytest.mark.slow),
        pytest.param("restyle_e4e", False, marks=pytest.mark.slow),
        pytest.param("restyle_psp", True, marks=pytest.mark.slow),
    ],
)
def test_every_encoder_becomes_a_pack_of_its_kind(tmp_path, kind, named):
    path = write(tmp_path / "x.pt", kind, named=named)
    general = "restyle" if named and kind.startswith("restyle") else kind
    pack = import_files([path], tmp_path / "faces", plan(general))
    verify_pack(pack)
    assert pack.settings["encoder_kind"] == kind
    state = load_part(pack, "encoder")
    wanted = network(kind).state_dict()
    assert state.keys() == {*(f"encoder.{name}" for name in wanted), "w_mean"}
    assert all(torch.equal(state[f"encoder.{name}"], t) for name, t in wanted.items())
    method = load_method(pack, method=kind.partition("_")[0])
    embedding = method.embed(torch.rand(1, 3, 64, 64) * 2 - 1)
    assert method.synthesise(embedding, embedding.w_plus).image.shape == (1, 3, 64, 64)


@pytest.mark.parametrize("content_bias", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_featurestyle_joins_a_generator_and_takes_its_mean(tmp_path, content_bias):
    generator = made.rosinality(tmp_path / "g.pt")
    encoder = write_featurestyle(tmp_path / "143_enc.pth", content_bias=content_bias)
    with pytest.raises(MissingError, match=r"No generator was found in 143_enc\.pth"):
        import_files([encoder], tmp_path / "alone", plan("featurestyle"))
    pack = import_files([generator, encoder], tmp_path / "faces", plan("featurestyle"))
    assert pack.settings["encoder_kind"] == "featurestyle"
    torch.testing.assert_close(load_part(pack, "encoder")["w_mean"], made.w_mean()[None])
    method = load_method(pack, method="featurestyle")
    embedding = method.embed(torch.rand(1, 3, 64, 64) * 2 - 1)
    assert method.synthesise(embedding, embedding.w_plus).image.shape == (1, 3, 64, 64)


def test_samm_with_biases_joins_featurestyle(tmp_path):
    torch.manual_seed(7)
    state = SAMM(made.LEVELS, bias=True).state_dict()
    flat = made.theirs(state, keymaps.samm(levels=len(made.LEVELS), bias=True))
    torch.save(made.nest(flat, "params_ema"), tmp_path / "net_g.pth")
    files = [
        made.rosinality(tmp_path / "g.pt"),
        write_featurestyle(tmp_path / "143_enc.pth"),
        tmp_path / "net_g.pth",
    ]
    pack = import_files(files, tmp_path / "faces", plan("samm"))
    assert pack.settings["bias"] is True
    assert "pyramid_upsampling" not in pack.settings
    method = load_method(pack, method="samm")
    embedding = method.embed(torch.rand(1, 3, 64, 64) * 2 - 1)
    assert method.synthesise(embedding, embedding.w_plus).ood.shape == (1, 1, 64, 64)


def test_files_of_another_kind_are_refused(tmp_path):
    restyle = write(tmp_path / "restyle.pt", "restyle_psp")
    with pytest.raises(KeyMismatchError, match="of kind restyle_psp, expected one of kind psp"):
        import_files([restyle], tmp_path / "faces", plan("psp"))
    unnamed = write(tmp_path / "unnamed.pt", "restyle_psp", named=False)
    with pytest.raises(KeyMismatchError, match="takes 6 channels, expected 3 of pSp"):
        import_files([unnamed], tmp_path / "faces", plan("psp"))
    with pytest.raises(KeyMismatchError, match="kind restyle_e4e or restyle_psp"):
        import_files([unnamed], tmp_path / "faces", plan("restyle"))
    psp = write(tmp_path / "psp.pt", "psp", named=False)
    with pytest.raises(KeyMismatchError, match="takes 3 channels, expected 6 of ReStyle on e4e"):
        import_files([psp], tmp_path / "faces", plan("restyle_e4e"))
    content = torch.load(restyle, weights_only=False)
    content["opts"].encoder_type = "ResNetBackboneEncoder"
    torch.save(content, restyle)
    with pytest.raises(KeyMismatchError, match="'ResNetBackboneEncoder', not known, expected"):
        import_files([restyle], tmp_path / "faces", plan("restyle"))


def test_an_encoder_is_replaced_by_another_kind_only_when_asked(tmp_path):
    import_files([made.e4e(tmp_path / "e4e.pt")], tmp_path / "faces", plan("e4e"))
    psp = write(tmp_path / "psp.pt", "psp")
    with pytest.raises(KeyMismatchError, match="has encoder_kind psp, expected e4e as"):
        import_files([psp], tmp_path / "faces", plan("psp"))
    pack = import_files([psp], tmp_path / "faces", plan("psp", overwrite=True))
    assert pack.settings["encoder_kind"] == "psp"
    verify_pack(pack)


def test_a_generator_of_few_mapping_layers_runs_with_an_encoder(tmp_path):
    generator = made.rosinality(tmp_path / "g.pt", mapping_layers=2)
    encoder = write_featurestyle(tmp_path / "143_enc.pth")
    pack = import_files([generator, encoder], tmp_path / "faces", plan("featurestyle"))
    assert pack.settings["mapping_layers"] == 2
    method = load_method(pack, method="featurestyle")
    assert method.generate(torch.zeros(1, L, made.STYLE_WIDTH)).shape == (1, 3, 64, 64)
