"""Train the second look: a small network that corrects the detector's five key points.

It learns from the same labelled crops as the detector. What the detector would have found is drawn:
the true points, moved a little. Faces get other shapes, lights, sizes and covers, as in its scenes.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.errors import PlanError
from vidinvert.networks.second_look import (
    EYES_APART,
    MIRRORED_POINTS,
    SecondLook,
    cut_patches,
    place_patches,
    to_patch,
)
from vidinvert.training.data import FaceSet, generator_at, sampling_weights
from vidinvert.training.detector import favour_rare_faces
from vidinvert.training.face_labels import FaceLabels, label_faces
from vidinvert.training.face_shapes import vary_shape
from vidinvert.training.loop import Progress, Schedule, channels_last, train
from vidinvert.training.scenes import VARIED, SceneSource, cover_face, photograph
from vidinvert.training.stages import Helpers, write_figures, write_weights

UInt8Array = NDArray[np.uint8]
Float64Array = NDArray[np.float64]

VALIDATION_FACES = 96
WARMUP_IMAGES = 6_000  # the last layer reads 2,400 numbers and starts at 0: slowly
COVERED = 0.15  # of the faces have something before them
# What the detector leaves to be corrected, over the distance between the eyes: of each point, of
# all together, and of the size's logarithm and the turn in radians (of which most is not the
# detector's: faces are looked at turned by `second_look.TURN`).
POINT_ERROR, SHIFT_ERROR, SIZE_ERROR, TURN_ERROR = 0.06, 0.05, 0.07, 0.12
EYES_APART_RANGE = (9.0, 80.0)  # px, in the picture that the detector is shown


@dataclass(frozen=True, slots=True, kw_only=True)
class PointsSettings:
    """Of AdamW; `beta`: from where on an error, as a share of the patch's side, counts singly."""

    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    beta: float = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A face for the second look: its picture, the points found and the true ones, in its pixels.

    `image` uint8 (H, W, 3); `found`, `true` (5, 2) float64.
    """

    image: UInt8Array
    found: Float64Array
    true: Float64Array


class PointsRecipe:
    """See the module; implements `vidinvert.training.loop.Recipe`."""

    def __init__(
        self,
        source: SceneSource,
        validation: SceneSource,
        *,
        settings: PointsSettings | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._source, self._validation, self._seed = source, validation, seed
        self._settings = settings or PointsSettings()
        self._device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = channels_last(SecondLook().to(device))
        self.modules: dict[str, nn.Module] = {"points": net}
        self.averaged: dict[str, nn.Module] = {"points": copy.deepcopy(net).eval()}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "points": torch.optim.AdamW(
                net.parameters(),
                self._settings.learning_rate,
                weight_decay=self._settings.weight_decay,
            )
        }

    def step(self, images_seen: int, batch_size: int, share: float) -> dict[str, float]:
        """Draw a batch, take one step; `error` is over the distance between the eyes."""
        del share
        rng = generator_at(self._seed, images_seen)
        chosen = rng.choice(len(self._source.crops), batch_size, p=self._source.weights)
        patches, true, _ = self._batch(
            [draw_face(rng, self._source, row) for row in chosen.tolist()]
        )
        net = self.modules["points"].train()
        found = net(patches).float()
        loss = F.smooth_l1_loss(found, true, beta=self._settings.beta) / EYES_APART
        optimizer = self.optimizers["points"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        error = (found.detach() - true).norm(dim=2).mean() / EYES_APART
        return {"loss": float(loss.detach()), "error": float(error)}

    def _batch(self, faces: Sequence[Drawn]) -> tuple[Tensor, Tensor, Tensor]:
        """Return patches (N, 3, 80, 80), the true points in them, and where patches were cut."""
        cut, true, places = [], [], []
        for face in faces:
            placed = place_patches(torch.from_numpy(face.found).float()[None])
            cut.append(cut_patches(_shown(face), placed))
            true.append(to_patch(placed, torch.from_numpy(face.true).float()[None]))
            places.append(placed)
        patches = torch.cat(cut).to(self._device, memory_format=torch.channels_last)
        return patches, torch.cat(true).to(self._device), torch.cat(places).to(self._device)

    def _refined(self, faces: Sequence[Drawn], placed: Tensor) -> Tensor:
        """Return what the average network makes of the points, as shares of the patches' sides."""
        net = cast(SecondLook, self.averaged["points"])
        better = [
            net.refine(
                _shown(face).to(self._device),
                torch.from_numpy(face.found).float()[None].to(self._device),
            )
            for face in faces
        ]
        return to_patch(placed, torch.cat(better))

    def _validation_faces(self) -> list[Drawn]:
        rng = generator_at(self._seed, 1 << 40)
        return [draw_face(rng, self._validation, k) for k in range(len(self._validation.crops))]

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """Errors on validation faces, over the distance between the eyes, before and after."""
        faces = self._validation_faces()
        _, true, placed = self._batch(faces)
        found = self._refined(faces, placed)
        given = torch.from_numpy(np.stack([face.found for face in faces])).float()
        before = to_patch(placed, given.to(self._device))
        return {
            "error": float((found - true).norm(dim=2).mean() / EYES_APART),
            "error_given": float((before - true).norm(dim=2).mean() / EYES_APART),
        }

    @torch.inference_mode()
    def sheet(self) -> UInt8Array:
        """Draw 16 validation patches, four times as large: true points green, found ones red."""
        faces = self._validation_faces()[:16]
        patches, true, placed = self._batch(faces)
        cells = []
        for patch, wanted, got in zip(patches, true, self._refined(faces, placed), strict=True):
            pixels = (patch * 128.0 + 127.5).round().clamp(0, 255).permute(1, 2, 0)
            cell = np.ascontiguousarray(pixels.to(torch.uint8).cpu().numpy())
            cell = cv2.resize(cell, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
            for points, colour in ((wanted, (0, 255, 0)), (got, (255, 0, 0))):
                for x, y in (points * cell.shape[0]).round().int().tolist():
                    cv2.circle(cell, (x, y), 2, colour, -1)
            cells.append(cell)
        cells += [np.zeros_like(cells[0])] * (-len(cells) % 8)
        return np.concatenate(
            [np.concatenate(cells[i : i + 8], 1) for i in (*range(0, len(cells), 8),)]
        )


def _shown(face: Drawn) -> Tensor:
    """Return a face's picture as the detector reads it: (1, 3, H, W)."""
    image = torch.from_numpy(face.image).permute(2, 0, 1).float()
    return image.sub_(127.5).div_(128.0)[None]


def draw_face(rng: np.random.Generator, source: SceneSource, row: int) -> Drawn:
    """Draw the first face of a crop as a detector would hand it on."""
    crop, labels = np.asarray(source.crops[row]), source.labels[row]
    if rng.random() < VARIED:
        crop, labels = vary_shape(rng, crop, labels)
    true = labels.points_xy[0].astype(np.float64)
    if rng.random() < 0.5:
        crop = np.ascontiguousarray(crop[:, ::-1])
        true = true[list(MIRRORED_POINTS)] * (-1, 1) + (crop.shape[1] - 1.0, 0)
    # Squeezed and sheared faces stand in for turned ones, which aligned portraits rarely show.
    turn, shear = float(np.clip(rng.normal(0, 0.2), -0.7, 0.7)), rng.normal(0, 0.06)
    shape = np.array([[np.exp(rng.normal(0, 0.08)), shear], [0.0, 1.0]])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    apart = max(float(np.linalg.norm(true[1] - true[0])), 1.0)
    low, high = np.log(EYES_APART_RANGE)
    scale = float(np.exp(rng.uniform(low, high))) / apart
    linear = rotation @ shape * scale
    size = max(8, round(crop.shape[0] * scale))
    middle, target = true.mean(axis=0), np.full(2, size / 2)
    matrix = np.concatenate([linear, (target - linear @ middle)[:, None]], axis=1)
    if scale < 0.8:  # average before sampling sparsely
        crop = cv2.GaussianBlur(crop, (0, 0), 0.45 / scale)
    image = cv2.warpAffine(
        np.ascontiguousarray(crop),
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    true = true @ linear.T + matrix[:, 2]
    canvas = np.asarray(image, np.float32)
    if rng.random() < COVERED:
        reach = 1.1 * apart * scale
        middle = true.mean(axis=0)
        canvas = cover_face(rng, canvas, np.concatenate([middle - reach, middle + reach]))
    image = photograph(rng, canvas)
    return Drawn(image, _found(rng, true), true)


def _found(rng: np.random.Generator, true: Float64Array) -> Float64Array:
    """Return points (5, 2) as a detector might have found them."""
    apart = float(np.linalg.norm(true[1] - true[0]))
    middle = true.mean(axis=0)
    turn, size = rng.normal(0, TURN_ERROR), np.exp(rng.normal(0, SIZE_ERROR))
    turned = size * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = middle + (true - middle) @ turned.T + rng.normal(0, SHIFT_ERROR * apart, 2)
    return moved + rng.normal(0, POINT_ERROR * apart, (5, 2))


def train_points(
    work: Path,
    faces: FaceSet,
    helpers: Helpers,
    schedule: Schedule,
    *,
    device: str = "cpu",
    progress: Progress,
) -> dict[str, float]:
    """Train the second look into `work/points`; returns its figures on validation faces.

    Raises:
        PlanError: no crop of a split shows a face.
    """
    sources = []
    for split, most in (("train", None), ("val", VALIDATION_FACES)):
        rows = faces.rows(split)
        rows = rows if most is None else rows[:: max(1, len(rows) // most)][:most]
        sources.append(_labelled(faces, rows, helpers))
    recipe = PointsRecipe(*sources, seed=schedule.seed, device=device)
    schedule = replace(schedule, warmup_images=WARMUP_IMAGES)
    train(recipe, schedule, work / "points", progress=progress)
    write_weights(recipe.averaged["points"].state_dict(), work / "points")
    return write_figures(recipe.evaluate(), work / "points")


def _labelled(faces: FaceSet, rows: NDArray[np.int64], helpers: Helpers) -> SceneSource:
    """Return the crops `rows` on which a face is found, with its labels."""
    labels = label_faces(
        faces.images[rows], labeller=helpers.labeller, landmarker=helpers.landmarks
    )
    kept = np.array([bool(len(label.boxes_xyxy)) for label in labels], dtype=bool)
    if not kept.any():
        raise PlanError(
            f"none of {len(rows)} crops shows a face that the labeller finds, expected aligned "
            "faces; check the folder and its manifest's column split"
        )
    known: list[FaceLabels] = [label for label, keep in zip(labels, kept, strict=True) if keep]
    weights = sampling_weights(faces, rows[kept])
    return SceneSource(
        crops=faces.images[rows[kept]],
        labels=known,
        weights=favour_rare_faces(weights, known, yaw=faces.yaw[rows[kept]]),
    )


def load_points(state: Mapping[str, Tensor]) -> SecondLook:
    """Return the network with the weights that `train_points` wrote, in inference mode."""
    net = SecondLook()
    net.load_state_dict({name: value for name, value in state.items()})
    return net.eval().requires_grad_(False)
