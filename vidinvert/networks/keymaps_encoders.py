"""The parameter names of ReStyle's and FeatureStyle's encoders, mapped to ours."""

from vidinvert.networks.backbones import IR50_UNITS
from vidinvert.networks.keymaps import batch_norm, ir_se50, join, with_prefixes
from vidinvert.types import Keymap

HEAD_CONVS = 4  # from 16 px to 1 px


def restyle(*, style_count: int, theirs: str = "state_dict.encoder.", ours: str = "") -> Keymap:
    """Name ReStyle's encoder on an IR-SE50, either flavour.

    Args:
        style_count: L of the generator.
        theirs: prefix in the file.
        ours: prefix in the result.
    """
    renames = ir_se50()
    for head in range(style_count):
        there, here = f"styles.{head}", f"heads.heads.{head}"
        for kind in ("weight", "bias"):
            renames[f"{there}.linear.{kind}"] = f"{here}.linear.{kind}"
            for conv in range(HEAD_CONVS):
                renames[f"{there}.convs.{2 * conv}.{kind}"] = f"{here}.convs.{conv}.{kind}"
    return Keymap("restyle", *with_prefixes(renames, {}, theirs, ours))


def restyle_file(*, style_count: int) -> Keymap:
    """Read the encoder, and the mean code as `w_mean`, from a file like `restyle_*_encode.pt`."""
    rest = Keymap(
        "rest",
        {"latent_avg": "w_mean"},
        {
            "state_dict.decoder.*": "the generator, which a pack names by itself",
            "state_dict.face_pool.*": "a pooling layer without weights of its own",
            "state_dict.latent_avg": "the mean code again",
            "discriminator_state_dict.*": "the discriminator of the codes",
        },
    )
    return join("restyle_file", restyle(style_count=style_count, ours="encoder."), rest)


def featurestyle(
    *, style_count: int, content_bias: bool = False, theirs: str = "", ours: str = ""
) -> Keymap:
    """Name FeatureStyle's encoder: ArcFace's iResNet-50 in parts, a content layer and heads.

    Args:
        style_count: L of the generator.
        content_bias: whether the content layer's convolutions have biases in the file.
        theirs: prefix in the file.
        ours: prefix in the result.
    """
    renames = {"conv.0.weight": "conv.weight"} | batch_norm("conv.1", "norm")
    renames["conv.2.weight"] = "slope"
    for group, count in enumerate(IR50_UNITS):
        for unit in range(count):
            there, here = f"block_{group + 1}.{unit}", f"groups.{group}.{unit}"
            for norm, name in (("bn1", "norm_in"), ("bn2", "norm_middle"), ("bn3", "norm_out")):
                renames |= batch_norm(f"{there}.{norm}", f"{here}.{name}")
            renames[f"{there}.conv1.weight"] = f"{here}.conv_in.weight"
            renames[f"{there}.prelu.weight"] = f"{here}.slope"
            renames[f"{there}.conv2.weight"] = f"{here}.conv_out.weight"
            if unit == 0:
                renames[f"{there}.downsample.0.weight"] = f"{here}.shortcut.0.weight"
                renames |= batch_norm(f"{there}.downsample.1", f"{here}.shortcut.1")
    norms = ((0, "norm_in"), (2, "norm_middle"), (5, "norm_out"))
    for index, name in norms:
        renames |= batch_norm(f"content_layer.{index}", f"content_{name}")
    renames["content_layer.3.weight"] = "content_slope"
    for index, name in ((1, "conv_in"), (4, "conv_out")):
        for kind in ("weight", "bias") if content_bias else ("weight",):
            renames[f"content_layer.{index}.{kind}"] = f"content_{name}.{kind}"
    for head in range(style_count):
        for kind in ("weight", "bias"):
            renames[f"styles.{head}.{kind}"] = f"heads.{head}.{kind}"
    return Keymap("featurestyle", *with_prefixes(renames, {}, theirs, ours))


def featurestyle_file(*, style_count: int, content_bias: bool = False) -> Keymap:
    """Read the encoder from a file like `143_enc.pth`; the mean code is the generator's."""
    part = featurestyle(style_count=style_count, content_bias=content_bias, ours="encoder.")
    return join("featurestyle_file", part)
