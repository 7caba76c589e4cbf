"""Let a GPU decode again what the CPU has decoded before, and take nothing from it unproved.

A video decoder in hardware says nothing about damage inside a picture: FFmpeg hands it the slices
and asks for no status, so half of the signs by which this room refuses damaged clips would be lost.
Therefore a run's first pass is always decoded by the CPU, which notes a checksum of every frame's
planes; the passes after it may be decoded by the GPU, and every frame must have the same checksum.
Codecs define their pictures bit for bit, so this costs nothing but the checksums. What is turned
into RGB also depends on tags that PyAV does not show (where chroma lies), so some of its rows are
compared too. At the first frame that differs, or does not come, the CPU goes on.
"""

import zlib
from collections.abc import Generator
from contextlib import closing
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame

from vidinvert.errors import MediaError, PlanError
from vidinvert.media.containers import (
    decoded_frames,
    main_video_stream,
    open_input,
    pixel_bound,
)
from vidinvert.media.planes import view_planes
from vidinvert.types import Hardware, UInt8Array, VideoInfo

# What the GPU's frames are in memory -> the layouts that hold the same samples, plane by plane.
_LAYOUTS = {"nv12": ("yuv420p", "yuvj420p"), "p010le": ("yuv420p10le",)}
_ROWS = 16  # one of so many rows of a picture in RGB is compared
_P010_SHIFT = 6  # the 10 bits of a sample are the upper ones of 16
# What PyAV and this room raise where a GPU does not decode.
_FAILURES = (MediaError, av.error.FFmpegError, NotImplementedError, OSError, ValueError)


class HardwareError(Exception):
    """The GPU did not give the frame that is due."""


class _Known(NamedTuple):
    """What the CPU decoded: the planes' checksum, and what comes with them."""

    checksum: int
    pts: int | None
    colorspace: int
    color_range: int


class HardwareDecoder:
    """What a run's passes over a clip share: what the CPU decoded, and whether the GPU may go on.

    One at a time: passes follow each other.

    Args:
        kind: of hardware, `cuda`.
        info: the clip.
        device: which GPU, by number; empty = the first.

    Raises:
        PlanError: there is no such hardware, or no driver for it.
    """

    def __init__(self, kind: Hardware, info: VideoInfo, *, device: str = "") -> None:
        check_hardware(kind, device=device)
        self._kind: Hardware = kind
        self._device, self._info = device, info
        self._known: dict[int, _Known] = {}
        self._pictures: dict[int, int] = {}
        self._frames = 0
        self._reason: str | None = None
        if info.salvage is not None:
            self._reason = "the clip is damaged"
        elif not any(info.pixel_format in held for held in _LAYOUTS.values()):
            self._reason = f"its pixel format is {info.pixel_format}"

    def note(self, index: int, frame: VideoFrame) -> None:
        """Remember a frame that the CPU decoded, where the GPU may decode it again."""
        if self._reason is None and index not in self._known:
            self._known[index] = _Known(
                checksum_of(frame), frame.pts, int(frame.colorspace), int(frame.color_range)
            )

    def note_picture(self, index: int, rgb: UInt8Array) -> None:
        """Remember what a frame (H, W, 3) looks like that the CPU decoded."""
        if self._reason is None and index not in self._pictures:
            self._pictures[index] = _checksum_of_rows(rgb)

    def accept(self, index: int, rgb: UInt8Array) -> None:
        """Compare the picture of a frame from `read`, and count it.

        Raises:
            HardwareError: it is another; the GPU is not asked again.
        """
        if _checksum_of_rows(rgb) != self._pictures[index]:
            self._reason = f"frame {index} looks other than the CPU's"
            raise HardwareError(self._reason)
        self._frames += 1

    def decline(self, reason: str) -> None:
        """Leave the GPU out of this run."""
        self._reason = reason

    def knows(self, start: int, stop: int) -> bool:
        """Say whether the GPU may decode the frames [start, stop): all are known."""
        return self._reason is None and all(
            k in self._known and k in self._pictures for k in range(start, stop)
        )

    def read(self, start: int, stop: int) -> Generator[VideoFrame, None, None]:
        """Yield the frames [start, stop) by the GPU, as the CPU would: bit for bit.

        Raises:
            HardwareError: one differs or does not come; the GPU is not asked again.
        """
        due = start
        try:
            with closing(self._decoded()) as frames:
                for index, frame in enumerate(frames):
                    if index < start:
                        continue
                    yield self._proved(frame, index)
                    due = index + 1
                    if due == stop:
                        return
            raise HardwareError(f"it gave no frame {due}")
        except HardwareError as error:
            self._reason = str(error)
            raise
        except _FAILURES as error:
            text = str(error).strip().splitlines() or [type(error).__name__]
            self._reason = f"about frame {due}: {text[0]}"
            raise HardwareError(self._reason) from error

    def describe(self) -> dict[str, Any]:
        """Return what decoded: `kind`, `frames` by the GPU, `reason` why not (or no more)."""
        return {"kind": self._kind, "frames": self._frames, "reason": self._reason}

    def _decoded(self) -> Generator[VideoFrame, None, None]:
        accelerator = _accelerator(self._kind, self._device)
        bound = pixel_bound(self._info)
        with open_input(self._info.path, max_pixels=bound, hwaccel=accelerator) as container:
            stream = main_video_stream(container, self._info.path, max_pixels=bound)
            stream.codec_context.thread_count = 1  # the GPU does the work
            yield from decoded_frames(container, stream, self._info.path)

    def _proved(self, frame: VideoFrame, index: int) -> VideoFrame:
        if (frame.height, frame.width) != self._info.coded_size_hw:
            raise HardwareError(f"frame {index} is {frame.width}x{frame.height}")
        plain, known = separate_planes(frame, self._info.pixel_format), self._known[index]
        if checksum_of(plain) != known.checksum:
            raise HardwareError(f"frame {index} differs from the CPU's")
        plain.pts, plain.colorspace, plain.color_range = known[1:]
        return plain


