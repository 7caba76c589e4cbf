"""Signals of an alias-free generator: the bands of its layers, their filters, and resampling.

Features are samples of a continuous signal whose content ends below a cutoff. Everything between
convolutions is a filter: up-sampling before a nonlinearity, which makes new frequencies, and
down-sampling after it, which takes those away that the next samples could not hold. Equations are
those of StyleGAN3 (Karras et al., "Alias-Free Generative Adversarial Networks", NeurIPS 2021).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vidinvert.networks.ops import SLOPE, SQRT2

LARGEST = 4096  # side of a picture
AT_ONCE = 2**23  # samples of an up-sampled signal: 32 MB
_ALLOWED = {
    "layers": (2, 64),
    "last_stopband_ratio": (1.01, 4.0),
    "margin": (0, 64),
    "taps": (2, 16),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterPlan:
    """What decides the bands and filters of a generator; the defaults are those published.

    Frequencies and rates are in cycles and samples over the width of the picture.

    Attributes:
        size: side R of the picture.
        layers: filtered layers, without the last one, which makes the picture.
        critical: of them at the end, whose samples are as few as their cutoff allows.
        first_cutoff: f_c of the input.
        first_stopband: f_t, below which all content of the input ends.
        last_stopband_ratio: f_t / f_c of the last layers.
        margin: samples beyond each side of the picture, where zero padding may leave traces.
        kernel: side of the convolutions: 3 in config T, 1 in R.
        taps: of a filter, for each of the rates between which it leads.
        oversampling: of the nonlinearity, relative to the layer's samples.
        radial: down-sample by filters that are the same in all directions, as config R does.
    """

    size: int
    layers: int = 14
    critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2.0**2.1
    last_stopband_ratio: float = 2.0**0.3
    margin: int = 10
    kernel: int = 3
    taps: int = 6
    oversampling: int = 2
    radial: bool = False

    def __post_init__(self) -> None:
        if not 8 <= self.size <= LARGEST or self.size & (self.size - 1):
            raise ValueError(f"size is {self.size}, expected a power of two from 8 to {LARGEST}")
        if not 1 <= self.first_cutoff < self.first_stopband <= self.size:
            raise ValueError(
                f"first_cutoff and first_stopband are {self.first_cutoff} and "
                f"{self.first_stopband}, expected 1 or more, and more than that"
            )
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            if not allowed[0] <= value <= allowed[1]:
                raise ValueError(
                    f"{name} is {value}, expected a number from {allowed[0]} to {allowed[1]}"
                )
        if not 0 <= self.critical < self.layers:
            raise ValueError(
                f"critical is {self.critical} of {self.layers} layers, expected fewer than these"
            )
        if self.kernel not in (1, 3) or self.oversampling not in (2, 4):
            raise ValueError(
                f"kernel and oversampling are {self.kernel} and {self.oversampling}, expected 1 or "
                "3, and 2 or 4"
            )

    @property
    def style_count(self) -> int:
        """L: one style for the input, one a layer, one for the picture."""
        return self.layers + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The signal behind a layer: `size` samples a side at `rate`, content below `cutoff`.

    `half_width` of the transition in which a filter falls from pass to stop.
    """

    size: int
    rate: int
    cutoff: float
    half_width: float


def bands(plan: FilterPlan) -> tuple[Band, ...]:
    """Return the bands of every layer and, last, of the picture (section 3.2, equation 3).

    Cutoffs and stopbands grow geometrically up to the critical layers; a layer has the fewest
    samples, a power of two, that hold its stopband. The input has the band of the first layer.
    """
    last_cutoff = plan.size / 2
    last_stopband = last_cutoff * plan.last_stopband_ratio
    share = np.minimum(np.arange(plan.layers + 1) / (plan.layers - plan.critical), 1.0)
    cutoffs = plan.first_cutoff * (last_cutoff / plan.first_cutoff) ** share
    stopbands = plan.first_stopband * (last_stopband / plan.first_stopband) ** share
    rates = np.exp2(np.ceil(np.log2(np.minimum(2 * stopbands, plan.size))))
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    sizes = rates + 2 * plan.margin
    sizes[-2:] = plan.size  # the margin has served its purpose
    return tuple(
        Band(size=int(size), rate=int(rate), cutoff=float(cutoff), half_width=float(half))
        for size, rate, cutoff, half in zip(sizes, rates, cutoffs, half_widths, strict=True)
    )


