"""The encoders of packs of kind stylegan2: which one a pack has, and how it finds codes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vidinvert.checkpoints import fill_module, load_part, rename_keys, select
from vidinvert.errors import CheckpointError
from vidinvert.networks import keymaps, keymaps_encoders
from vidinvert.networks.backbones import IR50_WIDTHS
from vidinvert.networks.e4e import E4E, INPUT_SIZE
from vidinvert.networks.featurestyle import FeatureStyleEncoder
from vidinvert.networks.ops import prepare, set_precision
from vidinvert.networks.restyle import STEPS, ReStyleEncoder, refine_codes, shrink_by_area
from vidinvert.networks.stylegan2 import Generator, published_channels, sample_w_mean
from vidinvert.types import Embedding, FacePack, Keymap

# What `[generator]` of a pack of kind stylegan2 may say beyond its sizes.
KINDS = ("e4e", "psp", "restyle_e4e", "restyle_psp", "featurestyle")
PYRAMIDS = ("bilinear", "bicubic")
CONTENT_SIDE = 16


class Encoder(Protocol):
    """Finds codes (N, L, D) and maps, coarse to fine, of crops (N, 3, R, R) in [-1, 1]."""

    def find(self, crops: Tensor) -> Embedding:
        """Embed crops."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnePassEncoder:
    """e4e or pSp: the network's offsets from the mean code, in one pass."""

    network: E4E
    w_mean: Tensor
    dtype: torch.dtype

    def find(self, crops: Tensor) -> Embedding:
        """Embed crops.

        They are shrunk bilinearly without antialiasing, as SAMM's training with e4e does.
        """
        small = crops.to(self.dtype)
        if crops.shape[-1] != INPUT_SIZE:
            size = (INPUT_SIZE, INPUT_SIZE)
            small = F.interpolate(crops, size=size, mode="bilinear", align_corners=False)
        small = small.to(self.dtype).contiguous(memory_format=torch.channels_last)
        found = self.network(small)
        return Embedding(w_plus=found.offsets + self.w_mean, features=found.taps)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RefiningEncoder:
    """ReStyle: codes from the mean in steps, each of which sees the picture of the last."""

    network: ReStyleEncoder
    generator: Generator
    w_mean: Tensor
    average: Tensor
    steps: int
    dtype: torch.dtype

    def find(self, crops: Tensor) -> Embedding:
        """Embed crops; the maps are those of the last step."""
        w_plus, found = refine_codes(
            self.network,
            lambda codes: self.generator(codes, noise=self.generator.noise),
            shrink_by_area(crops.float()).to(self.dtype),
            w_mean=self.w_mean,
            average=self.average,
            steps=self.steps,
        )
        return Embedding(w_plus=w_plus, features=found.taps)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContentEncoder:
    """FeatureStyle: codes, and a content map (N, C, 16, 16), the first of the maps."""

    network: FeatureStyleEncoder
    w_mean: Tensor
    dtype: torch.dtype

    def find(self, crops: Tensor) -> Embedding:
        """Embed crops."""
        small = shrink_by_area(crops.float()).to(self.dtype)
        found = self.network(small.contiguous(memory_format=torch.channels_last))
        w_plus = found.offsets + self.w_mean
        return Embedding(w_plus=w_plus, features=(found.content, *found.taps))


def encoder_kind(pack: FacePack) -> str:
    """Return which of `KINDS` the part `encoder` of a pack is."""
    return check_setting(pack, "encoder_kind", KINDS[0], KINDS)


