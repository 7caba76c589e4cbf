"""SAMM on StyleGAN2 and any of its encoders: aligned synthesis, a mask of what is out of domain."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vidinvert.checkpoints import fill_module
from vidinvert.methods.encoder_only import EncoderOnly
from vidinvert.methods.encoder_only import load as load_encoder_only
from vidinvert.methods.encoders import (
    check_setting,
    encoder_kind,
    generator_channels,
    read_part,
    trunk_widths,
)
from vidinvert.networks import keymaps
from vidinvert.networks.ops import prepare, set_precision
from vidinvert.networks.samm import (
    CYCLES,
    SAMM,
    WARP_SCALE,
    combine_masks,
    find_fields,
    synthesise_aligned,
    tapped_levels,
)
from vidinvert.types import Embedding, FacePack, Synthesis


@dataclass(frozen=True, slots=True, eq=False)
class SammMethod:
    """Align the generator's features to the source's, and mask what it cannot explain.

    `Synthesis.image` is the generator's picture, aligned but not blended: of unedited codes it is
    the inversion. The blend `ood * source + (1 - ood) * image` is the renderer's.
    """

    base: EncoderOnly
    samm: SAMM

    @property
    def crop_size(self) -> int:
        """Side R of the crops."""
        return self.base.crop_size

    @property
    def style_count(self) -> int:
        """L, style vectors of a code."""
        return self.base.style_count

    @property
    def style_width(self) -> int:
        """D, width of a style vector."""
        return self.base.style_width

    def embed(self, crops: Tensor) -> Embedding:
        """Find the codes and the encoder's maps (coarse to fine) of crops (N, 3, R, R)."""
        return self.base.embed(crops)

    def find_mask(self, embedding: Embedding) -> Tensor:
        """Return the mask of the unedited codes, (N, 1, R, R), rendering no further than needed."""
        generator = self.base.generator
        fields = find_fields(
            generator,
            self.samm,
            embedding.w_plus,
            self.base.taps(embedding),
            noise=generator.noise,
            content=self.base.find_content(embedding, embedding.w_plus),
        )
        return combine_masks(fields, size=generator.size)

    def synthesise(self, embedding: Embedding, w_plus: Tensor) -> Synthesis:
        """Render codes (N, L, D), aligned to the embedded crops, with the fixed noise."""
        generator = self.base.generator
        aligned = synthesise_aligned(
            generator,
            self.samm,
            w_plus,
            self.base.taps(embedding),
            noise=generator.noise,
            content=self.base.find_content(embedding, w_plus),
        )
        return Synthesis(
            image=aligned.image,
            ood=combine_masks(aligned.fields, size=generator.size),
            flows=tuple(field.flow for field in aligned.fields),
        )

    def generate(self, w_plus: Tensor) -> Tensor:
        """Render codes (N, L, D) without a source, with the fixed noise."""
        return self.base.generate(w_plus)


def load(pack: FacePack, device: torch.device, dtype: torch.dtype) -> SammMethod:
    """Load SAMM from a pack of kind stylegan2: files `encoder`, `generator`, `samm`.

    `[generator]` may give warp_scale, cycles, align_corners and bias; without them they are those
    published (biases with FeatureStyle alone). `align_corners = true` is the corrected grid, for
    weights that were trained with it.
    """
    base = load_encoder_only(pack, device, dtype)
    levels = tapped_levels(generator_channels(pack), trunk_widths(pack), size=pack.crop_size)
    bias = check_setting(pack, "bias", encoder_kind(pack) == "featurestyle", (False, True))
    with torch.device("meta"):
        samm = SAMM(
            levels,
            warp_scale=float(pack.settings.get("warp_scale", WARP_SCALE)),
            cycles=int(pack.settings.get("cycles", CYCLES)),
            align_corners=check_setting(pack, "align_corners", False, (False, True)),
            bias=bias,
        )
    state = read_part(pack, "samm", keymaps.samm_file(levels=len(levels), bias=bias))
    fill_module(samm, state, source=str(pack.files["samm"].path))
    samm.to(device)
    set_precision(samm, dtype)
    prepare(samm)
    return SammMethod(base, samm)
