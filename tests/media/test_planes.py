"""Colour: writing is the inverse of reading."""

import numpy as np
import pytest
from av.video.frame import VideoFrame

from vidinvert.media.planes import chroma_shift, to_planes
from vidinvert.types import ColorSpec

CASES = [
    (pixel_format, matrix, full_range)
    for pixel_format in ("yuv420p", "yuv444p", "yuv420p10le")
    for matrix in (1, 2, 9)
    for full_range in (False, True)
]


def smooth_planes(full_range, *, seed=0):
    """Return 8-bit 4:2:0 planes of a soft coloured picture, (96, 64)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:64, 0:64] / 64
    luma = 60 + 120 * (0.5 + 0.5 * np.sin(5 * x + 3 * y)) + rng.normal(0, 2, (64, 64))
    chroma = [128 + 30 * np.sin(4 * x[::2, ::2] + phase) for phase in (0.0, 2.0)]
    planes = np.concatenate([luma.ravel(), chroma[0].ravel(), chroma[1].ravel()])
    frame = VideoFrame.from_ndarray(
        planes.round().astype(np.uint8).reshape(96, 64), format="yuv420p"
    )
    frame.color_range = 2 if full_range else 1
    return frame


@pytest.mark.promise(4)
@pytest.mark.parametrize(("pixel_format", "matrix", "full_range"), CASES)
def test_a_picture_read_again_is_the_same_picture(pixel_format, matrix, full_range):
    color = ColorSpec(matrix=matrix, range=2 if full_range else 1)
    source = smooth_planes(full_range)
    source.colorspace = matrix
    rgb = source.to_ndarray(format="rgb24")
    planes = to_planes(rgb, pixel_format=pixel_format, color=color, full_range=full_range)
    assert planes.format.name == pixel_format
    error = (planes.to_ndarray(format="rgb24").astype(float) - rgb) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 44


@pytest.mark.promise(4)
def test_eight_bits_do_not_darken_when_written_and_read_ten_times():
    color = ColorSpec(matrix=1, range=1)
    frame = smooth_planes(False)
    frame.colorspace = 1
    before = frame.to_ndarray()[:64].astype(float).mean()
    for _ in range(10):
        rgb = frame.to_ndarray(format="rgb24")
        frame = to_planes(rgb, pixel_format="yuv420p", color=color, full_range=False)
    assert abs(frame.to_ndarray()[:64].astype(float).mean() - before) < 1.5


@pytest.mark.promise(4)
@pytest.mark.parametrize("full_range", [False, True])
def test_grey_stays_grey_to_one_level(full_range):
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 16, axis=0).repeat(3, axis=2)
    planes = to_planes(grey, pixel_format="yuv444p", color=ColorSpec(), full_range=full_range)
    back = planes.to_ndarray(format="rgb24").astype(int)
    assert np.abs(back - grey).max() <= 2
    assert np.ptp(back, axis=2).max() <= 1


@pytest.mark.parametrize(
    ("pixel_format", "shift"),
    [("yuv420p", (1, 1)), ("yuv422p", (1, 0)), ("yuv444p10le", (0, 0)), ("gray", (0, 0))],
)
def test_chroma_is_halved_where_the_format_says(pixel_format, shift):
    assert chroma_shift(pixel_format) == shift
