"""68 landmarks (Multi-PIE order) of aligned crops by a PFLD network: for labels and measures.

The network is the user's file; nothing here ships. The order is the common one: 0-16 jaw, 36-41 and
42-47 eyes, 48-59 outer and 60-67 inner lips.
"""

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vidinvert.checkpoints import check_self_contained

INPUT_SIDE = 112
FACE_BOX = (38 / 256, 58 / 256, 180 / 256)  # left, top and side of the face in an FFHQ-framed crop


class LandmarkNetwork:
    """PFLD with 68 points.

    Args:
        path: the ONNX file; input (N, 3, 112, 112) RGB in [0, 1], output (N, 136).
        threads: of the session.

    Raises:
        CheckpointError: the file is no ONNX, or names other files.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        check_self_contained(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return (N, 68, 2) points in pixels of the crops, uint8 (N, R, R, 3) RGB."""
        side = crops.shape[1]
        left, top, width = (round(share * side) for share in FACE_BOX)
        inputs = np.empty((len(crops), 3, INPUT_SIDE, INPUT_SIDE), np.float32)
        for index, crop in enumerate(crops):
            face = crop[top : top + width, left : left + width]
            small = cv2.resize(face, (INPUT_SIDE, INPUT_SIDE), interpolation=cv2.INTER_AREA)
            inputs[index] = small.transpose(2, 0, 1).astype(np.float32) / 255.0
        output = np.asarray(self._session.run(None, {self._input: inputs})[0])
        return output.reshape(-1, 68, 2).astype(np.float64) * width + np.array([left, top])


def expression_measures(landmarks: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Measure expressions on (N, 68, 2) landmarks; lengths are over the distance of the eyes.

    `smile`: width of the mouth plus twice the lift of its corners over its middle; `mouth_open`:
    gap between the inner lips, about 0 or less where they are pressed together; `eyes_open`: mean
    opening of the eyes over their width; `yaw`: the nose tip's sideways offset from the middle of
    the jaw's ends, positive when the face looks to the right of the picture; `pitch`: how high the
    nose tip lies between mouth (0) and eyes (1), greater when the face looks up.
    """
    eyes = np.stack([landmarks[:, 36:42].mean(axis=1), landmarks[:, 42:48].mean(axis=1)], axis=1)
    across = eyes[:, 1] - eyes[:, 0]
    distance = np.linalg.norm(across, axis=1)
    right = across / distance[:, None]
    down = np.stack([-right[:, 1], right[:, 0]], axis=1)
    width = np.linalg.norm(landmarks[:, 54] - landmarks[:, 48], axis=1)
    middle = (landmarks[:, 51] + landmarks[:, 57]) / 2
    corners = (landmarks[:, 48] + landmarks[:, 54]) / 2
    lift = ((middle - corners) * down).sum(axis=1)
    upper_lip, lower_lip = landmarks[:, 61:64].mean(axis=1), landmarks[:, 65:68].mean(axis=1)
    gap = ((lower_lip - upper_lip) * down).sum(axis=1)
    opening = (_eye_opening(landmarks[:, 36:42]) + _eye_opening(landmarks[:, 42:48])) / 2
    jaw = (landmarks[:, 1] + landmarks[:, 15]) / 2
    turn = ((landmarks[:, 30] - jaw) * right).sum(axis=1)
    between = eyes.mean(axis=1)
    mouth_drop = ((landmarks[:, 48:60].mean(axis=1) - between) * down).sum(axis=1)
    nose_drop = ((landmarks[:, 30] - between) * down).sum(axis=1)
    return {
        "smile": width / distance + 2.0 * lift / distance,
        "mouth_open": gap / distance,
        "eyes_open": opening,
        "yaw": turn / distance,
        "pitch": 1.0 - nose_drop / mouth_drop,
    }


def _eye_opening(eye: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean height of an eye (N, 6, 2) over its width: (N,)."""
    heights = np.linalg.norm(eye[:, 1] - eye[:, 5], axis=1)
    heights = heights + np.linalg.norm(eye[:, 2] - eye[:, 4], axis=1)
    return heights / (2 * np.linalg.norm(eye[:, 3] - eye[:, 0], axis=1))


# The point that takes each one's place when the picture is mirrored.
MIRRORED = np.array(
    [
        *(*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),  # lips
    ]
)
