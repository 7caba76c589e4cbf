"""Encode frames into a clip like another one: same times, shape, colour and sound.

The pictures are encoded anew; everything else is copied. Sizes are kept exactly: an odd width or
height is stored with full colour resolution (4:4:4). The default speed is x264's `fast` and x265's
`veryfast`, which stay ahead of the networks on two cores.
"""

import os
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import av
import av.error
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidinvert.errors import EncodeError
from vidinvert.media.codecs import Encoding, choose_encoding, describe_loss
from vidinvert.media.containers import main_video_stream, open_input, pixel_bound, shown
from vidinvert.media.credentials import LOST_MANIFEST, ManifestSigner, carries_manifest
from vidinvert.media.fields import FieldMarker, field_options
from vidinvert.media.planes import (
    FULL_RANGE,
    UNSPECIFIED,
    change_planes,
    holds_planes_of,
    to_planes,
)
from vidinvert.media.streams import (
    PacketCopier,
    add_copies,
    add_copy,
    kept_metadata,
    marked_metadata,
)
from vidinvert.media.targets import PendingFile, encode_errors
from vidinvert.types import EncodeSettings, FrameBatch, VideoInfo


class VideoWriter:
    """Write the frames [start, stop) of a clip, in order, with the clip's own sound.

    A context manager. Leaving it normally flushes, brings the file to the disc and gives it its
    name; an exception removes everything. The constructor does a rehearsal without writing, so a
    codec, a sound track or a place that does not work is refused before the frames are made.

    Args:
        target: the output; its suffix chooses the container.
        like: the clip whose times, rotation, aspect, colour tags, metadata and sound are taken.
        settings: how to encode; `mark` decides whether `comment` is written.
        overwrite: replace an existing file.
        start: index of the first frame that will be written.
        stop: index behind the last, None = the end of the clip. A span that does not begin with the
            clip begins at time 0; sound packets that start within it are kept.
        comment: the text of the mark.
        signer: signs the file before it gets its name, None = nobody.
        pictures_only: leave out sound, subtitles, descriptions and the rehearsal: for a part of a
            `SegmentedWriter`.

    Attributes:
        due: index of the frame that is to be written next.
        left_out: what the output does not hold: data streams, some subtitles, transparency, bits.

    Raises:
        EncodeError: the output cannot be written, or frames were missing at the end.
        PlanError: the output's container cannot be signed.
        ValueError: the span is not one of this clip's.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        like: VideoInfo,
        settings: EncodeSettings,
        overwrite: bool = False,
        start: int = 0,
        stop: int | None = None,
        comment: str | None = None,
        signer: ManifestSigner | None = None,
        pictures_only: bool = False,
    ) -> None:
        self._stop = like.frame_count if stop is None else stop
        if not 0 <= start < self._stop <= like.frame_count:
            raise ValueError(
                f"frames [{start}, {self._stop}) are to be written, expected a span within "
                f"[0, {like.frame_count})"
            )
        self._like = like
        self._start = start
        self._comment = comment if settings.mark else None
        self._file = PendingFile(target, source=like.path, overwrite=overwrite)
        self._signer = signer
        if signer is not None:
            signer.check(self._file.target, muxer=self._file.format)
        self._encoding = choose_encoding(
            like, settings, target=self._file.target, muxer=self._file.format
        )
        self._shift = int(like.pts[start]) if start > 0 else 0  # ticks
        self._durations = _ticks_shown(like)
        self.due = start
        self._muxed = 0
        self._open = ExitStack()
        self._pictures_only = pictures_only
        self._fields: FieldMarker | None = None
        self.left_out = () if pictures_only else self._rehearse()

    def _opened(self) -> InputContainer:
        return open_input(self._like.path, max_pixels=pixel_bound(self._like))

    def _rehearse(self) -> tuple[str, ...]:
        """Set up the whole output on the null device, up to its header."""
        with self._opened() as source, encode_errors(self._file.target):
            output = av.open(f"file:{os.devnull}", "w", format=self._file.format)
            _, _, left_out = self._set_up(source, output)
            try:
                output.start_encoding()
            except (av.error.FFmpegError, ValueError) as error:
                encoding = self._encoding
                asked = " ".join(f"{key}={value}" for key, value in encoding.options.items())
                raise EncodeError(
                    f"{encoding.encoder} does not start with {asked} in {encoding.pixel_format} "
                    f"({getattr(error, 'strerror', None) or error}), expected settings that it "
                    "takes; change --crf, --preset or --pixel-format, or choose another codec"
                ) from error
            lost = describe_loss(self._like, self._encoding)
            if self._signer is None and carries_manifest(self._like):
                lost = (*lost, LOST_MANIFEST)
            return (*left_out, *lost)

    def _set_up(
        self, source: InputContainer, output: OutputContainer
    ) -> tuple[VideoStream, dict[int, Stream], tuple[str, ...]]:
        video = self._add_pictures(output)
        if self._pictures_only:
            return video, {}, ()
        original = main_video_stream(source, self._like.path, max_pixels=pixel_bound(self._like))
        video.metadata.update(kept_metadata(original.metadata))
        video.disposition = original.disposition
        output.metadata.update(marked_metadata(source.metadata, self._comment))
        copies, left_out = add_copies(source, output, self._file.target)
        if self._start == 0 and self._stop == self._like.frame_count:
            output.set_chapters(source.chapters())
        return video, copies, left_out

    def _add_pictures(self, output: OutputContainer) -> VideoStream:
        """Add the stream for the pictures; what is set here must be set before the header."""
        return _add_video(output, self._like, self._encoding)

    def __enter__(self) -> Self:
        self._file.create()
        try:
            with encode_errors(self._file.target):
                self._source = self._open.enter_context(self._opened())
                self._output = av.open(f"file:{self._file.path}", "w", format=self._file.format)
                self._video, copies, _ = self._set_up(self._source, self._output)
                self._copier = self._make_copier(copies)
        except BaseException:
            self._abandon()
            raise
        return self

    def _make_copier(self, copies: dict[int, Stream]) -> PacketCopier:
        """Cut the sound to the span: where frame `start` begins to where the last one ends."""
        base, last = self._like.time_base, self._stop - 1
        ends = (int(self._like.pts[last]) + int(self._durations[last])) * base
        return PacketCopier(
            self._source,
            self._output,
            copies,
            begin=self._shift * base if self._start > 0 else None,
            end=ends if self._stop < self._like.frame_count else None,
            shift=self._shift * base,
            forgiving=self._like.salvage is not None,
        )

    def write(self, batch: FrameBatch) -> None:
        """Encode the next frames.

        Raises:
            EncodeError: the disc or the encoder fails.
            ValueError: the frames are not the next ones, or not of the clip's size.
        """
        expected = np.arange(self.due, self.due + len(batch.indices))
        if not np.array_equal(batch.indices, expected) or self.due + len(expected) > self._stop:
            raise ValueError(
                f"frames {batch.indices.tolist()} were given, expected consecutive ones from "
                f"{self.due} to at most {self._stop - 1}"
            )
        if batch.frames.shape[1:3] != tuple(self._like.size_hw):
            raise ValueError(
                f"frames of {batch.frames.shape[1:3]} were given, expected {self._like.size_hw}"
            )
        with encode_errors(self._file.target):
            for place in range(len(batch.indices)):
                self._encode(self._stored(batch, place))
                self.due += 1

    def _stored(self, batch: FrameBatch, place: int) -> VideoFrame:
        """Turn an upright picture back to how it is stored, and give it its time.

        A frame that brings its planes keeps them wherever nothing was painted.
        """
        turn = self._like.rotation_deg // 90
        own, wanted = batch.stored[place : place + 1], self._encoding.pixel_format
        if own and holds_planes_of(own[0].pixel_format, wanted):
            picture = change_planes(
                own[0],
                batch.canvas[place],
                turn=turn,
                pixel_format=wanted,
                color=self._like.color,
                full_range=self._encoding.full_range,
            )
        else:
            picture = to_planes(
                np.rot90(batch.frames[place], k=-turn),
                pixel_format=wanted,
                color=self._like.color,
                full_range=self._encoding.full_range,
            )
        picture.pts = int(self._like.pts[self.due]) - self._shift
        picture.time_base = self._like.time_base
        if not field_options(self._encoding.encoder, self._like.field_order):
            return picture
        if self._fields is None:
            self._fields = FieldMarker(
                self._like.field_order, template=picture, time_base=self._like.time_base
            )
        return self._fields.mark(picture)

    def _encode(self, picture: VideoFrame | None) -> None:
        for packet in self._video.encode(picture):
            self._mux(packet)

    def _mux(self, packet: Packet) -> None:
        """Write a packet whose times are in the clip's ticks, and the sound up to it."""
        pts = (packet.pts or 0) + self._shift
        place = int(np.searchsorted(self._like.pts, pts))
        packet.duration = int(self._durations[place])
        before = packet.pts if packet.dts is None else packet.dts
        self._copier.copy_until((before or 0) * self._like.time_base)
        self._output.mux(packet)
        self._muxed += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._abandon()
            return
        try:
            self._finish()
        except BaseException:
            self._abandon()
            raise
        self._open.close()

    def _finish(self) -> None:
        if self.due != self._stop:
            raise EncodeError(
                f"{shown(self._file.target)} got frames up to {self.due - 1}, expected all up to "
                f"{self._stop - 1}; run again, and report it if it happens twice"
            )
        with encode_errors(self._file.target):
            self._flush()
            self._copier.copy_until(None)
            self._output.close()
        written = self._stop - self._start
        if self._muxed != written:
            raise EncodeError(
                f"{self._encoding.encoder} gave {self._muxed} pictures for {written} frames, "
                "expected one each; choose another codec"
            )
        if self._signer is not None:
            self._file.rewrite(partial(self._signer.sign, muxer=self._file.format))
        self._file.commit()

    def _flush(self) -> None:
        """Mux what the encoder still holds."""
        self._encode(None)

    def _abandon(self) -> None:
        """Close what is open and remove the temporary file; nothing more can be said here."""
        self._open.close()
        try:
            output = getattr(self, "_output", None)
            if output is not None:
                output.close()
        except (av.error.FFmpegError, OSError, ValueError):
            pass  # the file is removed: that its end could not be written does not matter
        self._file.discard()


