"""From a source and an edit to a report: what `vidinvert evaluate` does."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stabilizers.metrics import correlation, jitter, temporal_identity
from vidinvert.checkpoints import load_weights
from vidinvert.errors import CheckpointError, MissingError, OpenError, PlanError
from vidinvert.evaluation.definitions import DEFINITIONS
from vidinvert.evaluation.faces import ComparedFace, find_faces, within
from vidinvert.evaluation.measure import FaceSeries, Instruments, Measured, measure
from vidinvert.faces import FaceDetector
from vidinvert.faces.landmarks import LandmarkNetwork, expression_measures
from vidinvert.faces.recognise import FaceRecogniser
from vidinvert.media import compare_sound, probe
from vidinvert.networks.lpips import Lpips
from vidinvert.types import TrackingPlan, VideoInfo

Float64Array = NDArray[np.float64]
Progress = Callable[[str, int, int], None]
ATTRIBUTES = ("smile", "mouth_open", "eyes_open", "yaw")
# Distances of the eyes: under a pixel in the crop. Below it the landmarks' own error decides: on a
# clip of 0.003 the source correlates with itself, encoded anew, at 0.96.
MOUTH_MOVES = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """The report, and every figure that has one over time for plots.

    `series`: by name, the seconds (T,), and the curves by label, each (T,) with NaN gaps.
    """

    report: dict[str, Any]
    series: dict[str, tuple[Float64Array, dict[str, Float64Array]]]


def evaluate_video(
    source: str | Path,
    edited: str | Path,
    *,
    detector: FaceDetector,
    face: str = "largest",
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
    recognition: Path | None = None,
    landmarks: Path | None = None,
    lpips: Path | None = None,
    masks: Path | None = None,
    edit_report: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure an edited clip against its source.

    Args:
        source: the clip before.
        edited: the clip after, of the same size.
        detector: finds the faces of both.
        face: `largest`, `all` or numbers as `0,2`, as for `edit`.
        start_seconds: where the edit begins in the source, if only a part was edited.
        end_seconds: where it ends; None = at the end of the shorter one.
        recognition: an ONNX recognition model or a directory with one, for identity.
        landmarks: an ONNX network of 68 landmarks, for attributes; jitter uses them then.
        lpips: the state dict of `lpips.LPIPS(net="alex")` or `"vgg"`.
        masks: the folder that `edit --save-masks` wrote.
        edit_report: the file that `edit --report` wrote, for what was measured before encoding.
        progress: called with the stage, the frames done and the frames in all.

    Returns:
        The report: figures, what is absent and why, and what every figure means.

    Raises:
        PlanError: the clips differ in size, or the part holds no frame.
        NoFaceError: the source has no face.
        VidinvertError: a clip or a model cannot be read.
    """
    before, after = probe(source), probe(edited)
    if before.size_hw != after.size_hw:
        raise PlanError(
            f"{after.path.name} is {_size(after)} and {before.path.name} {_size(before)}, expected "
            "one size; evaluate an edit against the clip it was made from."
        )
    asked = _frames(before, start_seconds, end_seconds)
    frames = range(asked.start, min(asked.stop, asked.start + after.frame_count))
    edit = _read_edit_report(edit_report)
    instruments = Instruments(
        landmarks=None if landmarks is None else _load_landmarks(landmarks),
        recogniser=None if recognition is None else FaceRecogniser(recognition),
        lpips=None if lpips is None else _load_lpips(lpips),
        masks=None if masks is None else _check_masks(masks, frames),
    )
    tell = progress or (lambda stage, done, total: None)
    tell("detect", 0, len(frames))
    shots, found = find_faces(
        before, after, detector, frames=frames, face=face, tracking=TrackingPlan()
    )
    faces = [within(one, frames) for one in found]
    tell("detect", len(frames), len(frames))
    measured = measure(
        before,
        after,
        faces,
        shots,
        instruments,
        frames=frames,
        progress=lambda done, total: tell("measure", done, total),
    )
    curves: dict[str, tuple[Float64Array, dict[str, Float64Array]]] = {}
    seconds = before.seconds[frames.start : frames.stop]
    outside = _describe_outside(measured, edit, seconds, curves)
    reports = [
        _describe_face(one, series, instruments, before.seconds[series.indices], curves)
        for one, series in zip(faces, measured.faces, strict=True)
    ]
    report = {
        "source": str(before.path),
        "edited": str(after.path),
        "frames": len(frames),
        "faces": reports,
        "outside": outside,
        "sound": _describe_sound(before, after, frames),
        "timing": _describe_timing(before, after, asked, frames),
        "absent": _absent(instruments, before, edit) | _still_mouths(reports),
        "definitions": {name: asdict(meaning) for name, meaning in DEFINITIONS.items()},
    }
    return Evaluation(report=report, series=curves)


