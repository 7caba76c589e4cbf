"""Choose an encoder, its pixel format and its options for an output like a given clip."""

from dataclasses import dataclass, field
from pathlib import Path

from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.video.format import VideoFormat

from vidinvert.errors import EncodeError
from vidinvert.media.containers import shown
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

    `preset` is the option that trades speed against size; `even`: 4:2:0 needs even sizes.
    """

    writes: str
    crf: float
    preset: tuple[str, str]
    even: bool = False
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
}

_SUITABLE = {
    "mp4": ("h264", "hevc", "av1", "vp9"),
    "mov": ("h264", "hevc"),
    "matroska": ("h264", "hevc", "vp9", "av1"),
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
    name = settings.codec or _default_encoder(like, muxer)
    encoder = _known_encoder(name, target, muxer)
    pixel_format = _choose_pixel_format(name, encoder, like, settings.pixel_format)
    crf = encoder.crf if settings.crf is None else settings.crf
    key, preset = encoder.preset
    options = {**dict(encoder.extra), "crf": f"{crf:g}", key: settings.preset or preset}
    if settings.threads is not None:
        options["threads"] = str(settings.threads)
        if name == "libx264":  # with macroblock trees it differs once in some hundred times
            options["x264-params"] = "mbtree=0"
    tagged = encoder.writes == "hevc" and muxer in ("mp4", "mov")
    return Encoding(
        encoder=name,
        pixel_format=pixel_format,
        full_range=is_full_range(like.color, like.pixel_format)
        and not VideoFormat(like.pixel_format).is_rgb,
        options=options,
        tag="hvc1" if tagged else None,  # what Apple's players ask for
    )


def _default_encoder(like: VideoInfo, muxer: str) -> str:
    for name, encoder in ENCODERS.items():
        fits = encoder.writes == like.codec and encoder.writes in _SUITABLE[muxer]
        if fits and has_encoder(name):
            return name
    first = _SUITABLE[muxer][0]
    return next(name for name, encoder in ENCODERS.items() if encoder.writes == first)


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
    deep = [f"yuv{sampling}p{bits}le" for bits in (depth, 10) if depth > 8]
    eight = [f"yuv{letter}{sampling}p", f"yuv{sampling}p"]
    full_colour = ["yuv444p10le"] if depth > 8 else []
    full_colour += [f"yuv{letter}444p", "yuv444p", "yuv420p"]
    keep = [] if layout.is_rgb else [pixel_format]
    return list(dict.fromkeys([*keep, *deep, *eight, *full_colour]))


def _halves_odd(pixel_format: str, like: VideoInfo) -> bool:
    across, down = chroma_shift(pixel_format)
    height, width = like.coded_size_hw
    return bool((across and width % 2) or (down and height % 2))
