"""Small synthetic clips whose frames carry their own number.

A barcode of two rows of eight bars at the top of every upright picture is black and white enough to
survive lossy coding and chroma subsampling, so order, loss and repetition of frames can be asserted
exactly. Under it a coloured field moves.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

BITS = 8
ROW = 8  # pixels a row of the barcode is high


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A sound track: a sine of its own pitch."""

    codec: str = "aac"
    language: str = "eng"
    rate: int = 16000
    hertz: float = 440.0
    layout: str = "mono"
    delay_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What a clip is made of; `size_hw` is upright, `ticks` are its times in `time_base`."""

    frame_count: int = 24
    size_hw: tuple[int, int] = (48, 64)
    suffix: str = ".mp4"
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    time_base: Fraction = Fraction(1, 25)
    ticks: tuple[int, ...] | None = None
    rotation_deg: int = 0
    full_range: bool = False
    colorspace: int = 2
    primaries: int = 2
    transfer: int = 2
    fields: str = ""  # tff or bff
    sample_aspect: Fraction | None = None
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    sounds: tuple[Sound, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def pts(self) -> tuple[int, ...]:
        return self.ticks if self.ticks is not None else tuple(range(self.frame_count))


X264 = {"preset": "ultrafast", "crf": "20"}
B_FRAMES = {"preset": "veryfast", "crf": "20", "bf": "3", "g": "12"}
VFR_TICKS = tuple(np.cumsum([0, *([512, 1024, 341, 700] * 6)])[:24].tolist())

# One clip per trait that has broken readers or writers.
MATRIX = {
    "cfr_25": Clip(options=X264),
    "ntsc": Clip(time_base=Fraction(1001, 30000), options=X264),
    "vfr": Clip(time_base=Fraction(1, 15360), ticks=VFR_TICKS, options=X264),
    "b_frames": Clip(options=B_FRAMES),
    "start_offset": Clip(ticks=tuple(range(20, 44)), options=X264, sounds=(Sound(),)),
    "rotated_90": Clip(rotation_deg=90, size_hw=(96, 112), options=X264),
    "rotated_180": Clip(rotation_deg=180, options=X264),
    "rotated_270": Clip(rotation_deg=270, size_hw=(128, 96), options=X264),
    "odd_size": Clip(size_hw=(49, 67), pixel_format="yuv444p", options=X264),
    "sound": Clip(options=X264, sounds=(Sound(),)),
    "two_tracks": Clip(options=X264, sounds=(Sound(), Sound(language="deu", hertz=660.0))),
    "full_range": Clip(suffix=".mkv", pixel_format="yuvj420p", full_range=True, options=X264),
    "bt709": Clip(colorspace=1, options=X264),
    "wide_pixels": Clip(sample_aspect=Fraction(4, 3), options=X264),
    "mkv": Clip(
        suffix=".mkv", options=B_FRAMES, time_base=Fraction(1, 1000), ticks=tuple(range(0, 960, 40))
    ),
    "mov_pcm": Clip(suffix=".mov", options=X264, sounds=(Sound(codec="pcm_s16le"),)),
}


def draw(number: int, size_hw: tuple[int, int]) -> np.ndarray:
    """Draw frame `number`, uint8 (H, W, 3), upright."""
    height, width = size_hw
    y, x = np.mgrid[0:height, 0:width]
    phase = (x + 2 * y + 5 * number) % 64
    picture = np.stack([60 + 2 * phase, 180 - phase, 90 + (y % 50)], axis=-1).astype(np.uint8)
    bar = width // BITS
    for bit in range(2 * BITS):
        row, column = divmod(bit, BITS)
        lit = 235 if number >> bit & 1 else 16
        picture[row * ROW : (row + 1) * ROW, column * bar : (column + 1) * bar] = lit
    return picture


def read_number(picture: np.ndarray) -> int:
    """Read the barcode of an upright picture (H, W, 3)."""
    bar = picture.shape[1] // BITS
    number = 0
    for bit in range(2 * BITS):
        row, column = divmod(bit, BITS)
        area = picture[
            row * ROW + 2 : (row + 1) * ROW - 2, column * bar + 2 : (column + 1) * bar - 2
        ]
        number |= int(area.mean() > 128) << bit
    return number


def read_numbers(pictures: Sequence[np.ndarray] | np.ndarray) -> list[int]:
    return [read_number(picture) for picture in pictures]


def write_clip(directory: Path, clip: Clip, *, name: str = "clip") -> Path:
    """Encode a clip and return its path."""
    path = directory / f"{name}{clip.suffix}"
    with av.open(str(path), "w", options=clip.container_options) as container:
        container.metadata.update(clip.metadata)
        video = container.add_stream(clip.codec, rate=Fraction(25), options=dict(clip.options))
        stored = np.rot90(draw(0, clip.size_hw), k=-(clip.rotation_deg // 90))
        video.height, video.width = stored.shape[:2]
        video.pix_fmt = clip.pixel_format
        context = video.codec_context
        context.time_base = video.time_base = clip.time_base
        context.colorspace = clip.colorspace
        context.color_range = 2 if clip.full_range else 0
        context.color_primaries, context.color_trc = clip.primaries, clip.transfer
        if clip.sample_aspect is not None:
            context.sample_aspect_ratio = clip.sample_aspect
        if clip.rotation_deg:
            video.set_display_rotation(clip.rotation_deg)
        tracks = []
        for sound in clip.sounds:
            track = container.add_stream(sound.codec, rate=sound.rate, layout=sound.layout)
            track.metadata["language"] = sound.language
            tracks.append(track)
        seconds = float((clip.pts[-1] + 1) * clip.time_base)
        _encode_sound(container, tracks, clip.sounds, seconds)
        marker = None
        for number, pts in enumerate(clip.pts):
            frame = _frame(number, pts, clip)
            if clip.fields:
                marker = marker or _field_marker(frame, clip)
                marker.push(frame)
                frame = marker.pull()
            for packet in video.encode(frame):
                container.mux(packet)
        for packet in video.encode(None):
            container.mux(packet)
    return path


def _frame(number: int, pts: int, clip: Clip) -> VideoFrame:
    stored = np.rot90(draw(number, clip.size_hw), k=-(clip.rotation_deg // 90))
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24").reformat(
        format=clip.pixel_format,
        dst_colorspace=clip.colorspace if clip.colorspace != 2 else 5,
        dst_color_range=2 if clip.full_range else 1,
    )
    frame.pts, frame.time_base = pts, clip.time_base
    return frame


def _field_marker(frame: VideoFrame, clip: Clip) -> Graph:
    """Make a filter that marks frames as interlaced, as encoders want it."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=clip.time_base
    )
    mark, sink = graph.add("setfield", f"mode={clip.fields}"), graph.add("buffersink")
    source.link_to(mark)
    mark.link_to(sink)
    graph.configure()
    return graph


