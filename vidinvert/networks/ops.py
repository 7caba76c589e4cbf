"""The layers that the style generators share: equalised and modulated layers, FIR resampling.

Each fast path has a plain reference beside it (`*_reference`), and a test that they agree. Layers
are written for channels-last tensors and follow their input's dtype; styles are computed in
float32 whatever the features are. Equations are those of StyleGAN2 (Karras et al., CVPR 2020).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks import winograd

SQRT2 = math.sqrt(2.0)
SLOPE = 0.2
DEMODULATION_EPSILON = 1e-8
INSTANCE_EPSILON = 1e-5
FIR_TAPS = (1.0, 3.0, 3.0, 1.0)

Padding = tuple[int, int, int, int]


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2, times sqrt(2) to keep the variance."""
    return F.leaky_relu(x, SLOPE).mul_(SQRT2)


def add_to(x: Tensor, other: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Return x + alpha * other; without gradients in the place of `x`, which is lost."""
    if x.requires_grad or other.requires_grad:
        return torch.add(x, other, alpha=alpha)
    return x.add_(other, alpha=alpha)


def pixel_norm(x: Tensor) -> Tensor:
    """Scale each row of (N, D) to a mean square of one."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class EqualizedLinear(nn.Module):
    """A linear layer whose weights have unit variance and are scaled when used.

    Its parameters stay float32 in reduced precision (see `set_precision`): codes and styles are
    cheap, and most of the error of a bf16 run would come from them.
    """

    def __init__(
        self,
        in_width: int,
        out_width: int,
        *,
        rate_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_width, in_width) / rate_multiplier)
        self.bias = nn.Parameter(torch.full((out_width,), bias_init))
        self.weight_gain = rate_multiplier / math.sqrt(in_width)
        self.bias_gain = rate_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in) -> (N, out)."""
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


class Conv2d(nn.Conv2d):
    """A convolution that keeps its size at stride 1 and may be prepared for the CPU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, bias: bool
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=bias
        )
        self.fast: winograd.TransformedWeight | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N, in, H, W) -> (N, out, H / stride, W / stride)."""
        if self.fast is None or input.requires_grad:
            return super().forward(input)
        out = winograd.convolve(input, self.fast)
        return out if self.bias is None else out.add_(self.bias[:, None, None])

    def prepare(self) -> None:
        """Transform the weights once where that pays; they must not change after."""
        if self.stride == (1, 1) and winograd.suits(self.weight):
            self.fast = winograd.transform_weight(self.weight)


class InstanceAffine(nn.Module):
    """Per-channel scale and shift after instance normalisation (its parameters stay float32)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, C) float32 with which `x * scale + shift` is the normalised `x`."""
        mean, inverse_deviation = instance_statistics(x)
        scale = self.weight * inverse_deviation
        return scale, self.bias - mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W), then scale and shift."""
        return normalise(x, self.weight, self.bias)


