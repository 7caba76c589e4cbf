"""Train the face detector of a pack: labels, scenes, a small network, an ONNX file.

The recipe needs a folder of aligned face crops, YuNet to label them, and, better with than without,
photographs that show no face. Only crops of the split `train` are used.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidinvert.errors import PlanError
from vidinvert.networks.detector import STRIDES, FaceDetectorNet
from vidinvert.training import ranks
from vidinvert.training.data import generator_at, load_faces, sampling_weights
from vidinvert.training.detector_export import read_detector, write_detector
from vidinvert.training.detector_losses import assign, detector_loss, to_pixels
from vidinvert.training.face_labels import FaceLabels, label_faces
from vidinvert.training.loop import Progress, Schedule, train
from vidinvert.training.scenes import Scene, SceneSource, draw_scene

UInt8Array = NDArray[np.uint8]
Float64Array = NDArray[np.float64]

# A head turned by 0.25 (of 90 degrees) is drawn 3.5 times as often as a frontal one, and a mouth
# one standard deviation narrower than the median 3 times as often as a wider one.
TURNED_FAVOUR = 10.0
NARROW_FAVOUR = 2.0
START_SCENES = 24  # on which a detector that was read from its file measures its norms
CONTINUED_RATE = 1e-3  # AdamW's learning rate when the detector goes on from a pack's


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorPlan:
    """How the detector is trained.

    Attributes:
        schedule: how long and how fast.
        learning_rate: of AdamW, at its highest.
        weight_decay: of AdamW.
        sizes: sides of the square scenes in pixels, drawn step by step; multiples of 32.
        size_chances: how often each size is drawn.
    """

    schedule: Schedule = field(
        default_factory=lambda: Schedule(
            images=60_000, batch_size=8, warmup_images=1_600, decay_from=0.35, ema_images=1_500
        )
    )
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    sizes: tuple[int, ...] = (192, 256, 320)
    size_chances: tuple[float, ...] = (0.3, 0.45, 0.25)

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.size_chances):
            raise ValueError(
                f"got {len(self.sizes)} sizes and {len(self.size_chances)} size_chances, "
                "expected as many of both"
            )
        if any(size <= 0 or size % STRIDES[-1] for size in self.sizes):
            raise ValueError(f"sizes are {self.sizes}, expected multiples of {STRIDES[-1]}")


class DetectorRecipe:
    """The detector, its moving average and its optimiser, for the training loop."""

    def __init__(
        self, source: SceneSource, plan: DetectorPlan, *, start: Path | None = None
    ) -> None:
        self.source, self.plan = source, plan
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.schedule.seed)
            self.net = FaceDetectorNet() if start is None else self._read(start)
            self.net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stub wants a device or dtype
        self.average = deepcopy(self.net)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )

    def _read(self, start: Path) -> FaceDetectorNet:
        rng, size = (
            np.random.default_rng([self.plan.schedule.seed, 2**31 + 2]),
            max(self.plan.sizes),
        )
        return read_detector(
            start, to_input([draw_scene(rng, size, self.source) for _ in range(START_SCENES)])
        )

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The trained network."""
        return {"detector": self.net}

    @property
    def averaged(self) -> Mapping[str, nn.Module]:
        """Its moving average, which is what is shipped."""
        return {"detector": self.average}

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """The one optimiser."""
        return {"detector": self.optimizer}

    def step(self, images_seen: int, batch_size: int, share: float) -> dict[str, float]:
        """Draw a batch of scenes, take one step, return the parts of the loss."""
        del share  # the loop sets the learning rate
        rng = generator_at(self.plan.schedule.seed, images_seen)
        size = int(rng.choice(self.plan.sizes, p=self.plan.size_chances))
        scenes = [draw_scene(rng, size, self.source) for _ in range(batch_size)]
        self.net.train()
        parts = detector_loss(
            self.net(to_input(scenes)), assign(scenes, (size, size)), (size, size)
        )
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 10.0)
        self.optimizer.step()
        return {name: float(part.detach()) for name, part in parts.items()}

    def sheet(self) -> UInt8Array:
        """Draw what the averaged network finds in 12 scenes that training does not draw."""
        rng, size = np.random.default_rng([self.plan.schedule.seed, 2**31]), max(self.plan.sizes)
        cells = []
        for _ in range(12):
            scene = draw_scene(rng, size, self.source)
            cells.append(draw_found(scene.image, *find(self.average, scene.image)))
        return np.concatenate([np.concatenate(cells[i : i + 6], axis=1) for i in range(0, 12, 6)])


