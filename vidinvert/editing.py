"""Edits: from what the user writes to codes that are moved along directions."""

import difflib
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stabilizers import Interval, intervals_from_indices
from vidinvert.errors import PlanError
from vidinvert.geometry import smoothstep
from vidinvert.reach import hold_back
from vidinvert.types import (
    EditPlan,
    EditTerm,
    FaceMotion,
    Keyframe,
    LatentDirection,
    Latents,
    MovedLatents,
)

MAX_STRENGTH = 20.0
FORM = "NAME=STRENGTH, as smile=2, smile=0@0s,3@2s,0@4s or smile=2:face=1"


def parse_edits(texts: Sequence[str], directions: Mapping[str, LatentDirection]) -> EditPlan:
    """Read several edits; see `parse_edit`."""
    terms = tuple(parse_edit(text, directions) for text in texts)
    return EditPlan(terms=terms, text=tuple(texts))


def parse_edit(text: str, directions: Mapping[str, LatentDirection]) -> EditTerm:
    """Read one edit: a direction's name, a strength or keyframes, and perhaps a face.

    Args:
        text: `smile=2`, `smile=0@0s,3@2s,0@4s` (strength at seconds from the clip's start, linear
            between), `smile=2:face=1` (only the face of that number).
        directions: by name.

    Raises:
        PlanError: the text has another form, names an unknown direction, or a number is not one.
    """
    name, equals, rest = text.partition("=")
    name = name.strip()
    if not equals or not name or not rest.strip():
        raise PlanError(f"The edit {text!r} cannot be read. Write {FORM}.")
    if name not in directions:
        raise PlanError(_unknown_direction(name, directions))
    values, *options = rest.split(":")
    face: int | None = None
    for option in options:
        key, _, value = option.partition("=")
        if key.strip() != "face" or not value.strip().isdecimal():
            raise PlanError(
                f"The option {option!r} of the edit {text!r} cannot be read, expected face=NUMBER."
            )
        face = int(value)
    keyframes = _read_keyframes(values, text)
    return EditTerm(direction=directions[name], keyframes=keyframes, face=face)


