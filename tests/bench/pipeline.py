"""Time the whole pipeline and its stages: `python -m tests.bench.pipeline [CLIP ...]`.

Without clips the shipped sample is edited. Every clip is edited `--repeats` times; the table shows
medians of frames per second, and the spread of the whole.
"""

import argparse
import os
import platform
import statistics
import tempfile
from pathlib import Path

import torch

import vidinvert
from tests.mini import SAMPLE
from vidinvert.cli.device import choose_device, choose_precision, keep_memory
from vidinvert.media import probe

STAGES = ("probe", "detect", "invert", "render", "encode", "total")


def processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Run the bench and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="*", type=Path, default=[SAMPLE])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--edit", default="smile=2")
    options = parser.parse_args()
    keep_memory()
    device = choose_device(options.device)
    precision = choose_precision("auto", device)
    pack = vidinvert.load_pack("mini", device=device, precision=precision)
    name = torch.cuda.get_device_name() if device != "cpu" else processor()
    print(
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {precision}, ", end=""
    )
    print(f"torch {torch.__version__}, {options.repeats} runs, frames per second (median)")
    print(f"| clip | frames | {' | '.join(STAGES)} | total, low-high | peak memory |")
    print("| --- " * (len(STAGES) + 4) + "|")
    for clip in options.clips:
        print(row(clip, pack, options), flush=True)


def row(clip: Path, pack: vidinvert.Models, options: argparse.Namespace) -> str:
    """Edit one clip a few times and describe it as a row of the table."""
    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    peak = 0
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "out.mp4"
            report = vidinvert.edit_video(clip, target, edits=options.edit, pack=pack)
        peak = max(peak, report["peak_memory_bytes"])
        for stage in STAGES:
            seconds[stage].append(report["seconds"][stage])
    info = probe(clip)
    count = info.frame_count
    rates = [f"{count / max(statistics.median(seconds[stage]), 1e-9):.1f}" for stage in STAGES]
    spread = f"{count / max(seconds['total']):.1f}-{count / min(seconds['total']):.1f}"
    size = f"{info.size_hw[1]}x{info.size_hw[0]}"
    cells = [f"{clip.name} {size}", str(count), *rates, spread, f"{peak / 1e6:.0f} MB"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
