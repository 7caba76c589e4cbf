"""One training loop for every recipe. All of its state is counted in images seen.

A recipe owns its modules and optimisers and knows one step; the loop does the rest: learning rate,
moving averages, checkpoints, the metrics file, contact sheets and the clock. What a step draws at
random depends on the seed and on the images seen alone, so a resumed run repeats an unbroken one
bit for bit on the same machine and thread count. Under torchrun every process draws its own part
of the pictures that are counted, and rank 0 writes; resume with as many processes.
"""

import csv
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidinvert import images
from vidinvert.errors import PlanError
from vidinvert.plots import plot_lines
from vidinvert.training import ranks

Network = TypeVar("Network", bound=nn.Module)
Progress = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        images: pictures to see in all.
        batch_size: pictures a step, of each process that trains.
        warmup_images: learning rate rises linearly over these.
        decay_from: share of the run after which it falls, as a half cosine, to 1 %.
        ema_images: half-life of the moving average of the weights; at most a twentieth of the
            images seen, so that a short run does not average over its own beginning.
        max_seconds: stop early after this wall time, with the decay following the clock; 0 = no
            limit.
        save_seconds: time between checkpoints.
        seed: of everything random.
        autocast: run convolutions and products of a step in this type; the weights, the optimisers'
            state and the moving averages stay float32. None leaves everything in float32.
    """

    images: int
    batch_size: int = 16
    warmup_images: int = 800
    decay_from: float = 0.5
    ema_images: int = 3_000
    max_seconds: float = 0.0
    save_seconds: float = 240.0
    seed: int = 0
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.images < self.batch_size:
            raise ValueError(
                f"images is {self.images}, expected at least batch_size ({self.batch_size})"
            )
        if not 0.0 <= self.decay_from < 1.0:
            raise ValueError(f"decay_from is {self.decay_from}, expected a share in [0, 1)")

    def rate_at(self, images_seen: int, share: float) -> float:
        """Return the factor on every learning rate after `images_seen`, `share` of the run done."""
        warm = min(1.0, (images_seen + self.batch_size) / max(1, self.warmup_images))
        if share <= self.decay_from:
            return warm
        phase = min(1.0, (share - self.decay_from) / (1.0 - self.decay_from))
        return warm * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * phase)))

    def ema_decay_at(self, images_seen: int, step_size: int | None = None) -> float:
        """Return what the moving average keeps of itself in the step that reached `images_seen`.

        `step_size`: pictures of that step, of all processes; None for a batch.
        """
        half_life = max(1.0, min(self.ema_images, 0.05 * images_seen))
        return 0.5 ** ((step_size or self.batch_size) / half_life)


class Recipe(Protocol):
    """What the loop needs of a thing that is trained."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """All trained modules, by name."""
        ...

    @property
    def averaged(self) -> Mapping[str, nn.Module]:
        """Copies that follow the trained modules as moving averages; names among `modules`."""
        ...

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """All optimisers, by name; each group's `lr` is its rate at factor 1."""
        ...

    def step(self, images_seen: int, batch_size: int, share: float) -> dict[str, float]:
        """Take one step and return what to log."""
        ...

    def sheet(self) -> NDArray[np.uint8]:
        """Draw a contact sheet: uint8 (H, W, 3) RGB."""
        ...


def train(
    recipe: Recipe, schedule: Schedule, directory: Path, *, progress: Progress | None = None
) -> int:
    """Run a recipe to the end of its schedule, continuing from its checkpoint if there is one.

    Writes `checkpoint.pt`, `metrics.csv`, `metrics.png` and `sheet_*.png` into `directory`.

    Returns:
        The number of images seen.
    """
    directory.mkdir(parents=True, exist_ok=True)
    base_rates = {
        name: [group["lr"] for group in optimizer.param_groups]
        for name, optimizer in recipe.optimizers.items()
    }
    checkpoint = directory / "checkpoint.pt"
    seen, spent = _resume(recipe, checkpoint)
    started = saved = time.monotonic()
    totals: dict[str, list[float]] = {}
    device, step_size = device_of(recipe), schedule.batch_size * ranks.count()
    while seen < schedule.images:
        elapsed = ranks.agree(spent + time.monotonic() - started, device)
        share = seen / schedule.images
        if schedule.max_seconds > 0:
            share = max(share, elapsed / schedule.max_seconds)
        if share >= 1.0:
            break
        factor = schedule.rate_at(seen, share)
        for name, optimizer in recipe.optimizers.items():
            for group, rate in zip(optimizer.param_groups, base_rates[name], strict=True):
                group["lr"] = rate * factor
        with (
            torch.autocast(device.type, schedule.autocast, enabled=schedule.autocast is not None),
            ranks.averaged_gradients(recipe.optimizers),
        ):
            drawn = seen + ranks.number() * schedule.batch_size
            values = recipe.step(drawn, schedule.batch_size, share)
        _check_finite(values, seen)
        ranks.average_buffers(recipe.modules)
        seen += step_size
        _follow(recipe, decay=schedule.ema_decay_at(seen, step_size))
        for name, value in values.items():
            totals.setdefault(name, []).append(value)
        if progress is not None:
            progress(seen, schedule.images, values)
        if ranks.number() == 0 and time.monotonic() - saved > schedule.save_seconds:
            saved = time.monotonic()
            _save(recipe, checkpoint, seen, spent + saved - started)
            _log(directory, seen, spent + saved - started, totals)
            _write_sheet(recipe, directory, seen)
            totals = {}
    elapsed = spent + time.monotonic() - started
    with ranks.first_goes_first():
        if ranks.number() == 0:
            _save(recipe, checkpoint, seen, elapsed)
            _log(directory, seen, elapsed, totals)
            _write_sheet(recipe, directory, seen)
    return seen


