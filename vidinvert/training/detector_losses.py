"""What the face detector is taught: which anchors answer for which face, and how wrong they are.

Assignment is by scale and centre: an anchor answers for a face of about its size whose middle is
near its cell. Anchors that nearly do are left alone. Scores learn the overlap of their own box with
the face (quality focal loss, Li et al., NeurIPS 2020), so the best box has the best score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vidinvert.networks.detector import ANCHOR_SIZES, POINT_COUNT, cell_points, row_scales
from vidinvert.training.scenes import Scene

# In octaves between the face's and the anchor's size.
SCALE_REACH, SCALE_IGNORED = 0.7, 1.1
# Distance of the cell from the face's middle, in face sizes and at least in strides.
CENTRE_REACH, CENTRE_IGNORED, CENTRE_STRIDES = 0.20, 0.40, 0.75


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """What each of the R output rows of N scenes should say.

    `positive`, `ignored` (N, R) bool; `boxes_xyxy` (N, R, 4), `points_xy` (N, R, 10), `size` (N, R)
    float32 in pixels, of the row's face where `positive`, else 0.
    """

    positive: Tensor
    ignored: Tensor
    boxes_xyxy: Tensor
    points_xy: Tensor
    size: Tensor


def assign(scenes: Sequence[Scene], size_hw: tuple[int, int]) -> Targets:
    """Choose for every output row the face it answers for, if any."""
    cells = cell_points(size_hw)  # (R, 2)
    strides, anchors = row_scales(size_hw)  # (R,), (R,)
    smallest, largest = ANCHOR_SIZES[0][0], ANCHOR_SIZES[-1][-1]
    rows, count = len(cells), len(scenes)
    positive = torch.zeros(count, rows, dtype=torch.bool)
    ignored = torch.zeros(count, rows, dtype=torch.bool)
    boxes = torch.zeros(count, rows, 4)
    points = torch.zeros(count, rows, POINT_COUNT * 2)
    sizes = torch.zeros(count, rows)
    for number, scene in enumerate(scenes):
        nearest = torch.full((rows,), torch.inf)
        for box, five in zip(scene.boxes_xyxy, scene.points_xy, strict=True):
            box_xyxy = torch.from_numpy(box)
            size = float((box_xyxy[2:] - box_xyxy[:2]).prod().sqrt())
            away = (cells - (box_xyxy[:2] + box_xyxy[2:]) / 2).norm(dim=1)  # (R,)
            octaves = (anchors / min(max(size, smallest), largest)).log2().abs()
            reach = (CENTRE_STRIDES * strides).clamp(min=CENTRE_REACH * size)
            mine = (octaves <= SCALE_REACH) & (away <= reach) & (away < nearest)
            near = (octaves <= SCALE_IGNORED) & (away <= reach.clamp(min=CENTRE_IGNORED * size))
            nearest = torch.where(mine, away, nearest)
            positive[number] |= mine
            ignored[number] |= near
            boxes[number, mine] = box_xyxy
            points[number, mine] = torch.from_numpy(five).reshape(-1)
            sizes[number, mine] = size
    return Targets(
        positive=positive,
        ignored=ignored & ~positive,
        boxes_xyxy=boxes,
        points_xy=points,
        size=sizes,
    )


def to_pixels(outputs: Sequence[Tensor], size_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nine outputs in pixels: logits (N, R), boxes (N, R, 4), points (N, R, 10)."""
    logits, distances, offsets = (torch.cat(list(outputs[i : i + 3]), dim=1) for i in (0, 3, 6))
    cells, strides = cell_points(size_hw), row_scales(size_hw)[0][:, None]
    distances = distances * strides
    boxes = torch.cat([cells - distances[..., :2], cells + distances[..., 2:]], dim=-1)
    points = cells.repeat(1, POINT_COUNT) + offsets * strides
    return logits[..., 0], boxes, points


def detector_loss(
    outputs: Sequence[Tensor], targets: Targets, size_hw: tuple[int, int]
) -> dict[str, Tensor]:
    """Return the parts of the loss, already weighted, each a scalar: score, box, points."""
    logits, boxes, points = to_pixels(outputs, size_hw)
    positive = targets.positive
    count = positive.sum().clamp(min=1)
    wanted_boxes = targets.boxes_xyxy[positive]  # (P, 4)
    overlap, distance = overlap_and_distance(boxes[positive], wanted_boxes)
    quality = torch.zeros_like(logits)
    quality[positive] = overlap.detach()
    probability = logits.sigmoid()
    focal = (quality - probability).abs().square()
    score = F.binary_cross_entropy_with_logits(logits, quality, reduction="none") * focal
    share = (points[positive] - targets.points_xy[positive]) / targets.size[positive][:, None]
    off = F.smooth_l1_loss(share, torch.zeros_like(share), beta=0.01, reduction="sum")
    return {
        "score": score[~targets.ignored].sum() / count,
        "box": 2.0 * (1.0 - overlap + distance).sum() / count,
        "points": 40.0 * off / (count * POINT_COUNT * 2),
    }


def overlap_and_distance(boxes: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return intersection over union, and the DIoU penalty (Zheng et al., AAAI 2020), each (P,).

    The penalty is the squared distance of the middles over that of the common hull's diagonal.
    """
    low = torch.maximum(boxes[:, :2], wanted[:, :2])
    high = torch.minimum(boxes[:, 2:], wanted[:, 2:])
    common = (high - low).clamp(min=0).prod(dim=1)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(dim=1) for b in (boxes, wanted)]
    overlap = common / (areas[0] + areas[1] - common).clamp(min=1e-6)
    hull = torch.maximum(boxes[:, 2:], wanted[:, 2:]) - torch.minimum(boxes[:, :2], wanted[:, :2])
    between = (boxes[:, :2] + boxes[:, 2:] - wanted[:, :2] - wanted[:, 2:]) / 2
    return overlap, between.square().sum(dim=1) / hull.square().sum(dim=1).clamp(min=1e-6)
