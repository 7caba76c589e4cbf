"""Who is in both clips: tracks of the source, and the same faces in the edit."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stabilizers import Interval, StabilizerPlan
from vidinvert.errors import NoFaceError
from vidinvert.faces import FaceDetector, align, bridge_gaps, select_tracks, track_faces
from vidinvert.inversion import stabilise_alignment
from vidinvert.media import ShotDetector, decode, read_ahead
from vidinvert.types import Alignment, Detection, FaceTrack, TrackingPlan, VideoInfo

CROP_SIZE = 256  # pixels: the crops on which faces are compared


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedFace:
    """One face in both clips; `indices` and `alignment` are in the source's frames.

    `edited_xy` (T, 5, 2): the key points found in the edit; NaN where it was not found there.
    """

    track: FaceTrack
    alignment: Alignment
    edited_xy: NDArray[np.float64]


def find_faces(
    source: VideoInfo,
    edited: VideoInfo,
    detector: FaceDetector,
    *,
    frames: range,
    face: str,
    tracking: TrackingPlan,
) -> tuple[tuple[Interval, ...], tuple[ComparedFace, ...]]:
    """Find the chosen faces of the source's `frames` and the same faces in the edit.

    Returns:
        The source's shots, and the faces.

    Raises:
        NoFaceError: the source has none.
    """
    detections, shots = _detect(source, detector, frames)
    tracks = track_faces(detections, seconds=source.seconds, plan=tracking, shots=shots)
    chosen = select_tracks(tracks, face)
    if not chosen:
        raise NoFaceError(
            f"No face found in {source.path.name}, so there is nothing to evaluate; lower "
            "--min-score or choose a part with --start and --end."
        )
    again, _ = _detect(edited, detector, range(len(frames)))
    faces: list[ComparedFace] = []
    for track in chosen:
        whole = bridge_gaps(track, seconds=source.seconds, shots=shots, plan=tracking)
        placed = stabilise_alignment(
            align(whole, crop_size=CROP_SIZE), source.seconds, StabilizerPlan(), shots=shots
        )
        matched = _match(whole, again, frames)
        faces.append(ComparedFace(track=whole, alignment=placed, edited_xy=matched))
    return shots, tuple(faces)


def _detect(
    info: VideoInfo, detector: FaceDetector, frames: range
) -> tuple[list[list[Detection]], tuple[Interval, ...]]:
    shot_detector = ShotDetector()
    detections: list[list[Detection]] = []
    for batch in read_ahead(decode(info, batch_size=8, start=frames.start, stop=frames.stop)):
        shot_detector.add(batch)
        detections.extend(detector.detect(batch))
    return detections, shot_detector.shots(info.frame_count)


def _match(
    track: FaceTrack, detections: list[list[Detection]], frames: range
) -> NDArray[np.float64]:
    """Return the key points (T, 5, 2) of the nearest face of each frame of the edit, else NaN."""
    points = np.full((len(track.indices), 5, 2), np.nan)
    for position, index in enumerate(track.indices.tolist()):
        own = track.landmarks_xy[position]
        reach = float(np.linalg.norm(own[1] - own[0]))  # a face lies within the eyes' distance
        found = detections[index - frames.start] if index in frames else []
        near = [(float(np.abs(f.landmarks_xy - own).mean()), f.landmarks_xy) for f in found]
        near.sort(key=lambda pair: pair[0])
        if near and near[0][0] < reach:
            points[position] = near[0][1]
    return points


def within(face: ComparedFace, frames: range) -> ComparedFace:
    """Leave out what lies outside `frames`."""
    inside = np.isin(face.track.indices, np.arange(frames.start, frames.stop))
    track, placed = face.track, face.alignment
    return ComparedFace(
        track=replace(
            track,
            indices=track.indices[inside],
            landmarks_xy=track.landmarks_xy[inside],
            boxes_xyxy=track.boxes_xyxy[inside],
            score=track.score[inside],
        ),
        alignment=replace(
            placed,
            indices=placed.indices[inside],
            crop_from_frame=placed.crop_from_frame[inside],
            quads_xy=placed.quads_xy[inside],
        ),
        edited_xy=face.edited_xy[inside],
    )
