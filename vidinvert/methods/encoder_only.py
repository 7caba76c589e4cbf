"""e4e by itself: codes in one pass, and the generator's picture of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vidinvert.checkpoints import fill_module, load_part, rename_keys, select
from vidinvert.errors import CheckpointError
from vidinvert.networks import keymaps
from vidinvert.networks.backbones import IR50_WIDTHS
from vidinvert.networks.e4e import E4E, INPUT_SIZE
from vidinvert.networks.ops import prepare, set_precision
from vidinvert.networks.stylegan2 import Generator, published_channels
from vidinvert.types import Embedding, FacePack, Keymap, Synthesis

# What `[generator]` of a pack of kind stylegan2 may say beyond its sizes.
PYRAMIDS = ("bilinear", "bicubic")


@dataclass(frozen=True, slots=True, eq=False)
class EncoderOnly:
    """The encoder's codes and the generator's picture; nothing counts as out of domain.

    `w_mean` (1 or L, D) float32 is what the encoder's offsets are added to; `dtype` is that of the
    features.
    """

    encoder: E4E
    generator: Generator
    w_mean: Tensor
    dtype: torch.dtype

    @property
    def crop_size(self) -> int:
        """Side R of the crops."""
        return self.generator.size

    @property
    def style_count(self) -> int:
        """L, style vectors of a code."""
        return self.generator.style_count

    @property
    def style_width(self) -> int:
        """D, width of a style vector."""
        return self.generator.style_width

    def embed(self, crops: Tensor) -> Embedding:
        """Find the codes and the encoder's maps (coarse to fine) of crops (N, 3, R, R).

        The crop is shrunk bilinearly without antialiasing, as the encoder was trained.
        """
        small = crops.to(self.dtype)
        if crops.shape[-1] != INPUT_SIZE:
            size = (INPUT_SIZE, INPUT_SIZE)
            small = F.interpolate(crops, size=size, mode="bilinear", align_corners=False)
        small = small.to(self.dtype).contiguous(memory_format=torch.channels_last)
        found = self.encoder(small)
        return Embedding(w_plus=found.offsets + self.w_mean, features=found.taps)

    def find_mask(self, embedding: Embedding) -> Tensor:
        """Return the mask of the unedited codes, (N, 1, R, R): 0, nothing is kept."""
        return embedding.w_plus.new_zeros(len(embedding.w_plus), 1, self.crop_size, self.crop_size)

    def synthesise(self, embedding: Embedding, w_plus: Tensor) -> Synthesis:
        """Render codes (N, L, D) with the generator's fixed noise."""
        image = self.generate(w_plus)
        return Synthesis(image=image, ood=torch.zeros_like(image[:, :1]))

    def generate(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) with the generator's fixed noise."""
        return self.generator(w_plus, noise=self.generator.noise)


def load(pack: FacePack, device: torch.device, dtype: torch.dtype) -> EncoderOnly:
    """Load e4e and its generator from a pack of kind stylegan2: files `encoder`, `generator`."""
    pyramid = check_setting(pack, "pyramid_upsampling", PYRAMIDS[0], PYRAMIDS)
    with torch.device("meta"):
        generator = Generator(
            size=pack.crop_size,
            style_width=pack.style_width,
            channels=generator_channels(pack),
            mapping_layers=int(pack.settings.get("mapping_layers", 8)),
        )
        encoder = E4E(
            style_count=pack.style_count,
            trunk_widths=trunk_widths(pack),
            pyramid_upsampling=pyramid,
        )
    if generator.style_count != pack.style_count:
        raise CheckpointError(
            f"The pack {pack.name!r} has style_count {pack.style_count}, expected "
            f"{generator.style_count} for crop_size {pack.crop_size}. Correct its description."
        )
    state = read_part(pack, "generator", keymaps.stylegan2_file(style_count=pack.style_count))
    fill_module(generator, state, source=str(pack.files["generator"].path))
    state = read_part(pack, "encoder", keymaps.e4e_file(style_count=pack.style_count))
    fill_module(encoder, select(state, "encoder."), source=str(pack.files["encoder"].path))
    w_mean = state["w_mean"].float().reshape(-1, pack.style_width)
    for module in (generator, encoder):
        module.to(device)
    set_precision(generator, dtype)
    set_precision(encoder, dtype, keep=encoder.heads)
    prepare(generator)
    prepare(encoder)
    return EncoderOnly(encoder, generator, w_mean.to(device), dtype)


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
