"""Training scenes repeat from their seed, and their labels lie on the faces."""

import numpy as np
import pytest

from tests.training.faces import POINTS, drawn_crop, drawn_source
from vidinvert.errors import MissingError
from vidinvert.training.backgrounds import draw_background, erase_face, load_photographs
from vidinvert.training.scenes import SMALLEST_FACE, SceneSource, draw_scene


def test_the_same_seed_draws_the_same_scene():
    source = drawn_source()
    first, second = (draw_scene(np.random.default_rng(5), 128, source) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.points_xy, second.points_xy)


def test_scenes_hold_none_to_three_faces_of_many_sizes():
    source = drawn_source()
    scenes = [draw_scene(np.random.default_rng([1, i]), 96, source) for i in range(50)]
    counts = {len(scene.boxes_xyxy) for scene in scenes}
    assert counts >= {0, 1, 2}
    sides = np.concatenate([s.boxes_xyxy[:, 2:] - s.boxes_xyxy[:, :2] for s in scenes]).max(axis=1)
    assert sides.min() >= SMALLEST_FACE
    assert sides.min() < 0.15 * 96
    assert sides.max() > 0.95 * 96


def test_labelled_points_lie_inside_their_box_and_in_order():
    source = drawn_source()
    for i in range(40):
        scene = draw_scene(np.random.default_rng([2, i]), 96, source)
        for box, points in zip(scene.boxes_xyxy, scene.points_xy, strict=True):
            assert np.all(points >= box[:2])
            assert np.all(points <= box[2:])
            assert points[0, 0] < points[1, 0]
            assert points[3, 0] < points[4, 0]


def test_the_eyes_of_large_uncovered_faces_are_dark_where_the_labels_say():
    contrasts = []
    source = drawn_source()
    for i in range(40):
        scene = draw_scene(np.random.default_rng([3, i]), 160, source)
        grey = scene.image.astype(np.float64).mean(axis=2)
        for box, points in zip(scene.boxes_xyxy, scene.points_xy, strict=True):
            between = points[:2].mean(axis=0)
            if box[2] - box[0] < 55 or np.any(points[:2] < 2) or np.any(points[:2] > 157):
                continue
            eye_x, eye_y = points[0].round().astype(int)
            skin_x, skin_y = between.round().astype(int)
            contrasts.append(grey[skin_y, skin_x] - grey[eye_y, eye_x])
    assert len(contrasts) > 10
    assert np.median(contrasts) > 40


def test_backgrounds_of_every_kind_are_pictures_of_the_asked_size():
    crop = drawn_crop(0)
    for i in range(40):
        picture = draw_background(
            np.random.default_rng(i), 96, photographs=[crop[:200]], portraits=[crop]
        )
        assert picture.shape == (96, 96, 3)
        assert picture.dtype == np.uint8


def test_an_erased_face_keeps_its_surroundings_and_loses_its_eyes():
    crop = drawn_crop(1)
    eye_x, eye_y = (int(v) for v in POINTS[0])
    for i in range(6):
        erased = erase_face(np.random.default_rng(i), crop)
        np.testing.assert_array_equal(erased[:8, :8], crop[:8, :8])
        assert np.abs(erased.astype(int) - crop)[eye_y - 5 : eye_y + 5, eye_x].max() > 20


def test_crops_without_labels_are_refused():
    source = drawn_source()
    with pytest.raises(ValueError, match="got 4 crops and 1 labels"):
        SceneSource(crops=source.crops, labels=source.labels[:1])
    nobody = type(source.labels[0])(
        boxes_xyxy=np.zeros((0, 4), np.float32), points_xy=np.zeros((0, 5, 2), np.float32)
    )
    with pytest.raises(ValueError, match="no labelled face"):
        SceneSource(crops=source.crops[:1], labels=[nobody])


def test_photographs_are_read_from_a_folder_and_shrunk(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "brick.png"), np.full((900, 700, 3), 90, np.uint8))
    (only,) = load_photographs(tmp_path)
    assert only.shape == (640, 498, 3)
    with pytest.raises(MissingError, match="holds none of"):
        load_photographs(tmp_path / "absent")
