"""The parameter names of In-Domain inversion's files (`styleganinv_*.pth`, `vgg16.pth`) to ours."""

from vidinvert.networks.keymaps import CONSTANT_KERNEL, batch_norm, with_prefixes
from vidinvert.networks.stylegan1 import FUSED_FROM
from vidinvert.networks.vgg import CONVOLUTIONS
from vidinvert.types import Keymap


def stylegan1(*, style_count: int, theirs: str = "", ours: str = "") -> Keymap:
    """Name the generator of In-Domain inversion.

    Args:
        style_count: L of the generator.
        theirs: prefix in the file.
        ours: prefix in the result.
    """
    renames = {
        "truncation.w_avg": "w_mean",
        "truncation.truncation": "truncation",
        "synthesis.layer0.const": "constant",
    }
    dropped = {"synthesis.lod": "how far progressive growing had come; 0, all of it"}
    for layer in range(8):
        renames[f"mapping.dense{layer}.fc.weight"] = f"mapping.layers.{layer}.weight"
        renames[f"mapping.dense{layer}.wscale.bias"] = f"mapping.layers.{layer}.bias"
    for layer in range(style_count):
        there = f"synthesis.layer{layer}"
        here = "first" if layer == 0 else f"layers.{layer - 1}.epilogue"
        renames[f"{there}.epilogue.bias"] = f"{here}.bias"
        renames[f"{there}.epilogue.apply_noise.weight"] = f"{here}.noise_strength"
        renames[f"{there}.epilogue.apply_noise.noise"] = f"{here}.noise"
        renames[f"{there}.epilogue.style_mod.dense.fc.weight"] = f"{here}.style.weight"
        renames[f"{there}.epilogue.style_mod.dense.wscale.bias"] = f"{here}.style.bias"
        if layer == 0:
            continue
        enlarges = layer % 2 == 0
        fused = enlarges and 4 * 2 ** (layer // 2) >= FUSED_FROM
        renames[f"{there}.{'weight' if fused else 'conv.weight'}"] = f"layers.{layer - 1}.weight"
        if enlarges:
            dropped[f"{there}.blur.kernel"] = CONSTANT_KERNEL
    last = style_count // 2 - 1
    for kind in ("weight", "bias"):
        there = "conv.weight" if kind == "weight" else "bias"
        renames[f"synthesis.output{last}.{there}"] = f"to_rgb.{kind}"
        for level in range(last):
            dropped[f"synthesis.output{level}.{there}"] = "a picture of a lower resolution"
    return Keymap("stylegan1", *with_prefixes(renames, dropped, theirs, ours))


def domain_guided_encoder(
    *, blocks: int = 6, shortcuts: int = 4, theirs: str = "", ours: str = ""
) -> Keymap:
    """Name the encoder of In-Domain inversion.

    Args:
        blocks: residual blocks, 6 for 256 px.
        shortcuts: how many of the first blocks change the channels, and so have a shortcut.
        theirs: prefix in the file.
        ours: prefix in the result.
    """
    renames = {"block0.conv.weight": "conv.weight"} | batch_norm("block0.bn.bn", "norm")
    for block in range(1, blocks + 1):
        there, here = f"block{block}", f"blocks.{block - 1}"
        for conv in (1, 2):
            renames[f"{there}.conv{conv}.weight"] = f"{here}.conv{conv}.weight"
            renames[f"{there}.wscale{conv}.bias"] = f"{here}.conv{conv}.bias"
            renames |= batch_norm(f"{there}.bn{conv}.bn", f"{here}.norm{conv}")
        if block <= shortcuts:
            renames[f"{there}.conv.weight"] = f"{here}.shortcut.0.weight"
            renames |= batch_norm(f"{there}.bn.bn", f"{here}.shortcut.1")
    renames[f"block{blocks + 1}.fc.weight"] = "linear.weight"
    renames |= batch_norm(f"block{blocks + 1}.bn.bn", "norm_out")
    return Keymap("domain_guided_encoder", *with_prefixes(renames, {}, theirs, ours))


def vgg16(*, theirs: str = "", ours: str = "") -> Keymap:
    """Name VGG16 up to conv4_3; their layers count convolutions, ReLUs and poolings."""
    renames: dict[str, str] = {}
    index = layer = 0
    for count in CONVOLUTIONS:
        for _ in range(count):
            for kind in ("weight", "bias"):
                renames[f"layer{layer}.{kind}"] = f"convs.{index}.{kind}"
            index, layer = index + 1, layer + 2
        layer += 1  # the pooling
    dropped = {
        f"layer{later}.{kind}": "beyond conv4_3, which is the last layer read"
        for later in (layer, layer + 2, layer + 4)
        for kind in ("weight", "bias")
    }
    return Keymap("vgg16", *with_prefixes(renames, dropped, theirs, ours))