def _size(info: VideoInfo) -> str:
    return f"{info.size_hw[1]}x{info.size_hw[0]}"


def _frames(info: VideoInfo, start_seconds: float, end_seconds: float | None) -> range:
    end = math.inf if end_seconds is None else end_seconds
    inside = np.flatnonzero((info.seconds >= start_seconds - 1e-9) & (info.seconds < end - 1e-9))
    if len(inside) == 0:
        raise PlanError(
            f"No frame of {info.path.name} lies from {start_seconds:g} s to {end:g} s, expected a "
            f"part of its {info.seconds[-1]:.3f} s; choose --start and --end there."
        )
    return range(int(inside[0]), int(inside[-1]) + 1)


def _load_landmarks(path: Path) -> LandmarkNetwork:
    if not path.is_file():
        raise MissingError(f"{path} is not there, expected an ONNX network of 68 landmarks.")
    return LandmarkNetwork(path)


def _load_lpips(path: Path) -> Lpips:
    try:
        return Lpips(load_weights(path)).eval()
    except ValueError as error:
        raise CheckpointError(f"{path} does not hold LPIPS: {error}.") from error


def _check_masks(directory: Path, frames: range) -> Path:
    missing = [i for i in frames if not (directory / f"{i:06d}.png").is_file()]
    if missing:
        raise PlanError(
            f"{directory} has no mask for {len(missing)} of {len(frames)} frames (the first is "
            f"{missing[0]:06d}.png), expected the folder that edit --save-masks wrote for them."
        )
    return directory


