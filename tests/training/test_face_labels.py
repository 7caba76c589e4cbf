"""Labels are averaged over views, and a face must be seen twice."""

import numpy as np
import pytest

from tests.shared_data import shared_path
from vidinvert.errors import MissingError
from vidinvert.geometry import FIVE_OF_68
from vidinvert.training.face_labels import FaceLabels, _merge, _refine, label_faces


def row(x: float, y: float, side: float, *, points: float) -> np.ndarray:
    return np.array([[x, y, side, side, *[points] * 10, 0.9]], np.float32)


def test_answers_about_one_face_are_averaged():
    views = [row(10, 10, 100, points=50), row(14, 10, 100, points=54), row(12, 13, 100, points=52)]
    labels = _merge(views)
    np.testing.assert_allclose(labels.boxes_xyxy, [[12, 11, 112, 111]])
    np.testing.assert_allclose(labels.points_xy, np.full((1, 5, 2), 52.0))


def test_a_face_that_one_view_alone_sees_is_dropped():
    both = [row(10, 10, 100, points=50), row(10, 10, 100, points=50), row(180, 180, 20, points=190)]
    assert len(_merge(both).boxes_xyxy) == 1


def test_a_missing_labeller_says_where_to_get_it(tmp_path):
    with pytest.raises(MissingError, match="download face_detection_yunet"):
        label_faces(np.zeros((1, 256, 256, 3), np.uint8), labeller=tmp_path / "absent.onnx")
    (tmp_path / "yunet.onnx").touch()
    with pytest.raises(MissingError, match="expected PFLD with 68 landmarks"):
        label_faces(
            np.zeros((1, 256, 256, 3), np.uint8),
            labeller=tmp_path / "yunet.onnx",
            landmarker=tmp_path / "absent.onnx",
        )


class FixedLandmarks:
    """Stands in for PFLD: always the same 68 points, the same for a mirrored picture."""

    def __init__(self, five: np.ndarray):
        self.landmarks = np.zeros((68, 2))
        for rows, point in zip(FIVE_OF_68, five, strict=True):
            self.landmarks[list(rows)] = point

    def setInput(self, blob: np.ndarray) -> None:
        assert blob.shape == (1, 3, 112, 112)

    def forward(self) -> np.ndarray:
        return (self.landmarks / 112).reshape(1, -1)


def test_landmarks_replace_the_points_unless_they_are_far_off():
    # symmetric in the landmark crop of 112 pixels, whose centre is 55.5
    five = np.array([[35.5, 45], [75.5, 45], [55.5, 60], [40.5, 80], [70.5, 80]])
    box = np.array([[78.0, 78.0, 178.0, 178.0]], np.float32)
    expected = (five - 55.5) * 125 / 112 + 128
    crop = np.zeros((256, 256, 3), np.uint8)
    near = FaceLabels(boxes_xyxy=box, points_xy=expected[None].astype(np.float32) + 4)
    refined = _refine(FixedLandmarks(five), crop, near)
    # Views that are a pixel off; at the eyes the mean with YuNet's points, which lie 4 off.
    np.testing.assert_allclose(refined.points_xy[0, 2:], expected[2:], atol=2.0)
    np.testing.assert_allclose(refined.points_xy[0, :2], expected[:2] + 2.0, atol=1.0)
    far = FaceLabels(boxes_xyxy=box, points_xy=expected[None].astype(np.float32) + 40)
    np.testing.assert_array_equal(_refine(FixedLandmarks(five), crop, far).points_xy, far.points_xy)


@pytest.mark.shared
def test_yunet_labels_the_eyes_left_and_right_as_seen():
    import cv2

    labeller = shared_path("models/yunet/yunet_n_dynamic.onnx")
    folder = shared_path("data/faces256/congress")
    paths = sorted(folder.glob("*.jpg"))[:3]
    crops = np.stack([cv2.imread(str(path))[..., ::-1] for path in paths])
    for labels in label_faces(crops, labeller=labeller):
        left, right = labels.points_xy[0, 0], labels.points_xy[0, 1]
        # where FFHQ framing puts the eyes
        np.testing.assert_allclose(left, (96, 119), atol=16)
        np.testing.assert_allclose(right, (160, 119), atol=16)