def train_detector(
    data: Path,
    output: Path,
    *,
    labeller: Path,
    landmarker: Path | None = None,
    photographs: Sequence[UInt8Array] = (),
    start: Path | None = None,
    plan: DetectorPlan | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train on a folder of aligned faces and write `detector/` for a pack.

    Continues from `checkpoint.pt` in `output` if there is one.

    Args:
        data: folder with `manifest.csv` and crops.
        output: gets the checkpoint, the metrics, contact sheets and `detector/`.
        labeller: YuNet as an ONNX file.
        landmarker: PFLD with 68 landmarks as an ONNX file; without it the key points are YuNet's.
        photographs: (H, W, 3) uint8 RGB each, without faces.
        start: `detector.onnx` of a pack to go on from; None begins with random weights.
        plan: how to train; None for the plan of the shipped pack.
        progress: called after every step.

    Returns:
        The folder of the detector: `detector.onnx` and insightface's `manifest.json`.

    Raises:
        PlanError: no crop of the split `train` shows a face.
    """
    faces = load_faces(data)
    rows = faces.rows("train")
    labels = label_faces(faces.images[rows], labeller=labeller, landmarker=landmarker)
    kept = np.array([bool(len(label.boxes_xyxy)) for label in labels], dtype=bool)
    if not kept.any():
        raise PlanError(
            f"none of the {len(rows)} training crops of {data} shows a face that the labeller "
            "finds, expected aligned faces; check the folder and its manifest's column split"
        )
    kept_labels = [label for label, keep in zip(labels, kept, strict=True) if keep]
    source = SceneSource(
        crops=faces.images[rows[kept]],
        labels=kept_labels,
        photographs=photographs,
        weights=favour_rare_faces(
            sampling_weights(faces, rows[kept]), kept_labels, yaw=faces.yaw[rows[kept]]
        ),
    )
    recipe = fit_detector(
        source, output, plan=plan or DetectorPlan(), start=start, progress=progress
    )
    with ranks.first_goes_first():
        if ranks.number() == 0:
            write_detector(recipe.average, output / "detector")
    return output / "detector"


def favour_rare_faces(
    weights: Float64Array, labels: Sequence[FaceLabels], *, yaw: Float64Array
) -> Float64Array:
    """Return sampling weights that show turned heads and closed, narrow mouths more often.

    Portraits smile at the camera: taught by them alone, the network puts the corners of every
    mouth where a smile would have them.

    Args:
        weights: (M,) of the crops, any sum.
        labels: M labels; the first face of each counts.
        yaw: (M,) in units of 90 degrees; NaN counts as frontal.

    Returns:
        (M,) weights whose sum is 1.
    """
    points = np.stack([label.points_xy[0] for label in labels]).astype(np.float64)  # (M, 5, 2)
    eyes, mouth = (np.linalg.norm(points[:, i] - points[:, i - 1], axis=1) for i in (1, 4))
    width = mouth / eyes
    narrow = np.clip((np.median(width) - width) / max(float(width.std()), 1e-6), 0.0, 2.5)
    turned = np.abs(np.nan_to_num(yaw))
    favoured = weights * (1.0 + TURNED_FAVOUR * turned) * (1.0 + NARROW_FAVOUR * narrow)
    return favoured / favoured.sum()


def fit_detector(
    source: SceneSource,
    output: Path,
    *,
    plan: DetectorPlan,
    start: Path | None = None,
    progress: Progress | None = None,
) -> DetectorRecipe:
    """Run the training loop on labelled crops; the recipe's `average` is the trained network."""
    recipe = DetectorRecipe(source, plan, start=start)
    train(recipe, plan.schedule, output, progress=progress)
    return replace_running_statistics(recipe)


def replace_running_statistics(recipe: DetectorRecipe, *, batches: int = 9) -> DetectorRecipe:
    """Measure the batch norms of the averaged weights afresh, on scenes of all sizes."""
    recipe.average.train()
    norms = [m for m in recipe.average.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    rng = np.random.default_rng([recipe.plan.schedule.seed, 2**31 + 1])
    with torch.no_grad():
        for number in range(batches):
            size = recipe.plan.sizes[number % len(recipe.plan.sizes)]
            count = recipe.plan.schedule.batch_size
            recipe.average(to_input([draw_scene(rng, size, recipe.source) for _ in range(count)]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    recipe.average.eval()
    return recipe


def to_input(scenes: Sequence[Scene]) -> Tensor:
    """Return the scenes as the network reads them: (N, 3, S, S), (pixel - 127.5) / 128."""
    pixels = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    return pixels.permute(0, 3, 1, 2).to(torch.float32).sub_(127.5).div_(128.0)


@torch.no_grad()
def find(
    net: FaceDetectorNet, image: UInt8Array, *, min_score: float = 0.5, max_overlap: float = 0.4
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the faces of one picture whose sides are multiples of 32.

    Returns:
        Scores (K,), boxes (K, 4) and points (K, 5, 2) in pixels, best first, after
        non-maximum suppression.
    """
    size_hw = (image.shape[0], image.shape[1])
    was_training = net.training
    net.eval()
    blank = np.zeros((0, 4), np.float32)
    scene = Scene(image=image, boxes_xyxy=blank, points_xy=np.zeros((0, 5, 2), np.float32))
    logits, boxes, points = (o[0] for o in to_pixels(net(to_input([scene])), size_hw))
    net.train(was_training)
    scores = logits.sigmoid()
    order = scores.argsort(descending=True)
    order = order[scores[order] >= min_score]
    kept: list[int] = []
    for row in order.tolist():
        if all(_overlap(boxes[row], boxes[other]) <= max_overlap for other in kept):
            kept.append(row)
    return scores[kept], boxes[kept], points[kept].reshape(-1, 5, 2)


def _overlap(first: Tensor, second: Tensor) -> float:
    """Return intersection over union of two boxes (4,)."""
    low, high = torch.maximum(first[:2], second[:2]), torch.minimum(first[2:], second[2:])
    common = float((high - low).clamp(min=0).prod())
    areas = sum(float((box[2:] - box[:2]).prod()) for box in (first, second))
    return common / max(areas - common, 1e-6)


def draw_found(image: UInt8Array, scores: Tensor, boxes: Tensor, points: Tensor) -> UInt8Array:
    """Return the picture with boxes and key points drawn in; brighter is surer."""
    canvas = np.ascontiguousarray(image).copy()
    for score, box, five in zip(scores.tolist(), boxes.tolist(), points.tolist(), strict=True):
        colour = (0, round(255 * score), 0)
        cv2.rectangle(
            canvas, (round(box[0]), round(box[1])), (round(box[2]), round(box[3])), colour
        )
        for x, y in five:
            cv2.circle(canvas, (round(x), round(y)), 1, (255, 60, 60), -1)
    return canvas
