"""The contact sheet, the overlay, the raw masks, and places that do not take them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.clips import MATRIX, write_clip
from tests.measured import ShadeMethod, plans_with, small_analysis, with_masks
from tests.mini import audio_packets, read_clip
from vidinvert.corrections import find_painted, paint_masks
from vidinvert.errors import EncodeError, PlanError
from vidinvert.media import probe
from vidinvert.pipeline import edit_faces
from vidinvert.preview import PreviewPlan, PreviewTargets, check_targets, write_preview
from vidinvert.rendering import mask_in_frame


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return small_analysis(tmp_path_factory.mktemp("outputs") / "clip.mp4")


def write(measured, *, frames=30, **targets):
    plans = plans_with()
    faces = edit_faces(measured, plans)
    write_preview(
        measured,
        faces,
        method=ShadeMethod(),
        plans=plans,
        targets=PreviewTargets(**targets),
        preview=PreviewPlan(sheet_frames=frames),
        overwrite=True,
    )
    return faces


def expected_mask(faces, index):
    return np.rint(mask_in_frame(faces, index, (96, 128)).numpy() * 255).astype(np.uint8)


def test_the_sheet_has_a_cell_for_every_frame(measured, tmp_path):
    write(measured, sheet=tmp_path / "all.png")
    write(measured, sheet=tmp_path / "four.png", frames=4)
    every, four = (cv2.imread(str(tmp_path / name)) for name in ("all.png", "four.png"))
    cell = 26 + 240  # label and a 4:3 picture, 320 pixels wide
    assert every.shape == (2 * (cell + 6) + 6, 6 * 326 + 6, 3)
    assert four.shape == (cell + 12, 4 * 326 + 6, 3)
    assert four[8:30, 10:100].max() > 200  # the number is written
    strip = four[6 + 26 : 6 + 26 + 240, 6:326]
    assert abs(int(np.median(strip)) - 90) < 4


@pytest.mark.promise(3)
def test_the_overlay_keeps_times_and_sound_and_paints_the_mask(tmp_path):
    source = write_clip(tmp_path, MATRIX["two_tracks"])
    measured = small_analysis(tmp_path / "grey.mp4")
    info = probe(source)
    measured = replace(measured, info=info, frames=range(info.frame_count), shots=())
    write(measured, video=tmp_path / "overlay.mp4")
    frames, times = read_clip(tmp_path / "overlay.mp4")
    original, expected = read_clip(source)
    assert times == expected
    assert audio_packets(tmp_path / "overlay.mp4") == audio_packets(source)
    difference = np.abs(frames.astype(int) - original).mean(axis=(1, 2, 3))
    assert difference[0] > 3 * difference[5]  # the face is in frame 0, not in 5


def test_masks_as_pictures_and_as_video_are_the_same_and_exact(measured, tmp_path):
    faces = write(measured, masks=tmp_path / "masks")
    write(measured, masks=tmp_path / "masks.mkv")
    frames, times = read_clip(tmp_path / "masks.mkv")
    assert [float(time) for time in times] == pytest.approx([k / 25 for k in range(8)])
    names = [f"{index:06d}.png" for index in range(8)]
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == names
    for index, name in enumerate(names):
        mask = cv2.imread(str(tmp_path / "masks" / name), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, expected_mask(faces, index))
        np.testing.assert_array_equal(frames[index][..., 0], mask)


def test_a_video_of_masks_can_be_given_back(measured, tmp_path):
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8) * 16, (6, 1, 16, 16)).copy()
    smooth = replace(measured, inversions=(with_masks(measured.inversions[0], ramp),))
    faces = write(smooth, masks=tmp_path / "masks.mkv")
    painted = find_painted(tmp_path / "masks.mkv", info=measured.info, frames=measured.frames)
    (again,) = paint_masks(measured.inversions, measured.alignments, painted)
    before, after = faces[0].inversion.mask.ood.float(), again.mask.ood.float()
    inner = (before - after)[..., 2:-2, 2:-2]
    assert inner.abs().max() < 3


@pytest.mark.promise(7)
def test_a_failure_leaves_nothing(measured, tmp_path):
    class Broken(ShadeMethod):
        def embed(self, crops):
            raise RuntimeError("no memory")

    plans = plans_with()
    targets = PreviewTargets(
        page=tmp_path / "p.html",
        sheet=tmp_path / "s.png",
        video=tmp_path / "o.mp4",
        masks=tmp_path / "masks",
    )
    with pytest.raises(RuntimeError, match="no memory"):
        write_preview(
            measured, edit_faces(measured, plans), method=Broken(), plans=plans, targets=targets
        )
    assert list(tmp_path.iterdir()) == []


def test_places_are_checked_before_any_work(measured, tmp_path):
    def check(**targets):
        check_targets(PreviewTargets(**targets), like=measured.info, overwrite=False)

    with pytest.raises(PlanError, match=r"Nothing to write: expected -o PAGE.html, --sheet"):
        check()
    with pytest.raises(EncodeError, match=r"ends in '.txt', expected one of .html, .htm"):
        check(page=tmp_path / "p.txt")
    with pytest.raises(EncodeError, match=r"ends in '.jpg', expected one of .png"):
        check(sheet=tmp_path / "s.jpg")
    with pytest.raises(EncodeError, match="is not a directory, expected the place"):
        check(video=tmp_path / "nowhere" / "o.mp4")
    with pytest.raises(EncodeError, match="is not a directory, expected the place"):
        check(masks=tmp_path / "nowhere" / "m.mkv")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(EncodeError, match="is not an empty folder"):
        check(masks=tmp_path / "full")
    check(page=tmp_path / "p.html", sheet=tmp_path / "s.png", masks=tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
