"""Finds faces with a detector that insightface loads from a local directory.

BGR and insightface's objects exist only here: what leaves are our own `Detection`s.
"""

import contextlib
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidinvert import images
from vidinvert.checkpoints import check_self_contained
from vidinvert.errors import (
    CheckpointError,
    MissingError,
    NoFaceError,
    OpenError,
    PlanError,
)
from vidinvert.faces.boxes import area, overlap
from vidinvert.geometry import fit_similarity, transform_points, warp
from vidinvert.types import Detection, FrameBatch

NMS_IOU = 0.4  # SCRFD's own
GOOD_SHARE = 0.2  # a face this far from min_score towards 1 ends the search in a frame
STICKY_FRAMES = 3  # after so many frames a look that was needed becomes the first one

# Where ArcFace expects the five points in a crop of 112 pixels (insightface, face_align).
ARCFACE_112_XY = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float64,
)


@dataclass(frozen=True, slots=True)
class _Look:
    """One way to show a frame to the detector: in a square of `input_size` pixels.

    `margin` is the square's side over the frame's longer side, as shown. Without a margin the
    square is cut off beyond the frame, unless the network takes nothing but squares.
    """

    input_size: int
    margin: float
    square: bool = False


STEP = 32  # the sides of what is shown are multiples of it: the network's coarsest stride
BEYOND = 64  # pixels of black that stay beyond a frame: with fewer, faces at its edge lie otherwise
# In order of cost. SCRFD sees faces of 10 to 250 pixels best: the first look finds faces from 10 %
# of the frame's longer side up, the second half of that, the third those that fill the frame.
LOOKS = (_Look(320, 1.0), _Look(640, 1.0), _Look(320, 2.0))


