import cv2
import pytest

from tests.cli.test_cli import run
from tests.mini import SAMPLE, read_clip
from vidinvert import images


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    directory = tmp_path_factory.mktemp("faces")
    frame = read_clip(SAMPLE)[0][0]
    images.write_png(directory / "first.png", frame)
    cv2.imwrite(str(directory / "second.jpg"), frame[:, ::-1, ::-1])
    return [str(directory / name) for name in ("first.png", "second.jpg")]


@pytest.mark.parametrize(
    ("arguments", "width"),
    [
        (("interpolate", "--count", "3"), 3),
        (("interpolate", "--count", "2", "--sheet"), 4),
        (("mix", "--layers", "2-3"), 1),
        (("mix", "--sheet"), 5),
        (("diffuse", "--steps", "2", "--sheet", "--box", "0.2,0.3,0.5,0.4"), 5),
    ],
)
def test_a_picture_is_written_and_its_name_printed(faces, tmp_path, capsys, arguments, width):
    action, *options = arguments
    target = tmp_path / "out.png"
    status, out, err = run(capsys, "image", action, *faces, "-o", target, *options)
    assert (status, out, err) == (0, f"{target}\n", "")
    assert images.read_picture(target).shape == (256, 256 * width, 3)


def test_other_suffixes_and_existing_files_are_handled(faces, tmp_path, capsys):
    target = tmp_path / "out.jpg"
    arguments = ("image", "mix", *faces, "-o", target)
    assert run(capsys, *arguments)[0] == 0
    assert images.read_picture(target).shape == (256, 256, 3)
    status, _, err = run(capsys, *arguments)
    assert status == 1
    assert "exists; choose another name or replace it with --force" in err
    assert run(capsys, *arguments, "--force")[0] == 0
    for wrong in (tmp_path / "out.gif", tmp_path / "absent" / "out.png"):
        status, _, err = run(capsys, "image", "mix", *faces, "-o", wrong)
        assert status == 1
        assert "expected FILE.png or FILE.jpg in an existing folder" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("interpolate", "--count", "1"), "--count is 1, expected 2 to 64"),
        (("mix", "--layers", "3-9"), "expected some of 0 to 3"),
        (("diffuse", "--box", "0.9,0.9,0.5,0.5"), "reaches out of the crop"),
        (("diffuse", "--steps", "99999"), "--steps is 99999"),
        (("mix", "--method", "psp"), "does not run the method 'psp'"),
        (("mix", "--cycles", "1"), "has an option 'cycles'"),
    ],
)
def test_what_cannot_be_done_is_a_matter_of_usage(faces, tmp_path, capsys, arguments, message):
    action, *options = arguments
    target = tmp_path / "out.png"
    status, _, err = run(capsys, "image", action, *faces, "-o", target, *options)
    assert status == 2
    assert message in err
    assert not target.exists()


@pytest.mark.parametrize(
    ("action", "option", "value"),
    [("mix", "--layers", "3-1"), ("mix", "--layers", "x"), ("diffuse", "--box", "1,2")],
)
def test_what_cannot_be_read_is_refused(faces, capsys, action, option, value):
    with pytest.raises(SystemExit):
        run(capsys, "image", action, *faces, "-o", "out.png", option, value)
    assert "expected" in capsys.readouterr().err
