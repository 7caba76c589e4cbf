import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vidinvert import checkpoints
from vidinvert.errors import CheckpointError, KeyMismatchError, MissingError
from vidinvert.types import Keymap

GENERATOR = {"kind": "eigen", "crop_size": 16, "style_count": 2, "style_width": 3}
SMILE = {"unit": "one standard deviation", "source": "a fit", "layers": [0, 1], "correlation": 0.9}


def pack_with_directions(directory: Path, vectors: dict[str, torch.Tensor]):
    save_file(vectors, directory / "directions.safetensors")
    return checkpoints.write_pack(
        directory,
        name="own",
        version="1",
        license="CC0-1.0",
        summary="A test.",
        generator=GENERATOR,
        files={"directions": "directions.safetensors"},
        directions={"smile": SMILE},
    )


@pytest.mark.promise(14)
def test_safetensors_are_read(tmp_path):
    save_file({"a": torch.arange(3)}, tmp_path / "w.safetensors")
    assert checkpoints.load_weights(tmp_path / "w.safetensors")["a"].tolist() == [0, 1, 2]


def test_nested_tables_become_dotted_names_and_options_are_left_out(tmp_path):
    content = {
        "state_dict": {"encoder.a": torch.ones(2)},
        "latent_avg": torch.zeros(3),
        "opts": {"lr": 1e-4, "name": "e4e"},
        "step": 7,
    }
    torch.save(content, tmp_path / "w.pt")
    state = checkpoints.load_weights(tmp_path / "w.pt")
    assert set(state) == {"state_dict.encoder.a", "latent_avg"}
    torch.save(torch.ones(4), tmp_path / "bare.pth")
    assert checkpoints.load_weights(tmp_path / "bare.pth")["tensor"].shape == (4,)


@pytest.mark.promise(14)
@pytest.mark.parametrize("zipped", [True, False])
def test_options_of_published_encoders_are_read_without_running_anything(tmp_path, zipped):
    options = argparse.Namespace(encoder_type="GradualStyleEncoder", input_nc=6, resume=None)
    content = {"state_dict": {"encoder.a": torch.ones(2)}, "opts": options}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = checkpoints.load_checkpoint(tmp_path / "w.pt")
    assert checkpoint.tensors["state_dict.encoder.a"].tolist() == [1, 1]
    assert checkpoint.options == {
        "opts.encoder_type": "GradualStyleEncoder",
        "opts.input_nc": 6,
        "opts.resume": None,
    }


