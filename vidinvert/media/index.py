"""List the frames of a clip and their times, and tell whether the file holds all of them."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidinvert.errors import OpenError
from vidinvert.media.containers import damaged, open_input, shown, video_packets
from vidinvert.media.segments import begins_afresh
from vidinvert.media.structure import count_avi_pictures, find_break
from vidinvert.types import Int64Array

_DEFAULT_RATE = Fraction(25)  # of a clip that tells neither times nor a rate
# Others hide frames (VP8, VP9) or leave out those that repeat the one before (MPEG-4).
ONE_FRAME_A_PACKET = frozenset(
    {"h264", "hevc", "av1", "prores", "ffv1", "mjpeg", "mpeg2video", "gif"}
)
_RECORDED = ("mpegts", "mpeg", "h264", "hevc")  # streams, which may begin anywhere
_MOST_LEADING = 32  # frames shown before the first key frame, which they refer to
_SLACK_SECONDS = Fraction(1, 4)  # headers round, and some count one frame more


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PacketIndex:
    """The video packets in decoding order.

    Attributes:
        pts: presentation times in ticks, None where a packet carries none.
        durations: ticks, 0 where unknown.
        discarded: number of packets that an edit list hides.
        fresh: whether a packet begins with an IDR picture; empty where that cannot be told.
        begin: time of the first key frame: what is shown before it may refer to what is not there.
        skipped: packets before that frame.
        hidden: the times of the packets that an edit list hides.
        jump: number of the first packet that is not decoded when the one before it ends, or None.
    """

    pts: tuple[int | None, ...]
    durations: tuple[int, ...]
    discarded: int
    fresh: tuple[bool, ...]
    begin: int | None = None
    skipped: int = 0
    hidden: frozenset[int] = frozenset()
    jump: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timing:
    """The frames in presentation order: `pts` and `durations` (T,) in ticks of `time_base`."""

    pts: Int64Array
    durations: Int64Array
    time_base: Fraction
    frame_rate: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a decoded frame is shown, in ticks, and the number of the packet that it came by."""

    pts: int | None
    dts: int | None
    duration: int
    packet: int


def index_packets(container: InputContainer, stream: VideoStream, path: Path) -> PacketIndex:
    """Read all packets of the stream without decoding them.

    Raises:
        OpenError: there is not one.
        DecodeError: the container breaks off or a packet is marked as damaged.
    """
    begins = begins_afresh(stream)
    pts: list[int | None] = []
    durations: list[int] = []
    fresh: list[bool] = []
    discarded = 0
    hidden: set[int] = set()
    begin: int | None = None
    skipped: int | None = None
    jump: int | None = None
    ends: int | None = None  # decoding time of the packet before, and its duration
    for packet in video_packets(container, stream, path):
        pts.append(packet.pts)
        durations.append(packet.duration or 0)
        discarded += packet.is_discard
        if skipped is None and packet.is_keyframe:
            begin, skipped = packet.pts, len(pts) - 1
        if packet.is_discard and packet.pts is not None:
            hidden.add(packet.pts)
        if jump is None and ends is not None and packet.dts is not None and packet.dts > ends:
            jump = len(pts) - 1
        ends = packet.dts + durations[-1] if packet.dts is not None and durations[-1] else None
        if begins is not None:
            fresh.append(begins(packet))
    if not pts:
        raise OpenError(
            f"{shown(path)} holds no video packet, expected at least one; "
            "check the file by playing it"
        )
    return PacketIndex(
        pts=tuple(pts),
        durations=tuple(durations),
        discarded=discarded,
        fresh=tuple(fresh),
        begin=begin,
        skipped=skipped or 0,
        hidden=frozenset(hidden),
        jump=jump,
    )


def check_complete(
    container: InputContainer, stream: VideoStream, index: PacketIndex, path: Path
) -> None:
    """Compare what the headers announce with what the file holds.

    Raises:
        DecodeError: the file was cut off.
    """
    if index.skipped and container.format.name not in _RECORDED:
        raise damaged(path, f"its beginning: packet {index.skipped} is the first key frame")
    broken = find_break(path, container.format.name)
    if broken is not None:
        raise damaged(path, broken.where)
    if container.format.name.startswith("mov,"):
        behind = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
        if stream.frames == 0 and index.jump is not None:  # fragments give a time of their own
            raise damaged(path, f"packet {index.jump}, before which others are missing")
        if behind > os.path.getsize(path):
            raise damaged(path, f"its end: it was cut off after packet {len(index.pts)}")
    elif container.format.name == "avi":
        held = count_avi_pictures(path)
        if held > len(index.pts):
            raise damaged(path, f"its index: it holds {held} pictures and finds {len(index.pts)}")
    elif container.format.name == "matroska,webm":
        announced, seen = _matroska_seconds(container, stream, index, path)
        if seen < announced - _SLACK_SECONDS:
            ends = f"it announces {float(announced):.2f} s and stops at {float(seen):.2f} s"
            raise damaged(path, f"its end: {ends}")


