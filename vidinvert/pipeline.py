"""Edit the faces of a talking-head video: analyse, invert, stabilise, edit, render, encode.

READ THIS FIRST: the verbs in the order in which they happen. Decoding is repeated per pass on
purpose: frames are never kept, so memory does not grow with the clip.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stabilizers import Interval
from vidinvert.checkpoints import find_pack, load_directions
from vidinvert.editing import apply_edit, parse_edits, total_strength
from vidinvert.errors import NoFaceError, PlanError
from vidinvert.faces import FaceDetector, align, bridge_gaps, select_tracks, track_faces
from vidinvert.inversion import (
    invert,
    shape_mask,
    stabilise_alignment,
    stabilise_inversion,
)
from vidinvert.media import ShotDetector, VideoWriter, copy_clip, decode, probe, read_ahead
from vidinvert.methods import Method, load_method
from vidinvert.rendering import EditedFace, make_mask_directory, render, write_masks
from vidinvert.types import (
    Alignment,
    Detection,
    FacePack,
    FaceTrack,
    Inversion,
    LatentDirection,
    Plans,
    VideoInfo,
)
from vidinvert.version import VERSION

Progress = Callable[[str, int, int], None]  # stage, frames done, frames in all


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Models:
    """A face pack, loaded: what finds faces, what inverts them, and where codes can be moved."""

    pack: FacePack
    detector: FaceDetector
    method: Method
    method_name: str
    directions: Mapping[str, LatentDirection]
    device: str
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Analysis:
    """What was measured in a clip before anything is edited: steadied crops, codes and masks."""

    info: VideoInfo
    shots: tuple[Interval, ...]
    tracks: tuple[FaceTrack, ...]
    alignments: tuple[Alignment, ...]
    inversions: tuple[Inversion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The frames to work on, as half-open seconds from the clip's start; None = to the end."""

    start_seconds: float = 0.0
    end_seconds: float | None = None


@dataclass(slots=True)
class Clock:
    """Seconds spent in each stage; the stages that run at once share the wall clock."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


def load_pack(
    name: str = "mini",
    *,
    method: str = "samm",
    device: str = "cpu",
    precision: str = "fp32",
    min_score: float = 0.5,
    min_size: float = 24.0,
) -> Models:
    """Load a face pack by name or directory.

    Args:
        name: a shipped pack's name, or a pack's directory.
        method: how faces are inverted, as `samm`.
        device: `cpu` or `cuda:N`.
        precision: of the networks' features: `fp32`, `bf16` or `fp16`.
        min_score: detections below are dropped.
        min_size: faces with a smaller side, in pixels, are dropped.

    Raises:
        CheckpointError: the pack is missing, damaged or of another schema.
        PlanError: the pack does not run the method, or the precision is unknown.
    """
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        raise PlanError(f"The precision {precision!r} is unknown, expected one of {list(dtypes)}.")
    pack = find_pack(name)
    detector_directory = pack.files["detector"].path.parent
    return Models(
        pack=pack,
        detector=FaceDetector(
            detector_directory, device=device, min_score=min_score, min_size=min_size
        ),
        method=load_method(pack, method=method, device=device, dtype=dtypes[precision]),
        method_name=method,
        directions=load_directions(pack),
        device=device,
        precision=precision,
    )


def edit_video(
    source: str | Path,
    target: str | Path,
    *,
    edits: str | Sequence[str] = (),
    pack: Models,
    plans: Plans | None = None,
    face: str = "largest",
    span: Span | None = None,
    overwrite: bool = False,
    allow_no_face: bool = False,
    save_masks: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Edit a clip's faces and write the result; sound, times and shape stay as they are.

    Args:
        source: the clip.
        target: where to write; its suffix names the container.
        edits: one or more edits, as `smile=2` or `smile=0@0s,3@2s`; they replace `plans.edit`.
        pack: from `load_pack`.
        plans: everything else that can be chosen.
        face: `largest`, `all`, numbers as `0,2`, or a photo of the person.
        span: the part of the clip to write.
        overwrite: replace an existing target.
        allow_no_face: a clip without a face is copied instead of refused.
        save_masks: a directory for the masks in frame geometry, or None.
        progress: called with the stage, the frames done and the frames in all.

    Returns:
        The report of house.md, section 6, ready for JSON.

    Raises:
        VidinvertError: see `vidinvert.errors`; nothing is left under the target's name.
    """
    plans = plans or Plans()
    texts = [edits] if isinstance(edits, str) else list(edits)
    if texts:
        plans = replace(plans, edit=parse_edits(texts, pack.directions))
    tell = progress or (lambda stage, done, total: None)
    clock, started = Clock(), time.perf_counter()
    with clock.measure("probe"):
        info = probe(source)
    first, last = frame_range(info, span or Span())
    writer = VideoWriter(
        Path(target),
        like=info,
        settings=plans.encode,
        overwrite=overwrite,
        start=first,
        stop=last,
        comment=_mark(plans),
    )
    with clock.measure("detect"):
        shots, tracks = find_tracks(info, pack, plans, frames=range(first, last), progress=tell)
    reference = None
    if Path(face).is_file():
        reference = pack.detector.identify(Path(face))
    chosen = select_tracks(tracks, face, reference=reference)
    if not chosen:
        if not allow_no_face:
            raise NoFaceError(_no_face_message(info, plans))
        copy_clip(info, Path(target), overwrite=overwrite)
        return _report(info, target, pack, plans, clock, started, shots=shots, analysis=None)
    if save_masks is not None:  # only now: a refused clip or output leaves no folder behind
        make_mask_directory(save_masks, overwrite=overwrite)
    with clock.measure("invert"):
        analysis = analyse(info, shots, chosen, pack, plans, progress=tell)
    faces = edit_faces(analysis, plans)
    with clock.measure("render"), writer:
        frames = read_ahead(
            decode(info, batch_size=plans.render.batch_size, start=first, stop=last)
        )
        for batch in render(frames, faces, pack.method, plans.render, device=pack.device):
            with clock.measure("encode"):
                writer.write(batch)
            if save_masks is not None:
                write_masks(save_masks, batch, faces)
            tell("render", int(batch.indices[-1]) + 1 - first, last - first)
    return _report(info, target, pack, plans, clock, started, shots=shots, analysis=analysis)


