"""Count the cases behind each promise of the README's table.

    python -m tests.bench.promises

Collects the suite, fast and slow, without running it, and prints one row a promise: its number, the
cases marked with it, and the command that runs them.
"""

import os
import sys
from collections import Counter
from contextlib import redirect_stdout

import pytest

PROMISES = {
    1: "every frame in is a frame out, in order, at its time; sound, shape and tags with it",
    2: "lost frames never end with status 0 unless the report counts them",
    3: "sound is untouched: packets, languages, tracks, within a millisecond",
    4: "upright, same shape and colour; HDR, transparency and fields kept or missed aloud",
    5: "pixels outside the edit are the source's before encoding",
    6: "frames without a face pass through; nothing is smoothed across a cut",
    7: "the output is there whole or not at all",
    8: "a batch that was broken off goes on, and does nothing twice",
    9: "one bad clip never stops a batch",
    10: "memory does not grow with the clip",
    11: "what is no plain file is refused at once",
    12: "headers that claim the world cost neither time nor memory",
    13: "no network",
    14: "models cannot run code",
    15: "any file name",
    16: "one sentence and a fixed exit status",
    17: "a signal ends a run within two seconds",
    18: "the same input gives the same frames",
    19: "a preview exposes nothing: one static file",
    20: "edits are marked, and signed with C2PA where asked",
    21: "runs without decord and without an ffmpeg program",
}


class Tally:
    """A pytest plugin that counts the marks of what was collected."""

    def __init__(self) -> None:
        self.cases: Counter[int] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            numbers = {number for mark in item.iter_markers("promise") for number in mark.args}
            self.cases.update(numbers)


class Chooser:
    """A pytest plugin that keeps the cases of one promise."""

    def __init__(self, number: int) -> None:
        self._number = number

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [
            item
            for item in items
            if any(self._number in mark.args for mark in item.iter_markers("promise"))
        ]


def main() -> int:
    """Print the table, or with a number run the cases of that promise."""
    if len(sys.argv) > 1:
        return pytest.main(["-q", "-m", "", "tests"], plugins=[Chooser(int(sys.argv[1]))])
    counted = Tally()
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        status = pytest.main(["-q", "--collect-only", "-m", "", "tests"], plugins=[counted])
    print("| promise | cases | command |\n| --- | --- | --- |")
    for number, what in PROMISES.items():
        command = f"`python -m tests.bench.promises {number}`"
        print(f"| {number}. {what} | {counted.cases[number]} | {command} |")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
