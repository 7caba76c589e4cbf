"""Clips of every kind that has broken readers or writers, to be edited and compared."""

import dataclasses
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from tests.clips import B_FRAMES, MATRIX, VFR_TICKS, X264, Clip, Sound, write_clip

X265 = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=12"}
VP9 = {"cpu-used": "8", "deadline": "realtime"}
AV1 = {"preset": "12"}
OPUS = Sound(codec="libopus", rate=48000)
AC3 = Sound(codec="ac3", rate=48000, layout="5.1")
SQUARE = (64, 64)
HDR = (
    "log-level=none:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)"
    "L(10000000,1):max-cll=1000,400:repeat-headers=1"
)
MS = Fraction(1, 1000)

TIMES = {
    "23.976": Clip(time_base=Fraction(1001, 24000), options=X264),
    "29.97": MATRIX["ntsc"],
    "120 fps": Clip(time_base=Fraction(1, 120), options=B_FRAMES),
    "vfr": MATRIX["vfr"],
    "vfr mkv": Clip(
        suffix=".mkv", time_base=MS, ticks=tuple(t // 15 for t in VFR_TICKS), options=B_FRAMES
    ),
    "long pause": Clip(
        time_base=MS, ticks=tuple(40 * n + (2500 if n > 11 else 0) for n in range(24)), options=X264
    ),
    "start offset": MATRIX["start_offset"],
    "late sound": Clip(options=X264, sounds=(Sound(delay_seconds=0.35),)),
    "late pictures": Clip(
        suffix=".mkv",
        time_base=MS,
        ticks=tuple(range(750, 1710, 40)),
        options=X264,
        sounds=(Sound(codec="libopus", rate=48000),),
    ),
}
STREAMS = {
    "open groups": Clip(
        frame_count=36, options={**B_FRAMES, "x264-params": "open-gop=1:keyint=12:min-keyint=12"}
    ),
    "b-pyramid": Clip(options={**B_FRAMES, "x264-params": "b-pyramid=normal:ref=4"}),
    "gradual refresh": Clip(options={**X264, "x264-params": "intra-refresh=1:keyint=12"}),
    "h264 mkv": Clip(suffix=".mkv", time_base=MS, ticks=tuple(range(0, 960, 40)), options=B_FRAMES),
    "h264 ts": Clip(suffix=".ts", options=B_FRAMES, sounds=(Sound(),)),
    "h264 mov": MATRIX["mov_pcm"],
    "fragmented": Clip(
        options={**B_FRAMES, "g": "6"},
        container_options={"movflags": "frag_keyframe+empty_moov"},
        sounds=(Sound(),),
    ),
    "faststart": Clip(options=B_FRAMES, container_options={"movflags": "faststart"}),
    "hevc": Clip(size_hw=SQUARE, codec="libx265", options=X265),
    "hevc 10": Clip(size_hw=SQUARE, codec="libx265", options=X265, pixel_format="yuv420p10le"),
    "h264 10": Clip(pixel_format="yuv420p10le", options=B_FRAMES),
    "vp9": Clip(suffix=".webm", codec="libvpx-vp9", options=VP9, time_base=MS, ticks=tuple(
        range(0, 960, 40)
    )),
    "vp8": Clip(suffix=".webm", codec="libvpx", options={"deadline": "realtime"}),
    "av1": Clip(size_hw=SQUARE, suffix=".mkv", codec="libsvtav1", options=AV1, frame_count=12),
    "av1 10": Clip(
        size_hw=SQUARE, suffix=".mp4", codec="libsvtav1", options=AV1, frame_count=12,
        pixel_format="yuv420p10le",
    ),
    "mpeg4 avi": Clip(suffix=".avi", codec="mpeg4", options={"bf": "2"}),
    "mpeg4 packed": Clip(suffix=".mkv", codec="mpeg4", options={"bf": "2", "g": "8"}),
    "mpeg2 ts": Clip(suffix=".ts", codec="mpeg2video", options={"bf": "2", "b": "2M"}),
    "mpeg2 mpg": Clip(suffix=".mpg", codec="mpeg2video", options={"b": "2M"}),
    "prores": Clip(suffix=".mov", codec="prores_ks", pixel_format="yuv422p10le"),
    "prores 4444": Clip(suffix=".mov", codec="prores_ks", pixel_format="yuva444p10le"),
    "mjpeg": Clip(suffix=".avi", codec="mjpeg", pixel_format="yuvj420p", full_range=True),
    "ffv1": Clip(suffix=".mkv", codec="ffv1"),
    "ffv1 alpha": Clip(suffix=".mkv", codec="ffv1", pixel_format="yuva420p"),
    "gif": Clip(suffix=".gif", codec="gif", pixel_format="rgb8"),
    "flv": Clip(suffix=".flv", options=X264, time_base=MS, ticks=tuple(range(0, 960, 40))),
    "raw h264": Clip(suffix=".h264", options=B_FRAMES),
}  # fmt: skip
PICTURES = {
    "rotated 90": MATRIX["rotated_90"],
    "rotated 180": MATRIX["rotated_180"],
    "rotated 270": MATRIX["rotated_270"],
    "rotated mkv": Clip(suffix=".mkv", rotation_deg=90, size_hw=(96, 112), options=X264),
    "odd size": MATRIX["odd_size"],
    "odd vp9": Clip(size_hw=(49, 67), suffix=".webm", codec="libvpx-vp9", options=VP9),
    "wide pixels": MATRIX["wide_pixels"],
    "wide pixels mkv": Clip(suffix=".mkv", sample_aspect=Fraction(64, 45), options=X264),
    "interlaced top": Clip(options={**X264, "flags": "+ildct+ilme"}, fields="tff"),
    "interlaced bottom": Clip(
        options={**X264, "flags": "+ildct+ilme", "x264-params": "bff=1"}, fields="bff"
    ),
    "full range": MATRIX["full_range"],
    "bt601": Clip(colorspace=6, primaries=6, transfer=6, options=X264),
    "bt709": Clip(colorspace=1, primaries=1, transfer=1, options=X264),
    "bt2020": Clip(
        colorspace=9, primaries=9, transfer=14, pixel_format="yuv420p10le", options=X264
    ),
    "hlg": Clip(
        size_hw=SQUARE, codec="libx265", pixel_format="yuv420p10le", colorspace=9, primaries=9,
        transfer=18, options=X265,
    ),
    "pq": Clip(
        size_hw=SQUARE, codec="libx265", pixel_format="yuv420p10le", colorspace=9, primaries=9,
        transfer=16, options={"preset": "ultrafast", "x265-params": HDR},
    ),
    "4:2:2": Clip(pixel_format="yuv422p", options=X264),
    "4:4:4": Clip(pixel_format="yuv444p", options=X264),
}  # fmt: skip
SOUNDS = {
    "silent": MATRIX["cfr_25"],
    "two tracks": MATRIX["two_tracks"],
    "5.1": Clip(suffix=".mkv", options=X264, sounds=(AC3,)),
    "5.1 aac": Clip(options=X264, sounds=(Sound(rate=48000, layout="5.1"),)),
    "opus": Clip(
        suffix=".webm", codec="libvpx-vp9", options=VP9, sounds=(OPUS,)
    ),
    "flac": Clip(suffix=".mkv", options=X264, sounds=(Sound(codec="flac"),)),
    "pcm": MATRIX["mov_pcm"],
    "mp3": Clip(options=X264, sounds=(Sound(codec="libmp3lame", rate=44100),)),
}  # fmt: skip
KINDS = {**TIMES, **STREAMS, **PICTURES, **SOUNDS}
SLOW = {"av1", "av1 10", "vp8", "mpeg2 mpg", "rotated mkv", "wide pixels mkv", "b-pyramid", "pq"}


def rich_clip(directory: Path, suffix: str) -> Path:
    """Write a clip with sound in two languages, subtitles, chapters, a cover and a data stream."""
    sounds = (Sound(), Sound(language="deu", hertz=660.0))
    plain = write_clip(directory, Clip(options=X264, sounds=sounds), name="plain")
    words = directory / "words.srt"
    words.write_text("1\n00:00:00,100 --> 00:00:00,500\nBonjour\n", encoding="utf-8")
    path = directory / f"rich{suffix}"
    chapters = [
        {"id": n, "start": 480 * n, "end": 480 * (n + 1), "time_base": MS, "metadata": {"title": t}}
        for n, t in enumerate(("Start", "End"))
    ]
    with av.open(str(plain)) as clip, av.open(str(words)) as text, av.open(str(path), "w") as out:
        out.metadata.update({"title": "Holiday", "comment": "by the lake"})
        copies = {}
        for stream in clip.streams:
            copies[stream] = out.add_stream_from_template(stream)
            copies[stream].metadata.update(stream.metadata)
        codec = "mov_text" if suffix in (".mp4", ".mov") else "srt"
        if codec == "srt":
            copies[text.streams[0]] = out.add_stream_from_template(text.streams.subtitles[0])
            copies[text.streams[0]].metadata["language"] = "fra"
        out.set_chapters(chapters)
        add_cover(out, np.full((32, 32, 3), 90, np.uint8))
        if codec == "srt":
            for packet in text.demux():
                if packet.dts is not None:
                    packet.stream = copies[text.streams[0]]
                    out.mux(packet)
        for packet in clip.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream]
                out.mux(packet)
    return path


