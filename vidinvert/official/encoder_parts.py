"""Encoders for StyleGAN2 out of their files: e4e, pSp, ReStyle of both flavours, FeatureStyle."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vidinvert.checkpoints import Checkpoint, rename_keys
from vidinvert.errors import KeyMismatchError
from vidinvert.networks import keymaps, keymaps_encoders
from vidinvert.networks.backbones import IR50_UNITS
from vidinvert.official.building import build_encoder
from vidinvert.official.part import Part, count, inverse, rows
from vidinvert.types import Keymap

THEIRS = "state_dict.encoder."
# What the options of a file call its encoder, and the kind of a pack that is.
ENCODER_TYPES: Mapping[str, str] = {
    "Encoder4Editing": "e4e",
    "GradualStyleEncoder": "psp",
    "ProgressiveBackboneEncoder": "restyle_e4e",
    "BackboneEncoder": "restyle_psp",
}
NETWORKS: Mapping[str, str] = {
    "e4e": "e4e",
    "psp": "pSp",
    "restyle_e4e": "ReStyle on e4e",
    "restyle_psp": "ReStyle on pSp",
}


def read_encoder(path: Path, checkpoint: Checkpoint, *, kind: str) -> Part:
    """Read the encoder of a file like `e4e_ffhq_encode.pt`.

    e4e's and pSp's parameters have the same names, and so have ReStyle's flavours: which one a file
    holds, its options say, or else the user.
    """
    chosen = _choose(path, checkpoint.options.get("opts.encoder_type"), kind)
    tensors = checkpoint.tensors
    channels = 6 if chosen.startswith("restyle") else 3
    stem = tensors.get(f"{THEIRS}input_layer.0.weight")
    if stem is not None and stem.ndim == 4 and stem.shape[1] != channels:
        raise KeyMismatchError(
            f"{path}: {THEIRS}input_layer.0.weight takes {stem.shape[1]} channels, expected "
            f"{channels} of {NETWORKS[chosen]}. ReStyle encoders take 6, the others 3."
        )
    style_count = count(tensors, re.escape(THEIRS) + r"styles\.(\d+)\.linear\.weight")
    if chosen.startswith("restyle"):
        keymap = keymaps_encoders.restyle_file(style_count=style_count)
    else:
        keymap = keymaps.e4e_file(style_count=style_count)
    if "latent_avg" not in tensors:
        renames = {k: v for k, v in keymap.renames.items() if k != "latent_avg"}
        keymap = Keymap(keymap.name, renames, keymap.dropped)
    state = rename_keys(tensors, keymap, source=str(path))
    w_mean = state.pop("w_mean", None)
    starts = [sum(IR50_UNITS[:group]) for group in range(len(IR50_UNITS))]
    widths = [state[f"encoder.trunk.units.{unit}.conv_out.weight"].shape[0] for unit in starts]
    return Part(
        name="encoder",
        network=NETWORKS[chosen],
        path=path,
        state=state,
        theirs=inverse(keymap),
        facts={
            "style_count": style_count,
            "style_width": widths[-1],
            "trunk_widths": widths,
            "encoder_kind": chosen,
        },
        w_mean=None if w_mean is None else rows(path, w_mean),
        build=build_encoder,
        prefix="encoder.",
    )


def _choose(path: Path, named: object, kind: str) -> str:
    """Return the kind of encoder by the file's options, which must not contradict the user."""
    fitting = {"samm": tuple(ENCODER_TYPES.values()), "restyle": ("restyle_e4e", "restyle_psp")}
    wanted = fitting.get(kind, (kind,))
    if named is None:
        if kind == "samm":
            return "e4e"
        if len(wanted) > 1:
            raise KeyMismatchError(
                f"{path} does not say of which flavour it is (opts.encoder_type is missing). "
                f"Import it as kind {' or '.join(wanted)}."
            )
        return wanted[0]
    seen = ENCODER_TYPES.get(str(named))
    if seen is None or seen not in wanted:
        known = "not known" if seen is None else f"an encoder of kind {seen}"
        raise KeyMismatchError(
            f"{path} has opts.encoder_type {named!r}, {known}, expected one of kind {kind}. "
            "Import it as what it is, or give the other file."
        )
    return seen


def read_featurestyle(path: Path, tensors: Mapping[str, Tensor]) -> Part:
    """Read FeatureStyle's encoder, like `143_enc.pth`; it brings neither generator nor mean."""
    style_count = count(tensors, r"styles\.(\d+)\.weight")
    content_bias = "content_layer.1.bias" in tensors
    keymap = keymaps_encoders.featurestyle_file(style_count=style_count, content_bias=content_bias)
    state = rename_keys(tensors, keymap, source=str(path))
    groups = range(len(IR50_UNITS))
    return Part(
        name="encoder",
        network="FeatureStyle",
        path=path,
        state=state,
        theirs=inverse(keymap),
        facts={
            "style_count": style_count,
            "style_width": state["encoder.heads.0.weight"].shape[0],
            "trunk_widths": [
                state[f"encoder.groups.{group}.0.conv_out.weight"].shape[0] for group in groups
            ],
            "encoder_kind": "featurestyle",
            "content_bias": content_bias,
        },
        build=build_encoder,
        prefix="encoder.",
    )
