"""Tiny files in the official formats, made from our networks under their authors' names."""

import argparse
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vidinvert.networks import keymaps
from vidinvert.networks.e4e import E4E
from vidinvert.networks.keymaps_nvidia import stylegan2_ada
from vidinvert.networks.samm import SAMM, LevelSpec
from vidinvert.networks.stylegan2 import Generator
from vidinvert.types import Keymap

TRUNK = (16, 32, 48, 64)
CHANNELS = (16, 16, 12, 12, 8)
SIZE, STYLE_COUNT, STYLE_WIDTH = 64, 10, 64
LEVELS = (
    LevelSpec(resolution=32, channels=12, feature_channels=48),
    LevelSpec(resolution=64, channels=8, feature_channels=32),
)
BLUR = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


def generator_state(*, seed: int = 0, size: int = SIZE, mapping_layers: int = 8) -> dict:
    torch.manual_seed(seed)
    channels = {4 * 2**level: width for level, width in enumerate(CHANNELS)}
    network = Generator(
        size=size, style_width=STYLE_WIDTH, channels=channels, mapping_layers=mapping_layers
    )
    for name, tensor in network.named_parameters():
        if name.endswith(("noise_strength", "bias")):
            tensor.data += 0.1 * torch.randn_like(tensor)
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def encoder_state(*, style_count: int = STYLE_COUNT, seed: int = 1) -> dict:
    torch.manual_seed(seed)
    encoder = E4E(style_count=style_count, trunk_widths=TRUNK)
    return {f"encoder.{name}": t.detach() for name, t in encoder.state_dict().items()}


def samm_state(*, seed: int = 2) -> dict:
    torch.manual_seed(seed)
    return {name: t.detach() for name, t in SAMM(LEVELS).state_dict().items()}


def w_mean(*, seed: int = 3) -> Tensor:
    return torch.randn(STYLE_WIDTH, generator=torch.Generator().manual_seed(seed))


def theirs(state: Mapping[str, Tensor], keymap: Keymap) -> dict[str, Tensor]:
    """Rename our parameters to those of a file."""
    return {there: state[ours] for there, ours in keymap.renames.items() if ours in state}


def nest(flat: Mapping[str, Tensor], *tables: str) -> dict:
    """Put names that begin with a table's name into a table of it."""
    nested: dict = {}
    for name, tensor in flat.items():
        table, _, rest = name.partition(".")
        if table in tables:
            nested.setdefault(table, OrderedDict())[rest] = tensor
        else:
            nested[name] = tensor
    return nested


