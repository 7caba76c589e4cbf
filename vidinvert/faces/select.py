"""Chooses which of a clip's tracks to edit."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vidinvert.errors import NoFaceError, PlanError
from vidinvert.faces.boxes import area
from vidinvert.faces.track import SAME_PERSON
from vidinvert.types import FaceTrack


def select_tracks(
    tracks: Sequence[FaceTrack],
    selector: str,
    *,
    reference: NDArray[np.float32] | None = None,
) -> tuple[FaceTrack, ...]:
    """Choose tracks by `--face`.

    Args:
        tracks: all tracks of the clip.
        selector: `largest` (area summed over frames), `all`, track numbers as `1` or `0,2`, or the
            path of a photo of the person.
        reference: identity of the face in that photo, from `FaceDetector.identify`.

    Returns:
        The chosen tracks; none where the clip has none and no particular one is asked for.

    Raises:
        PlanError: there is no such track, or a photo is named and identities are not known.
        NoFaceError: nobody in the clip is the person in the photo.
    """
    if selector == "all":
        return tuple(tracks)
    if selector == "largest":
        return tuple(sorted(tracks, key=lambda track: -_prominence(track))[:1])
    numbers = [part.strip() for part in selector.split(",")]
    if all(part.isdecimal() for part in numbers):
        return _by_number(tracks, sorted({int(part) for part in numbers}))
    if reference is None:
        raise PlanError(
            f"--face is {selector!r}, taken as a photo of the person: that needs a recognition "
            "model, and the face pack has none. Expected largest, all or a track's number; or add "
            "a recognition model to the pack's detector directory."
        )
    known = [track for track in tracks if track.identity is not None]
    alike = {
        track.track_id: float(track.identity @ reference)
        for track in known
        if track.identity is not None
    }
    chosen = tuple(track for track in known if alike[track.track_id] >= SAME_PERSON)
    if not chosen:
        best = max(alike.values(), default=0.0)
        raise NoFaceError(
            f"Nobody in the clip looks like the person in {selector} (best similarity {best:.2f}, "
            f"expected {SAME_PERSON} or more). Choose the face by its number instead."
        )
    return chosen


def _by_number(tracks: Sequence[FaceTrack], numbers: Sequence[int]) -> tuple[FaceTrack, ...]:
    by_id = {track.track_id: track for track in tracks}
    missing = [number for number in numbers if number not in by_id]
    if missing:
        known = ", ".join(str(number) for number in sorted(by_id)) or "none"
        raise PlanError(
            f"There is no face {missing[0]} in the clip; its faces are: {known}. "
            "Choose one of them, largest or all."
        )
    return tuple(by_id[number] for number in numbers)


def _prominence(track: FaceTrack) -> float:
    return sum(area(box) for box in track.boxes_xyxy)
