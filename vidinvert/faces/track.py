"""Follows faces from frame to frame: detections -> tracks.

Within a shot each track predicts where its face is next, and all tracks and detections of a frame
are matched at once (Hungarian method), so that neighbours cannot take each other's face. Across a
cut a track goes on only where the face stays in place or is known to be the same person.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from stabilizers import Interval
from vidinvert.faces.boxes import Float64Array, area, overlap
from vidinvert.types import Detection, FaceTrack, TrackingPlan

# Distances are in sizes of the face (the square root of its box's area).
STEP_REACH = 0.6  # how far from its prediction a face may be in the next frame
LOST_REACH_PER_SECOND = 0.8  # how much farther for each second without it
MAX_REACH = 1.0  # never as far as a neighbour sits
MAX_SIZE_RATIO = 2.0  # between two sightings
VELOCITY_SECONDS = 0.3  # the velocity is that of the last sightings within this time
COAST_SECONDS = 0.4  # and is trusted for this long
CUT_OVERLAP = 0.5  # intersection over union at which a face goes on across a cut
SAME_PERSON = 0.45  # cosine of identities from which they are one person
OTHER_PERSON = 0.15  # and below which they are not
WEAK_COVERAGE = 0.5  # a weak track that is seen in fewer of its frames is a false alarm
WEAK_SECONDS = 0.5  # and so is one that is shorter
WEAK_SHARE = 0.2  # weak: mean score closer than this share to min_score, on the way to 1

_FORBIDDEN = 1e6


@dataclass(slots=True)
class _Path:
    """A track while it grows; `shots` holds the number of the shot of each sighting."""

    sightings: list[Detection] = field(default_factory=list)
    shots: list[int] = field(default_factory=list)
    identity_sum: NDArray[np.float64] | None = None

    def add(self, face: Detection, shot: int) -> None:
        self.sightings.append(face)
        self.shots.append(shot)
        if face.identity is not None:
            vector = face.identity.astype(np.float64)
            self.identity_sum = vector if self.identity_sum is None else self.identity_sum + vector

    @property
    def last(self) -> Detection:
        return self.sightings[-1]

    @property
    def identity(self) -> NDArray[np.float64] | None:
        if self.identity_sum is None:
            return None
        return self.identity_sum / max(float(np.linalg.norm(self.identity_sum)), 1e-12)

    @property
    def total_area(self) -> float:
        return sum(area(face.box_xyxy) for face in self.sightings)


def track_faces(
    detections: Sequence[Sequence[Detection]],
    *,
    seconds: Float64Array,
    plan: TrackingPlan,
    shots: Sequence[Interval] = (),
) -> tuple[FaceTrack, ...]:
    """Join the detections of a clip's frames into tracks.

    Args:
        detections: one sequence per frame, consecutive frames in order. The first need not be
            frame 0: where faces lie says which it is.
        seconds: (T,) float64 presentation time of each frame of the clip, by frame index.
        plan: how long a face may be away, and which tracks are too short or too weak.
        shots: the clip's shots as ranges of frame indices; none = one shot.

    Returns:
        The tracks; number 0 is the most prominent (area summed over its frames), then 1, ...

    Raises:
        ValueError: a detection's frame index does not fit its place, or a frame has no time.
    """
    start = _first_index(detections)
    if start + len(detections) > len(seconds):
        raise ValueError(
            f"detections reach to frame {start + len(detections) - 1} but there are times for "
            f"{len(seconds)} frames, expected one time per frame of the clip"
        )
    starts = np.array([shot.start for shot in shots], dtype=np.int64)
    paths: list[_Path] = []
    for index, faces in enumerate(detections, start=start):
        shot = int(np.searchsorted(starts, index, side="right"))
        now = float(seconds[index])
        alive = [
            path
            for path in paths
            if now - float(seconds[path.last.frame_index]) <= plan.max_gap_seconds + 1e-9
        ]
        taken = _match(alive, faces, seconds=seconds, now=now, shot=shot)
        for number, face in enumerate(faces):
            path = taken.get(number)
            if path is None:
                path = _Path()
                paths.append(path)
            path.add(face, shot)
    clip_seconds = _span_seconds(seconds[start : start + len(detections)])
    paths = _reunite(paths)
    kept = [path for path in paths if not _is_false_alarm(path, seconds, clip_seconds, plan)]
    kept.sort(key=lambda path: -path.total_area)
    return tuple(_as_track(path, number) for number, path in enumerate(kept))


def bridge_gaps(
    track: FaceTrack,
    *,
    seconds: Float64Array,
    shots: Sequence[Interval] = (),
    plan: TrackingPlan,
) -> FaceTrack:
    """Fill short gaps of a track by interpolation in time; filled frames have a score of 0.

    Args:
        track: as found.
        seconds: (T,) float64 presentation time of each frame of the clip, by frame index.
        shots: gaps across a cut stay open.
        plan: gaps of more than `max_gap_seconds` stay open.

    Returns:
        The track with more frames.
    """
    edges = np.unique([edge for shot in shots for edge in (shot.start, shot.stop)])
    shot = np.searchsorted(edges, track.indices, side="right")
    before, after = track.indices[:-1], track.indices[1:]
    short = seconds[after] - seconds[before] <= plan.max_gap_seconds + 1e-9
    open_gap = (after - before > 1) & short & (shot[1:] == shot[:-1])
    if not np.any(open_gap):
        return track
    missing = [
        np.arange(before[gap] + 1, after[gap], dtype=np.int64) for gap in np.flatnonzero(open_gap)
    ]
    indices = np.sort(np.concatenate([track.indices, *missing]))
    seen = np.searchsorted(indices, track.indices)
    score = np.zeros(len(indices))
    score[seen] = track.score
    landmarks = _interpolate(track.landmarks_xy, seconds[track.indices], seconds[indices])
    boxes = _interpolate(track.boxes_xyxy, seconds[track.indices], seconds[indices])
    landmarks[seen], boxes[seen] = track.landmarks_xy, track.boxes_xyxy
    return replace(track, indices=indices, landmarks_xy=landmarks, boxes_xyxy=boxes, score=score)


def _first_index(detections: Sequence[Sequence[Detection]]) -> int:
    """Return the index of the first frame, from where the detections say they are."""
    starts = {face.frame_index - place for place, faces in enumerate(detections) for face in faces}
    if len(starts) > 1 or any(start < 0 for start in starts):
        raise ValueError(
            "detections do not lie in the frames their indices name, "
            "expected one sequence per frame, consecutive and in order"
        )
    return next(iter(starts), 0)


def _match(
    paths: Sequence[_Path],
    faces: Sequence[Detection],
    *,
    seconds: Float64Array,
    now: float,
    shot: int,
) -> dict[int, _Path]:
    """Give each face of a frame at most one path: {number of the face: path}."""
    if not paths or not faces:
        return {}
    costs = np.full((len(paths), len(faces)), _FORBIDDEN)
    for row, path in enumerate(paths):
        if path.shots[-1] == shot:
            predicted, away = _predict(path, seconds=seconds, now=now)
            costs[row] = [_motion_cost(predicted, away, path, face) for face in faces]
        else:
            costs[row] = [_cut_cost(path, face) for face in faces]
    rows, columns = linear_sum_assignment(costs)
    return {
        int(column): paths[row]
        for row, column in zip(rows, columns, strict=True)
        if costs[row, column] < _FORBIDDEN
    }


def _predict(path: _Path, *, seconds: Float64Array, now: float) -> tuple[Float64Array, float]:
    """Return where the path's landmarks (5, 2) should be now, and the seconds since its last."""
    last_time = float(seconds[path.last.frame_index])
    recent = [
        face
        for face, shot in zip(path.sightings[-12:], path.shots[-12:], strict=True)
        if shot == path.shots[-1]
        and last_time - float(seconds[face.frame_index]) <= VELOCITY_SECONDS
    ]
    landmarks = path.last.landmarks_xy
    if len(recent) < 3:
        return landmarks, now - last_time
    times = np.array([float(seconds[face.frame_index]) for face in recent])
    centres = np.stack([face.landmarks_xy.mean(axis=0) for face in recent])
    times -= times.mean()
    velocity = (times[:, None] * (centres - centres.mean(axis=0))).sum(axis=0) / (times**2).sum()
    return landmarks + velocity * min(now - last_time, COAST_SECONDS), now - last_time


