import cv2
import numpy as np
import pytest

from tests.mini import SAMPLE, blank_clip, read_clip
from vidinvert.cli import main
from vidinvert.images import write_png


def run(capsys, *arguments):
    status = main(["preview", *(str(argument) for argument in arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """An analysis of the sample's first three frames, written by a preview."""
    folder = tmp_path_factory.mktemp("kept")
    page, analysis = folder / "page.html", folder / "kept.npz"
    arguments = ["-o", page, "--save-analysis", analysis, "--end", "0.12", "--quiet"]
    assert main(["preview", str(SAMPLE), *(str(argument) for argument in arguments)]) == 0
    assert page.stat().st_size > 20_000
    return analysis


def test_all_outputs_are_written_from_a_kept_analysis_and_named(kept, tmp_path, capsys):
    names = ("page.html", "sheet.png", "overlay.mp4", "masks.mkv")
    page, sheet, video, masks = (tmp_path / name for name in names)
    outputs = ("-o", page, "--sheet", sheet, "--video", video, "--masks", masks)
    edit = ("--edit", "smile=2", "--every", "2")
    status, out, err = run(capsys, SAMPLE, *outputs, "--analysis", kept, *edit)
    assert (status, out) == (0, "".join(f"{tmp_path / name}\n" for name in names))
    assert "shows 2 of 3 frames in 0." in err
    assert len(read_clip(video)[0]) == len(read_clip(masks)[0]) == 3
    assert cv2.imread(str(sheet)).shape[1] == 2 * 326 + 6
    assert page.read_text(encoding="utf-8").count('class="frame"') == 2


def test_masks_are_shaped_in_the_preview_as_the_options_say(kept, tmp_path, capsys):
    means = []
    for name, more in (("a", ()), ("b", ("--mask-dilate", "0.05", "--mask-max", "0.8"))):
        options = ("--masks", tmp_path / name, "--analysis", kept, "--quiet", *more)
        assert run(capsys, SAMPLE, *options)[0] == 0
        means.append(cv2.imread(str(tmp_path / name / "000001.png"), 0).mean())
    assert means[1] > means[0] + 1


@pytest.mark.slow
def test_corrected_masks_in_the_preview_are_those_of_the_edit(kept, tmp_path, capsys):
    painted = tmp_path / "painted"
    painted.mkdir()
    mask = np.zeros((512, 512), np.uint8)
    mask[200:300, 150:350] = 255
    write_png(painted / "000001.png", mask)
    shaped = (
        "--mask-min",
        "0.2",
        "--mask-max",
        "0.9",
        "--mask-dilate",
        "0.02",
        "--mask-blur",
        "0.01",
    )
    options = ("--analysis", kept, "--quiet", "--mask-override", painted, *shaped)
    assert run(capsys, SAMPLE, "--masks", tmp_path / "seen", *options)[0] == 0
    edit = ("-o", tmp_path / "out.mp4", "--edit", "smile=2", "--save-masks", tmp_path / "used")
    assert main(["edit", str(SAMPLE), *(str(argument) for argument in (*edit, *options))]) == 0
    names = [f"{index:06d}.png" for index in range(3)]
    for name in names:
        seen, used = (cv2.imread(str(tmp_path / place / name), 0) for place in ("seen", "used"))
        np.testing.assert_array_equal(seen, used)
        assert 0 < seen.mean() < 255
    assert sorted(path.name for path in (tmp_path / "used").iterdir()) == names


@pytest.mark.promise(16)
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "Nothing to write: expected -o PAGE.html"),
        (["-o", "{}/page.txt"], 1, "expected one of .html"),
        (["-o", "/nowhere/at/all.html"], 1, "is not a directory"),
        (["--sheet", "{}"], 1, "ends in ''"),
        (["--video", "{}/overlay.avi"], 1, "expected one of .mp4"),
        (["--masks", "/nowhere/at/all"], 1, "cannot be made a folder for masks"),
        (["-o", "/proc/p.html"], 1, "could not be written"),  # for root, too
        (["--masks", "/proc/masks"], 1, "could not be made a folder for masks"),
        (["-o", "{}/p.html", "--edit", "smle=1"], 2, "no edit named 'smle'"),
        (["-o", "{}/p.html", "--mask-min", "0.9", "--mask-max", "0.8"], 2, "must lie above"),
        (["-o", "{}/p.html", "--start", "77"], 2, "No frame of talk.mp4 lies between"),
        (["-o", "{}/p.html", "--analysis", "/nowhere.npz"], 1, "is not a file"),
        (["-o", "{}/p.html", "--mask-override", "/nowhere"], 2, "holds no painted mask"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(tmp_path, capsys, arguments, status, message):
    given = [argument.format(tmp_path) for argument in arguments]
    got, out, err = run(capsys, SAMPLE, "--quiet", *given)
    assert (got, out) == (status, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_does_not_fit_is_refused(kept, tmp_path, capsys, monkeypatch):
    options = ("-o", tmp_path / "p.html", "--analysis", kept, "--quiet")
    monkeypatch.setattr("vidinvert.preview.MEGABYTE", 100_000)
    status, _, err = run(capsys, SAMPLE, *options, "--max-size", "0.3")
    assert status == 2
    assert "3 frames do not fit into 0.03 MB" in err
    assert list(tmp_path.iterdir()) == []


def test_painted_masks_that_do_not_fit_are_refused(kept, tmp_path, capsys):
    painted, page = tmp_path / "painted", tmp_path / "p.html"
    painted.mkdir()
    options = ("-o", page, "--analysis", kept, "--quiet", "--mask-override", painted)
    write_png(painted / "000001.png", np.zeros((100, 512), np.uint8))
    status, _, err = run(capsys, SAMPLE, *options)
    assert status == 2
    assert "is 512x100, expected 512x512" in err
    (painted / "000001.png").unlink()
    write_png(painted / "000900.png", np.zeros((512, 512), np.uint8))
    status, _, err = run(capsys, SAMPLE, *options)
    assert status == 2
    assert "is for frame 900, but talk.mp4 has the frames 0 to 124" in err
    assert [path.name for path in tmp_path.iterdir()] == ["painted"]


def test_a_clip_without_a_face_has_no_preview(tmp_path, capsys):
    source = tmp_path / "bars.mp4"
    blank_clip(source)
    more = ("--masks", tmp_path / "m", "--save-analysis", tmp_path / "a.npz")
    status, _, err = run(capsys, source, "-o", tmp_path / "p.html", "--quiet", *more)
    assert status == 1
    assert "No face found in bars.mp4" in err
    assert "--allow-no-face" not in err  # a preview copies nothing
    assert [path.name for path in tmp_path.iterdir()] == ["bars.mp4"]
