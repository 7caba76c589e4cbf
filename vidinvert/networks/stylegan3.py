"""The StyleGAN3 generator (Karras et al., "Alias-Free Generative Adversarial Networks", 2021).

Fourier features that a style may turn and shift, then convolutions with filtered nonlinearities
(`networks/alias_free.py`): what is drawn moves with the features, and no pixel grid shows through.
Config T has convolutions of 3x3, R has 1x1 and radial filters, and so turns as it moves. There is
no noise, and no picture before the last layer.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vidinvert.networks.alias_free import (
    Band,
    FilterPlan,
    bands,
    design_resampling,
    filtered_leaky_relu,
    published_channels,
)
from vidinvert.networks.ops import DEMODULATION_EPSILON, EqualizedLinear
from vidinvert.networks.stylegan2 import MappingNetwork

OUTPUT_SCALE = 0.25  # of the picture: layers work on signals of unit variance
CLAMP = 256.0
# From this side on, gradients are taken through a layer by running it again: its up-sampled
# signals would take ten times the memory of what it passes on.
RERUN_FROM = 512


class FourierInput(nn.Module):
    """Sines of random frequencies below the band's cutoff, turned and shifted by a style.

    `transform` (3, 3) turns and shifts all pictures alike, in units of the picture's side; it is
    the identity as published.
    """

    frequencies: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, channels: int, *, band: Band, style_width: int) -> None:
        super().__init__()
        self.band = band
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.modulation = EqualizedLinear(style_width, 4)
        self.modulation.weight.data.zero_()
        self.modulation.bias.data[0] = 1.0  # no turn
        frequencies = torch.randn(channels, 2)
        radius = frequencies.norm(dim=1, keepdim=True)
        # Uniform in the disc below the cutoff.
        frequencies = frequencies / (radius * radius.square().exp().pow(0.25)) * band.cutoff
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.register_buffer("transform", torch.eye(3))

    def forward(self, w: Tensor) -> Tensor:
        """Draw (N, C, size, size) for the codes `w` (N, D), in the dtype of the weights."""
        turn = self._place(w) @ self.transform  # (N, 3, 3)
        phases = self.phases + (self.frequencies @ turn[:, :2, 2:]).squeeze(2)  # (N, C)
        frequencies = self.frequencies @ turn[:, :2, :2]  # (N, C, 2)
        # What a turn cannot do, a foreign transform may: bring frequencies beyond the samples.
        cutoff, nyquist = self.band.cutoff, self.band.rate / 2
        amplitude = 1 - (frequencies.norm(dim=2) - cutoff) / (nyquist - cutoff)
        places = (torch.arange(self.band.size, device=w.device) + 0.5) / self.band.rate
        places = places - self.band.size / 2 / self.band.rate  # 0 in the middle of the picture
        across = frequencies[:, None, None, :, 0] * places[:, None]  # (N, 1, size, C)
        down = frequencies[:, None, None, :, 1] * places[:, None, None]  # (N, size, 1, C)
        x = torch.sin(2 * math.pi * (across + down + phases[:, None, None]))
        x = x * amplitude.clamp(0, 1)[:, None, None]
        x = x.to(self.weight.dtype) @ (self.weight / math.sqrt(len(self.weight))).T
        return x.permute(0, 3, 1, 2).contiguous()

    def _place(self, w: Tensor) -> Tensor:
        """Return the turn and shift (N, 3, 3) that a style asks for."""
        raw = self.modulation(w)
        cosine, sine, x, y = (raw / raw[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        one, zero = torch.ones_like(x), torch.zeros_like(x)
        turn = torch.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], dim=1)
        shift = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], dim=1)
        return turn.view(-1, 3, 3) @ shift.view(-1, 3, 3)


class ScaledConv(nn.Module):
    """A convolution whose input is scaled by a style, and by what brings it to unit variance.

    As in `ops.ModulatedConv2d` the style scales the input and the demodulation the output. Weights
    and styles are brought to unit mean square before, which demodulation undoes but for its
    epsilon. Deviation: the release takes the styles' mean square over the whole batch; here it is
    each picture's own, so that pictures do not depend on their neighbours.
    """

    magnitude: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        style_width: int,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.modulation = EqualizedLinear(style_width, in_channels, bias_init=1.0)
        self.demodulate = demodulate
        self.register_buffer("magnitude", torch.ones(()))  # running mean square of the input
        self.energy: Tensor | None = None

    def convolve(self, x: Tensor, w: Tensor) -> Tensor:
        """Convolve (N, in, H, W) under the codes `w` (N, D), with all samples that are not zero.

        Returns:
            (N, out, H + k - 1, W + k - 1), without the bias.
        """
        kernel = self.weight.shape[-1]
        styles = self.modulation(w)  # (N, in) float32
        if self.demodulate:
            styles = styles * torch.rsqrt(styles.square().mean(dim=1, keepdim=True))
        else:
            styles = styles / math.sqrt(self.weight[0].numel())
        scale = styles * torch.rsqrt(self.magnitude)
        x = x * scale.to(x.dtype)[:, :, None, None]
        x = F.conv2d(x, self.weight, padding=kernel - 1)
        if not self.demodulate:
            return x
        factors = self._demodulation(styles).to(x.dtype)[:, :, None, None]
        return x * factors if x.requires_grad or factors.requires_grad else x.mul_(factors)

    def _demodulation(self, styles: Tensor) -> Tensor:
        """Return what brings each output channel to unit variance: (N, in) -> (N, out)."""
        energy = self._energy() if self.energy is None else self.energy  # (out, in)
        size = self.weight[0].numel()
        mean = energy.sum(dim=1) / size  # of a channel's squared weights
        expected = F.linear(styles.square(), energy / mean[:, None])
        return torch.rsqrt(expected + DEMODULATION_EPSILON) * torch.rsqrt(mean)

    def _energy(self) -> Tensor:
        return self.weight.to(self.modulation.weight.dtype).square().sum(dim=(2, 3))

    def prepare(self) -> None:
        """Compute once what does not depend on the input; the weights must not change after.

        Filters run channel by channel, which is fast on planes: the weights' layout decides.
        """
        self.weight.data = self.weight.data.contiguous()
        self.energy = self._energy().detach()


class FilteredLayer(ScaledConv):
    """A scaled convolution, bias, and a nonlinearity between up- and down-sampling."""

    up_filter: Tensor
    down_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        plan: FilterPlan,
        before: Band,
        behind: Band,
        critical: bool,
        clamp: float,
        style_width: int,
    ) -> None:
        super().__init__(in_channels, out_channels, plan.kernel, style_width=style_width)
        between = design_resampling(plan, before, behind, critical=critical)
        self.up, self.down, self.padding = between.up, between.down, between.padding
        self.clamp = clamp
        self.size = behind.size
        # Registered, so that a file's own filters are used; `official` compares them with these.
        self.register_buffer("up_filter", between.up_filter)
        self.register_buffer("down_filter", between.down_filter)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map (N, in, size, size) under the codes `w` (N, D) to the samples behind the layer."""
        return filtered_leaky_relu(
            self.convolve(x, w),
            self.bias,
            up_filter=self.up_filter,
            down_filter=self.down_filter,
            up=self.up,
            down=self.down,
            padding=self.padding,
            clamp=self.clamp,
        )


