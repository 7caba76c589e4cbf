"""The heat map, and what the networks show."""

import numpy as np
import pytest

from tests.measured import CROP, MASK, ShadeMethod, plans_with, small_analysis, with_masks
from vidinvert.pipeline import edit_faces
from vidinvert.preview import paint_heat
from vidinvert.preview.pictures import FLOW_SIDE, FLOW_STEP, heat_table, picture_face, position_of
from vidinvert.types import FrameBatch, RenderPlan


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return small_analysis(tmp_path_factory.mktemp("pictures") / "clip.mp4")


def batch(indices):
    frames = np.full((len(indices), 96, 128, 3), 100, np.uint8)
    return FrameBatch(frames=frames, indices=np.array(indices, np.int64))


def test_the_heat_map_is_transparent_at_0_and_rises():
    table = heat_table().astype(int)
    assert table.shape == (256, 4)
    assert table[0, 3] == 0
    assert np.all(np.diff(table[:, 3]) >= 0)
    brightness = table[:, :3] @ [0.299, 0.587, 0.114]
    assert np.all(np.diff(brightness) > -1)


def test_heat_is_painted_where_the_mask_is_and_nowhere_else(measured):
    ood = np.zeros((6, 1, MASK, MASK), np.uint8)
    ood[:, :, :, MASK // 2 :] = 255
    plans = plans_with()
    (face,) = edit_faces(measured, plans)
    face = type(face)(
        alignment=face.alignment,
        inversion=with_masks(face.inversion, ood),
        edited=face.edited,
        strength=face.strength,
    )
    frame = batch([2]).frames[0]
    painted = paint_heat(frame, 2, [face])  # the crop covers x 30 to 70, y 20 to 60
    assert np.all(frame == 100)
    assert np.all(painted[:15] == 100)
    assert np.all(painted[:, 75:] == 100)
    assert np.all(painted[30:50, 36:44] == 100)
    right = painted[30:50, 56:64].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(right, 0.35 * 100 + 0.65 * np.array([253, 231, 37]), atol=2)
    np.testing.assert_array_equal(paint_heat(frame, 4, [face]), frame)  # the face is not in frame 4


def test_a_face_is_found_by_its_frame(measured):
    (face,) = edit_faces(measured, plans_with())
    assert [position_of(face, index) for index in (0, 3, 4, 6, 7, 8)] == [0, 3, None, 4, 5, None]


def test_pictures_are_those_that_the_composite_starts_from(measured):
    plans = plans_with(["brighter=1"])
    (face,) = edit_faces(measured, plans)
    shown = picture_face(batch([3, 4, 6]), face, ShadeMethod(), plans.render, edited=True)
    assert shown.positions.tolist() == [3, 4]
    codes = face.inversion.latents.w_plus[[3, 4], 0, 0].tanh().numpy()
    expected = np.rint((codes + 1) * 127.5)
    np.testing.assert_array_equal(shown.inverted[:, 0, 0, 0], expected)
    assert np.all(shown.edited.mean(axis=(1, 2, 3)) > shown.inverted.mean(axis=(1, 2, 3)))
    assert shown.flow.shape == (2, FLOW_SIDE, FLOW_SIDE, 2)
    assert np.all(shown.flow[..., 0] == 2 / FLOW_STEP)
    assert np.all(shown.flow[..., 1] == 0)


def test_without_an_edit_there_is_no_edited_picture(measured):
    (face,) = edit_faces(measured, plans_with())
    aligned = RenderPlan(composite="generated")
    shown = picture_face(batch([0]), face, ShadeMethod(), aligned, edited=False)
    assert shown.edited is None
    assert shown.inverted.shape == (1, CROP, CROP, 3)
    nobody = picture_face(batch([4]), face, ShadeMethod(), aligned, edited=True)
    assert len(nobody.positions) == len(nobody.inverted) == len(nobody.edited) == 0
