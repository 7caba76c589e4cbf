"""The parameter names of NVIDIA's PyTorch releases, StyleGAN2-ADA and StyleGAN3, to ours.

Weights, styles and noise of StyleGAN2 are laid out as in the common port; only names and leading
axes differ. Those of StyleGAN3 differ in their names alone.
"""

from collections.abc import Sequence

from vidinvert.networks.keymaps import CONSTANT_KERNEL
from vidinvert.types import Keymap


def stylegan2_ada(*, style_count: int, mapping_layers: int) -> Keymap:
    """Name the generator of a StyleGAN2-ADA pickle; its mean code becomes `w_mean`.

    Args:
        style_count: L of the generator.
        mapping_layers: depth of its mapping network: 8 in the published faces, 2 in small ones.
    """
    renames = _mapping(mapping_layers) | {"synthesis.b4.const": "constant"}
    index = 0
    for level in range(style_count // 2):
        there = f"synthesis.b{4 * 2**level}"
        here = "" if level == 0 else f"blocks.{level - 1}."
        convs = {"conv1": "conv"} if level == 0 else {"conv0": "conv0", "conv1": "conv1"}
        for theirs, ours in convs.items():
            renames |= _modulated(f"{there}.{theirs}", f"{here}{ours}.conv")
            renames[f"{there}.{theirs}.bias"] = f"{here}{ours}.bias"
            renames[f"{there}.{theirs}.noise_strength"] = f"{here}{ours}.noise_strength"
            renames[f"{there}.{theirs}.noise_const"] = f"noise_{index}"
            index += 1
        renames |= _modulated(f"{there}.torgb", f"{here}to_rgb.conv")
        renames[f"{there}.torgb.bias"] = f"{here}to_rgb.bias"
    return Keymap("stylegan2_ada", renames, {"synthesis.*.resample_filter": CONSTANT_KERNEL})


def stylegan3(*, layer_names: Sequence[str], mapping_layers: int) -> Keymap:
    """Name the generator of a StyleGAN3 pickle; its mean code becomes `w_mean`.

    Args:
        layer_names: of its layers in order, as `L0_36_512` (number, side, channels), the picture's
            last.
        mapping_layers: depth of its mapping network: 2 in those published.
    """
    renames = _mapping(mapping_layers) | {
        "synthesis.input.weight": "input.weight",
        "synthesis.input.freqs": "input.frequencies",
        "synthesis.input.phases": "input.phases",
        "synthesis.input.transform": "input.transform",
    }
    places = {name: f"layers.{index}" for index, name in enumerate(layer_names)}
    places[layer_names[-1]] = "to_rgb"
    for name, here in places.items():
        there = f"synthesis.{name}"
        renames |= _modulated(there, here)
        renames[f"{there}.bias"] = f"{here}.bias"
        renames[f"{there}.magnitude_ema"] = f"{here}.magnitude"
        if here != "to_rgb":  # which has no filters
            renames[f"{there}.up_filter"] = f"{here}.up_filter"
            renames[f"{there}.down_filter"] = f"{here}.down_filter"
    for kind in ("weight", "bias"):
        renames[f"synthesis.input.affine.{kind}"] = f"input.modulation.{kind}"
    return Keymap("stylegan3", renames, {})


def _mapping(layers: int) -> dict[str, str]:
    renames = {"mapping.w_avg": "w_mean"}
    for layer in range(layers):
        for kind in ("weight", "bias"):
            renames[f"mapping.fc{layer}.{kind}"] = f"mapping.layers.{layer}.{kind}"
    return renames


def _modulated(theirs: str, ours: str) -> dict[str, str]:
    return {
        f"{theirs}.weight": f"{ours}.weight",
        f"{theirs}.affine.weight": f"{ours}.modulation.weight",
        f"{theirs}.affine.bias": f"{ours}.modulation.bias",
    }
