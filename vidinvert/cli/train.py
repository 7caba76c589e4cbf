"""`vidinvert train`: the recipes that make a face pack."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vidinvert.cli.options import add_common_options, count, number

STAGES = (
    "autoencoder",
    "codes",
    "directions",
    "motions",
    "generator",
    "sketch",
    "samm",
    "diffcam",
    "deghost",
    "detector",
    "points",
)
ENCODERS = ("e4e", "restyle", "indomain", "force-indomain")  # of the other methods
STYLEGAN2 = ("stylegan2", "stylegan2-encoder", "stylegan2-samm")  # of a pack of the other kind
ORDERS = {  # what a word on the command line runs
    **{stage: (stage,) for stage in (*STAGES, *ENCODERS, *STYLEGAN2)},
    "encoder": ("autoencoder", "codes"),  # our packs' encoder: the autoencoder's, then closed form
    "pack": (*STAGES, *ENCODERS, "assemble", "appraise"),
    "assemble": ("assemble", "appraise"),
    "appraise": ("appraise",),
    "calibrate": ("calibrate",),  # of a pack whose SAMM was trained before masks were
    "stylegan2-pack": ("stylegan2-pack",),
}
TOGETHER = (  # what several processes share
    "autoencoder",
    "generator",
    "samm",
    "diffcam",
    "deghost",
    "detector",
    "points",
    *ENCODERS,
    *STYLEGAN2,
)
# What a stage leaves behind when it is done: `pack` does not do it again.
RESULTS = {
    "autoencoder": "autoencoder/figures.json",
    "codes": "codes/basis.safetensors",
    "directions": "directions/attributes.npz",
    "motions": "motions/motions.safetensors",
    "generator": "generator/figures.json",
    "sketch": "sketch/figures.json",
    "samm": "samm/figures.json",
    "diffcam": "diffcam/figures.json",
    "deghost": "deghost/figures.json",
    "detector": "detector/detector/manifest.json",
    "points": "points/figures.json",
    **{name: f"{name}/figures.json" for name in ENCODERS},
}
# Images and batch sizes; the minutes below end the stages of a CPU much earlier.
PRESETS: dict[str, dict[str, tuple[int, int]]] = {
    "mini": {
        "autoencoder": (400_000, 8),
        "generator": (200_000, 16),
        "samm": (60_000, 8),
        "diffcam": (40_000, 16),
        "deghost": (60_000, 8),
        "points": (400_000, 32),
        **dict.fromkeys(ENCODERS, (60_000, 8)),
        "stylegan2": (2_000_000, 16),
        "stylegan2-encoder": (200_000, 8),
        "stylegan2-samm": (60_000, 8),
    },
    "mini-256": {
        "autoencoder": (4_000_000, 64),
        "generator": (3_000_000, 64),
        "samm": (400_000, 32),
        "diffcam": (100_000, 64),
        "deghost": (400_000, 32),
        "points": (2_000_000, 64),
        **dict.fromkeys(ENCODERS, (400_000, 32)),
        "stylegan2": (25_000_000, 32),
        "stylegan2-encoder": (1_600_000, 8),
        "stylegan2-samm": (400_000, 8),
    },
}
MINUTES = {
    "autoencoder": 28.0,
    "generator": 44.0,
    "samm": 18.0,
    "diffcam": 8.0,
    "deghost": 15.0,
    "detector": 25.0,
    "points": 25.0,
    "stylegan2": 600.0,
    "stylegan2-encoder": 240.0,
    "stylegan2-samm": 60.0,
} | dict.fromkeys(ENCODERS, 10.0)


def add_parser(commands: Any) -> None:
    """Add the command and its stages."""
    parser = commands.add_parser(
        "train",
        help="train a face pack of your own, stage by stage",
        description="Train a face pack. The stages, in their order: " + ", ".join(STAGES) + ". "
        "Then the encoders of the other methods, in any order: " + ", ".join(ENCODERS) + ". "
        "A pack with a StyleGAN2: " + ", ".join(STYLEGAN2) + ", then stylegan2-pack. "
        "Each continues from its checkpoint if it was interrupted. `pack` runs those that are not "
        "done, puts the pack together and measures it; `assemble` does only the last two, and "
        "`appraise` measures WORK/pack alone. Started by torchrun, "
        "all but `codes`, `directions`, `motions` and `sketch` use a process a device.",
    )
    parser.add_argument("stage", choices=tuple(ORDERS), help="one stage, or `pack` for all")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="faces with a manifest.csv"
    )
    parser.add_argument(
        "--helpers", type=Path, required=True, metavar="DIR", help="helper networks for labels"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="work folder"
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="PACK",
        help="go on from the autoencoder, SAMM and the detector of this pack; `directions`, "
        "`sketch`, `diffcam`, `deghost`, the encoders and `assemble` take from it what the work "
        "folder lacks",
    )
    parser.add_argument(
        "--size", type=int, choices=(64, 128, 256), default=64, help="of stylegan2's pictures (64)"
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="mini")
    parser.add_argument("--minutes", type=number(0.05), help="wall time of the stage")
    parser.add_argument("--images", type=count, help="pictures to see at most")
    parser.add_argument("--batch-size", type=count)
    parser.add_argument(
        "--edits",
        nargs="*",
        metavar="NAME",
        help="measure these edits alone, or nothing (default: all, and how the pack inverts)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of convolutions; the weights are fp32 (auto: bf16 where the hardware has it)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=count)
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run one stage, or all; prints each stage's figures as JSON."""
    import torch

    from vidinvert.cli.device import keep_memory
    from vidinvert.training.data import load_faces
    from vidinvert.training.stages import Helpers

    keep_memory()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    helpers = Helpers.in_directory(options.helpers)
    faces = load_faces(options.data)
    with _together(options):
        for stage in ORDERS[options.stage]:
            _run_and_print(stage, options, faces, helpers)
    return 0


