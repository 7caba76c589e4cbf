"""`vidinvert models`: face packs, what is in them, whether they are whole, and making them."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidinvert.cli.model_files import add_import, add_pull
from vidinvert.cli.options import add_common_options, number

ROWS, COLUMNS = 3, 6  # of a sheet of random faces


def add_parser(commands: Any) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser("models", help="list, show, verify, import and fetch face packs")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_import(actions)
    add_pull(actions)
    listing = actions.add_parser("list", help="the packs that can be named")
    listing.set_defaults(run=run_list)
    add_common_options(listing)
    for name, run, text in (
        ("show", run_show, "what a pack holds: edits, licence, origin, figures"),
        ("verify", run_verify, "check every file of a pack against its sha256"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("pack", metavar="PACK", help="a name or a directory")
        add_common_options(action)
        action.set_defaults(run=run)
        if name == "show":
            action.add_argument(
                "--sheet", type=Path, metavar="FILE.png", help="also draw random faces of the pack"
            )
            action.add_argument("--seed", type=int, default=0, help="of the faces (0)")
            action.add_argument(
                "--truncation",
                type=number(0.0, 2.0),
                default=0.7,
                help="1 = varied as real ones (0.7)",
            )
            action.add_argument("--force", action="store_true", help="replace an existing sheet")


def run_list(options: argparse.Namespace) -> int:
    """Print one line a pack."""
    from vidinvert.checkpoints import list_packs

    del options
    for pack in list_packs():
        print(f"{pack.name}  {pack.version}  {pack.crop_size} px  {pack.license}  {pack.summary}")
    return 0


def run_show(options: argparse.Namespace) -> int:
    """Print what a pack says of itself."""
    from vidinvert.checkpoints import find_pack

    pack = find_pack(options.pack)
    print(f"{pack.name} {pack.version}: {pack.summary}")
    print(f"directory  {pack.directory}")
    print(f"licence    {pack.license}")
    codes = f"{pack.style_count} x {pack.style_width} codes"
    print(f"generator  {pack.generator}, {pack.crop_size} px, {codes}")
    print(f"sha256     {pack.sha256}")
    print("edits")
    for name, meta in sorted(pack.directions.items()):
        figures = "".join(f"; {key} {value:g}" for key, value in meta.figures.items())
        print(f"  {name:<12} {meta.unit}{figures}")
    print("files")
    for name, file in pack.files.items():
        print(f"  {name:<12} {file.size_bytes / 1e6:8.2f} MB  {file.sha256[:16]}")
    for title, table in (("figures", pack.figures), ("origin", pack.provenance)):
        print(title)
        _print_table(table, indent=2)
    if options.sheet is not None:
        _draw_sheet(options)
        print(f"sheet      {options.sheet}")
    return 0


def _print_table(table: Mapping[str, Any], *, indent: int) -> None:
    """Print a table, and the tables in it further to the right."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            print(f"{'':{indent}}{key}")
            _print_table(value, indent=indent + 2)
        else:
            print(f"{'':{indent}}{key:<22} {value}")


def _draw_sheet(options: argparse.Namespace) -> None:
    """Write `ROWS` x `COLUMNS` faces of nobody as one picture."""
    import numpy as np
    import torch

    from vidinvert import images
    from vidinvert.errors import EncodeError, PlanError
    from vidinvert.pipeline import load_pack

    target: Path = options.sheet
    if target.suffix.lower() != ".png" or not target.parent.is_dir():
        raise EncodeError(f"{target} cannot be a sheet, expected FILE.png in an existing folder.")
    if target.exists() and not options.force:
        raise EncodeError(f"{target} exists; choose another name or replace it with --force.")
    models = load_pack(options.pack)
    draw = getattr(models.method, "draw", None)
    if draw is None:
        raise PlanError(
            f"The pack {options.pack!r} with a generator of kind {models.pack.generator!r} does "
            "not say how its codes are distributed, expected kind eigen. Leave --sheet out."
        )
    codes = draw(ROWS * COLUMNS, seed=options.seed, truncation=options.truncation)
    with torch.inference_mode():
        faces = np.concatenate(
            [images.to_uint8(models.method.generate(row)) for row in codes.split(COLUMNS)]
        )
    rows = [np.concatenate(list(row), axis=1) for row in np.split(faces, ROWS)]
    images.write_png(target, np.concatenate(rows))


def run_verify(options: argparse.Namespace) -> int:
    """Check a pack; prints `ok`."""
    from vidinvert.checkpoints import find_pack, verify_pack

    pack = find_pack(options.pack)
    verify_pack(pack)
    print(f"ok: {pack.name}, {len(pack.files)} files")
    return 0