def add_cover(out, pixels: np.ndarray) -> None:
    """Add a picture that players show beside a film."""
    context = av.CodecContext.create("mjpeg", "w")
    context.height, context.width = pixels.shape[:2]
    context.pix_fmt, context.time_base = "yuvj420p", Fraction(1, 25)
    (packet,) = context.encode(av.VideoFrame.from_ndarray(pixels).reformat(format="yuvj420p"))
    if out.format.name == "matroska":
        out.add_attachment("cover.jpg", "image/jpeg", bytes(packet))
        return
    cover = out.add_stream("mjpeg", rate=1)
    cover.height, cover.width = pixels.shape[:2]
    cover.pix_fmt, cover.disposition = "yuvj420p", Disposition.attached_pic
    packet.stream = cover
    out.start_encoding()
    out.mux(packet)


def trim_by_edit_list(path: Path, *, head: int, tail: int) -> Path:
    """Write an MP4 beside `path` whose edit lists hide pictures at its head and tail."""
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 12
    duration, media_time = struct.unpack(">II", content[place : place + 8])
    scale = content.index(b"mdhd") + 16
    (media_scale,) = struct.unpack(">I", content[scale : scale + 4])
    movie = content.index(b"mvhd") + 16
    (movie_scale,) = struct.unpack(">I", content[movie : movie + 4])
    hidden = (head + tail) * movie_scale // 25
    content[place : place + 8] = struct.pack(
        ">II", duration - hidden, media_time + head * media_scale // 25
    )
    target = path.with_name(f"{path.stem}_trimmed_{head}_{tail}{path.suffix}")
    target.write_bytes(content)
    return target


def every_kind(directory: Path) -> Iterator[tuple[str, Path]]:
    """Write one clip of every kind and yield its name and file."""
    for name, clip in KINDS.items():
        yield name, write_clip(directory, dataclasses.replace(clip), name=name.replace(" ", "_"))
