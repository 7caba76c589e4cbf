"""Write grey pictures losslessly as a video with the times of a clip: masks for other tools."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidinvert.media.targets import PendingFile, encode_errors
from vidinvert.types import UInt8Array, VideoInfo

GREY_SUFFIX = ".mkv"


class GreyWriter:
    """Write one grey picture per frame of a clip as FFV1 in Matroska; a context manager.

    Leaving it normally gives the file its name; an exception removes everything.

    Args:
        target: ends in .mkv.
        like: the clip whose size and times are taken.
        overwrite: replace an existing file.
        start: index of the clip's frame that the first picture belongs to; it is shown at time 0.

    Raises:
        EncodeError: the file cannot be created there.
    """

    def __init__(
        self, target: Path, *, like: VideoInfo, overwrite: bool = False, start: int = 0
    ) -> None:
        self._file = PendingFile(
            target, source=like.path, overwrite=overwrite, suffixes=(GREY_SUFFIX,)
        )
        self._like, self._start, self._due = like, start, start

    def __enter__(self) -> Self:
        self._file.create()
        try:
            self._open()
        except BaseException:
            self._file.discard()
            raise
        return self

    def _open(self) -> None:
        with encode_errors(self._file.target):
            self._output = av.open(f"file:{self._file.path}", "w", format="matroska")
            rate = self._like.frame_rate
            self._stream = cast(VideoStream, self._output.add_stream("ffv1", rate=rate))
            self._stream.height, self._stream.width = self._like.size_hw
            self._stream.pix_fmt = "gray"
            self._stream.codec_context.time_base = Fraction(1, 1000)

    def write(self, picture: UInt8Array) -> None:
        """Write the next picture (H, W).

        Raises:
            EncodeError: the disc or the encoder fails.
        """
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray")
        ticks = int(self._like.pts[self._due] - self._like.pts[self._start])
        frame.pts = round(1000 * ticks * self._like.time_base)  # Matroska counts milliseconds
        frame.time_base = Fraction(1, 1000)
        self._due += 1
        with encode_errors(self._file.target):
            self._output.mux(self._stream.encode(frame))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with encode_errors(self._file.target):
                if error is None:
                    self._output.mux(self._stream.encode(None))
                self._output.close()
            if error is None:
                self._file.commit()
        finally:
            self._file.discard()