def _motion_cost(
    predicted_xy: Float64Array, away_seconds: float, path: _Path, face: Detection
) -> float:
    """Cost of going on with `face` within a shot: distance, change of size, other person."""
    size, new_size = _size(path.last), _size(face)
    ratio = max(size, new_size) / max(min(size, new_size), 1e-9)
    reach = min(STEP_REACH + LOST_REACH_PER_SECOND * away_seconds, MAX_REACH)
    distances = np.linalg.norm(face.landmarks_xy - predicted_xy, axis=1)
    distance = float(distances.mean()) / max((size + new_size) / 2, 1e-9)
    alike = _cosine(path, face)
    if distance > reach or ratio > MAX_SIZE_RATIO:
        return _FORBIDDEN
    if alike is None:
        return distance + 0.5 * float(np.log(ratio))
    if alike < OTHER_PERSON and overlap(path.last.box_xyxy, face.box_xyxy) < CUT_OVERLAP:
        return _FORBIDDEN
    return distance + 0.5 * float(np.log(ratio)) + 0.5 * (1 - alike)


def _cut_cost(path: _Path, face: Detection) -> float:
    """Cost of going on with `face` after a cut: it stays in place, or is the same person."""
    shared = overlap(path.last.box_xyxy, face.box_xyxy)
    alike = _cosine(path, face)
    if alike is not None:
        return 1 - alike if alike >= SAME_PERSON else _FORBIDDEN
    return 1 - shared if shared > CUT_OVERLAP else _FORBIDDEN


