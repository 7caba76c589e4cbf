"""The parameter names of NVIDIA's StyleGAN2-ADA release (PyTorch) to ours.

Weights, styles and noise are laid out as in the common port; only names and leading axes differ.
"""

from vidinvert.networks.keymaps import CONSTANT_KERNEL
from vidinvert.types import Keymap


def stylegan2_ada(*, style_count: int, mapping_layers: int) -> Keymap:
    """Name the generator of a StyleGAN2-ADA pickle; its mean code becomes `w_mean`.

    Args:
        style_count: L of the generator.
        mapping_layers: depth of its mapping network: 8 in the published faces, 2 in small ones.
    """
    renames = {"mapping.w_avg": "w_mean", "synthesis.b4.const": "constant"}
    for layer in range(mapping_layers):
        for kind in ("weight", "bias"):
            renames[f"mapping.fc{layer}.{kind}"] = f"mapping.layers.{layer}.{kind}"
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


def _modulated(theirs: str, ours: str) -> dict[str, str]:
    return {
        f"{theirs}.weight": f"{ours}.weight",
        f"{theirs}.affine.weight": f"{ours}.modulation.weight",
        f"{theirs}.affine.bias": f"{ours}.modulation.bias",
    }
