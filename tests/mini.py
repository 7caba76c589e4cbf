"""The shipped sample and pack, for tests of the whole."""

from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np

import vidinvert
from tests.shared_data import REPOSITORY

SAMPLE = REPOSITORY / "samples" / "talk.mp4"
SHORT = vidinvert.Span(start_seconds=0.0, end_seconds=0.4)  # ten frames


@cache
def mini():
    """The shipped pack, loaded once for all tests."""
    return vidinvert.load_pack("mini")


def read_clip(path: Path) -> tuple[np.ndarray, list[Fraction]]:
    """All frames (T, H, W, 3) as decoded by PyAV, and their times in seconds."""
    frames, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="rgb24"))
            times.append(frame.pts * frame.time_base)
    return np.stack(frames), times


def audio_packets(path: Path) -> list[bytes]:
    """The content of every audio packet, in order."""
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(audio=0) if p.size]


def blank_clip(path: Path, *, frames: int = 4) -> None:
    """Write a small clip of flat grey pictures: nobody is in it."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for index in range(frames):
            picture = np.full((96, 128, 3), (90 + index) % 256, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())
