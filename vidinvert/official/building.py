"""Networks of the sizes that a pack's description gives, without values: to compare shapes with."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from vidinvert.errors import KeyMismatchError
from vidinvert.networks.alias_free import FilterPlan
from vidinvert.networks.backbones import IR50_WIDTHS
from vidinvert.networks.e4e import E4E
from vidinvert.networks.featurestyle import FeatureStyleEncoder
from vidinvert.networks.indomain import DomainGuidedEncoder
from vidinvert.networks.restyle import ReStyleEncoder
from vidinvert.networks.samm import SAMM, LevelSpec
from vidinvert.networks.stylegan1 import Generator1
from vidinvert.networks.stylegan2 import Generator
from vidinvert.networks.stylegan3 import Generator3
from vidinvert.networks.vgg import Vgg16Features

# Resolution of e4e's taps and the trunk's group that gives their channels, coarse to fine.
TAPS = ((32, 2), (64, 1), (128, 0), (256, 0))
CONTENT_SIDE = 16  # where FeatureStyle replaces the generator's features

Values = Mapping[str, Any]


def channels_of(values: Values) -> dict[int, int]:
    """Return the channels per resolution, which a description lists from 4 px up."""
    return {4 * 2**level: width for level, width in enumerate(values["channels"])}


def build_stylegan2(values: Values) -> nn.Module:
    """Build a StyleGAN2."""
    with torch.device("meta"):
        return Generator(
            size=values["crop_size"],
            style_width=values["style_width"],
            channels=channels_of(values),
            mapping_layers=values["mapping_layers"],
        )


def build_stylegan3(values: Values) -> nn.Module:
    """Build a StyleGAN3."""
    with torch.device("meta"):
        return Generator3(
            filter_plan_of(values),
            style_width=values["style_width"],
            channels=values["channels"],
            mapping_layers=values["mapping_layers"],
            output_scale=values["output_scale"],
            clamp=values["clamp"],
        )


def filter_plan_of(values: Values) -> FilterPlan:
    """Return the bands and filters of a StyleGAN3."""
    names = [field.name for field in fields(FilterPlan) if field.name != "size"]
    return FilterPlan(size=values["crop_size"], **{name: values[name] for name in names})


def build_encoder(values: Values) -> nn.Module:
    """Build an encoder of one of the kinds that packs know."""
    kind, count, widths = values["encoder_kind"], values["style_count"], values["trunk_widths"]
    with torch.device("meta"):
        if kind == "featurestyle":
            return FeatureStyleEncoder(
                style_count=count,
                style_width=values["style_width"],
                trunk_widths=widths,
                content_channels=channels_of(values)[CONTENT_SIDE],
                content_bias=values["content_bias"],
            )
        if kind.startswith("restyle"):
            deltas = kind == "restyle_e4e"
            return ReStyleEncoder(style_count=count, trunk_widths=widths, deltas=deltas)
        return E4E(style_count=count, trunk_widths=widths, deltas=kind == "e4e")


def build_samm(values: Values) -> nn.Module:
    """Build SAMM on any of the encoders."""
    channels, widths = channels_of(values), values.get("trunk_widths", IR50_WIDTHS)
    taps = [(resolution, group) for resolution, group in TAPS if resolution in channels]
    if len(taps) != values["samm_levels"]:
        raise KeyMismatchError(
            f"SAMM's file has {values['samm_levels']} levels (feats_conv.*), expected {len(taps)} "
            f"for a generator of {values['crop_size']} px. Give the file of this generator."
        )
    levels = [
        LevelSpec(resolution=r, channels=channels[r], feature_channels=widths[group])
        for r, group in taps
    ]
    with torch.device("meta"):
        return SAMM(levels, bias=values["bias"])


def build_stylegan1(values: Values) -> nn.Module:
    """Build In-Domain inversion's generator."""
    with torch.device("meta"):
        return Generator1(
            size=values["crop_size"],
            style_width=values["style_width"],
            channels=channels_of(values),
            mapping_layers=values["mapping_layers"],
        )


def build_domain_guided_encoder(values: Values) -> nn.Module:
    """Build In-Domain inversion's encoder."""
    with torch.device("meta"):
        return DomainGuidedEncoder(
            size=values["crop_size"],
            style_count=values["style_count"],
            style_width=values["style_width"],
            widths=values["encoder_widths"],
        )


def build_vgg(values: Values) -> nn.Module:
    """Build VGG16 up to conv4_3."""
    with torch.device("meta"):
        return Vgg16Features(widths=values["vgg_widths"])
