"""Masks stretched, grown, softened and painted over."""

import av
import cv2
import numpy as np
import pytest
import torch

from tests.measured import MASK, small_analysis, with_masks
from vidinvert import images
from vidinvert.corrections import find_painted, paint_masks, shape_mask
from vidinvert.errors import OpenError, PlanError
from vidinvert.types import RenderPlan

HEIGHT, WIDTH = 96, 128


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return small_analysis(tmp_path_factory.mktemp("measured") / "clip.mp4")


def dotted(measured):
    """The face's inversion with a bright square of 4 x 4 in a dark mask."""
    ood = np.zeros((6, 1, MASK, MASK), np.uint8)
    ood[:, :, 6:10, 6:10] = 200
    return with_masks(measured.inversions[0], ood)


def paint(folder, name, value=255, size_hw=(HEIGHT, WIDTH)):
    folder.mkdir(exist_ok=True)
    images.write_png(folder / name, np.full(size_hw, value, np.uint8))
    return folder


def found(measured, path):
    return find_painted(path, info=measured.info, frames=measured.frames)


def test_without_options_the_mask_stays_as_it_was_measured(measured):
    shaped = shape_mask(measured.inversions[0], RenderPlan())
    assert torch.equal(shaped.mask.ood, measured.inversions[0].mask.ood)


def test_growing_and_shrinking_move_the_edge_by_the_share_of_the_side(measured):
    inversion = dotted(measured)
    grown = shape_mask(inversion, RenderPlan(mask_dilate=2 / MASK)).mask.ood[0, 0]
    assert (grown == 200).sum() > 4 * 4 + 4 * 8  # two rows more on each side, corners round
    assert grown[4, 7] == 200
    assert grown[3].max() == 0
    shrunk = shape_mask(inversion, RenderPlan(mask_dilate=-1 / MASK)).mask.ood[0, 0]
    assert (shrunk == 200).sum() == 4
    assert (inversion.mask.ood == 200).sum() == 6 * 16  # the input is not changed


def test_softening_keeps_the_mean_and_lowers_the_peak(measured):
    inversion = dotted(measured)
    soft = shape_mask(inversion, RenderPlan(mask_blur=1.5 / MASK)).mask.ood[0, 0].float()
    assert 60 < soft.max() < 190
    assert abs(soft.mean() - inversion.mask.ood[0].float().mean()) < 1.0


def test_limits_come_before_growing(measured):
    plan = RenderPlan(mask_min=0.9, mask_dilate=0.2)
    assert shape_mask(dotted(measured), plan).mask.ood.max() == 0


@pytest.mark.parametrize("name", ["2.png", "000002.png"])
def test_a_painted_mask_replaces_the_measured_one_in_its_frame_alone(measured, tmp_path, name):
    painted = found(measured, paint(tmp_path / "p", name))
    (inversion,) = paint_masks(measured.inversions, measured.alignments, painted)
    before = measured.inversions[0].mask.ood
    assert inversion.mask.ood[2].min() == 255
    others = [0, 1, 3, 4, 5]
    assert torch.equal(inversion.mask.ood[others], before[others])


