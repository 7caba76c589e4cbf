"""Label aligned face crops with boxes and five key points, for the detector's recipe.

Faces come from YuNet (Apache-2.0) and, better, their key points from PFLD's 68 landmarks (MIT);
OpenCV runs both. Every crop is looked at several times, mirrored and scaled, and the answers are
averaged: one look's key points jitter by a few pixels, and a network that learns from them would
jitter too. Against SCRFD's on real clips, YuNet's averaged points are off by 6.5 % of the distance
between the eyes (it puts the nose too low and the corners of the mouth too far out), PFLD's by
3.5 %. Only at the eyes are both equally good, and off independently of each other: there the mean
of both is taken (2.5 %, each alone 3 and 4 %).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidinvert.errors import MissingError
from vidinvert.geometry import five_of_68

Float32Array = NDArray[np.float32]
UInt8Array = NDArray[np.uint8]

PADDING = 48  # a face that touches the crop's border is found once the border is mirrored outwards
VIEWS = ((1.0, False), (1.0, True), (0.75, False))  # (scale, mirrored)
MIRRORED_POINTS = (1, 0, 2, 4, 3)

PFLD_SIZE = 112
PFLD_MARGIN = 1.25  # side of its crop over the longer side of the face's box
PFLD_VIEWS = ((0.0, 0.0, 1.0), (0.02, 0.0, 1.05), (-0.02, 0.02, 0.95))  # shift x, y; scale
AGREED_POINTS = [0, 1]  # the eyes, where the mean of both networks is nearer than either
# Where the two disagree by more than this share of the distance between the eyes, YuNet's stay.
MOST_DISAGREEMENT = 0.25


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaceLabels:
    """The faces of one crop, best first: `boxes_xyxy` (K, 4), `points_xy` (K, 5, 2), float32 px.

    Points: left eye, right eye, nose tip, left and right mouth corner, as seen in the picture.
    """

    boxes_xyxy: Float32Array
    points_xy: Float32Array


def label_faces(
    crops: Sequence[UInt8Array] | UInt8Array,
    *,
    labeller: Path,
    landmarker: Path | None = None,
    min_score: float = 0.7,
) -> list[FaceLabels]:
    """Find the faces of each crop, averaging the answers over mirrored and scaled views.

    A face counts if at least two of YuNet's views agree on it.

    Args:
        crops: (H, W, 3) uint8 RGB each.
        labeller: YuNet as an ONNX file.
        landmarker: PFLD with 68 landmarks as an ONNX file; without it the points are YuNet's.
        min_score: answers of YuNet below are ignored.

    Raises:
        MissingError: `labeller` or `landmarker` is not a file.
    """
    if not labeller.is_file():
        raise MissingError(
            f"{labeller} is not a file, expected the face detector YuNet as ONNX; "
            "download face_detection_yunet from OpenCV's model zoo"
        )
    if landmarker is not None and not landmarker.is_file():
        raise MissingError(
            f"{landmarker} is not a file, expected PFLD with 68 landmarks as ONNX; "
            "restore it, or leave it out to take YuNet's key points"
        )
    detector = cv2.FaceDetectorYN.create(str(labeller), "", (256, 256), min_score)
    network = None if landmarker is None else cv2.dnn.readNetFromONNX(str(landmarker))
    labels = []
    for crop in crops:
        found = _merge([_look(detector, crop, *view) for view in VIEWS])
        labels.append(found if network is None else _refine(network, crop, found))
    return labels


def _refine(network: cv2.dnn.Net, crop: UInt8Array, labels: FaceLabels) -> FaceLabels:
    """Return the labels with both networks' points wherever they are believable."""
    points = labels.points_xy.copy()
    for number, box in enumerate(labels.boxes_xyxy):
        found = np.mean([_five_points(network, crop, box, view) for view in PFLD_VIEWS], axis=0)
        between_eyes = np.linalg.norm(points[number, 1] - points[number, 0])
        off = np.linalg.norm(found - points[number], axis=1).mean()
        if off <= MOST_DISAGREEMENT * between_eyes:
            found[AGREED_POINTS] = (found[AGREED_POINTS] + points[number, AGREED_POINTS]) / 2
            points[number] = found
    return FaceLabels(boxes_xyxy=labels.boxes_xyxy, points_xy=points)