def check_decoded(
    index: PacketIndex, times: Timing, first: VideoFrame, codec: str, path: Path
) -> None:
    """Compare the packets with the frames that they gave, in codecs where each gives one.

    Raises:
        DecodeError: packets gave no picture.
    """
    if codec not in ONE_FRAME_A_PACKET or first.interlaced_frame or index.begin is None:
        return
    shown = [pts for pts in index.pts if pts is None or pts not in index.hidden]
    leading = sum(pts is not None and pts < index.begin for pts in shown)
    missing = len(shown) - leading - len(times.pts)
    if missing <= 0 and leading <= min(_MOST_LEADING, len(shown) // 2):
        return
    seen = set(times.pts.tolist())
    lost = [pts for pts in shown if pts is not None and pts >= index.begin and pts not in seen]
    place = int(np.searchsorted(times.pts, min(lost))) if lost else 0
    raise damaged(path, f"frame {place}: {len(shown)} packets give {len(times.pts)} pictures")


def _matroska_seconds(
    container: InputContainer, stream: VideoStream, index: PacketIndex, path: Path
) -> tuple[Fraction, Fraction]:
    """Return how long the header says the clip is, and how long its packets are."""
    base = stream.time_base or Fraction(1, 1000)
    known = [
        pts + duration
        for pts, duration in zip(index.pts, index.durations, strict=True)
        if pts is not None
    ]
    seen = max(known, default=0) * base
    announced = _seconds_of_tag(stream.metadata.get("DURATION", ""))
    if announced is not None:
        return announced, seen
    if container.duration is None:
        return Fraction(0), seen
    with open_input(path) as again:  # the header counts the longest stream
        for packet in again.demux():
            if packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * packet.time_base
                seen = max(seen, Fraction(end))
    return Fraction(container.duration, 1_000_000), seen


def announced_seconds(container: InputContainer, stream: VideoStream) -> float:
    """Return until when the headers of a Matroska or AVI file say that pictures are shown, else 0.

    In Matroska without a tag on the pictures it is the longest stream that is counted.
    """
    if container.format.name == "matroska,webm":
        tagged = _seconds_of_tag(stream.metadata.get("DURATION", ""))
        if tagged is not None:
            return float(tagged)
    if container.format.name == "avi" and stream.duration is not None and stream.time_base:
        return float(stream.duration * stream.time_base)
    return 0.0


def _seconds_of_tag(text: str) -> Fraction | None:
    """Read a Matroska DURATION tag, as `00:00:01.933000000`."""
    parts = text.split("\x00")[0].split(":")
    try:
        hours, minutes, seconds = (Fraction(part) for part in parts)
    except ValueError:
        return None
    return (hours * 60 + minutes) * 60 + seconds


def timing(
    index: PacketIndex,
    stream: VideoStream,
    first: VideoFrame | Moment | None = None,
    following: Iterable[VideoFrame | Moment] = (),
) -> Timing:
    """Put the frames' times in presentation order.

    Args:
        index: the packets, which are the frames as long as `first` is None.
        stream: what they belong to.
        first: the first decoded frame, where the packets are not a safe list.
        following: the frames after it; they are looked at one by one and not kept.
    """
    time_base = stream.time_base or 1 / _DEFAULT_RATE
    rate = stream.average_rate or stream.guessed_rate or _DEFAULT_RATE
    if first is None:
        rows = sorted(
            (pts, duration)
            for pts, duration in zip(index.pts, index.durations, strict=True)
            if pts is not None
        )
        pts = np.array([row[0] for row in rows], dtype=np.int64)
        durations = np.array([row[1] for row in rows], dtype=np.int64)
        return _timing(pts, durations, time_base, stream.average_rate)
    seen = [(first.pts, first.dts, first.duration or 0)]
    seen.extend((frame.pts, frame.dts, frame.duration or 0) for frame in following)
    durations = np.array([row[2] for row in seen], dtype=np.int64)
    for column in (0, 1):  # presentation times, else the decoder's
        times = [row[column] for row in seen if row[column] is not None]
        pts = np.array(times, dtype=np.int64)
        if len(pts) == len(seen) and np.all(np.diff(pts) > 0):
            return _timing(pts, durations, time_base, stream.average_rate)
    # No usable times, as in raw streams: the frames are evenly spaced.
    pts = np.arange(len(seen), dtype=np.int64)
    return _timing(pts, np.ones_like(pts), 1 / Fraction(rate), Fraction(rate))


def _timing(
    pts: Int64Array, durations: Int64Array, time_base: Fraction, rate: Fraction | None
) -> Timing:
    if not rate and len(pts) > 1:
        rate = Fraction(len(pts) - 1) / (int(pts[-1] - pts[0]) * time_base)
    return Timing(
        pts=pts,
        durations=durations,
        time_base=time_base,
        frame_rate=Fraction(rate or _DEFAULT_RATE),
    )
