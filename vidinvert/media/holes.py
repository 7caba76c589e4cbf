"""Find packets of H.264 and H.265 that were overwritten with zeros.

A download that lacks a block, or a disc with a bad one, leaves zeros. A decoder may read such a
slice to its end without a word and show smear. But no slice holds three zeros in a row: both
standards put a 3 after two (emulation prevention, 7.4.1 of H.264 and 7.4.2 of H.265).
"""

from collections.abc import Callable

from av.packet import Packet
from av.video.stream import VideoStream

HOLE = bytes(8)  # zeros in a row; some encoders are careless about three
H264_SLICES = frozenset({1, 2, 5})
HEVC_SLICES = frozenset(range(32))

Test = Callable[[Packet], bool]


def hole_test(stream: VideoStream) -> Test | None:
    """Return the test for a packet with a hole, None where it cannot be told.

    The packets must hold units with a length in front, as in MP4, MOV and Matroska: elsewhere
    zeros may stand between units.
    """
    extradata = stream.codec_context.extradata
    codec = stream.codec_context.name
    if codec == "h264" and extradata and len(extradata) > 4 and extradata[0] == 1:
        return _test((extradata[4] & 3) + 1, lambda header: header & 0x1F in H264_SLICES)
    if codec == "hevc" and extradata and len(extradata) > 21 and extradata[0] == 1:
        return _test((extradata[21] & 3) + 1, lambda header: (header >> 1) & 0x3F in HEVC_SLICES)
    return None


def _test(length_bytes: int, is_slice: Callable[[int], bool]) -> Test:
    def test(packet: Packet) -> bool:
        data = bytes(packet)
        if HOLE not in data:  # nearly always
            return False
        place, size = 0, len(data)
        while place + length_bytes < size:
            begin = place + length_bytes
            length = int.from_bytes(data[place:begin], "big")
            if length == 0:  # padding behind the last unit, or a hole over a unit's beginning
                return place == 0 or any(data[begin:])
            unit = data[begin : begin + length]
            if is_slice(unit[0]) and HOLE in unit.rstrip(b"\0"):
                return True
            place = begin + length
        return False

    return test
