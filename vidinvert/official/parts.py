"""Networks out of official files: told apart by their names, measured by their shapes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidinvert.checkpoints import (
    Checkpoint,
    load_checkpoint,
    read_nvidia_pickle,
    rename_keys,
)
from vidinvert.errors import KeyMismatchError
from vidinvert.networks import keymaps
from vidinvert.networks.keymaps_nvidia import stylegan2_ada
from vidinvert.networks.ops import FIR_TAPS
from vidinvert.official import encoder_parts, indomain_parts, stylegan3_parts
from vidinvert.official.building import build_samm, build_stylegan2
from vidinvert.official.part import Part, count, first_names, inverse, rows
from vidinvert.official.refused import refuse_file
from vidinvert.types import Keymap


def read_parts(path: Path, *, kind: str) -> list[Part]:
    """Read the networks of one official file.

    Args:
        path: the file.
        kind: what the user says it is for, as `e4e`.

    Raises:
        KeyMismatchError: a name is missing or unknown, or the file is of another kind.
        CheckpointError: the file cannot be read safely, or holds a network that is not read.
    """
    parts = _read_file(path, kind=kind)
    for part in parts:
        if kind == "stylegan3" and part.name != "vgg" and part.facts.get("kind") != kind:
            raise KeyMismatchError(
                f"{path} holds a {part.network}, expected a StyleGAN3 generator "
                f"({stylegan3_parts.SIGN}) or VGG16. Import it as the kind that it is, into a pack "
                "of its own."
            )
    return parts


def _read_file(path: Path, *, kind: str) -> list[Part]:
    if path.suffix == ".pkl":
        return [_read_nvidia(path, kind=kind)]
    checkpoint = load_checkpoint(path)
    names = checkpoint.tensors
    refuse_file(path, names)
    if stylegan3_parts.SIGN in names:
        return [stylegan3_parts.read_stylegan3(path, names, {}, kind=kind)]
    if any(name.startswith("g_ema.") for name in names):
        return [_read_rosinality(path, checkpoint.tensors)]
    if any(name.startswith("state_dict.encoder.") for name in names):
        return _read_encoder_file(path, checkpoint, kind=kind)
    if any(name.startswith(("params_ema.", "params.")) for name in names):
        return [_read_samm(path, checkpoint.tensors)]
    if "synthesis.layer0.epilogue.bias" in names:
        return [indomain_parts.read_stylegan1(path, names)]
    if "block0.conv.weight" in names:
        return [indomain_parts.read_domain_guided_encoder(path, names)]
    if "content_layer.0.weight" in names:
        return [encoder_parts.read_featurestyle(path, names)]
    if "layer0.weight" in names:
        return [indomain_parts.read_vgg(path, names)]
    if set(names) in ({"tensor"}, {"latent_avg"}):
        return [_read_mean(path, next(iter(names.values())))]
    raise KeyMismatchError(
        f"{path} holds {first_names(names)}, expected a generator (g_ema.* or synthesis.*), an "
        "encoder (state_dict.encoder.*, content_layer.* or block0.*), SAMM (params_ema.*), VGG16 "
        "(layer0.*) or a mean code (latent_avg). "
        "Check that it is an official file, and that KIND is right."
    )


def _read_nvidia(path: Path, *, kind: str) -> Part:
    network = read_nvidia_pickle(path)
    tensors = network.tensors
    if stylegan3_parts.SIGN in tensors:
        return stylegan3_parts.read_stylegan3(path, tensors, network.settings, kind=kind)
    for name, tensor in tensors.items():
        if name.endswith("resample_filter"):
            _check_filter(path, name, tensor)
    depth = count(tensors, r"mapping\.fc(\d+)\.weight")
    blocks = sum(bool(re.fullmatch(r"synthesis\.b\d+\.conv1\.weight", name)) for name in tensors)
    if not depth or not blocks:
        raise KeyMismatchError(
            f"{path} holds a {network.class_name} with {first_names(tensors)}, expected the "
            "generator of StyleGAN2-ADA or StyleGAN3."
        )
    keymap = stylegan2_ada(style_count=2 * blocks, mapping_layers=depth)
    state = rename_keys(tensors, keymap, source=str(path))
    w_mean = state.pop("w_mean").float().reshape(1, -1)
    return Part(
        name="generator",
        network="StyleGAN2-ADA generator",
        path=path,
        state=state,
        theirs=inverse(keymap),
        facts=_measure_generator(state),
        build=build_stylegan2,
        w_mean=w_mean,
    )


def _check_filter(path: Path, name: str, tensor: Tensor) -> None:
    taps = torch.tensor(FIR_TAPS)
    kernel = torch.outer(taps, taps) / taps.sum().square()
    if tuple(tensor.shape) != tuple(kernel.shape) or not torch.allclose(tensor.float(), kernel):
        raise KeyMismatchError(
            f"{path}: {name} is not the filter {list(FIR_TAPS)} that vidinvert's layers use. "
            "This network was trained with another resample_filter, which is not supported."
        )


def _read_rosinality(path: Path, tensors: Mapping[str, Tensor]) -> Part:
    rest = keymaps.stylegan2_file(style_count=2).dropped
    return _read_stylegan2(
        path, tensors, theirs="g_ema.", dropped=rest, w_mean=tensors.get("latent_avg")
    )


def _read_stylegan2(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    theirs: str,
    dropped: Mapping[str, str],
    w_mean: Tensor | None,
) -> Part:
    prefix = re.escape(theirs)
    depth = count(tensors, prefix + r"style\.(\d+)\.weight")
    blocks = count(tensors, prefix + r"to_rgbs\.(\d+)\.bias")
    keymap = keymaps.join(
        "stylegan2",
        keymaps.stylegan2(style_count=2 * blocks + 2, mapping_layers=depth, theirs=theirs),
        Keymap("rest", {}, dropped),
    )
    state = rename_keys(tensors, keymap, source=str(path))
    return Part(
        name="generator",
        network="StyleGAN2 generator",
        path=path,
        state=state,
        theirs=inverse(keymap),
        facts=_measure_generator(state),
        build=build_stylegan2,
        w_mean=None if w_mean is None else rows(path, w_mean),
    )


def _measure_generator(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the sizes of a StyleGAN2 under our names."""
    blocks = count(state, r"blocks\.(\d+)\.to_rgb\.bias")
    channels = [state["constant"].numel() // 16]
    channels += [state[f"blocks.{block}.conv1.bias"].numel() for block in range(blocks)]
    return {
        "kind": "stylegan2",
        "crop_size": 4 * 2**blocks,
        "style_count": 2 * blocks + 2,
        "style_width": state["conv.conv.modulation.weight"].shape[1],
        "channels": channels,
        "mapping_layers": count(state, r"mapping\.layers\.(\d+)\.weight"),
    }


def _read_encoder_file(path: Path, checkpoint: Checkpoint, *, kind: str) -> list[Part]:
    """Read an encoder and, where the file has it, the generator it was trained with."""
    tensors = checkpoint.tensors
    parts = [encoder_parts.read_encoder(path, checkpoint, kind=kind)]
    theirs = "state_dict.decoder."
    if any(name.startswith(theirs) for name in tensors):
        inside = {name: t for name, t in tensors.items() if name.startswith(theirs)}
        parts.append(_read_stylegan2(path, inside, theirs=theirs, dropped={}, w_mean=None))
    return parts


def _read_samm(path: Path, tensors: Mapping[str, Tensor]) -> Part:
    levels = count(tensors, r"params_ema\.feats_conv\.(\d+)\.weight")
    if not levels:
        raise KeyMismatchError(
            f"{path} holds {first_names(tensors)}, expected params_ema.feats_conv.* and "
            "params_ema.modulation.*, SAMM's averaged weights. Give the file of the generator side "
            "(net_g_*.pth)."
        )
    bias = "params_ema.modulation.0.alignment.body.body.0.res_layer.1.bias" in tensors
    keymap = keymaps.samm_file(levels=levels, bias=bias)
    state = rename_keys(tensors, keymap, source=str(path))
    return Part(
        name="samm",
        network="SAMM",
        path=path,
        state=state,
        theirs=inverse(keymap),
        facts={"samm_levels": levels, "bias": bias},
        build=build_samm,
    )


def _read_mean(path: Path, tensor: Tensor) -> Part:
    code = rows(path, tensor)
    return Part(
        name="w_mean",
        network="mean code",
        path=path,
        state={"w_mean": code},
        theirs={"w_mean": "the mean code"},
        facts={"style_width": code.shape[1]},
    )
