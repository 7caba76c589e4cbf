"""From RGB to the planes that an encoder takes: the inverse of what the decoder does.

A frame that was read from a file keeps the file's own planes: `change_planes` adds to them what an
edit changed, where it changed something, so the rest never leaves YUV and never loses a bit.

Convention: without a tag, matrix BT.601 and limited range are meant, as all readers assume.
"""

from typing import Any, cast

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from vidinvert.images import changed_pixels
from vidinvert.types import ColorSpec, StoredFrame, UInt8Array, UInt16Array

UNSPECIFIED = 2
FULL_RANGE = 2
LIMITED_RANGE = 1

# AVColorSpace -> the matrix that swscale knows: BT.709, FCC, BT.601 (twice), SMPTE 240M, BT.2020
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_BT601 = 5
# Chroma is the mean of the pixels it covers; the reader spreads it over them without interpolation.
_SCALING = int(Interpolation.AREA | Interpolation.ACCURATE_RND)


def is_full_range(color: ColorSpec, pixel_format: str) -> bool:
    """Say whether black is 0 and not 16."""
    return color.range == FULL_RANGE or pixel_format.startswith("yuvj")


def to_planes(
    rgb: UInt8Array, *, pixel_format: str, color: ColorSpec, full_range: bool
) -> VideoFrame:
    """Convert RGB (H, W, 3) so that decoding the result gives the picture back.

    swscale's way from YUV to RGB truncates and darkens by one or two levels. What a second reading
    would lose is added to the luma first: an unedited frame comes back within 54 dB instead of
    46 dB, and a clip does not darken each time it is edited.
    """
    first = _convert(rgb, pixel_format, color, full_range)
    layout = first.format
    if layout.is_rgb or not layout.is_planar:
        return first
    luma = view_planes(first)[0]
    wanted = luma.astype(np.int32)  # (H, W)
    again = np.asarray(first.to_ndarray(format="rgb24"), dtype=np.uint8)
    got = view_planes(_convert(again, pixel_format, color, full_range))[0].astype(np.int32)
    luma[...] = np.clip(2 * wanted - got, 0, 2 ** layout.components[0].bits - 1)
    return first


def read_planes(frame: VideoFrame) -> tuple[UInt8Array | UInt16Array, ...]:
    """Return a decoded frame's planes, read-only views of its own memory."""
    planes = view_planes(frame)
    for plane in planes:
        plane.flags.writeable = False
    return planes


def is_planar(pixel_format: str) -> bool:
    """Say whether every component has a plane of its own, of whole bytes, low byte first."""
    layout = VideoFormat(pixel_format)
    grey = pixel_format.startswith("gray")
    if not (layout.is_planar or grey) or layout.is_big_endian or layout.has_palette:
        return False
    apart = {component.plane for component in layout.components}
    whole = layout.components[0].bits == 8 or pixel_format.endswith("le")
    return len(apart) == len(layout.components) and whole and "f" not in pixel_format


def holds_planes_of(pixel_format: str, other: str) -> bool:
    """Say whether the planes of one layout can be written as another: only their names differ."""
    return is_planar(other) and pixel_format.replace("yuvj", "yuv") == other.replace("yuvj", "yuv")


