"""`vidinvert models`: official files become packs that the other commands run."""

import numpy as np
import pytest
import torch

from tests import official_files as made
from tests.mini import SAMPLE, read_clip
from vidinvert.cli import main


@pytest.fixture(autouse=True)
def user_packs(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDINVERT_PACKS", str(tmp_path / "packs"))
    return tmp_path / "packs"


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def smile(tmp_path):
    np.save(tmp_path / "smile.npy", np.random.default_rng(0).standard_normal((1, made.STYLE_WIDTH)))
    return tmp_path / "smile.npy"


def test_imported_official_files_edit_a_clip(tmp_path, capsys, smile, user_packs):
    encoder = made.e4e(tmp_path / "e4e_ffhq_encode.pt")
    aligner = made.samm(tmp_path / "net_g_410000.pth")
    status, out, err = run(
        capsys, "models", "import", "e4e", encoder, "-o", "faces", "--license", "MIT"
    )
    assert (status, err) == (0, "")
    assert f"directory  {user_packs / 'faces'}" in out
    assert "licence    MIT AND CC-BY-NC-SA-4.0" in out
    assert run(capsys, "models", "import", "samm", aligner, "-o", "faces")[0] == 0
    status, out, _ = run(
        capsys, "models", "import", "directions", smile, f"grin={smile}", "-o", "faces"
    )
    assert status == 0
    assert "directions grin, smile" in out
    assert run(capsys, "models", "verify", "faces")[1].startswith("ok: faces, 6 files")
    assert "faces  1  64 px" in run(capsys, "models", "list")[1]
    shown = run(capsys, "models", "show", "faces")[1]
    assert "smile        1.0 = the vector of the file; length" in shown
    assert "e4e_ffhq_encode.pt" in shown
    for method in ("samm", "e4e"):
        target = tmp_path / f"{method}.mp4"
        status, out, err = run(
            capsys,
            *("edit", SAMPLE, "-o", target, "--pack", "faces", "--method", method),
            *("--edit", "smile=1", "--end", "0.1", "--quiet"),
        )
        assert (status, out, err) == (0, f"{target}\n", "")
        assert len(read_clip(target)[0]) == 3


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("e4e", "gone.pt", "-o", "faces"), 1, "gone.pt is not there, expected a file of weights"),
        (("stylegan2", "x.pt", "-o", "mini"), 2, "ships with vidinvert and stays as it is"),
        (("directions", "smile.npy", "-o", "faces"), 1, "expected the description of a face pack"),
        (("directions", "5=smile.npy", "-o", "faces"), 2, "names a direction '5'"),
        (("directions", "a.npy", "a=b.npy", "-o", "faces"), 2, "'a' is given twice"),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_line(capsys, arguments, status, message):
    seen, out, err = run(capsys, "models", "import", *arguments)
    assert (seen, out) == (status, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--layers", "3-1"),
        ("--layers", "x"),
        ("--scale", "0"),
        ("--scale", "big"),
        ("--scale", "inf"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(capsys, smile, arguments):
    with pytest.raises(SystemExit) as stop:
        run(capsys, "models", "import", "directions", smile, "-o", "faces", *arguments)
    assert stop.value.code == 2


def test_options_of_directions_reach_the_pack(tmp_path, capsys, smile):
    generator = made.rosinality(tmp_path / "g.pt")
    target = tmp_path / "own"
    assert run(capsys, "models", "import", "stylegan2", generator, "-o", target)[0] == 0
    options = ("--scale", "unit", "--layers", "2-3", "--unit", "1.0 = a grin")
    assert run(capsys, "models", "import", "directions", smile, "-o", target, *options)[0] == 0
    from vidinvert.checkpoints import load_directions, read_pack

    direction = load_directions(read_pack(target))["smile"]
    assert (direction.layers, direction.unit) == ((2, 3), "1.0 = a grin")
    torch.testing.assert_close(direction.vector[2:4].norm(dim=1), torch.ones(2))