def published_channels(plan: FilterPlan, *, base: int = 32768, most: int = 512) -> tuple[int, ...]:
    """Return the channels of every layer and, last, of the picture.

    Args:
        plan: of the generator.
        base: 32768 in config T at 1024 px, twice that in R.
        most: channels of the coarse layers: 512 in T, 1024 in R.
    """
    widths = [int(np.rint(min(base / 2 / band.cutoff, most))) for band in bands(plan)]
    return (*widths[:-1], 3)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resampling:
    """How a layer leads from the samples before its nonlinearity to those behind it.

    `up` and `down` are whole factors; `up_filter` (taps,) and `down_filter` (taps,) or (taps, taps)
    sum to one; `padding` at the beginning and end of each axis of the up-sampled signal.
    """

    up: int
    down: int
    up_filter: Tensor
    down_filter: Tensor
    padding: tuple[int, int]


def design_resampling(
    plan: FilterPlan, before: Band, behind: Band, *, critical: bool
) -> Resampling:
    """Return the filters between the bands of two layers.

    Convention: samples lie in the middle of their pixels, so that up-sampling by n moves the first
    one by (n - 1) / 2 of the new samples (appendix C.3); `padding` accounts for that.
    """
    rate = max(before.rate, behind.rate) * plan.oversampling
    up, down = rate // before.rate, rate // behind.rate
    up_taps, down_taps = plan.taps * up, plan.taps * down
    total = (behind.size - 1) * down + 1 - (before.size + plan.kernel - 1) * up
    total += up_taps + down_taps - 2
    first = (total + up) // 2
    up_filter = design_lowpass(up_taps, before, rate=rate)
    down_filter = design_lowpass(down_taps, behind, rate=rate, radial=plan.radial and not critical)
    return Resampling(
        up=up,
        down=down,
        up_filter=torch.from_numpy(up_filter.astype(np.float32)),
        down_filter=torch.from_numpy(down_filter.astype(np.float32)),
        padding=(first, total - first),
    )


def design_lowpass(
    taps: int, band: Band, *, rate: int, radial: bool = False
) -> NDArray[np.float64]:
    """Return a Kaiser-windowed low-pass filter for a band, at some sampling rate.

    Args:
        taps: its length.
        band: whose cutoff and transition it has.
        rate: of the samples that it is run on.
        radial: (taps, taps), the same in all directions, from the jinc function (appendix C.1);
            else (taps,), run along both axes.
    """
    from scipy import signal  # a second, which starting would take for packs of every kind

    width = 2 * band.half_width
    if not radial:
        line = signal.firwin(numtaps=taps, cutoff=band.cutoff, width=width, fs=rate)
        return cast(NDArray[np.float64], line)
    places = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot(places[:, None], places)  # never 0: the number of taps is even
    jinc = special.j1(2 * np.pi * band.cutoff * radius) / (np.pi * radius)
    window = np.kaiser(taps, signal.kaiser_beta(signal.kaiser_atten(taps, width / (rate / 2))))
    kernel = jinc * np.outer(window, window)
    return kernel / kernel.sum()