def frame_range(info: VideoInfo, span: Span) -> tuple[int, int]:
    """Return the half-open range of frames whose times lie in a span.

    Raises:
        PlanError: the span holds no frame.
    """
    times = info.seconds
    end = np.inf if span.end_seconds is None else span.end_seconds
    inside = np.flatnonzero((times >= span.start_seconds - 1e-9) & (times < end - 1e-9))
    if len(inside) == 0:
        until = "the end" if span.end_seconds is None else f"{end:g} s"
        raise PlanError(
            f"No frame of {info.path.name} lies between {span.start_seconds:g} s and {until}; its "
            f"frames are shown from 0 s to {times[-1]:.3f} s. Choose --start and --end there."
        )
    return int(inside[0]), int(inside[-1]) + 1


def find_tracks(
    info: VideoInfo,
    pack: Models,
    plans: Plans,
    *,
    frames: range,
    progress: Progress,
) -> tuple[tuple[Interval, ...], tuple[FaceTrack, ...]]:
    """Detect faces and cuts in one pass, and follow every person."""
    shot_detector = ShotDetector()
    detections: list[list[Detection]] = []
    batches = decode(info, batch_size=8, start=frames.start, stop=frames.stop)
    for batch in read_ahead(batches):
        shot_detector.add(batch)
        detections.extend(pack.detector.detect(batch))
        progress("detect", len(detections), len(frames))
    shots = shot_detector.shots(info.frame_count)
    tracks = track_faces(detections, seconds=info.seconds, plan=plans.tracking, shots=shots)
    bridged = tuple(
        bridge_gaps(track, seconds=info.seconds, shots=shots, plan=plans.tracking)
        for track in tracks
    )
    return shots, bridged


