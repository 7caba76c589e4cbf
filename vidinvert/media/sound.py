"""Compare the sound of two clips packet by packet: is it the same, and at the same time."""

import hashlib
from dataclasses import dataclass
from fractions import Fraction

import av.error

from vidinvert.errors import DecodeError
from vidinvert.media.containers import open_input, shown
from vidinvert.types import VideoInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundComparison:
    """How a clip's sound relates to its source's.

    Attributes:
        tracks: sound tracks of the source and of the other clip.
        packets: packets of the source's tracks in the part that is compared.
        same_packets: how many of them are in the other clip, byte for byte.
        largest_shift_seconds: how far such a packet moved against the pictures, at most; None
            where no packet is the same.
    """

    tracks: tuple[int, int]
    packets: int
    same_packets: int
    largest_shift_seconds: float | None


def compare_sound(source: VideoInfo, other: VideoInfo, *, frames: range) -> SoundComparison:
    """Compare the sound of `other` with that of the source's `frames`, relative to the pictures.

    A packet's time counts from its clip's first picture (of `frames`, for the source), so sound
    that was copied in sync has a shift of 0.

    Raises:
        DecodeError: a file cannot be read as far as its sound.
    """
    begins = source.pts[frames.start] * source.time_base
    ends = None
    if frames.stop < source.frame_count:
        ends = source.pts[frames.stop] * source.time_base - begins
    ours, theirs = _packets(source, begins), _packets(other, other.pts[0] * other.time_base)
    total, same, shifts = 0, 0, [Fraction(0)]
    for track, packets in enumerate(ours):
        inside = [p for p in packets if p[1] >= 0 and (ends is None or p[1] < ends)]
        total += len(inside)
        found: dict[str, list[Fraction]] = {}
        for digest, at in theirs[track] if track < len(theirs) else ():
            found.setdefault(digest, []).append(at)
        for digest, at in inside:
            times = found.get(digest)
            if times:  # silence repeats itself: the nearest of equal packets is meant
                same += 1
                shifts.append(min(abs(t - at) for t in times))
    return SoundComparison(
        tracks=(len(ours), len(theirs)),
        packets=total,
        same_packets=same,
        largest_shift_seconds=float(max(shifts)) if same else None,
    )


def _packets(info: VideoInfo, zero: Fraction) -> list[list[tuple[str, Fraction]]]:
    """Return, per sound track, every packet's hash and its time after `zero`."""
    with open_input(info.path) as container:
        streams = list(container.streams.audio)
        place = {stream.index: number for number, stream in enumerate(streams)}
        packets: list[list[tuple[str, Fraction]]] = [[] for _ in streams]
        if not streams:
            return packets
        try:
            for packet in container.demux(*streams):
                if packet.pts is None or packet.time_base is None:
                    continue
                digest = hashlib.sha256(bytes(packet)).hexdigest()
                at = packet.pts * Fraction(packet.time_base) - zero
                packets[place[packet.stream.index]].append((digest, at))
        except av.error.FFmpegError as error:
            raise DecodeError(
                f"The sound of {shown(info.path)} is damaged ({error}), expected an intact file."
            ) from error
    return packets
