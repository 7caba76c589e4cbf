"""The parameter names of official checkpoints, mapped to ours: data, made from the layouts.

A keymap accounts for every name in a file: each is either renamed or dropped with a reason. What
loads the files and applies the maps is `vidinvert.checkpoints`.
"""

from vidinvert.networks.backbones import IR50_UNITS
from vidinvert.types import Keymap

CONSTANT_KERNEL = "a constant FIR kernel, which the layer makes itself"
UNUSED_SCALAR = "never read by the published forward pass"

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def join(name: str, *maps: Keymap) -> Keymap:
    """Read several parts from one file."""
    renames: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for part in maps:
        renames.update(part.renames)
        dropped.update(part.dropped)
    return Keymap(name, renames, dropped)


def stylegan2(
    *, style_count: int, mapping_layers: int = 8, theirs: str = "g_ema.", ours: str = ""
) -> Keymap:
    """Name a StyleGAN2 in the naming of its common PyTorch port ("rosinality").

    Args:
        style_count: L of the generator.
        mapping_layers: depth of its mapping network.
        theirs: prefix in the file.
        ours: prefix in the result.
    """
    renames: dict[str, str] = {"input.input": "constant"}
    dropped: dict[str, str] = {}
    for layer in range(mapping_layers):
        for kind in ("weight", "bias"):
            renames[f"style.{layer + 1}.{kind}"] = f"mapping.layers.{layer}.{kind}"
    convs = {"conv1": "conv"}
    pictures = {"to_rgb1": "to_rgb"}
    for block in range(style_count // 2 - 1):
        for half in (0, 1):
            convs[f"convs.{2 * block + half}"] = f"blocks.{block}.conv{half}"
        pictures[f"to_rgbs.{block}"] = f"blocks.{block}.to_rgb"
        dropped[f"convs.{2 * block}.conv.blur.kernel"] = CONSTANT_KERNEL
        dropped[f"to_rgbs.{block}.upsample.kernel"] = CONSTANT_KERNEL
    for there, here in (convs | pictures).items():
        for kind in ("weight", "modulation.weight", "modulation.bias"):
            renames[f"{there}.conv.{kind}"] = f"{here}.conv.{kind}"
    for there, here in convs.items():
        renames[f"{there}.noise.weight"] = f"{here}.noise_strength"
        renames[f"{there}.activate.bias"] = f"{here}.bias"
    for there, here in pictures.items():
        renames[f"{there}.bias"] = f"{here}.bias"
    for index in range(style_count - 1):
        renames[f"noises.noise_{index}"] = f"noise_{index}"
    return Keymap("stylegan2", *with_prefixes(renames, dropped, theirs, ours))


def e4e(*, style_count: int, theirs: str = "state_dict.encoder.", ours: str = "") -> Keymap:
    """Name e4e's encoder as its authors do; arguments as in `stylegan2`."""
    renames = ir_se50()
    for kind in ("weight", "bias"):
        renames[f"latlayer1.{kind}"] = f"lateral_middle.{kind}"
        renames[f"latlayer2.{kind}"] = f"lateral_fine.{kind}"
    groups = (("coarse_heads", 0, 4), ("middle_heads", 3, 5), ("fine_heads", 7, 6))
    for head in range(style_count):
        group, first, convs = next(g for g in reversed(groups) if head >= g[1])
        there, here = f"styles.{head}", f"{group}.heads.{head - first}"
        for kind in ("weight", "bias"):
            renames[f"{there}.linear.{kind}"] = f"{here}.linear.{kind}"
            for conv in range(convs):
                renames[f"{there}.convs.{2 * conv}.{kind}"] = f"{here}.convs.{conv}.{kind}"
    return Keymap("e4e", *with_prefixes(renames, {}, theirs, ours))


def samm(
    *, levels: int = 4, bias: bool = False, theirs: str = "params_ema.", ours: str = ""
) -> Keymap:
    """Name SAMM as its authors do; they count the levels from fine to coarse.

    Args:
        levels: number of levels in the file.
        bias: whether AlignNet's convolutions have biases (the FeatureStyle variant).
        theirs: prefix in the file.
        ours: prefix in the result.
    """
    renames: dict[str, str] = {}
    dropped: dict[str, str] = {}
    kinds = ("weight", "bias")
    conv_kinds = kinds if bias else ("weight",)
    for index in range(levels):
        here = f"levels.{levels - 1 - index}"
        trunk, head = (f"modulation.{index}.alignment.body.body.{unit}" for unit in (0, 1))
        norms = {f"{trunk}.res_layer.0": "norm_in", f"{trunk}.res_layer.4": "norm_out"}
        norms |= {f"{head}.res_layer.0": "head.norm_in", f"{head}.res_layer.4": "head.norm_out"}
        norms[f"{head}.shortcut_layer.1"] = "head.shortcut_norm"
        convs = {f"{trunk}.res_layer.1": "conv_in", f"{trunk}.res_layer.3": "conv_out"}
        convs |= {f"{head}.res_layer.1": "head.conv_in", f"{head}.res_layer.3": "head.conv_out"}
        convs[f"{head}.shortcut_layer.0"] = "head.shortcut"
        for kind in kinds:
            renames[f"feats_conv.{index}.{kind}"] = f"{here}.features.{kind}"
            renames |= {f"{t}.{kind}": f"{here}.align.{o}.{kind}" for t, o in norms.items()}
        for kind in conv_kinds:
            renames |= {f"{t}.{kind}": f"{here}.align.{o}.{kind}" for t, o in convs.items()}
        renames[f"{trunk}.res_layer.2.weight"] = f"{here}.align.slope"
        renames[f"{head}.res_layer.2.weight"] = f"{here}.align.head.slope"
        dropped[f"modulation.{index}.weight"] = UNUSED_SCALAR
        dropped[f"modulation.{index}.noiseInj.weight"] = UNUSED_SCALAR
        dropped[f"modulation.{index}.alignment.blur.kernel"] = CONSTANT_KERNEL
    return Keymap("samm", *with_prefixes(renames, dropped, theirs, ours))


def stylegan2_file(*, style_count: int) -> Keymap:
    """Read the generator from a file like `stylegan2-ffhq-config-f.pt`."""
    rest = {
        "g.*": "the generator without averaging",
        "d.*": "the discriminator",
        "g_optim.*": "the optimiser's state",
        "d_optim.*": "the optimiser's state",
        "latent_avg": "the mean code is the encoder's",
    }
    return join("stylegan2_file", stylegan2(style_count=style_count), Keymap("rest", {}, rest))


def e4e_file(*, style_count: int) -> Keymap:
    """Read the encoder, and the mean code as `w_mean`, from a file like `e4e_ffhq_encode.pt`."""
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
    return join("e4e_file", e4e(style_count=style_count, ours="encoder."), rest)


def samm_file(*, levels: int = 4, bias: bool = False) -> Keymap:
    """Read SAMM from a file like `net_g_410000.pth`."""
    rest = {"params.*": "the weights without averaging"}
    return join("samm_file", samm(levels=levels, bias=bias), Keymap("rest", {}, rest))


def samm_whole_model(*, style_count: int, levels: int = 4) -> Keymap:
    """Read all parts of SAMM on e4e from the whole model of its training code.

    Our names begin with `encoder.`, `generator.`, `samm.`, or are `w_mean`.
    """
    rest = Keymap(
        "rest",
        {"avg_latent": "w_mean"},
        {"delta_latent": "an edit that the test script adds; zero after training"},
    )
    return join(
        "samm_whole_model",
        e4e(style_count=style_count, theirs="encoder.", ours="encoder."),
        stylegan2(style_count=style_count, theirs="generator.", ours="generator."),
        samm(levels=levels, theirs="", ours="samm."),
        rest,
    )


def ir_se50() -> dict[str, str]:
    """Rename the trunk that e4e, pSp and ReStyle share."""
    renames: dict[str, str] = {"input_layer.0.weight": "trunk.conv.weight"}
    renames |= batch_norm("input_layer.1", "trunk.norm")
    renames["input_layer.2.weight"] = "trunk.slope"
    starts = [sum(IR50_UNITS[:group]) for group in range(len(IR50_UNITS))]
    for unit in range(sum(IR50_UNITS)):
        there, here = f"body.{unit}.res_layer", f"trunk.units.{unit}"
        renames |= batch_norm(f"{there}.0", f"{here}.norm_in")
        renames[f"{there}.1.weight"] = f"{here}.conv_in.weight"
        renames[f"{there}.2.weight"] = f"{here}.slope"
        renames[f"{there}.3.weight"] = f"{here}.conv_out.weight"
        renames |= batch_norm(f"{there}.4", f"{here}.norm_out")
        renames[f"{there}.5.fc1.weight"] = f"{here}.weigh.squeeze.weight"
        renames[f"{there}.5.fc2.weight"] = f"{here}.weigh.excite.weight"
        if unit in starts[1:]:  # the first group keeps its 64 channels
            renames[f"body.{unit}.shortcut_layer.0.weight"] = f"{here}.shortcut.0.weight"
            renames |= batch_norm(f"body.{unit}.shortcut_layer.1", f"{here}.shortcut.1")
    return renames


def batch_norm(theirs: str, ours: str) -> dict[str, str]:
    """Rename everything that a batch normalisation holds."""
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for kind in _BATCH_NORM}


def with_prefixes(
    renames: dict[str, str], dropped: dict[str, str], theirs: str, ours: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Put prefixes before the names of a file and before ours."""
    return (
        {theirs + there: ours + here for there, here in renames.items()},
        {theirs + there: reason for there, reason in dropped.items()},
    )