def change_planes(
    stored: StoredFrame,
    painted: UInt8Array | UInt16Array,
    *,
    turn: int,
    pixel_format: str,
    color: ColorSpec,
    full_range: bool,
) -> VideoFrame:
    """Add what was painted to a frame's own planes.

    Only the rectangle that was painted is converted, before and after; the difference is added to
    the planes. So swscale's rounding cancels, what lies outside keeps every bit, and an edit
    computed with 16 bits does not step in a clip of 10.

    Args:
        stored: as it was read.
        painted: (H, W, 3) like `stored.picture`, upright.
        turn: quarter turns, counter-clockwise, by which the picture was made upright.
        pixel_format: a layout of the same planes.
        color: how they are read.
        full_range: black is 0.
    """
    height, width = stored.planes[0].shape
    frame = VideoFrame(width, height, pixel_format)
    views = view_planes(frame)
    for view, plane in zip(views, stored.planes, strict=True):
        view[...] = plane
    frame.colorspace = color.matrix if color.matrix in _MATRICES else UNSPECIFIED
    frame.color_range = FULL_RANGE if full_range else LIMITED_RANGE
    before, after = (np.rot90(picture, k=-turn) for picture in (stored.picture, painted))
    if before.ctypes.data == after.ctypes.data:
        return frame  # the very same picture
    touched = changed_pixels(before, after)
    box = _painted_box(touched, align=tuple(1 << n for n in chroma_shift(pixel_format)))
    if box is None:
        return frame
    rows, columns = box
    touched = touched[rows, columns]
    was, now = (
        view_planes(_convert(picture[rows, columns], pixel_format, color, full_range))
        for picture in (before, after)
    )
    for component, view, old, new in zip(frame.format.components, views, was, now, strict=True):
        if component.is_alpha:
            continue
        across, down = (-(-width // view.shape[1]), -(-height // view.shape[0]))
        part = view[rows.start // down :, columns.start // across :][: old.shape[0], : old.shape[1]]
        changed = _spread(touched, across, down)
        wide = np.int16 if component.bits == 8 else np.int32
        moved = np.subtract(new, old, dtype=wide)
        moved += part
        limited = np.clip(moved, 0, 2**component.bits - 1).astype(part.dtype)
        np.copyto(part, limited, where=changed)
    return frame


def _painted_box(
    touched: NDArray[np.bool_], *, align: tuple[int, ...]
) -> tuple[slice, slice] | None:
    """Return the rows and columns touched (H, W), grown to whole chroma samples; None if none."""
    rows = np.flatnonzero(touched.any(axis=1))
    if len(rows) == 0:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(touched[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    height, width = touched.shape
    across, down = align
    return (
        slice(top - top % down, min(height, bottom + -bottom % down)),
        slice(left - left % across, min(width, right + -right % across)),
    )


def _spread(touched: NDArray[np.bool_], across: int, down: int) -> NDArray[np.bool_]:
    """Say of every chroma sample whether one of its pixels was touched."""
    height, width = touched.shape
    padded = np.pad(touched, ((0, -height % down), (0, -width % across)))
    cells = [padded[y::down, x::across] for y in range(down) for x in range(across)]
    return np.logical_or.reduce(cells)


def _convert(
    rgb: UInt8Array | UInt16Array, pixel_format: str, color: ColorSpec, full_range: bool
) -> VideoFrame:
    layout = "rgb24" if rgb.dtype == np.uint8 else "rgb48le"
    picture = VideoFrame.from_ndarray(cast(Any, np.ascontiguousarray(rgb)), format=layout)
    frame = picture.reformat(
        format=pixel_format,
        dst_colorspace=_MATRICES.get(color.matrix, _BT601),
        dst_color_range=FULL_RANGE if full_range else LIMITED_RANGE,
        interpolation=_SCALING,
    )
    frame.colorspace = color.matrix if color.matrix in _MATRICES else UNSPECIFIED
    frame.color_range = FULL_RANGE if full_range else LIMITED_RANGE
    return frame


def view_planes(frame: VideoFrame) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], ...]:
    """View a frame's planes, (h, w) each, writable; samples of more than 8 bits are uint16."""
    views: list[NDArray[np.uint8] | NDArray[np.uint16]] = []
    deep = frame.format.components[0].bits > 8
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), dtype="<u2" if deep else "u1")
        views.append(rows.reshape(plane.height, -1)[:, : plane.width])
    return tuple(views)


def chroma_shift(pixel_format: str) -> tuple[int, int]:
    """Return by how many bits chroma is narrower and lower than luma."""
    layout = VideoFormat(pixel_format, 16, 16)
    chroma = layout.components[min(1, len(layout.components) - 1)]
    return (16 // chroma.width).bit_length() - 1, (16 // chroma.height).bit_length() - 1
