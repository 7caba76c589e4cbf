"""Train Diff-CAM on a frozen pack: name the direction that codes of real faces were moved along.

As Song et al. (ECCV 2022) do: a random direction a picture, cross entropy. Two things are ours.
Strengths are of both signs and of different sizes, since edits are. And parts of the difference
are hidden at random (Singh and Lee, "Hide-and-seek", ICCV 2017): one corner of a mouth is enough
to name a smile, but the map shall show all that a smile moves.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert import images as pictures
from vidinvert.networks.diffcam import DiffCam, latent_diffcam, normalise_map
from vidinvert.networks.eigen_deghost import Bank
from vidinvert.training.data import FaceSet, generator_at, jitter, sampling_weights
from vidinvert.training.loop import channels_last, tile


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffCamSettings:
    """How the classifier is trained.

    Attributes:
        learning_rate: Adam's; theirs is 1e-4, for weights that ImageNet trained.
        weakest: smallest strength of an edit, in units of its direction.
        strongest: largest.
        hidden_share: of the patches of the difference that are hidden.
        patches: of the difference, across and down.
    """

    learning_rate: float = 1e-3
    weakest: float = 0.75
    strongest: float = 3.0
    hidden_share: float = 0.5
    patches: int = 8


def draw_crops(
    faces: FaceSet, rows: NDArray[np.int64], rng: np.random.Generator, *, strength: float = 0.7
) -> Tensor:
    """Return jittered pictures of some rows, (N, 3, R, R) in [-1, 1]."""
    jittered = [jitter(np.asarray(faces.images[row]), rng, strength=strength) for row in rows]
    return pictures.to_float(np.stack(jittered))


def draw_edits(
    count: int, classes: int, rng: np.random.Generator, *, weakest: float, strongest: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Draw an edit a picture: its class (N,) and its strength (N,), of either sign."""
    chosen = rng.integers(0, classes, count)
    size = rng.uniform(weakest, strongest, count) * rng.choice((-1.0, 1.0), count)
    return chosen, size.astype(np.float32)


@torch.no_grad()
def _take_over(
    network: DiffCam, classes: Sequence[str], known: DiffCam, known_classes: Sequence[str]
) -> None:
    """Copy a classifier's layers into another one, and what it weighs for classes of both."""
    network.shared.load_state_dict(known.shared.state_dict())
    network.judge.load_state_dict(known.judge.state_dict())
    for row, name in enumerate(classes):
        if name in known_classes:
            network.head.weight[row] = known.head.weight[known_classes.index(name)]
            network.head.bias[row] = known.head.bias[known_classes.index(name)]


