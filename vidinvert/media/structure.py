"""Walk a container's own boxes, to tell a file that was cut off or overwritten.

Demuxers skip what they cannot read and go on with the next piece that looks right: frames vanish
without a word. A box that does not end where the next one begins shows it.
"""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

_BOX_TYPE = re.compile(rb"[ -~\xa9]{4}")
_PACKET_SIZES = (188, 192, 204)  # bytes: plain, with a time code (Blu-ray), with error correction

_PACKETS_AT_ONCE = 1 << 18

_SEGMENT = 0x18538067
_CLUSTER = 0x1F43B675
_TRACKS, _TRACK_ENTRY, _TRACK_NUMBER = 0x1654AE6B, 0xAE, 0xD7
_SIMPLE_BLOCK = 0xA3
_NUMBERS = frozenset({0xE7, 0xA7, 0xAB})  # Timestamp, Position, PrevSize
# SeekHead, Info, Tracks, Cluster, Cues, Attachments, Chapters, Tags, Void, CRC-32
_SEGMENT_PARTS = frozenset(
    {
        0x114D9B74,
        0x1549A966,
        0x1654AE6B,
        _CLUSTER,
        0x1C53BB6B,
        0x1941A469,
        0x1043A770,
        0x1254C367,
        0xEC,
        0xBF,
    }
)
# Timestamp, SilentTracks, Position, PrevSize, SimpleBlock, BlockGroup, Void, CRC-32
_CLUSTER_PARTS = frozenset({0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xEC, 0xBF})


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Where a file's structure breaks: in words, and the first byte that is in doubt."""

    where: str
    position: int


def find_break(path: Path, container: str) -> Break | None:
    """Say where the structure of a file breaks, None if it holds or is of an unchecked kind.

    Args:
        path: the file.
        container: its demuxer's name.
    """
    size = os.path.getsize(path)
    if container == "mpegts":
        return _transport_break(path, size)
    with path.open("rb") as file:
        if container.startswith("mov,"):
            return _boxes_break(file, size)
        if container == "matroska,webm":
            return _matroska_break(file, size)
        if container == "flv":
            return _flash_break(file, size)
        if container == "avi":
            return _avi_break(file, size)
    return None


def _transport_break(path: Path, size: int) -> Break | None:
    """Check that every packet of a transport stream begins as one, and follows the one before.

    Each stream (PID) counts its packets with content from 0 to 15; one may be sent twice.
    """
    length = next((n for n in _PACKET_SIZES if size % n == 0), None)
    if length is None:
        return Break(where="its end, which is not the end of a packet", position=size)
    data = np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, length)
    ahead = 4 if length == 192 else 0  # a time code
    last: dict[int, int] = {}
    for begin in range(0, len(data), _PACKETS_AT_ONCE):
        heads = np.asarray(data[begin : begin + _PACKETS_AT_ONCE, ahead : ahead + 6])  # (N, 6)
        lost = np.flatnonzero(heads[:, 0] != 0x47)
        if len(lost):
            position = (begin + int(lost[0])) * length
            return Break(where=f"byte {position}, where a packet should begin", position=position)
        kinds = (heads[:, 1].astype(np.int32) & 0x1F) << 8 | heads[:, 2]
        for kind in np.unique(kinds).tolist():
            places = np.flatnonzero((kinds == kind) & (heads[:, 3] & 0x10 != 0))
            if kind == 0x1FFF or len(places) == 0:  # stuffing, or nothing but clocks
                continue
            counts = heads[places, 3].astype(np.int64) & 0x0F
            steps = np.diff(counts, prepend=last.get(kind, int(counts[0]) - 1)) % 16
            extended = (heads[places, 3] & 0x20 != 0) & (heads[places, 4] > 0)
            told = extended & (heads[places, 5] & 0x80 != 0)  # that the count jumps
            wrong = np.flatnonzero((steps > 1) & ~told)
            if len(wrong):
                position = (begin + int(places[wrong[0]])) * length
                where = f"byte {position}, before which packets are missing"
                return Break(where=where, position=position)
            last[kind] = int(counts[-1])
    return None


def _boxes_break(file: BinaryIO, size: int) -> Break | None:
    """Follow the top-level boxes of an ISO base media file.

    What follows the media of a file without fragments is left alone: some cameras append data of
    their own, and the index says where each packet should be.
    """
    position, fragment = 0, None
    seen: set[bytes] = set()
    while position + 8 <= size and (b"mdat" not in seen or b"moof" in seen or b"moov" not in seen):
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0 and not (b"moof" in seen and _more_follows(file, position)):
            return None  # up to the end; also what pads some files
        if length < 8 or not _BOX_TYPE.fullmatch(header[4:8]):
            return Break(where=f"byte {position}, where a box should begin", position=position)
        if position + length > size:
            return Break(where=f"its end, {position + length - size} bytes short", position=size)
        seen.add(header[4:8])
        if header[4:8] == b"moof":
            number = _fragment_number(file, position, position + length)
            if number is None or (fragment is not None and number != fragment + 1):
                where = f"byte {position}, where fragment {(fragment or 0) + 1} should begin"
                return Break(where=where, position=position)
            fragment = number
        position += length
    return None


def _more_follows(file: BinaryIO, position: int) -> bool:
    """Say whether anything but zeros follows."""
    file.seek(position)
    return any(block.strip(b"\x00") for block in iter(lambda: file.read(1 << 20), b""))


def _fragment_number(file: BinaryIO, begin: int, end: int) -> int | None:
    """Return the number of a movie fragment, None if its boxes do not fill it."""
    number, position = None, begin + 8
    while position + 8 <= end:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length < 8 or position + length > end or not _BOX_TYPE.fullmatch(header[4:8]):
            return None
        if header[4:8] == b"mfhd":
            number = int.from_bytes(header[12:16], "big")
        position += length
    return number if position == end else None


