"""The generator of our own small packs: codes are principal components of an autoencoder's latents.

The latent map (32 channels, 32 x 32 cells at 256 px) is split into Laplacian bands of 4, 8, 16 and
32 cells; each band's principal components, whitened, are one style vector. The encoder from latents
to codes is therefore closed form, the codes are near Gaussian by construction, and the inverse
transform ("trunk") is a linear generator. A style generator with StyleGAN2's modulated convolutions
(Karras et al., CVPR 2020) refines the trunk, coarse to fine.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidinvert.networks.ops import ModulatedConv2d, add_to, leaky_relu

LEVEL_CELLS = (4, 8, 16, 32)
REFINER_WIDTHS = (256, 256, 160, 96)
STYLE_START = 0.2  # the styles' deviation at the start, around 1
BASIS_NAME = re.compile(r"((?:.*\.)?)basis_(\d+)")
SCALE_NAME = re.compile(r"(?:.*\.)?scale_\d+")
RESIDUAL_START = 0.05  # the refiner's outputs at the start
PRODUCT_ROWS = 1024  # of a basis multiplied at once in float32: 3 to 4 MB, which a cache holds


def split_bands(latents: Tensor) -> list[Tensor]:
    """Split (N, C, 32, 32) into Laplacian bands of 4, 8, 16 and 32 cells, coarse first."""
    pyramid = [latents]
    for _ in LEVEL_CELLS[1:]:
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    coarse_first = pyramid[::-1]
    bands = [coarse_first[0]]
    for lower, upper in pairwise(coarse_first):
        bands.append(upper - upsample(lower))
    return bands


def merge_bands(bands: Sequence[Tensor]) -> list[Tensor]:
    """Return the running sum after each band: maps of 4, 8, 16 and 32 cells; the last is whole."""
    sums = [bands[0]]
    for band in bands[1:]:
        sums.append(upsample(sums[-1]) + band)
    return sums


def upsample(x: Tensor) -> Tensor:
    """Double the size bilinearly: (N, C, h, w) -> (N, C, 2h, 2w)."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class LevelColumns(NamedTuple):
    """A level's basis as products read it fastest.

    `columns` (d_l, K_l) in bfloat16 or float32: the rows in steps, whole ones in bfloat16, which
    then are exact where the pack holds them as int8; `step` (K_l,) float32, by which each is
    multiplied.
    """

    columns: Tensor
    step: Tensor