def _read_edit_report(path: Path | None) -> Mapping[str, Any] | None:
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["quality"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OpenError(
            f"{path} cannot be read as a report of an edit ({error!r}), expected the file that "
            "edit --report wrote."
        ) from error


def _describe_outside(
    measured: Measured,
    edit: Mapping[str, Any] | None,
    seconds: Float64Array,
    curves: dict[str, tuple[Float64Array, dict[str, Float64Array]]],
) -> dict[str, Any]:
    series = {
        "psnr_outside": np.array(measured.psnr_outside),
        "ssim_outside": np.array(measured.ssim_outside),
        "ms_ssim_outside": np.array(measured.ms_ssim_outside),
    }
    for name, values in series.items():
        curves[name] = (seconds, {"edited": values})
    figures: dict[str, Any] = {
        "psnr_outside": number(measured.squared_error_outside.psnr),
        "psnr_outside_identical": math.isinf(measured.squared_error_outside.psnr),
        "ssim_outside": mean_of(series["ssim_outside"]),
        "ms_ssim_outside": mean_of(series["ms_ssim_outside"]),
    }
    if edit is not None:
        figures["before_encoding"] = edit
    return figures


def _describe_face(
    face: ComparedFace,
    series: FaceSeries,
    instruments: Instruments,
    seconds: Float64Array,
    curves: dict[str, tuple[Float64Array, dict[str, Float64Array]]],
) -> dict[str, Any]:
    name = f"face{face.track.track_id}"
    figures: dict[str, Any] = {
        "id": face.track.track_id,
        "frames": len(series.indices),
        "psnr_face": number(series.squared_error.psnr),
    }
    curves[f"{name}_psnr_face"] = (seconds, {"edited": series.values["psnr_face"]})
    for metric in ("ssim_face", "ms_ssim_face", "lpips_face", "mask_flicker", "mask_temporal_iou"):
        values = series.values.get(metric)
        if values is not None:
            figures[metric] = mean_of(values)
            curves[f"{name}_{metric}"] = (seconds, {"edited": values})
    if instruments.lpips is not None:
        figures["lpips_face_backbone"] = instruments.lpips.backbone
    errors = {
        kind: series.values.get(f"warping_error_{kind}", np.full(len(seconds), np.nan))
        for kind in ("source", "edited", "own")
    }
    own = {"source": errors["source"], "edited": errors.pop("own")}
    for metric, pair in (("warping_error", errors), ("warping_error_own_flow", own)):
        figures[metric] = _ratio(pair)
        curves[f"{name}_{metric}"] = (seconds, pair)
    points = series.points or {"source": face.track.landmarks_xy, "edited": face.edited_xy}
    eyes = face.track.landmarks_xy
    scale = np.linalg.norm(eyes[:, 1] - eyes[:, 0], axis=1)
    shaking = {
        kind: jitter(points[kind], scale, intervals=series.intervals)
        for kind in ("source", "edited")
    }
    figures["landmark_jitter"] = _ratio(shaking)
    figures["landmark_jitter"]["points"] = int(points["source"].shape[1])
    curves[f"{name}_landmark_jitter"] = (seconds, shaking)
    if series.points:
        figures |= _describe_attributes(series, seconds, curves, name)
    if series.identities:
        figures |= _describe_identity(series, instruments, seconds, curves, name)
    return figures


def _ratio(pair: Mapping[str, Float64Array]) -> dict[str, Any]:
    both = np.isfinite(pair["source"]) & np.isfinite(pair["edited"])
    source, edited = mean_of(pair["source"][both]), mean_of(pair["edited"][both])
    ratio = None if source is None or edited is None or source == 0 else edited / source
    return {"source": source, "edited": edited, "ratio": ratio}


def _describe_attributes(
    series: FaceSeries,
    seconds: Float64Array,
    curves: dict[str, tuple[Float64Array, dict[str, Float64Array]]],
    name: str,
) -> dict[str, Any]:
    before, after = (expression_measures(series.points[kind]) for kind in ("source", "edited"))
    for attribute in ATTRIBUTES:
        pair = {"source": before[attribute], "edited": after[attribute]}
        curves[f"{name}_{attribute}"] = (seconds, pair)
    movement = spread_of(before["mouth_open"])
    speaks = movement is not None and movement >= MOUTH_MOVES
    alike = correlation(before["mouth_open"], after["mouth_open"]) if speaks else math.nan
    return {
        "attributes": {a: mean_of(after[a] - before[a]) for a in ATTRIBUTES},
        "mouth_movement": movement,
        "mouth_correlation": number(alike),
    }


def _describe_identity(
    series: FaceSeries,
    instruments: Instruments,
    seconds: Float64Array,
    curves: dict[str, tuple[Float64Array, dict[str, Float64Array]]],
    name: str,
) -> dict[str, Any]:
    source, edited = series.identities["source"], series.identities["edited"]
    local, whole = temporal_identity(edited, source)
    alike = (source * edited).sum(axis=1)
    curves[f"{name}_identity_similarity"] = (seconds, {"edited": alike})
    curves[f"{name}_tl_id"] = (seconds[:-1], {"edited": local})
    return {
        "tl_id": mean_of(local),
        "tg_id": number(whole),
        "identity_similarity": mean_of(alike),
        "identity_model": None if instruments.recogniser is None else instruments.recogniser.name,
    }


def _describe_sound(before: VideoInfo, after: VideoInfo, frames: range) -> dict[str, Any]:
    compared = compare_sound(before, after, frames=frames)
    return {
        "tracks": {"source": compared.tracks[0], "edited": compared.tracks[1]},
        "packets": compared.packets,
        "same_share": compared.same_packets / compared.packets if compared.packets else None,
        "largest_shift_seconds": compared.largest_shift_seconds,
    }


def _describe_timing(
    before: VideoInfo, after: VideoInfo, asked: range, frames: range
) -> dict[str, Any]:
    ours = before.seconds[frames.start : frames.stop] - before.seconds[frames.start]
    theirs = after.seconds[: len(frames)]
    return {
        "frames": {"source": len(asked), "edited": after.frame_count},
        "largest_difference_seconds": float(np.abs(ours - theirs).max()),
    }


def _absent(
    instruments: Instruments, before: VideoInfo, edit: Mapping[str, Any] | None
) -> dict[str, str]:
    """Say what was not measured, and what it needs."""
    reasons: dict[str, str] = {}
    if instruments.recogniser is None:
        reasons["tl_id, tg_id, identity_similarity"] = (
            "no recognition model: name an ONNX file or a directory with --recognition"
        )
    if instruments.landmarks is None:
        reasons["attributes, mouth_correlation"] = (
            "no network of 68 landmarks: name one with --landmarks; jitter is that of the "
            "detector's five points"
        )
    if instruments.lpips is None:
        reasons["lpips_face"] = "no weights: name the state dict of lpips.LPIPS with --lpips"
    if instruments.masks is None:
        reasons["mask_flicker, mask_temporal_iou"] = (
            "no masks: edit with --save-masks and name the folder with --masks"
        )
    if edit is None:
        reasons["before_encoding"] = (
            "no report of the edit: edit with --report and name the file with --edit-report"
        )
    if not before.audio:
        reasons["sound"] = "the source has none"
    return reasons


def _still_mouths(faces: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Say of whom it cannot be told whether speech was kept."""
    return {
        f"mouth_correlation of face {face['id']}": (
            f"the source's mouth hardly opens: by {face['mouth_movement']:.3f} of the eyes' "
            f"distance (standard deviation), expected {MOUTH_MOVES:g} for speech"
        )
        for face in faces
        if (face.get("mouth_movement") or MOUTH_MOVES) < MOUTH_MOVES
    }


def mean_of(values: Float64Array) -> float | None:
    """Mean of what is finite, None where nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def spread_of(values: Float64Array) -> float | None:
    """Standard deviation of what is finite, None where nothing is."""
    known = values[np.isfinite(values)]
    return float(known.std()) if len(known) else None


def number(value: float) -> float | None:
    """Return a number as JSON has it: None for infinite and NaN."""
    return value if math.isfinite(value) else None
