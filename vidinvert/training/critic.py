"""A judge of attributes: reads smile, age, light and the like off latents, with one small network.

Moving codes along a regressed direction changes the average picture of an attribute, but a face
whose mouth really widens by as much is another matter. The judge, trained on real faces and frozen,
tells the generator how far an edit went, and what else it changed.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.training.data import generator_at
from vidinvert.training.loop import channels_last

WIDTHS = (64, 96, 128, 160)  # at 32, 16, 8 and 4 cells
NOISE = 0.15  # deviation of the noise on the latents: the judge must not hang on single values
CLIP = 3.0  # standard deviations: what lies further out is mostly a failed measurement
BATCH = 32


class AttributeCritic(nn.Module):
    """Latents (N, 32, 32, 32) -> standardised attributes (N, A)."""

    def __init__(self, attributes: int, *, channels: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = channels
        for width in WIDTHS:
            stride = 1 if previous == channels else 2
            layers += [nn.Conv2d(previous, width, 3, stride=stride, padding=1), nn.ReLU()]
            previous = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(previous * 16, 256), nn.ReLU(), nn.Linear(256, attributes)
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Judge latents (N, 32, 32, 32)."""
        return self.head(self.body(latents).flatten(1))


def standardise(values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float32]:
    """Stack attributes (M,) as columns (M, A) of mean 0 and deviation 1, clipped at `CLIP`."""
    table = np.stack(list(values.values()), axis=1)
    standard = (table - table.mean(axis=0)) / np.maximum(table.std(axis=0), 1e-9)
    return np.clip(standard, -CLIP, CLIP).astype(np.float32)


def train_critic(
    latents: NDArray[np.float16],
    targets: NDArray[np.float32],
    *,
    steps: int,
    autocast: torch.dtype | None = None,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[AttributeCritic, NDArray[np.float64]]:
    """Fit the judge on real latents.

    Args:
        latents: (M, 32, 32, 32), originals first and their mirror images after them.
        targets: (M, A) from `standardise`.
        steps: of 32 faces each; the rate falls to nothing over them.
        autocast: type of the convolutions, or None for float32.
        learning_rate: Adam's.
        seed: of the weights, the draws and the noise.
        device: where it is trained, and stays.

    Returns:
        The frozen judge, and each attribute's correlation on a held-out tenth of the faces.
    """
    torch.manual_seed(seed)
    critic = channels_last(AttributeCritic(targets.shape[1]).to(device))
    optimizer = torch.optim.AdamW(critic.parameters(), lr=learning_rate, weight_decay=0.02)
    originals = np.arange(len(latents)) % (len(latents) // 2)  # a face and its mirror go together
    held = originals % 10 == 0
    rows = np.flatnonzero(~held)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1.0 - step / steps)
        rng = generator_at(seed, step)
        chosen = np.sort(rng.choice(rows, BATCH, replace=False))
        batch = latents[chosen].astype(np.float32)
        batch += NOISE * rng.standard_normal(batch.shape, np.float32)
        shift = rng.integers(-1, 2, 2)  # a cell up, down or sideways
        batch = np.roll(batch, tuple(shift.tolist()), axis=(2, 3))
        inputs = torch.from_numpy(batch).to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(inputs.device.type, autocast, enabled=autocast is not None):
            found = critic(inputs)
        wanted = torch.from_numpy(targets[chosen]).to(device)
        loss = F.smooth_l1_loss(found.float(), wanted, beta=0.5)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    critic.eval().requires_grad_(False)
    return critic, _correlations(critic, latents, targets, np.flatnonzero(held))


@torch.inference_mode()
def _correlations(
    critic: AttributeCritic,
    latents: NDArray[np.float16],
    targets: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    device = next(critic.parameters()).device
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(rows), 64):
        batch = torch.from_numpy(latents[rows[start : start + 64]].astype(np.float32))
        parts.append(critic(batch.to(device)).cpu().numpy())
    found = np.concatenate(parts)
    return np.array(
        [np.corrcoef(found[:, a], targets[rows, a])[0, 1] for a in range(targets.shape[1])]
    )


def wanted_change(before: Tensor, strengths: Tensor, *, limit: float = 2.5) -> Tensor:
    """How far the judged attributes (N, A) shall move under edits of these strengths (N, A).

    Nobody smiles at ten standard deviations: an edit ends at `limit`, or where the face already is.
    """
    ceiling = before.clamp_min(limit)
    floor = before.clamp_max(-limit)
    return (before + strengths).clamp(floor, ceiling) - before