class Hostile:
    """Writes a file when a pickle of it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.write_text, (self.target, "ran"))


@pytest.mark.promise(14)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["alone", "in the options"])
def test_files_with_python_objects_are_refused_and_not_run(tmp_path, zipped, where):
    hostile = Hostile(tmp_path / "ran")
    content = hostile if where == "alone" else {"opts": argparse.Namespace(lr=hostile)}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"GLOBAL .*could run code and are refused"):
        checkpoints.load_weights(tmp_path / "w.pt")
    assert not hostile.target.exists()


@pytest.mark.promise(14)
def test_damaged_files_are_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoints.load_weights(tmp_path / "w.safetensors")
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read as tensors alone"):
        checkpoints.load_weights(tmp_path / "w.pt")


@pytest.mark.promise(14)
def test_other_kinds_of_files_are_refused(tmp_path):
    (tmp_path / "w.pkl").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"ends in '\.pkl', expected \.safetensors"):
        checkpoints.load_weights(tmp_path / "w.pkl")
    with pytest.raises(MissingError, match="expected a file of weights"):
        checkpoints.load_weights(tmp_path / "gone.pt")


def test_keys_are_renamed_and_dropped_by_name_or_pattern():
    keymap = Keymap("test", {"x.a": "a"}, {"x.kernel": "constant", "d.*": "discriminator"})
    state = {"x.a": torch.ones(1), "d.0.weight": torch.ones(1), "x.kernel": torch.ones(1)}
    assert set(checkpoints.rename_keys(state, keymap)) == {"a"}


def test_keys_that_do_not_fit_are_named():
    keymap = Keymap("test", {"x.a": "a", "x.b": "b"}, {})
    with pytest.raises(
        KeyMismatchError,
        match=r"w\.pt does not fit the keymap 'test': 1 not .*: y; 1 missing",
    ):
        checkpoints.rename_keys({"x.a": torch.ones(1), "y": torch.ones(1)}, keymap, source="w.pt")
    many = {f"n{i}": torch.ones(1) for i in range(9)}
    with pytest.raises(KeyMismatchError, match=r"n3, \.\.\. \(9 in all\)"):
        checkpoints.rename_keys(many, keymap)


def test_a_network_takes_parameters_with_a_leading_axis():
    with torch.device("meta"):
        module = torch.nn.Conv2d(2, 3, 1)
    state = {"weight": torch.ones(1, 3, 2, 1, 1), "bias": torch.zeros(1, 3, 1, 1)}
    checkpoints.fill_module(module, state, source="w.pt")
    assert module(torch.ones(1, 2, 1, 1)).flatten().tolist() == [2, 2, 2]


def test_a_network_refuses_other_parameters():
    module = torch.nn.Linear(2, 3)
    good = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    with pytest.raises(KeyMismatchError, match="1 not a parameter: c; 0 missing"):
        checkpoints.fill_module(module, good | {"c": torch.ones(1)}, source="w.pt")
    with pytest.raises(KeyMismatchError, match="1 missing: bias"):
        checkpoints.fill_module(module, {"weight": torch.ones(3, 2)}, source="w.pt")
    with pytest.raises(KeyMismatchError, match=r"weight \(2, 3\), expected \(3, 2\)"):
        checkpoints.fill_module(module, good | {"weight": torch.ones(2, 3)}, source="w.pt")


def test_directions_carry_what_the_pack_says(tmp_path):
    pack = pack_with_directions(tmp_path, {"smile": torch.ones(2, 3)})
    smile = checkpoints.load_directions(pack)["smile"]
    assert (smile.unit, smile.source, smile.layers) == ("one standard deviation", "a fit", (0, 1))
    assert smile.vector.shape == (2, 3)
    assert pack.directions["smile"].figures == {"correlation": 0.9}


@pytest.mark.parametrize(
    "vectors",
    [{"age": torch.ones(2, 3)}, {"smile": torch.ones(3, 2)}],
)
def test_directions_that_are_not_those_described_are_refused(tmp_path, vectors):
    pack = pack_with_directions(tmp_path, vectors)
    with pytest.raises(KeyMismatchError, match="do not fit its description"):
        checkpoints.load_directions(pack)


def test_a_pack_may_have_no_directions(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    pack = checkpoints.write_pack(
        tmp_path,
        name="own",
        version="1",
        license="CC0-1.0",
        summary="A test.",
        generator=GENERATOR,
        files={"generator": "a.safetensors"},
    )
    assert checkpoints.load_directions(pack) == {}


def pack_with_motions(directory: Path, motions: dict[str, torch.Tensor]):
    pack_with_directions(directory, {"smile": torch.ones(2, 3)})
    save_file(motions, directory / "motions.safetensors")
    return checkpoints.write_pack(
        directory,
        name="own",
        version="1",
        license="CC0-1.0",
        summary="A test.",
        generator=GENERATOR,
        files={"directions": "directions.safetensors", "motions": "motions.safetensors"},
        directions={"smile": SMILE},
    )


def motions_of(name: str) -> dict[str, torch.Tensor]:
    return {
        f"moves.{name}": torch.full((68, 2), 0.01),
        f"share.{name}": torch.tensor([0.4]),
        "readout.weight": torch.ones(136, 4).half(),
        "readout.mean": torch.full((136,), 0.5),
        "readout.columns": torch.tensor([3, 1]),
    }


def test_directions_have_the_motions_of_their_pack(tmp_path):
    pack = pack_with_motions(tmp_path, motions_of("smile"))
    motion = checkpoints.load_directions(pack)["smile"].motion
    assert motion is not None
    assert motion.share == pytest.approx(0.4)
    assert motion.moves.shape == (68, 2)
    readout = checkpoints.load_landmark_readout(pack)
    assert readout is not None
    points = readout(torch.ones(2, 2, 3))
    assert points.shape == (2, 68, 2)
    assert points == pytest.approx(np.full((2, 68, 2), 4.5))


def test_a_pack_without_motions_reads_no_landmarks(tmp_path):
    pack = pack_with_directions(tmp_path, {"smile": torch.ones(2, 3)})
    assert checkpoints.load_landmark_readout(pack) is None
    assert checkpoints.load_directions(pack)["smile"].motion is None


def test_motions_of_unknown_directions_and_other_readouts_are_refused(tmp_path):
    pack = pack_with_motions(tmp_path, motions_of("frown"))
    with pytest.raises(KeyMismatchError, match=r"motions of 'own' do not fit.*frown"):
        checkpoints.load_directions(pack)
    without = {k: v for k, v in motions_of("smile").items() if k != "readout.mean"}
    pack = pack_with_motions(tmp_path, without)
    with pytest.raises(KeyMismatchError, match="expected weight, mean and columns"):
        checkpoints.load_landmark_readout(pack)