class EigenBasis(nn.Module):
    """Whitened principal components of each band; frozen after `training.codes` fitted them.

    `mean_l` (d_l,), `basis_l` (K_l, d_l) orthonormal rows, `sigma_l` (K_l,). Codes have D columns;
    a level with K_l < D components leaves the rest at zero.
    """

    def __init__(
        self, components: Sequence[int], *, channels: int = 32, style_width: int = 512
    ) -> None:
        super().__init__()
        self.components = tuple(components)
        self.channels = channels
        self.style_width = style_width
        self.laid_out: tuple[LevelColumns, ...] | None = None
        for level, (cells, count) in enumerate(zip(LEVEL_CELLS, components, strict=True)):
            size = channels * cells * cells
            self.register_buffer(f"mean_{level}", torch.zeros(size))
            # Not zeroed, which would take as long as reading the rows from a file.
            self.register_buffer(f"basis_{level}", torch.empty(count, size))
            self.register_buffer(f"sigma_{level}", torch.ones(count))

    def level(self, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, basis and sigma of one level in float32."""
        names = (f"mean_{level}", f"basis_{level}", f"sigma_{level}")
        mean, basis, sigma = (self.get_buffer(name).float() for name in names)
        return mean, basis, sigma

    def codes(self, latents: Tensor) -> Tensor:
        """Project latents (N, 32, 32, 32) to w_plus (N, 4, D) float32, about unit variance."""
        return self._project(latents, centred=True)

    def changes(self, latents: Tensor) -> Tensor:
        """Return what adding latents (N, 32, 32, 32) to others adds to their codes: (N, 4, D)."""
        return self._project(latents, centred=False)

    def _project(self, latents: Tensor, *, centred: bool) -> Tensor:
        rows = []
        with torch.autocast(latents.device.type, enabled=False):
            for level, band in enumerate(split_bands(latents.float())):
                row = self._project_level(level, band.flatten(1), centred=centred)  # (N, K_l)
                rows.append(F.pad(row, (0, self.style_width - row.shape[1])))
        return torch.stack(rows, dim=1)

    def _project_level(self, level: int, flat: Tensor, *, centred: bool) -> Tensor:
        mean, basis, sigma = self.level(level)
        if centred:
            flat = flat - mean
        if self.laid_out is None:
            return flat @ basis.T / sigma
        columns, step = self.laid_out[level]
        if columns.dtype == torch.float32:
            return (flat @ columns) * (step / sigma)
        # Two bfloat16 numbers hold a float32 to 16 bits; matrix units take 16 rows as fast as 8.
        high = flat.bfloat16()
        both = torch.cat([high, (flat - high.float()).bfloat16()])  # (2 N, d_l)
        upper, lower = (both @ columns).float().chunk(2)
        return (upper + lower) * (step / sigma)

    def bands(self, w_plus: Tensor) -> list[Tensor]:
        """Turn w_plus (N, 4, D) back into float32 bands of 4, 8, 16 and 32 cells."""
        bands = []
        with torch.autocast(w_plus.device.type, enabled=False):
            for level, cells in enumerate(LEVEL_CELLS):
                flat = self._rebuild(level, w_plus[:, level].float())
                bands.append(flat.view(-1, self.channels, cells, cells))
        return bands

    def _rebuild(self, level: int, w: Tensor) -> Tensor:
        mean, basis, sigma = self.level(level)
        scaled = w[:, : len(sigma)] * sigma
        if self.laid_out is None:
            return scaled @ basis + mean
        columns, step = self.laid_out[level]
        if columns.dtype == torch.float32:
            parts = [F.linear(scaled * step, part) for part in columns.split(PRODUCT_ROWS)]
            return torch.cat(parts, dim=1) + mean
        flat = columns @ (scaled * step).bfloat16().T  # (d_l, N): this way round it is fastest
        return flat.T.contiguous().float().add_(mean)

    def lay_out(self, dtype: torch.dtype) -> None:
        """Use columns in `dtype`, bfloat16 or float32, from now on, and let the rows go.

        A pass over the rows is limited by memory. Columns are read in order, which takes half the
        time in float32. In bfloat16, with half the bytes, and matrix units where the CPU has them,
        it takes an eighth; the error is that of rounding each result once (relative 0.002).
        """
        if self.laid_out is not None:
            return
        laid_out: list[LevelColumns] = []
        for level in range(len(self.components)):
            _, basis, _ = self.level(level)
            setattr(self, f"basis_{level}", basis.new_zeros(0, basis.shape[1]))
            if dtype == torch.float32:
                columns, step = basis.T.contiguous(), basis.new_ones(len(basis))
            else:
                step = torch.linalg.vector_norm(basis, torch.inf, dim=1).clamp_min(1e-12) / 127.0
                columns = basis.div_(step[:, None]).to(dtype).T.contiguous()
            laid_out.append(LevelColumns(columns, step))
        self.laid_out = tuple(laid_out)

    def adopt(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Take int8 rows from a state dict of `quantise_bases` as they are, as `lay_out` would.

        Whole numbers up to 127 are exact in bfloat16. Making float32 rows of them first takes
        several times as long, and twice the memory or more.

        Returns:
            The state dict that is left to load; the one given where its rows do not fit.
        """
        found: list[tuple[Tensor, Tensor]] = []
        for level in range(len(self.components)):
            own = self.get_buffer(f"basis_{level}")
            rows, step = (state.get(f"basis.{part}_{level}") for part in ("basis", "scale"))
            if rows is None or step is None or rows.dtype != torch.int8:
                return dict(state)
            if rows.shape != own.shape or len(step) != len(own):
                return dict(state)
            found.append((rows, step))
        rest, laid_out = dict(state), list[LevelColumns]()
        for level, (rows, step) in enumerate(found):
            laid_out.append(LevelColumns(rows.T.contiguous().to(dtype), step.float()))
            del rest[f"basis.scale_{level}"]
            rest[f"basis.basis_{level}"] = step.new_zeros(0, rows.shape[1], dtype=torch.float32)
            setattr(self, f"basis_{level}", rest[f"basis.basis_{level}"])
        self.laid_out = tuple(laid_out)
        return rest


def quantise_bases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Store every `basis_l` of a state dict as int8 rows with a float32 `scale_l` (K_l,).

    The rows are orthonormal and near Gaussian, so the steps are 40 dB below the values, and the
    bases, which are most of a pack, take half the space of float16.
    """
    stored: dict[str, Tensor] = {}
    for name, value in state.items():
        match = BASIS_NAME.fullmatch(name)
        if match is None:
            stored[name] = value
            continue
        scale = value.float().abs().amax(dim=1).clamp_min(1e-12) / 127.0
        stored[name] = (value.float() / scale[:, None]).round().to(torch.int8)
        stored[f"{match[1]}scale_{match[2]}"] = scale
    return stored


def restore_bases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `quantise_bases`; a state dict without quantised bases comes back as it is."""
    restored: dict[str, Tensor] = {}
    for name, value in state.items():
        match = BASIS_NAME.fullmatch(name)
        if match is not None and value.dtype == torch.int8:
            value = value.float().mul_(state[f"{match[1]}scale_{match[2]}"].float()[:, None])
        if SCALE_NAME.fullmatch(name) is None:
            restored[name] = value
    return restored


class StyledConv(nn.Module):
    """A modulated convolution with a bias."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style_width: int,
        *,
        kernel: int = 3,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(
            inputs, outputs, kernel, style_width=style_width, demodulate=demodulate
        )
        with torch.no_grad():  # codes have unit variance in hundreds of columns: start gently
            self.conv.modulation.weight.mul_(STYLE_START)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, added: Tensor | None = None) -> Tensor:
        """(N, Cin, h, w), codes (N, D) -> (N, Cout, h, w); `added` joins before the activation."""
        x = add_to(self.conv(x, w), self.bias[:, None, None])
        return x if added is None else add_to(x, added).mul_(0.5**0.5)


class EigenSynthesis(NamedTuple):
    """`latents` (N, 32, 32, 32) and the refiner's last features (N, 96, 32, 32)."""

    latents: Tensor
    features: Tensor


class EigenGenerator(nn.Module):
    """w_plus (N, 4, D) -> latents (N, 32, 32, 32): a linear trunk and a style-based refiner.

    1.3 GFLOP.
    """

    def __init__(
        self, components: Sequence[int], *, channels: int = 32, style_width: int = 512
    ) -> None:
        super().__init__()
        self.basis = EigenBasis(components, channels=channels, style_width=style_width)
        self.inputs = nn.ModuleList()
        self.first = nn.ModuleList()
        self.second = nn.ModuleList()
        self.outputs = nn.ModuleList()
        previous = REFINER_WIDTHS[0]
        for width in REFINER_WIDTHS:
            self.inputs.append(nn.Conv2d(2 * channels, width, 1))
            self.first.append(StyledConv(previous, width, style_width))
            self.second.append(StyledConv(width, width, style_width))
            output = StyledConv(width, channels, style_width, kernel=1, demodulate=False)
            with torch.no_grad():
                output.conv.weight.mul_(RESIDUAL_START)
            self.outputs.append(output)
            previous = width

    def prepare(self) -> None:
        """Lay the bases out for the features' precision; the weights must not change after."""
        weight = next(self.inputs.parameters())
        on_cpu = weight.device.type == "cpu"
        if weight.dtype == torch.bfloat16 or (weight.dtype == torch.float32 and on_cpu):
            self.basis.lay_out(weight.dtype)

    def forward(self, w_plus: Tensor) -> EigenSynthesis:
        """Render codes (N, 4, D)."""
        bands = self.basis.bands(w_plus)
        sums = merge_bands(bands)
        dtype = next(self.inputs.parameters()).dtype  # the trunk's sums stay in float32
        features: Tensor | None = None
        residual: Tensor | None = None
        for level, (band, trunk) in enumerate(zip(bands, sums, strict=True)):
            w = w_plus[:, level]
            given = self.inputs[level](torch.cat([trunk, band], dim=1).to(dtype))
            x = leaky_relu(given) if features is None else upsample(features)
            x = leaky_relu(self.first[level](x, w, given))
            x = leaky_relu(self.second[level](x, w))
            skip = self.outputs[level](x, w).float()
            residual = skip if residual is None else upsample(residual) + skip
            features = x
        assert features is not None
        assert residual is not None
        return EigenSynthesis(sums[-1] + residual, features)


class LatentDiscriminator(nn.Module):
    """Judges latent maps (N, 32, 32, 32): one logit a picture and one a patch of 8 x 8 cells."""

    def __init__(self, *, channels: int = 32) -> None:
        super().__init__()
        widths = (64, 128, 192, 192)
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.patch = nn.Conv2d(widths[2], 1, 1)
        self.last = nn.Conv2d(widths[3] + 1, widths[3], 3, padding=1)
        self.head = nn.Linear(widths[3] * 16, 1)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N,) and patch logits (N, 1, 8, 8)."""
        x = F.leaky_relu(self.stem(latents), 0.2)
        patches: Tensor | None = None
        for index, layer in enumerate(self.down):
            x = F.leaky_relu(layer(x), 0.2)
            if index == 1:
                patches = self.patch(x)
        spread = x.std(dim=0, correction=0).mean() if len(x) > 1 else x.new_zeros(())
        x = torch.cat([x, spread.expand(len(x), 1, *x.shape[2:])], dim=1)
        x = F.leaky_relu(self.last(x), 0.2)
        assert patches is not None
        return self.head(x.flatten(1)).squeeze(1), patches