class PictureLayer(ScaledConv):
    """A picture from features, of unit variance as yet."""

    def __init__(self, in_channels: int, *, clamp: float, style_width: int) -> None:
        super().__init__(in_channels, 3, 1, style_width=style_width, demodulate=False)
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map (N, in, R, R) to (N, 3, R, R)."""
        x = self.convolve(x, w) + self.bias[:, None, None]
        return x.clamp(-self.clamp, self.clamp)


class Generator3(nn.Module):
    """The alias-free generator.

    Convention: style vector 0 places the input, the next drive the layers, the last the picture.

    Args:
        plan: bands and filters.
        style_width: D, the length of a style vector.
        channels: of every layer and, last, of the picture; None = those published for config T.
        mapping_layers: depth of the mapping network.
        output_scale: of the picture.
        clamp: largest magnitude of features.

    Raises:
        ValueError: there are not as many channels as layers.
    """

    def __init__(
        self,
        plan: FilterPlan,
        *,
        style_width: int = 512,
        channels: Sequence[int] | None = None,
        mapping_layers: int = 2,
        output_scale: float = OUTPUT_SCALE,
        clamp: float = CLAMP,
    ) -> None:
        super().__init__()
        widths = published_channels(plan) if channels is None else tuple(channels)
        if len(widths) != plan.layers + 1 or widths[-1] != 3 or min(widths) < 1:
            raise ValueError(
                f"channels are {list(widths)}, expected {plan.layers} for the layers, and 3"
            )
        self.size = plan.size
        self.style_width = style_width
        self.style_count = plan.style_count
        self.output_scale = output_scale
        self.mapping = MappingNetwork(style_width=style_width, layers=mapping_layers)
        signals = bands(plan)
        self.input = FourierInput(widths[0], band=signals[0], style_width=style_width)
        self.layers = nn.ModuleList(
            FilteredLayer(
                widths[max(index - 1, 0)],
                widths[index],
                plan=plan,
                before=signals[max(index - 1, 0)],
                behind=signals[index],
                critical=index >= plan.layers - plan.critical,
                clamp=clamp,
                style_width=style_width,
            )
            for index in range(plan.layers)
        )
        self.to_rgb = PictureLayer(widths[-2], clamp=clamp, style_width=style_width)

    def forward(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) float32 -> (N, 3, R, R) float32, about [-1, 1]."""
        x = self.input(w_plus[:, 0])
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, FilteredLayer)
            w = w_plus[:, index + 1]
            if w.requires_grad and layer.size >= RERUN_FROM:
                x = checkpoint(layer, x, w, use_reentrant=False)
            else:
                x = layer(x, w)
        return self.to_rgb(x, w_plus[:, -1]).float() * self.output_scale
