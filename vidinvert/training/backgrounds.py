"""Pictures without faces: what stands behind, and instead of, the faces of the detector's scenes.

A detector that has seen faces only before tidy studio walls fires at gravel, text and hands. So the
backgrounds are of many kinds: gradients, clouds of noise, shapes, text, stripes, photographs, and
pieces of portraits that hold no face but have its colours: blurred, smeared or shuffled.
"""

import string
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidinvert.errors import MissingError

UInt8Array = NDArray[np.uint8]
Draw = np.random.Generator

# Photographs inside scikit-image's wheel that show no human face; its portraits are left out.
PHOTOGRAPHS = (
    "brick.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "color.png", "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg", "ihc.png",
    "logo.png", "microaneurysms.png", "moon.png", "motorcycle_left.png", "motorcycle_right.png",
    "page.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip


def load_photographs(directory: Path, names: Sequence[str] = PHOTOGRAPHS) -> list[UInt8Array]:
    """Read the photographs `names` of a folder that are there, (H, W, 3) uint8 RGB each.

    Raises:
        MissingError: none of them is there.
    """
    pictures = [cv2.imread(str(path)) for name in names if (path := directory / name).is_file()]
    found = [
        _shrink(np.asarray(picture[..., ::-1], np.uint8))
        for picture in pictures
        if picture is not None
    ]
    if not found:
        raise MissingError(
            f"{directory} holds none of {len(names)} photographs, expected at least one such as "
            f"{names[0]}; install scikit-image and name the folder skimage/data"
        )
    return found


def _shrink(picture: UInt8Array, side: int = 640) -> UInt8Array:
    """Return the picture with its longer side at most `side`."""
    factor = side / max(picture.shape[:2])
    if factor >= 1:
        return np.ascontiguousarray(picture)
    small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)


