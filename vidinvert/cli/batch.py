"""`vidinvert batch`: many clips, resumable; one that fails does not end the others."""

import argparse
import copy
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vidinvert.cli.batch_progress import BatchBar, JsonLines, summarise
from vidinvert.cli.device import tell_of_graphs
from vidinvert.cli.options import (
    add_coding_options,
    add_common_options,
    add_edit_options,
    add_look_options,
    add_pack_options,
    add_tracking_options,
    check_options,
    count,
    method_from,
    number,
    plans_from,
    span_from,
)
from vidinvert.errors import PlanError

if TYPE_CHECKING:
    from vidinvert.batch import Found, Limits, Order, Setup

WORKER_BYTES = 2 * 2**30  # what one worker is given where memory decides how many there are
NOT_OF_A_CLIP = ("min-score", "min-size", "edit")  # the detector is loaded once; see `edits`
RESUME_HINT = "run the same command again to go on where it was"


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "batch",
        help="edit the faces of many clips, resumable",
        description="Edit the faces of many clips. The output mirrors the input's tree. A run that "
        "was ended in any way goes on where it was when it is started again.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="clips, directories, globs with **, or manifests (.csv, .jsonl) with source, output, "
        "edits and any option below by its name",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    _add_clip_options(parser)
    parser.add_argument("--suffix", metavar=".mp4", help="of all outputs (the source's)")
    parser.add_argument(
        "--metrics", action="store_true", help="compare results with their sources, for report.csv"
    )
    parser.add_argument("--force", action="store_true", help="replace outputs that are there")
    parser.add_argument("--retry-failed", action="store_true", help="try given-up clips again")
    parser.add_argument("--dry-run", action="store_true", help="list what would be done")
    running = parser.add_argument_group("workers")
    running.add_argument("--engine", choices=("local", "ray"), default="local", help="(local)")
    running.add_argument("--workers", type=count, help="processes (as cores and memory allow)")
    running.add_argument("--ray-address", metavar="HOST:PORT", help="a running Ray cluster")
    running.add_argument(
        "--time-limit", type=number(0), metavar="SECONDS", help="for one clip (none)"
    )
    running.add_argument(
        "--stall-limit", type=number(1), default=600.0, metavar="SECONDS", help="stuck after (600)"
    )
    running.add_argument(
        "--memory-limit", type=number(1), metavar="MB", help="of one worker (its share of 90 %%)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")
    add_pack_options(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def _add_clip_options(parser: argparse.ArgumentParser) -> None:
    """Add what may differ from clip to clip."""
    add_edit_options(parser)
    add_tracking_options(parser)
    add_look_options(parser)
    add_coding_options(parser)


def run(options: argparse.Namespace) -> int:
    """Edit the clips; prints a table of what became of them."""
    from vidinvert.batch import run_batch, write_reports
    from vidinvert.media import check_hardware

    orders = plan_orders(options)
    setup = plan_setup(options)
    check_edits(orders, setup)
    check_signers(orders)
    if options.hwaccel is not None and options.engine == "local":  # Ray's nodes look for themselves
        check_hardware(options.hwaccel)
    if options.dry_run:
        return _dry_run(orders, setup, options)
    if options.ray_address is not None and options.engine != "ray":
        raise PlanError("--ray-address is for --engine ray; add that, or leave the address out.")
    workers, setup = choose_workers(options, setup, clips=len(orders))
    watch: Any = JsonLines() if options.json else BatchBar(orders, quiet=options.quiet)
    try:
        outcomes = run_batch(
            orders,
            options.output,
            setup=setup,
            open_engine=_open_engine(options, workers),
            workers=workers,
            limits=plan_limits(options, workers),
            overwrite=options.force,
            retry_failed=options.retry_failed,
            watch=watch,
        )
    except KeyboardInterrupt:
        watch.close()
        print(f"vidinvert: interrupted; {RESUME_HINT}", file=sys.stderr)
        return 130
    finally:
        watch.close()
    write_reports(outcomes, options.output)
    reports = [outcome.report or {} for outcome in outcomes]
    tell_of_graphs(options.cuda_graphs, [report.get("cuda_graphs") for report in reports])
    if options.json:
        watch.summary(outcomes)
    else:
        print(summarise(outcomes, options.output))
    return 1 if any(outcome.state == "failed" for outcome in outcomes) else 0


def plan_orders(options: argparse.Namespace) -> list["Order"]:
    """Find the clips, and give each its own options.

    Raises:
        PlanError: see `find_clips`; or a manifest names an option that a clip cannot have.
    """
    from vidinvert.batch import OUTPUT_SUFFIXES, find_clips

    suffix: str | None = options.suffix
    if suffix is not None and suffix not in OUTPUT_SUFFIXES:
        known = ", ".join(OUTPUT_SUFFIXES)
        raise PlanError(f"The suffix {suffix!r} cannot be written, expected one of {known}.")
    if options.output.exists() and not options.output.is_dir():
        raise PlanError(f"{options.output} is a file, expected a directory for the outputs.")
    found = find_clips(options.inputs, skip=options.output, suffix=suffix)
    return [_order(clip, options) for clip in found]


def _order(clip: "Found", common: argparse.Namespace) -> "Order":
    from vidinvert.batch import Order

    chosen = _with_own_options(clip, common)
    try:
        check_options(chosen)
    except PlanError as error:
        raise PlanError(f"{clip.place}: {error}") from error
    return Order(
        source=clip.source,
        output=clip.output,
        edits=tuple(common.edit) if clip.edits is None else clip.edits,
        face=chosen.face,
        span=span_from(chosen),
        allow_no_face=chosen.allow_no_face,
        plans=plans_from(chosen),
    )


class _ClipParser(argparse.ArgumentParser):
    """Reads a clip's own options; a wrong one is an exception, not the end."""

    def error(self, message: str) -> NoReturn:
        raise PlanError(message)


def _with_own_options(clip: "Found", common: argparse.Namespace) -> argparse.Namespace:
    """Read the options of a manifest's line as if they had been typed."""
    if not clip.options:
        return common
    parser = _ClipParser(add_help=False, allow_abbrev=False)
    _add_clip_options(parser)
    actions = {action.option_strings[0][2:]: action for action in parser._actions}
    typed: list[str] = []
    for name, value in clip.options.items():
        action = actions.get(name)
        if action is None or name in NOT_OF_A_CLIP:
            known = ", ".join(sorted(set(actions) - set(NOT_OF_A_CLIP)))
            raise PlanError(
                f"{clip.place}: {name!r} is no option of one clip, expected source, output, edits "
                f"or one of {known}."
            )
        if action.nargs == 0:
            if value.lower() not in ("true", "false", "1", "0", "yes", "no"):
                raise PlanError(f"{clip.place}: {name} is {value!r}, expected true or false.")
            typed += [f"--{name}"] if value.lower() in ("true", "1", "yes") else []
        else:
            typed += [f"--{name}={value}"]
    try:
        return parser.parse_args(typed, namespace=copy.copy(common))
    except PlanError as error:
        raise PlanError(f"{clip.place}: {error}") from error


def plan_setup(options: argparse.Namespace) -> "Setup":
    """Choose pack and devices; threads are chosen with the workers."""
    from vidinvert.batch import Setup
    from vidinvert.checkpoints import find_pack
    from vidinvert.cli.device import (
        check_graphs,
        choose_devices,
        choose_precision,
        count_devices,
    )

    devices = choose_devices(options.device)
    if options.device in ("auto", "cuda") and devices != ("cpu",):
        devices = tuple(f"cuda:{n}" for n in range(count_devices()))
    return Setup(
        pack=options.pack,
        pack_sha256=find_pack(options.pack).sha256,
        method=method_from(options),
        devices=devices,
        precision=choose_precision(options.precision, devices[0]),
        cuda_graphs=check_graphs(options.cuda_graphs, devices),
        min_score=options.min_score,
        min_size=options.min_size,
        metrics=options.metrics,
    )


def check_edits(orders: Sequence["Order"], setup: "Setup") -> None:
    """Read every clip's edits once, before any work.

    Raises:
        PlanError: one cannot be read; the message names the clip.
    """
    from vidinvert.checkpoints import find_pack, load_directions
    from vidinvert.editing import parse_edits

    directions = load_directions(find_pack(setup.pack))
    for edits in dict.fromkeys(order.edits for order in orders):
        try:
            parse_edits(edits, directions)
        except PlanError as error:
            first = next(order for order in orders if order.edits == edits)
            raise PlanError(f"{first.source.name}: {error}") from error


def check_signers(orders: Sequence["Order"]) -> None:
    """Read every certificate and key once, before any work.

    Raises:
        PlanError: one does not sign.
    """
    from vidinvert.media import check_credentials

    plans = [order.plans for order in orders if order.plans is not None]
    for credentials in {plan.credentials for plan in plans if plan.credentials is not None}:
        check_credentials(credentials)


def choose_workers(
    options: argparse.Namespace, setup: "Setup", *, clips: int
) -> tuple[int, "Setup"]:
    """Share the cores among the workers.

    Raises:
        PlanError: workers times threads are more than there are cores.
    """
    from dataclasses import replace

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    workers: int | None = options.workers
    if workers is None:
        room = max(1, memory_bytes() // WORKER_BYTES)
        most = cores if setup.devices == ("cpu",) else len(setup.devices)
        workers = max(1, min(most, room, clips))
    threads: int = options.threads or max(1, cores // workers)
    if options.ray_address is None and workers * threads > cores:
        raise PlanError(
            f"{workers} workers with {threads} threads each need {workers * threads} cores, this "
            f"machine gives {cores}; choose fewer --workers or --threads."
        )
    return workers, replace(setup, threads=threads)


def plan_limits(options: argparse.Namespace, workers: int) -> "Limits":
    """Turn options into limits; memory is shared evenly where nothing is said."""
    from vidinvert.batch import Limits

    share = int(0.9 * memory_bytes()) // workers or None
    megabytes: float | None = options.memory_limit
    return Limits(
        clip_seconds=options.time_limit or None,
        stall_seconds=options.stall_limit,
        memory_bytes=share if megabytes is None else int(megabytes * 2**20),
    )


def memory_bytes() -> int:
    """Return the memory of this machine, or of the container it pretends to be; 0 if unknown."""
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0
    try:
        bound = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # not in a container, or without a bound ("max")
        return pages * size
    return min(bound, pages * size)


def _open_engine(options: argparse.Namespace, workers: int) -> Any:
    from vidinvert.batch import LocalEngine, RayEngine

    if options.engine == "local":
        return lambda setup, state: LocalEngine(setup, directory=state)
    return lambda setup, state: RayEngine(
        setup, directory=state, workers=workers, address=options.ray_address
    )


def _dry_run(orders: Sequence["Order"], setup: "Setup", options: argparse.Namespace) -> int:
    """List what would be done, one clip a line; writes nothing."""
    from vidinvert.batch import list_done

    done = list_done(orders, options.output, setup=setup)
    for order in orders:
        state = "done already" if order.output in done else "to do"
        described = {
            "source": os.fsencode(order.source).decode("utf-8", "replace"),
            "output": os.fsencode(order.output).decode("utf-8", "replace"),
            "edits": list(order.edits),
            "state": state,
        }
        if options.json:
            print(json.dumps(described))
        else:
            edits = " ".join(order.edits) or "no edits"
            print(f"{state}: {described['source']} -> {described['output']} ({edits})")
    if not options.json:
        print(f"{len(orders)} clips, {len(orders) - len(done)} to do")
    return 0
