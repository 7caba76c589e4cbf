"""Find what is still good in a damaged clip, by every sign of damage together.

No single sign tells all damage: packets that the demuxer marks, those that were overwritten with
zeros, errors of the decoder, frames that it marks, packets without a frame, boxes of the container
that do not end where the next begins, and a file that stops before the time that it announces. From
a damaged packet to the next key frame pictures refer to what is lost, so none of them is kept.
"""

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidinvert.errors import DecodeError
from vidinvert.media.containers import VideoPacket, main_video_stream, open_input, shown
from vidinvert.media.holes import hole_test
from vidinvert.media.index import ONE_FRAME_A_PACKET, Moment, announced_seconds
from vidinvert.media.structure import find_break
from vidinvert.types import Int64Array, Salvage


@dataclass(slots=True, kw_only=True)
class Signs:
    """What went wrong while reading: how often, and at which packets, by number."""

    reasons: Counter[str] = field(default_factory=Counter[str])
    packets: list[int] = field(default_factory=list[int])

    def add(self, reason: str, packet: int) -> None:
        """Note a sign; -1 where it belongs to no packet."""
        self.reasons[reason] += 1
        self.packets.append(packet)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPacket:
    """A packet that was read: its time, whether decoding may begin there, and where it lies."""

    pts: int | None
    key: bool
    shown: bool
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The good frames of a clip: their times, and what was lost; None = nothing was."""

    moments: tuple[Moment, ...]
    first: VideoFrame
    salvage: Salvage | None


def survey(path: Path, *, max_pixels: int) -> Survey:
    """Decode a clip as far as it goes and find its good frames.

    Raises:
        OpenError: it cannot be opened at all.
        DecodeError: no frame of it is good.
    """
    signs, packets, moments = Signs(), list[SeenPacket](), list[Moment]()
    first: VideoFrame | None = None
    with open_input(path, max_pixels=max_pixels) as container:
        stream = main_video_stream(container, path, max_pixels=max_pixels)
        for frame in forgiving_frames(container, stream, signs=signs, packets=packets):
            moments.append(_moment(frame, packets))
            if frame.is_corrupt:
                signs.add("frames that the decoder marks as damaged", moments[-1].packet)
            first = frame if first is None else first
        broken = find_break(path, container.format.name)
        if broken is not None:
            behind = [n for n, p in enumerate(packets) if p.position >= broken.position]
            # What is missing lies in the piece before the one that does not begin where it should.
            from_packet = max(0, min(behind, default=len(packets)) - 1)
            signs.add(f"the file's structure breaks at {broken.where}", from_packet)
        announced = stream.frames  # 0 where the header does not count them
        codec = stream.codec_context.codec.canonical_name
        base = float(stream.time_base or 0)
        ends = max(((m.pts or 0) + m.duration for m in moments), default=0) * base
        short = announced_seconds(container, stream) - ends
    if short > 0.25:
        signs.add(f"it stops {short:.2f} s before the end that it announces", -1)
    kept = _good(moments, packets, signs.packets)
    if first is None or not kept:
        raise DecodeError(
            f"{shown(path)} holds no frame that is whole, expected one at least; "
            "get an undamaged copy"
        )
    hidden = sum(not packet.shown for packet in packets)
    lost = max(len(packets), announced if signs.reasons else 0) - hidden - len(kept)
    if not signs.reasons and (lost <= 0 or codec not in ONE_FRAME_A_PACKET):
        return Survey(moments=tuple(moments), first=first, salvage=None)
    salvage = Salvage(
        places=np.array(kept, dtype=np.int64),
        lost_frames=max(0, lost),
        missing_seconds=max(0.0, round(short, 3)) if short > 0.25 else 0.0,
        reasons=tuple(
            f"{count} x {what}" if count > 1 else what for what, count in signs.reasons.items()
        ),
    )
    return Survey(moments=tuple(moments[k] for k in kept), first=first, salvage=salvage)


def forgiving_frames(
    container: InputContainer,
    stream: VideoStream,
    *,
    signs: Signs | None = None,
    packets: list[SeenPacket] | None = None,
) -> Generator[VideoFrame, None, None]:
    """Yield whatever a damaged clip decodes to, the same each time; note what went wrong."""
    signs, packets = signs or Signs(), [] if packets is None else packets
    stream.codec_context.thread_count = 1  # with more, an error is told at another packet
    demuxed = container.demux(stream)
    holed = hole_test(stream)
    keyed = False
    while True:
        try:
            packet = next(demuxed, None)
        except av.error.FFmpegError as error:
            signs.add(f"the file cannot be read on ({error.strerror})", len(packets))
            packet = None
        except IndexError:  # PyAV's, where a stream appears that the file did not announce
            signs.add("a stream begins that was not announced", len(packets))
            packet = None
        if packet is None:
            break
        if packet.size == 0 and packet.pts is None:
            continue
        packets.append(
            SeenPacket(
                pts=packet.pts,
                key=packet.is_keyframe,
                shown=not packet.is_discard,
                position=-1 if packet.pos is None else packet.pos,
            )
        )
        if packet.is_corrupt:
            signs.add("packets that are not whole", len(packets) - 1)
            continue
        if holed is not None and holed(packet):
            signs.add("packets that were overwritten with zeros", len(packets) - 1)
            continue
        keyed = keyed or packet.is_keyframe
        if keyed:
            yield from _decoded(stream, packet, signs, len(packets) - 1)
    yield from _decoded(stream, None, signs, len(packets) - 1)


def _decoded(
    stream: VideoStream, packet: VideoPacket | None, signs: Signs, number: int
) -> Sequence[VideoFrame]:
    try:
        return stream.codec_context.decode(packet)
    except EOFError:
        return ()
    except av.error.FFmpegError:
        signs.add("packets that cannot be decoded", number)
        return ()


def _moment(frame: VideoFrame, packets: list[SeenPacket]) -> Moment:
    """Find the packet that a frame came by: the one with its time, else the last one read."""
    number = len(packets) - 1
    for back in range(number, max(-1, number - 40), -1):
        if packets[back].pts is not None and packets[back].pts == frame.pts:
            number = back
            break
    return Moment(
        pts=frame.pts,
        dts=frame.dts,
        duration=frame.duration or 0,
        packet=number,
    )


def _good(moments: list[Moment], packets: list[SeenPacket], damaged: list[int]) -> list[int]:
    """Return the places of the frames that nothing damaged can have reached."""
    events = np.unique([number for number in damaged if number >= 0])
    keys = np.array([n for n, packet in enumerate(packets) if packet.key], dtype=np.int64)
    kept: list[int] = []
    last: int | None = None
    for place, moment in enumerate(moments):
        before = int(np.searchsorted(events, moment.packet, side="right"))
        good = before == 0
        if not good:
            event = int(events[before - 1])
            afresh = keys[(keys > event) & (keys <= moment.packet)]
            leads = packets[int(afresh[0])].pts if len(afresh) else None
            # Pictures shown before the key frame that follows may refer to what is lost.
            good = len(afresh) > 0 and (leads is None or moment.pts is None or moment.pts >= leads)
        if good and moment.pts is not None:
            good = last is None or moment.pts > last
            last = moment.pts if good else last
        if good:
            kept.append(place)
    return kept


def pick(
    container: InputContainer, stream: VideoStream, places: Int64Array
) -> Generator[VideoFrame, None, None]:
    """Yield the frames at some places of what `forgiving_frames` gives."""
    wanted = iter(places.tolist())
    due = next(wanted, None)
    for place, frame in enumerate(forgiving_frames(container, stream)):
        if due is None:
            return
        if place == due:
            yield frame
            due = next(wanted, None)