@contextmanager
def _together(options: argparse.Namespace) -> Iterator[None]:
    """Join the other processes, if torchrun started this one; each takes a device of its own."""
    from torch import distributed

    from vidinvert.cli.device import choose_device

    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    if choose_device(options.device) != "cpu":
        options.device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
    distributed.init_process_group("gloo" if options.device in ("auto", "cpu") else "nccl")
    options.quiet = options.quiet or distributed.get_rank() > 0
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _run_and_print(stage: str, options: argparse.Namespace, faces: Any, helpers: Any) -> None:
    """Run a stage unless it is done; of several processes the first prints."""
    from vidinvert.training import ranks

    done = options.stage == "pack" and (options.output / RESULTS.get(stage, "")).is_file()
    ranks.wait()  # all have looked before one of them makes that file
    if done:
        figures: Mapping[str, Any] = {"done": True}
    elif stage in TOGETHER or ranks.number() == 0:
        figures = _run_stage(stage, options, faces, helpers)
    else:
        figures = {}
    ranks.wait()
    if ranks.number() == 0:
        print(json.dumps({"stage": stage, **figures}))
        sys.stdout.flush()


def _run_stage(
    stage: str, options: argparse.Namespace, faces: Any, helpers: Any
) -> Mapping[str, Any]:
    import torch

    from vidinvert.checkpoints import find_pack
    from vidinvert.cli.device import choose_device, choose_precision
    from vidinvert.training import (
        edit_stages,
        encoder_stage,
        motion_stage,
        pack,
        points,
        samm_stage,
        sketch,
        stages,
    )
    from vidinvert.training.loop import Schedule
    from vidinvert.training.stylegan2_stages import write_stylegan2_pack

    work: Path = options.output
    device = choose_device(options.device)
    bar = _Bar(stage, quiet=options.quiet)
    try:
        if stage == "codes":
            basis = stages.fit_codes(work, faces, device=device, progress=bar.count)
            return {"components": list(basis.components)}
        if stage == "directions":
            if options.start is not None:
                stages.unpack(find_pack(options.start), work)
            fitted = stages.fit_edit_directions(work, faces, options.data, helpers)
            return {name: round(item.correlation, 3) for name, item in fitted.items()}
        start = None if options.start is None else find_pack(options.start)
        if stage == "motions":
            if start is not None:
                stages.unpack(start, work)
            return motion_stage.fit_motions(work, faces, helpers)
        if stage == "sketch":
            return sketch.fit_sketch(
                work, faces, start=start, seed=options.seed, progress=bar.count
            )
        if stage == "calibrate":
            return samm_stage.calibrate_samm(
                work, faces, start=start, seed=options.seed, progress=bar.count
            )
        if stage == "assemble":
            return {"sha256": pack.write_mini(work, faces, start=start).sha256}
        if stage == "appraise":
            return _appraise(options, faces, device, bar)
        if stage == "stylegan2-pack":
            made = write_stylegan2_pack(work, faces, helpers, start=start or find_pack("mini"))
            return {"sha256": made.sha256, "directions": sorted(made.directions)}
        minutes = options.minutes or MINUTES[stage]
        if stage == "detector":
            return pack.train_detector_stage(
                work,
                options.data,
                helpers,
                minutes=minutes,
                seed=options.seed,
                start=start,
                progress=bar.step,
            )
        images, batch_size = PRESETS[options.preset][stage]
        schedule = Schedule(
            images=options.images or images,
            batch_size=options.batch_size or batch_size,
            max_seconds=60.0 * minutes,
            seed=options.seed,
            autocast=(
                torch.bfloat16 if choose_precision(options.precision, device) == "bf16" else None
            ),
        )
        if stage == "autoencoder":
            return stages.train_autoencoder(
                work, faces, helpers, schedule, start=start, device=device, progress=bar.step
            )
        if stage == "diffcam":
            return edit_stages.train_diffcam(
                work, faces, schedule, start=start, device=device, progress=bar.step
            )
        if stage == "deghost":
            return edit_stages.train_deghost(
                work, faces, helpers, schedule, start=start, device=device, progress=bar.step
            )
        if stage == "points":
            return points.train_points(
                work, faces, helpers, schedule, device=device, progress=bar.step
            )
        if stage in STYLEGAN2:
            return _run_stylegan2(stage, options, faces, helpers, schedule, device, bar)
        if stage in ENCODERS:
            return encoder_stage.train_encoder(
                stage,
                work,
                faces,
                helpers,
                schedule,
                start=start,
                device=device,
                progress=bar.step,
            )
        if stage == "samm":
            return samm_stage.train_samm(
                work, faces, helpers, schedule, start=start, device=device, progress=bar.step
            )
        return stages.train_generator(
            work, faces, helpers, schedule, device=device, progress=bar.step
        )
    finally:
        bar.close()