def rosinality(path: Path, *, mean: bool = True, **changes) -> Path:
    """Like `stylegan2-ffhq-config-f.pt`."""
    state = generator_state(**changes)
    count = sum(name.startswith("noise_") for name in state) + 1
    layers = sum(name.startswith("mapping.") for name in state) // 2
    flat = theirs(state, keymaps.stylegan2(style_count=count, mapping_layers=layers))
    for block in range(count // 2 - 1):
        flat[f"g_ema.convs.{2 * block}.conv.blur.kernel"] = BLUR * 4
        flat[f"g_ema.to_rgbs.{block}.upsample.kernel"] = BLUR * 4
    content = nest(flat, "g_ema") | ({"latent_avg": w_mean()} if mean else {})
    torch.save(content, path)
    return path


def e4e(path: Path, *, mean: bool = True, zipped: bool = True, decoder: int = 0, **changes) -> Path:
    """Like `e4e_ffhq_encode.pt`: encoder, generator, mean code, options in a Namespace."""
    state = encoder_state(**changes)
    count = changes.get("style_count", STYLE_COUNT)
    flat = theirs(state, keymaps.e4e(style_count=count, ours="encoder."))
    inner = keymaps.stylegan2(style_count=STYLE_COUNT, theirs="state_dict.decoder.")
    flat |= theirs(generator_state(seed=decoder), inner)
    content = nest(flat, "state_dict")
    if mean:
        content["latent_avg"] = w_mean().expand(count, -1)
    content["opts"] = argparse.Namespace(
        encoder_type="Encoder4Editing", stylegan_size=SIZE, start_from_latent_avg=True
    )
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def samm(path: Path) -> Path:
    """Like `net_g_410000.pth`."""
    flat = theirs(samm_state(), keymaps.samm(levels=len(LEVELS)))
    for level in range(len(LEVELS)):
        flat[f"params_ema.modulation.{level}.weight"] = torch.ones(1)
        flat[f"params_ema.modulation.{level}.noiseInj.weight"] = torch.zeros(1)
        flat[f"params_ema.modulation.{level}.alignment.blur.kernel"] = BLUR
    flat |= {name.replace("params_ema.", "params."): t + 1 for name, t in flat.items()}
    torch.save(nest(flat, "params", "params_ema"), path)
    return path


def ada_state(*, mapping_layers: int = 2) -> dict[str, Tensor]:
    """A StyleGAN2-ADA generator's state under its names, with its axes."""
    state = generator_state(mapping_layers=mapping_layers) | {"w_mean": w_mean()}
    keymap = stylegan2_ada(style_count=STYLE_COUNT, mapping_layers=mapping_layers)
    flat = theirs(state, keymap)
    for name, tensor in flat.items():
        if name.endswith(("noise_const", "noise_strength", ".const")):
            flat[name] = tensor.squeeze()
    for name in [name for name in flat if name.endswith("conv1.weight")]:
        block = name.removesuffix(".conv1.weight")
        flat[f"{block}.resample_filter"] = BLUR
        flat[f"{block}.conv1.resample_filter"] = BLUR
    return flat


class Layer:
    """A layer as NVIDIA's networks are pickled: a meta table with source code and state."""

    source = "raise SystemExit('the source code in the pickle was run')"

    def __init__(self, name: str, *, kind: str = "class", version: int = 6) -> None:
        self.meta = {
            "type": kind,
            "version": version,
            "module_src": self.source,
            "class_name": name,
            "state": {
                "training": False,
                "_parameters": OrderedDict(),
                "_buffers": OrderedDict(),
                "_modules": OrderedDict(),
            },
        }

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


BUFFERS = (
    *("resample_filter", "noise_const", "w_avg"),
    *("freqs", "phases", "transform", "magnitude_ema", "up_filter", "down_filter"),
)


def network(
    flat: Mapping[str, Tensor], *, name: str = "Generator", made_with: Mapping | None = None
) -> Layer:
    """Build nested layers from dotted names; constants are buffers, the rest parameters."""
    root = Layer(name)
    root.meta["state"] |= {"z_dim": STYLE_WIDTH, "c_dim": 0, "img_resolution": SIZE}
    for key, tensor in flat.items():
        *path, last = key.split(".")
        layer = root
        for step in path:
            layer = layer.meta["state"]["_modules"].setdefault(step, Layer(step))
        state = layer.meta["state"]
        if last in BUFFERS:
            state["_buffers"][last] = tensor.clone()
        else:
            state["_parameters"][last] = torch.nn.Parameter(tensor.clone(), requires_grad=False)
    if made_with is not None:
        root.meta["state"]["_init_kwargs"] = dict(made_with)
    return root


def install_fake_nvidia(monkeypatch) -> None:
    """Make names of NVIDIA's packages importable, so that pickles that refer to them can be made.

    The functions fail when they are called: nothing may call them.
    """

    def fail(*arguments):
        raise AssertionError("something of the pickle was run")

    for dotted, member in (
        ("torch_utils.persistence", "_reconstruct_persistent_obj"),
        ("dnnlib.util", "EasyDict"),
        ("dnnlib.tflib.network", "Network"),
    ):
        parts = dotted.split(".")
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        value = fail if member.startswith("_") else type(member, (dict,), {"__module__": dotted})
        if callable(value) and value is fail:
            value.__module__, value.__qualname__, value.__name__ = dotted, member, member
        setattr(sys.modules[dotted], member, value)


def nvidia(
    path: Path,
    flat: Mapping[str, Tensor],
    *,
    protocol: int = 3,
    made_with: Mapping | None = None,
) -> Path:
    """Like `ffhq.pkl`; `install_fake_nvidia` must have been called."""
    easy = sys.modules["dnnlib.util"].EasyDict
    content = {
        "G": network({}),
        "D": network({}, name="Discriminator"),
        "G_ema": network(flat, made_with=made_with),
        "training_set_kwargs": easy(path="data.zip", resolution=SIZE),
        "augment_pipe": None,
    }
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=protocol)
    return path
