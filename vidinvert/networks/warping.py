"""Sampling features where a flow points: SAMM's grid convention, named and tested."""

import torch
from torch import Tensor
from torch.nn import functional as F


def sampling_grid(flow: Tensor) -> Tensor:
    """Return where to sample for a flow: (N, 2, H, W) -> (N, H, W, 2) in [-1, 1], (x, y).

    Convention: the base grid spans [-1, 1] inclusive. The published code samples it with
    `align_corners=False`, for which -1 is the border of the outermost pixel and not its centre:
    zero flow magnifies by n / (n - 1) and mixes zeros in at the border. Its weights depend on it
    (`test_zero_flow_reads_half_a_pixel_beyond_the_border`). New weights are trained with
    `align_corners=True`, for which zero flow is the identity.
    """
    height, width = flow.shape[-2:]
    rows = torch.linspace(-1, 1, height, dtype=flow.dtype, device=flow.device)
    columns = torch.linspace(-1, 1, width, dtype=flow.dtype, device=flow.device)
    x = flow[:, 0] + columns[None, None, :]
    y = flow[:, 1] + rows[None, :, None]
    return torch.stack([x, y], dim=-1)


def warp(x: Tensor, flow: Tensor, *, align_corners: bool) -> Tensor:
    """Sample features (N, C, H, W) bilinearly where the flow points, zeros beyond the border.

    On the CPU every pixel is a weighted sum of four rows of channels, which suits channels-last
    features; with gradients or elsewhere it is `F.grid_sample`.
    """
    if x.device.type != "cpu" or x.requires_grad or flow.requires_grad:
        grid = sampling_grid(flow).to(x.dtype)
        return F.grid_sample(
            x, grid, mode="bilinear", padding_mode="zeros", align_corners=align_corners
        )
    count, channels, height, width = x.shape
    size = torch.tensor([width, height], dtype=torch.float32)
    grid = sampling_grid(flow.float())
    if align_corners:
        position = (grid + 1.0) * 0.5 * (size - 1.0)
    else:
        position = (grid + 1.0) * 0.5 * size - 0.5  # (N, H, W, 2) in pixels
    floor = position.floor()
    fraction = position - floor
    near = floor.long()
    offset = torch.arange(count)[:, None, None] * (height * width)
    rows, weights = [], []
    for dy in (0, 1):
        for dx in (0, 1):
            column, row = near[..., 0] + dx, near[..., 1] + dy
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            share_x = fraction[..., 0] if dx else 1.0 - fraction[..., 0]
            share_y = fraction[..., 1] if dy else 1.0 - fraction[..., 1]
            weights.append(share_x * share_y * inside)
            rows.append(row.clamp(0, height - 1) * width + column.clamp(0, width - 1) + offset)
    table = x.permute(0, 2, 3, 1).reshape(count * height * width, channels)
    sampled = F.embedding_bag(
        torch.stack(rows, dim=-1).view(-1, 4),
        table,
        per_sample_weights=torch.stack(weights, dim=-1).view(-1, 4).to(x.dtype),
        mode="sum",
    )
    return sampled.view(count, height, width, channels).permute(0, 3, 1, 2)
