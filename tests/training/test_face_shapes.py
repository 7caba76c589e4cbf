"""Faces in another shape: the picture and its points move together, and by chance alone."""

import cv2
import numpy as np

from tests.training.faces import BOX, POINTS
from vidinvert.training import face_shapes
from vidinvert.training.face_labels import FaceLabels
from vidinvert.training.face_shapes import vary_shape

LABELS = FaceLabels(
    boxes_xyxy=np.array([BOX], np.float32), points_xy=np.array([POINTS], np.float32)
)


def dotted() -> np.ndarray:
    """Black, with a soft white dot at each of the five points."""
    canvas = np.zeros((256, 256), np.float32)
    for x, y in POINTS:
        canvas[int(y), int(x)] = 255.0 * 30
    soft = cv2.GaussianBlur(canvas, (0, 0), 2.0).clip(0, 255)
    return np.repeat(soft[..., None], 3, axis=2).astype(np.uint8)


def centre_near(picture: np.ndarray, point: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[0:256, 0:256]
    weight = picture[..., 0] * ((x - point[0]) ** 2 + (y - point[1]) ** 2 < 81)
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def test_points_go_where_the_picture_goes():
    for seed in range(5):
        moved, labels = vary_shape(np.random.default_rng(seed), dotted(), LABELS)
        assert np.linalg.norm(labels.points_xy[0] - POINTS, axis=1).max() > 1.0
        for point in labels.points_xy[0]:
            np.testing.assert_allclose(centre_near(moved, point), point, atol=0.7)


def test_the_mouth_gets_wider_and_narrower_and_never_folds():
    widths = []
    for seed in range(200):
        _, labels = vary_shape(np.random.default_rng(seed), dotted(), LABELS)
        left, right = labels.points_xy[0, 3:]
        widths.append((right - left)[0] / 60.0)  # over the distance between the eyes
        assert labels.points_xy[0, 2, 1] < min(left[1], right[1])
    assert abs(np.mean(widths) - 0.8) < 0.05
    assert 0.1 < np.std(widths) < 0.3
    assert min(widths) > 0.2


def test_without_deviation_nothing_changes(monkeypatch):
    monkeypatch.setattr(face_shapes, "MOST", 0.0)
    moved, labels = vary_shape(np.random.default_rng(0), dotted(), LABELS)
    np.testing.assert_array_equal(moved, dotted())
    np.testing.assert_allclose(labels.points_xy, LABELS.points_xy, atol=1e-4)
