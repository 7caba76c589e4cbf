"""Find out what a clip is: its frames' times, its shape, colour and sound, and who decodes it.

Headers are not believed where the packets tell more: frame counts in MKV, TS and fragmented MP4 are
zero or wrong. `VideoInfo.pts` holds every frame that will be displayed.
"""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidinvert.errors import OpenError
from vidinvert.media.containers import (
    MAX_PIXELS,
    check_regular_file,
    decoded_frames,
    main_video_stream,
    open_input,
    picture_streams,
    shown,
)
from vidinvert.media.damage import Survey, survey
from vidinvert.media.decode import load_decord
from vidinvert.media.fields import field_order
from vidinvert.media.hdr import find_dynamic, read_static
from vidinvert.media.index import (
    PacketIndex,
    Timing,
    check_complete,
    check_decoded,
    index_packets,
    timing,
)
from vidinvert.media.segments import READ_AHEAD_BYTES, cut, min_frames
from vidinvert.types import AudioStream, ColorSpec, VideoInfo

_ORDINARY_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_ORDINARY_CODECS = ("h264", "hevc")
_ORDINARY_PIXEL_FORMATS = ("yuv420p", "yuvj420p")


def probe(path: str | Path, *, max_pixels: int = MAX_PIXELS, salvage: bool = False) -> VideoInfo:
    """Describe a clip without keeping a picture of it.

    An ordinary clip (one H.264 or H.265 stream of 8 bits, 4:2:0, in MP4, MOV or MKV, not trimmed by
    an edit list) is known from its packets in milliseconds; any other is decoded once.

    Args:
        path: a regular file. URLs, playlists, pipes and devices are refused.
        max_pixels: the largest frame that is accepted, in pixels.
        salvage: decode the clip to its end, and where it is damaged list the frames that are whole
            instead of refusing it.

    Raises:
        OpenError: it is not a video file, or its frames are too large.
        DecodeError: it is damaged, or breaks off.
    """
    source = check_regular_file(path)
    if salvage:
        found = survey(source, max_pixels=max_pixels)
        if found.salvage is not None:
            return _salvaged(source, found, max_pixels=max_pixels)
    with open_input(source, max_pixels=max_pixels) as container:
        stream = main_video_stream(container, source, max_pixels=max_pixels)
        index = index_packets(container, stream, source)
        check_complete(container, stream, index, source)
        unusual = _what_is_unusual(container, stream, index)
    with open_input(source, max_pixels=max_pixels) as container:
        stream = main_video_stream(container, source, max_pixels=max_pixels)
        frames = decoded_frames(container, stream, source)
        first = next(frames, None)
        if first is None:
            raise OpenError(
                f"{shown(source)} decodes to no frame, expected at least one; "
                "check the file by playing it"
            )
        if first.interlaced_frame:  # then a packet may hold half a frame
            unusual = unusual or "the frames are interlaced"
        codec = stream.codec_context.codec.canonical_name
        if unusual is None:
            times = timing(index, stream)
        else:
            times = timing(index, stream, first, frames)
            check_decoded(index, times, first, codec, source)
        frames.close()
        reader, reason = _choose_reader(unusual, index, first)
        return _describe(
            container, stream, source, first, times, reader=reader, reader_reason=reason
        )


def _salvaged(source: Path, found: Survey, *, max_pixels: int) -> VideoInfo:
    """Describe what is left of a damaged clip."""
    nothing = PacketIndex(pts=(), durations=(), discarded=0, fresh=())
    with open_input(source, max_pixels=max_pixels) as container:
        stream = main_video_stream(container, source, max_pixels=max_pixels)
        times = timing(nothing, stream, found.moments[0], found.moments[1:])
        info = _describe(
            container,
            stream,
            source,
            found.first,
            times,
            reader="pyav",
            reader_reason="PyAV reads, because the clip is damaged.",
        )
        return replace(info, salvage=found.salvage)


def _describe(
    container: InputContainer,
    stream: VideoStream,
    source: Path,
    first: VideoFrame,
    times: Timing,
    *,
    reader: Literal["decord", "pyav"],
    reader_reason: str,
) -> VideoInfo:
    return VideoInfo(
        path=source,
        size_hw=_turned((first.height, first.width), _rotation(first)),
        coded_size_hw=(first.height, first.width),
        time_base=times.time_base,
        frame_rate=times.frame_rate,
        pts=times.pts,
        durations=times.durations,
        rotation_deg=_rotation(first),
        color=_color(stream, first),
        sample_aspect_ratio=Fraction(stream.sample_aspect_ratio or 1),
        codec=stream.codec_context.codec.canonical_name,
        pixel_format=first.format.name,
        bit_depth=max(component.bits for component in first.format.components),
        container=container.format.name,
        audio=_audio(container),
        field_order=field_order(first, int(stream.codec_context.field_order)),
        hdr=read_static(first),
        unwritten=_unwritten(stream, first),
        reader=reader,
        reader_reason=reader_reason,
    )


