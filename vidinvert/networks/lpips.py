"""LPIPS (Zhang, Isola, Efros, Shechtman and Wang, CVPR 2018), version 0.1. Weights are the user's.

A file holds the state dict of the authors' `lpips.LPIPS(net="alex")` or `net="vgg"`; which of the
two is told from its names. Values of the two do not compare.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The backbone's convolutions by slice: index in torchvision's `features`, channels, kernel, stride,
# padding. A pooling layer precedes the slices after the first (AlexNet: the second and third).
_ALEX = (
    ((0, 64, 11, 4, 2),),
    ((3, 192, 5, 1, 2),),
    ((6, 384, 3, 1, 1),),
    ((8, 256, 3, 1, 1),),
    ((10, 256, 3, 1, 1),),
)
_VGG = (
    ((0, 64, 3, 1, 1), (2, 64, 3, 1, 1)),
    ((5, 128, 3, 1, 1), (7, 128, 3, 1, 1)),
    ((10, 256, 3, 1, 1), (12, 256, 3, 1, 1), (14, 256, 3, 1, 1)),
    ((17, 512, 3, 1, 1), (19, 512, 3, 1, 1), (21, 512, 3, 1, 1)),
    ((24, 512, 3, 1, 1), (26, 512, 3, 1, 1), (28, 512, 3, 1, 1)),
)
_SLICES = {"alex": _ALEX, "vgg": _VGG}
_POOL = {"alex": ({1, 2}, 3, 2), "vgg": ({1, 2, 3, 4}, 2, 2)}  # before slices; kernel, stride

# The authors' scaling layer: ImageNet's mean and deviation for pictures in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """Distance of two pictures in the features of a classifier.

    Args:
        state: tensors named as in the authors' state dict.

    Raises:
        ValueError: the names or shapes are not those of a known backbone.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.backbone: Literal["alex", "vgg"] = _backbone_of(state)
        self.register_buffer("shift", torch.tensor(_SHIFT)[None, :, None, None])
        self.register_buffer("scale", torch.tensor(_SCALE)[None, :, None, None])
        self.slices = nn.ModuleList()
        self.weights = nn.ParameterList()
        inputs = 3
        for number, layers in enumerate(_SLICES[self.backbone]):
            convolutions = nn.ModuleList()
            for index, outputs, kernel, stride, padding in layers:
                layer = nn.Conv2d(inputs, outputs, kernel, stride, padding)
                prefix = f"net.slice{number + 1}.{index}"
                layer.weight = _taken(state, f"{prefix}.weight", layer.weight.shape)
                layer.bias = _taken(state, f"{prefix}.bias", torch.Size([outputs]))
                convolutions.append(layer)
                inputs = outputs
            self.slices.append(convolutions)
            linear = _taken(state, f"lin{number}.model.1.weight", torch.Size([1, inputs, 1, 1]))
            self.weights.append(linear)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distance (N,) of pictures (N, 3, H, W) RGB in [-1, 1]."""
        total = first.new_zeros(len(first))
        a, b = (first - self.shift) / self.scale, (second - self.shift) / self.scale
        pooled, kernel, stride = _POOL[self.backbone]
        for number, (convolutions, weight) in enumerate(
            zip(self.slices, self.weights, strict=True)
        ):
            if number in pooled:
                a, b = F.max_pool2d(a, kernel, stride), F.max_pool2d(b, kernel, stride)
            for layer in convolutions.children():
                a, b = F.relu(layer(a)), F.relu(layer(b))
            difference = (_unit(a) - _unit(b)).square()  # (N, C, h, w)
            total = total + (difference * weight).sum(dim=1).mean(dim=(1, 2))
        return total


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _backbone_of(state: Mapping[str, Tensor]) -> Literal["alex", "vgg"]:
    if "net.slice2.3.weight" in state:
        return "alex"
    if "net.slice2.5.weight" in state:
        return "vgg"
    raise ValueError(
        "the tensors are not those of lpips.LPIPS(net='alex') or net='vgg', expected names as "
        "net.slice1.0.weight and lin0.model.1.weight; save that module's state_dict()"
    )


def _taken(state: Mapping[str, Tensor], name: str, shape: torch.Size) -> nn.Parameter:
    tensor = state.get(name)
    if tensor is None or tensor.shape != shape:
        seen = "absent" if tensor is None else str(tuple(tensor.shape))
        raise ValueError(f"{name} is {seen}, expected {tuple(shape)}; the file is incomplete")
    return nn.Parameter(tensor.detach().float(), requires_grad=False)
