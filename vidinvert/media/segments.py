"""Cut a compressed video stream where a decoder may start afresh, without decoding it.

decord decodes as far ahead as packets reach, so it is given one short file at a time. A cut is
exact only at an IDR picture: by H.264 and H.265 nothing after it in decoding order refers to
anything before it. A container's key frames are not enough: the start of an open group of pictures,
or of a gradual refresh, is a key frame as well.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.video.stream import VideoStream

from vidinvert.media.containers import VideoPacket

Item = TypeVar("Item")

READ_AHEAD_BYTES = 192 * 2**20
"""RGB frames that one segment may hold: 32 of 1080p, 256 of 512x512."""

MIN_FRAMES = 32
"""Frames from which a segment is closed; opening a reader for each costs milliseconds."""

_H264_IDR = frozenset({5})
_HEVC_IDR = frozenset({19, 20})
_H264_SLICES = frozenset({1, 2, 5})
_HEVC_SLICES = frozenset(range(32))


def begins_afresh(stream: VideoStream) -> Callable[[VideoPacket], bool] | None:
    """Return the test for a packet that starts with an IDR picture, None if it cannot be told.

    The packets must hold units with a length in front, as in MP4, MOV and Matroska.
    """
    extradata = stream.codec_context.extradata
    codec = stream.codec_context.name
    if codec == "h264" and extradata and len(extradata) > 4 and extradata[0] == 1:
        length_bytes = (extradata[4] & 3) + 1

        def h264_type(header: int) -> int:
            return header & 0x1F

        return _slice_test(length_bytes, h264_type, _H264_SLICES, _H264_IDR)
    if codec == "hevc" and extradata and len(extradata) > 21 and extradata[0] == 1:
        length_bytes = (extradata[21] & 3) + 1

        def hevc_type(header: int) -> int:
            return (header >> 1) & 0x3F

        return _slice_test(length_bytes, hevc_type, _HEVC_SLICES, _HEVC_IDR)
    return None


def _slice_test(
    length_bytes: int,
    type_of: Callable[[int], int],
    slices: frozenset[int],
    wanted: frozenset[int],
) -> Callable[[VideoPacket], bool]:
    def test(packet: VideoPacket) -> bool:
        if not packet.is_keyframe:
            return False
        data = memoryview(bytes(packet))
        position = 0
        while position + length_bytes < len(data):
            length = int.from_bytes(data[position : position + length_bytes], "big")
            kind = type_of(data[position + length_bytes])
            if kind in slices:
                return kind in wanted
            position += length_bytes + length
        return False

    return test


def min_frames(frame_bytes: int) -> int:
    """Return how many frames close a segment, at the next cut, when one takes `frame_bytes`."""
    return max(1, min(MIN_FRAMES, READ_AHEAD_BYTES // (2 * frame_bytes)))


def cut(
    items: Iterable[Item], begins: Callable[[Item], bool], *, at_least: int
) -> Iterator[list[Item]]:
    """Group `items` into runs of `at_least` or more, each but the first begun by a cut.

    Example:
        >>> list(cut([1, 0, 0, 1, 0, 1, 0], bool, at_least=2))
        [[1, 0, 0], [1, 0], [1, 0]]
    """
    run: list[Item] = []
    for item in items:
        if len(run) >= at_least and begins(item):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def write_segment(packets: Sequence[VideoPacket], template: VideoStream, target: Path) -> None:
    """Write packets as an MP4 of their own with evenly spaced times, as stored, not turned.

    The packets' times are overwritten: their order is all that a reader needs.
    """
    order = np.argsort(np.array([packet.pts for packet in packets]), kind="stable")
    ranks = np.empty(len(packets), dtype=np.int64)
    ranks[order] = np.arange(len(packets))
    delay = int(np.max(np.arange(len(packets)) - ranks))  # so that dts <= pts
    with av.open(f"file:{target}", "w", format="mp4") as container:
        stream = container.add_stream_from_template(template)
        stream.set_display_rotation(0)  # decord would turn the pictures
        stream.time_base = Fraction(1, 25)
        for number, packet in enumerate(packets):
            packet.stream = stream
            packet.time_base = Fraction(1, 25)
            packet.pts = int(ranks[number]) + delay
            packet.dts = number
            packet.duration = 1
            container.mux(packet)
