"""Carry sound, subtitles and descriptions from one container to another, packet by packet."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av.error
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, Disposition, Stream
from av.video.stream import VideoStream

from vidinvert.errors import EncodeError
from vidinvert.media.containers import open_input, picture_streams, shown

_WRITTEN_BY_THE_MUXER = {
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
    "duration",
}


_STILLS = {"mjpeg": ("jpg", "image/jpeg"), "png": ("png", "image/png")}
_DISCARD_ALL = 48  # AVDiscard: what a demuxer itself says is not to be shown

# QuickTime knows some languages by the other of their two codes (ISO 639-2/T to /B).
_IN_QUICKTIME = {
    "ces": "cze", "deu": "ger", "ell": "gre", "fas": "per", "fra": "fre", "isl": "ice",
    "mkd": "mac", "msa": "may", "nld": "dut", "ron": "rum", "slk": "slo", "sqi": "alb",
    "zho": "chi",
}  # fmt: skip


def kept_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Leave out what describes the old file and is written anew."""
    return {k: v for k, v in metadata.items() if k.lower() not in _WRITTEN_BY_THE_MUXER}


def marked_metadata(metadata: Mapping[str, str], comment: str | None) -> dict[str, str]:
    """Put `comment` in front of the comment that is there."""
    kept = kept_metadata(metadata)
    if comment is None:
        return kept
    own = [key for key in kept if key.lower() == "comment"]
    texts = [comment, *(kept.pop(key) for key in own)]
    return {**kept, "comment": "\n".join(texts)}


def add_copies(
    source: InputContainer, output: OutputContainer, target: Path
) -> tuple[dict[int, Stream], tuple[str, ...]]:
    """Add a stream to `output` for every sound track, and for subtitles and covers that it holds.

    Returns:
        The new streams by their index in the source, and what is left out, for the report.

    Raises:
        EncodeError: a sound track does not fit the container.
    """
    copies: dict[int, Stream] = {}
    left_out: list[str] = []
    pictures = picture_streams(source)
    for stream in source.streams:
        if stream.type != "audio" and stream.discard == _DISCARD_ALL:
            continue  # the text track of chapters, which are carried over as such
        if stream.type == "audio":
            copies[stream.index] = _add_audio(stream, output, target)
        elif stream.type == "subtitle":
            try:
                copies[stream.index] = add_copy(stream, output)
            except ValueError:  # the container does not hold this kind
                left_out.append(f"stream {stream.index} (subtitles, {stream.name})")
        elif isinstance(stream, VideoStream) and stream not in pictures:
            if not _add_still(stream, source, output, copies):
                left_out.append(f"stream {stream.index} (a still picture)")
        elif stream.type == "video":
            if len(pictures) > 1 and stream.index != _main(source, pictures):
                left_out.append(f"stream {stream.index} (more moving pictures)")
        elif not _add_attachment(stream, output):
            left_out.append(f"stream {stream.index} ({stream.type})")
    return copies, tuple(left_out)


def _main(source: InputContainer, pictures: list[VideoStream]) -> int:
    best = source.streams.best("video")
    known = [stream.index for stream in pictures]
    return best.index if best is not None and best.index in known else known[0]


def _add_still(
    stream: VideoStream, source: InputContainer, output: OutputContainer, copies: dict[int, Stream]
) -> bool:
    """Carry a cover over; False where the container has no place for one."""
    codec = stream.codec_context.name if stream.codec_context else ""
    if not stream.disposition & Disposition.attached_pic or codec not in _STILLS:
        return False
    if output.format.name == "matroska":
        suffix, kind = _STILLS[codec]
        with open_input(source.name.removeprefix("file:")) as again:
            packets = again.demux(again.streams[stream.index])
            content = next((bytes(packet) for packet in packets if packet.size), b"")
        output.add_attachment(f"cover.{suffix}", kind, content)
        return bool(content)
    if output.format.name not in ("mp4", "mov"):
        return False
    copies[stream.index] = add_copy(stream, output)
    return True