def _add_video(output: OutputContainer, like: VideoInfo, encoding: Encoding) -> VideoStream:
    """Add the stream for new pictures; all of this must be set before the header is written."""
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 writes pages to stderr unless told not to
    stream = cast(
        VideoStream,
        output.add_stream(encoding.encoder, rate=like.frame_rate, options=dict(encoding.options)),
    )
    context = stream.codec_context
    context.height, context.width = like.coded_size_hw
    context.pix_fmt = encoding.pixel_format
    context.time_base = stream.time_base = like.time_base
    if like.sample_aspect_ratio != 1:
        context.sample_aspect_ratio = like.sample_aspect_ratio
    rgb = like.color.matrix == 0
    context.colorspace = UNSPECIFIED if rgb else like.color.matrix
    context.color_primaries = like.color.primaries
    context.color_trc = like.color.transfer
    context.color_range = FULL_RANGE if encoding.full_range else (0 if rgb else like.color.range)
    if encoding.tag is not None:
        context.codec_tag = encoding.tag
    if like.rotation_deg:
        stream.set_display_rotation(like.rotation_deg)
    return stream


def _ticks_shown(like: VideoInfo) -> np.ndarray:
    """Return how long each frame is shown: until the next one, the last as long as it says."""
    steps = np.diff(like.pts)
    usual = round(1 / (like.frame_rate * like.time_base))
    last = int(like.durations[-1]) or usual
    return np.append(steps, max(1, last)).astype(np.int64)