def _what_is_unusual(
    container: InputContainer, stream: VideoStream, index: PacketIndex
) -> str | None:
    """Say why packets are not a safe list of the frames of this clip, None if they are."""
    context = stream.codec_context
    codec = context.codec.canonical_name
    if container.format.name not in _ORDINARY_CONTAINERS:
        return f"the container is {container.format.name}"
    if len(picture_streams(container)) > 1:
        return "there are several video streams"
    if codec not in _ORDINARY_CODECS:
        return f"the codec is {codec}"
    if context.pix_fmt not in _ORDINARY_PIXEL_FORMATS:
        return f"the pixel format is {context.pix_fmt}"
    if index.discarded:
        return f"an edit list hides {index.discarded} frames"
    if None in index.pts or len(set(index.pts)) != len(index.pts):
        return "packets have no times of their own"
    if not index.fresh or not index.fresh[0]:
        return "the stream does not begin with an IDR picture"
    counted = container.format.name != "matroska,webm"  # which stores no count
    if counted and stream.frames != len(index.pts):
        return f"the header counts {stream.frames} frames, the packets are {len(index.pts)}"
    return None


def _choose_reader(
    unusual: str | None, index: PacketIndex, first: VideoFrame
) -> tuple[Literal["decord", "pyav"], str]:
    if unusual is not None:
        return "pyav", f"PyAV reads, because {unusual}."
    if 3 * (first.width + -first.width % 32) >= 4 * first.width:
        # It divides the padded length of a row by the width to tell the number of colours.
        return "pyav", "PyAV reads, because decord mistakes frames this narrow."
    frame_bytes = 3 * first.width * first.height
    runs = cut(index.fresh, bool, at_least=min_frames(frame_bytes))
    longest = max(len(run) for run in runs)
    if longest * frame_bytes > READ_AHEAD_BYTES:
        return "pyav", (
            f"PyAV reads, because IDR pictures are up to {longest} frames apart: decord would hold "
            f"{longest * frame_bytes / 2**20:.0f} MiB of them, more than "
            f"{READ_AHEAD_BYTES / 2**20:.0f}."
        )
    if load_decord() is None:
        return "pyav", "PyAV reads, because decord is not installed or does not load."
    return "decord", "decord reads: the clip passed the preflight."


def _rotation(frame: VideoFrame) -> int:
    """Return the counter-clockwise turn for display, to the nearest quarter."""
    return round(frame.rotation / 90) % 4 * 90


def _turned(size_hw: tuple[int, int], rotation_deg: int) -> tuple[int, int]:
    return size_hw if rotation_deg % 180 == 0 else (size_hw[1], size_hw[0])


def _color(stream: VideoStream, first: VideoFrame) -> ColorSpec:
    """Take each tag from the decoded frame, or from the stream where the frame has none."""
    context = stream.codec_context
    unspecified = 2
    return ColorSpec(
        matrix=_first_tag(int(first.colorspace), int(context.colorspace), none=unspecified),
        range=_first_tag(int(first.color_range), int(context.color_range), none=0),
        primaries=_first_tag(
            int(first.color_primaries), int(context.color_primaries), none=unspecified
        ),
        transfer=_first_tag(int(first.color_trc), int(context.color_trc), none=unspecified),
    )


def _unwritten(stream: VideoStream, first: VideoFrame) -> tuple[str, ...]:
    hidden = stream.metadata.get("alpha_mode") == "1" and not _has_alpha(first)
    return (*find_dynamic(first), *(("transparency (of VP8 or VP9)",) if hidden else ()))


def _has_alpha(frame: VideoFrame) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def _first_tag(frame_tag: int, stream_tag: int, *, none: int) -> int:
    return stream_tag if frame_tag == none else frame_tag


def _audio(container: InputContainer) -> tuple[AudioStream, ...]:
    return tuple(
        AudioStream(
            index=stream.index,
            codec=stream.codec_context.codec.canonical_name if stream.codec_context else "unknown",
            sample_rate=stream.codec_context.sample_rate if stream.codec_context else 0,
            channels=stream.codec_context.channels if stream.codec_context else 0,
            language=stream.language if stream.language not in (None, "und") else None,
        )
        for stream in container.streams.audio
    )
