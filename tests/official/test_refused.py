"""Official files that are not read are named, with the reason and what to do instead."""

import pytest
import torch

from vidinvert.cli import main
from vidinvert.cli.model_files import KINDS, NOT_READ
from vidinvert.errors import CheckpointError
from vidinvert.official import ImportPlan, import_files
from vidinvert.official.assembling import KINDS as READ
from vidinvert.official.refused import REASONS


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("shared.0.weight", "classifier.0.weight", "fc.weight"),
            r"x\.pth cannot be imported: the published classifier of Diff-CAM.*train diffcam",
        ),
        (
            ("FCN.encoder.0.weight", "generator.constant_input"),
            r"x\.pth cannot be imported: the published deghosting network.*train deghost",
        ),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_files_of_networks_that_are_not_read_are_recognised(tmp_path, names, message, wrapped):
    state = {name: torch.ones(2) for name in names}
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message):
        import_files([tmp_path / "x.pth"], tmp_path / "faces", ImportPlan(kind="samm"))
    assert not (tmp_path / "faces").exists()


@pytest.mark.parametrize("kind", NOT_READ)
def test_kinds_that_are_not_read_are_refused_with_the_reason(tmp_path, kind, capsys):
    target = tmp_path / "faces"
    assert main(["models", "import", kind, str(tmp_path / "x.pth"), "-o", str(target)]) == 1
    said = capsys.readouterr().err
    assert f"The kind '{kind}' cannot be imported: " in said
    assert REASONS[kind][:40] in said
    assert not target.exists()


def test_the_command_line_knows_the_kinds_that_are_read_and_those_that_are_not():
    assert set(KINDS) == {*READ, "directions"}
    assert set(NOT_READ) == set(REASONS)
