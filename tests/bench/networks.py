"""Time SAMM on e4e and StyleGAN2 at the official sizes, with random weights, part by part.

Run: python -m tests.bench.networks [--sizes 256 1024] [--repeats 3] [--batch 1] [--precision fp32]

Wall time is the median with the least and the greatest; CPU time is the process's, over all
threads, which other load disturbs less. bf16 is timed where the CPU has units for it,
or when asked for.
"""

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vidinvert.cli.device import bf16_units
from vidinvert.networks import ops
from vidinvert.networks.e4e import E4E
from vidinvert.networks.samm import SAMM, combine_masks, synthesise_aligned
from vidinvert.networks.stylegan2 import Generator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the networks of the SAMM method.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=sorted(DTYPES), nargs="+")
    options = parser.parse_args()
    precisions = options.precision or (["fp32", "bf16"] if bf16_units() else ["fp32"])
    print(
        f"{cpu_name()}, {torch.get_num_threads()} threads, {bf16_units() or 'no bf16 units'}, "
        f"torch {torch.__version__}, batch {options.batch}, {options.repeats} repeats"
    )
    print(f"{'part':44} {'wall s (least - greatest)':>28} {'CPU s':>8}")
    with torch.inference_mode():
        for precision in precisions:
            for size in options.sizes:
                time_method(size, precision, batch=options.batch, repeats=options.repeats)
        time_modulated_convolution(batch=options.batch, repeats=options.repeats)


def time_method(size: int, precision: str, *, batch: int, repeats: int) -> None:
    """Time the encoder, the aligned synthesis, the plain generator, and a whole frame."""
    dtype = DTYPES[precision]
    torch.manual_seed(0)
    generator, samm = Generator(size=size), SAMM()
    encoder = E4E(style_count=generator.style_count)
    for module in (encoder, generator, samm):
        ops.set_precision(module, dtype, keep=encoder.heads)
        ops.prepare(module)
    images = torch.rand(batch, 3, 256, 256, dtype=torch.float32) * 2 - 1
    images = images.to(dtype).contiguous(memory_format=torch.channels_last)
    found = encoder(images)
    w_plus = torch.randn(batch, generator.style_count, 512)

    def synthesis() -> Tensor:
        aligned = synthesise_aligned(generator, samm, w_plus, found.taps, noise=generator.noise)
        return combine_masks(aligned.fields, size=size)

    def frame() -> None:
        encoder(images)
        synthesis()

    label = f"{size} px {precision}"
    report(f"{label} encoder", lambda: encoder(images), repeats)
    report(f"{label} aligned synthesis", synthesis, repeats)
    report(f"{label} generator alone", lambda: generator(w_plus, noise=generator.noise), repeats)
    report(f"{label} frame (encoder + synthesis)", frame, repeats)


def time_modulated_convolution(*, batch: int, repeats: int) -> None:
    """Compare the modulated convolution with the published grouped form."""
    for channels, side, upsample in ((512, 64, False), (512, 32, True), (128, 256, False)):
        conv = ops.ModulatedConv2d(channels, channels, 3, style_width=512, upsample=upsample)
        x, w = torch.randn(batch, channels, side, side), torch.randn(batch, 512)
        styles = conv.modulation(w) * conv.gain
        conv.prepare()
        kind = f"{channels} channels at {side}{', up' if upsample else ''}"
        last = x.contiguous(memory_format=torch.channels_last)
        weight = conv.weight
        naive = report(
            f"modulated, grouped, {kind}",
            lambda: ops.modulated_conv2d_reference(x, weight, styles, upsample=upsample),  # noqa: B023
            repeats,
        )
        ours = report(f"modulated, ours, {kind}", lambda: conv(last, w), repeats)  # noqa: B023
        print(f"{'':44} {f'ratio {naive / ours:.2f} (CPU time)':>28}")


def report(label: str, act: Callable[[], object], repeats: int) -> float:
    """Print and return what a call takes: the median CPU time is returned."""
    act()
    wall, cpu = [], []
    for _ in range(repeats):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        act()
        wall.append(time.perf_counter() - wall_start)
        cpu.append(time.process_time() - cpu_start)
    spread = f"{statistics.median(wall):.3f} ({min(wall):.3f} - {max(wall):.3f})"
    print(f"{label:44} {spread:>28} {statistics.median(cpu):8.3f}", flush=True)
    return max(statistics.median(cpu), math.ulp(1.0))


def cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