class FaceDetector:
    """Finds faces in the frames of a clip, given in order.

    It remembers which size found the last faces and starts there; a batch that does not continue
    the one before starts afresh, so one detector serves many clips one after the other, but not
    two at once.

    Attributes:
        device: where it runs: `cpu`, or `cuda:N` where onnxruntime can use CUDA.
        identifies: whether the directory holds a recognition model, so that faces get an identity.
    """

    def __init__(
        self,
        directory: Path,
        *,
        device: str,
        min_score: float = 0.5,
        min_size: float = 24.0,
        workers: int = 1,
    ) -> None:
        """Load the models of a directory.

        Args:
            directory: holds a detector with five key points as `.onnx`, and perhaps a recognition
                model; with insightface's `manifest.json` their sha256 sums are checked.
            device: `cpu`, `cuda` or `cuda:N`; without CUDA in onnxruntime the CPU is used.
            min_score: detections below are dropped.
            min_size: faces whose shorter side has fewer pixels are dropped.
            workers: frames of a batch that are looked at at once; the faces found are the same.

        Raises:
            MissingError: the directory or a model in it is not there.
            CheckpointError: the models cannot be loaded, or do not find five key points.
            ValueError: `min_score` is no probability, or `min_size` is negative.
        """
        if not 0 < min_score < 1:
            raise ValueError(f"min_score is {min_score}, expected a score between 0 and 1")
        if not min_size >= 0:
            raise ValueError(f"min_size is {min_size}, expected a number of pixels >= 0")
        self.device, models = _load_models(directory, device)
        self._detector = models["detection"]
        self._recogniser = models.get("recognition")
        self._looks = _looks_for(self._detector)
        self._min_score = min_score
        self._min_size = min_size
        self._workers = workers
        self._begin()

    @property
    def identifies(self) -> bool:
        """Whether detections carry an identity."""
        return self._recogniser is not None

    def detect(self, batch: FrameBatch) -> list[list[Detection]]:
        """Find the faces in each frame of a batch, best first."""
        if int(batch.indices[0]) != self._next_index:
            self._begin()
        pairs = pairwise(batch.frames)
        still = [False, *(images.same_picture(frame, before) for before, frame in pairs)]
        looked = self._look_ahead(batch, still)
        found: list[list[Detection]] = []
        for k, (frame, index) in enumerate(zip(batch.frames, batch.indices.tolist(), strict=True)):
            if index != self._next_index:
                self._begin()
            self._next_index = index + 1
            if still[k]:  # nothing moved: what was found stays
                found.append([replace(face, frame_index=index) for face in found[-1]])
            else:
                found.append(self._detect_frame(frame, index, looked))
        return found

    def _look_ahead(
        self, batch: FrameBatch, still: Sequence[bool]
    ) -> dict[tuple[int, int], list[Detection]]:
        """Look at the frames of a batch at once, as the first will be; by frame and look."""
        if self._workers == 1:
            return {}
        moving = [k for k, stays in enumerate(still) if not stays]
        number, indices = self._first_look, [int(batch.indices[k]) for k in moving]
        with ThreadPoolExecutor(self._workers, thread_name_prefix="detect") as pool:
            looks = pool.map(
                lambda frame, index: self._look(frame, index, self._looks[number]),
                [batch.frames[k] for k in moving],
                indices,
            )
            return {(index, number): faces for index, faces in zip(indices, looks, strict=True)}

    def identify(self, photo: Path) -> NDArray[np.float32]:
        """Return the identity of the largest face in a picture file.

        Raises:
            PlanError: no recognition model is loaded, or the file is not a picture.
            NoFaceError: the picture shows no face.
        """
        if self._recogniser is None:
            raise PlanError(
                f"Cannot look for the person in {photo}: the face pack's detector directory holds "
                "no recognition model. Add one (for instance insightface's buffalo_l), or choose "
                "the face by its number."
            )
        try:
            frames = images.read_picture(photo)[None]  # (1, H, W, 3) RGB
        except OpenError as error:
            raise PlanError(
                f"Cannot read {photo} as a picture; expected a JPEG or PNG of a face. {error}."
            ) from error
        self._begin()
        faces = self.detect(FrameBatch(frames=frames, indices=np.zeros(1, dtype=np.int64)))[0]
        self._begin()
        if not faces:
            raise NoFaceError(
                f"No face found in {photo} (threshold {self._min_score:.2f}). "
                "Choose a picture that shows the face from the front, or lower --min-score."
            )
        largest = max(faces, key=lambda face: area(face.box_xyxy))
        assert largest.identity is not None  # a recogniser is loaded
        return largest.identity

    def _begin(self) -> None:
        self._next_index = 0
        self._first_look = 0
        self._wanted_look = 0
        self._wanted_frames = 0

    def _detect_frame(
        self,
        frame: NDArray[np.uint8],
        index: int,
        looked: Mapping[tuple[int, int], list[Detection]],
    ) -> list[Detection]:
        """Find the faces of a frame; `looked` holds what is seen already, by frame and look."""
        good_score = self._min_score + GOOD_SHARE * (1 - self._min_score)
        order = [self._first_look, *(i for i in range(len(self._looks)) if i != self._first_look)]
        faces: list[Detection] = []
        for number in order:
            seen = looked.get((index, number))
            faces.extend(self._look(frame, index, self._looks[number]) if seen is None else seen)
            if any(face.score >= good_score for face in faces):
                self._prefer(number)
                break
        return [self._identified(frame, face) for face in _suppress(faces)]

    def _prefer(self, number: int) -> None:
        """Start with look `number` once it was needed for some frames in a row.

        Sizes differ in where they put the points by up to a hundredth of the face, so a change is
        seen; it should happen seldom.
        """
        self._wanted_frames = self._wanted_frames + 1 if number == self._wanted_look else 1
        self._wanted_look = number
        if self._wanted_frames >= STICKY_FRAMES:
            self._first_look = number

    def _look(self, frame: NDArray[np.uint8], index: int, look: _Look) -> list[Detection]:
        if min(frame.shape[:2]) < max(self._min_size, 2):
            return []
        canvas, frame_from_canvas = _letterbox(frame, look)
        size = (canvas.shape[1], canvas.shape[0])
        boxes, points = self._detector.detect(
            _bgr(canvas), input_size=size, det_thresh=self._min_score
        )
        faces: list[Detection] = []
        for box, five in zip(boxes.astype(np.float64), points.astype(np.float64), strict=True):
            face = Detection(
                frame_index=index,
                box_xyxy=transform_points(frame_from_canvas, box[:4].reshape(2, 2)).reshape(4),
                landmarks_xy=transform_points(frame_from_canvas, five),
                score=float(min(box[4], 1.0)),
            )
            if _is_plausible(face, frame.shape[:2], self._min_size):
                faces.append(face)
        return faces

    def _identified(self, frame: NDArray[np.uint8], face: Detection) -> Detection:
        if self._recogniser is None:
            return face
        side = int(self._recogniser.input_size[0])
        crop_from_frame = fit_similarity(face.landmarks_xy, ARCFACE_112_XY * (side / 112))
        crop = np.asarray(warp(frame, crop_from_frame, (side, side)), dtype=np.uint8)
        vector = np.asarray(self._recogniser.get_feat(_bgr(crop)), dtype=np.float32).reshape(-1)
        return Detection(
            frame_index=face.frame_index,
            box_xyxy=face.box_xyxy,
            landmarks_xy=face.landmarks_xy,
            score=face.score,
            identity=vector / max(float(np.linalg.norm(vector)), 1e-12),
        )


