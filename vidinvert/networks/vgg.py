"""VGG16 up to conv4_3 (Simonyan and Zisserman, ICLR 2015): features to compare pictures in."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PUBLISHED_WIDTHS = (64, 128, 256, 512)
CONVOLUTIONS = (2, 2, 3, 3)  # of each resolution, up to conv4_3
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


class Vgg16Features(nn.Module):
    """Pictures (N, 3, H, W) RGB in [-1, 1] to conv4_3 after its ReLU, (N, 512, H/8, W/8).

    The weights are those of the authors' Caffe model, which reads BGR in [0, 255] minus a mean.
    """

    def __init__(self, *, widths: Sequence[int] = PUBLISHED_WIDTHS) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        previous = 3
        for width, count in zip(widths, CONVOLUTIONS, strict=True):
            for _ in range(count):
                self.convs.append(nn.Conv2d(previous, width, 3, padding=1))
                previous = width

    def forward(self, images: Tensor) -> Tensor:
        """Return the features; in the dtype of the weights."""
        mean = torch.tensor(CAFFE_MEAN_BGR, dtype=torch.float32, device=images.device)
        x = (images.float().flip(1) + 1.0) * 127.5 - mean[:, None, None]
        first = self.convs[0]
        assert isinstance(first, nn.Conv2d)
        x = x.to(first.weight.dtype)
        ends = {sum(CONVOLUTIONS[: k + 1]) for k in range(len(CONVOLUTIONS) - 1)}
        for index, conv in enumerate(self.convs):
            if index in ends:
                x = F.max_pool2d(x, 2)
            x = F.relu(conv(x))
        return x