def _flash_break(file: BinaryIO, size: int) -> Break | None:
    """Follow the tags of an FLV file, each of which repeats its length behind itself."""
    file.seek(5)
    position = int.from_bytes(file.read(4), "big") + 4
    while position + 11 <= size:
        file.seek(position)
        header = file.read(11)
        length = int.from_bytes(header[1:4], "big") + 11
        file.seek(position + length)
        behind = int.from_bytes(file.read(4), "big")
        if position + length + 4 > size:
            short = position + length + 4 - size
            return Break(where=f"its end, {short} bytes short", position=position)
        if header[0] & 0x1F not in (8, 9, 18) or behind not in (length, 0):
            return Break(where=f"byte {position}, where a tag should begin", position=position)
        position += length + 4
    return None if position == size else Break(where="its end", position=position)


def _avi_break(file: BinaryIO, size: int) -> Break | None:
    """Follow the chunks of an AVI file."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(12)
        length = int.from_bytes(header[4:8], "little")
        if not _BOX_TYPE.fullmatch(header[:4]):
            return Break(where=f"byte {position}, where a chunk should begin", position=position)
        if header[:4] in (b"RIFF", b"LIST") and position + 8 + length <= size:
            position += 12  # go into it
            continue
        if position + 8 + length > size:
            short = position + 8 + length - size
            return Break(where=f"its end, {short} bytes short", position=position)
        position += 8 + length + length % 2
    return None


def count_avi_pictures(path: Path) -> int:
    """Count the chunks of an AVI file that hold a picture of its first stream of pictures."""
    counts: dict[bytes, int] = {}
    size = os.path.getsize(path)
    with path.open("rb") as file:
        position = 0
        while position + 8 <= size:
            file.seek(position)
            header = file.read(8)
            length = int.from_bytes(header[4:8], "little")
            if header[:4] in (b"RIFF", b"LIST"):
                position += 12
                continue
            if header[2:4] in (b"dc", b"db") and length:
                counts[header[:4]] = counts.get(header[:4], 0) + 1
            position += 8 + length + length % 2
    return counts[min(counts)] if counts else 0


def _matroska_break(file: BinaryIO, size: int) -> Break | None:
    """Follow the parts of a Matroska segment, and the blocks of its clusters."""
    position = 0
    while position < size:
        element = _element(file, position)
        if element is None:
            return Break(where=f"byte {position}, where a part should begin", position=position)
        kind, begin, length = element
        if kind == _SEGMENT:
            if length is None:  # written by a live recorder
                return None
            if begin + length > size:
                return Break(where=f"its end, {begin + length - size} bytes short", position=size)
            return _parts_break(file, begin, begin + length, _SEGMENT_PARTS)
        if length is None:
            return None
        position = begin + length
    return None


def _parts_break(
    file: BinaryIO,
    begin: int,
    end: int,
    known: frozenset[int],
    *,
    among: Collection[int] = (),
) -> Break | None:
    position = begin
    tracks: set[int] = set()
    while position < end:
        element = _element(file, position)
        if element is None or element[0] not in known:
            return Break(where=f"byte {position}, where a part should begin", position=position)
        kind, inside, length = element
        if length is None:
            return None
        if inside + length > end:
            where = f"byte {position}, a part that is longer than what holds it"
            return Break(where=where, position=position)
        if kind == _TRACKS and known is _SEGMENT_PARTS:
            tracks = _track_numbers(file, inside, inside + length)
        if kind == _CLUSTER and known is _SEGMENT_PARTS:
            broken = _parts_break(file, inside, inside + length, _CLUSTER_PARTS, among=tracks)
            if broken is not None:
                return broken
        if kind in _NUMBERS and length > 8:
            where = f"byte {position}, a number of {length} bytes"
            return Break(where=where, position=position)
        if kind == _SIMPLE_BLOCK and among:
            file.seek(inside)
            number = file.read(1)[0]
            if number & 0x80 and number & 0x7F not in among:
                where = f"byte {position}, a block of track {number & 0x7F}, which is not there"
                return Break(where=where, position=position)
        position = inside + length
    return None


def _track_numbers(file: BinaryIO, begin: int, end: int) -> set[int]:
    """Return the numbers of the tracks that a Tracks element describes."""
    numbers: set[int] = set()
    position = begin
    while position < end:
        element = _element(file, position)
        if element is None:
            return set()
        kind, inside, length = element
        if length is None:
            return set()
        if kind == _TRACK_ENTRY:
            position = inside
            continue
        if kind == _TRACK_NUMBER:
            file.seek(inside)
            numbers.add(int.from_bytes(file.read(length), "big"))
        position = inside + length
    return numbers


def _element(file: BinaryIO, position: int) -> tuple[int, int, int | None] | None:
    """Read an EBML element's kind, where its content begins, and its length (None = unknown)."""
    file.seek(position)
    header = file.read(12)
    if not header or header[0] < 0x10:
        return None
    kind_bytes = 9 - header[0].bit_length()
    if len(header) <= kind_bytes or header[kind_bytes] == 0:
        return None
    length_bytes = 9 - header[kind_bytes].bit_length()
    field = header[kind_bytes : kind_bytes + length_bytes]
    length = int.from_bytes(field, "big") & ((1 << 7 * length_bytes) - 1)
    unknown = length == (1 << 7 * length_bytes) - 1
    return (
        int.from_bytes(header[:kind_bytes], "big"),
        position + kind_bytes + length_bytes,
        None if unknown else length,
    )
