"""Drawn faces for tests of the detector's recipe: no photographs, no labeller."""

import cv2
import numpy as np

from vidinvert.training.face_labels import FaceLabels
from vidinvert.training.scenes import SceneSource

BOX = (60.0, 50.0, 196.0, 226.0)
POINTS = ((98.0, 120.0), (158.0, 120.0), (128.0, 155.0), (104.0, 188.0), (152.0, 188.0))


def drawn_crop(seed: int) -> np.ndarray:
    """Return a cartoon of an aligned face, (256, 256, 3) uint8 RGB."""
    rng = np.random.default_rng(seed)
    crop = np.empty((256, 256, 3), np.uint8)
    crop[:] = rng.integers(0, 256, 3)
    skin = tuple(int(v) for v in rng.integers(120, 240, 3))
    cv2.ellipse(crop, (128, 138), (68, 88), 0, 0, 360, skin, -1, cv2.LINE_AA)
    for x, y in POINTS[:2]:
        cv2.circle(crop, (int(x), int(y)), 9, (20, 20, 20), -1, cv2.LINE_AA)
    cv2.line(crop, (104, 188), (152, 188), (150, 30, 30), 8, cv2.LINE_AA)
    return crop


def drawn_source(count: int = 4) -> SceneSource:
    """Return labelled cartoons."""
    labels = FaceLabels(
        boxes_xyxy=np.array([BOX], np.float32), points_xy=np.array([POINTS], np.float32)
    )
    return SceneSource(crops=[drawn_crop(i) for i in range(count)], labels=[labels] * count)