def normalise(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Bring every channel of every picture to mean 0 and deviation 1, then scale and shift.

    With a group for each channel, group normalisation is instance normalisation. On the CPU its
    kernel for channels-last tensors reads twice and writes once, in a fifth of the time of taking
    statistics first; `normalise_reference` is that, and what gradients pass through.

    Args:
        x: (N, C, H, W).
        weight: (C,) float32; None = 1.
        bias: (C,) float32; None = 0.
    """
    if x.device.type != "cpu" or x.requires_grad:
        return normalise_reference(x, weight, bias)
    return F.group_norm(x, x.shape[1], weight, bias, INSTANCE_EPSILON)


def normalise_reference(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Take each picture's statistics, then scale and shift: what `normalise` must equal."""
    mean, scale = instance_statistics(x)
    if weight is not None:
        scale = weight * scale
    shift = -mean * scale if bias is None else bias - mean * scale
    return scale_channels(x, scale, shift)


def instance_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return each picture's mean and 1 / deviation of every channel, (N, C) float32.

    Two means over channels-last tensors take a tenth of the time of `torch.var_mean` on the CPU,
    and `F.instance_norm` copies to the other layout first.
    """
    values = x.float()
    mean = values.mean(dim=(2, 3))
    variance = (values.square().mean(dim=(2, 3)) - mean.square()).clamp_min(0.0)
    return mean, torch.rsqrt(variance + INSTANCE_EPSILON)


def scale_channels(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Compute x * scale + shift with (N, C) factors, in the dtype of `x` (N, C, H, W)."""
    return torch.addcmul(
        shift.to(x.dtype)[:, :, None, None], x, scale.to(x.dtype)[:, :, None, None]
    )


class ModulatedConv2d(nn.Module):
    """A convolution whose input channels are scaled by a style, optionally up-sampling twofold.

    The style scales the *input*, one shared convolution runs for the whole batch, and the
    demodulation scales the *output*: equal to scaling the weights of every sample (StyleGAN2,
    equations 1 and 3; `modulated_conv2d_reference`), without a grouped convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        style_width: int,
        demodulate: bool = True,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.modulation = EqualizedLinear(style_width, in_channels, bias_init=1.0)
        self.gain = 1 / math.sqrt(in_channels * kernel * kernel)
        self.demodulate = demodulate
        self.upsample = upsample
        self.fast: winograd.TransformedWeight | None = None
        self.energy: Tensor | None = None

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Convolve (N, in, H, W) under the codes `w` (N, D) -> (N, out, H, W) or twice the size."""
        styles = self.modulation(w) * self.gain  # (N, in) float32
        x = x * styles.to(x.dtype)[:, :, None, None]
        x = self.convolve(x)
        if not self.demodulate:
            return x
        factors = self.demodulation(styles).to(x.dtype)[:, :, None, None]
        return x * factors if x.requires_grad or factors.requires_grad else x.mul_(factors)

    def convolve(self, x: Tensor) -> Tensor:
        """Run the shared convolution on features that are scaled already."""
        if self.fast is not None and not x.requires_grad:
            return winograd.convolve(x, self.fast)
        if self.upsample:
            return upsample_convolution(x, self.weight)
        return F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)

    def demodulation(self, styles: Tensor) -> Tensor:
        """Return what brings each output channel back to unit variance: (N, in) -> (N, out)."""
        energy = self.energy
        if energy is None:
            energy = self.weight.to(styles.dtype).square().sum(dim=(2, 3))  # (out, in)
        return torch.rsqrt(F.linear(styles.square(), energy) + DEMODULATION_EPSILON)

    def prepare(self) -> None:
        """Compute once what does not depend on the input; the weights must not change after."""
        weight = self.weight.detach()
        self.energy = weight.float().square().sum(dim=(2, 3))
        if not self.upsample and winograd.suits(weight):
            self.fast = winograd.transform_weight(weight)