def _load_models(directory: Path, device: str) -> tuple[str, dict[str, Any]]:
    """Load detector and recogniser; returns the device they run on and the models by task."""
    if not directory.is_dir():
        raise MissingError(
            f"No face detector at {directory}: the directory does not exist. Expected a directory "
            "with a detector's .onnx file; run 'vidinvert models list' to see what is installed."
        )
    # insightface looks at this level only.
    if not any(directory.glob("*.onnx")) and not (directory / "manifest.json").is_file():
        raise MissingError(
            f"No face detector in {directory}: it holds no .onnx file. Expected a detector's .onnx "
            "file at its top level, as in insightface's packs."
        )
    for model in directory.rglob("*"):  # a manifest may name models in folders below
        if model.suffix.lower() == ".onnx" and model.is_file():
            check_self_contained(model)
    with quietly():
        import onnxruntime
        from insightface.app import FaceAnalysis

        place, providers = _providers(device, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # one number of threads for a run
        # Threads that spin while they wait would take the cores from the networks' own.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            models: dict[str, Any] = FaceAnalysis(
                name=str(directory),
                allowed_modules=["detection", "recognition"],
                providers=providers,
                sess_options=options,
            ).models
        except AssertionError as error:
            raise CheckpointError(
                f"The .onnx files in {directory} hold no face detector that insightface knows. "
                "Expected an SCRFD detector with five key points."
            ) from error
        except Exception as error:
            # onnxruntime's errors share no base class; all mean that a file cannot be used.
            raise CheckpointError(
                f"The models in {directory} cannot be loaded: {error}. "
                "Expected an intact SCRFD detector; install the pack again."
            ) from error
    if not getattr(models["detection"], "use_kps", False):
        raise CheckpointError(
            f"The detector in {directory} finds boxes only. Expected one that also finds five key "
            "points, as SCRFD models with 'kps' or 'g' in their name do."
        )
    return place, models


def _providers(device: str, available: list[str]) -> tuple[str, list[Any]]:
    name, _, number = device.partition(":")
    if name == "cuda" and "CUDAExecutionProvider" in available:
        device_id = int(number or 0)
        cuda = ("CUDAExecutionProvider", {"device_id": str(device_id)})
        return f"cuda:{device_id}", [cuda, "CPUExecutionProvider"]
    return "cpu", ["CPUExecutionProvider"]


@contextlib.contextmanager
def quietly() -> Any:
    """Keep what insightface prints and warns while it loads out of the results on stdout."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _looks_for(detector: Any) -> tuple[_Look, ...]:
    """Return the ways to look; a network with a fixed input size has but that size."""
    fixed = getattr(detector, "static_input_size", None)
    if fixed is None:
        return LOOKS
    side = min(int(fixed[0]), int(fixed[1]))
    return (_Look(side, 1.0, square=True), _Look(side, 2.0, square=True))


def _letterbox(
    frame: NDArray[np.uint8], look: _Look
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Show a frame on black; returns it and the transform frame_from_canvas (2, 3)."""
    height, width = frame.shape[:2]
    scale = look.input_size / (max(height, width) * look.margin)
    small_h, small_w = max(1, round(height * scale)), max(1, round(width * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(frame, (small_w, small_h), interpolation=method)
    cut = look.margin <= 1 and not look.square
    canvas_h, canvas_w = (
        min(-(-(side + BEYOND) // STEP) * STEP, look.input_size) if cut else look.input_size
        for side in (small_h, small_w)
    )
    canvas = np.zeros((canvas_h, canvas_w, 3), dtype=np.uint8)
    # With room to spare the frame stands in the middle, so that a face which it cuts off can be
    # continued on either side.
    top = (look.input_size - small_h) // 2 if look.margin > 1 else 0
    left = (look.input_size - small_w) // 2 if look.margin > 1 else 0
    canvas[top : top + small_h, left : left + small_w] = small
    scale_x, scale_y = width / small_w, height / small_h
    frame_from_canvas = np.array(
        [
            [scale_x, 0.0, (0.5 - left) * scale_x - 0.5],
            [0.0, scale_y, (0.5 - top) * scale_y - 0.5],
        ]
    )
    return canvas, frame_from_canvas


def _bgr(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(picture[:, :, ::-1])


def _is_plausible(face: Detection, size_hw: tuple[int, ...], min_size: float) -> bool:
    """Whether the face is large enough, in the frame, and its points span a crop."""
    left, top, right, bottom = face.box_xyxy.tolist()
    points = face.landmarks_xy
    if not (np.isfinite(points).all() and math.isfinite(left + top + right + bottom)):
        return False
    in_frame = 0 <= left + right < 2 * size_hw[1] and 0 <= top + bottom < 2 * size_hw[0]
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    eye_to_eye, eye_to_mouth = points[1] - points[0], mouth - eyes
    across = eye_to_eye + np.array([eye_to_mouth[1], -eye_to_mouth[0]])
    spread = float(np.hypot(*across))
    reach = float(np.hypot(*eye_to_eye) + np.hypot(*eye_to_mouth))
    large = min(right - left, bottom - top) >= min_size
    return large and in_frame and reach > 2.0 and spread > 0.1 * reach


def _suppress(faces: list[Detection]) -> list[Detection]:
    """Keep the best of detections that overlap, best first."""
    kept: list[Detection] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(overlap(face.box_xyxy, other.box_xyxy) <= NMS_IOU for other in kept):
            kept.append(face)
    return kept
