"""Residual trunks of face encoders: the IR-SE50 of ArcFace, which e4e and ReStyle build on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks.ops import Conv2d

IR50_UNITS = (3, 4, 14, 3)
IR50_WIDTHS = (64, 128, 256, 512)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that may be reduced to a scale and a shift; those are float32."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.fast: tuple[Tensor, Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        if self.fast is None:
            return super().forward(input)
        scale, shift = self.fast
        return torch.addcmul(shift.to(input.dtype), input, scale.to(input.dtype))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return (C,) float32 with which `x * scale + shift` is the normalised `x`."""
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = self.weight.detach() * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias.detach() - self.running_mean * scale

    def prepare(self) -> None:
        """Compute scale and shift once; the statistics must not change after."""
        scale, shift = self.scale_and_shift()
        self.fast = scale[:, None, None], shift[:, None, None]


class SqueezeExcite(nn.Module):
    """Weigh the channels by what their means say (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.excite = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return weights in (0, 1): (N, C, H, W) -> (N, C, 1, 1)."""
        means = x.mean(dim=(2, 3), keepdim=True)
        return torch.sigmoid(self.excite(F.relu(self.squeeze(means))))


class ResidualUnit(nn.Module):
    """The improved residual unit of ArcFace with squeeze-and-excitation ("IR-SE")."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm_in = BatchNorm2d(in_channels)
        self.conv_in = Conv2d(in_channels, out_channels, 3, bias=False)
        self.slope = nn.Parameter(torch.full((out_channels,), 0.25))
        self.conv_out = Conv2d(out_channels, out_channels, 3, stride=stride, bias=False)
        self.norm_out = BatchNorm2d(out_channels)
        self.weigh = SqueezeExcite(out_channels)
        self.shortcut: nn.Sequential | None = None
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Transform (N, in, H, W) -> (N, out, H / stride, W / stride)."""
        residual = F.prelu(self.conv_in(self.norm_in(x)), self.slope)
        residual = self.norm_out(self.conv_out(residual))
        if self.shortcut is not None:
            base = self.shortcut(x)
        else:
            base = x[:, :, :: self.stride, :: self.stride]
        return torch.addcmul(base, residual, self.weigh(residual))


class IRSE50(nn.Module):
    """The 24 units of IR-SE50, returning the feature maps that encoders tap.

    Indices of units follow the published layout: 0-2, 3-6, 7-20 and 21-23 are of 64, 128, 256 and
    512 channels (or `widths`), each group beginning with a stride of 2.
    """

    def __init__(self, *, in_channels: int = 3, widths: Sequence[int] = IR50_WIDTHS) -> None:
        super().__init__()
        width = widths[0]
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.norm = BatchNorm2d(width)
        self.slope = nn.Parameter(torch.full((width,), 0.25))
        units: list[nn.Module] = []
        for channels, count in zip(widths, IR50_UNITS, strict=True):
            for position in range(count):
                units.append(ResidualUnit(width, channels, stride=2 if position == 0 else 1))
                width = channels
        self.units = nn.ModuleList(units)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what leaves the input layer and units 2, 6, 20 and 23, fine to coarse.

        Args:
            x: (N, 3, H, W) in [-1, 1]; 256 px in the published encoders.

        Returns:
            (N, 64, H, W), (N, 64, H/2, W/2), (N, 128, H/4, ...), (N, 256, H/8, ...),
            (N, 512, H/16, ...).
        """
        x = F.prelu(self.norm(self.conv(x)), self.slope)
        taps = [x]
        for index, unit in enumerate(self.units):
            x = unit(x)
            if index in (2, 6, 20, 23):
                taps.append(x)
        return tuple(taps)
