"""Open a media file for reading without trusting it: no network, no devices, no bombs.

Everything in this room that reads goes through `open_input`. FFmpeg follows playlists, speaks a
dozen network protocols and blocks on a pipe; only a regular file in a known container is let in.
"""

import os
import re
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import av
import av.error
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidinvert.errors import DecodeError, OpenError
from vidinvert.media.holes import hole_test
from vidinvert.types import VideoInfo

MAX_PIXELS = 36_000_000
"""Pixels of the largest frame that is read: 8K UHD has 33 million."""

DEMUXERS = (
    "mov,matroska,webm,avi,mpegts,mpeg,gif,ogg,flv,h264,hevc,asf,mxf,ivf"  # no playlists, no images
)

if TYPE_CHECKING:
    VideoPacket: TypeAlias = Packet[VideoStream]
else:
    VideoPacket = Packet  # generic in PyAV's type stubs alone

LOOK_FURTHER = {"analyzeduration": str(3600 * 10**6), "probesize": str(64 << 20)}
"""An hour and 64 MiB: how far pictures are looked for that begin late."""

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.,-]+:")
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def shown(path: str | Path) -> str:
    """Spell a path for a message: a name that is not UTF-8 is still printable."""
    return str(path).encode("utf-8", "replace").decode("utf-8")


def check_regular_file(path: str | Path) -> Path:
    """Return the absolute path of a regular file.

    Raises:
        OpenError: it is missing, may not be read, is a URL, or is not a regular file.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if _URL.match(str(path)) and not Path(path).exists():
            raise OpenError(
                f"{shown(path)} is a URL, expected the path of a file; download it first"
            ) from None
        raise OpenError(f"{shown(path)} does not exist, expected a video; check the path") from None
    except (OSError, ValueError) as error:
        raise OpenError(
            f"{shown(path)} cannot be looked up ({error}), expected the path of a video; "
            "check the path and its permissions"
        ) from error
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise OpenError(
                f"{shown(path)} is {name}, expected a regular video file; name the file itself"
            )
    return Path(os.path.abspath(path))


def open_input(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, hwaccel: HWAccel | None = None
) -> InputContainer:
    """Open a regular file as a media container; the caller closes it (it is a context manager).

    `hwaccel`: what decodes in place of the CPU, see `hardware`.

    Raises:
        OpenError: `path` is not a file that one of the known demuxers reads.
    """
    source = check_regular_file(path)
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": DEMUXERS,
        "max_pixels": str(max_pixels),
    }
    try:
        container = _open(source, options, hwaccel)
        if not _begin_late(container):
            return container
        container.close()
        return _open(source, options | LOOK_FURTHER, hwaccel)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OpenError(
            f"{shown(source)} cannot be read as a video ({reason}), expected a container such as "
            "MP4, MOV, MKV or WebM; check the file by playing it"
        ) from error


def _open(source: Path, options: dict[str, str], hwaccel: HWAccel | None) -> InputContainer:
    return av.open(
        f"file:{source}", "r", options=options, metadata_errors="replace", hwaccel=hwaccel
    )


def _begin_late(container: InputContainer) -> bool:
    """Say whether pictures of a known size begin behind what FFmpeg has looked at: 5 seconds."""
    contexts = [stream.codec_context for stream in picture_streams(container)]
    return any(context.width and context.pix_fmt is None for context in contexts)


def pixel_bound(info: VideoInfo) -> int:
    """Return a bound for reopening a clip: FFmpeg counts its size rounded up to whole blocks."""
    height, width = info.coded_size_hw
    return 2 * (height + 128) * (width + 128)


def picture_streams(container: InputContainer) -> list[VideoStream]:
    """List the streams of moving pictures: cover art and thumbnails are left out."""
    still = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    return [
        stream
        for stream in container.streams.video
        if not stream.disposition & still and stream.codec_context is not None
    ]


def main_video_stream(container: InputContainer, path: Path, *, max_pixels: int) -> VideoStream:
    """Return the stream that FFmpeg holds for the best one, ready to decode.

    Raises:
        OpenError: there is none, or its frames are larger than `max_pixels`.
    """
    streams = picture_streams(container)
    if not streams:
        seen = "only a still cover picture" if container.streams.video else "no video stream"
        raise OpenError(f"{shown(path)} has {seen}, expected moving pictures; choose another file")
    best = container.streams.best("video")
    stream = next((s for s in streams if best is not None and s.index == best.index), streams[0])
    context = stream.codec_context
    pixels = context.width * context.height
    if pixels > max_pixels:
        raise OpenError(
            f"{shown(path)} has frames of {context.width}x{context.height}, expected at most "
            f"{max_pixels} pixels; scale the clip down first"
        )
    if pixels == 0 or context.pix_fmt is None:
        raise OpenError(
            f"{shown(path)} does not tell the size of its frames (or they have more than "
            f"{max_pixels} pixels), expected a readable video; check the file by playing it"
        )
    context.options = {"max_pixels": str(max_pixels)}
    stream.thread_type = "AUTO"
    return stream


def video_packets(
    container: InputContainer, stream: VideoStream, path: Path
) -> Iterator[VideoPacket]:
    """Yield the stream's packets in decoding order, without the empty one that flushes.

    Raises:
        DecodeError: the container breaks off or a packet is marked as damaged.
    """
    number = 0
    holed = hole_test(stream)
    try:
        for packet in container.demux(stream):
            if packet.size == 0 and packet.pts is None:
                continue
            if packet.is_corrupt or (holed is not None and holed(packet)):
                raise damaged(path, f"packet {number}")
            yield packet
            number += 1
    except av.error.FFmpegError as error:
        raise damaged(path, f"the file after packet {number}", error) from error
    except IndexError as error:  # PyAV's, where a stream appears that the file did not announce
        where = f"packet {number}, where a stream begins that was not announced"
        raise damaged(path, where) from error


def decoded_frames(
    container: InputContainer, stream: VideoStream, path: Path
) -> Generator[VideoFrame, None, None]:
    """Yield every frame that is displayed, in presentation order, and stop at the first damage.

    Packets before the first key frame, as at the start of a recorded broadcast, show nothing and
    are skipped.

    Raises:
        DecodeError: a packet cannot be decoded, or a frame is marked as damaged.
    """
    index = 0
    keyed = False
    for packet in video_packets(container, stream, path):
        keyed = keyed or packet.is_keyframe
        if keyed:
            for frame in decode_packet(stream, packet, path, index):
                yield frame
                index += 1
    yield from decode_packet(stream, None, path, index)


def decode_packet(
    stream: VideoStream, packet: VideoPacket | None, path: Path, index: int
) -> list[VideoFrame]:
    """Decode one packet, `None` = what is left; `index` is the number of the next frame.

    Raises:
        DecodeError: the packet cannot be decoded, or a frame is marked as damaged.
    """
    try:
        frames = stream.codec_context.decode(packet)
    except EOFError:
        return []
    except av.error.FFmpegError as error:
        raise damaged(path, f"about frame {index}", error) from error
    for offset, frame in enumerate(frames):
        if frame.is_corrupt:
            raise damaged(path, f"frame {index + offset}")
    return frames


def damaged(path: Path, where: str, error: Exception | None = None) -> DecodeError:
    """Word the error for a clip that cannot be decoded whole."""
    reason = f" ({getattr(error, 'strerror', None) or error})" if error is not None else ""
    return DecodeError(
        f"{shown(path)} is damaged at {where}{reason}, expected every frame to decode; "
        "get an undamaged copy, or edit the frames that are whole with --salvage"
    )
