"""What HDR clips carry beside their pictures: how bright the mastering screen and the clip were."""

import struct
from fractions import Fraction
from typing import Any

from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame

from vidinvert.types import HdrStatic

PQ, HLG = 16, 18
"""FFmpeg's numbers of the transfer curves of SMPTE ST 2084 and ARIB STD-B67."""

_DYNAMIC = {
    "DYNAMIC_HDR_PLUS": "HDR10+ data of every picture",
    "DOVI_METADATA": "Dolby Vision data of every picture",
    "DOVI_RPU_BUFFER": "Dolby Vision data of every picture",
    "DYNAMIC_HDR_VIVID": "HDR Vivid data of every picture",
}


def read_static(frame: VideoFrame) -> HdrStatic | None:
    """Read the mastering display and light level of a frame; None where it has neither."""
    display: str | None = None
    light: str | None = None
    for side in _side_data(frame):
        if side.type == Type.MASTERING_DISPLAY_METADATA:
            display = _display(bytes(side))
        elif side.type == Type.CONTENT_LIGHT_LEVEL:
            largest, average = struct.unpack_from("=II", bytes(side))
            light = f"{largest},{average}"
    if display is None and light is None:
        return None
    return HdrStatic(mastering_display=display, light_level=light)


def _side_data(frame: VideoFrame) -> list[SideData]:
    held: Any = frame.side_data  # a sequence, which its type stubs do not say
    return [held[place] for place in range(len(held))]


def _display(content: bytes) -> str | None:
    """Word AVMasteringDisplayMetadata as x265 does: chromaticity in 1/50000, light in 1/10000."""
    numbers = struct.unpack_from("=20i2i", content)
    if not (numbers[20] and numbers[21]) or 0 in numbers[1:20:2]:
        return None
    values = [Fraction(numbers[k], numbers[k + 1]) for k in range(0, 20, 2)]
    red, green, blue, white = (
        ",".join(str(round(v * 50000)) for v in values[k : k + 2]) for k in (0, 2, 4, 6)
    )
    darkest, brightest = (round(v * 10000) for v in values[8:10])
    return f"G({green})B({blue})R({red})WP({white})L({brightest},{darkest})"


def find_dynamic(frame: VideoFrame) -> tuple[str, ...]:
    """Name what a frame carries that describes it alone, and that no encoder here writes again."""
    names = (_DYNAMIC.get(side.type.name) for side in _side_data(frame))
    return tuple(dict.fromkeys(name for name in names if name is not None))
