"""Line and scatter plots as pictures, drawn with what is a dependency already."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]
Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (110, 110, 110),
    (31, 119, 180),
    (214, 69, 39),
    (44, 140, 60),
    (148, 83, 189),
    (140, 96, 75),
    (200, 110, 190),
    (180, 160, 20),
)
_INK: Colour = (40, 40, 40)
_GRID: Colour = (225, 225, 225)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 20, 40, 52
_FINE = 4  # bits of a pixel that OpenCV draws with


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """Where the data's range lies in the picture."""

    size_hw: tuple[int, int]
    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, x: Float64Array, y: Float64Array) -> Float64Array:
        """Map data to pixels: (N, 2)."""
        width = self.size_hw[1] - _LEFT - _RIGHT
        height = self.size_hw[0] - _TOP - _BOTTOM
        across = _LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * width
        down = self.size_hw[0] - _BOTTOM - (y - self.y[0]) / (self.y[1] - self.y[0]) * height
        return np.stack([across, down], axis=-1)


def plot_lines(
    curves: Mapping[str, tuple[Float64Array, Float64Array]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    size_hw: tuple[int, int] = (360, 900),
) -> UInt8Array:
    """Draw curves over one axis; a NaN leaves a gap.

    Args:
        curves: by label, x (N,) and y (N,).
        title: above the plot.
        x_label: under it.
        y_label: at the top of the y axis.
        size_hw: of the picture.

    Returns:
        uint8 (H, W, 3) RGB.

    Example:
        >>> x = np.linspace(0.0, 1.0, 5)
        >>> plot_lines({"a": (x, x)}, title="t", x_label="s", y_label="y").shape
        (360, 900, 3)
    """
    canvas, frame = _begin([*curves.values()], title, x_label, y_label, size_hw)
    for number, (x, y) in enumerate(curves.values()):
        colour = COLOURS[number % len(COLOURS)]
        known = np.isfinite(y) & np.isfinite(x)
        breaks = np.flatnonzero(np.diff(np.flatnonzero(known)) > 1) + 1
        placed = frame.place(x[known], y[known])
        for part in np.split(placed, breaks):
            _line(canvas, part, colour)
            if len(part) == 1:
                _dot(canvas, part[0], colour, radius=1)
    _legend(canvas, list(curves), size_hw)
    return canvas


def plot_points(
    groups: Mapping[str, Sequence[tuple[float, float, str]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    size_hw: tuple[int, int] = (520, 900),
) -> UInt8Array:
    """Draw named points; those of a group share a colour and are joined in order.

    Args:
        groups: by label, points as x, y and a short name ("" = none).
        title: above the plot.
        x_label: under it.
        y_label: at the top of the y axis.
        size_hw: of the picture.

    Returns:
        uint8 (H, W, 3) RGB.

    Example:
        >>> points = {"none": [(0.0, 1.0, "off")]}
        >>> plot_points(points, title="t", x_label="x", y_label="y").shape
        (520, 900, 3)
    """
    pairs = [
        (np.array([p[0] for p in points]), np.array([p[1] for p in points]))
        for points in groups.values()
    ]
    canvas, frame = _begin(pairs, title, x_label, y_label, size_hw, pad_x=0.04)
    for number, (points, (x, y)) in enumerate(zip(groups.values(), pairs, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        placed = frame.place(x, y)
        _line(canvas, placed, colour)
        for place, point in zip(placed, points, strict=True):
            _dot(canvas, place, colour, radius=4)
            _text(canvas, point[2], (place[0] + 7, place[1] - 6), colour, scale=0.38)
    _legend(canvas, list(groups), size_hw)
    return canvas


def _begin(
    curves: Sequence[tuple[Float64Array, Float64Array]],
    title: str,
    x_label: str,
    y_label: str,
    size_hw: tuple[int, int],
    *,
    pad_x: float = 0.0,
) -> tuple[UInt8Array, _Frame]:
    canvas = np.full((*size_hw, 3), 255, np.uint8)
    x_range = _range([x for x, _ in curves], pad=pad_x)
    frame = _Frame(size_hw=size_hw, x=x_range, y=_range([y for _, y in curves], pad=0.06))
    for ticks, axis in ((_ticks(*frame.x), 0), (_ticks(*frame.y), 1)):
        for tick, words in ticks:
            ends = (np.array([tick, tick]), np.array(frame.y))
            if axis == 1:
                ends = (np.array(frame.x), np.array([tick, tick]))
            placed = frame.place(*ends)
            _line(canvas, placed, _GRID)
            if axis == 0:
                _text(canvas, words, (placed[0, 0] - 4 * len(words), size_hw[0] - 32), _INK)
            else:
                _text(canvas, words, (_LEFT - 8 - 8 * len(words), placed[0, 1] + 4), _INK)
    corners = frame.place(np.array(frame.x)[[0, 0, 1]], np.array(frame.y)[[1, 0, 0]])
    _line(canvas, corners, _INK)
    _text(canvas, title, (_LEFT, 18), _INK, scale=0.5)
    _text(canvas, x_label, (size_hw[1] - _RIGHT - 8 * len(x_label), size_hw[0] - 10), _INK)
    _text(canvas, y_label, (6, 34), _INK)
    return canvas, frame


def _range(values: Sequence[Float64Array], *, pad: float) -> tuple[float, float]:
    known = [v[np.isfinite(v)] for v in values]
    joined = np.concatenate(known) if known else np.zeros(0)
    if len(joined) == 0:
        return 0.0, 1.0
    low, high = float(joined.min()), float(joined.max())
    spread = high - low if high > low else max(abs(high), 1.0) * 0.1
    if high == low:
        low, high = low - spread, high + spread
    return low - pad * spread, high + pad * spread


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers, four to nine of them."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough), default=10.0) * power
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [(k * step, f"{k * step:.{digits}f}") for k in range(first, last + 1)]


def _legend(canvas: UInt8Array, labels: Sequence[str], size_hw: tuple[int, int]) -> None:
    right = size_hw[1] - _RIGHT
    for number, label in reversed(list(enumerate(labels))):
        right -= 8 * len(label) + 30
        colour = COLOURS[number % len(COLOURS)]
        _line(canvas, np.array([[right, 29.0], [right + 18, 29.0]]), colour)
        _text(canvas, label, (right + 22, 33), colour)


def _line(canvas: UInt8Array, points: Float64Array, colour: Colour) -> None:
    fixed = np.round(points * 2**_FINE).astype(np.int32)
    cv2.polylines(canvas, [fixed], False, colour, 1, cv2.LINE_AA, _FINE)


def _dot(canvas: UInt8Array, point: Float64Array, colour: Colour, *, radius: int) -> None:
    x, y = np.round(point * 2**_FINE).astype(int).tolist()
    cv2.circle(canvas, (x, y), radius << _FINE, colour, -1, cv2.LINE_AA, _FINE)


def _text(
    canvas: UInt8Array,
    words: str,
    at_xy: tuple[float, float],
    colour: Colour,
    *,
    scale: float = 0.42,
) -> None:
    place = (round(float(at_xy[0])), round(float(at_xy[1])))
    cv2.putText(canvas, words, place, _FONT, scale, colour, 1, cv2.LINE_AA)
