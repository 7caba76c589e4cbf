"""A closer look at found faces: a small network that corrects their five key points.

A detector sees a face in a few cells of its coarse maps, and its key points are as coarse. Here the
face is cut out upright and in one size, by the points that the detector gave, and looked at; then,
by the points found so, turned a little to one side, and mirrored to the other. The mean of the
three is nearer than any: a network errs otherwise on another picture of the same face.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks.detector import Residual, convolution

PATCH = 80  # side of what the network sees, in pixels
# Where the five points of an average face lie, as shares of the patch's side (x, y).
EXPECTED_XY = ((0.34, 0.40), (0.66, 0.40), (0.50, 0.575), (0.37, 0.74), (0.63, 0.74))
EYES_APART = 0.32  # of the patch's side
MIRRORED_POINTS = (1, 0, 2, 4, 3)
TURN = 0.12  # radians, by which the face is turned when it is looked at again
VIEWS = ((TURN, False), (-TURN, True))  # these looks: turn, and whether mirrored


class SecondLook(nn.Module):
    """Patches to five points; `refine` does the whole of it.

    Args:
        widths: channels at 1/2, 1/4, 1/8 and 1/16 of the patch's side.
    """

    expected: Tensor

    def __init__(self, *, widths: tuple[int, int, int, int] = (16, 32, 64, 96)) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.body = nn.Sequential(
            convolution(3, first, stride=2),
            convolution(first, second, stride=2),
            Residual(second),
            convolution(second, third, stride=2),
            Residual(third),
            convolution(third, fourth, stride=2),
            Residual(fourth),
        )
        self.head = nn.Linear(fourth * (PATCH // 16) ** 2, 10)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("expected", torch.tensor(EXPECTED_XY), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """Find the points of patches.

        Args:
            patches: (N, 3, 80, 80), normalised as the detector's input.

        Returns:
            (N, 5, 2) as shares of the patch's side.
        """
        return self.expected + self.head(self.body(patches).flatten(1)).view(-1, 5, 2)

    def look(self, images: Tensor, points: Tensor, *, turn: float, mirrored: bool) -> Tensor:
        """Look once at faces where `points` say that they are; see `refine`.

        Args:
            images: (N, 3, H, W).
            points: (N, 5, 2) in pixels.
            turn: radians, by which the patch is turned against the face.
            mirrored: whether the patch is shown mirrored, left to right.

        Returns:
            (N, 5, 2) in pixels.
        """
        placed = turn_patches(place_patches(points), turn)
        patches = cut_patches(images, placed)
        found = self(patches.flip(3) if mirrored else patches)
        if mirrored:
            found = found[:, list(MIRRORED_POINTS)]
            found = torch.stack([1.0 - found[..., 0], found[..., 1]], dim=-1)
        return from_patch(placed, found)

    def refine(self, images: Tensor, points: Tensor) -> Tensor:
        """Return key points after another look, and two more from where that found them.

        Args:
            images: (N, 3, H, W), one a face, as the detector reads them.
            points: (N, 5, 2) in pixels, what the detector found.

        Returns:
            (N, 5, 2) in pixels: the mean of the three looks.
        """
        first = self.look(images, points, turn=0.0, mirrored=False)
        others = [self.look(images, first, turn=t, mirrored=m) for t, m in VIEWS]
        return torch.stack([first, *others]).mean(dim=0)


def place_patches(points: Tensor) -> Tensor:
    """Fit patches to key points (N, 5, 2): least squares, turned, scaled and shifted alone.

    Returns:
        (N, 4): a, b, x, y. A point (u, v) of the patch, as shares of its side less `centre()`, lies
        at (a u - b v + x, b u + a v + y) in the picture.
    """
    return points.flatten(1) @ fitting_matrix().to(points)


def turn_patches(placed: Tensor, turn: float) -> Tensor:
    """Turn patches (N, 4) about their `centre()` by `turn` radians; see `place_patches`."""
    a, b, x, y = placed.unbind(1)
    c, s = math.cos(turn), math.sin(turn)
    return torch.stack([a * c - b * s, b * c + a * s, x, y], dim=1)


def centre() -> tuple[float, float]:
    """Return the mean of the expected points, as shares of the patch's side."""
    x, y = zip(*EXPECTED_XY, strict=True)
    return sum(x) / 5, sum(y) / 5


def fitting_matrix() -> Tensor:
    """Return (10, 4), by which the numbers of five points become a, b, x and y."""
    known = torch.tensor(EXPECTED_XY, dtype=torch.float64) - torch.tensor(centre()).double()
    u, v = known[:, 0], known[:, 1]
    zero, one = torch.zeros(5).double(), torch.ones(5).double()
    x_rows = torch.stack([u, -v, one, zero], dim=1)
    y_rows = torch.stack([v, u, zero, one], dim=1)
    design = torch.stack([x_rows, y_rows], dim=1).reshape(10, 4)
    return torch.linalg.pinv(design).T.float()


def sample_axis(along: int) -> Tensor:
    """Return where the pixels of a patch lie on axis 0 (x) or 1 (y), less `centre()`."""
    return (torch.arange(PATCH) + 0.5) / PATCH - centre()[along]


def cut_patches(images: Tensor, placed: Tensor) -> Tensor:
    """Cut patches (N, 3, 80, 80) out of pictures (N, 3, H, W); see `place_patches`.

    Outside a picture its nearest pixel is repeated.
    """
    height, width = images.shape[2:]
    a, b, x, y = (value[:, None, None] for value in placed.unbind(1))
    u, v = sample_axis(0).to(images)[None, None, :], sample_axis(1).to(images)[None, :, None]
    grid = torch.stack(
        [
            (2.0 * (a * u - b * v + x) + 1.0) / width - 1.0,
            (2.0 * (b * u + a * v + y) + 1.0) / height - 1.0,
        ],
        dim=-1,
    )
    return F.grid_sample(images, grid, "bilinear", "border", align_corners=False)


def from_patch(placed: Tensor, points: Tensor) -> Tensor:
    """Return where points (N, 5, 2) of patches, as shares of their side, lie in the picture."""
    u, v = (points - points.new_tensor(centre())).unbind(-1)
    a, b, x, y = (value[:, None] for value in placed.unbind(1))
    return torch.stack([a * u - b * v + x, b * u + a * v + y], dim=-1)


def to_patch(placed: Tensor, points: Tensor) -> Tensor:
    """Return where points (N, 5, 2) of pictures lie in their patches: undoes `from_patch`."""
    a, b, x, y = (value[:, None] for value in placed.unbind(1))
    right, down = points[..., 0] - x, points[..., 1] - y
    size = a.square() + b.square()
    shares = torch.stack([(a * right + b * down) / size, (a * down - b * right) / size], dim=-1)
    return shares + points.new_tensor(centre())
