"""How lips part: along the dark line between them, with the dark of a mouth behind.

A motion that is spread smoothly between landmarks draws the seam of shut lips out into something
like a tongue, for between shut lips there is nothing that could be drawn out. So the part of a
motion that opens a mouth is done apart from the rest. The line between the lips is looked for in
the crop; what lies above it goes up with the upper lip, what lies below goes down with the lower
lip and the chin, and what opens between is dark. Landmarks are 68 in Multi-PIE order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stabilizers import GaussianFilter, Interval, smooth
from vidinvert.geometry import smoothstep
from vidinvert.reach import CHIN, CORNERS, INNER_LOWER, INNER_UPPER, OUTER
from vidinvert.types import FaceMotion

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

LANDMARKS, NOSE_BASE = 68, 33
# What goes along with the lips: points of both contours, and their share.
UPPER_LIP = dict.fromkeys(INNER_UPPER, 1.0)
LOWER_LIP = dict.fromkeys(INNER_LOWER, 1.0)
UPPER_LIP |= {above: share for row in OUTER.values() for above, _, share in row}
LOWER_LIP |= {below: share for row in OUTER.values() for _, below, share in row}
UPPER_SHARE = 0.35  # of an opening that the upper lip does; the lower lip and the jaw do the rest
SMALLEST_GAP = 0.5 / 256  # of the crop's side: what opens or shuts by less is left as it is

BLOCK = 256  # frames that are looked at at once
KNOTS = np.linspace(-1.0, 1.0, 33)  # of the line between the lips, from corner to corner
STEPS = np.linspace(-1.0, 1.0, 25)  # places across it where it is looked for
REACH = 0.16  # of the mouth's width: how far it may lie from where the landmarks have it
FAITH = 4.0  # what lying that far away costs, in standard deviations of brightness
BELOW = 6.0  # how many times as much it costs to lie as far below as above
BEND = 0.05  # what going up or down by one place costs from knot to knot, by its square
TEETH, TEETH_REACH = 1.5, 7  # upper teeth stay above: what brightness below costs, in places
SMALLEST_CONTRAST = 4.0  # grey levels; what differs by less is noise
SMALLEST_WIDTH = 1e-6  # against division by 0
SEAM_FILTER = GaussianFilter(sigma_seconds=0.05)
CORNER_FILTER = GaussianFilter(sigma_seconds=0.1)
CORNER_SHARE = 0.5  # of the darkness between the lips, below which they have ended
NEAREST_CORNER, FARTHEST_CORNER = 0.5, 0.88  # of half the mouth's width, from its middle

FULLNESS = 2.4  # of an open mouth: its outline is 1 - |s|^FULLNESS, s = -1, 1 at the corners
CHIN_WIDTH = 1.4  # of half the mouth's width: of how much of the chin goes along
JAW_REACH = 1.5  # distances of lips and chin after which nothing goes down any more
LIPS = 1.1  # of half the mouth's width: how far above and below the opening lips reach
VISIBLE = 3 / 256  # of the crop's side: an opening that is dark all through
EDGE = 1.5 / 256  # of the crop's side: how softly the dark sets in
# Of the skin's brightness: R, G and B under the upper lip, and on the tongue below.
DARK_ABOVE, DARK_BELOW = np.array([0.2, 0.1, 0.1]), np.array([0.58, 0.3, 0.3])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LipOpening:
    """How far the lips of a track part at each of its T frames; lengths are shares of the crop.

    Attributes:
        rest: the motion without the parting.
        gap: (T,) how far they part; 0 = not.
        painted: (T,) in [0, 1], how much of what else an edit changes is shown on the lips.
        origin, across, down: (T, 2) the mouth's middle and its axes, of length 1.
        half_width: (T,) from the middle to a corner.
        seam: (T, K) the line between the lips: how far below the line between the corners.
        ends: (T, 2) where the lips end, in half widths from the middle.
        nose, chin: (T,) how far they are below the line between the corners.
        skin: (T,) grey levels of the skin around; NaN where no picture is at hand.
    """

    rest: FaceMotion
    gap: Float64Array
    painted: Float64Array
    origin: Float64Array
    across: Float64Array
    down: Float64Array
    half_width: Float64Array
    seam: Float64Array
    ends: Float64Array
    nose: Float64Array
    chin: Float64Array
    skin: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenMouth:
    """What an opening does to a crop of R x R pixels.

    Attributes:
        flow: (R, R, 2) in pixels, edited(p) comes from unedited(p + flow(p)).
        inside: (R, R, 4) what is seen between the lips: grey levels times the share of the picture
            that they replace, and that share.
        painted: (R, R, 1) in [0, 1]: how much of what else an edit changes is shown.
    """

    flow: Float32Array
    inside: Float32Array
    painted: Float32Array


def part_lips(
    motion: FaceMotion,
    guide: Tensor | None,
    *,
    corners: Float64Array | None = None,
    painted: Float64Array | float = 1.0,
    seconds: Float64Array | None = None,
    intervals: Sequence[Interval] = (),
) -> LipOpening | None:
    """Take what parts the lips out of a motion, and find where they part.

    Args:
        motion: of a track's landmarks.
        guide: (T, 1, h, w) uint8, the crops in grey; None = lips part where the landmarks say.
        corners: (T, 2, 2) of the mouth as detected, left and right, in shares of the crop: nearer
            to a mouth that moves than landmarks from steadied codes; None = these.
        painted: (T,) in [0, 1], how much of what else an edit changes may be shown on the lips.
        seconds: (T,) times of the frames, for steadying the line; None = each by itself.
        intervals: the track's unbroken runs.

    Returns:
        None where lips part and close by less than `SMALLEST_GAP` and everything may be shown on
        them, or where landmarks are not the 68.
    """
    points, moves = motion.points, motion.moves
    if points.shape[1] != LANDMARKS:
        return None
    drawn = _Axes.between(points[:, CORNERS])
    axes = drawn if corners is None else _Axes.between(corners)
    apart = (
        ((moves[:, INNER_LOWER] - moves[:, INNER_UPPER]) * drawn.down[:, None])
        .sum(axis=2)
        .mean(axis=1)
    )
    if not (np.abs(apart) > SMALLEST_GAP).any() and np.all(np.asarray(painted) == 1):
        return None
    gap = np.maximum(apart, 0.0)
    rest = moves.copy()
    for lip, share in ((UPPER_LIP, UPPER_SHARE), (LOWER_LIP, UPPER_SHARE - 1.0)):
        for point, part in lip.items():
            rest[:, point] += share * part * gap[:, None] * drawn.down
    depths = drawn.depths(points) * (axes.width / drawn.width)[:, None]
    chin = depths[:, CHIN]
    room = np.maximum((depths[:, INNER_LOWER] - depths[:, INNER_UPPER]).mean(axis=1), 1e-6)
    shut = np.clip(-apart / room, 0.0, 1.0)  # what `hold_back` took from the closing, as a share
    line = _drawn_line(depths)
    seam, skin = line, np.full(len(points), np.nan)
    ends = np.tile([-FARTHEST_CORNER, FARTHEST_CORNER], (len(points), 1))
    if guide is not None:
        blocks = [slice(start, start + BLOCK) for start in range(0, len(points), BLOCK)]
        found = [_look_at(guide[k], axes.at(k), line[k], chin[k]) for k in blocks]
        seam, ends, skin = map(np.concatenate, zip(*found, strict=True))
        if seconds is not None and intervals:
            seam = smooth(seam, seconds, SEAM_FILTER, intervals=intervals)
            ends = smooth(ends, seconds, CORNER_FILTER, intervals=intervals)
    return LipOpening(
        rest=FaceMotion(points=points, moves=rest),
        gap=gap,
        painted=np.minimum(1.0 - np.maximum(np.minimum(gap / VISIBLE, 1.0), shut), painted),
        origin=axes.origin,
        across=axes.across,
        down=axes.down,
        half_width=axes.width / 2,
        seam=seam,
        ends=ends,
        nose=depths[:, NOSE_BASE],
        chin=chin,
        skin=skin,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Axes:
    """The axes of a track's mouth: see `LipOpening`; `width` (T,) from corner to corner."""

    origin: Float64Array
    across: Float64Array
    down: Float64Array
    width: Float64Array

    @classmethod
    def between(cls, corners: Float64Array) -> "_Axes":
        """Return the axes of mouths with corners (T, 2, 2), left and right."""
        left, right = corners[:, 0], corners[:, 1]
        width = np.maximum(np.linalg.norm(right - left, axis=1), SMALLEST_WIDTH)
        across = (right - left) / width[:, None]
        down = np.stack([-across[:, 1], across[:, 0]], axis=1)
        return cls(origin=(left + right) / 2, across=across, down=down, width=width)

    def at(self, frames: slice) -> "_Axes":
        """Return the axes of some of the frames."""
        return _Axes(
            origin=self.origin[frames],
            across=self.across[frames],
            down=self.down[frames],
            width=self.width[frames],
        )

    def depths(self, points: Float64Array) -> Float64Array:
        """Return how far points (T, P, 2) lie below the line between the corners: (T, P)."""
        return ((points - self.origin[:, None]) * self.down[:, None]).sum(axis=2)

    def look(self, guide: Tensor, knots: Float64Array, depths: Float64Array) -> Float64Array:
        """Return grey levels (T, K, M) at K places across, in half widths, and M `depths`."""
        along = self.width[:, None] / 2 * knots  # (T, K)
        line = self.origin[:, None] + along[..., None] * self.across[:, None]  # (T, K, 2)
        places = line[:, :, None] + depths[..., None] * self.down[:, None, None]  # (T, K, M, 2)
        grid = torch.as_tensor(2.0 * places - 1.0, dtype=torch.float32)
        seen = functional.grid_sample(
            guide.float(), grid, padding_mode="border", align_corners=False
        )
        return seen[:, 0].double().numpy()


