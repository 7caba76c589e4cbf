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
from vidinvert.media.structure import find_break
from vidinvert.types import Int64Array

_DEFAULT_RATE = Fraction(25)  # of a clip that tells neither times nor a rate
_SLACK_SECONDS = Fraction(1, 4)  # headers round, and some count one frame more


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PacketIndex:
    """The video packets in decoding order.

    Attributes:
        pts: presentation times in ticks, None where a packet carries none.
        durations: ticks, 0 where unknown.
        discarded: number of packets that an edit list hides.
        fresh: whether a packet begins with an IDR picture; empty where that cannot be told.
    """

    pts: tuple[int | None, ...]
    durations: tuple[int, ...]
    discarded: int
    fresh: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timing:
    """The frames in presentation order: `pts` and `durations` (T,) in ticks of `time_base`."""

    pts: Int64Array
    durations: Int64Array
    time_base: Fraction
    frame_rate: Fraction


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
    for packet in video_packets(container, stream, path):
        pts.append(packet.pts)
        durations.append(packet.duration or 0)
        discarded += packet.is_discard
        if begins is not None:
            fresh.append(begins(packet))
    if not pts:
        raise OpenError(
            f"{shown(path)} holds no video packet, expected at least one; "
            "check the file by playing it"
        )
    return PacketIndex(
        pts=tuple(pts), durations=tuple(durations), discarded=discarded, fresh=tuple(fresh)
    )


def check_complete(
    container: InputContainer, stream: VideoStream, index: PacketIndex, path: Path
) -> None:
    """Compare what the headers announce with what the file holds.

    Raises:
        DecodeError: the file was cut off.
    """
    broken = find_break(path, container.format.name)
    if broken is not None:
        raise damaged(path, broken)
    if container.format.name.startswith("mov,"):
        behind = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
        if behind > os.path.getsize(path):
            raise damaged(path, f"its end: it was cut off after packet {len(index.pts)}")
    elif container.format.name == "avi":
        if stream.frames > len(index.pts) + max(2, stream.frames // 20):
            raise damaged(
                path, f"its end: the header counts {stream.frames} frames, not {len(index.pts)}"
            )
    elif container.format.name == "matroska,webm":
        announced, seen = _matroska_seconds(container, stream, index, path)
        if seen < announced - _SLACK_SECONDS:
            ends = f"it announces {float(announced):.2f} s and stops at {float(seen):.2f} s"
            raise damaged(path, f"its end: {ends}")


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
    first: VideoFrame | None = None,
    following: Iterable[VideoFrame] = (),
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