def _add_attachment(stream: Stream, output: OutputContainer) -> bool:
    """Carry a file within a Matroska file over, as a font of its subtitles."""
    if not isinstance(stream, AttachmentStream) or output.format.name != "matroska":
        return False
    output.add_attachment(
        stream.name or "attachment", stream.mimetype or "application/octet-stream", stream.data
    )
    return True


def _add_audio(stream: Stream, output: OutputContainer, target: Path) -> Stream:
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
    # FFmpeg writes PCM into MP4 by a recent standard that hardly any player reads.
    if not (codec.startswith("pcm_") and output.format.name == "mp4"):
        try:
            return add_copy(stream, output)
        except ValueError:  # the container does not hold this kind
            pass
    raise EncodeError(
        f"The sound of the source is {codec}, which does not fit into {shown(target.name)}, "
        "expected a container that takes it unchanged; choose an output that ends in .mkv"
    )


def add_copy(stream: Stream, output: OutputContainer) -> Stream:
    """Add a stream like `stream`, for its packets, with its language, title and role.

    Raises:
        ValueError: the container does not hold this kind of stream.
    """
    copy = output.add_stream_from_template(stream)
    metadata = kept_metadata(stream.metadata)
    if output.format.name == "mov" and "language" in metadata:
        metadata["language"] = _IN_QUICKTIME.get(metadata["language"], metadata["language"])
    copy.metadata.update(metadata)
    copy.disposition = stream.disposition
    return copy


class PacketCopier:
    """Mux copied packets in step with the pictures, so that neither waits for the other.

    Args:
        source: opened for this purpose alone.
        output: where to.
        copies: the streams made by `add_copies`.
        begin: seconds before which packets are left out, None = keep all.
        end: seconds from which packets are left out, None = keep all.
        shift: seconds by which times are moved back.
        forgiving: end where the source cannot be read on, and leave out packets without order.
    """

    def __init__(
        self,
        source: InputContainer,
        output: OutputContainer,
        copies: Mapping[int, Stream],
        *,
        begin: Fraction | None,
        end: Fraction | None,
        shift: Fraction,
        forgiving: bool = False,
    ) -> None:
        self._output = output
        self._copies = copies
        self._begin, self._end, self._shift = begin, end, shift
        streams = [source.streams[index] for index in copies]
        packets: Iterator[Packet] = source.demux(*streams) if streams else iter(())
        self._packets = _readable(packets) if forgiving else packets
        self._waiting: Packet | None = None

    def copy_until(self, seconds: Fraction | None) -> None:
        """Mux the packets up to a time of the output; None = all that are left."""
        while True:
            packet = self._waiting or self._next()
            if packet is None:
                return
            self._waiting = packet
            if seconds is not None and _time(packet) - self._shift > seconds:
                return
            self._waiting = None
            self._output.mux(self._moved(packet))

    def _next(self) -> Packet | None:
        for packet in self._packets:
            if packet.dts is None and packet.pts is None:
                if not packet.size:
                    continue  # the empty one that flushes
                packet.pts = packet.dts = round(self._shift / Fraction(packet.time_base))
                return packet  # a cover, which has no time
            time = _time(packet)
            early = self._begin is not None and time < self._begin
            late = self._end is not None and time >= self._end
            if not early and not late:
                return packet
        return None

    def _moved(self, packet: Packet) -> Packet:
        if self._shift:
            ticks = round(self._shift / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - ticks
            packet.dts = None if packet.dts is None else packet.dts - ticks
        packet.stream = self._copies[packet.stream_index]
        return packet


def _readable(packets: Iterator[Packet]) -> Iterator[Packet]:
    """Yield a damaged file's packets up to where it breaks off, without those out of order."""
    latest: dict[int, int] = {}
    try:
        for packet in packets:
            if packet.dts is not None:
                if packet.is_corrupt or packet.dts <= latest.get(
                    packet.stream_index, packet.dts - 1
                ):
                    continue
                latest[packet.stream_index] = packet.dts
            yield packet
    except (av.error.FFmpegError, IndexError):  # IndexError: a stream that was not announced
        return


def _time(packet: Packet) -> Fraction:
    ticks = packet.dts if packet.pts is None else packet.pts
    return (ticks or 0) * Fraction(packet.time_base)