def _cosine(path: _Path, face: Detection) -> float | None:
    identity = path.identity
    if identity is None or face.identity is None:
        return None
    return float(identity @ face.identity)


def _size(face: Detection) -> float:
    return float(np.sqrt(area(face.box_xyxy)))


def _reunite(paths: list[_Path]) -> list[_Path]:
    """Join paths that show one person at different times, most alike first."""
    paths = list(paths)
    while True:
        best, pair = SAME_PERSON, None
        for i, a in enumerate(paths):
            for j in range(i + 1, len(paths)):
                b = paths[j]
                if a.identity is None or b.identity is None:
                    continue
                alike = float(a.identity @ b.identity)
                if alike > best and _frames(a).isdisjoint(_frames(b)):
                    best, pair = alike, (i, j)
        if pair is None:
            return paths
        joined = _join(paths[pair[0]], paths[pair[1]])
        paths = [path for k, path in enumerate(paths) if k not in pair] + [joined]


def _frames(path: _Path) -> set[int]:
    return {face.frame_index for face in path.sightings}


def _join(a: _Path, b: _Path) -> _Path:
    joined = _Path()
    both = [*zip(a.sightings, a.shots, strict=True), *zip(b.sightings, b.shots, strict=True)]
    for face, shot in sorted(both, key=lambda sighting: sighting[0].frame_index):
        joined.add(face, shot)
    return joined


def _is_false_alarm(
    path: _Path, seconds: Float64Array, clip_seconds: float, plan: TrackingPlan
) -> bool:
    """Whether a path is too short, or too weak for how seldom or briefly it is seen."""
    frames = np.array([face.frame_index for face in path.sightings])
    duration = _span_seconds(seconds[frames[0] : frames[-1] + 1])
    if duration >= clip_seconds:
        return False
    if duration < plan.min_seconds:
        return True
    mean_score = float(np.mean([face.score for face in path.sightings]))
    if mean_score >= plan.min_score + WEAK_SHARE * (1 - plan.min_score):
        return False
    coverage = len(frames) / (frames[-1] - frames[0] + 1)
    return bool(coverage < WEAK_COVERAGE or duration < WEAK_SECONDS)


def _span_seconds(seconds: Float64Array) -> float:
    """Return how long consecutive frames are shown, the last one as long as the usual one."""
    if len(seconds) == 0:
        return 0.0
    usual = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
    return float(seconds[-1] - seconds[0]) + usual


def _as_track(path: _Path, number: int) -> FaceTrack:
    identity = path.identity
    return FaceTrack(
        track_id=number,
        indices=np.array([face.frame_index for face in path.sightings], dtype=np.int64),
        landmarks_xy=np.stack([face.landmarks_xy for face in path.sightings]),
        boxes_xyxy=np.stack([face.box_xyxy for face in path.sightings]),
        score=np.array([face.score for face in path.sightings], dtype=np.float64),
        identity=None if identity is None else identity.astype(np.float32),
    )


def _interpolate(
    values: Float64Array, seconds: Float64Array, wanted_seconds: Float64Array
) -> Float64Array:
    """Interpolate (T, ...) linearly in time."""
    columns = values.reshape(len(values), -1)
    filled = [np.interp(wanted_seconds, seconds, column) for column in columns.T]
    return np.stack(filled, axis=-1).reshape(len(wanted_seconds), *values.shape[1:])