def filtered_leaky_relu(
    x: Tensor,
    bias: Tensor,
    *,
    up_filter: Tensor,
    down_filter: Tensor,
    up: int,
    down: int,
    padding: tuple[int, int],
    clamp: float,
) -> Tensor:
    """Add a bias, up-sample, apply the leaky ReLU times sqrt(2), and down-sample.

    The gains of up-sampling and activation are in the up-sampling filter: both commute with the
    leaky ReLU of positive factors. Channels do not meet, so as many are up-sampled at once as fit
    into `AT_ONCE`; gradients are taken through the others by running them again.

    Args:
        x: (N, C, H, W).
        bias: (C,).
        up_filter: (taps,), run along both axes.
        down_filter: (taps,), or (taps, taps) as it is.
        up: factor of up-sampling.
        down: factor of down-sampling.
        padding: samples that the up-sampled signal gets at both ends of each axis; negative ones
            are taken away.
        clamp: largest magnitude behind the activation.

    Returns:
        (N, C, (H up + sum(padding) - taps_up - taps_down + 2 - 1) // down + 1, ...).
    """
    taps = up_filter.to(x.dtype) * (up * math.sqrt(SQRT2))
    kernel = down_filter.to(x.dtype)

    def run(x: Tensor, bias: Tensor) -> Tensor:
        x = upsample(x + bias[:, None, None].to(x.dtype), taps, factor=up, padding=padding)
        if x.requires_grad:
            x = F.leaky_relu(x, SLOPE).clamp(-clamp, clamp)
        else:
            x = F.leaky_relu_(x, SLOPE).clamp_(-clamp, clamp)
        return downsample(x, kernel, factor=down)

    count, channels, height, width = x.shape
    portion = max(1, AT_ONCE // (count * height * width * up**2))
    if portion >= channels:
        return run(x, bias)
    pairs = zip(x.split(portion, dim=1), bias.split(portion), strict=True)
    if x.requires_grad:
        parts = [checkpoint(run, *pair, use_reentrant=False) for pair in pairs]
    else:
        parts = [run(*pair) for pair in pairs]
    return torch.cat(parts, dim=1)


def upsample(x: Tensor, taps: Tensor, *, factor: int, padding: Sequence[int]) -> Tensor:
    """Put zeros between samples, pad, and filter: `upsample_reference`, without the zeros.

    Args:
        x: (N, C, H, W).
        taps: (T,), run along both axes.
        factor: a sample and `factor - 1` zeros each.
        padding: at the beginning and end of each axis.
    """
    for axis in (3, 2):  # along rows first: those are short as yet
        x = _upsample_axis(x, taps, factor=factor, padding=padding, axis=axis)
    return x


def _upsample_axis(
    x: Tensor, taps: Tensor, *, factor: int, padding: Sequence[int], axis: int
) -> Tensor:
    channels, count, length = x.shape[1], len(taps), x.shape[axis]
    kernel = taps.view(1, 1, 1, -1) if axis == 3 else taps.view(1, 1, -1, 1)
    stride = (1, factor) if axis == 3 else (factor, 1)
    x = F.conv_transpose2d(
        x, kernel.expand(channels, *kernel.shape[1:]), stride=stride, groups=channels
    )
    # All sums that a sample takes part in, of which those whose window is in the signal are kept.
    first = padding[0] - (count - 1)
    wanted = length * factor + sum(padding) - count + 1
    last = wanted - (x.shape[axis] + first)
    return F.pad(x, (first, last) if axis == 3 else (0, 0, first, last))


def upsample_reference(x: Tensor, taps: Tensor, *, factor: int, padding: Sequence[int]) -> Tensor:
    """Put zeros between samples, pad, and filter: what `upsample` must equal."""
    count, channels, height, width = x.shape
    spread = x.new_zeros(count, channels, height * factor, width * factor)
    spread[:, :, ::factor, ::factor] = x
    spread = F.pad(spread, (*padding, *padding))
    kernel = torch.outer(taps, taps).flip(0, 1).expand(channels, 1, -1, -1)
    return F.conv2d(spread, kernel, groups=channels)


def downsample(x: Tensor, taps: Tensor, *, factor: int) -> Tensor:
    """Filter (N, C, H, W) by (T,) along both axes or by (T, T), and keep every `factor`-th sample.

    The filters are symmetric; samples whose window leaves the signal are not made.
    """
    channels = x.shape[1]
    if taps.ndim == 2:
        kernel = taps.expand(channels, 1, -1, -1)
        return F.conv2d(x, kernel, stride=factor, groups=channels)
    row = taps.view(1, 1, 1, -1).expand(channels, -1, -1, -1)
    x = F.conv2d(x, row, stride=(1, factor), groups=channels)
    return F.conv2d(x, row.transpose(2, 3), stride=(factor, 1), groups=channels)
