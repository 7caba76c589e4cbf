"""Half-open ranges along time, and the unbroken runs of a track."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_SAME_TIME = 1e-6  # seconds; presentation times are rounded


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """Positions from `start` up to, not including, `stop`: a shot, or an unbroken run of a track.

    Example:
        >>> len(Interval(3, 10))
        7
        >>> 10 in Interval(3, 10)
        False
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.stop <= self.start:
            raise ValueError(f"interval is [{self.start}, {self.stop}), expected 0 <= start < stop")

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, position: int) -> bool:
        return self.start <= position < self.stop


def intervals_from_indices(
    indices: NDArray[np.int64], *, cuts: Sequence[Interval] = ()
) -> tuple[Interval, ...]:
    """Split a track's positions 0..T-1 into runs without a gap that cross no shot boundary.

    Args:
        indices: (T,) int64, strictly increasing frame indices of the track.
        cuts: the clip's shots, as ranges of frame indices; both ends of each are boundaries.

    Returns:
        Intervals of *positions* along the T axis, in order; together they cover it.

    Raises:
        ValueError: `indices` is not one strictly increasing vector.

    Example:
        >>> indices = np.array([4, 5, 6, 9, 10])
        >>> intervals_from_indices(indices, cuts=[Interval(0, 6), Interval(6, 20)])
        (Interval(start=0, stop=2), Interval(start=2, stop=3), Interval(start=3, stop=5))
    """
    if indices.ndim != 1 or np.any(np.diff(indices) <= 0):
        raise ValueError(
            f"indices have shape {indices.shape} or do not increase, "
            "expected one strictly increasing vector of frame indices"
        )
    if len(indices) == 0:
        return ()
    boundaries = np.unique([edge for cut in cuts for edge in (cut.start, cut.stop)])
    shot = np.searchsorted(boundaries, indices, side="right")  # (T,)
    breaks = np.flatnonzero((np.diff(indices) > 1) | (np.diff(shot) != 0)) + 1
    edges = [0, *breaks.tolist(), len(indices)]
    return tuple(Interval(start, stop) for start, stop in pairwise(edges))


def measured_positions(
    seconds: NDArray[np.float64], intervals: Sequence[Interval], *, apart_seconds: float
) -> NDArray[np.bool_]:
    """Choose positions to measure, so that what lies between can be carried there from both sides.

    Of an interval those are left out that lie between two measured ones at most `apart_seconds`
    apart; its ends are always measured, and so is what is in no interval.

    Args:
        seconds: (T,) strictly increasing presentation times.
        intervals: disjoint positions along the T axis.
        apart_seconds: longest time between two measured positions, if any lie between them.

    Returns:
        (T,), True = measure it.

    Example:
        >>> run = [Interval(0, 6)]
        >>> measured_positions(np.arange(6) / 25, run, apart_seconds=0.1).astype(int).tolist()
        [1, 0, 1, 0, 1, 1]
        >>> measured_positions(np.arange(8) / 60, [Interval(0, 8)], apart_seconds=0.06)[:4].tolist()
        [True, False, False, True]
        >>> bool(measured_positions(np.arange(6) / 10, run, apart_seconds=0.1).all())
        True
    """
    chosen = np.ones(len(seconds), np.bool_)
    for run in intervals:
        here, last = run.start, run.stop - 1
        while here < last:
            reach = float(seconds[here]) + apart_seconds + _SAME_TIME
            farthest = int(np.searchsorted(seconds[: run.stop], reach, side="right")) - 1
            chosen[here + 1 : farthest] = False
            here = max(farthest, here + 1)
    return chosen
