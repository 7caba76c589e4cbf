"""Time SAMM on e4e and StyleGAN2 at the official sizes, with random weights, part by part.

Run: python -m tests.bench.networks [--sizes 256 1024] [--repeats 3] [--batch 1] [--threads 2]
     python -m tests.bench.networks --published --sizes 1024 --batch 4 (ours and the published form)
     python -m tests.bench.networks --pack --batch 8 (the shipped pack)

Wall time is the median with the least and the greatest; CPU time is the process's, over all
threads, which other load disturbs less. bf16 is timed where the CPU has units for it,
or when asked for.
"""

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tests.reference import published_form
from vidinvert.cli.device import bf16_units, keep_memory
from vidinvert.methods import sketch
from vidinvert.networks import ops
from vidinvert.networks.e4e import E4E
from vidinvert.networks.samm import SAMM, combine_masks, synthesise_aligned
from vidinvert.networks.stylegan2 import Generator
from vidinvert.pipeline import load_pack

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FRAME_GFLOP = {256: 1221.0, 1024: 1307.0}  # SAMM on e4e, two for each multiplication and addition


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the networks of the SAMM method.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--published", action="store_true", help="compare with the published form, in turns"
    )
    parser.add_argument("--pack", action="store_true", help="time the networks of mini alone")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", choices=sorted(DTYPES), nargs="+")
    options = parser.parse_args()
    keep_memory()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    precisions = options.precision or (["fp32", "bf16"] if bf16_units() else ["fp32"])
    print(
        f"{cpu_name()}, {torch.get_num_threads()} threads, {bf16_units() or 'no bf16 units'}, "
        f"torch {torch.__version__}, batch {options.batch}, {options.repeats} repeats"
    )
    print(f"{'part':44} {'wall s (least - greatest)':>28} {'CPU s':>8}")
    with torch.inference_mode():
        if options.pack:
            for precision in precisions:
                time_pack(precision, batch=options.batch, repeats=options.repeats)
            return
        if options.published:
            for size in options.sizes:
                compare(size, precisions, batch=options.batch, repeats=options.repeats)
            return
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
        ops.set_precision(module, dtype)
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


def build(size: int) -> tuple[E4E, Generator, SAMM]:
    """Build the three networks with the same random weights each time."""
    torch.manual_seed(0)
    generator, samm = Generator(size=size), SAMM()
    encoder = E4E(style_count=generator.style_count)
    for module in (encoder, generator, samm):
        module.eval().requires_grad_(False)
    return encoder, generator, samm


def compare(size: int, precisions: Sequence[str], *, batch: int, repeats: int) -> None:
    """Time the published form and ours in turns, a whole frame each, and say how far apart."""
    ceiling = {name: convolution_ceiling(DTYPES[name]) for name in precisions}
    picture = torch.rand(1, 3, 256, 256) * 2 - 1
    mean = torch.zeros(512)
    published = build(size)
    wanted, _ = published_form.frame(*published, picture, mean)
    acts: dict[str, Callable[[], Tensor]] = {
        "published form fp32, batch 1": lambda: published_form.frame(*published, picture, mean)[0]
    }
    for name in precisions:
        acts[f"ours {name}, batch {batch}"] = _our_frame(build(size), DTYPES[name], picture, batch)
    errors = {
        label: ((act()[:1] - wanted).norm() / wanted.norm()).item() for label, act in acts.items()
    }
    taken: dict[str, list[tuple[float, float]]] = {label: [] for label in acts}
    for _ in range(repeats):
        for label, act in acts.items():
            wall, cpu = time.perf_counter(), time.process_time()
            frames = len(act())
            taken[label].append(
                (
                    (time.perf_counter() - wall) / frames,
                    (time.process_time() - cpu) / frames,
                )
            )
    base = [statistics.median(column) for column in zip(*next(iter(taken.values())), strict=True)]
    print(f"\n{size} px, seconds a frame; convolution ceilings in this run, TFLOP/s: {ceiling}")
    print("| form | wall (least - greatest) | CPU | ratio wall | ratio CPU | TFLOP/s | error |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for label, pairs in taken.items():
        walls, cpus = zip(*pairs, strict=True)
        wall, cpu = statistics.median(walls), statistics.median(cpus)
        rate = FRAME_GFLOP[size] / wall / 1000 if size in FRAME_GFLOP else math.nan
        print(
            f"| {label} | {wall:.2f} ({min(walls):.2f} - {max(walls):.2f}) | {cpu:.2f} | "
            f"{base[0] / wall:.1f} | {base[1] / cpu:.1f} | {rate:.2f} | {errors[label]:.1e} |",
            flush=True,
        )


def _our_frame(
    networks: tuple[E4E, Generator, SAMM], dtype: torch.dtype, picture: Tensor, batch: int
) -> Callable[[], Tensor]:
    encoder, generator, samm = networks
    for module in networks:
        ops.set_precision(module, dtype)
        ops.prepare(module)
    crops = picture.expand(batch, -1, -1, -1).to(dtype)
    crops = crops.contiguous(memory_format=torch.channels_last)

    def frame() -> Tensor:
        found = encoder(crops)
        done = synthesise_aligned(generator, samm, found.offsets, found.taps, noise=generator.noise)
        combine_masks(done.fields, size=generator.size)
        return done.image

    return frame


def convolution_ceiling(dtype: torch.dtype) -> float:
    """Return the best rate of 3x3 convolutions of three sizes here, in TFLOP/s of wall time."""
    best = 0.0
    for channels, side in ((1024, 64), (512, 128), (256, 256)):
        x = torch.randn(1, channels, side, side).to(dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(dtype)
        conv = conv.to(memory_format=torch.channels_last)
        conv(x)
        for _ in range(3):
            started = time.perf_counter()
            conv(x)
            spent = time.perf_counter() - started
            best = max(best, 18 * channels**2 * side**2 / spent / 1e12)
    return round(best, 2)


def time_pack(precision: str, *, batch: int, repeats: int) -> None:
    """Time the calls of the shipped pack's method on a batch."""
    method = load_pack("mini", precision=precision).method
    crops = torch.rand(batch, 3, method.crop_size, method.crop_size) * 2 - 1
    found = method.embed(crops)
    label = f"mini {precision}, batch of {batch}"
    report(f"{label}: embed", lambda: method.embed(crops), repeats)
    report(f"{label}: find_mask", lambda: method.find_mask(found), repeats)
    report(f"{label}: synthesise", lambda: method.synthesise(found, found.w_plus), repeats)
    report(f"{label}: generate", lambda: method.generate(found.w_plus), repeats)
    report(f"{label}: sketch", lambda: sketch(method, found.w_plus), repeats)


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
