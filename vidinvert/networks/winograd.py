"""3x3 convolution by Winograd's minimal filtering F(4x4, 3x3), for float32 on the CPU.

Convention: output tiles of 4x4 pixels are computed from input tiles of 6x6 with 36 products for
each pair of channels instead of 144 (Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", CVPR 2016). The products are 36 matrix products over all tiles, which a CPU without
bf16 units runs about twice as fast as the direct convolution. The result differs from
the direct one by rounding only (about 1e-6 of its size); reduced precision and other devices
use the direct convolution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 4
WINDOW = 6
MIN_CHANNELS = 128  # below, bringing the tiles in and out costs more than it saves
# 38 MB of float32 for each of four buffers: 256 tiles of 1024 channels. With fewer rows the matrix
# products slow down (measured: 64 tiles take 1.5 times as long), with more nothing is gained.
BUFFER_ELEMENTS = 36 * 1024 * 256

# Lavin and Gray, section 4.3: Y = A^T [(G g G^T) * (B^T d B)] A.
_INPUT = (
    (4.0, 0.0, -5.0, 0.0, 1.0, 0.0),
    (0.0, -4.0, -4.0, 1.0, 1.0, 0.0),
    (0.0, 4.0, -4.0, -1.0, 1.0, 0.0),
    (0.0, -2.0, -1.0, 2.0, 1.0, 0.0),
    (0.0, 2.0, -1.0, -2.0, 1.0, 0.0),
    (0.0, 4.0, 0.0, -5.0, 0.0, 1.0),
)
_WEIGHT = (
    (1 / 4, 0.0, 0.0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0.0, 0.0, 1.0),
)
_OUTPUT = (
    (1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    (0.0, 1.0, -1.0, 2.0, -2.0, 0.0),
    (0.0, 1.0, 1.0, 4.0, 4.0, 0.0),
    (0.0, 1.0, -1.0, 8.0, -8.0, 1.0),
)


@dataclass(frozen=True, slots=True, eq=False)
class TransformedWeight:
    """Weights in Winograd's domain, float32 (36, C, O), and the transforms of tiles."""

    products: Tensor
    from_pixels: Tensor
    to_pixels: Tensor


def suits(weight: Tensor) -> bool:
    """Tell whether a convolution with this weight (O, C, k, k) gains: float32, CPU, 3x3, wide."""
    return (
        weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and tuple(weight.shape[-2:]) == (3, 3)
        and weight.shape[1] >= MIN_CHANNELS
        and weight.shape[0] >= MIN_CHANNELS
    )


def transform_weight(weight: Tensor) -> TransformedWeight:
    """Bring the weight (O, C, 3, 3) of a stride-1 convolution with padding 1 into the domain."""
    gain = torch.tensor(_WEIGHT, dtype=torch.float64)
    tiles = torch.tensor(_INPUT, dtype=torch.float32)
    pixels = torch.tensor(_OUTPUT, dtype=torch.float32)
    out_channels, in_channels = weight.shape[:2]
    flat = weight.detach().reshape(out_channels * in_channels, 9)
    products = torch.kron(gain, gain).to(torch.float32) @ flat.T  # (36, O * C)
    products = products.reshape(36, out_channels, in_channels).transpose(1, 2).contiguous()
    return TransformedWeight(
        products=products,
        from_pixels=torch.kron(tiles, tiles),
        to_pixels=torch.kron(pixels, pixels),
    )


def convolve(x: Tensor, weight: TransformedWeight) -> Tensor:
    """Convolve (N, C, H, W) float32 with zero padding 1 -> (N, O, H, W), channels last.

    Tiles are taken in portions, and the buffers between the steps are used again for every portion:
    their size does not grow with the picture, and fresh memory is slow to touch.
    """
    count, channels, height, width = x.shape
    out_channels = weight.products.shape[2]
    rows, columns = -(-height // TILE), -(-width // TILE)
    windows = _windows(x, rows, columns)  # (6, 6, N, rows, columns, C)
    blocks = x.new_empty(count, rows, TILE, columns, TILE, out_channels)
    by_position = blocks.permute(2, 4, 0, 1, 3, 5)  # (4, 4, N, rows, columns, O)
    tiles_at_once = max(1, BUFFER_ELEMENTS // (WINDOW**2 * max(channels, out_channels)))
    pictures = max(1, min(count, tiles_at_once // (rows * columns)))
    rows_at_once = max(1, min(rows, tiles_at_once // columns))
    size = pictures * rows_at_once * columns * WINDOW**2
    gathered, tiles = x.new_empty(size * channels), x.new_empty(size * channels)
    product, pixels = x.new_empty(size * out_channels), x.new_empty(size * out_channels)
    for first in range(0, count, pictures):
        for top in range(0, rows, rows_at_once):
            part = (slice(first, first + pictures), slice(top, top + rows_at_once))
            window = windows[:, :, *part]
            portion = window.shape[2] * window.shape[3] * columns
            wide, narrow = portion * channels, portion * out_channels
            _view(gathered, window.shape).copy_(window)
            into = _view(tiles, (WINDOW**2, wide))
            torch.mm(weight.from_pixels, _view(gathered, (WINDOW**2, wide)), out=into)
            products = _view(product, (WINDOW**2, portion, out_channels))
            torch.bmm(into.view(WINDOW**2, portion, channels), weight.products, out=products)
            flat = _view(pixels, (TILE**2, narrow))
            torch.mm(weight.to_pixels, products.view(WINDOW**2, narrow), out=flat)
            target = by_position[:, :, *part]
            target.copy_(flat.view(target.shape))
    image = blocks.view(count, rows * TILE, columns * TILE, out_channels)
    return image[:, :height, :width].permute(0, 3, 1, 2)


def _windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """View (N, C, H, W) framed with zeros as overlapping tiles (6, 6, N, rows, columns, C)."""
    count, channels, height, width = x.shape
    bottom, right = rows * TILE + 1 - height, columns * TILE + 1 - width
    padded = x.new_empty(count, 1 + height + bottom, 1 + width + right, channels)
    padded[:, 1 : 1 + height, 1 : 1 + width] = x.permute(0, 2, 3, 1)
    for edge in (padded[:, 0], padded[:, 1 + height :], padded[:, :, 0], padded[:, :, 1 + width :]):
        edge.zero_()
    step_n, step_h, step_w, _ = padded.stride()
    return padded.as_strided(
        (WINDOW, WINDOW, count, rows, columns, channels),
        (step_h, step_w, step_n, TILE * step_h, TILE * step_w, 1),
    )


def _view(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    """View the beginning of a flat buffer in a shape."""
    return buffer[: math.prod(shape)].view(tuple(shape))