def modulated_conv2d_reference(
    x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool = True, upsample: bool = False
) -> Tensor:
    """Scale the weights of every sample and run a grouped convolution: the published form.

    Args:
        x: (N, in, H, W).
        weight: (out, in, k, k).
        styles: (N, in), with the equalising gain 1 / sqrt(in k k) multiplied in.
        demodulate: bring each output channel back to unit variance.
        upsample: convolve transposed with stride 2, then blur.
    """
    count, channels, height, width = x.shape
    kernel = weight.shape[-1]
    scaled = weight[None] * styles[:, None, :, None, None]  # (N, out, in, k, k)
    if demodulate:
        energy = scaled.square().sum(dim=(2, 3, 4), keepdim=True)
        scaled = scaled * torch.rsqrt(energy + DEMODULATION_EPSILON)
    rows = x.reshape(1, count * channels, height, width)
    if not upsample:
        stacked = scaled.reshape(-1, channels, kernel, kernel)
        out = F.conv2d(rows, stacked, padding=kernel // 2, groups=count)
        return out.reshape(count, -1, height, width)
    stacked = scaled.transpose(1, 2).reshape(count * channels, -1, kernel, kernel)
    out = F.conv_transpose2d(rows, stacked, stride=2, groups=count)
    out = out.reshape(count, -1, *out.shape[-2:])
    return blur_reference(out, padding=(1, 1, 1, 1), gain=4.0)


def upsample_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve transposed with stride 2, then blur: (N, C, H, W) -> (N, O, 2H, 2W)."""
    x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)  # (N, O, 2H + 1, 2W + 1)
    return blur(x, padding=(1, 1, 1, 1), gain=4.0)


def merge_doubling(weight: Tensor) -> Tensor:
    """Merge a 3x3 convolution (O, C, 3, 3) with the doubling by nearest neighbour before it.

    Of the nine pixels that an output sees, most are copies of each other: a pixel of an even row
    sees one source row once and the next twice, one of an odd row the other way round. So four
    sums of taps do what nine did, 4 / 9 of the products; float32 results differ by rounding.

    Returns:
        (C, O, 4, 4), channels last, for `F.conv_transpose2d` with stride 2 and padding 1.
    """
    # Tap k of a transposed convolution brings source row i to output row 2 i + k - 1.
    rows = weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])  # (k, tap)
    merged = torch.einsum("ky,lx,ocyx->cokl", rows, rows, weight)
    return merged.contiguous(memory_format=torch.channels_last)


def blur(x: Tensor, *, padding: Padding, gain: float = 1.0) -> Tensor:
    """Blur (N, C, H, W) with outer([1, 3, 3, 1]) / 64 * gain after padding with zeros.

    Args:
        x: features.
        padding: left, right, top, bottom, as `F.pad` takes them; the kernel takes three away.
        gain: factor on the kernel, 4 after inserting zeros for twofold up-sampling.
    """
    channels = x.shape[1]
    kernel = (_fir_kernel(x) * gain).expand(channels, 1, 4, 4)
    if len(set(padding)) == 1:
        return F.conv2d(x, kernel, padding=padding[0], groups=channels)
    return F.conv2d(F.pad(x, padding), kernel, groups=channels)


def blur_reference(x: Tensor, *, padding: Padding, gain: float = 1.0) -> Tensor:
    """Blur one channel at a time, tap by tap: what `blur` must equal."""
    padded = F.pad(x, padding)
    height, width = padded.shape[-2] - 3, padded.shape[-1] - 3
    total = x.new_zeros(*x.shape[:2], height, width)
    for i, row_tap in enumerate(FIR_TAPS):
        for j, column_tap in enumerate(FIR_TAPS):
            window = padded[:, :, i : i + height, j : j + width]
            total = total + window * (row_tap * column_tap / 64.0 * gain)
    return total


def upsample_image(x: Tensor) -> Tensor:
    """Double (N, C, H, W) with the FIR [1, 3, 3, 1], zeros beyond the border.

    Equals bilinear interpolation of the picture framed with zeros, which is how it is computed.
    """
    framed = F.pad(x, (1, 1, 1, 1))
    doubled = F.interpolate(framed, scale_factor=2, mode="bilinear", align_corners=False)
    return doubled[:, :, 2:-2, 2:-2]


def upsample_image_reference(x: Tensor) -> Tensor:
    """Insert zeros and blur: what `upsample_image` must equal."""
    count, channels, height, width = x.shape
    spread = x.new_zeros(count, channels, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = x
    return blur_reference(spread, padding=(2, 1, 2, 1), gain=4.0)


def _fir_kernel(like: Tensor) -> Tensor:
    outer, inner = FIR_TAPS[:2]
    # Made where it is used: a copy from the CPU would wait, and could not be part of a CUDA graph.
    taps = F.pad(like.new_full((2,), inner), (1, 1), value=outer)  # (4,)
    return torch.outer(taps, taps) / 64.0  # (4, 4), sums to one


def set_precision(module: nn.Module, dtype: torch.dtype, *, keep: Sequence[nn.Module] = ()) -> None:
    """Convert a network's features to `dtype` in place, channels last; styles stay float32.

    Equalised linear layers, normalisation layers and the modules in `keep` (and all below them)
    are left in float32: their inputs are codes, or they take statistics.
    """
    kept = {id(child) for root in keep for child in root.modules()}
    exact = (EqualizedLinear, InstanceAffine, nn.BatchNorm2d)
    for child in module.modules():
        for name, parameter in child.named_parameters(recurse=False):
            target = torch.float32 if id(child) in kept or isinstance(child, exact) else dtype
            converted = parameter.detach().to(target)
            if converted.ndim == 4:
                converted = converted.contiguous(memory_format=torch.channels_last)
            setattr(child, name, nn.Parameter(converted, requires_grad=parameter.requires_grad))


def prepare(module: nn.Module) -> None:
    """Make a loaded network ready for inference: compute once what depends on weights alone.

    Call it last: after the state dict is loaded, and after `set_precision` and `to(device)`.
    Training, or loading other weights, needs a network that is not prepared.
    """
    module.eval().requires_grad_(False)
    for child in module.modules():
        if hasattr(child, "prepare"):
            child.prepare()  # type: ignore[operator]
