"""`vidinvert image`: tools on pictures of faces: interpolate, mix, diffuse."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidinvert.cli.device import tell_of_graphs
from vidinvert.cli.options import (
    add_common_options,
    add_pack_options,
    count,
    load_models,
    number,
)

if TYPE_CHECKING:
    from torch import Tensor

    from vidinvert.pipeline import Models

SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_PICTURES, MAX_STEPS = 64, 10_000


def add_parser(commands: Any) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser(
        "image",
        help="pictures of faces: interpolate, mix styles, diffuse one into another",
        description="In-Domain inversion's tools on pictures, with any pack and method.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = actions.add_parser("interpolate", help="from one face to another, a strip of pictures")
    _add_files(action, "FIRST", "SECOND")
    action.add_argument("--count", type=count, default=7, help="pictures, both ends included (7)")
    action.set_defaults(run=run_interpolate)
    action = actions.add_parser("mix", help="some levels of the codes from another face")
    _add_files(action, "CONTENT", "STYLE")
    action.add_argument(
        "--layers",
        type=_layers,
        metavar="FIRST-LAST",
        help="style vectors taken from STYLE (the finer half)",
    )
    action.set_defaults(run=run_mix)
    action = actions.add_parser("diffuse", help="the middle of one face into another's portrait")
    _add_files(action, "TARGET", "CONTEXT")
    action.add_argument(
        "--box",
        type=_box,
        metavar="L,T,W,H",
        help="part of TARGET that is kept: left, top, width, height as shares of the crop "
        "(0.273,0.352,0.430,0.430)",
    )
    action.add_argument("--steps", type=count, default=100, help="of optimisation (100)")
    action.add_argument(
        "--rate", type=number(1e-5, 1), default=0.01, help="of optimisation, per step (0.01)"
    )
    action.set_defaults(run=run_diffuse)


def _add_files(parser: argparse.ArgumentParser, first: str, second: str) -> None:
    parser.add_argument("first", type=Path, metavar=first, help="PNG or JPEG; the largest face")
    parser.add_argument("second", type=Path, metavar=second)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="PNG or JPEG"
    )
    parser.add_argument(
        "--sheet", action="store_true", help="the sources and what lies between beside the result"
    )
    parser.add_argument(
        "--aligned", action="store_true", help="the pictures are square crops in FFHQ framing"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument("--min-score", type=number(0.01, 0.99), default=0.5, help="of faces (0.5)")
    parser.add_argument("--min-size", type=number(0), default=24.0, help="of faces, pixels (24)")
    add_pack_options(parser)
    add_common_options(parser)


def run_interpolate(options: argparse.Namespace) -> int:
    """Write a strip of pictures; prints its path."""
    import torch

    from vidinvert.errors import PlanError
    from vidinvert.portraits import find_codes, interpolate

    if not 2 <= options.count <= MAX_PICTURES:
        raise PlanError(f"--count is {options.count}, expected 2 to {MAX_PICTURES} pictures.")
    models, first, second = _open(options)
    codes = interpolate(
        find_codes(first, models.method), find_codes(second, models.method), count=options.count
    )
    with torch.inference_mode():
        made = torch.cat([models.method.generate(w[None]) for w in codes])
    return _write(options, torch.cat([first, made, second]) if options.sheet else made, models)


def run_mix(options: argparse.Namespace) -> int:
    """Write the mixed picture; prints its path."""
    import torch

    from vidinvert.portraits import find_codes, mix

    models, first, second = _open(options)
    half = models.method.style_count // 2
    layers = options.layers or range(half, models.method.style_count)
    content, style = find_codes(first, models.method), find_codes(second, models.method)
    with torch.inference_mode():
        image = models.method.generate(mix(content, style, layers=layers))
        ends = [models.method.generate(code) for code in (content, style)]
    pictures = [first, ends[0], image, ends[1], second]
    return _write(options, torch.cat(pictures) if options.sheet else image, models)


def run_diffuse(options: argparse.Namespace) -> int:
    """Write the diffused picture; prints its path."""
    from dataclasses import replace

    import torch

    from vidinvert.errors import PlanError
    from vidinvert.portraits import DIFFUSION_BOX, DIFFUSION_PLAN, diffuse

    if options.steps > MAX_STEPS:
        raise PlanError(f"--steps is {options.steps}, expected up to {MAX_STEPS}.")
    models, target, context = _open(options)
    done = diffuse(
        target,
        context,
        models.method,
        box=options.box or DIFFUSION_BOX,
        plan=replace(DIFFUSION_PLAN, steps=options.steps, rate=options.rate),
    )
    pictures = [target, context, done.stitched, done.inverted, done.image]
    return _write(options, torch.cat(pictures) if options.sheet else done.image, models)


def _open(options: argparse.Namespace) -> "tuple[Models, Tensor, Tensor]":
    """Check the output's place, load the pack, and read both pictures."""
    from vidinvert.errors import EncodeError
    from vidinvert.portraits import read_portrait

    target: Path = options.output
    if target.suffix.lower() not in SUFFIXES or not target.parent.is_dir():
        raise EncodeError(
            f"{target} cannot be a picture, expected FILE.png or FILE.jpg in an existing folder."
        )
    if target.is_dir() or (target.exists() and not options.force):
        raise EncodeError(f"{target} exists; choose another name or replace it with --force.")
    models = load_models(options)
    first, second = (
        read_portrait(path, models, aligned=options.aligned)
        for path in (options.first, options.second)
    )
    return models, first, second


def _write(options: argparse.Namespace, pictures: "Tensor", models: "Models") -> int:
    from vidinvert import images
    from vidinvert.methods import describe_graphs
    from vidinvert.portraits import strip

    picture = strip(pictures)
    if options.output.suffix.lower() == ".png":
        images.write_png(options.output, picture)
    else:
        images.write_jpeg(options.output, picture, height=picture.shape[0])
    tell_of_graphs(options.cuda_graphs, [describe_graphs(models.method)])
    print(options.output)
    return 0


def _layers(text: str) -> range:
    match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected FIRST-LAST, as 2-3 (both are taken)")
    return range(int(match[1]), int(match[2] or match[1]) + 1)


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        left, top, width, height = (number(0, 1)(part) for part in text.split(","))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected LEFT,TOP,WIDTH,HEIGHT as shares of the crop, from 0 to 1"
        ) from error
    return left, top, width, height