def test_a_single_picture_and_its_place_in_the_crop(measured, tmp_path):
    picture = np.zeros((HEIGHT, WIDTH), np.uint8)
    picture[20:60, 30:50] = 255  # the left half of the crop, which lies at (30, 20)
    images.write_png(tmp_path / "6.png", picture)
    painted = found(measured, tmp_path / "6.png")
    (inversion,) = paint_masks(measured.inversions, measured.alignments, painted)
    mask = inversion.mask.ood[4, 0]  # the fifth frame with the face is frame 6
    assert mask[:, : MASK // 2 - 1].min() == 255
    assert mask[:, MASK // 2 + 1 :].max() == 0


def test_where_paint_is_transparent_the_mask_stays(measured, tmp_path):
    picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    picture[:, 50:] = 255  # opaque white on the crop's right half, nothing on its left
    cv2.imwrite(str(tmp_path / "1.png"), picture)
    painted = found(measured, tmp_path / "1.png")
    (inversion,) = paint_masks(measured.inversions, measured.alignments, painted)
    mask, before = inversion.mask.ood[1, 0], measured.inversions[0].mask.ood[1, 0]
    assert mask[:, MASK // 2 + 1 :].min() == 255
    assert torch.equal(mask[:, : MASK // 2 - 1], before[:, : MASK // 2 - 1])


def test_colours_and_sixteen_bits_are_read_as_grey(tmp_path):
    cv2.imwrite(str(tmp_path / "16.png"), np.full((4, 5), 65535, np.uint16))
    cv2.imwrite(str(tmp_path / "c.png"), np.full((4, 5, 3), 128, np.uint8))
    for name, value in (("16.png", 255), ("c.png", 128)):
        grey, opacity = images.read_mask(tmp_path / name)
        assert grey.dtype == np.uint8
        assert (grey.shape, grey.min(), grey.max()) == ((4, 5), value, value)
        assert opacity.min() == 255


def test_frames_without_a_face_may_be_painted_but_not_alone(measured, tmp_path):
    folder = paint(tmp_path / "p", "4.png")
    with pytest.raises(PlanError, match="masks only for frames without an edited face"):
        paint_masks(measured.inversions, measured.alignments, found(measured, folder))
    paint(folder, "3.png")
    (inversion,) = paint_masks(measured.inversions, measured.alignments, found(measured, folder))
    assert inversion.mask.ood[3].min() == 255


def test_painted_masks_that_do_not_fit_are_refused(measured, tmp_path):
    with pytest.raises(PlanError, match="holds no painted mask, expected a folder of PNG"):
        found(measured, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PlanError, match="holds no painted mask"):
        found(measured, tmp_path / "empty")
    with pytest.raises(PlanError, match=r"is for frame 8, but clip.mp4 has the frames 0 to 7"):
        found(measured, paint(tmp_path / "a", "8.png"))
    with pytest.raises(PlanError, match=r"is 64x96, expected 128x96 as the frames of clip.mp4"):
        found(measured, paint(tmp_path / "b", "1.png", size_hw=(96, 64)))
    with pytest.raises(PlanError, match=r"is not named by a frame number, expected .*000075.png"):
        found(measured, paint(tmp_path / "c", "hand.png"))
    paint(tmp_path / "d", "1.png")
    with pytest.raises(PlanError, match="are both for frame 1, expected one"):
        found(measured, paint(tmp_path / "d", "001.png"))


def test_files_that_are_no_pictures_are_refused(measured, tmp_path):
    (tmp_path / "0.png").write_bytes(b"not a picture")
    with pytest.raises(OpenError, match="cannot be read as a picture, expected a mask of 8 or 16"):
        found(measured, tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(OpenError, match="cannot be read as a picture"):
        found(measured, tmp_path / "1.png")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(OpenError, match=r"neither a picture \(.png, .* nor a video"):
        found(measured, tmp_path / "notes.txt")


def mask_video(path, *, count=8, size_hw=(HEIGHT, WIDTH)):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size_hw, "gray"
        for index in range(count):
            picture = np.full(size_hw, 31 * index, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        output.mux(stream.encode())


def test_a_video_of_masks_gives_every_frame_its_own(measured, tmp_path):
    mask_video(tmp_path / "masks.mkv")
    painted = found(measured, tmp_path / "masks.mkv")
    (inversion,) = paint_masks(measured.inversions, measured.alignments, painted)
    means = inversion.mask.ood.float().mean(dim=(1, 2, 3)).tolist()
    assert means == [31.0 * index for index in (0, 1, 2, 3, 6, 7)]


def test_a_video_of_another_length_or_size_is_refused(measured, tmp_path):
    mask_video(tmp_path / "short.mkv", count=5)
    with pytest.raises(PlanError, match="has 5 masks, expected one for each of the 8 frames"):
        found(measured, tmp_path / "short.mkv")
    mask_video(tmp_path / "small.mkv", size_hw=(48, 64))
    with pytest.raises(PlanError, match="is 64x48, expected 128x96"):
        found(measured, tmp_path / "small.mkv")


@pytest.mark.parametrize("values", [{"mask_dilate": 0.3}, {"mask_dilate": -0.3}])
def test_growing_by_more_than_a_quarter_is_refused(values):
    with pytest.raises(ValueError, match=r"expected a share from -0.25 to 0.25"):
        RenderPlan(**values)


def test_softening_by_more_than_a_quarter_is_refused():
    with pytest.raises(ValueError, match=r"mask_blur is 0.5, expected a share from 0 to 0.25"):
        RenderPlan(mask_blur=0.5)
