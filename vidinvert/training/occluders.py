"""Things in front of a face, drawn by ourselves so that the true mask is known.

Hands (a palm with fingers, skin-coloured and shaded), glasses, microphones, lettering, and patches
of pattern. Each returns a picture and its opacity; `plant` puts them on a face.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]
Drawing = tuple[Float32Array, Float32Array]  # colours (R, R, 3) in 0..255, opacity (R, R) in 0..1

WORDS = ("LIVE", "NEWS", "ON AIR", "breaking", "hello", "12:45", "REC", "studio", "@home", "Take 2")


def plant(image: UInt8Array, rng: np.random.Generator) -> tuple[UInt8Array, Float32Array]:
    """Put one random thing in front of a face (R, R, 3); return the picture and the mask (R, R)."""
    draw: Callable[[int, np.random.Generator], Drawing] = DRAWINGS[int(rng.integers(len(DRAWINGS)))]
    colours, opacity = draw(image.shape[0], rng)
    softness = float(rng.uniform(0.4, 1.2))
    opacity = np.asarray(cv2.GaussianBlur(opacity, (0, 0), softness), np.float32)[..., None]
    light = float(rng.uniform(0.75, 1.15))
    mixed = image * (1.0 - opacity) + np.clip(colours * light, 0, 255) * opacity
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8), opacity[..., 0]


def hand(size: int, rng: np.random.Generator) -> Drawing:
    """A palm and two to five fingers as capsules, lit from one side."""
    opacity = np.zeros((size, size), np.float32)
    centre = rng.uniform(0.15, 0.85, 2) * size
    toward = rng.uniform(-np.pi, np.pi)
    palm = rng.uniform(0.09, 0.15) * size
    cv2.circle(opacity, _point(centre), int(palm), 1.0, -1, cv2.LINE_AA)
    wrist = centre - 3 * palm * np.array([np.cos(toward), np.sin(toward)])
    cv2.line(opacity, _point(centre), _point(wrist), 1.0, int(palm * 1.5), cv2.LINE_AA)
    for finger in range(int(rng.integers(2, 6))):
        angle = toward + (finger - 2) * rng.uniform(0.22, 0.38)
        length = palm * rng.uniform(1.6, 2.6)
        tip = centre + length * np.array([np.cos(angle), np.sin(angle)])
        cv2.line(opacity, _point(centre), _point(tip), 1.0, int(palm * 0.42), cv2.LINE_AA)
    skin = np.array([224, 172, 138]) * rng.uniform(0.3, 1.1) + rng.normal(0, 8, 3)
    return _shade(opacity, skin, rng), opacity


def glasses(size: int, rng: np.random.Generator) -> Drawing:
    """Two rims and a bridge where the eyes of an aligned face are; some are sunglasses."""
    opacity = np.zeros((size, size), np.float32)
    thickness = int(rng.integers(2, 6))
    height, width = rng.uniform(0.06, 0.10) * size, rng.uniform(0.085, 0.12) * size
    row = size * 0.47 + rng.normal(0, 0.012) * size
    tilt = rng.normal(0, 3)
    fill = rng.random() < 0.4
    for column in (0.377, 0.623):
        centre = (int(column * size), int(row))
        axes = (int(width), int(height))
        if fill:
            cv2.ellipse(opacity, centre, axes, tilt, 0, 360, float(rng.uniform(0.7, 1.0)), -1)
        cv2.ellipse(opacity, centre, axes, tilt, 0, 360, 1.0, thickness, cv2.LINE_AA)
    left, right = int(0.377 * size + width), int(0.623 * size - width)
    cv2.line(opacity, (left, int(row)), (right, int(row)), 1.0, thickness, cv2.LINE_AA)
    colour = rng.uniform(0, 90) + rng.uniform(0, 60, 3)
    return _shade(opacity, colour, rng), opacity


def microphone(size: int, rng: np.random.Generator) -> Drawing:
    """A round or long head on a stick that comes from below."""
    opacity = np.zeros((size, size), np.float32)
    head = np.array([rng.uniform(0.25, 0.75), rng.uniform(0.55, 0.9)]) * size
    foot = np.array([rng.uniform(0.1, 0.9), 1.2]) * size
    radius = rng.uniform(0.05, 0.11) * size
    cv2.line(opacity, _point(head), _point(foot), 1.0, int(radius * 0.8), cv2.LINE_AA)
    axes = (int(radius), int(radius * rng.uniform(1.0, 1.7)))
    cv2.ellipse(opacity, _point(head), axes, float(rng.uniform(-40, 40)), 0, 360, 1.0, -1)
    return _shade(opacity, rng.uniform(5, 110) + rng.uniform(0, 40, 3), rng, grain=18.0), opacity


def lettering(size: int, rng: np.random.Generator) -> Drawing:
    """A word across the picture, sometimes on a bar."""
    opacity = np.zeros((size, size), np.float32)
    word = WORDS[int(rng.integers(len(WORDS)))]
    scale, weight = float(rng.uniform(0.7, 2.2)), int(rng.integers(2, 7))
    (width, height), _ = cv2.getTextSize(word, cv2.FONT_HERSHEY_DUPLEX, scale, weight)
    x = int(rng.integers(-width // 4, max(1, size - width // 2)))
    y = int(rng.integers(height, size))
    colours = np.empty((size, size, 3), np.float32)
    colours[:] = rng.uniform(0, 255, 3)
    if rng.random() < 0.4:
        cv2.rectangle(opacity, (x - 8, y - height - 8), (x + width + 8, y + 10), 1.0, -1)
    written = np.zeros((size, size), np.uint8)  # OpenCV writes on bytes alone
    cv2.putText(written, word, (x, y), cv2.FONT_HERSHEY_DUPLEX, scale, 255, weight, cv2.LINE_AA)
    ink = written.astype(np.float32) / 255.0
    ink_colour = rng.uniform(0, 255, 3).astype(np.float32)
    colours = colours * (1 - ink[..., None]) + ink_colour * ink[..., None]
    return colours.astype(np.float32), np.maximum(opacity, ink)


def pattern(size: int, rng: np.random.Generator) -> Drawing:
    """A turned rectangle or an ellipse of stripes, checks or noise."""
    opacity = np.zeros((size, size), np.float32)
    centre = rng.uniform(0.1, 0.9, 2) * size
    extent = rng.uniform(0.08, 0.25, 2) * size
    angle = float(rng.uniform(0, 180))
    if rng.random() < 0.5:
        corners = cv2.boxPoints((tuple(centre.tolist()), tuple((2 * extent).tolist()), angle))
        cv2.fillConvexPoly(opacity, corners.astype(np.int32), 1.0, cv2.LINE_AA)
    else:
        axes = (int(extent[0]), int(extent[1]))
        cv2.ellipse(opacity, _point(centre), axes, angle, 0, 360, 1.0, -1, cv2.LINE_AA)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    period = rng.uniform(4, 30)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    if rng.random() < 0.5:
        wave = wave * np.sin((y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period)
    level = (wave > 0).astype(np.float32)[..., None]
    first, second = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    colours = (first * level + second * (1 - level)).astype(np.float32)
    return colours + rng.normal(0, 10, (size, size, 1)).astype(np.float32), opacity


def _shade(
    opacity: Float32Array,
    colour: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    grain: float = 5.0,
) -> Float32Array:
    """Colour a shape, darker towards its edge and to one side, with a little grain."""
    size = opacity.shape[0]
    depth = cv2.GaussianBlur(opacity, (0, 0), 0.03 * size)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = 0.55 + 0.5 * depth + 0.35 * (x * np.cos(angle) + y * np.sin(angle))
    noise = rng.normal(0, grain, (size, size, 1)).astype(np.float32)
    return (light[..., None] * colour.astype(np.float32) + noise).astype(np.float32)


def _point(xy: NDArray[np.float64]) -> tuple[int, int]:
    return int(xy[0]), int(xy[1])


DRAWINGS: tuple[Callable[[int, np.random.Generator], Drawing], ...] = (
    hand,
    glasses,
    microphone,
    lettering,
    pattern,
    hand,  # twice as often as the others
)