def analyse(
    info: VideoInfo,
    shots: tuple[Interval, ...],
    tracks: tuple[FaceTrack, ...],
    pack: Models,
    plans: Plans,
    *,
    progress: Progress,
) -> Analysis:
    """Align, invert and stabilise tracks; nothing is edited yet."""
    seconds, steady = info.seconds, plans.stabilizer
    alignments = [
        stabilise_alignment(
            align(track, crop_size=pack.method.crop_size), seconds, steady, shots=shots
        )
        for track in tracks
    ]
    first = min(int(a.indices[0]) for a in alignments)
    last = max(int(a.indices[-1]) for a in alignments) + 1
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress("invert", done, last - first)

    frames = decode(info, batch_size=plans.render.batch_size, start=first, stop=last)
    inversions = invert(
        read_ahead(frames),
        alignments,
        pack.method,
        pack_sha256=pack.pack.sha256,
        method_name=pack.method_name,
        device=pack.device,
        progress=tell,
    )
    steadied = [stabilise_inversion(i, seconds, steady, shots=shots) for i in inversions]
    low, high = plans.render.mask_min, plans.render.mask_max
    shaped = [shape_mask(inversion, low=low, high=high) for inversion in steadied]
    return Analysis(
        info=info,
        shots=shots,
        tracks=tracks,
        alignments=tuple(alignments),
        inversions=tuple(shaped),
    )


def edit_faces(analysis: Analysis, plans: Plans) -> list[EditedFace]:
    """Move the codes of every track as the plan says."""
    faces = []
    for track, alignment, inversion in zip(
        analysis.tracks, analysis.alignments, analysis.inversions, strict=True
    ):
        seconds = analysis.info.seconds[inversion.latents.indices]
        faces.append(
            EditedFace(
                alignment=alignment,
                inversion=inversion,
                edited=apply_edit(
                    inversion.latents, plans.edit, face=track.track_id, seconds=seconds
                ),
                strength=total_strength(plans.edit, face=track.track_id, seconds=seconds),
            )
        )
    return faces


def _mark(plans: Plans) -> str | None:
    if not plans.encode.mark:
        return None
    return f"Faces edited with vidinvert {VERSION} ({', '.join(plans.edit.text) or 'no edits'})"


def _no_face_message(info: VideoInfo, plans: Plans) -> str:
    return (
        f"No face found in {info.path.name} ({info.frame_count} frames, score threshold "
        f"{plans.tracking.min_score:g}, smallest face {plans.tracking.min_size:g} px). "
        "Lower --min-score, choose a part with --start and --end, or copy such clips unedited with "
        "--allow-no-face."
    )


def _report(
    info: VideoInfo,
    target: str | Path,
    pack: Models,
    plans: Plans,
    clock: Clock,
    started: float,
    *,
    shots: Sequence[Interval],
    analysis: Analysis | None,
) -> dict[str, Any]:
    """Assemble the report of house.md, section 6."""
    tracks: list[dict[str, Any]] = []
    if analysis is not None:
        for track, inversion in zip(analysis.tracks, analysis.inversions, strict=True):
            boxes = track.boxes_xyxy
            tracks.append(
                {
                    "id": track.track_id,
                    "frames": len(track.indices),
                    "first_frame": int(track.indices[0]),
                    "last_frame": int(track.indices[-1]),
                    "mean_score": float(track.score.mean()),
                    "mean_face_height": float((boxes[:, 3] - boxes[:, 1]).mean()),
                    "mean_ood": float(inversion.mask.ood.numpy().mean()) / 255.0,
                }
            )
    seconds = {stage: round(value, 3) for stage, value in clock.seconds.items()}
    seconds["render"] = round(seconds.get("render", 0.0) - seconds.get("encode", 0.0), 3)
    seconds["total"] = round(time.perf_counter() - started, 3)
    return {
        "source": str(info.path),
        "output": str(target),
        "frames": info.frame_count,
        "frame_rate": str(info.frame_rate),
        "size": [info.size_hw[1], info.size_hw[0]],
        "reader": info.reader,
        "reader_reason": info.reader_reason,
        "tracks": tracks,
        "shots": [[shot.start, shot.stop] for shot in shots],
        "edit": list(plans.edit.text),
        "composite": plans.render.composite,
        "mark": plans.encode.mark,
        "pack": {"name": pack.pack.name, "sha256": pack.pack.sha256},
        "method": pack.method_name,
        "device": pack.device,
        "precision": pack.precision,
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": {"vidinvert": VERSION, "torch": torch.__version__, "numpy": np.__version__},
    }


def peak_memory_bytes() -> int:
    """Return the largest resident size of this process so far; 0 where that is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