def draw_background(
    rng: Draw, size: int, *, photographs: Sequence[UInt8Array], portraits: Sequence[UInt8Array]
) -> UInt8Array:
    """Draw one background of a random kind.

    Args:
        rng: where the chances come from.
        size: side of the square picture.
        photographs: pictures without faces, any size.
        portraits: aligned face crops; only what is no longer a face is used of them.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    kind = rng.choice(7, p=(0.12, 0.14, 0.16, 0.08, 0.24, 0.16, 0.10))
    if kind == 4 and not photographs:
        kind = 1
    if kind == 0:
        return _gradient(rng, size)
    if kind == 1:
        return _clouds(rng, size)
    if kind == 2:
        return _shapes(rng, size)
    if kind == 3:
        return _text(rng, size)
    if kind == 4:
        return _tint(rng, _cut(rng, size, photographs[int(rng.integers(len(photographs)))]))
    portrait = portraits[int(rng.integers(len(portraits)))]
    return _blurred(rng, size, portrait) if kind == 5 else _shuffled(rng, size, portrait)


def erase_face(rng: Draw, crop: UInt8Array) -> UInt8Array:
    """Return an aligned crop whose face is no face any more: smeared, swirled or painted over.

    Hair, neck and shoulders stay: the detector learns that they alone are nothing.
    """
    size = crop.shape[0]
    kind = rng.integers(3)
    if kind == 0:
        inner = cv2.resize(crop, (4, 4), interpolation=cv2.INTER_AREA)
        inner = cv2.resize(inner, (size, size), interpolation=cv2.INTER_CUBIC)
    elif kind == 1:
        inner = _shuffled(rng, size, crop)
    else:
        inner = np.empty_like(crop)
        inner[:] = crop[
            int(0.42 * size) : int(0.60 * size), int(0.35 * size) : int(0.65 * size)
        ].mean(axis=(0, 1))
    mask = np.zeros((size, size), np.float32)
    centre = (size // 2, int(0.53 * size))
    cv2.ellipse(mask, centre, (int(0.31 * size), int(0.42 * size)), 0, 0, 360, (1.0,), -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 0.03 * size)[..., None]
    return (crop * (1 - mask) + inner * mask).astype(np.uint8)


def _colour(rng: Draw) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    return red, green, blue


def _gradient(rng: Draw, size: int) -> UInt8Array:
    corners = rng.integers(0, 256, (2, 2, 3)).astype(np.float32)
    smooth = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
    grain = 2.0 * rng.standard_normal((size, size, 1), dtype=np.float32)
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)


def _clouds(rng: Draw, size: int) -> UInt8Array:
    total = np.zeros((size, size, 3), np.float32)
    for cells, weight in ((3, 1.0), (8, 0.5), (24, 0.3), (80, 0.2)):
        noise = rng.normal(0, weight * rng.uniform(0.3, 1.0), (cells, cells, 3)).astype(np.float32)
        total += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(rng.integers(40, 216, 3) + total * 55, 0, 255).astype(np.uint8)


def _shapes(rng: Draw, size: int) -> UInt8Array:
    """Boxes, ovals and bars, many of them in the colours of skin."""
    canvas = _gradient(rng, size)
    for _ in range(rng.integers(4, 22)):
        colour = skin_colour(rng) if rng.random() < 0.4 else _colour(rng)
        x, y = (int(v) for v in rng.integers(0, size, 2))
        a, b = (int(v) for v in rng.integers(size // 40 + 1, size // 3, 2))
        kind = rng.integers(3)
        if kind == 0:
            cv2.rectangle(canvas, (x, y), (x + a, y + b), colour, -1)
        elif kind == 1:
            angle = float(rng.uniform(0, 180))
            cv2.ellipse(canvas, (x, y), (a, b), angle, 0, 360, colour, -1, cv2.LINE_AA)
        else:
            end = tuple(int(v) for v in rng.integers(0, size, 2))
            cv2.line(canvas, (x, y), end, colour, int(rng.integers(1, size // 12)), cv2.LINE_AA)
    if rng.random() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.5, 4)))
    return np.asarray(canvas, dtype=np.uint8)


def skin_colour(rng: Draw) -> tuple[int, int, int]:
    """Return a colour between dark and light skin, RGB."""
    share = rng.uniform()
    dark, light = np.array((70, 45, 35)), np.array((240, 205, 180))
    red, green, blue = (int(v) for v in dark + share * (light - dark) + rng.normal(0, 8, 3))
    return red, green, blue


def _text(rng: Draw, size: int) -> UInt8Array:
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = _colour(rng)
    letters = np.array(list(string.ascii_letters + string.digits + "  .,;:!?()"))
    y = 0
    while y < size:
        scale = float(rng.uniform(0.3, 1.8))
        line = "".join(rng.choice(letters, 30))
        y += int(30 * scale) + 4
        cv2.putText(canvas, line, (-5, y), int(rng.integers(0, 8)), scale, _colour(rng), 1 + y % 3)
    return canvas


def _cut(rng: Draw, size: int, picture: UInt8Array) -> UInt8Array:
    """Return a random square of a picture, mirrored or turned, at `size`."""
    side = int(min(picture.shape[:2]) * rng.uniform(0.35, 1.0))
    y = int(rng.integers(0, picture.shape[0] - side + 1))
    x = int(rng.integers(0, picture.shape[1] - side + 1))
    square = np.rot90(picture[y : y + side, x : x + side], int(rng.integers(4)))
    square = square[:, :: 1 if rng.random() < 0.5 else -1]
    return np.asarray(
        cv2.resize(np.ascontiguousarray(square), (size, size), interpolation=cv2.INTER_AREA),
        dtype=np.uint8,
    )


def _tint(rng: Draw, picture: UInt8Array) -> UInt8Array:
    gain = np.exp(rng.normal(0, 0.25, 3)).astype(np.float32)
    return np.clip(picture * gain + np.float32(rng.normal(0, 20)), 0, 255).astype(np.uint8)


def _blurred(rng: Draw, size: int, portrait: UInt8Array) -> UInt8Array:
    """Return a portrait so blurred that no face is left of it."""
    cells = int(rng.integers(2, 7))
    small = cv2.resize(portrait, (cells, cells), interpolation=cv2.INTER_AREA)
    return np.asarray(
        cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC), dtype=np.uint8
    )


def _shuffled(rng: Draw, size: int, portrait: UInt8Array) -> UInt8Array:
    """Return a portrait cut into squares too small for a face, shuffled and turned."""
    cells = int(rng.integers(5, 10))
    side = portrait.shape[0] // cells
    rows = portrait[: side * cells, : side * cells].reshape(cells, side, cells, side, 3)
    tiles = rows.swapaxes(1, 2).reshape(cells * cells, side, side, 3)
    tiles = np.rot90(tiles[rng.permutation(len(tiles))], int(rng.integers(4)), axes=(1, 2))
    grid = tiles.reshape(cells, cells, side, side, 3).swapaxes(1, 2)
    flat = np.ascontiguousarray(grid.reshape(side * cells, side * cells, 3))
    if rng.random() < 0.5:
        flat = cv2.GaussianBlur(flat, (0, 0), float(rng.uniform(0.5, 3)))
    return np.asarray(
        cv2.resize(flat, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8
    )
