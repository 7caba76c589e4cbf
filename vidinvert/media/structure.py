"""Walk a container's own boxes, to tell a file that was cut off or overwritten.

Demuxers skip what they cannot read and go on with the next piece that looks right: frames vanish
without a word. A box that does not end where the next one begins shows it.
"""

import os
import re
from pathlib import Path
from typing import BinaryIO

_BOX_TYPE = re.compile(rb"[ -~\xa9]{4}")
_PACKET_SIZES = (188, 192, 204)  # bytes: plain, with a time code (Blu-ray), with error correction

_SEGMENT = 0x18538067
_CLUSTER = 0x1F43B675
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


def find_break(path: Path, container: str) -> str | None:
    """Say where the structure of a file breaks, None if it holds or is of an unchecked kind.

    Args:
        path: the file.
        container: its demuxer's name.
    """
    size = os.path.getsize(path)
    if container == "mpegts":
        whole = any(size % packet == 0 for packet in _PACKET_SIZES)
        return None if whole else "its end, which is not the end of a packet"
    with path.open("rb") as file:
        if container.startswith("mov,"):
            return _boxes_break(file, size)
        if container == "matroska,webm":
            return _matroska_break(file, size)
    return None


def _boxes_break(file: BinaryIO, size: int) -> str | None:
    """Follow the top-level boxes of an ISO base media file.

    What follows the media of a file without fragments is left alone: some cameras append data of
    their own, and the index says where each packet should be.
    """
    position = 0
    seen: set[bytes] = set()
    while position + 8 <= size and (b"mdat" not in seen or b"moof" in seen or b"moov" not in seen):
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:  # up to the end; also what pads some files
            return None
        if length < 8 or not _BOX_TYPE.fullmatch(header[4:8]):
            return f"byte {position}, where a box should begin"
        if position + length > size:
            return f"its end, {position + length - size} bytes short"
        seen.add(header[4:8])
        position += length
    return None


def _matroska_break(file: BinaryIO, size: int) -> str | None:
    """Follow the parts of a Matroska segment, and the blocks of its clusters."""
    position = 0
    while position < size:
        element = _element(file, position)
        if element is None:
            return f"byte {position}, where a part should begin"
        kind, begin, length = element
        if kind == _SEGMENT:
            if length is None:  # written by a live recorder
                return None
            if begin + length > size:
                return f"its end, {begin + length - size} bytes short"
            return _parts_break(file, begin, begin + length, _SEGMENT_PARTS)
        if length is None:
            return None
        position = begin + length
    return None


def _parts_break(file: BinaryIO, begin: int, end: int, known: frozenset[int]) -> str | None:
    position = begin
    while position < end:
        element = _element(file, position)
        if element is None or element[0] not in known:
            return f"byte {position}, where a part should begin"
        kind, inside, length = element
        if length is None:
            return None
        if inside + length > end:
            return f"byte {position}, a part that is longer than what holds it"
        if kind == _CLUSTER and known is _SEGMENT_PARTS:
            broken = _parts_break(file, inside, inside + length, _CLUSTER_PARTS)
            if broken is not None:
                return broken
        position = inside + length
    return None


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
