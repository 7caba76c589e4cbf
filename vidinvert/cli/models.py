"""`vidinvert models`: face packs, what is in them, and whether they are whole."""

import argparse
from typing import Any

from vidinvert.cli.options import add_common_options


def add_parser(commands: Any) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser("models", help="list, show and verify face packs")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
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
    print("edits      (strength 1 is one standard deviation; about -3 to 3 is useful)")
    for name, meta in sorted(pack.directions.items()):
        figures = ", ".join(f"{key} {value:g}" for key, value in meta.figures.items())
        print(f"  {name:<12} {figures}")
    print("files")
    for name, file in pack.files.items():
        print(f"  {name:<12} {file.size_bytes / 1e6:8.2f} MB  {file.sha256[:16]}")
    for title, table in (("figures", pack.figures), ("origin", pack.provenance)):
        print(title)
        for key, value in table.items():
            print(f"  {key:<22} {value}")
    return 0


def run_verify(options: argparse.Namespace) -> int:
    """Check a pack; prints `ok`."""
    from vidinvert.checkpoints import find_pack, verify_pack

    pack = find_pack(options.pack)
    verify_pack(pack)
    print(f"ok: {pack.name}, {len(pack.files)} files")
    return 0
