"""Units of work for tests of the batch: light ones, and the real editor made to fail.

A light source is a text file with a number of steps. Its result is a file with one line a step,
made piece by piece, and every step leaves a line in a ledger, so that work done twice shows.
"""

import ctypes
import hashlib
import os
import time
from pathlib import Path

from vidinvert.batch import Order, Setup
from vidinvert.errors import OpenError

STEPS_A_PIECE = 4
STEP_SECONDS = 0.004
TOUCHED = []  # what a worker that eats memory holds on to


def write_source(directory: Path, name: str, steps: int = 12) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{steps} {name!a}")
    return path


def orders_below(directory: Path) -> list[Order]:
    """One order per source; outputs are called like videos."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return [
        Order(source=path, output=path.relative_to(directory).with_suffix(".mp4")) for path in files
    ]


def light_setup(**options) -> Setup:
    return Setup(job="tests.batch.jobs:open_light", **options)


def break_down(name: str, work: Path, tell) -> None:
    """Do to this process what the source's name asks for, `once` only in the first attempt."""
    first = not (work / "tried").exists()
    work.mkdir(parents=True, exist_ok=True)
    (work / "tried").touch()
    if "once" in name and not first:
        return
    if "segfault" in name:
        ctypes.string_at(0)
    if "hang" in name:
        time.sleep(3600)
    if "memory" in name:
        while True:  # until the supervisor ends it
            TOUCHED.append(b"x" * (64 << 20))
            tell("detect", len(TOUCHED), 1000)  # slow machines are not to be taken for stuck
            time.sleep(0.005)
    if "allocate" in name:
        raise MemoryError
    if "bug" in name:
        raise ZeroDivisionError("a mistake\nin two lines")
    if "refuse" in name:
        raise OpenError(f"{name} is no video")


def open_light(setup: Setup, device: str):
    """Returns a job without networks: see above."""
    del setup, device

    def carry_out(order, *, work, result, tell):
        print(f"working on {order.source.name!a}", flush=True)
        break_down(order.source.name, work, tell)
        steps = int(order.source.read_text().split()[0])
        pieces = []
        for first in range(0, steps, STEPS_A_PIECE):
            piece = work / f"piece-{first}"
            if not piece.exists():
                piece.with_suffix(".new").write_text(_piece(order, first, steps))
                piece.with_suffix(".new").replace(piece)
                note(order, f"piece {first}")
            pieces.append(piece)
            tell("render", min(steps, first + STEPS_A_PIECE), steps)
        result.write_text("".join(piece.read_text() for piece in pieces))
        note(order, "result")
        return {"written": steps, "tracks": [], "seconds": {"total": 0.1}}

    return carry_out


def _piece(order: Order, first: int, steps: int) -> str:
    lines = []
    for step in range(first, min(steps, first + STEPS_A_PIECE)):
        time.sleep(STEP_SECONDS)
        text = f"{order.source.read_text()} {step} {order.edits}"
        lines.append(hashlib.sha256(text.encode()).hexdigest() + "\n")
    return "".join(lines)


def note(order: Order, what: str) -> None:
    """Append to the ledger, which the environment names."""
    ledger = os.environ.get("BATCH_LEDGER")
    if ledger:
        descriptor = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.write(descriptor, os.fsencode(f"{order.output} {what}\n"))
        os.close(descriptor)


def open_unfit(setup: Setup, device: str):
    """A job that a worker cannot load."""
    raise OpenError("there is no pack")


def open_stillborn(setup: Setup, device: str):
    """A job whose worker dies while it loads."""
    os.abort()


def open_fragile_editor(setup: Setup, device: str):
    """The real editor; sources whose names ask for it break their worker instead.

    What it does goes to the ledger, so that work done twice shows. BATCH_SEGMENT_FRAMES makes its
    segments so short that a clip of a few frames has several.
    """
    from vidinvert import pipeline
    from vidinvert.batch.work import open_editor

    pipeline.SEGMENT_FRAMES = int(os.environ.get("BATCH_SEGMENT_FRAMES", pipeline.SEGMENT_FRAMES))
    edit = open_editor(setup, device)

    def carry_out(order, *, work, result, tell):
        def noted(stage, done, total):
            note(order, f"{stage} {done}")
            tell(stage, done, total)

        break_down(order.source.name, work, tell)
        return edit(order, work=work, result=result, tell=noted)

    return carry_out
