"""StyleGAN3's generators out of NVIDIA's pickles: sizes from names and shapes, filters compared."""

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidinvert.checkpoints import rename_keys
from vidinvert.errors import KeyMismatchError
from vidinvert.networks.alias_free import FilterPlan, bands, design_resampling
from vidinvert.networks.keymaps_nvidia import stylegan3
from vidinvert.networks.stylegan3 import CLAMP, OUTPUT_SCALE
from vidinvert.official.building import build_stylegan3, filter_plan_of
from vidinvert.official.part import Part, count, inverse

SIGN = "synthesis.input.weight"  # no other network has it
FILTER_TOLERANCE = 1e-4  # of a filter's largest tap: SciPy's versions round differently

# What a network was made with, and shapes do not tell: the release's names, and ours.
_SETTINGS = {
    "num_critical": "critical",
    "first_cutoff": "first_cutoff",
    "first_stopband": "first_stopband",
    "last_stopband_rel": "last_stopband_ratio",
    "margin_size": "margin",
    "filter_size": "taps",
    "lrelu_upsampling": "oversampling",
    "output_scale": "output_scale",
    "conv_clamp": "clamp",
}
# Settings that shapes tell as well, or that play no part in drawing.
_OTHERS = (
    *("z_dim", "c_dim", "w_dim", "num_ws", "img_resolution", "img_channels", "num_layers"),
    *("channel_base", "channel_max", "conv_kernel", "use_radial_filters"),
    *("num_fp16_res", "magnitude_ema_beta"),
)


def read_stylegan3(
    path: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], *, kind: str
) -> Part:
    """Read the generator of a StyleGAN3.

    Args:
        path: the file, for messages.
        tensors: by the release's names.
        settings: of the pickle, as `PickledNetwork.settings`; those that are not in it are taken to
            be the published ones.
        kind: what the user says the file is for.

    Raises:
        KeyMismatchError: a name, a setting or a filter is not that of such a generator, or the
            user says that it is something else.
    """
    if kind != "stylegan3":
        raise KeyMismatchError(
            f"{path} holds a StyleGAN3 generator ({SIGN}), expected files of the kind {kind!r}. "
            "Import it as kind stylegan3, into a pack of its own: codes and encoders of StyleGAN2 "
            "mean nothing to it."
        )
    layers = _find_layers(path, tensors)
    mapping_layers = count(tensors, r"mapping\.fc(\d+)\.weight")
    keymap = stylegan3(layer_names=layers, mapping_layers=mapping_layers)
    state = rename_keys(tensors, keymap, source=str(path))
    w_mean = state.pop("w_mean").float().reshape(1, -1)
    facts: dict[str, Any] = {
        "kind": "stylegan3",
        "crop_size": _side(layers[-1]),
        "style_count": len(layers) + 1,
        "style_width": w_mean.shape[1],
        "channels": [state[f"layers.{n}.bias"].numel() for n in range(len(layers) - 1)],
        "mapping_layers": mapping_layers,
        "layers": len(layers) - 1,
        "kernel": state["layers.0.weight"].shape[-1],
        "radial": state["layers.0.down_filter"].ndim == 2,
        "output_scale": OUTPUT_SCALE,
        "clamp": CLAMP,
    }
    facts["channels"].append(state["to_rgb.bias"].numel())
    for field in fields(FilterPlan):
        if field.name not in ("size", *facts):
            facts[field.name] = field.default
    facts |= _read_settings(path, settings)
    _check_signals(path, layers, state, facts)
    return Part(
        name="generator",
        network="StyleGAN3 generator",
        path=path,
        state=state,
        theirs=inverse(keymap),
        facts=facts,
        build=build_stylegan3,
        w_mean=w_mean,
    )


def _find_layers(path: Path, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the layers' names in order, as `L0_36_512`."""
    found = {
        int(match[2]): match[1]
        for match in (re.fullmatch(r"synthesis\.(L(\d+)_\d+_\d+)\.weight", n) for n in tensors)
        if match is not None
    }
    if len(found) < 2 or sorted(found) != list(range(len(found))):
        seen = ", ".join(f"synthesis.{found[n]}" for n in sorted(found)) or "none"
        raise KeyMismatchError(
            f"{path} has the layers {seen}, expected synthesis.L0_* and so on without a gap. "
            "Check that it is a whole generator of StyleGAN3."
        )
    return [found[number] for number in sorted(found)]


def _side(layer: str) -> int:
    return int(layer.split("_")[1])


def _read_settings(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the file says it was made with, under our names."""
    read: dict[str, Any] = {}
    for full, value in settings.items():
        before, made_with, name = full.rpartition("_init_kwargs.")
        if not made_with or before not in ("", "synthesis."):
            continue
        if name not in _SETTINGS and name not in _OTHERS:
            raise KeyMismatchError(
                f"{path} was made with {name}={value!r}, which no StyleGAN3 published has. "
                "vidinvert cannot tell what it does."
            )
        if name in _SETTINGS:
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise KeyMismatchError(
                    f"{path} was made with {name}={value!r}, expected a number. Fetch it again."
                )
            whole = name in ("num_critical", "margin_size", "filter_size", "lrelu_upsampling")
            read[_SETTINGS[name]] = int(value) if whole else float(value)
    return read


def _check_signals(
    path: Path, layers: list[str], state: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Compare the sides and filters of all layers with those that follow from the settings."""
    try:
        plan = filter_plan_of(facts)
    except ValueError as error:
        raise KeyMismatchError(f"{path} cannot be a StyleGAN3: {error}.") from error
    signals = bands(plan)
    for index, (layer, band) in enumerate(zip(layers, signals, strict=True)):
        if _side(layer) != band.size:
            raise KeyMismatchError(
                f"{path}: synthesis.{layer} is {_side(layer)} samples wide by its name, expected "
                f"{band.size} for {plan.layers} layers and a picture of {plan.size} px. "
                "vidinvert reads the settings of the release alone."
            )
        if index == plan.layers:  # the picture's layer has no filters
            continue
        critical = index >= plan.layers - plan.critical
        wanted = design_resampling(plan, signals[max(index - 1, 0)], band, critical=critical)
        for name in ("up_filter", "down_filter"):
            seen, own = state[f"layers.{index}.{name}"].float(), getattr(wanted, name)
            tolerance = FILTER_TOLERANCE * float(own.abs().max())
            if seen.shape != own.shape or not torch.allclose(seen, own, rtol=0, atol=tolerance):
                raise KeyMismatchError(
                    f"{path}: synthesis.{layer}.{name} {tuple(seen.shape)} is not the filter "
                    f"{tuple(own.shape)} that the file's settings ask for. This network was "
                    "trained with other filters, which is not supported."
                )
