"""In-Domain inversion's files into a pack."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.networks.parity import fill_rule, relative_error
from tests.official_files import theirs
from tests.shared_data import shared_path
from tests.tolerances import FLOAT32_PARITY
from vidinvert.checkpoints import fill_module, load_part, verify_pack
from vidinvert.errors import CheckpointError, KeyMismatchError, MissingError
from vidinvert.networks import keymaps_indomain
from vidinvert.networks.indomain import DomainGuidedEncoder
from vidinvert.networks.stylegan1 import Generator1
from vidinvert.networks.vgg import Vgg16Features
from vidinvert.official import ImportPlan, import_files

SIZE, L, D = 64, 10, 16
CHANNELS, WIDTHS, VGG_WIDTHS = (16, 16, 12, 12, 8), (6, 8, 10, 12, 14), (4, 4, 6, 8)
PLAN = ImportPlan(kind="idinvert", detector=None, license="MIT")
NAMES = ("generator", "encoder", "vgg")


def networks() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    channels = {4 * 2**level: width for level, width in enumerate(CHANNELS)}
    return {
        "generator": Generator1(size=SIZE, style_width=D, channels=channels),
        "encoder": DomainGuidedEncoder(size=SIZE, style_count=L, style_width=D, widths=WIDTHS),
        "vgg": Vgg16Features(widths=VGG_WIDTHS),
    }


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    folder = tmp_path / "files"
    folder.mkdir()
    maps = {
        "generator": keymaps_indomain.stylegan1(style_count=L),
        "encoder": keymaps_indomain.domain_guided_encoder(blocks=4),
        "vgg": keymaps_indomain.vgg16(),
    }
    paths = {}
    for name, network in networks().items():
        state = theirs(network.state_dict(), maps[name])
        if name == "generator":
            state["synthesis.lod"] = torch.zeros(())
        paths[name] = folder / f"{name}.pth"
        torch.save(state, paths[name])
    return paths


def change(path: Path, **entries) -> None:
    content = torch.load(path, weights_only=True)
    for name, tensor in entries.items():
        content.pop(name) if tensor is None else content.update({name: tensor})
    torch.save(content, path)


def test_three_files_make_a_pack_of_their_kind(tmp_path, files):
    pack = import_files(list(files.values()), tmp_path / "faces", PLAN)
    verify_pack(pack)
    assert (pack.generator, pack.crop_size) == ("stylegan1", SIZE)
    assert (pack.style_count, pack.style_width) == (L, D)
    assert pack.settings["channels"] == list(CHANNELS)
    assert pack.settings["encoder_widths"] == list(WIDTHS)
    assert pack.settings["vgg_widths"] == list(VGG_WIDTHS)
    assert set(pack.files) == set(NAMES)
    for name, network in networks().items():
        state = load_part(pack, name)
        assert state.keys() == network.state_dict().keys()
        assert all(torch.equal(state[key], t) for key, t in network.state_dict().items())


def test_a_generator_without_its_constant_of_truncation_is_read(tmp_path, files):
    change(files["generator"], **{"truncation.truncation": None})
    pack = import_files([files["generator"], files["encoder"]], tmp_path / "faces", PLAN)
    wanted = networks()["generator"].get_buffer("truncation")
    assert torch.equal(load_part(pack, "generator")["truncation"], wanted)


@pytest.mark.parametrize(
    ("which", "entries", "message"),
    [
        ("generator", {"synthesis.layer2.weight": torch.ones(1)},
         r"1 not mentioned: synthesis\.layer2\.weight"),
        ("generator", {"synthesis.layer3.epilogue.bias": None}, "does not fit the keymap"),
        ("generator", {"synthesis.layer2.epilogue.bias": torch.ones(9)},
         r"synthesis\.layer2\.epilogue\.bias has the shape \(9,\)"),
        ("encoder", {"block1.conv1.weight": torch.ones(1, 8, 3, 3)},
         r"block1\.conv1\.weight has the shape \(1, 8, 3, 3\)"),
        ("encoder", {"block9.x": torch.ones(1)}, r"1 not mentioned: block9\.x"),
        ("encoder", {"block5.fc.weight": torch.ones(15 * L, 14 * 16)},
         r"encoder\.pth has style_width 15, expected 16 as \S+generator\.pth has"),
        ("vgg", {"layer0.bias": None}, r"1 missing: layer0\.bias"),
        ("vgg", {"layer2.weight": torch.ones(5, 4, 3, 3)}, r"layer2\.\S+ has the shape"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_as_the_file_names_it(tmp_path, files, which, entries, message):
    change(files[which], **entries)
    with pytest.raises(CheckpointError, match=message):
        import_files(list(files.values()), tmp_path / "faces", PLAN)
    assert not (tmp_path / "faces").exists()


def test_files_of_other_systems_are_not_mixed_in(tmp_path, files):
    from tests import official_files as made

    with pytest.raises(MissingError, match=r"No encoder was found in generator\.pth"):
        import_files([files["generator"]], tmp_path / "faces", PLAN)
    other = made.rosinality(tmp_path / "stylegan2.pt")
    with pytest.raises(KeyMismatchError, match="has kind stylegan1, expected stylegan2 as"):
        import_files([other, files["generator"]], tmp_path / "faces", PLAN)


@pytest.mark.shared
@pytest.mark.slow
def test_files_of_the_official_size_equal_the_official_networks(tmp_path):
    recorded = np.load(shared_path("parity/idinvert_256.npz"))
    table = json.loads(shared_path("parity/idinvert_256.json").read_text())
    fill = fill_rule().fill
    states: dict[str, dict[str, torch.Tensor]] = {name: {} for name in NAMES}
    for key, (shape, kind) in table.items():
        part, _, name = key.partition(".")
        counts = name.endswith("num_batches_tracked")
        empty = torch.zeros(shape, dtype=torch.int64 if counts else torch.float32)
        filled = torch.from_numpy(fill(key, tuple(shape))) if kind == "filled" else empty
        states[part][name] = filled
    paths = []
    for part, state in states.items():
        paths.append(tmp_path / f"{part}.pth")
        torch.save(state, paths[-1])
    pack = import_files(paths, tmp_path / "faces", PLAN)
    assert (pack.crop_size, pack.style_count, pack.style_width) == (256, 14, 512)
    with torch.device("meta"):  # the file was recorded without the tanh that ends the pictures
        generator = Generator1(size=256, final_tanh=False)
        encoder = DomainGuidedEncoder(size=256, style_count=14)
    for part, module in (("generator", generator), ("encoder", encoder)):
        fill_module(module, load_part(pack, part), source=part)
        module.eval().requires_grad_(False)
    crop = torch.from_numpy(recorded["image_uint8"]).permute(2, 0, 1)[None].float() / 127.5 - 1
    w_plus = encoder(crop)
    assert relative_error(w_plus[0], recorded["w_plus"]) < FLOAT32_PARITY
    assert relative_error(generator(w_plus)[0], recorded["generated"]) < FLOAT32_PARITY
