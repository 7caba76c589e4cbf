"""Choose an encoder, its pixel format and its options for an output like a given clip."""

import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

from av.codec import Codec, CodecContext
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat

from vidinvert.errors import EncodeError
from vidinvert.media.containers import shown
from vidinvert.media.fields import field_options
from vidinvert.media.hdr import HLG, PQ
from vidinvert.media.planes import chroma_shift, is_full_range
from vidinvert.types import EncodeSettings, VideoInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How pictures are compressed: encoder, pixel format, its options, and the stream's tag."""

    encoder: str
    pixel_format: str
    full_range: bool
    options: dict[str, str] = field(default_factory=dict)
    tag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoder:
    """An encoder's habits.

    `crf`: its quality by default, by the option `quality`; None = it has no such option. `preset`:
    the option that trades speed against size; None = it has none. `even`: 4:2:0 needs even sizes.
    `hardware`: it needs a device of its own and is taken only where it is named.
    """

    writes: str
    crf: float | None
    preset: tuple[str, str] | None
    quality: str = "crf"
    even: bool = False
    hardware: bool = False
    extra: tuple[tuple[str, str], ...] = ()


# Quality: no difference to be seen at normal size. Speed: well above the networks on two cores.
ENCODERS = {
    "libx264": _Encoder(writes="h264", crf=16, preset=("preset", "fast"), even=True),
    "libx265": _Encoder(
        writes="hevc",
        crf=18,
        preset=("preset", "veryfast"),
        even=True,
        extra=(("x265-params", "log-level=none"),),
    ),
    "libvpx-vp9": _Encoder(
        writes="vp9", crf=24, preset=("cpu-used", "4"), extra=(("b", "0"), ("row-mt", "1"))
    ),
    "libsvtav1": _Encoder(writes="av1", crf=24, preset=("preset", "8"), even=True),
    "prores_ks": _Encoder(writes="prores", crf=None, preset=None, even=True),
    "ffv1": _Encoder(  # lossless
        writes="ffv1", crf=None, preset=None, extra=(("level", "3"), ("slicecrc", "1"), ("g", "1"))
    ),
    **{
        f"{codec}_nvenc": _Encoder(  # constant quality, as crf means it
            writes=codec,
            crf=quality,
            quality="cq",
            preset=("preset", "p5"),
            even=True,
            hardware=True,
            extra=(("rc", "vbr"),),
        )
        for codec, quality in (("h264", 19), ("hevc", 21), ("av1", 25))
    },
}
_OPENED_AT = (256, 256)  # width and height at which a hardware encoder is tried: all take it

_SUITABLE = {
    "mp4": ("h264", "hevc", "av1", "vp9"),
    "mov": ("h264", "hevc", "prores"),
    "matroska": ("h264", "hevc", "vp9", "av1", "prores", "ffv1"),
    "webm": ("vp9", "av1"),
}


def has_encoder(name: str) -> bool:
    """Say whether the FFmpeg that PyAV brings can encode with `name`."""
    try:
        Codec(name, "w")
    except UnknownCodecError:
        return False
    return True


def choose_encoding(
    like: VideoInfo, settings: EncodeSettings, *, target: Path, muxer: str
) -> Encoding:
    """Keep the source's codec and pixel format where they can be written to this container.

    An odd width or height is kept by storing colour at full resolution (4:4:4), for H.264 and H.265
    cannot halve it.

    Raises:
        EncodeError: the encoder or the pixel format is unknown or does not fit the container.
    """
    name = settings.codec or _default_encoder(like, settings, muxer)
    encoder = _known_encoder(name, target, muxer)
    pixel_format = _choose_pixel_format(name, encoder, like, settings.pixel_format)
    _check_hdr(like, name, pixel_format, settings)
    options = _options(name, encoder, like, settings)
    tagged = encoder.writes == "hevc" and muxer in ("mp4", "mov")
    return Encoding(
        encoder=name,
        pixel_format=pixel_format,
        full_range=is_full_range(like.color, like.pixel_format)
        and not VideoFormat(like.pixel_format).is_rgb,
        options=options,
        tag="hvc1" if tagged else None,  # what Apple's players ask for
    )


