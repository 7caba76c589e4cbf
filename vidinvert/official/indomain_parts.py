"""In-Domain inversion's files: StyleGAN of 2019, the domain-guided encoder, VGG16."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vidinvert.checkpoints import rename_keys
from vidinvert.networks import keymaps_indomain
from vidinvert.networks.stylegan1 import TRUNCATED_LAYERS, TRUNCATION
from vidinvert.official.building import build_domain_guided_encoder, build_stylegan1, build_vgg
from vidinvert.official.part import Part, count, inverse

MAPPING_LAYERS = 8


def read_stylegan1(path: Path, tensors: Mapping[str, Tensor]) -> Part:
    """Read the generator, like `styleganinv_ffhq256_generator.pth`.

    How far codes are drawn to the mean is a constant that some files leave out.
    """
    layers = count(tensors, r"synthesis\.layer(\d+)\.epilogue\.bias")
    keymap = keymaps_indomain.stylegan1(style_count=layers)
    given = dict(tensors)
    if "truncation.truncation" not in given:
        given["truncation.truncation"] = torch.ones(layers)
        given["truncation.truncation"][:TRUNCATED_LAYERS] = TRUNCATION
    state = rename_keys(given, keymap, source=str(path))
    channels = [state["first.bias"].numel()]
    channels += [state[f"layers.{2 * n}.epilogue.bias"].numel() for n in range(1, layers // 2)]
    facts = {
        "kind": "stylegan1",
        "crop_size": 2 * 2 ** (layers // 2),
        "style_count": layers,
        "style_width": state["first.style.weight"].shape[1],
        "channels": channels,
        "mapping_layers": MAPPING_LAYERS,
    }
    return Part(
        name="generator",
        network="StyleGAN generator of In-Domain inversion",
        path=path,
        state=state,
        theirs=inverse(keymap),
        facts=facts,
        build=build_stylegan1,
    )


def read_domain_guided_encoder(path: Path, tensors: Mapping[str, Tensor]) -> Part:
    """Read the encoder, like `styleganinv_ffhq256_encoder.pth`."""
    blocks = count(tensors, r"block(\d+)\.conv1\.weight")
    shortcuts = count(tensors, r"block[1-9]\d*\.conv\.weight")
    keymap = keymaps_indomain.domain_guided_encoder(blocks=blocks, shortcuts=shortcuts)
    state = rename_keys(tensors, keymap, source=str(path))
    widths = [state["conv.weight"].shape[0]]
    widths += [state[f"blocks.{block}.conv2.weight"].shape[0] for block in range(blocks)]
    style_count = 2 * (blocks + 1)
    facts = {
        "crop_size": 4 * 2**blocks,
        "style_count": style_count,
        "style_width": state["linear.weight"].shape[0] // style_count,
        "encoder_widths": widths,
    }
    return Part(
        name="encoder",
        network="domain-guided encoder",
        path=path,
        state=state,
        theirs=inverse(keymap),
        facts=facts,
        build=build_domain_guided_encoder,
    )


def read_vgg(path: Path, tensors: Mapping[str, Tensor]) -> Part:
    """Read VGG16's convolutions up to conv4_3, like `vgg16.pth`."""
    keymap = keymaps_indomain.vgg16()
    state = rename_keys(tensors, keymap, source=str(path))
    last_of_a_size = (1, 3, 6, 9)
    return Part(
        name="vgg",
        network="VGG16 up to conv4_3",
        path=path,
        state=state,
        theirs=inverse(keymap),
        facts={"vgg_widths": [state[f"convs.{n}.weight"].shape[0] for n in last_of_a_size]},
        build=build_vgg,
    )