def device_of(recipe: Recipe) -> torch.device:
    """Return where the recipe's trained modules are."""
    module = next(iter(recipe.modules.values()))
    return next(module.parameters()).device


def _check_finite(values: Mapping[str, float], seen: int) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise PlanError(
                f"the loss {name} became {value} after {seen} images, expected a finite number; "
                "resume from the last checkpoint with a lower learning rate"
            )


@torch.no_grad()
def _follow(recipe: Recipe, *, decay: float) -> None:
    for name, average in recipe.averaged.items():
        trained = recipe.modules[name]
        for slow, fast in zip(average.parameters(), trained.parameters(), strict=True):
            slow.lerp_(fast, 1.0 - decay)
        for slow, fast in zip(average.buffers(), trained.buffers(), strict=True):
            slow.copy_(fast)


def _save(recipe: Recipe, path: Path, seen: int, seconds: float) -> None:
    state: dict[str, object] = {"images": seen, "seconds": seconds}
    state["modules"] = {name: module.state_dict() for name, module in recipe.modules.items()}
    state["averaged"] = {name: module.state_dict() for name, module in recipe.averaged.items()}
    state["optimizers"] = {name: item.state_dict() for name, item in recipe.optimizers.items()}
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _resume(recipe: Recipe, path: Path) -> tuple[int, float]:
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in recipe.modules.items():
        module.load_state_dict(state["modules"][name])
    for name, module in recipe.averaged.items():
        module.load_state_dict(state["averaged"][name])
    for name, optimizer in recipe.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    return int(state["images"]), float(state["seconds"])


def _log(directory: Path, seen: int, seconds: float, totals: Mapping[str, list[float]]) -> None:
    """Append a row a metric: its mean over the steps that reported it."""
    if not totals:
        return
    path = directory / "metrics.csv"
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        if is_new:
            writer.writerow(["images", "seconds", "metric", "mean"])
        for name in sorted(totals):
            writer.writerow([seen, f"{seconds:.1f}", name, f"{float(np.mean(totals[name])):.6g}"])
    _plot(path)


def _plot(metrics: Path) -> None:
    """Draw every metric of `metrics.csv` against the images seen, into `metrics.png`."""
    curves: dict[str, list[tuple[float, float]]] = {}
    with metrics.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            curves.setdefault(row["metric"], []).append((float(row["images"]), float(row["mean"])))
    panels = [
        plot_lines(
            {name: (np.array([x for x, _ in points]), np.array([y for _, y in points]))},
            title=name,
            x_label="images seen",
            y_label="mean",
        )
        for name, points in sorted(curves.items())
    ]
    images.write_png(metrics.with_suffix(".png"), np.concatenate(panels))


def _write_sheet(recipe: Recipe, directory: Path, seen: int) -> None:
    sheet = recipe.sheet()
    cv2.imwrite(str(directory / f"sheet_{seen:08d}.png"), np.ascontiguousarray(sheet[..., ::-1]))


def channels_last(network: Network) -> Network:
    """Lay out a network's weights with their channels last, in place, and return it."""
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch's stub lacks this form


def tile(rows: list[list[Tensor]]) -> NDArray[np.uint8]:
    """Lay out pictures (3, H, W) in [-1, 1] as a grid: one list a row."""
    grid = torch.cat(
        [torch.cat([cell.detach().float().cpu() for cell in row], 2) for row in rows], 1
    )
    pixels = grid.add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(1, 2, 0).contiguous().numpy()
