"""Options that several commands share, and what they are turned into."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from stabilizers import StabilizerPlan
    from vidinvert.pipeline import Models
    from vidinvert.types import Plans

METHODS = ("samm", "diffcam", "indomain", "force-indomain", "e4e", "restyle")


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

    try:
        parse_filter(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def add_pack_options(parser: argparse.ArgumentParser) -> None:
    """Add what decides which networks run, and where."""
    group = parser.add_argument_group("networks")
    group.add_argument("--pack", default="mini", help="face pack: a name or a directory (mini)")
    group.add_argument("--method", default="samm", choices=METHODS, help="how to invert (samm)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    group.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="(auto)"
    )
    group.add_argument("--batch-size", type=count, default=8, help="crops per pass (8)")
    group.add_argument("--threads", type=count, help="CPU threads of the networks (all cores)")


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes."""
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")


def load_models(options: argparse.Namespace) -> "Models":
    """Load the face pack that the options name, on the device they choose."""
    import torch

    from vidinvert.cli.device import choose_device, choose_precision, keep_memory
    from vidinvert.pipeline import load_pack

    keep_memory()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    return load_pack(
        options.pack,
        method=options.method,
        device=device,
        precision=choose_precision(options.precision, device),
        min_score=options.min_score,
        min_size=options.min_size,
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
            batch_size=options.batch_size,
        ),
        encode=EncodeSettings(
            codec=options.codec,
            crf=options.crf,
            preset=options.preset,
            pixel_format=options.pixel_format,
            mark=not options.no_mark,
        ),
    )


def stabilizer_from(options: argparse.Namespace) -> "StabilizerPlan":
    """Turn the three smoothing options into a plan."""
    from stabilizers import StabilizerPlan, parse_filter

    plan = StabilizerPlan()
    chosen: dict[str, Any] = {}
    for name, text in (
        ("transforms", options.align_smoothing),
        ("latents", options.latent_smoothing),
        ("mask", options.mask_smoothing),
    ):
        if text is not None:
            chosen[name] = parse_filter(text)
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
