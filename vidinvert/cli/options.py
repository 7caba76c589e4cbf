"""Options that several commands share, and what they are turned into."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from stabilizers import FlowFilter, GaussianFilter, StabilizerPlan
    from vidinvert.pipeline import Models, Span
    from vidinvert.types import Credentials, Plans

METHODS = (
    *("samm", "diffcam", "indomain", "force-indomain"),
    *("e4e", "restyle", "psp", "featurestyle", "optimise"),
)


def number(low: float, high: float = math.inf) -> Callable[[str], float]:
    """Return an argparse type for finite numbers in [low, high]."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or math.isinf(value):
            upper = "" if math.isinf(high) else f" to {high:g}"
            raise argparse.ArgumentTypeError(f"{text!r}: expected a number from {low:g}{upper}")
        return value

    return read


def count(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def filter_text(text: str) -> str:
    """Check a filter as `gaussian:sigma=0.12` and pass it on."""
    from stabilizers import parse_filter

    return _checked(text, parse_filter)


def mask_filter_text(text: str) -> str:
    """Check a filter for masks, which may also be `flow:time=0.1`, and pass it on."""
    from stabilizers import parse_mask_filter

    return _checked(text, parse_mask_filter)


def change_filter_text(text: str) -> str:
    """Check a filter for what an edit changes, and pass it on."""
    return _checked(text, read_change_filter)


def read_change_filter(text: str) -> "GaussianFilter | FlowFilter | None":
    """Read `none`, a Gaussian, or a filter along the flow, which snaps to no edges here.

    Raises:
        ValueError: it is another filter.
    """
    from stabilizers import FlowFilter, GaussianFilter, parse_mask_filter

    filter_ = parse_mask_filter(text)
    snaps = isinstance(filter_, FlowFilter) and filter_.radius > 0
    if snaps or not isinstance(filter_, GaussianFilter | FlowFilter | None):
        raise ValueError(
            f"filter is {text!r}, expected none, gaussian:sigma=SECONDS or "
            "flow:time=SECONDS,levels=GREY"
        )
    return filter_


def _checked(text: str, parse: Callable[[str], Any]) -> str:
    try:
        parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def add_pack_options(parser: argparse.ArgumentParser) -> None:
    """Add what decides which networks run, and where."""
    group = parser.add_argument_group("networks")
    group.add_argument("--pack", default="mini", help="face pack: a name or a directory (mini)")
    group.add_argument("--method", default="samm", choices=METHODS, help="how to invert (samm)")
    group.add_argument(
        "--cycles", type=count, metavar="N", help="SAMM's estimates a level: 1 is faster (pack's)"
    )
    group.add_argument(
        "--invert-steps",
        type=count,
        metavar="N",
        help="optimise codes after the encoder, N steps a frame from the frame before's and 4 N "
        "for the first; 25 is a start (the pack's, as a rule none; 50 with --method optimise)",
    )
    group.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N; several as cuda:0,cuda:1 share the work (auto)",
    )
    group.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="(auto)"
    )
    group.add_argument(
        "--cuda-graphs",
        default="off",
        choices=("auto", "on", "off"),
        help="record the networks' passes and play them again: where it works, with a word where "
        "it does not, or never (off)",
    )
    group.add_argument("--batch-size", type=count, default=8, help="crops per pass (8)")
    group.add_argument("--threads", type=count, help="CPU threads of the networks (all cores)")


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes."""
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")


def add_edit_option(parser: argparse.ArgumentParser) -> None:
    """Add what is changed."""
    parser.add_argument(
        "--edit",
        action="append",
        default=[],
        metavar="NAME=STRENGTH",
        help="as smile=2, smile=0@0s,3@2s,0@4s or smile=2:face=1; may be repeated. "
        "`vidinvert models show mini` lists the names",
    )


def add_edit_options(parser: argparse.ArgumentParser) -> None:
    """Add what is done, and to clips without a face."""
    add_edit_option(parser)
    parser.add_argument(
        "--salvage",
        action="store_true",
        help="of a damaged clip, edit and write the frames that are whole; the report counts the "
        "others (a damaged clip is refused)",
    )
    parser.add_argument(
        "--hwaccel",
        choices=("cuda",),
        help="decode by the GPU in all passes but the first, which every frame is compared with",
    )
    parser.add_argument(
        "--allow-no-face", action="store_true", help="copy a clip without faces instead of failing"
    )


def add_coding_options(parser: argparse.ArgumentParser) -> Any:
    """Add how the output is encoded; returns the group, for more options."""
    coding = parser.add_argument_group("output")
    coding.add_argument("--codec", help="as libx264 (the source's)")
    coding.add_argument("--crf", type=number(0, 63), help="quality, lower is better")
    coding.add_argument("--preset", help="speed against size, as medium")
    coding.add_argument("--pixel-format", help="as yuv420p (the source's)")
    coding.add_argument(
        "--allow-loss",
        action="store_true",
        help="write HDR with 8 bits, or without Dolby Vision's data, where the output has no more",
    )
    coding.add_argument("--no-mark", action="store_true", help="no metadata tag on the edit")
    coding.add_argument(
        "--c2pa-certificate",
        type=Path,
        metavar="FILE.pem",
        help="sign the output, a .mp4 or .mov, with a C2PA manifest: the signer's certificate, "
        "then those that vouch for it (pip install 'vidinvert[c2pa]')",
    )
    coding.add_argument(
        "--c2pa-key", type=Path, metavar="FILE.pem", help="the private key of --c2pa-certificate"
    )
    return coding


def add_face_options(parser: argparse.ArgumentParser) -> None:
    """Add what decides which frames and which faces are worked on, measured now or earlier."""
    kept = add_tracking_options(parser).add_mutually_exclusive_group()
    kept.add_argument(
        "--analysis",
        type=Path,
        metavar="FILE.npz",
        help="take faces, codes and masks from a kept analysis instead of measuring again",
    )
    kept.add_argument(
        "--save-analysis", type=Path, metavar="FILE.npz", help="keep what was measured"
    )


def add_tracking_options(parser: argparse.ArgumentParser) -> Any:
    """Add which frames and faces are measured; returns the group, for more options."""
    parser.add_argument(
        "--face",
        help="largest, all, numbers as 0,2, or a photo (largest; with --analysis: all it holds)",
    )
    tracking = parser.add_argument_group("finding faces")
    tracking.add_argument("--min-score", type=number(0.01, 0.99), default=0.5, help="(0.5)")
    tracking.add_argument("--min-size", type=number(0), default=24.0, help="in pixels (24)")
    tracking.add_argument("--start", type=number(0), help="in seconds")
    tracking.add_argument("--end", type=number(0), help="in seconds")
    return tracking


def add_look_options(parser: argparse.ArgumentParser) -> None:
    """Add what decides how faces come back into the frames."""
    look = parser.add_argument_group("look")
    for name, what in (("align", "crop"), ("latent", "codes"), ("mask", "mask")):
        look.add_argument(
            f"--{name}-smoothing",
            type=mask_filter_text if name == "mask" else filter_text,
            metavar="FILTER",
            help=f"of the {what}: none, or gaussian, savgol, median, bilateral, one-euro, kalman, "
            f"tv{', flow' if name == 'mask' else ''}[:PARAM=VALUE,...] in seconds or Hz, as "
            "gaussian:sigma=0.1",
        )
    look.add_argument(
        "--change-smoothing",
        type=change_filter_text,
        metavar="FILTER",
        help="of what the edit changes, in the composite warped: none, gaussian:sigma=SECONDS, or "
        "flow:time=SECONDS,levels=GREY along the face's motion",
    )
    look.add_argument(
        "--fade",
        type=number(0),
        default=0.3,
        metavar="SECONDS",
        help="how long an edit takes to set in where a face comes or goes (0.3)",
    )
    look.add_argument(
        "--composite",
        choices=("warped", "residual", "generated"),
        help="move the source's pixels as the edit does, add the change to them, or show the "
        "method's own picture (warped; generated with --method diffcam)",
    )
    look.add_argument("--seam", choices=("feather",), default="feather")
    masks = parser.add_argument_group("masks (1 = the source is kept)")
    masks.add_argument(
        "--mask-min", type=number(0, 1), default=0.0, help="masks below count as 0 (0)"
    )
    masks.add_argument(
        "--mask-max", type=number(0, 1), default=1.0, help="masks above count as 1 (1)"
    )
    masks.add_argument(
        "--mask-dilate",
        type=number(-0.25, 0.25),
        default=0.0,
        metavar="SHARE",
        help="grow what is kept by this share of the crop's side; below 0 shrink it (0)",
    )
    masks.add_argument(
        "--mask-blur",
        type=number(0, 0.25),
        default=0.0,
        metavar="SHARE",
        help="soften the mask by this share of the crop's side (0)",
    )
    masks.add_argument(
        "--mask-override",
        type=Path,
        metavar="DIR|FILE",
        help="painted masks of a frame's size, white = keep the source: pictures named by frame "
        "number, or a video of masks",
    )


def check_options(options: argparse.Namespace) -> None:
    """Check what no single option can say.

    Raises:
        PlanError: the mask's limits or the part of the clip are the wrong way round, or only one of
            a certificate and its key is named.
    """
    from vidinvert.errors import PlanError

    if options.mask_max <= options.mask_min:
        raise PlanError(f"--mask-max {options.mask_max:g} must lie above --mask-min.")
    if options.end is not None and options.end <= (options.start or 0.0):
        raise PlanError(f"--end {options.end:g} must lie after --start {options.start or 0:g}.")
    credentials_from(options)


def credentials_from(options: argparse.Namespace) -> "Credentials | None":
    """Turn the options of signing into credentials; None where the command has or got none.

    Raises:
        PlanError: only one of the two is named.
    """
    from vidinvert.errors import PlanError
    from vidinvert.types import Credentials

    certificate = getattr(options, "c2pa_certificate", None)
    key = getattr(options, "c2pa_key", None)
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise PlanError("--c2pa-certificate and --c2pa-key are a pair; give both, or neither.")
    return Credentials(certificates=certificate, key=key)


def span_from(options: argparse.Namespace) -> "Span | None":
    """Turn --start and --end into a span; None where neither is given."""
    from vidinvert.pipeline import Span

    if options.start is None and options.end is None:
        return None
    return Span(start_seconds=options.start or 0.0, end_seconds=options.end)


def method_from(options: argparse.Namespace) -> str:
    """Join the method and its options, as `samm:cycles=1`."""
    chosen = {"cycles": options.cycles, "steps": options.invert_steps}
    text = ",".join(f"{name}={value}" for name, value in chosen.items() if value is not None)
    return f"{options.method}:{text}" if text else options.method


def load_models(options: argparse.Namespace, *, finds_cuts: bool = False) -> "Models":
    """Load the face pack that the options name, on the device they choose.

    `finds_cuts`: what finds cuts will be needed too, and is loaded beside it.
    """
    from concurrent.futures import ThreadPoolExecutor

    from vidinvert.cli.device import (
        check_graphs,
        choose_devices,
        choose_precision,
        keep_memory,
        share_threads,
    )
    from vidinvert.media import load_shot_library
    from vidinvert.pipeline import load_pack

    keep_memory()
    workers = share_threads(options.threads, pack=options.pack)
    devices = choose_devices(options.device)
    with ThreadPoolExecutor(1) as beside:
        if finds_cuts:
            beside.submit(load_shot_library)
        return load_pack(
            options.pack,
            method=method_from(options),
            device=",".join(devices),
            precision=choose_precision(options.precision, devices[0]),
            min_score=options.min_score,
            min_size=options.min_size,
            workers=workers,
            cuda_graphs=check_graphs(options.cuda_graphs, devices),
        )


def plans_from(options: argparse.Namespace) -> "Plans":
    """Turn options into plans; what is not given keeps the plans' own defaults."""
    from vidinvert.types import EncodeSettings, Plans, RenderPlan, TrackingPlan

    return Plans(
        tracking=TrackingPlan(min_score=options.min_score, min_size=options.min_size),
        stabilizer=stabilizer_from(options),
        render=RenderPlan(
            composite=options.composite,
            seam=options.seam,
            mask_min=options.mask_min,
            mask_max=options.mask_max,
            mask_dilate=options.mask_dilate,
            mask_blur=options.mask_blur,
            mask_override=options.mask_override,
            fade_seconds=options.fade,
            batch_size=options.batch_size,
        ),
        encode=EncodeSettings(
            codec=options.codec,
            crf=options.crf,
            preset=options.preset,
            pixel_format=options.pixel_format,
            mark=not options.no_mark,
            allow_loss=options.allow_loss,
        ),
        salvage=getattr(options, "salvage", False),
        credentials=credentials_from(options),
        hwaccel=getattr(options, "hwaccel", None),
    )


def stabilizer_from(options: argparse.Namespace) -> "StabilizerPlan":
    """Turn the smoothing options into a plan."""
    from stabilizers import StabilizerPlan, parse_filter, parse_mask_filter

    plan = StabilizerPlan()
    chosen: dict[str, Any] = {}
    for name, text, parse in (
        ("transforms", options.align_smoothing, parse_filter),
        ("latents", options.latent_smoothing, parse_filter),
        ("mask", options.mask_smoothing, parse_mask_filter),
        ("change", options.change_smoothing, read_change_filter),
    ):
        if text is not None:
            chosen[name] = parse(text)
    return replace(plan, **chosen)


class ProgressBars:
    """One bar on stderr per stage, in frames."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` frames have passed a stage."""
        if self._quiet:
            return
        if stage != self._stage:
            self.close()
            self._stage = stage
            self._bar = tqdm(total=total, desc=stage, unit="frame", file=sys.stderr, leave=True)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the current bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