def load_encoder(
    pack: FacePack, generator: Generator, device: torch.device, dtype: torch.dtype
) -> Encoder:
    """Load the part `encoder` of a pack, for its generator, which is loaded already."""
    kind = encoder_kind(pack)
    content_bias = False
    if kind == "featurestyle":
        names = load_part(pack, "encoder")  # nothing but the file says whether there are biases
        content_bias = any(
            "content_layer.1.bias" in n or "content_conv_in.bias" in n for n in names
        )
    with torch.device("meta"):
        network = _build(pack, kind, content_bias)
    state = read_part(pack, "encoder", _keymap(pack, kind, content_bias))
    fill_module(network, select(state, "encoder."), source=str(pack.files["encoder"].path))
    network.to(device)
    heads = network.heads
    exact = () if isinstance(network, E4E) else heads if isinstance(heads, tuple) else (heads,)
    set_precision(network, dtype, keep=exact)  # in steps, errors of codes would add up
    prepare(network)
    if "w_mean" in state:
        w_mean = state["w_mean"].float().reshape(-1, pack.style_width).to(device)
    else:
        w_mean = sample_w_mean(generator)[None]
    if isinstance(network, E4E):
        return OnePassEncoder(network=network, w_mean=w_mean, dtype=dtype)
    if isinstance(network, FeatureStyleEncoder):
        return ContentEncoder(network=network, w_mean=w_mean, dtype=dtype)
    with torch.no_grad():
        codes = w_mean.expand(generator.style_count, -1)[None]
        average = shrink_by_area(generator(codes, noise=generator.noise))
    return RefiningEncoder(
        network=network,
        generator=generator,
        w_mean=w_mean,
        average=average,
        steps=int(pack.settings.get("refine_cycles", STEPS)),
        dtype=dtype,
    )


def _build(
    pack: FacePack, kind: str, content_bias: bool
) -> E4E | ReStyleEncoder | FeatureStyleEncoder:
    widths = trunk_widths(pack)
    if kind == "featurestyle":
        return FeatureStyleEncoder(
            style_count=pack.style_count,
            style_width=pack.style_width,
            trunk_widths=widths,
            content_channels=generator_channels(pack)[CONTENT_SIDE],
            content_bias=content_bias,
        )
    if kind.startswith("restyle"):
        return ReStyleEncoder(
            style_count=pack.style_count, trunk_widths=widths, deltas=kind == "restyle_e4e"
        )
    return E4E(
        style_count=pack.style_count,
        trunk_widths=widths,
        pyramid_upsampling=check_setting(pack, "pyramid_upsampling", PYRAMIDS[0], PYRAMIDS),
        deltas=kind == "e4e",
    )


def _keymap(pack: FacePack, kind: str, content_bias: bool) -> Keymap:
    if kind == "featurestyle":
        return keymaps_encoders.featurestyle_file(
            style_count=pack.style_count, content_bias=content_bias
        )
    if kind.startswith("restyle"):
        return keymaps_encoders.restyle_file(style_count=pack.style_count)
    return keymaps.e4e_file(style_count=pack.style_count)


def read_part(pack: FacePack, part: str, keymap: Keymap) -> Mapping[str, Tensor]:
    """Load one file of a pack in our names, whichever names it carries."""
    state = load_part(pack, part)
    entry = pack.files[part]
    if entry.format == "official":
        return rename_keys(state, keymap, source=str(entry.path))
    return state


def generator_channels(pack: FacePack) -> dict[int, int]:
    """Return the channels per resolution: `channels` from 4 px up, or those published."""
    if "channels" not in pack.settings:
        return published_channels(multiplier=int(pack.settings.get("channel_multiplier", 2)))
    return {4 * 2**level: int(width) for level, width in enumerate(pack.settings["channels"])}


def trunk_widths(pack: FacePack) -> tuple[int, ...]:
    """Return the channels of the encoder's four groups: `trunk_widths`, or those published."""
    widths = tuple(int(width) for width in pack.settings.get("trunk_widths", IR50_WIDTHS))
    if len(widths) != len(IR50_WIDTHS) or widths[-1] != pack.style_width:
        raise CheckpointError(
            f"The pack {pack.name!r} has trunk_widths {widths}, expected {len(IR50_WIDTHS)} with "
            f"the last as wide as a style vector ({pack.style_width}). Correct its description."
        )
    return widths


def check_setting(pack: FacePack, name: str, default: Any, allowed: tuple[Any, ...]) -> Any:
    """Return a setting of a pack's generator, one of a few values."""
    value = pack.settings.get(name, default)
    if value not in allowed:
        raise CheckpointError(
            f"The pack {pack.name!r} has {name} {value!r}, expected one of "
            f"{', '.join(map(str, allowed))}. Correct its description."
        )
    return value
