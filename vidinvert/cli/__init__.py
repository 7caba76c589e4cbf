"""The command line: the only place that prints, shows progress, exits, or picks a device.

Every command is a module with `add_parser` (cheap: no torch) and `run` (imports what it needs).
stdout carries results, stderr progress and errors.
"""

import argparse
import atexit
import gc
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from vidinvert.cli import batch, doctor, edit, evaluate, image, models, preview, train
from vidinvert.errors import PlanError, VidinvertError
from vidinvert.version import VERSION

__all__ = ["DONE", "FAILED", "INTERRUPTED", "TERMINATED", "USAGE", "build_parser", "enter", "main"]

LARGEST_PICTURE = "100000000"  # pixels; the largest cameras have as many
# Objects made between two searches for garbage: loading torch makes a million that stay, and to
# look through them again and again takes a third of a second.
GARBAGE_AFTER = 100_000
DONE, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="vidinvert",
        description="Edit the faces of talking-head videos by GAN inversion.",
        epilog="People are edited with this: have their consent, and say that a clip was edited.",
    )
    parser.add_argument("--version", action="version", version=f"vidinvert {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (edit, evaluate, preview, batch, image, models, doctor, train):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 usage, 130 or 143 ended."""
    options = build_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", LARGEST_PICTURE)  # read as cv2 is loaded
    try:
        return int(options.run(options))
    except _TerminatedError:
        print("vidinvert: ended by a signal; nothing was written", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print("vidinvert: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (VidinvertError, OSError) as error:
        return _explain(error, debug=getattr(options, "debug", False))


def enter() -> NoReturn:
    """Run the command that this process was started for, and end the process with its status.

    The process ends as any other, its threads and what was registered with `atexit` included; but
    then the system takes its memory at once, where Python and torch would take every object of
    theirs apart for more than a second.
    """
    gc.set_threshold(GARBAGE_AFTER)
    ended: list[int] = []
    atexit.register(_leave, ended)  # the first that is registered is the last that is called
    status = main()  # usage errors leave from here, before anything large was loaded
    ended.append(status)
    sys.exit(status)


def _leave(ended: list[int]) -> None:
    """End the process if its command came to an end; after an error of ours Python does."""
    if not ended:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # who reads it has gone, or it is closed
            ended[0] = ended[0] or FAILED
    os._exit(ended[0])


class _TerminatedError(KeyboardInterrupt):
    """The process was asked to end, by SIGTERM; cleaned up after like an interruption."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise _TerminatedError


def _explain(error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    text = str(error) or type(error).__name__
    if isinstance(error, OSError):
        text = f"{text} (a file could not be read or written; check its path, rights and space)"
    print(f"vidinvert: {' '.join(text.split())}", file=sys.stderr)
    return USAGE if isinstance(error, PlanError) else FAILED
