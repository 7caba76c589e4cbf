"""Loading the generators of NVIDIA's family from packs, with the sizes that these describe."""

from dataclasses import fields
from typing import Any

import torch

from vidinvert.checkpoints import fill_module, load_part
from vidinvert.errors import CheckpointError
from vidinvert.methods.encoders import generator_channels, read_part
from vidinvert.networks import keymaps
from vidinvert.networks.alias_free import FilterPlan
from vidinvert.networks.ops import prepare, set_precision
from vidinvert.networks.stylegan2 import Generator
from vidinvert.networks.stylegan3 import CLAMP, OUTPUT_SCALE, Generator3
from vidinvert.types import FacePack


def load_stylegan2(pack: FacePack, device: torch.device, dtype: torch.dtype) -> Generator:
    """Load the generator of a pack of kind stylegan2."""
    with torch.device("meta"):
        generator = Generator(
            size=pack.crop_size,
            style_width=pack.style_width,
            channels=generator_channels(pack),
            mapping_layers=int(pack.settings.get("mapping_layers", 8)),
        )
    _check_count(pack, generator.style_count)
    state = read_part(pack, "generator", keymaps.stylegan2_file(style_count=pack.style_count))
    fill_module(generator, state, source=str(pack.files["generator"].path))
    generator.to(device)
    set_precision(generator, dtype)
    prepare(generator)
    return generator


def load_stylegan3(pack: FacePack, device: torch.device, dtype: torch.dtype) -> Generator3:
    """Load the generator of a pack of kind stylegan3.

    `[generator]` may give `channels` of every layer and the picture, `mapping_layers` (2),
    `output_scale`, `clamp`, and the fields of `FilterPlan`; without them they are those published
    for config T.
    """
    known = {field.name for field in fields(FilterPlan)} - {"size"}
    chosen: dict[str, Any] = {n: value for n, value in pack.settings.items() if n in known}
    try:
        with torch.device("meta"):
            generator = Generator3(
                FilterPlan(size=pack.crop_size, **chosen),
                style_width=pack.style_width,
                channels=pack.settings.get("channels"),
                mapping_layers=int(pack.settings.get("mapping_layers", 2)),
                output_scale=float(pack.settings.get("output_scale", OUTPUT_SCALE)),
                clamp=float(pack.settings.get("clamp", CLAMP)),
            )
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"The pack {pack.name!r} describes no StyleGAN3: {error}. Correct its description."
        ) from error
    _check_count(pack, generator.style_count)
    state = load_part(pack, "generator")
    fill_module(generator, state, source=str(pack.files["generator"].path))
    generator.to(device)
    set_precision(generator, dtype)
    prepare(generator)
    return generator


def _check_count(pack: FacePack, expected: int) -> None:
    if pack.style_count != expected:
        raise CheckpointError(
            f"The pack {pack.name!r} has style_count {pack.style_count}, expected {expected} for "
            f"crop_size {pack.crop_size}. Correct its description."
        )