def _options(
    name: str, encoder: _Encoder, like: VideoInfo, settings: EncodeSettings
) -> dict[str, str]:
    crf = encoder.crf if settings.crf is None else settings.crf
    options = dict(encoder.extra)
    if encoder.crf is not None:
        options[encoder.quality] = f"{crf:g}"
    if encoder.preset is not None:
        key, preset = encoder.preset
        options[key] = settings.preset or preset
    own: list[str] = []  # of x264 and x265, in their own syntax
    if settings.threads is not None:
        options["threads"] = str(settings.threads)
        if name == "libx264":  # with macroblock trees it differs once in some hundred times
            own.append("mbtree=0")
    fields = field_options(name, like.field_order)
    own += [
        text for text in (options.pop("x265-params", ""), fields.pop("x264-params", "")) if text
    ]
    own += _hdr_options(name, like)
    if own:
        key = {"libx264": "x264-params", "libx265": "x265-params"}.get(name, "svtav1-params")
        options[key] = ":".join(own)
    return options | fields


def _hdr_options(name: str, like: VideoInfo) -> list[str]:
    """Word what an HDR clip says of itself; encoders that do not write it leave it out."""
    if like.hdr is None or name not in ("libx265", "libsvtav1"):
        return []
    display, light = like.hdr.mastering_display, like.hdr.light_level
    if name == "libsvtav1":
        display = None if display is None else _plain_display(display)
        return [
            *([f"mastering-display={display}"] if display else []),
            *([f"content-light={light}"] if light else []),
        ]
    return [
        *([f"master-display={display}"] if display else []),
        *([f"max-cll={light}"] if light else []),
    ]


def _plain_display(display: str) -> str:
    """Turn x265's whole numbers into the decimal ones that SVT-AV1 reads."""
    parts = re.findall(r"([GBRWPL]+)\((\d+),(\d+)\)", display)
    return "".join(
        f"{key}({int(a) / (10000 if key == 'L' else 50000):.5g},"
        f"{int(b) / (10000 if key == 'L' else 50000):.5g})"
        for key, a, b in parts
    )


def describe_loss(like: VideoInfo, encoding: Encoding) -> tuple[str, ...]:
    """Name what of the pictures the output cannot hold, for the report."""
    layout = VideoFormat(encoding.pixel_format)
    losses = list(like.unwritten)
    if has_alpha(like.pixel_format) and not has_alpha(encoding.pixel_format):
        losses.append(f"transparency ({encoding.encoder} in {encoding.pixel_format})")
    bits = max(component.bits for component in layout.components)
    if bits < like.bit_depth:
        losses.append(f"{like.bit_depth - bits} of {like.bit_depth} bits of a sample")
    if like.field_order != "progressive" and not field_options(encoding.encoder, like.field_order):
        losses.append("the mark that frames are interlaced")
    if like.hdr is not None and encoding.encoder not in ("libx265", "libsvtav1"):
        losses.append("the light levels of an HDR clip")
    return tuple(losses)


def has_alpha(pixel_format: str) -> bool:
    """Say whether a layout has a plane or channel for transparency."""
    return any(component.is_alpha for component in VideoFormat(pixel_format).components)


def _check_hdr(like: VideoInfo, name: str, pixel_format: str, settings: EncodeSettings) -> None:
    bits = max(component.bits for component in VideoFormat(pixel_format).components)
    hdr = like.color.transfer in (PQ, HLG)
    if settings.allow_loss or (not hdr and not like.unwritten):
        return
    if hdr and bits < 10:
        raise EncodeError(
            f"{shown(like.path)} is an HDR clip (transfer {like.color.transfer}) and {name} would "
            f"write it with {bits} bits, expected 10, or its gradients become steps; choose "
            "--codec libx265 or --pixel-format yuv420p10le, or accept that with --allow-loss"
        )
    if not hdr and any("Dolby" in what for what in like.unwritten):
        raise EncodeError(
            f"{shown(like.path)} can only be shown by means of its Dolby Vision data, which cannot "
            "be written again, expected a clip that is HDR10, HLG or SDR without them; convert it "
            "first, or accept wrong colours with --allow-loss"
        )


