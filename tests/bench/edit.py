"""Time `vidinvert edit` as a user runs it, a process each: `python -m tests.bench.edit [CLIP ...]`.

Prints, for every clip, frames a second of the whole process, when the first frames were written
after its start, CPU seconds a frame and peak memory; how long `--help` takes; how memory grows with
the length of the clip (`--memory`); and where the time of the last run went (`--profile`).
`--enlarge 1920x1080` adds the sample at that size.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.video.frame import VideoFrame

from tests.bench.networks import cpu_name
from tests.mini import SAMPLE
from vidinvert.cli.device import bf16_units
from vidinvert.cli.edit import profile_table
from vidinvert.media import probe


class Run(NamedTuple):
    """One process: wall and CPU seconds, and the report it wrote."""

    seconds: float
    cpu_seconds: float
    report: dict[str, Any]


def main() -> None:
    """Run the bench and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="*", type=Path, default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--edit", default="smile=2.5")
    parser.add_argument("--enlarge", metavar="WxH", help="the sample at another size, too")
    parser.add_argument("--memory", action="store_true", help="memory against the clip's length")
    parser.add_argument("--profile", action="store_true", help="stages of each clip's last run")
    options = parser.parse_args()
    units = bf16_units() or "no bf16 units"
    print(f"{cpu_name()}, {units}, {options.threads} threads, {options.repeats} runs, medians")
    print(f"`vidinvert --help`: {_help_seconds(options.repeats):.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        clips = options.clips or [SAMPLE]
        if options.enlarge:
            width, height = (int(side) for side in options.enlarge.split("x"))
            target = Path(folder) / f"talk_{options.enlarge}.mp4"
            clips.append(enlarge(SAMPLE, target, width, height))
        print("| clip | frames | frames/s (low-high) | first out, s | CPU ms a frame | memory |")
        print("| --- | --- | --- | --- | --- | --- |")
        profiles: dict[str, str] = {}
        for clip in clips:
            runs = [_edit(clip, Path(folder), options) for _ in range(options.repeats)]
            print(_row(clip, runs), flush=True)
            profile = runs[-1].report["profile"]
            profiles[clip.name] = profile_table(profile, frames=runs[-1].report["frames"])
        if options.profile:
            for name, table in profiles.items():
                print(f"\n{name}\n{table}")
        if options.memory:
            _print_memory(clips[0], Path(folder), options)


def _help_seconds(repeats: int) -> float:
    command = [sys.executable, "-m", "vidinvert", "--help"]
    taken: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _edit(clip: Path, folder: Path, options: argparse.Namespace, *more: str) -> Run:
    report = folder / "report.json"
    command = [sys.executable, "-m", "vidinvert", "edit", str(clip), "-o", str(folder / "out.mp4")]
    command += ["--edit", options.edit, "--threads", str(options.threads), "--force", "--quiet"]
    before, started = os.times(), time.perf_counter()
    subprocess.run(
        [*command, "--report", str(report), *more], check=True, stdout=subprocess.DEVNULL
    )
    seconds, after = time.perf_counter() - started, os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return Run(seconds, cpu, json.loads(report.read_text(encoding="utf-8")))


def _row(clip: Path, runs: list[Run]) -> str:
    info = probe(clip)
    count = info.frame_count
    rates = sorted(count / run.seconds for run in runs)
    first = [
        run.seconds
        - run.report["seconds"]["total"]
        + run.report["profile"]["first_frame"]["seconds"]
        for run in runs
    ]
    cpu = statistics.median(run.cpu_seconds for run in runs) / count
    peak = max(run.report["peak_memory_bytes"] for run in runs)
    return (
        f"| {clip.name} {info.size_hw[1]}x{info.size_hw[0]} | {count} | "
        f"{statistics.median(rates):.1f} ({rates[0]:.1f}-{rates[-1]:.1f}) | "
        f"{statistics.median(first):.1f} | {1000 * cpu:.0f} | {peak / 1e6:.0f} MB |"
    )


def _print_memory(clip: Path, folder: Path, options: argparse.Namespace) -> None:
    seconds = float(probe(clip).seconds[-1])
    print(f"\n| seconds of {clip.name} | peak memory |\n| --- | --- |")
    for share in (0.25, 0.5, 1.0):
        run = _edit(clip, folder, options, "--end", f"{seconds * share + 1e-3:.3f}")
        print(f"| {seconds * share:.1f} | {run.report['peak_memory_bytes'] / 1e6:.0f} MB |")


def enlarge(source: Path, target: Path, width: int, height: int) -> Path:
    """Write a clip at another size, its pictures cut to the new shape; returns `target`."""
    with av.open(str(source)) as clip, av.open(str(target), "w") as out:
        rate = clip.streams.video[0].average_rate or Fraction(25)
        stream = out.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in clip.decode(video=0):
            side = max(width, height)
            picture = frame.reformat(side, side, "rgb24").to_ndarray()
            top, left = (side - height) // 2, (side - width) // 2
            cut = picture[top : top + height, left : left + width].copy()
            out.mux(stream.encode(VideoFrame.from_ndarray(cut, format="rgb24")))
        out.mux(stream.encode(None))
    return target


if __name__ == "__main__":
    main()
