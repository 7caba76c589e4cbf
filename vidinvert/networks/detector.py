"""A small face detector with five key points, in the layout that insightface reads as SCRFD.

Anchors, assignment by scale and the output layout follow SCRFD (Guo et al., ICLR 2022); the network
is a plain convolutional one of our own, sized for 200 frames a second on two CPU cores.

Layout: three strides, two anchors a cell. The nine outputs are all scores, then all boxes, then all
key points, each from the finest stride to the coarsest; rows run over the cells row by row, anchors
innermost. A cell's point is (x * stride, y * stride). Scores are probabilities; boxes are distances
to the left, top, right and bottom, key points are offsets, both in units of the stride.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)
# Sides of the two square anchors of a cell, in pixels, per stride (SCRFD, table 1 for 640 px).
ANCHOR_SIZES = ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))
ANCHORS_PER_CELL = 2
POINT_COUNT = 5
# Raw box outputs are logarithms; beyond this they are cut, as exp(4) is already 27 anchors wide.
LOG_DISTANCE_LIMIT = 4.0


def convolution(in_width: int, out_width: int, *, stride: int = 1, kernel: int = 3) -> nn.Module:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_width, out_width, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_width),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions whose sum with the input is rectified."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = convolution(width, width)
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return F.relu(x + self.second(self.first(x)))


class Refinement(Residual):
    """The same without norms, which strides could not share; at first it changes nothing."""

    def __init__(self, width: int) -> None:
        nn.Module.__init__(self)
        self.first = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(inplace=True))
        self.second = nn.Conv2d(width, width, 3, 1, 1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # pyright: ignore[reportArgumentType]


class FaceDetectorNet(nn.Module):
    """Backbone, top-down neck, and one head that all strides share.

    Args:
        widths: channels at strides 2, 4, 8, 16 and 32.
        neck_width: channels of the neck and of the head.
    """

    def __init__(
        self, *, widths: Sequence[int] = (16, 32, 48, 64, 96), neck_width: int = 40
    ) -> None:
        super().__init__()
        c2, c4, c8, c16, c32 = widths
        self.stem = nn.Sequential(convolution(3, c2, stride=2), convolution(c2, c4, stride=2))
        self.stages = nn.ModuleList(
            [
                nn.Sequential(convolution(c4, c8, stride=2), convolution(c8, c8)),
                nn.Sequential(convolution(c8, c16, stride=2), Residual(c16)),
                nn.Sequential(convolution(c16, c32, stride=2), Residual(c32)),
            ]
        )
        self.laterals = nn.ModuleList([nn.Conv2d(width, neck_width, 1) for width in (c8, c16, c32)])
        self.smooths = nn.ModuleList([convolution(neck_width, neck_width) for _ in STRIDES])
        self.tower = nn.Conv2d(neck_width, neck_width, 3, 1, 1)
        self.score = nn.Conv2d(neck_width, ANCHORS_PER_CELL, 1)
        self.box = nn.Conv2d(neck_width, ANCHORS_PER_CELL * 4, 1)
        # Key points need a closer look than boxes; it starts as the identity.
        self.refine = nn.Sequential(Refinement(neck_width), Refinement(neck_width))
        self.points = nn.Conv2d(neck_width, ANCHORS_PER_CELL * POINT_COUNT * 2, 1)
        # One cell in a few hundred is a face: starting there keeps the first steps quiet.
        nn.init.constant_(self.score.bias, -5.0)  # pyright: ignore[reportArgumentType]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the nine outputs of the layout; scores before the sigmoid.

        Args:
            images: (N, 3, H, W) RGB, (pixel - 127.5) / 128; H and W divisible by 32.

        Returns:
            Three logits (N, cells * 2, 1), three boxes (N, cells * 2, 4), three key points
            (N, cells * 2, 10), float32.
        """
        x = self.stem(images)  # (N, C, H / 4, W / 4)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        levels = [lateral(f) for lateral, f in zip(self.laterals, features, strict=True)]
        for fine in (1, 0):
            upsampled = F.interpolate(levels[fine + 1], scale_factor=2.0, mode="nearest")
            levels[fine] = levels[fine] + upsampled
        scores, boxes, points = [], [], []
        for level, smooth, stride, sizes in zip(
            levels, self.smooths, STRIDES, ANCHOR_SIZES, strict=True
        ):
            features = F.relu(self.tower(smooth(level)))
            scores.append(_rows(self.score(features), 1))
            log_distance = _rows(self.box(features), 4).clamp(max=LOG_DISTANCE_LIMIT)
            reach = images.new_tensor(sizes).div(stride).repeat(level.shape[2] * level.shape[3])
            boxes.append(log_distance.exp() * (0.5 * reach[:, None]))
            offsets = self.points(self.refine(features))
            points.append(_rows(offsets, POINT_COUNT * 2) * reach[:, None])
        return scores + boxes + points


def _rows(maps: Tensor, width: int) -> Tensor:
    """Turn (N, 2 * width, h, w) into (N, h * w * 2, width): cells row by row, anchors innermost."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, width)


def cell_points(size_hw: tuple[int, int]) -> Tensor:
    """Return the point (x, y) in pixels of every output row of all strides, (rows, 2) float32."""
    rows = []
    for stride in STRIDES:
        y, x = torch.meshgrid(
            torch.arange(size_hw[0] // stride), torch.arange(size_hw[1] // stride), indexing="ij"
        )
        points = torch.stack([x, y], dim=-1).reshape(-1, 2) * float(stride)
        rows.append(points.repeat_interleave(ANCHORS_PER_CELL, dim=0))
    return torch.cat(rows)


def row_scales(size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the stride and the anchor's side of every output row, each (rows,) float32."""
    strides, sizes = [], []
    for stride, anchors in zip(STRIDES, ANCHOR_SIZES, strict=True):
        cells = (size_hw[0] // stride) * (size_hw[1] // stride)
        strides.append(torch.full((cells * ANCHORS_PER_CELL,), float(stride)))
        sizes.append(torch.tensor(anchors).repeat(cells))
    return torch.cat(strides), torch.cat(sizes)
