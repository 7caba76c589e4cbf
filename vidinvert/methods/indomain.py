"""In-Domain inversion with its official networks (Zhu et al., ECCV 2020): packs of kind stylegan1.

The domain-guided encoder finds codes; if asked to, domain-regularised optimisation then moves them
toward the crop, along a clip from the codes of the frame before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from vidinvert.checkpoints import fill_module
from vidinvert.errors import CheckpointError
from vidinvert.methods.encoders import check_setting, read_part
from vidinvert.methods.on_generator import OnGenerator
from vidinvert.methods.optimisation import OptimisationPlan, optimise_codes
from vidinvert.networks import keymaps_indomain
from vidinvert.networks.indomain import PUBLISHED_WIDTHS, DomainGuidedEncoder
from vidinvert.networks.ops import prepare, set_precision
from vidinvert.networks.stylegan1 import Generator1
from vidinvert.networks.vgg import PUBLISHED_WIDTHS as VGG_WIDTHS
from vidinvert.networks.vgg import Vgg16Features
from vidinvert.types import Embedding, FacePack

# The first frame of an unbroken run has no frame before it to start from: it takes as many times
# the steps. With 25 steps it takes the 100 that are published for single pictures.
FIRST_FRAME_FACTOR = 4
TEMPORAL_WEIGHT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InDomain(OnGenerator):
    """See the module; implements `vidinvert.methods.Method` and `Refiner`.

    `features` is None where no steps are asked for; `plan.steps` are those of a frame that starts
    from the one before.
    """

    encoder: DomainGuidedEncoder
    generator: Generator1
    features: Vgg16Features | None
    plan: OptimisationPlan

    def embed(self, crops: Tensor) -> Embedding:
        """Find the encoder's codes of crops (N, 3, R, R)."""
        return Embedding(w_plus=self.find_codes(crops))

    def refine(self, crops: Tensor, embedding: Embedding, previous: Tensor | None) -> Embedding:
        """Optimise embedded codes; see `vidinvert.methods.Refiner`."""
        if self.features is None:
            return embedding
        factor = FIRST_FRAME_FACTOR if previous is None else 1
        done = optimise_codes(
            crops,
            embedding.w_plus if previous is None else previous.expand_as(embedding.w_plus),
            generate=self.generate,
            find_codes=self.find_codes,
            find_features=self.find_features,
            plan=replace(self.plan, steps=factor * self.plan.steps),
            previous=previous,
        )
        return replace(embedding, w_plus=done.w_plus)

    def find_codes(self, images: Tensor) -> Tensor:
        """Find codes (N, L, D) float32 of pictures (N, 3, R, R)."""
        images = images.to(self.encoder.conv.weight.dtype)
        return self.encoder(images.contiguous(memory_format=torch.channels_last))

    def find_features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps that optimisation compares pictures in."""
        return () if self.features is None else (self.features(images),)


def load(pack: FacePack, device: torch.device, dtype: torch.dtype) -> InDomain:
    """Load a pack of kind stylegan1: files `generator`, `encoder`, and `vgg` to optimise with.

    `[generator]` may give `final_tanh` (true), `invert_steps` (0: the encoder's codes), `channels`
    from 4 px up, and `encoder_widths` and `vgg_widths`; without the last three they are those
    published.
    """
    steps = int(pack.settings.get("invert_steps", 0))
    with torch.device("meta"):
        generator = Generator1(
            size=pack.crop_size,
            style_width=pack.style_width,
            channels=_channels(pack.settings),
            final_tanh=check_setting(pack, "final_tanh", True, (False, True)),
        )
        widths = [int(width) for width in pack.settings.get("encoder_widths", PUBLISHED_WIDTHS)]
        encoder = DomainGuidedEncoder(
            size=pack.crop_size,
            style_count=generator.style_count,
            style_width=pack.style_width,
            widths=widths,
        )
        vgg_widths = [int(width) for width in pack.settings.get("vgg_widths", VGG_WIDTHS)]
        vgg = Vgg16Features(widths=vgg_widths) if steps else None
    if generator.style_count != pack.style_count:
        raise CheckpointError(
            f"The pack {pack.name!r} has style_count {pack.style_count}, expected "
            f"{generator.style_count} for crop_size {pack.crop_size}. Correct its description."
        )
    maps = {
        "generator": keymaps_indomain.stylegan1(style_count=pack.style_count),
        "encoder": keymaps_indomain.domain_guided_encoder(
            blocks=len(widths) - 1,
            shortcuts=sum(a != b for a, b in pairwise(widths)),
        ),
        "vgg": keymaps_indomain.vgg16(),
    }
    for part, module in (("generator", generator), ("encoder", encoder), ("vgg", vgg)):
        if module is not None:
            state = read_part(pack, part, maps[part])
            fill_module(module, state, source=str(pack.files[part].path))
            module.to(device)
    set_precision(generator, dtype)
    set_precision(encoder, dtype, keep=(encoder.linear, encoder.norm_out))
    prepare(generator)
    prepare(encoder)
    if vgg is not None:
        set_precision(vgg, dtype)
        prepare(vgg)
    plan = OptimisationPlan(steps=steps, temporal_weight=TEMPORAL_WEIGHT)
    return InDomain(encoder=encoder, generator=generator, features=vgg, plan=plan)


def _channels(settings: Mapping[str, Any]) -> dict[int, int] | None:
    if "channels" not in settings:
        return None
    return {4 * 2**level: int(width) for level, width in enumerate(settings["channels"])}