def check_hardware(kind: Hardware, *, device: str = "") -> None:
    """Try to reach the hardware that decodes.

    Raises:
        PlanError: it is not there.
    """
    try:
        av.CodecContext.create("h264", "r", hwaccel=_accelerator(kind, device))
    except (*_FAILURES, TypeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PlanError(
            f"{kind!r} does not decode here ({reason}), expected an NVIDIA GPU and its driver; "
            "leave --hwaccel out."
        ) from error


def _accelerator(kind: Hardware, device: str) -> HWAccel:
    return HWAccel(device_type=kind, device=device or None, allow_software_fallback=False)


def checksum_of(frame: VideoFrame) -> int:
    """Return the CRC-32 of a planar frame's layout, size and samples."""
    total = zlib.crc32(f"{frame.format.name} {frame.width} {frame.height}".encode())
    for plane in view_planes(frame):
        total = zlib.crc32(np.ascontiguousarray(plane).data, total)
    return total


def _checksum_of_rows(rgb: UInt8Array) -> int:
    return zlib.crc32(np.ascontiguousarray(rgb[::_ROWS]).data)


def separate_planes(frame: VideoFrame, pixel_format: str) -> VideoFrame:
    """Turn a frame with interleaved chroma into one with three planes of the same samples.

    What else it carries is copied by FFmpeg, whose own conversion is overwritten: that one may
    stretch the range.

    Args:
        frame: nv12, or p010le whose samples are the upper 10 bits of 16.
        pixel_format: yuv420p or yuvj420p for the one, yuv420p10le for the other.

    Raises:
        HardwareError: the layouts do not hold the same samples.
    """
    name = frame.format.name
    if pixel_format not in _LAYOUTS.get(name, ()):
        raise HardwareError(f"its frames are {name}, expected those of {pixel_format}")
    deep = name == "p010le"
    rows = [
        np.frombuffer(memoryview(plane), dtype="<u2" if deep else "u1").reshape(plane.height, -1)
        for plane in frame.planes
    ]
    plain = frame.reformat(format=pixel_format)
    luma, blue, red = view_planes(plain)
    pairs = rows[1][:, : 2 * blue.shape[1]]
    for target, samples in (
        (luma, rows[0][:, : frame.width]),
        (blue, pairs[:, 0::2]),
        (red, pairs[:, 1::2]),
    ):
        target[...] = samples >> _P010_SHIFT if deep else samples
    return plain