def _five_points(
    network: cv2.dnn.Net, crop: UInt8Array, box: Float32Array, view: tuple[float, float, float]
) -> Float32Array:
    """Return the five points (5, 2) of one face: the mean of a look and of a mirrored look."""
    side = float((box[2:] - box[:2]).max()) * PFLD_MARGIN * view[2]
    centre = (box[:2] + box[2:]) / 2 + np.array(view[:2], np.float32) * side
    scale, middle = PFLD_SIZE / side, (PFLD_SIZE - 1) / 2
    matrix = np.array([[scale, 0, 0], [0, scale, 0]], np.float64)
    matrix[:, 2] = middle - scale * centre
    patch = cv2.warpAffine(
        np.ascontiguousarray(crop),
        matrix,
        (PFLD_SIZE, PFLD_SIZE),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    answers = []
    for mirrored in (False, True):
        picture = np.ascontiguousarray(patch[:, ::-1]) if mirrored else patch
        network.setInput(cv2.dnn.blobFromImage(picture, 1 / 255.0))
        landmarks = np.asarray(network.forward()).reshape(68, 2) * PFLD_SIZE
        five = five_of_68(landmarks)
        if mirrored:
            five = five[list(MIRRORED_POINTS)]
            five[:, 0] = PFLD_SIZE - 1 - five[:, 0]
        answers.append(five)
    return ((np.mean(answers, axis=0) - middle) / scale + centre).astype(np.float32)


def _look(
    detector: cv2.FaceDetectorYN, crop: UInt8Array, scale: float, mirrored: bool
) -> Float32Array:
    """Return one view's answers in the crop's pixels: (K, 15) x, y, w, h, five points, score."""
    height, width = crop.shape[:2]
    picture = crop[:, ::-1, ::-1] if mirrored else crop[..., ::-1]  # BGR
    side = PADDING
    picture = cv2.copyMakeBorder(picture, side, side, side, side, cv2.BORDER_REFLECT_101)
    if scale != 1.0:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    detector.setInputSize((picture.shape[1], picture.shape[0]))
    found = detector.detect(picture)[1]
    if found is None:
        return np.zeros((0, 15), np.float32)
    rows = np.array(found, dtype=np.float32)
    rows[:, :14] /= scale
    rows[:, [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]] -= PADDING
    if mirrored:
        points = rows[:, 4:14].reshape(-1, 5, 2)[:, MIRRORED_POINTS]
        points[..., 0] = width - 1 - points[..., 0]
        rows[:, 4:14] = points.reshape(-1, 10)
        rows[:, 0] = width - 1 - rows[:, 0] - rows[:, 2]
    middle = rows[:, :2] + rows[:, 2:4] / 2
    inside = np.all((middle >= 0) & (middle < (width, height)), axis=1)
    return rows[inside]


def _merge(views: Sequence[Float32Array]) -> FaceLabels:
    """Average the answers of all views about the same face; faces seen once are dropped."""
    rows = np.concatenate(views)
    rows = rows[np.argsort(-rows[:, 2] * rows[:, 3] * rows[:, 14], kind="stable")]
    faces = []
    while len(rows):
        middle, size = rows[0, :2] + rows[0, 2:4] / 2, rows[0, 2:4].max()
        away = np.abs(rows[:, :2] + rows[:, 2:4] / 2 - middle).max(axis=1)
        same = (away < 0.35 * size) & (rows[:, 2:4].max(axis=1) > 0.5 * size)
        if same.sum() >= 2:
            faces.append(rows[same].mean(axis=0))
        rows = rows[~same]
    merged = np.array(faces, dtype=np.float32).reshape(-1, 15)
    boxes = np.concatenate([merged[:, :2], merged[:, :2] + merged[:, 2:4]], axis=1)
    return FaceLabels(boxes_xyxy=boxes, points_xy=merged[:, 4:14].reshape(-1, 5, 2))
