"""Tells people apart: identity vectors by the user's recognition model, through insightface."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidinvert.checkpoints import check_self_contained
from vidinvert.errors import CheckpointError, MissingError
from vidinvert.faces.detect import ARCFACE_112_XY, quietly
from vidinvert.geometry import fit_similarity, warp


class FaceRecogniser:
    """A recognition model that takes ArcFace's crops.

    Attributes:
        name: the model's file name, for reports: figures of different models do not compare.
    """

    def __init__(self, path: Path) -> None:
        """Load a model.

        Args:
            path: an ONNX file, or a directory that holds one among other models, as insightface's
                packs do.

        Raises:
            MissingError: there is no such file, or no recognition model in the directory.
            CheckpointError: the file is no recognition model that insightface knows.
        """
        if path.is_dir():
            candidates = sorted(path.glob("*.onnx"))
        elif path.is_file():
            candidates = [path]
        else:
            raise MissingError(
                f"No recognition model at {path}, expected an ONNX file or a directory with one."
            )
        for candidate in candidates:
            model = _load(candidate)
            if getattr(model, "taskname", "") == "recognition":
                self._model = model
                self.name = candidate.name
                return
        if path.is_file():
            raise CheckpointError(
                f"{path} is no recognition model that insightface knows, expected one with a "
                "square input of 112 pixels or more and one output."
            )
        raise MissingError(
            f"{path} holds no recognition model, expected one as w600k_r50.onnx; name its file."
        )

    def identify(
        self, frame: NDArray[np.uint8], landmarks_xy: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the identity of the face with five key points (5, 2) in a frame: a unit vector."""
        side = int(self._model.input_size[0])
        crop_from_frame = fit_similarity(landmarks_xy, ARCFACE_112_XY * (side / 112))
        crop = np.asarray(warp(frame, crop_from_frame, (side, side)), dtype=np.uint8)
        feature = self._model.get_feat(np.ascontiguousarray(crop[:, :, ::-1]))
        vector = np.asarray(feature, dtype=np.float64).reshape(-1)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _load(path: Path) -> Any:
    check_self_contained(path)
    with quietly():
        from insightface.model_zoo import get_model

        try:
            return get_model(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime's errors share no base class; all mean that the file cannot be used.
            raise CheckpointError(
                f"{path} cannot be loaded as an ONNX model: {error}. Expected an intact file."
            ) from error