def _appraise(
    options: argparse.Namespace, faces: Any, device: str, bar: "_Bar"
) -> Mapping[str, Any]:
    """Measure the pack of the work folder and write its figures into pack.toml."""
    import torch

    from vidinvert.appraisal import Editor, appraise
    from vidinvert.checkpoints import find_pack, load_directions, load_landmark_readout
    from vidinvert.cli.device import choose_precision
    from vidinvert.methods import load_method
    from vidinvert.training.pack import note_figures

    target: Path = options.output / "pack"
    pack = find_pack(str(target))
    precise = choose_precision(options.precision, device) != "bf16"
    editor = Editor(
        method=load_method(
            pack,
            method="samm",
            device=device,
            dtype=torch.float32 if precise else torch.bfloat16,
        ),
        directions=load_directions(pack),
        landmarks=load_landmark_readout(pack),
        device=device,
    )
    found = appraise(
        editor,
        faces,
        options.data,
        options.helpers,
        names=options.edits,
        progress=bar.count,
    )
    pack = note_figures(target, found.figures, found.directions)
    return {"sha256": pack.sha256, **found.figures}


def _run_stylegan2(
    stage: str,
    options: argparse.Namespace,
    faces: Any,
    helpers: Any,
    schedule: Any,
    device: str,
    bar: "_Bar",
) -> Mapping[str, Any]:
    from vidinvert.training import stylegan2_stages

    work: Path = options.output
    if stage == "stylegan2":
        return stylegan2_stages.train_stylegan2(
            work, faces, helpers, schedule, size=options.size, device=device, progress=bar.step
        )
    recipe = {
        "stylegan2-encoder": stylegan2_stages.train_stylegan2_encoder,
        "stylegan2-samm": stylegan2_stages.train_stylegan2_samm,
    }[stage]
    return recipe(work, faces, helpers, schedule, device=device, progress=bar.step)


class _Bar:
    """A bar on stderr in images, with the last losses beside it."""

    def __init__(self, stage: str, *, quiet: bool) -> None:
        self._bar = tqdm(desc=stage, unit="image", file=sys.stderr, disable=quiet)
        self._steps = 0

    def step(self, seen: int, total: int, values: Mapping[str, float]) -> None:
        self._bar.total = total
        self._bar.update(seen - self._bar.n)
        self._steps += 1
        if self._steps % 20 == 1:
            self._bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})

    def count(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()
