"""SAMM's AlignNet, slow and as the paper's code computes it: concatenated, unfused."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vidinvert.networks.ops import InstanceAffine, blur_reference
from vidinvert.networks.samm import AlignNet, Field


def _norm(x: Tensor, affine: InstanceAffine) -> Tensor:
    return F.instance_norm(x, weight=affine.weight, bias=affine.bias, eps=1e-5)


def align_reference(net: AlignNet, x: Tensor, features: Tensor) -> Field:
    """Estimate the field between features (N, C, r, r), without any sharing between cycles."""
    ours, theirs = F.instance_norm(x, eps=1e-5), F.instance_norm(features, eps=1e-5)
    pair = torch.cat([ours - theirs, theirs], dim=1)
    residual = net.conv_in(_norm(pair, net.norm_in))
    residual = F.prelu(residual, net.slope)
    residual = F.conv2d(residual, net.conv_out.weight, net.conv_out.bias, padding=1)
    hidden = _norm(residual, net.norm_out) + pair
    head = net.head
    residual = head.conv_in(_norm(hidden, head.norm_in))
    residual = _norm(head.conv_out(F.prelu(residual, head.slope)), head.norm_out)
    maps = residual + _norm(head.shortcut(hidden), head.shortcut_norm)
    maps = torch.cat([net.warp_scale * torch.tanh(maps[:, :2]), torch.sigmoid(maps[:, 2:])], dim=1)
    maps = blur_reference(maps, padding=(2, 1, 2, 1))
    return Field(flow=maps[:, :2], ood=maps[:, 2:])
