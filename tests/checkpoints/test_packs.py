import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vidinvert import checkpoints
from vidinvert.checkpoints import packs
from vidinvert.errors import CheckpointError, ChecksumError, MissingError
from vidinvert.types import FacePack

GENERATOR = {"kind": "stylegan2", "crop_size": 16, "style_count": 2, "style_width": 3}


def write(directory: Path, **changes) -> FacePack:
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / "generator.safetensors"
    if not weights.exists():
        save_file({"a": torch.arange(4.0)}, weights)
    arguments = {
        "name": directory.name,
        "version": "1",
        "license": "CC0-1.0",
        "summary": 'Says "hello"\nand \\ more',
        "generator": GENERATOR | {"cycles": 2, "align_corners": True, "channels": [4, 8]},
        "files": {"generator": "generator.safetensors"},
        "provenance": {"trained on": "nothing", "steps": {"first": 1.5}},
        "figures": {"psnr": 25.0},
    }
    return checkpoints.write_pack(directory, **(arguments | changes))


@pytest.fixture
def pack(tmp_path) -> FacePack:
    return write(tmp_path / "own")


@pytest.fixture
def user_packs(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VIDINVERT_PACKS", str(tmp_path))
    return tmp_path


def edit(pack: FacePack, old: str, new: str) -> None:
    path = pack.directory / "pack.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_is_written_is_read_back(pack):
    assert pack.summary == 'Says "hello"\nand \\ more'
    assert (pack.generator, pack.crop_size, pack.style_count, pack.style_width) == (
        "stylegan2",
        16,
        2,
        3,
    )
    assert pack.settings == {"cycles": 2, "align_corners": True, "channels": [4, 8]}
    assert pack.provenance == {"trained on": "nothing", "steps": {"first": 1.5}}
    assert pack.files["generator"].size_bytes == pack.files["generator"].path.stat().st_size
    checkpoints.verify_pack(pack)


def test_figures_of_a_direction_are_read_beside_it_and_in_a_table_of_their_own(tmp_path):
    entry = {"unit": "one", "source": "made up", "layers": [0]}
    directions = {
        "smile": {**entry, "figures": {"correlation": 0.9}},
        "age": {**entry, "correlation": 0.8, "keeps_colour": True},
    }
    pack = write(tmp_path / "own", directions=directions)
    assert pack.directions["smile"].figures == {"correlation": 0.9}
    assert pack.directions["age"].figures == {"correlation": 0.8}
    assert pack.directions["age"].keeps_colour
    assert not pack.directions["smile"].keeps_colour


@pytest.mark.promise(18)
def test_the_same_pack_is_written_as_the_same_bytes(pack):
    first = (pack.directory / "pack.toml").read_bytes()
    assert write(pack.directory).sha256 == pack.sha256
    assert (pack.directory / "pack.toml").read_bytes() == first


def test_packs_are_found_by_name_and_by_directory(pack, user_packs, monkeypatch):
    assert checkpoints.find_pack("own").sha256 == pack.sha256
    assert checkpoints.find_pack(str(pack.directory)).sha256 == pack.sha256
    assert checkpoints.find_pack(pack.directory).name == "own"
    assert "own" in [p.name for p in checkpoints.list_packs()]
    monkeypatch.chdir(user_packs)
    assert checkpoints.find_pack("./own").name == "own"


def test_shipped_packs_come_first(user_packs, tmp_path, monkeypatch):
    shipped = tmp_path / "shipped"
    monkeypatch.setattr(packs, "SHIPPED_PACKS", shipped)
    write(tmp_path / "own", version="users")
    write(shipped / "own", version="shipped")
    assert checkpoints.find_pack("own").version == "shipped"
    assert [p.version for p in checkpoints.list_packs() if p.name == "own"] == ["shipped"]


def test_an_unknown_pack_is_named_with_those_that_exist(pack, user_packs):
    with pytest.raises(MissingError, match=r"No face pack 'other'.*found: .*own"):
        checkpoints.find_pack("other")


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/vidinvert/packs"),
        ("darwin", {}, "Library/Application Support/vidinvert/packs"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/vidinvert/packs"),
    ],
)
def test_user_packs_live_where_the_platform_keeps_data(monkeypatch, platform, variables, expected):
    monkeypatch.delenv("VIDINVERT_PACKS", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(packs.sys, "platform", platform)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert checkpoints.user_packs_directory().as_posix().endswith(expected)


def test_a_missing_file_is_named(pack):
    pack.files["generator"].path.unlink()
    with pytest.raises(MissingError, match=r"generator\.safetensors is not there"):
        checkpoints.verify_pack(pack)
    with pytest.raises(MissingError, match="expected the part 'generator'"):
        write(pack.directory, files={"generator": "gone.safetensors"})


def test_a_part_that_the_pack_does_not_have_is_named(pack):
    with pytest.raises(MissingError, match="no part 'samm', only generator"):
        checkpoints.verify_file(pack, "samm")


@pytest.mark.promise(14)
def test_changed_files_are_refused(pack):
    path = pack.files["generator"].path
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    with pytest.raises(ChecksumError, match=r"has \d+ bytes, expected"):
        checkpoints.verify_pack(pack)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ChecksumError, match="has sha256"):
        checkpoints.load_part(pack, "generator")


@pytest.mark.promise(14)
@pytest.mark.parametrize("path", ["../out.bin", "/etc/hosts", "a/../../b", "a\\\\b", "C:x", ""])
def test_paths_that_lead_out_of_the_pack_are_refused(pack, path):
    edit(pack, '"generator.safetensors"', f'"{path}"')
    with pytest.raises(CheckpointError, match="expected one inside the pack"):
        checkpoints.read_pack(pack.directory)


@pytest.mark.promise(14)
def test_links_that_lead_out_of_the_pack_are_refused(pack, tmp_path):
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"x")
    path = pack.files["generator"].path
    path.unlink()
    os.symlink(outside, path)
    with pytest.raises(CheckpointError, match="expected one inside the pack"):
        checkpoints.read_pack(pack.directory)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema = 1", "schema = 2", "has schema 2, expected 1"),
        ("schema = 1", "schema = ", "is not valid TOML"),
        ('kind = "stylegan2"', "kind = 3", "kind is 3, expected a value of type str"),
        ("crop_size = 16", "crop_size = true", "crop_size is True, expected"),
        ("[generator]", "[generators]", "generator is None, expected a value of type dict"),
        ('sha256 = "', 'sha256 = "x', "expected one of vidinvert, official and 64"),
    ],
)
def test_descriptions_that_do_not_follow_the_schema_are_refused(pack, old, new, message):
    edit(pack, old, new)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.read_pack(pack.directory)


def test_a_directory_without_a_description_is_no_pack(tmp_path):
    with pytest.raises(MissingError, match="expected the description of a face pack"):
        checkpoints.read_pack(tmp_path)


def test_values_that_toml_cannot_hold_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"cannot be written to pack\.toml"):
        write(tmp_path / "own", figures={"psnr": None})
