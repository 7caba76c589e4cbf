"""How like two aligned faces are, by a small identity network: for measuring alone.

The network is the user's file; nothing here ships. Tracking and choosing people go by
`faces.recognise`, which aligns faces in whole frames.
"""

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

# What a 112 px recognition network sees of an FFHQ-framed crop, in shares of its side: about where
# ArcFace's five points put a face.
ROWS, COLUMNS = (60 / 256, 246 / 256), (35 / 256, 221 / 256)
INPUT_SIDE = 112


class IdentityNetwork:
    """An identity network such as mobilefacenet: (N, 3, 112, 112) RGB, (pixel - 127.5) / 128."""

    def __init__(self, path: Path) -> None:
        """Load an ONNX file."""
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return a unit vector (N, D) a face of FFHQ-framed crops (N, R, R, 3) RGB."""
        side = crops.shape[1]
        rows, columns = (slice(round(a * side), round(b * side)) for a, b in (ROWS, COLUMNS))
        found = []
        for crop in crops:
            face = cv2.resize(
                crop[rows, columns], (INPUT_SIDE, INPUT_SIDE), interpolation=cv2.INTER_AREA
            )
            array = ((face.astype(np.float32) - 127.5) / 128.0).transpose(2, 0, 1)[None]
            found.append(np.asarray(self._session.run(None, {self._input: array})[0]).reshape(-1))
        vectors = np.stack(found).astype(np.float64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