def _unknown_direction(name: str, directions: Mapping[str, LatentDirection]) -> str:
    close = difflib.get_close_matches(name, directions, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    known = ", ".join(sorted(directions)) or "none"
    return f"The face pack has no edit named {name!r}; it has: {known}.{hint}"


def _read_keyframes(values: str, text: str) -> tuple[Keyframe, ...]:
    parts = [part.strip() for part in values.split(",")]
    if len(parts) == 1 and "@" not in parts[0]:
        return (Keyframe(seconds=0.0, strength=_read_strength(parts[0], text)),)
    keyframes: list[Keyframe] = []
    for part in parts:
        strength, at, moment = part.partition("@")
        if not at or not moment.strip().endswith("s"):
            raise PlanError(
                f"The keyframe {part!r} of the edit {text!r} cannot be read, expected "
                "STRENGTH@TIMEs, as 3@2.5s."
            )
        seconds = _read_number(moment.strip()[:-1], "time", text)
        if seconds < 0:
            raise PlanError(f"The time {moment!r} of the edit {text!r} is before the clip's start.")
        if keyframes and seconds <= keyframes[-1].seconds:
            raise PlanError(f"The keyframes of the edit {text!r} must be at increasing times.")
        keyframes.append(Keyframe(seconds=seconds, strength=_read_strength(strength, text)))
    return tuple(keyframes)


def _read_strength(part: str, text: str) -> float:
    strength = _read_number(part, "strength", text)
    if abs(strength) > MAX_STRENGTH:
        raise PlanError(
            f"The strength {part.strip()} of the edit {text!r} is outside "
            f"[-{MAX_STRENGTH:g}, {MAX_STRENGTH:g}]; faces fall apart long before that. "
            "Useful strengths are about -3 to 3."
        )
    return strength


def _read_number(part: str, what: str, text: str) -> float:
    try:
        number = float(part)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise PlanError(f"The {what} {part.strip()!r} of the edit {text!r} is not a number.")
    return number


def fade_at_gaps(
    indices: NDArray[np.int64],
    seconds: NDArray[np.float64],
    *,
    shots: Sequence[Interval],
    frames: range,
    fade_seconds: float,
) -> NDArray[np.float64]:
    """Let an edit set in where a face comes and go where it leaves, instead of popping.

    The weight rises from 0 at the last frame without the face to 1 `fade_seconds` later, and falls
    likewise, along 3t² - 2t³. At a cut and at the clip's ends there is no frame to pop against: no
    fade.

    Args:
        indices: (T,) the track's frames.
        seconds: (all frames,) presentation times by frame index.
        shots: the clip's shots.
        frames: the frames that are written.
        fade_seconds: 0 turns fading off.

    Returns:
        (T,) in [0, 1].

    Example:
        >>> times = np.arange(8) / 10
        >>> fade_at_gaps(np.array([3, 4, 5, 6, 7]), times, shots=(), frames=range(8),
        ...              fade_seconds=0.2).round(3).tolist()
        [0.5, 1.0, 1.0, 1.0, 1.0]
    """
    weight = np.ones(len(indices))
    if fade_seconds == 0:
        return weight
    edges = {frames.start, frames.stop} | {edge for s in shots for edge in (s.start, s.stop)}
    for run in intervals_from_indices(indices, cuts=shots):
        part = slice(run.start, run.stop)
        first, last = int(indices[run.start]), int(indices[run.stop - 1])
        for at_edge, away in (
            (first in edges, seconds[indices[part]] - seconds[max(first - 1, 0)]),
            (last + 1 in edges, seconds[min(last + 1, len(seconds) - 1)] - seconds[indices[part]]),
        ):
            if not at_edge:
                weight[part] = np.minimum(weight[part], smoothstep(away / fade_seconds))
    return weight


def total_strength(
    plan: EditPlan,
    *,
    face: int,
    seconds: NDArray[np.float64],
    fade: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return (T,) the sum of the absolute strengths of a face's edits: 0 = nothing to do."""
    total = np.zeros(len(seconds))
    for term in plan.terms:
        if term.face is None or term.face == face:
            total += np.abs(term.strength_at(seconds))
    return total if fade is None else total * fade


def colour_kept(plan: EditPlan, *, face: int, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (T,) in [0, 1]: how far a face's colours are kept, as `LatentDirection` asks.

    Of several edits each counts by what it paints: its absolute strength, or the share of it that
    is painted beside a motion of landmarks; 0 where nothing is.
    """
    painted, keeping = np.zeros(len(seconds)), np.zeros(len(seconds))
    for term in plan.terms:
        if term.face in (None, face):
            motion = term.direction.motion
            part = np.abs(term.strength_at(seconds)) * (1.0 if motion is None else motion.share)
            painted += part
            keeping += part * term.direction.keeps_colour
    return keeping / np.where(painted > 0, painted, 1.0)


def apply_edit(
    latents: Latents,
    plan: EditPlan,
    *,
    face: int,
    seconds: NDArray[np.float64],
    fade: NDArray[np.float64] | None = None,
    beside_motion: bool = False,
) -> MovedLatents:
    """Add each direction of `plan` that concerns a face, scaled by its strength at every frame.

    Args:
        latents: a track's codes.
        plan: the edits.
        face: the track's number.
        seconds: (T,) times of the track's frames, from the clip's first frame.
        fade: (T,) in [0, 1], by which every strength is multiplied; None = 1.
        beside_motion: move codes by only as much as is needed where `apply_motion` is shown too.

    Returns:
        The moved codes; where every strength is 0 they equal the given ones bit for bit.
    """
    moves: list[tuple[Tensor, Tensor]] = []
    shape = tuple(latents.w_plus.shape[1:])
    for term in plan.terms:
        if term.face is not None and term.face != face:
            continue
        wanted = term.strength_at(seconds)
        strength = latents.w_plus.new_tensor(wanted if fade is None else wanted * fade)  # (T,)
        vector = term.direction.vector.to(latents.w_plus)
        if tuple(vector.shape) != shape:
            raise PlanError(
                f"The direction {term.direction.name!r} has shape {tuple(vector.shape)}, expected "
                f"{shape}; take one that was made for this face pack."
            )
        motion = term.direction.motion
        if beside_motion and motion is not None:
            vector = motion.share * vector
        moves.append((strength, vector))
    return MovedLatents(latents=latents, moves=tuple(moves))


def apply_motion(
    landmarks: NDArray[np.float64],
    plan: EditPlan,
    *,
    face: int,
    seconds: NDArray[np.float64],
    fade: NDArray[np.float64] | None = None,
) -> FaceMotion | None:
    """Say how the edits that concern a track move its landmarks, each scaled by its strength.

    Args:
        landmarks: (T, P, 2) of the track, in shares of the crop's side.
        plan: the edits.
        face: the track's number.
        seconds: (T,) times of the track's frames, from the clip's first frame.
        fade: (T,) in [0, 1], by which every strength is multiplied; None = 1.

    Returns:
        The motion, or None where no edit moves landmarks.
    """
    moves = np.zeros_like(landmarks)
    for term in plan.terms:
        if term.direction.motion is not None and term.face in (None, face):
            strength = term.strength_at(seconds) * (1.0 if fade is None else fade)
            moves += strength[:, None, None] * term.direction.motion.moves
    if not moves.any():
        return None
    return FaceMotion(points=landmarks, moves=hold_back(landmarks, moves))
