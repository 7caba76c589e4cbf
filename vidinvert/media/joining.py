"""Write a clip in segments that are kept, so that a long render goes on where it was broken off.

Every segment is encoded by an encoder of its own, so it begins with a picture that needs no other,
and is whole on the disc before the next one begins. At the end the packets of all segments are
joined without touching them, and the sound is copied. Where a run was broken off leaves no trace:
the segments, and so the packets, are the same.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vidinvert.errors import EncodeError
from vidinvert.media.containers import (
    main_video_stream,
    open_input,
    pixel_bound,
    shown,
    video_packets,
)
from vidinvert.media.credentials import ManifestSigner
from vidinvert.media.encode import VideoWriter
from vidinvert.media.targets import encode_errors
from vidinvert.types import EncodeSettings, FrameBatch, Int64Array, VideoInfo

SEGMENT_FRAMES = 120
"""Frames of a segment: what a broken run loses at most, against a key picture every few seconds."""


class SegmentedWriter(VideoWriter):
    """A `VideoWriter` that finds in a directory what an earlier run has written.

    Write the frames from `due` on. Leaving it normally joins the segments to the output; an
    exception keeps the segments that are whole. The directory must belong to this clip, span and
    settings alone; its segments are the caller's to remove.

    Args:
        target: as for `VideoWriter`, like `like` to `comment`.
        like: see there.
        settings: see there.
        directory: where the segments lie; made if it is not there.
        overwrite: see there.
        start: see there.
        stop: see there.
        comment: see there.
        signer: see there; it signs the output, not its segments.
        segment_frames: frames of a segment, the last one has fewer.

    Raises:
        EncodeError: see there; or the segments that were found do not fit each other.
        ValueError: the span is not one of this clip's, or a segment would be empty.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        like: VideoInfo,
        settings: EncodeSettings,
        directory: Path,
        overwrite: bool = False,
        start: int = 0,
        stop: int | None = None,
        comment: str | None = None,
        signer: ManifestSigner | None = None,
        segment_frames: int = SEGMENT_FRAMES,
    ) -> None:
        if segment_frames < 1:
            raise ValueError(f"segment_frames is {segment_frames}, expected 1 or more")
        self._directory = directory
        self._joining = False
        self._settings = replace(settings, mark=False)
        super().__init__(
            target,
            like=like,
            settings=settings,
            overwrite=overwrite,
            start=start,
            stop=stop,
            comment=comment,
            signer=signer,
        )
        behind = range(start + segment_frames, self._stop, segment_frames)
        self._borders = [start, *behind, self._stop]
        self._part: VideoWriter | None = None
        while self.due < self._stop and self._segment(self.due).is_file():
            self.due = self._behind(self.due)

    def _behind(self, first: int) -> int:
        return next(border for border in self._borders if border > first)

    def _segment(self, first: int) -> Path:
        """Return the file of the segment that begins with frame `first`."""
        name = f"{first:08d}-{self._behind(first):08d}{self._file.target.suffix.lower()}"
        return self._directory / name

    def __enter__(self) -> Self:
        with encode_errors(self._directory):
            self._directory.mkdir(exist_ok=True)
            for rest in self._directory.glob(".vidinvert-*.partial"):
                rest.unlink()  # of a run that was killed
        return self

    def write(self, batch: FrameBatch) -> None:
        """Encode the next frames; see `VideoWriter.write`."""
        first, behind = int(batch.indices[0]), int(batch.indices[-1]) + 1
        if first != self.due or behind > self._stop:
            raise ValueError(
                f"frames {first} to {behind - 1} were given, expected consecutive ones from "
                f"{self.due} to at most {self._stop - 1}"
            )
        while first < behind:
            part = self._part or self._begin_part()
            stop = min(behind, self._behind(self.due))
            count = stop - first
            part.write(batch.part(0, count))
            batch = batch.part(count)
            first = self.due = stop
            if stop in self._borders:
                self._part = None
                part.__exit__(None, None, None)

    def _begin_part(self) -> VideoWriter:
        part = VideoWriter(
            self._segment(self.due),
            like=self._like,
            settings=self._settings,
            overwrite=True,
            start=self.due,
            stop=self._behind(self.due),
            pictures_only=True,
        )
        self._part = part.__enter__()
        return self._part

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        part, self._part = self._part, None
        if part is not None:
            missing = error or EncodeError("the segment is not complete")
            part.__exit__(type(missing), missing, traceback)
        if error is not None:
            return
        if self.due == self._stop:
            self._joining = True
            super().__enter__()
        super().__exit__(None, None, None)  # which refuses when frames are missing

    def _add_pictures(self, output: OutputContainer) -> VideoStream:
        if not self._joining:  # the rehearsal
            return super()._add_pictures(output)
        with open_input(self._segment(self._start)) as container:
            bound = pixel_bound(self._like)
            part = main_video_stream(container, self._segment(self._start), max_pixels=bound)
            # The decoder's own context: not every decoder's name is one of an encoder.
            stream = output.add_stream_from_template(part, opaque=True)
        stream.time_base = self._like.time_base
        stream.codec_context.framerate = self._like.frame_rate
        if self._encoding.tag is not None:
            stream.codec_context.codec_tag = self._encoding.tag
        if self._like.rotation_deg:
            stream.set_display_rotation(self._like.rotation_deg)
        return stream

    def _flush(self) -> None:
        """Mux the packets of all segments, in place of what an encoder holds."""
        delay = max(int(np.max(np.arange(len(r)) - r)) for r in map(self._ranks, self._firsts()))
        times = self._like.pts[self._start : self._stop] - self._shift  # (T,) ticks
        step = max(1, int(self._durations[self._start]))
        lead = int(times[0]) - step * np.arange(delay, 0, -1, dtype=np.int64)
        decoded = np.concatenate([lead, times])  # a picture is decoded `delay` pictures early
        extradata: bytes | None = None
        for first in self._firsts():
            ranks = self._ranks(first) + (first - self._start)
            for number, (packet, header) in enumerate(self._packets(first)):
                if extradata is not None and header != extradata:
                    raise EncodeError(
                        f"{shown(self._segment(first))} was written by another encoder than the "
                        "segments before it, expected the same; remove its directory and run again"
                    )
                extradata = header
                packet.time_base = self._like.time_base
                packet.pts = int(times[ranks[number]])
                packet.dts = int(decoded[first - self._start + number])
                packet.stream = self._video
                self._mux(packet)

    def _firsts(self) -> list[int]:
        return self._borders[:-1]

    def _ranks(self, first: int) -> Int64Array:
        """Return (N,) the place in order of presentation of each packet of a segment."""
        times = [packet.pts or 0 for packet, _ in self._packets(first)]
        expected = self._behind(first) - first
        if len(times) != expected:
            raise EncodeError(
                f"{shown(self._segment(first))} holds {len(times)} pictures, expected {expected}; "
                "remove its directory and run again"
            )
        ranks = np.empty(len(times), np.int64)
        ranks[np.argsort(times, kind="stable")] = np.arange(len(times))
        return ranks

    def _packets(self, first: int) -> Iterator[tuple[Packet, bytes]]:
        """Yield a segment's packets in order of decoding, each with its stream's header."""
        path, bound = self._segment(first), pixel_bound(self._like)
        with open_input(path, max_pixels=bound) as container:
            stream = main_video_stream(container, path, max_pixels=bound)
            header = bytes(stream.codec_context.extradata or b"")
            for packet in video_packets(container, stream, path):
                yield packet, header