def _encode_sound(container, tracks, sounds, seconds) -> None:
    for track, sound in zip(tracks, sounds, strict=True):
        times = np.arange(int(seconds * sound.rate)) / sound.rate
        wave = 0.3 * np.sin(2 * np.pi * sound.hertz * times)
        layout = "s16" if sound.codec.startswith("pcm") else "fltp"
        values = wave[None].astype(np.float32)
        if layout == "s16":
            values = (values * 32767).astype(np.int16)
        channels = len(av.AudioLayout(sound.layout).channels)
        values = np.repeat(values, channels, axis=0)
        if layout == "s16":  # packed
            values = values.T.reshape(1, -1)
        step = 1024 * (channels if layout == "s16" else 1)
        delay = round(sound.delay_seconds * sound.rate)
        for start in range(0, values.shape[1], step):
            block = np.ascontiguousarray(values[:, start : start + step])
            frame = av.AudioFrame.from_ndarray(block, format=layout, layout=sound.layout)
            frame.sample_rate = sound.rate
            frame.pts, frame.time_base = delay + start * 1024 // step, Fraction(1, sound.rate)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))


@dataclass(frozen=True)
class SoundPacket:
    """A sound packet as it lies in a file; `seconds` is exact."""

    track: int
    sha256: str
    seconds: Fraction


def sound_packets(path: Path) -> list[SoundPacket]:
    """List all sound packets, track by track."""
    with av.open(f"file:{path}") as container:
        places = {stream.index: place for place, stream in enumerate(container.streams.audio)}
        packets = [
            SoundPacket(
                places[packet.stream_index],
                hashlib.sha256(_payload(packet)).hexdigest(),
                packet.pts * Fraction(packet.time_base),
            )
            for packet in (container.demux(*container.streams.audio) if places else ())
            if packet.pts is not None
        ]
    return sorted(packets, key=lambda packet: (packet.track, packet.seconds))


def _payload(packet) -> bytes:
    """Return a packet without the header that AAC has in a transport stream alone (ADTS)."""
    content = bytes(packet)
    if packet.stream.codec_context.name != "aac" or content[:1] != b"\xff" or len(content) < 8:
        return content
    if content[1] & 0xF6 != 0xF0:
        return content
    return content[7 if content[1] & 1 else 9 :]


def video_packets(path: Path) -> list[str]:
    """List the hashes of the video packets in decoding order."""
    with av.open(f"file:{path}") as container:
        return [
            hashlib.sha256(bytes(packet)).hexdigest()
            for packet in container.demux(container.streams.video[0])
            if packet.size
        ]


def truncated(path: Path, *, share: float = 0.6) -> Path:
    """Write the beginning of a file beside it."""
    content = path.read_bytes()
    cut = path.with_name(f"{path.stem}_cut{path.suffix}")
    cut.write_bytes(content[: int(len(content) * share)])
    return cut


def damaged(path: Path, *, packet: int) -> Path:
    """Write a file beside `path` in which the second half of one video packet is zero."""
    with av.open(f"file:{path}") as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size]
        position, size = packets[packet].pos, packets[packet].size
    content = bytearray(path.read_bytes())
    content[position + size // 2 : position + size] = bytes(size - size // 2)
    target = path.with_name(f"{path.stem}_damaged{path.suffix}")
    target.write_bytes(content)
    return target


def trimmed_by_edit_list(path: Path, *, share: float = 0.5) -> Path:
    """Write an MP4 beside `path` whose edit list shows only the first part of the pictures."""
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 12  # size, type, version and flags, count: then the duration
    (duration,) = struct.unpack(">I", content[place : place + 4])
    content[place : place + 4] = struct.pack(">I", int(duration * share))
    target = path.with_name(f"{path.stem}_trimmed{path.suffix}")
    target.write_bytes(content)
    return target