def _default_encoder(like: VideoInfo, settings: EncodeSettings, muxer: str) -> str:
    """Prefer the source's codec; where it would lose bits of a deep clip, one that does not."""
    suitable = [
        name
        for codec in dict.fromkeys((like.codec, *_SUITABLE[muxer]))
        for name, encoder in ENCODERS.items()
        if encoder.writes == codec
        and codec in _SUITABLE[muxer]
        and not encoder.hardware
        and has_encoder(name)
    ]
    for name in suitable:
        if settings.pixel_format is not None or like.bit_depth == 8 or _depth(name) >= 10:
            return name
    return suitable[0]


def _depth(name: str) -> int:
    """Return the most bits a sample that an encoder takes."""
    layouts = Codec(name, "w").video_formats or ()
    return max(component.bits for layout in layouts for component in layout.components)


def _opens(name: str) -> bool:
    """Try a hardware encoder: that FFmpeg knows it does not mean that its device is there."""
    context = cast(VideoCodecContext, CodecContext.create(name, "w"))
    context.width, context.height = _OPENED_AT
    context.pix_fmt = "yuv420p"
    context.time_base = Fraction(1, 25)
    try:
        context.open()
    except (FFmpegError, OSError, ValueError):
        return False
    return True


def _known_encoder(name: str, target: Path, muxer: str) -> _Encoder:
    encoder = ENCODERS.get(name)
    if encoder is None:
        raise EncodeError(
            f"The codec {name!r} is not known, expected one of {', '.join(ENCODERS)}; "
            "choose one of these"
        )
    if not has_encoder(name):
        raise EncodeError(
            f"The encoder {name} is missing from this build of FFmpeg, expected one that has it; "
            "choose another codec, or install the av package from PyPI"
        )
    if encoder.hardware and not _opens(name):
        raise EncodeError(
            f"The encoder {name} finds no device that it can use, expected an NVIDIA GPU with "
            "NVENC and its driver; choose libx264 or another codec that the CPU runs"
        )
    if encoder.writes not in _SUITABLE[muxer]:
        fitting = [n for n, e in ENCODERS.items() if e.writes in _SUITABLE[muxer]]
        raise EncodeError(
            f"{shown(target.name)} cannot hold the output of {name}, expected one of "
            f"{', '.join(fitting)}; choose another codec or suffix"
        )
    return encoder


def _choose_pixel_format(
    name: str, encoder: _Encoder, like: VideoInfo, requested: str | None
) -> str:
    offered = [layout.name for layout in Codec(name, "w").video_formats or ()]
    candidates = [requested] if requested else _similar_formats(like.pixel_format)
    fitting = [
        candidate
        for candidate in candidates
        if candidate in offered and not (encoder.even and _halves_odd(candidate, like))
    ]
    if not fitting:
        height, width = like.coded_size_hw
        raise EncodeError(
            f"{name} cannot write {' or '.join(candidates)} at {width}x{height}, expected one of "
            f"{', '.join(offered)}, with full colour (444) if the width or height is odd; "
            "choose another pixel format or codec"
        )
    return fitting[0]


def _similar_formats(pixel_format: str) -> list[str]:
    """List formats from the same to a plainer one; the last keeps odd sizes."""
    layout = VideoFormat(pixel_format)
    depth = max(component.bits for component in layout.components)
    shifts = (0, 0) if layout.is_rgb else chroma_shift(pixel_format)
    sampling = {(1, 1): "420", (1, 0): "422", (0, 0): "444"}.get(shifts, "420")
    letter = "j" if pixel_format.startswith("yuvj") else ""
    clear: list[str] = []
    if has_alpha(pixel_format):
        clear = [f"yuva{sampling}p{bits}le" for bits in (depth, 10) if depth > 8]
        clear += ["yuva444p10le"] if depth > 8 else []
        clear += [f"yuva{sampling}p", "yuva444p10le", "yuva420p"]
    deep = [f"yuv{sampling}p{bits}le" for bits in (depth, 10) if depth > 8]
    eight = [f"yuv{letter}{sampling}p", f"yuv{sampling}p"]
    full_colour = ["yuv444p10le"] if depth > 8 else []
    full_colour += [f"yuv{letter}444p", "yuv444p", "yuv420p"]
    keep = [] if layout.is_rgb else [pixel_format]
    return list(dict.fromkeys([*keep, *clear, *deep, *eight, *full_colour]))


def _halves_odd(pixel_format: str, like: VideoInfo) -> bool:
    across, down = chroma_shift(pixel_format)
    height, width = like.coded_size_hw
    return bool((across and width % 2) or (down and height % 2))