class DiffCamRecipe:
    """See the module; implements `vidinvert.training.loop.Recipe`.

    Args:
        faces: real faces, whose codes are moved.
        bank: the pack's networks; frozen.
        directions: vectors (L, D) by name; their order is that of the classes.
        start: a classifier to go on from, and the names of its classes in their order; those that
            are directions too are known from the beginning. None = from nothing.
        settings: None = the defaults.
        seed: of everything random.
        device: where it is trained.
    """

    def __init__(
        self,
        faces: FaceSet,
        bank: Bank,
        directions: Mapping[str, Tensor],
        *,
        start: tuple[DiffCam, Sequence[str]] | None = None,
        settings: DiffCamSettings | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings or DiffCamSettings()
        self._device = torch.device(device)
        torch.manual_seed(seed)
        network = latent_diffcam(len(directions))
        if start is not None:
            _take_over(network, tuple(directions), *start)
        network = channels_last(network.to(device))
        self.modules: dict[str, nn.Module] = {"diffcam": network}
        self.averaged: dict[str, nn.Module] = {"diffcam": copy.deepcopy(network)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "diffcam": torch.optim.Adam(
                network.parameters(), self.settings.learning_rate, (0.9, 0.99)
            )
        }
        self._faces, self._seed = faces, seed
        self._bank = bank.to(device)
        self._names = tuple(directions)
        self._directions = torch.stack(list(directions.values())).to(device)  # (K, L, D)
        self._rows = faces.rows("train")
        self._weights = sampling_weights(faces, self._rows)
        self._validation = faces.rows("val")

    def step(self, images_seen: int, batch_size: int, share: float) -> dict[str, float]:
        """One step on faces that were each edited along one direction."""
        settings = self.settings
        rng = generator_at(self._seed, images_seen)
        rows = rng.choice(self._rows, batch_size, p=self._weights)
        chosen, sizes = draw_edits(
            batch_size,
            len(self._names),
            rng,
            weakest=settings.weakest,
            strongest=settings.strongest,
        )
        network = cast(DiffCam, self.modules["diffcam"])
        crops = draw_crops(self._faces, rows, rng).to(self._device)
        before, after = self._edit(self._embed(crops), chosen, sizes)
        difference = network.difference(before, after) * self._seen(batch_size, rng)
        logits = network.logits(network.judge(difference))
        wanted = torch.from_numpy(chosen).to(self._device)
        loss = F.cross_entropy(logits, wanted)
        optimizer = self.optimizers["diffcam"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        named = (logits.argmax(dim=1) == wanted).float().mean()
        return {"cross_entropy": loss.item(), "accuracy": named.item()}

    def _seen(self, count: int, rng: np.random.Generator) -> Tensor:
        """Draw what is not hidden of the differences: (N, 1, 32, 32), 0 or 1."""
        patches = self.settings.patches
        kept = rng.random((count, 1, patches, patches)) >= self.settings.hidden_share
        seen = torch.from_numpy(kept.astype(np.float32)).to(self._device)
        return F.interpolate(seen, size=(32, 32), mode="nearest")

    @torch.no_grad()
    def _edit(
        self, codes: Tensor, chosen: NDArray[np.int64], sizes: NDArray[np.float32]
    ) -> tuple[Tensor, Tensor]:
        """Return the generator's latents of codes (N, L, D) and of these with an edit each."""
        generator = self._bank.generator
        moves = torch.from_numpy(sizes).to(self._device)[:, None, None]
        moved = codes + moves * self._directions[torch.from_numpy(chosen).to(self._device)]
        before, after = generator(torch.cat([codes, moved])).latents.chunk(2)
        return before, after

    @torch.no_grad()
    def _embed(self, crops: Tensor) -> Tensor:
        return self._bank.generator.basis.codes(self._bank.encoder(crops).latents)

    @torch.inference_mode()
    def sheet(self) -> NDArray[np.uint8]:
        """Three validation faces: each direction at +2, above its map."""
        codes = self._embed(self._crops(self._validation[:3]))
        rows: list[list[Tensor]] = [[] for _ in range(2 * len(codes))]
        for index in range(len(self._names)):
            _, after, activations = self._look(codes, index, 2.0)
            large = _enlarge(self._map(activations, index), 256)
            drawn = self._bank.decoder(after)
            for row in range(len(codes)):
                rows[2 * row].append(drawn[row])
                rows[2 * row + 1].append(large[row].expand(3, -1, -1) * 2.0 - 1.0)
        return tile(rows)

    def _crops(self, rows: NDArray[np.int64]) -> Tensor:
        return pictures.to_float(self._faces.images[rows], device=self._device)

    def _look(self, codes: Tensor, index: int, strength: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents before and after one edit of all codes, and the last activations."""
        sizes = np.full(len(codes), strength, np.float32)
        before, after = self._edit(codes, np.full(len(codes), index), sizes)
        return before, after, cast(DiffCam, self.averaged["diffcam"]).activations(before, after)

    def _map(self, activations: Tensor, index: int) -> Tensor:
        network = cast(DiffCam, self.averaged["diffcam"])
        return normalise_map(network.maps(activations))[:, [index]]

    @torch.inference_mode()
    def evaluate(self, *, count: int = 8) -> dict[str, float]:
        """How often directions are named on validation faces, at 1 and 2, and what maps cover.

        `covered` is the share of what an edit of 2 changes in the latents that its map shows,
        `area` the map's mean: a map of everything would cover all of it with an area of 1.
        """
        rows = self._validation[:: max(1, len(self._validation) // count)][:count]
        codes = self._embed(self._crops(rows))
        hits: dict[float, list[float]] = {1.0: [], 2.0: []}
        covered: list[float] = []
        areas: list[float] = []
        for index in range(len(self._names)):
            for strength, found in hits.items():
                activations = self._look(codes, index, strength)[2]
                logits = cast(DiffCam, self.averaged["diffcam"]).logits(activations)
                found.append(float((logits.argmax(dim=1) == index).float().mean()))
            before, after, activations = self._look(codes, index, 2.0)
            change = (after - before).abs().mean(dim=1, keepdim=True)
            shown = _enlarge(self._map(activations, index), change.shape[-1])
            covered.append(float((shown * change).sum() / change.sum().clamp_min(1e-9)))
            areas.append(float(shown.mean()))
        return {
            "accuracy_at_1": float(np.mean(hits[1.0])),
            "accuracy_at_2": float(np.mean(hits[2.0])),
            "covered": float(np.mean(covered)),
            "area": float(np.mean(areas)),
        }


def _enlarge(maps: Tensor, size: int) -> Tensor:
    return F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)
