"""Run an edit over every file of a directory and say how each ended.

    python -m tests.strange_media DIRECTORY [--seconds 120] [--faces] [--report FILE.csv]

For every file there are two good ends: a faithful edit (exit 0, with the frames and times that the
source shows, or with `--salvage` those that the report counts), or a refusal in one sentence (exit
1 or 2, one line). A traceback, a run past the watchdog, a crash, a wrong number of frames with exit
0, or anything left beside the output is a bad end; then the exit status is 1. Without `--faces`
clips without a face are copied.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from vidinvert.errors import MediaError
from vidinvert.media import probe


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run over a file ended: `good` or not, in which way, and what was said."""

    file: str
    good: bool
    way: str
    said: str = ""


def run_one(source: Path, *, seconds: float, end: float, options: tuple[str, ...]) -> Ending:
    """Edit a file in a process of its own, killed after some seconds, and judge the end."""
    name = os.fsencode(source.name).decode("utf-8", "backslashreplace")
    with tempfile.TemporaryDirectory() as place:
        target, report = Path(place) / "out.mkv", Path(place) / "report.json"
        command = [sys.executable, "-m", "vidinvert", "edit", "-o", str(target)]
        command += [
            "--report",
            str(report),
            "--quiet",
            *options,
            "--end",
            str(end),
            "--",
            os.fspath(source),
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return Ending(file=name, good=False, way="hang")
        said = done.stderr.decode("utf-8", "replace").strip()
        left = sorted(path.name for path in Path(place).iterdir())
        if done.returncode in (1, 2):
            good = len(said.splitlines()) == 1 and "Traceback" not in said and left == []
            return Ending(file=name, good=good, way="refused", said=said)
        if done.returncode != 0 or "Traceback" in said:
            return Ending(file=name, good=False, way=f"exit {done.returncode}", said=said[-400:])
        return _judge(name, source, target, report, left, said, end=end)


def _judge(
    name: str, source: Path, target: Path, report: Path, left: list[str], said: str, *, end: float
) -> Ending:
    """Compare what was written with what the source shows."""
    if left != ["out.mkv", "report.json"]:
        return Ending(file=name, good=False, way=f"left {left}", said=said)
    told = json.loads(report.read_text())
    salvaged = told["salvage"] is not None
    try:
        before, after = probe(source, salvage=salvaged), probe(target)
    except MediaError as error:
        return Ending(file=name, good=False, way="unreadable output", said=str(error))
    copied = not told["tracks"] and not salvaged  # as a whole, packet by packet
    shown = before.seconds[before.seconds < (float("inf") if copied else end - 1e-9)]
    if after.frame_count != len(shown):
        way = f"{after.frame_count} frames for {len(shown)}"
        return Ending(file=name, good=False, way=way, said=said)
    apart = abs(after.seconds - shown).max()
    if apart > 0.0011 or after.size_hw != before.size_hw:
        return Ending(file=name, good=False, way=f"times differ by {apart:.4f} s", said=said)
    way = "salvaged" if salvaged else "copied" if copied else "edited"
    return Ending(file=name, good=True, way=way, said=said)


def main() -> int:
    """Judge every file; prints one line each and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the watchdog (120)")
    parser.add_argument("--faces", action="store_true", help="refuse clips without a face")
    parser.add_argument("--salvage", action="store_true")
    parser.add_argument("--end", type=float, default=1.0, help="seconds of each clip (1)")
    parser.add_argument("--report", type=Path, metavar="FILE.csv")
    asked = parser.parse_args()
    options = ("--edit", "smile=1", "--threads", "1")
    options += () if asked.faces else ("--allow-no-face",)
    options += ("--salvage",) if asked.salvage else ()
    endings = []
    for source in sorted(path for path in asked.directory.rglob("*") if not path.is_dir()):
        endings.append(run_one(source, seconds=asked.seconds, end=asked.end, options=options))
        last = endings[-1]
        print(f"{'good' if last.good else 'BAD '} {last.way:20} {last.file}  {last.said[:150]}")
    if asked.report is not None:
        with asked.report.open("w", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, ["file", "good", "way", "said"])
            rows.writeheader()
            rows.writerows(asdict(ending) for ending in endings)
    bad = sum(not ending.good for ending in endings)
    print(f"{len(endings)} files: {len(endings) - bad} good ends, {bad} bad")
    return 1 if bad or not endings else 0


if __name__ == "__main__":
    sys.exit(main())
