"""`vidinvert models import`: official files into face packs."""

import argparse
import re
from pathlib import Path
from typing import Any

from vidinvert.cli.options import add_common_options

KINDS = ("stylegan2", "e4e", "samm", "directions")
EXAMPLES = """
  vidinvert models import stylegan2 ffhq.pkl -o faces --license "Nvidia Source Code License"
  vidinvert models import e4e e4e_ffhq_encode.pt -o faces --license MIT
  vidinvert models import samm net_g_410000.pth -o faces
  vidinvert models import directions smile.npy old=age.pt -o faces --scale unit --license MIT

A pack grows: import what belongs to one generator into the same pack, one file after the other.
Encoders bring their generator. Nothing of a file is run: pickles are read as data.
"""


def add_import(actions: Any) -> None:
    """Add `models import`."""
    parser = actions.add_parser(
        "import",
        help="turn official files into a face pack, or add them to one",
        epilog=f"examples:{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=f"what: {', '.join(KINDS)}")
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="official files; for directions also NAME=FILE"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="PACK", help="the pack: a name or a directory"
    )
    parser.add_argument("--license", metavar="TEXT", help="licence of the files (stated unknown)")
    parser.add_argument(
        "--detector",
        default="mini",
        metavar="PACK",
        help="whose face detector a new pack takes over, with its licence; or none (mini)",
    )
    parser.add_argument("--force", action="store_true", help="replace what the pack has already")
    group = parser.add_argument_group("directions")
    group.add_argument(
        "--scale",
        type=_scale,
        default="file",
        metavar="file|unit|X",
        help="vectors as they are (file), of length 1, or times X",
    )
    group.add_argument(
        "--layers",
        type=_layers,
        metavar="FIRST-LAST",
        help="style vectors to move (all, or what the file says)",
    )
    group.add_argument("--component", type=int, metavar="N", help="which of a GANSpace file")
    group.add_argument("--unit", metavar="TEXT", help="what a strength of 1 means")
    add_common_options(parser)
    parser.set_defaults(run=run_import)


def run_import(options: argparse.Namespace) -> int:
    """Import files and print what the pack is now."""
    from vidinvert import official

    target = _find_target(options.output)
    if options.kind == "directions":
        pack = official.import_directions(
            _named_files(options.files),
            target,
            official.DirectionPlan(
                scale=options.scale,
                layers=options.layers,
                component=options.component,
                unit=options.unit,
                license=options.license,
                overwrite=options.force,
            ),
        )
    else:
        pack = official.import_files(
            [Path(name) for name in options.files],
            target,
            official.ImportPlan(
                kind=options.kind,
                license=options.license,
                detector=None if options.detector == "none" else options.detector,
                overwrite=options.force,
            ),
        )
    codes = f"{pack.style_count} x {pack.style_width} codes"
    print(f"{pack.name}: {pack.generator}, {pack.crop_size} px, {codes}")
    print(f"directory  {pack.directory}")
    print(f"licence    {pack.license}")
    print(f"parts      {', '.join(pack.files)}")
    print(f"directions {', '.join(sorted(pack.directions)) or 'none'}")
    return 0


def _find_target(text: str) -> Path:
    """Return the directory of a pack that is, or shall be, named or given as a directory."""
    from vidinvert.checkpoints import packs
    from vidinvert.errors import PlanError

    named = re.fullmatch(r"[A-Za-z0-9_-]+", text) and not Path(text).is_dir()
    target = packs.user_packs_directory() / text if named else Path(text)
    target = target.resolve()
    shadows = named and (packs.SHIPPED_PACKS / text).is_dir()
    if shadows or target.is_relative_to(packs.SHIPPED_PACKS):
        raise PlanError(
            f"The pack {text!r} ships with vidinvert and stays as it is. Choose another name."
        )
    return target


def _named_files(texts: list[str]) -> Any:
    """Read `NAME=FILE`; files without names are named as they are called."""
    from vidinvert.errors import PlanError
    from vidinvert.official.directions import NAME, name_files

    named: dict[str, Path] = {}
    for text in texts:
        name, _, path = text.rpartition("=")
        if not name or Path(text).is_file():
            found = name_files([Path(text)])
        elif NAME.fullmatch(name):
            found = {name: Path(path)}
        else:
            raise PlanError(f"{text!r} names a direction {name!r}, expected letters and digits.")
        for key in found:
            if key in named:
                raise PlanError(f"{key!r} is given twice. Name one of them otherwise: NAME=FILE.")
        named |= found
    return named


def _scale(text: str) -> float | str:
    if text in ("file", "unit"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected file, unit or a number but 0")
    return value


def _layers(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected FIRST-LAST, as 0-7 (both are moved)")
    return int(match[1]), int(match[2] or match[1]) + 1
