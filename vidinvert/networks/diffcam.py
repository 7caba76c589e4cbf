"""Diff-CAM, "Editing out-of-domain GAN inversion via differential activations" (Song et al., 2022).

A classifier sees the difference of a shared trunk's features of two pictures, one before and one
after an edit, and names the edit. Where the features speak for the name is where the edit acts:
Grad-CAM (Selvaraju et al., ICCV 2017) of the named class is the map of the edit.

After global average pooling and one linear layer, Grad-CAM's weights are known without a backward
pass: the logit of class c is the sum over channels k of `head[c, k]` times the mean of activation
k, so its gradient at every cell of activation k is `head[c, k] / cells`, and the mean of that over
space is the same number (`DiffCam.maps`; the tests hold it against autograd).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks.backbones import BatchNorm2d

RESNET101_UNITS = (3, 4, 23, 3)
RESNET101_WIDTHS = (64, 128, 256, 512)  # of the units' middle; they put out four times as many
SHARED_UNITS = 10  # of the third group's 23: those before the difference is taken
PUBLISHED_CLASSES = 17
LATENT_SHARED = (48, 64)  # channels of the trunk over latents, before the difference
LATENT_JUDGED = (80, 96)  # and after it, the first at half the cells
EMPTY_RANGE = 1e-6  # a map whose values lie closer together shows nothing


class DiffCam(nn.Module):
    """Names the edit between two inputs, and maps where it acts.

    Args:
        shared: trunk that both inputs pass.
        judge: what follows the difference of the trunk's outputs, up to the last activations.
        channels: of those activations.
        classes: number of edits.
    """

    def __init__(self, shared: nn.Module, judge: nn.Module, *, channels: int, classes: int) -> None:
        super().__init__()
        self.shared = shared
        self.judge = judge
        self.head = nn.Linear(channels, classes)

    def difference(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the shared trunk's features of `after` less those of `before`: (N, C, h, w)."""
        first, second = self.shared(torch.cat([before, after])).chunk(2)
        return second - first

    def activations(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the last activations (N, C, h, w) for two inputs (N, ...)."""
        return self.judge(self.difference(before, after))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the logits of the edits, (N, K) float32."""
        return self.logits(self.activations(before, after))

    def logits(self, activations: Tensor) -> Tensor:
        """Pool and weigh the last activations: (N, C, h, w) -> (N, K) float32."""
        means = activations.mean(dim=(2, 3)).float()
        return F.linear(means, self.head.weight.float(), self.head.bias.float())

    def maps(self, activations: Tensor) -> Tensor:
        """Return Grad-CAM's map of every class, ReLU(sum of weighted activations): (N, K, h, w)."""
        cells = activations.shape[2] * activations.shape[3]
        weights = self.head.weight.float() / cells  # (K, C)
        return F.relu(torch.einsum("kc,nchw->nkhw", weights, activations.float()))


def normalise_map(cam: Tensor) -> Tensor:
    """Stretch each map (N, K, h, w) >= 0 to [0, 1]: subtract its least, divide by its range.

    The published code divides by the largest value whatever it is, so a map that is zero
    everywhere becomes NaN. Here a map without range is empty: 0 everywhere.
    """
    flat = cam.flatten(2)
    least = flat.amin(dim=2)[..., None, None]
    spread = flat.amax(dim=2)[..., None, None] - least
    return torch.where(spread > EMPTY_RANGE, (cam - least) / spread.clamp_min(EMPTY_RANGE), 0.0)


def latent_diffcam(classes: int, *, channels: int = 32) -> DiffCam:
    """Build the small Diff-CAM of our own packs, over the generator's latents (N, 32, 32, 32).

    Latents are the picture at an eighth of its size, so nothing needs to be decoded. Its last
    activations have 16 x 16 cells, the published ones 8 x 8. 0.2 GFLOP.
    """
    shared: list[nn.Module] = []
    for inputs, outputs in pairwise((channels, *LATENT_SHARED)):
        shared += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    judge: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise((LATENT_SHARED[-1], *LATENT_JUDGED))):
        stride = 2 if index == 0 else 1
        judge += [nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.ReLU()]
    for layer in (*shared, *judge):
        if isinstance(layer, nn.Conv2d):  # small differences must not fade on their way
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return DiffCam(
        nn.Sequential(*shared), nn.Sequential(*judge), channels=LATENT_JUDGED[-1], classes=classes
    )


class Bottleneck(nn.Module):
    """The residual unit of ResNet-50 and deeper (He et al., 2016), its stride in the 3 x 3."""

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Transform (N, in, H, W) -> (N, 4 width, H / stride, W / stride)."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = F.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return F.relu(residual + (x if self.downsample is None else self.downsample(x)))


def resnet_diffcam(
    *,
    classes: int = PUBLISHED_CLASSES,
    units: Sequence[int] = RESNET101_UNITS,
    widths: Sequence[int] = RESNET101_WIDTHS,
    shared_units: int = SHARED_UNITS,
) -> DiffCam:
    """Build the published Diff-CAM: a ResNet-101 cut in its third group, over pictures.

    Its inputs are (N, 3, 256, 256) in [-1, 1], its last activations have 8 x 8 cells.

    Args:
        classes: number of edits.
        units: of the four groups.
        widths: of the four groups' units, in their middle.
        shared_units: of the third group, before the difference.
    """
    stem = widths[0]
    shared: list[nn.Module] = [
        nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False),
        BatchNorm2d(stem),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    judge: list[nn.Module] = []
    channels = stem
    for group, (count, width) in enumerate(zip(units, widths, strict=True)):
        built: list[nn.Module] = []
        for unit in range(count):
            stride = 2 if group > 0 and unit == 0 else 1
            built.append(Bottleneck(channels, width, stride=stride))
            channels = 4 * width
        cut = count if group < 2 else shared_units if group == 2 else 0
        for part, target in ((built[:cut], shared), (built[cut:], judge)):
            if part:
                target.append(nn.Sequential(*part))
    trunk, rest = nn.Sequential(*shared), nn.Sequential(*judge)
    return DiffCam(trunk, rest, channels=channels, classes=classes)