def copy_clip(info: VideoInfo, target: str | Path, *, overwrite: bool = False) -> tuple[str, ...]:
    """Copy a clip's pictures, sound and subtitles to `target` unchanged, packet by packet.

    Returns:
        What the output does not hold.

    Raises:
        EncodeError: the output cannot be written, or its container does not hold the streams.
    """
    pending = PendingFile(target, source=info.path, overwrite=overwrite)
    pending.create()
    try:
        with (
            encode_errors(pending.target),
            open_input(info.path, max_pixels=pixel_bound(info)) as source,
        ):
            output = av.open(f"file:{pending.path}", "w", format=pending.format)
            try:
                left_out = _copy_streams(source, output, info, pending.target)
            finally:
                output.close()
        pending.commit()
        return (*left_out, LOST_MANIFEST) if carries_manifest(info) else left_out
    finally:
        pending.discard()


def _copy_streams(
    source: InputContainer, output: OutputContainer, info: VideoInfo, target: Path
) -> tuple[str, ...]:
    video = main_video_stream(source, info.path, max_pixels=pixel_bound(info))
    try:
        stream = add_copy(video, output)
    except ValueError as error:
        raise EncodeError(
            f"{shown(target.name)} cannot hold {info.codec} pictures, expected a container that "
            "takes them unchanged; choose an output that ends in .mkv"
        ) from error
    if info.rotation_deg and isinstance(stream, VideoStream):
        stream.set_display_rotation(info.rotation_deg)
    if info.codec == "hevc" and output.format.name in ("mp4", "mov"):
        stream.codec_context.codec_tag = "hvc1"
    copies, left_out = add_copies(source, output, target)
    copies[video.index] = stream
    output.metadata.update(kept_metadata(source.metadata))
    output.set_chapters(source.chapters())
    copier = PacketCopier(source, output, copies, begin=None, end=None, shift=Fraction(0))
    copier.copy_until(None)
    return left_out
