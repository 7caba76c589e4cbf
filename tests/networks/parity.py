"""The parity files: official parameter names filled by rule, and what the networks made of them."""

import importlib.util
import json
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.shared_data import shared_path
from vidinvert.checkpoints import fill_module, rename_keys, select
from vidinvert.networks import keymaps
from vidinvert.networks.e4e import E4E
from vidinvert.networks.ops import prepare, set_precision
from vidinvert.networks.samm import SAMM, combine_masks, synthesise_aligned
from vidinvert.networks.stylegan2 import Generator

RESOLUTIONS = (32, 64, 128, 256)


class Networks(NamedTuple):
    encoder: E4E
    generator: Generator
    samm: SAMM
    w_mean: Tensor


def fill_rule() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fill", shared_path("parity/fill.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def official_state(name: str) -> dict[str, Tensor]:
    """The whole state dict under the official names, constants left out but for the counters."""
    shapes = json.loads(shared_path(f"parity/{name}.json").read_text())
    fill = fill_rule().fill
    state = {}
    for key, shape in shapes.items():
        values = fill(key, tuple(shape))
        if values is not None:
            state[key] = torch.from_numpy(values)
        elif key.endswith("num_batches_tracked"):
            state[key] = torch.zeros((), dtype=torch.int64)
        else:
            state[key] = torch.zeros(shape)
    return state


def load_networks(name: str, *, dtype: torch.dtype, prepared: bool) -> Networks:
    size = int(name.rsplit("_", 1)[1])
    style_count = 2 * int(np.log2(size)) - 2
    keymap = keymaps.samm_whole_model(style_count=style_count)
    state = rename_keys(official_state(name), keymap)
    with torch.device("meta"):
        encoder = E4E(style_count=style_count, pyramid_upsampling="bicubic")
        generator, samm = Generator(size=size), SAMM()
    parts: dict[str, nn.Module] = {"encoder": encoder, "generator": generator, "samm": samm}
    for part, module in parts.items():
        fill_module(module, select(state, f"{part}."), source=name)
        module.eval().requires_grad_(False)
        set_precision(module, dtype)
        if prepared:
            prepare(module)
    return Networks(encoder, generator, samm, state["w_mean"])


def run(name: str, networks: Networks, *, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield the arrays of a parity file, as our networks compute them."""
    recorded = np.load(shared_path(f"parity/{name}.npz"))
    encoder, generator, samm, w_mean = networks
    step = generator.size // 256
    crop = torch.from_numpy(recorded["image_uint8"]).permute(2, 0, 1)[None].float() / 127.5 - 1
    crop = crop.contiguous(memory_format=torch.channels_last)
    small = F.interpolate(crop, size=(256, 256), mode="bilinear", align_corners=False)
    found = encoder(small.to(dtype))
    w_plus = found.offsets + w_mean
    yield "w_plus", w_plus[0]
    yield "generated_plain", generator(w_plus)[0, :, ::step, ::step]
    edited = w_plus + torch.from_numpy(recorded["direction"])
    for suffix, codes in (("", w_plus), ("_edited", edited)):
        aligned = synthesise_aligned(generator, samm, codes, found.taps)
        ood = combine_masks(aligned.fields, size=generator.size)
        blended = ood * crop + (1 - ood) * aligned.image
        yield f"mask{suffix}", ood[0, :, ::step, ::step]
        yield f"blended{suffix}", blended[0, :, ::step, ::step]
        if not suffix:
            for resolution, field in zip(RESOLUTIONS, aligned.fields, strict=True):
                yield f"align_{resolution}", torch.cat([field.flow, field.ood], dim=1)[0]


def relative_error(seen: Tensor, wanted: np.ndarray) -> float:
    """Relative L2 error; `seen` is rounded as the recorded array was."""
    reference = torch.from_numpy(wanted)
    difference = seen.to(reference.dtype).double() - reference.double()
    return float(difference.norm() / reference.double().norm())
