"""`vidinvert models import` and `models pull`: official files, fetched and made into packs."""

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vidinvert.cli.options import add_common_options

KINDS = (
    *("stylegan2", "stylegan3", "e4e", "psp", "restyle", "restyle_e4e", "restyle_psp"),
    *("featurestyle", "samm", "idinvert", "directions"),
)
NOT_READ = ("diffcam", "deghost")  # refused with the reason
CHECKED = {
    "published": "as its authors publish it",
    "recorded": "as it was when it was first fetched",
    "first": "recorded now: its authors publish none to compare with",
}
EXAMPLES = """
  vidinvert models import stylegan2 ffhq.pkl -o faces --license "Nvidia Source Code License"
  vidinvert models import stylegan3 stylegan3-t-ffhq-1024x1024.pkl vgg16.pth -o faces3
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
    parser.add_argument(
        "kind",
        choices=(*KINDS, *NOT_READ),
        metavar="KIND",
        help=f"what: {', '.join(KINDS)} (not read, and told why: {', '.join(NOT_READ)})",
    )
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


def add_pull(actions: Any) -> None:
    """Add `models pull`."""
    parser = actions.add_parser(
        "pull", help="fetch what is published, resumed and checked; without a name: list it"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="what to fetch")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="where to keep the files")
    parser.add_argument(
        *("--accept-licence", "--accept-license", "--yes"),
        dest="accepted",
        action="store_true",
        help="you have read the licence, which is shown first, and accept it",
    )
    add_common_options(parser)
    parser.set_defaults(run=run_pull)


def run_pull(options: argparse.Namespace) -> int:
    """Fetch files; prints their paths, and how to import them on stderr."""
    from vidinvert.checkpoints import PUBLICATIONS, fetch, find_publication, packs
    from vidinvert.errors import PlanError

    if options.name is None:
        for entry in PUBLICATIONS:
            how = "" if all(file.url for file in entry.files) else "; by hand"
            print(f"{entry.name:<26} {entry.summary} ({entry.license}{how})")
        return 0
    entry = find_publication(options.name)
    folder = (options.output or packs.user_packs_directory() / "downloads" / entry.name).resolve()
    if not options.quiet or not options.accepted:
        print(f"{entry.name}: {entry.summary}", file=sys.stderr)
        print(f"licence  {entry.license}; read it at {entry.terms}", file=sys.stderr)
    if not options.accepted:
        raise PlanError(
            f"The files of {entry.name} are under a licence: {entry.license}. Read it at "
            f"{entry.terms}, then accept it with --accept-licence."
        )
    _explain_by_hand(entry, folder)
    for file in entry.files:
        with _Bar(file.name, quiet=options.quiet) as bar:
            fetched = fetch(file, folder, progress=bar.update)
        print(fetched.path)
        if not options.quiet:
            print(f"sha256   {fetched.sha256} ({CHECKED[fetched.checked]})", file=sys.stderr)
    if not options.quiet and entry.kind in KINDS:
        names = " ".join(shlex.quote(str(folder / file.name)) for file in entry.files)
        command = f"vidinvert models import {entry.kind} {names} -o PACK"
        print(f"import   {command} --license {shlex.quote(entry.license)}", file=sys.stderr)
    return 0


def _explain_by_hand(entry: Any, folder: Path) -> None:
    """Say which files have to be fetched by hand, all of them at once."""
    from vidinvert.errors import MissingError

    absent = [f for f in entry.files if f.url is None and not (folder / f.name).is_file()]
    if absent:
        folder.mkdir(parents=True, exist_ok=True)
        for file in absent:
            print(f"by hand  {file.page}  ->  {folder / file.name}", file=sys.stderr)
        raise MissingError(
            f"{entry.name} has no stable address: its authors ({entry.home}) link to pages for "
            f"people. Fetch {', '.join(file.name for file in absent)} by hand from the pages above "
            f"into {folder}, and run this again to check and record them."
        )


class _Bar:
    """A progress bar in bytes, made when the size is known."""

    def __init__(self, name: str, *, quiet: bool) -> None:
        self.bar = tqdm(
            desc=name, unit="B", unit_scale=True, unit_divisor=1000, disable=quiet or None
        )

    def update(self, name: str, done: int, total: int | None) -> None:
        """Show how far a file is."""
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *arguments: object) -> None:
        self.bar.close()


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