def _drawn_line(depths: Float64Array) -> Float64Array:
    """Return where landmarks have the line along which lips part, from their depths: (T, K).

    That is the edge of the lower lip: upper teeth, where they show, stay with the upper lip.
    """
    known = np.pad(depths[:, INNER_LOWER], ((0, 0), (1, 1)))  # the corners are at depth 0
    return np.stack([np.interp(KNOTS, [-1.0, -0.4, 0.0, 0.4, 1.0], row) for row in known])


def _beside_mouth(chin: Float64Array, width: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return places on both cheeks beside the mouth and on the chin, as `_Axes.look` takes them."""
    knots = np.array([-1.5, -1.25, 0.0, 1.25, 1.5])
    depths = np.where(knots == 0, 0.6 * chin[:, None], 0.0)
    return knots, depths[:, :, None] + width[:, None, None] * np.array([-0.1, 0.0, 0.1])


def _look_at(
    guide: Tensor, axes: _Axes, drawn: Float64Array, chin: Float64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Find the line between the lips near where it is drawn, (T, K), its ends and skin's levels."""
    skin = np.median(axes.look(guide, *_beside_mouth(chin, axes.width)), axis=(1, 2))
    reach = REACH * axes.width[:, None]
    seen = axes.look(guide, KNOTS, drawn[:, :, None] + reach[..., None] * STEPS)
    paths = _darkest_paths(seen)
    levels = np.take_along_axis(seen, paths[..., None], axis=2)[..., 0]
    offsets = _average_knots(reach * STEPS[paths], around=4)
    return drawn + offsets * (1.0 - KNOTS**8), _find_ends(seen.mean(axis=2) - levels), skin


def _darkest_paths(seen: Float64Array) -> NDArray[np.int64]:
    """Find the darkest way through grey levels (T, K, M), from knot to knot: (T, K) of M.

    Dynamic programming; a way costs more that bends, lies far from the middle, or has upper teeth
    below it.
    """
    count, knots, places = seen.shape
    contrast = np.maximum(seen.std(axis=(1, 2), keepdims=True), SMALLEST_CONTRAST)
    levels = (seen - seen.mean(axis=(1, 2), keepdims=True)) / contrast
    faith = FAITH * np.square(STEPS) * np.where(STEPS > 0, BELOW, 1.0)
    costs = levels + faith + TEETH * np.maximum(_brighter_below(levels) - 1.0, 0.0)
    bends = BEND * np.square(np.arange(places)[:, None] - np.arange(places))
    total, came = costs[:, 0], np.zeros((count, knots, places), np.int64)
    for knot in range(1, knots):
        ways = total[:, :, None] + bends  # (T, from, to)
        came[:, knot] = ways.argmin(axis=1)
        total = ways.min(axis=1) + costs[:, knot]
    paths = np.zeros((count, knots), np.int64)
    paths[:, -1] = total.argmin(axis=1)
    for knot in range(knots - 1, 0, -1):
        paths[:, knot - 1] = np.take_along_axis(came[:, knot], paths[:, knot, None], axis=1)[:, 0]
    return paths


def _brighter_below(levels: Float64Array) -> Float64Array:
    """Return by how much the brightest just below each place of (T, K, M) exceeds that above."""
    padded = np.pad(levels, ((0, 0), (0, 0), (TEETH_REACH, TEETH_REACH)), mode="edge")
    brightest = np.lib.stride_tricks.sliding_window_view(padded, TEETH_REACH, axis=2).max(axis=3)
    return brightest[..., TEETH_REACH + 1 :] - brightest[..., : levels.shape[2]]


def _average_knots(values: Float64Array, *, around: int) -> Float64Array:
    """Average (T, K) over the knots around each, the nearest most."""
    kernel = np.hanning(2 * around + 3)[1:-1]
    padded = np.pad(values, ((0, 0), (around, around)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=1)
    return windows @ (kernel / kernel.sum())


def _find_ends(darkness: Float64Array) -> Float64Array:
    """Find where lips end, (T, 2) in half widths, from how dark the line between them is (T, K).

    From the middle outwards, where it is half as dark as it was there, or less.
    """
    darkness = _average_knots(darkness, around=2)
    usual = np.median(darkness[:, np.abs(KNOTS) <= NEAREST_CORNER], axis=1, keepdims=True)
    faint, far = darkness < CORNER_SHARE * usual, FARTHEST_CORNER
    left = np.where(faint & (KNOTS <= -NEAREST_CORNER), KNOTS, -far).max(axis=1)
    right = np.where(faint & (KNOTS >= NEAREST_CORNER), KNOTS, far).min(axis=1)
    return np.stack([left, right], axis=1)


def open_mouth(opening: LipOpening, position: int, *, size: int) -> OpenMouth:
    """Return what an opening does to a crop of `size` pixels at one of the track's positions."""
    gap, half = opening.gap[position], opening.half_width[position]
    axis = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid(axis - opening.origin[position, 0], axis - opening.origin[position, 1])
    across, down = opening.across[position], opening.down[position]
    along, depth = (x * across[0] + y * across[1]) / half, x * down[0] + y * down[1]
    left, right = opening.ends[position]
    between_ends = (2.0 * along - left - right) / (right - left)
    outline = np.maximum(1.0 - np.abs(between_ends) ** FULLNESS, 0.0)
    under = depth - np.interp(along, KNOTS, opening.seam[position])
    fall, rise = (1.0 - UPPER_SHARE) * gap, UPPER_SHARE * gap
    below, above = under - fall * outline, -under - rise * outline  # the opening, where > 0
    line = opening.seam[position].mean()
    to_chin = max(opening.chin[position] - line, half)
    to_nose = max(line - opening.nose[position], 0.3 * half)
    broad = np.exp(-np.square(along / CHIN_WIDTH))
    lower = outline + (broad - outline) * smoothstep(below / (0.6 * to_chin))
    lower *= fall * (1.0 - smoothstep(below / (JAW_REACH * to_chin)))
    upper = rise * outline * (1.0 - smoothstep(above / to_nose))
    moved = np.where(below > 0, -lower, np.where(above > 0, upper, -under))

    shown = np.clip(-np.maximum(below, above) / EDGE + 0.5, 0.0, 1.0)
    shown *= np.minimum(gap * outline / VISIBLE, 1.0)
    inside = np.zeros((size, size, 4), np.float32)
    if np.isfinite(opening.skin[position]):
        place = np.square(np.clip(-above / np.maximum(gap * outline, 1e-6), 0.0, 1.0))[..., None]
        colour = opening.skin[position] * (DARK_ABOVE + (DARK_BELOW - DARK_ABOVE) * place)
        inside[..., :3], inside[..., 3] = shown[..., None] * colour, shown

    away = np.maximum(np.maximum(below, above), 0.0) / (LIPS * half)
    lips = smoothstep(2.0 - 2.0 * np.hypot(between_ends / 1.6, away))
    lips *= 1.0 - opening.painted[position]
    return OpenMouth(
        flow=np.asarray(size * moved[..., None] * down, np.float32),
        inside=inside,
        painted=np.asarray(1.0 - lips[..., None], np.float32),
    )
