"""`vidinvert doctor`: what is installed, which device, which codecs, what is missing."""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from vidinvert.cli.options import add_common_options
from vidinvert.version import VERSION

REQUIRED = ("torch", "av", "insightface", "onnxruntime", "opencv-python", "numpy", "scipy")
OPTIONAL = {
    "decord": "reads ordinary clips; PyAV reads them where it is absent",
    "ffmpeg-python": "side-by-side comparison clips",
    "c2pa-python": "signs outputs: pip install 'vidinvert[c2pa]'",
    "ray": "batches on many machines: pip install 'vidinvert[ray]'",
}
ENCODERS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "h264_nvenc")


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("doctor", help="what is installed, and what is missing")
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the findings; 1 if something that is needed is missing."""
    del options
    failed = False
    for good, line in _findings():
        failed = failed or good is False
        mark = {True: "ok  ", False: "MISS", None: "    "}[good]
        print(f"{mark} {line}")
    if failed:
        print("Something that is needed is missing: pip install --upgrade vidinvert")
    return 1 if failed else 0


def _findings() -> Iterator[tuple[bool | None, str]]:
    """Yield (True fine, False missing, None only to know; a line)."""
    yield None, f"vidinvert {VERSION}, Python {platform.python_version()}, {platform.platform()}"
    for name in REQUIRED:
        version = _version(name)
        yield version is not None, f"{name} {version or 'is not installed'}"
    for name, use in OPTIONAL.items():
        version = _version(name)
        yield (True if version else None), f"{name} {version or 'not installed'} ({use})"
    yield from _device()
    yield from _codecs()
    yield from _packs()
    ffmpeg = shutil.which("ffmpeg")
    yield None, f"ffmpeg binary: {ffmpeg or 'none (not needed)'}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device() -> Iterator[tuple[bool | None, str]]:
    from vidinvert.cli.device import bf16_units, choose_device, choose_precision

    try:
        import torch
    except ImportError:
        return
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    units = bf16_units() or "no bf16 units"
    yield True, f"device {device}, precision {precision}, {cores} cores, {units}"
    if not torch.cuda.is_available():
        yield None, "no CUDA device; networks run on the CPU"


def _codecs() -> Iterator[tuple[bool | None, str]]:
    try:
        import vidinvert.media as media
    except ImportError:
        return
    have = [name for name in ENCODERS if media.has_encoder(name)]
    yield "libx264" in have, f"encoders: {', '.join(have) or 'none'}"


def _packs() -> Iterator[tuple[bool | None, str]]:
    from vidinvert.checkpoints import list_packs, verify_pack
    from vidinvert.errors import VidinvertError

    packs = list_packs()
    if not packs:
        yield False, "no face pack found"
    for pack in packs:
        try:
            verify_pack(pack)
        except VidinvertError as error:
            yield False, f"face pack {pack.name}: {error}"
        else:
            about = f"{len(pack.directions)} edits, {pack.license}"
            yield True, f"face pack {pack.name} {pack.version}: {about}"
    sys.stdout.flush()
